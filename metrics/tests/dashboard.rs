//! The dashboard for Grafana asks only for what is exported.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, fs, path::Path};

use libp2p_identity::Keypair;
use libp2p_quinn::{Config, Transport};
use libp2p_quinn_metrics::Registry;
use serde_json::Value;

#[test]
fn every_query_names_exported_metrics() {
    let exported = exported();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grafana/quic.json");
    let dashboard: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    assert!(queries.len() > 10, "{queries:?}");
    for query in queries {
        let names = names(query);
        assert!(!names.is_empty(), "{query} names no metric");
        for name in names {
            assert!(exported.contains(name), "{name} in {query} is not exported");
        }
    }
}

/// The queries of panels, and those of variables.
fn collect<'a>(value: &'a Value, queries: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(query) if name == "expr" || name == "definition" => {
                        queries.push(query);
                    }
                    _ => collect(value, queries),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, queries)),
        _ => {}
    }
}

/// The metrics in a query: words of which a selector follows, or that begin like ours.
fn names(query: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    let is_metric =
        |word: &&str| word.starts_with("libp2p") || query.contains(&format!("{word}{{"));
    words.filter(is_metric).collect()
}

/// The names of all series.
fn exported() -> BTreeSet<String> {
    let transport = Transport::new(Config::new(&Keypair::generate_ed25519()));
    let mut registry = Registry::default();
    libp2p_quinn_metrics::register(&transport.handle(), &mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let metrics = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = metrics.flat_map(|(name, kind)| -> Vec<String> {
        match kind {
            "counter" => vec![format!("{name}_total")],
            "histogram" => ["bucket", "count", "sum"]
                .map(|part| format!("{name}_{part}"))
                .into(),
            _ => vec![name.to_owned()],
        }
    });
    names.collect()
}
