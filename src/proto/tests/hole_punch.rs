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
fn dial_that_was_too_early_need_not_wait_to_send_again() {
    let mut network = Network::new(1);
    for _ in 0..2 {
        network.add(Setup::default());
    }
    let dialled = network.dial(0, 1);
    network.settle();
    // The NAT of the other one is not open yet.
    assert!(!network.intercept().is_empty());
    let dialer_addr = network.nodes[0].addr();
    network.run_for(Duration::from_millis(30));
    let now = network.now;
    network.nodes[1].punch(now, dialer_addr);

    let established = network.block_on(async move { dialled.established().await });
    assert_eq!(established.unwrap(), network.nodes[1].peer_id());
    // Before the second that a first packet has to be answered in.
    assert!(network.elapsed() < Duration::from_millis(500));
}

#[test]
fn noise_makes_a_dial_send_once_more_and_not_more_often() {
    let mut network = Network::new(1);
    network.add(Setup::default());
    network.add(Setup {
        listening: false,
        ..Setup::default()
    });
    for (node, expected) in [(0, 1), (1, 0)] {
        let target = SocketAddr::from(TARGET);
        let now = network.now;
        let _dialled = network.nodes[node].dial(now, target, None);
        network.settle();
        network.intercept();
        let elsewhere = SocketAddr::new(target.ip(), target.port() + 1);
        for from in [elsewhere, target, target] {
            for noise in [&[0; 8][..], &[0x40; 64]] {
                network.nodes[node].receive(now, from, noise);
            }
            network.settle();
        }
        let sent = network.intercept();
        // The others are stateless resets.
        let initials = sent
            .iter()
            .filter(|datagram| datagram.contents.len() >= 1200);
        assert_eq!(initials.count(), expected, "node {node}");
    }
}

#[test]
fn same_seed_sends_the_same() {
    assert_eq!(punch(2), punch(2));
    assert_ne!(punch(2), punch(3));
}
