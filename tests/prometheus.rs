//! A real Prometheus scrapes the example `node`, and answers the queries of the dashboard.
//!
//! Skipped, with the reason, without the program `prometheus`; `INTEROP_REQUIRE=prometheus` makes
//! that a failure.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{
    example::example,
    program::{LIMIT, Program},
    required::or_skip,
};

#[test]
fn prometheus_has_what_the_example_exports_and_answers_the_dashboard() {
    if or_skip("prometheus", is_installed()).is_none() {
        return;
    }
    let node = example("node");
    let listen = ["listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--metrics"];
    let listener = Program::start(&node, &listen);
    let exporter: SocketAddr = listener.says("http://", "/metrics").parse().unwrap();
    let addr = format!("/ip4/{}", listener.says("/ip4/", "\n"));
    let prometheus = Prometheus::scraping(exporter);

    let dialled = Command::new(&node)
        .args(["dial", &addr, "--mib", "1"])
        .output()
        .unwrap();
    assert!(dialled.status.success(), "{dialled:?}");

    // Once the connection is forgotten, nothing changes any more.
    let quiet = r#"libp2p_quic_closes_total{cause="ClosedByPeer"} 1"#;
    let exported = eventually(|| {
        let exported = get(exporter, "/metrics");
        let is_quiet = exported.contains(quiet) && exported.contains("libp2p_quic_closing 0");
        is_quiet.then(|| exported_series(&exported))
    });
    let received = r#"{"__name__":"libp2p_quic_udp_payload_bytes_total","direction":"Inbound"}"#;
    assert!(exported[received] > 1024.0 * 1024.0, "{exported:?}");
    eventually(|| {
        let stored = prometheus.query(r#"{__name__=~"libp2p_quic_.*"}"#)?;
        (stored_series(&stored) == exported).then_some(())
    });

    for query in dashboard() {
        let query = query
            .replace("$__rate_interval", "1m")
            .replace("$job", "node")
            .replace("$instance", ".*");
        println!("{query}");
        // A rate needs two samples.
        eventually(|| prometheus.query(&query).filter(|answer| !answer.is_empty()));
    }
}

/// Interval of questions that wait for an answer.
const ASK_EVERY: Duration = Duration::from_millis(100);

fn is_installed() -> Result<(), String> {
    match Command::new("prometheus").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("prometheus: {output:?}")),
        Err(error) => Err(format!("prometheus: {error}")),
    }
}

/// Asks until there is an answer.
fn eventually<T>(ask: impl Fn() -> Option<T>) -> T {
    let times = LIMIT.as_millis() / ASK_EVERY.as_millis();
    let answer = (0..times).find_map(|_| {
        let answer = ask();
        if answer.is_none() {
            thread::sleep(ASK_EVERY);
        }
        answer
    });
    answer.expect("no answer in time")
}

/// The queries of all panels.
fn dashboard() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana/quic.json");
    let dashboard: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let queries = targets
        .flatten()
        .map(|target| target["expr"].as_str().unwrap().to_owned());
    let queries: Vec<_> = queries.collect();
    assert!(!queries.is_empty());
    queries
}

/// The value of each series, by its labels in JSON.
type Samples = BTreeMap<String, f64>;

/// What the example exports.
fn exported_series(text: &str) -> Samples {
    let lines = text.lines().filter(|line| line.starts_with("libp2p_quic_"));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series
            .trim_end_matches('}')
            .split_once('{')
            .unwrap_or((series, ""));
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(name, value)| (name, value.trim_matches('"')));
        (
            key(labels.chain([("__name__", name)])),
            value.parse().unwrap(),
        )
    });
    samples.collect()
}

/// What Prometheus has stored.
fn stored_series(answer: &[Value]) -> Samples {
    let samples = answer.iter().map(|sample| {
        let labels = sample["metric"].as_object().unwrap().iter();
        let labels = labels.map(|(name, value)| (name.as_str(), value.as_str().unwrap()));
        // Prometheus itself adds these.
        let labels = labels.filter(|(name, _)| !["instance", "job"].contains(name));
        let value = sample["value"][1].as_str().unwrap();
        (key(labels), value.parse().unwrap())
    });
    samples.collect()
}

fn key<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let labels = labels.map(|(name, value)| match value.parse::<f64>() {
        // Versions of Prometheus write bounds of buckets differently.
        Ok(bound) if name == "le" => (name, bound.to_string()),
        _ => (name, value.to_owned()),
    });
    serde_json::to_string(&labels.collect::<BTreeMap<_, _>>()).unwrap()
}

/// A Prometheus server on loopback.
struct Prometheus {
    _program: Program,
    addr: SocketAddr,
}

impl Prometheus {
    fn scraping(exporter: SocketAddr) -> Self {
        let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("prometheus");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        let config = home.join("prometheus.yml");
        let scrape = format!(
            "scrape_configs:\n\
             - job_name: node\n  \
               scrape_interval: 200ms\n  \
               scrape_timeout: 200ms\n  \
               static_configs:\n  \
               - targets: ['{exporter}']\n"
        );
        fs::write(&config, scrape).unwrap();
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let program = Program::start(
            Path::new("prometheus"),
            &[
                &option("config.file", &config),
                &option("storage.tsdb.path", &home.join("data")),
                "--web.listen-address=127.0.0.1:0",
            ],
        );
        let addr = program.says(r#"msg="Listening on" address="#, "\n");
        let addr = addr.parse().unwrap();
        Self {
            _program: program,
            addr,
        }
    }

    /// The samples that answer a query now; `None` until the server is ready.
    fn query(&self, query: &str) -> Option<Vec<Value>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = get(self.addr, &format!("/api/v1/query?query={encoded}"));
        let answer: Value = serde_json::from_str(&answer).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned()
    }
}

/// The body of a page. HTTP/1.0 has no chunks.
fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {addr}\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}
