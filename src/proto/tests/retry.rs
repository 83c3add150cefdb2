//! Clients that have to prove their address.

use std::time::Duration;

use super::{
    link::Impairments,
    network::Network,
    node::{Answer, Setup},
    seeds,
};
use crate::config::RetryPolicy;

const SECOND: Duration = Duration::from_secs(1);

fn always() -> Setup {
    Setup {
        configure: |builder| builder.retry_policy(RetryPolicy::Always),
        ..Setup::default()
    }
}

fn under_load() -> Setup {
    Setup {
        configure: |builder| builder.retry_policy(RetryPolicy::UnderLoad { handshakes: 2 }),
        ..Setup::default()
    }
}

#[test]
fn dialer_that_proves_its_address_is_let_in() {
    let mut network = Network::pair(1, Setup::default(), always());
    let (dialer, listener) = network.connect(0, 1);
    // One and a half round trips, and one more for the proof.
    assert_eq!(network.elapsed(), Duration::from_millis(50));
    assert!(network.nodes[1].stats().1.retries_sent > 0);

    dialer.close(0);
    listener.close(0);
    network.run_until_empty();
    for node in &network.nodes {
        node.assert_empty();
    }
}

#[test]
fn stranger_that_never_comes_back_leaves_nothing() {
    let mut network = Network::pair(1, Setup::default(), always());
    let dialer = network.dial(0, 1);
    network.settle();
    let first = network.intercept();
    dialer.abandon();
    network.settle();
    network.intercept();
    let now = network.now;
    for datagram in &first {
        network.nodes[1].receive(now, datagram.from, &datagram.contents);
    }
    network.nodes[1].turn(now);
    let sent: usize = network
        .intercept()
        .iter()
        .map(|datagram| datagram.contents.len())
        .sum();
    let (registry, transport) = network.nodes[1].stats();
    // One is enough for all of them.
    assert_eq!(transport.retries_sent, 1);
    assert_eq!(transport.retries_withheld, first.len() as u64 - 1);
    assert_eq!((transport.incoming, registry.initial_ids), (0, 0));
    // Far below the three times of RFC 9000 §8.1.
    assert!(sent < 1200, "{sent}");
    network.nodes[1].assert_empty();
}

/// It answers each packet with its CONNECTION_CLOSE, which looks like a first packet.
#[test]
fn dialer_that_has_given_up_is_not_asked_again_and_again() {
    let mut network = Network::pair(1, Setup::default(), always());
    let dialer = network.dial(0, 1);
    dialer.close(0);
    network.run_for(10 * SECOND);
    assert!(network.nodes[0].is_empty());
    let (_, transport) = network.nodes[1].stats();
    assert!(transport.retries_sent >= 1);
    // It closes for seconds; without the limit there would be a Retry for each round trip of 20 ms.
    assert!(transport.retries_sent <= 3, "{}", transport.retries_sent);
}

#[test]
fn token_is_worth_nothing_at_another_address() {
    let mut network = Network::pair(1, Setup::default(), always());
    network.dial(0, 1);
    network.settle();
    network.run_for(Duration::from_millis(25));
    // The dialer has its token, and this is its second attempt.
    let second = network.intercept();
    assert!(!second.is_empty());
    let thief = ([198, 51, 100, 7], 4001).into();
    let now = network.now;
    for datagram in &second {
        network.nodes[1].receive(now, thief, &datagram.contents);
    }
    network.nodes[1].turn(now);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!((transport.incoming, registry.connections), (0, 0));
    // At its own address the same token lets the dialer in.
    for datagram in &second {
        network.nodes[1].receive(now, datagram.from, &datagram.contents);
    }
    network.nodes[1].turn(now);
    assert_eq!(network.nodes[1].stats().1.incoming, 1);
}

#[test]
fn only_a_busy_listener_asks() {
    let setup = Setup {
        answer: Answer::Hold,
        ..under_load()
    };
    let mut network = Network::pair(1, Setup::default(), setup);
    for dials in 1..=2 {
        network.dial(0, 1);
        network.run_for(SECOND / 10);
        assert_eq!(network.nodes[1].unanswered_incoming.len(), dials);
        assert_eq!(network.nodes[1].stats().1.retries_sent, 0);
    }
    network.dial(0, 1);
    network.run_for(SECOND / 10);
    assert_eq!(network.nodes[1].unanswered_incoming.len(), 3);
    assert!(network.nodes[1].stats().1.retries_sent > 0);
}

#[test]
fn handshakes_that_are_over_are_no_load() {
    let mut network = Network::pair(1, Setup::default(), under_load());
    for _ in 0..4 {
        network.connect(0, 1);
    }
    // Failed handshakes have ended, too.
    for _ in 0..4 {
        network.dial_expecting(0, 1, Some(libp2p_identity::PeerId::random()));
        network.run_for(SECOND);
    }
    // And so have those that their dialer has abandoned.
    for _ in 0..4 {
        let dialer = network.dial(0, 1);
        network.run_for(Duration::from_millis(15));
        dialer.abandon();
        network.run_for(SECOND);
    }
    assert_eq!(network.nodes[1].stats().1.retries_sent, 0);

    // Meanwhile, these are in their handshake.
    for _ in 0..2 {
        network.dial(0, 1);
    }
    network.run_for(Duration::from_millis(11));
    network.impair(Impairments::DEAD);
    network.run_for(SECOND);
    network.impair(Impairments::NONE);
    network.dial(0, 1);
    network.run_for(SECOND / 10);
    assert!(network.nodes[1].stats().1.retries_sent > 0);
}

/// The most dials until one succeeds, with a tenth of all datagrams lost.
const MOST_ATTEMPTS: u32 = 3;

#[test]
fn retried_dials_get_through_loss() {
    for seed in seeds() {
        let setup = Setup {
            shards: 3,
            ..always()
        };
        let mut network = Network::pair(seed, Setup::default(), setup);
        network.impair(Impairments {
            loss: 0.1,
            ..Impairments::NONE
        });
        // In some hundreds of handshakes, one times out because it loses many datagrams in a row.
        let is_connected = (0..MOST_ATTEMPTS).any(|_| {
            let dialer = network.dial(0, 1);
            let handshake = network.block_on(async move { dialer.established().await });
            handshake.is_ok()
        });
        assert!(is_connected, "seed {seed}");
    }
}
