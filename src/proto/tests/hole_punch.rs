//! What is sent to punch a hole, and when.

use std::{net::SocketAddr, time::Duration};

use super::{network::Network, node::Setup};

const TARGET: ([u8; 4], u16) = ([192, 0, 2, 77], 4001);

/// As the defaults have it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sizes and times of what a node sends from the beginning of a hole punch to its end.
fn punch(seed: u64) -> Vec<(Duration, usize)> {
    let mut network = Network::new(seed);
    network.add(Setup::default());
    let now = network.now;
    network.nodes[0].punch(now, SocketAddr::from(TARGET));
    let mut sent = Vec::new();
    while let Some(due) = network.nodes[0].next_timeout() {
        network.run_for(due.saturating_duration_since(network.now));
        for datagram in network.intercept() {
            assert_eq!(datagram.to, SocketAddr::from(TARGET));
            sent.push((network.elapsed(), datagram.contents.len()));
        }
    }
    network.nodes[0].assert_empty();
    sent
}

#[test]
fn pauses_and_sizes_are_random_within_their_bounds() {
    let sent = punch(1);
    // At once, and from then on on average 9.5 times a second.
    assert_eq!(sent[0].0, Duration::ZERO);
    assert!((30..=70).contains(&sent.len()), "{}", sent.len());
    assert!(sent.iter().all(|(time, _)| *time < HANDSHAKE_TIMEOUT));
    for pair in sent.windows(2) {
        let pause = pair[1].0 - pair[0].0;
        assert!(pause >= Duration::from_millis(10), "{pause:?}");
        assert!(pause <= Duration::from_millis(200), "{pause:?}");
    }
    // Nobody answers such with a stateless reset (RFC 9000 §10.3).
    assert!(sent.iter().all(|(_, size)| *size < 21));
}

#[test]
fn same_seed_sends_the_same() {
    assert_eq!(punch(2), punch(2));
    assert_ne!(punch(2), punch(3));
}
