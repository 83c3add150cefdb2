//! Every figure of the statistics is exported, once, under a name of its own.

use std::{collections::BTreeSet, fmt, pin::Pin, time::Duration};

use futures::{FutureExt, future::poll_fn};
use libp2p_core::{
    Endpoint, Transport as _,
    transport::{DialOpts, ListenerId, PortUse, TransportEvent},
};
use libp2p_identity::Keypair;
use libp2p_quinn::{Config, Connection, Handle, Stats, Transport};
use prometheus_client::{encoding::DescriptorEncoder, registry::Registry};

use crate::{
    collector::{TABLES, encode},
    connections, listeners, registry,
    table::Metric,
};

#[tokio::test]
async fn every_field_is_exported_once_or_left_out() {
    let (handle, _connected) = connected().await;
    let of_connection = |fields: &[&str]| -> Vec<String> {
        let path = |field: &&str| format!("connections.{field}");
        fields.iter().map(path).collect()
    };
    let of_listener = |fields: &[&str]| -> Vec<String> {
        let path = |field: &&str| format!("listeners.{field}");
        fields.iter().map(path).collect()
    };
    let series = metrics().flat_map(|metric| metric.series);
    let histograms = connections::HISTOGRAMS.iter();
    let covered: Vec<String> = series
        .map(|series| series.field.to_owned())
        .chain(registry::SEQUENCES.map(str::to_owned))
        .chain(histograms.flat_map(|histogram| of_connection(&[histogram.field])))
        .chain(of_connection(&connections::FIELDS))
        .chain(of_connection(&connections::LEFT_OUT))
        .chain(of_listener(&listeners::FIELDS))
        .chain(of_listener(&listeners::LEFT_OUT))
        // The number of connections, by direction.
        .chain(["registry.connections".to_owned()])
        .collect();
    let distinct: BTreeSet<String> = covered.iter().cloned().collect();
    assert_eq!(distinct.len(), covered.len(), "a field is exported twice");

    let summed = of_connection(&connections::SUMS);
    let is_summed = |field: &String| {
        (summed.iter()).any(|sum| field == sum || field.starts_with(&format!("{sum}.")))
    };
    let mut fields = fields(&format!("{:#?}", handle.stats()));
    assert!(
        summed
            .iter()
            .all(|sum| fields.iter().any(|field| field.starts_with(sum)))
    );
    fields.retain(|field| !is_summed(field));
    assert_eq!(distinct, fields);
}

#[test]
fn values_are_exported_as_they_are_and_no_others() {
    let mut stats = Stats::default();
    stats.transport.dials = 1;
    stats.transport.bytes_sent = 2;
    stats.transport.ended_timed_out = 3;
    stats.transport.dropped_crypto = 4;
    stats.registry.martian = 5;
    stats.registry.peers = 6;
    stats.registry.routing_time = Duration::from_millis(1500);
    stats.registry.issued_sequence_numbers[3] = 7;
    stats.packets.lost_bytes = 8;
    stats.packets.frames_sent.max_streams_bidi = 9;
    let expected = [
        r#"libp2p_quic_dials_total 1"#,
        r#"libp2p_quic_udp_payload_bytes_total{direction="Outbound"} 2"#,
        r#"libp2p_quic_closes_total{cause="TimedOut"} 3"#,
        r#"libp2p_quic_drops_total{reason="Crypto"} 4"#,
        r#"libp2p_quic_drops_total{reason="Martian"} 5"#,
        r#"libp2p_quic_peers 6"#,
        r#"libp2p_quic_routing_seconds_total 1.5"#,
        r#"libp2p_quic_issued_ids_total{sequence_from="4"} 7"#,
        r#"libp2p_quic_lost_bytes_total 8"#,
        r#"libp2p_quic_frames_total{direction="Outbound",type="MAX_STREAMS_BIDI"} 9"#,
    ];
    let exported = text_of(stats);
    for line in expected {
        assert!(
            exported.lines().any(|exported| exported == line),
            "{line}\n{exported}"
        );
    }
    let others = exported.lines().filter(|line| !line.starts_with('#'));
    let others = others.filter(|line| !line.ends_with(" 0") && !line.ends_with(" 0.0"));
    assert_eq!(others.count(), expected.len(), "{exported}");
}

#[tokio::test]
async fn live_connections_are_counted_and_no_label_names_a_peer() {
    let (handle, _connected) = connected().await;
    let mut registry = Registry::default();
    // Beside the metrics of libp2p itself.
    let _metrics = libp2p_metrics::Metrics::new(&mut registry);
    crate::register(&handle, &mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"libp2p_quic_connections{direction="Outbound"} 1"#,
        r#"libp2p_quic_connections{direction="Inbound"} 1"#,
        r#"libp2p_quic_cipher_suites{cipher_suite="TLS13_AES_128_GCM_SHA256"} 2"#,
        "libp2p_quic_listeners 1",
        "libp2p_quic_listen_addresses 1",
        "libp2p_quic_rtt_seconds_count 2",
        r#"libp2p_quic_mtu_bytes_bucket{le="1472.0"} 2"#,
        r#"libp2p_quic_congestion_window_bytes_bucket{le="+Inf"} 2"#,
    ] {
        assert!(
            text.lines().any(|exported| exported == line),
            "{line}\n{text}"
        );
    }

    let stats = handle.stats();
    for connection in &stats.connections {
        for secret in [
            connection.peer_id.unwrap().to_string(),
            connection.remote_addr.to_string(),
            connection.remote_addr.ip().to_string(),
        ] {
            assert!(!text.contains(&secret), "{secret}\n{text}");
        }
    }
}

#[test]
fn names_are_distinct_and_in_snake_case() {
    let text = text_of(Stats::default());
    let types = || {
        text.lines()
            .filter_map(|line| line.strip_prefix("# TYPE libp2p_quic_"))
    };
    let names: BTreeSet<&str> = types()
        .filter_map(|line| Some(line.split_once(' ')?.0))
        .collect();
    assert_eq!(types().count(), names.len());
    for name in names {
        let is_snake = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(is_snake), "{name}");
        // The encoder adds it to counters.
        assert!(!name.ends_with("_total"), "{name}");
    }
}

fn metrics() -> impl Iterator<Item = &'static Metric> {
    TABLES.iter().copied().flatten()
}

/// What is exported for these statistics.
fn text_of(stats: Stats) -> String {
    #[derive(Debug)]
    struct Fixed(Stats);

    impl prometheus_client::collector::Collector for Fixed {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode(&self.0, &mut encoder)
        }
    }

    let mut registry = Registry::with_prefix("libp2p_quic");
    registry.register_collector(Box::new(Fixed(stats)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

/// The paths of all fields that are not structs or lists of structs, in what `{:#?}` writes.
fn fields(debug: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    // One for each bracket that is open; empty if no field begins there.
    let mut path: Vec<&str> = Vec::new();
    for line in debug.lines().map(|line| line.trim().trim_end_matches(',')) {
        let (field, value) = line.split_once(": ").unwrap_or(("", line));
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let field = if field.chars().all(is_name) {
            field
        } else {
            ""
        };
        if !field.is_empty() {
            let parents = path.iter().copied().filter(|name| !name.is_empty());
            fields.insert(parents.chain([field]).collect::<Vec<_>>().join("."));
        }
        match value.chars().next_back() {
            Some('{' | '[' | '(') => path.push(field),
            Some('}' | ']' | ')') if value.len() == 1 => {
                path.pop();
            }
            _ => {}
        }
    }
    assert!(path.is_empty(), "{debug}");
    let is_parent = |name: &String| {
        let inside = format!("{name}.");
        fields.iter().any(|field| field.starts_with(&inside))
    };
    fields
        .iter()
        .filter(|name| !is_parent(name))
        .cloned()
        .collect()
}

/// A transport that listens and has dialled itself, and what keeps the connection.
async fn connected() -> (Handle, (Transport, Connection, Connection)) {
    let mut listener = Transport::new(Config::new(&Keypair::generate_ed25519()));
    let addr = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
    listener.listen_on(ListenerId::next(), addr).unwrap();
    let TransportEvent::NewAddress { listen_addr, .. } = event(&mut listener).await else {
        panic!("no address");
    };
    let dial = listener
        .dial(
            listen_addr,
            DialOpts {
                role: Endpoint::Dialer,
                port_use: PortUse::New,
            },
        )
        .unwrap();
    let accept = async {
        match event(&mut listener).await {
            TransportEvent::Incoming { upgrade, .. } => upgrade.await.unwrap().1,
            other => panic!("{other:?} instead of an incoming connection"),
        }
    };
    let connecting = async { futures::join!(dial.map(|dialled| dialled.unwrap().1), accept) };
    let (dialled, accepted) = tokio::time::timeout(Duration::from_secs(60), connecting)
        .await
        .unwrap();
    (listener.handle(), (listener, dialled, accepted))
}

async fn event(
    transport: &mut Transport,
) -> TransportEvent<<Transport as libp2p_core::Transport>::ListenerUpgrade, libp2p_quinn::Error> {
    poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}
