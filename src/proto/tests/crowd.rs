//! Many nodes with many connections in one process: what a connection costs, and how fast virtual
//! time passes.
//!
//! A quick run has 50 nodes and 500 connections. `SIM_CROWD` sets other numbers, which need an
//! optimised build:
//!
//! ```text
//! SIM_CROWD=1000x10000 cargo test --release --lib proto::tests::crowd -- --nocapture
//! ```

use std::{cell::Cell, rc::Rc, time::Duration};

use futures::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    link::Impairments,
    network::Network,
    node::{Node, Setup},
    peer::Peer,
};
use crate::net::clock;

#[test]
fn crowd_talks_is_kept_alive_and_leaves_nothing() {
    let (nodes, connections) = size();
    let mut network = Network::new(1);
    for _ in 0..nodes {
        network.add(Setup::default());
    }
    network.impair(Impairments {
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(5),
        ..Impairments::NONE
    });
    network.serve(|peer| answer(peer).boxed_local());

    let resident = resident_bytes();
    let began = Progress::of(&network);
    let answered = Rc::new(Cell::new(0));
    let mut random = StdRng::seed_from_u64(1);
    let mut dialers = Vec::new();
    for _ in 0..connections {
        let from = random.random_range(0..nodes);
        let to = (from + random.random_range(1..nodes)) % nodes;
        let dialer = network.dial(from, to);
        dialers.push(dialer.clone());
        let answered = Rc::clone(&answered);
        network.spawn(async move {
            ask(&dialer).await;
            answered.set(answered.get() + 1);
        });
        network.pass(BETWEEN_DIALS);
    }
    network.run_for(Duration::from_secs(2));
    assert_eq!(answered.get(), connections);
    let dialled = Progress::of(&network);
    let grown = resident_bytes().zip(resident);

    network.run_for(QUIET);
    let kept_alive = Progress::of(&network);
    let registry = network.nodes.iter().map(|node| node.stats().0);
    let ends: usize = registry.map(|registry| registry.connections).sum();
    assert_eq!(ends, 2 * connections);

    for dialer in &dialers {
        assert_eq!(dialer.loss(), None);
        dialer.close(0);
    }
    network.run_until_empty();
    network.run_until_idle();
    network.nodes.iter().for_each(Node::assert_empty);

    println!("{nodes} nodes, {connections} connections:");
    if let Some((after, before)) = grown {
        let each = after.saturating_sub(before) / ends as u64;
        println!("    resident memory: {each} bytes for each end of a connection");
    }
    println!("    dialling: {}", dialled.since(&began));
    println!("    keeping alive: {}", kept_alive.since(&dialled));
}

/// Virtual time from one dial to the next.
const BETWEEN_DIALS: Duration = Duration::from_millis(1);

/// Virtual time with nothing but keep-alives.
const QUIET: Duration = Duration::from_secs(60);

const QUESTION: &[u8] = b"how are you?";

fn size() -> (usize, usize) {
    let wanted = std::env::var("SIM_CROWD").unwrap_or_else(|_| "50x500".into());
    let parsed = wanted
        .split_once('x')
        .and_then(|(nodes, connections)| Some((nodes.parse().ok()?, connections.parse().ok()?)));
    parsed.unwrap_or_else(|| panic!("SIM_CROWD is not like 50x500: {wanted}"))
}

async fn ask(peer: &Peer) {
    peer.established().await.unwrap();
    let stream = peer.open().await.unwrap();
    peer.write_all(stream, QUESTION).await.unwrap();
    peer.finish(stream).unwrap();
    assert_eq!(peer.read_to_end(stream).await.unwrap(), QUESTION);
    peer.drop_stream(stream);
}

/// Echoes each stream until the connection ends.
async fn answer(peer: Peer) {
    while let Ok(stream) = peer.accept().await {
        let heard = peer.read_to_end(stream).await.unwrap();
        peer.write_all(stream, &heard).await.unwrap();
        peer.finish(stream).unwrap();
        peer.drop_stream(stream);
    }
}

/// The progress of a simulation.
struct Progress {
    real: std::time::Instant,
    simulated: Duration,
    datagrams: u64,
}

impl Progress {
    fn of(network: &Network) -> Self {
        Self {
            real: clock::now(),
            simulated: network.elapsed(),
            datagrams: network.datagrams_sent(),
        }
    }

    fn since(&self, before: &Self) -> String {
        let real = (self.real - before.real).as_secs_f64();
        let simulated = (self.simulated - before.simulated).as_secs_f64();
        let datagrams = self.datagrams - before.datagrams;
        format!(
            "{simulated:.1} s in {real:.2} s, {:.1} virtual seconds per second, {:.0} datagrams per second",
            simulated / real,
            datagrams as f64 / real
        )
    }
}

/// `None` if the operating system does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kilobytes)
}
