//! Peers with different ideas of time: idle timeouts, and wall clocks.

use std::time::Duration;

use futures::future::join;

use super::{network::Network, node::Setup, peer::Peer, transfer::exchange_between};
use crate::{
    config::{ConfigBuilder, RetryPolicy},
    error::{ConnectionError, HandshakeError},
};

const SECOND: Duration = Duration::from_secs(1);

/// In seconds.
const YEARS: i64 = 20 * 365 * 24 * 3600;

#[test]
fn shorter_idle_timeout_counts_on_both_sides() {
    for is_dialers in [true, false] {
        let [short, long] = [silent(four_seconds), silent(a_minute)];
        let (dialer, listener) = if is_dialers {
            (short, long)
        } else {
            (long, short)
        };
        let (mut network, dialer, listener) = connected(dialer, listener);
        assert_eq!(ends(&mut network, dialer, listener), TIMED_OUT);
        let waited = network.elapsed();
        // Both count from the last packet of the handshake, or of what follows it.
        assert!(waited > 4 * SECOND && waited < 6 * SECOND, "{waited:?}");
        network.run_until_empty();
    }
}

#[test]
fn keep_alive_of_one_side_is_enough_if_it_comes_in_time() {
    let keeping = Setup {
        configure: |builder| {
            let builder = four_seconds(builder);
            builder.keep_alive_interval(Some(2 * SECOND)).unwrap()
        },
        ..Setup::default()
    };
    let (mut network, dialer, listener) = connected(keeping, silent(a_minute));
    network.run_for(600 * SECOND);
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

#[test]
fn clocks_that_are_set_change_nothing() {
    let [set, not_set] = [true, false].map(|set| {
        let (mut network, dialer, listener) = connected(Setup::default(), Setup::default());
        for step in 0..10 {
            if set {
                let sign = if step % 2 == 0 { 1 } else { -1 };
                network.nodes[0].wall_clock.step(sign * YEARS);
                network.nodes[1].wall_clock.step(-sign * YEARS);
            }
            exchange_between(&mut network, &dialer, &listener, step, 10_000);
            network.run_for(7 * SECOND);
        }
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
        network.trace()
    });
    assert_eq!(set, not_set);
}

#[test]
fn dials_go_on_after_clocks_were_set() {
    let (mut network, ..) = connected(Setup::default(), Setup::default());
    for step in [YEARS, -2 * YEARS] {
        network.nodes[0].wall_clock.step(step);
        network.nodes[1].wall_clock.step(-step);
        network.connect(0, 1);
    }
}

#[test]
fn token_that_a_set_clock_has_outdated_fails_one_dial_and_not_the_next() {
    let listener = Setup {
        configure: |builder| builder.retry_policy(RetryPolicy::Always),
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), listener);
    let dialer = network.dial(0, 1);
    // The Retry is in flight.
    network.run_for(Duration::from_millis(15));
    network.nodes[1].wall_clock.step(3600);
    let end = network.block_on(async move { dialer.established().await });
    let invalid_token = ConnectionError::AbortedByPeer {
        code: 0xb,
        reason: String::new(),
    };
    assert_eq!(end, Err(HandshakeError::Connection(invalid_token)));
    network.run_until_empty();
    network.connect(0, 1);
}

type Ends = [Result<(), ConnectionError>; 2];

const TIMED_OUT: Ends = [
    Err(ConnectionError::TimedOut),
    Err(ConnectionError::TimedOut),
];

fn connected(dialer: Setup, listener: Setup) -> (Network, Peer, Peer) {
    let mut network = Network::pair(1, dialer, listener);
    let (dialer, listener) = network.connect(0, 1);
    (network, dialer, listener)
}

fn ends(network: &mut Network, dialer: Peer, listener: Peer) -> Ends {
    let end = |peer: Peer| async move { peer.address_change().await.map(drop) };
    let (dialer, listener) = network.block_on(join(end(dialer), end(listener)));
    [dialer, listener]
}

fn silent(configure: fn(ConfigBuilder) -> ConfigBuilder) -> Setup {
    Setup {
        configure,
        ..Setup::default()
    }
}

fn four_seconds(builder: ConfigBuilder) -> ConfigBuilder {
    without_keep_alive(builder, 4 * SECOND)
}

fn a_minute(builder: ConfigBuilder) -> ConfigBuilder {
    without_keep_alive(builder, 60 * SECOND)
}

fn without_keep_alive(builder: ConfigBuilder, idle: Duration) -> ConfigBuilder {
    builder
        .keep_alive_interval(None)
        .and_then(|builder| builder.idle_timeout(Some(idle)))
        .unwrap()
}
