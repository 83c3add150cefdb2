//! Quotas of connection IDs.

use std::time::Duration;

use futures::FutureExt;
use quinn_proto::ConnectError;

use super::{
    network::Network,
    node::{Answer, Node, Setup},
    peer::Peer,
};
use crate::{error::ConnectionError, proto::IdQuota};

const SECOND: Duration = Duration::from_secs(1);

/// A configuration with IDs for two connections.
fn for_two(answer: Answer) -> Setup {
    Setup {
        answer,
        id_quota: IdQuota {
            connections: 2,
            ..IdQuota::default()
        },
        ..Setup::default()
    }
}

#[test]
fn dial_without_ids_left_fails_and_the_next_one_does_not() {
    let mut network = Network::pair(1, for_two(Answer::Accept), Setup::default());
    let first = network.connect(0, 1).0;
    network.connect(0, 1);
    let (now, addr) = (network.now, network.nodes[1].addr());
    let third = network.nodes[0].try_dial(now, addr, None);
    assert!(matches!(third, Err(ConnectError::CidsExhausted)));
    assert_eq!(network.nodes[0].stats().1.dials, 2);

    first.close(0);
    network.run_for(SECOND);
    network.connect(0, 1);
}

#[test]
fn incoming_connection_without_ids_left_is_dropped_until_there_are() {
    let mut network = Network::pair(1, Setup::default(), for_two(Answer::Accept));
    let first = network.connect(0, 1).0;
    network.connect(0, 1);
    let third = network.dial(0, 1);
    network.run_for(SECOND / 2);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!((registry.connections, transport.incoming), (2, 2));
    assert!(registry.dropped_overload > 0);

    first.close(0);
    let established = network.block_on(async move { third.established().await });
    assert!(established.is_ok());
}

/// Waiting connections count, so that accepting them never exceeds the quota.
#[test]
fn incoming_connections_that_wait_have_their_ids() {
    let mut network = Network::pair(1, Setup::default(), for_two(Answer::Hold));
    for _ in 0..3 {
        network.dial(0, 1);
    }
    network.run_for(SECOND / 10);
    assert_eq!(network.nodes[1].unanswered_incoming.len(), 2);
    let (now, addr) = (network.now, network.nodes[0].addr());
    let dial = network.nodes[1].try_dial(now, addr, None);
    assert!(matches!(dial, Err(ConnectError::CidsExhausted)));
}

/// Each holds IDs, so they count together.
#[test]
fn quota_is_that_of_connections_that_are_open_closing_or_waiting() {
    let mut network = Network::pair(1, for_two(Answer::Accept), Setup::default());
    let first = network.connect(0, 1).0;
    first.close(0);
    let (now, addr) = (network.now, network.nodes[1].addr());
    network.nodes[0].turn(now);
    assert_eq!(network.nodes[0].stats().0.connections, 0);
    network.nodes[0].try_dial(now, addr, None).unwrap();
    let beside_closing = network.nodes[0].try_dial(now, addr, None);
    assert!(matches!(beside_closing, Err(ConnectError::CidsExhausted)));

    let mut network = Network::pair(1, for_two(Answer::Accept), Setup::default());
    network.connect(0, 1);
    network.nodes[0].answer = Answer::Hold;
    network.dial(1, 0);
    network.run_for(SECOND / 10);
    assert_eq!(network.nodes[0].unanswered_incoming.len(), 1);
    let (now, addr) = (network.now, network.nodes[1].addr());
    let beside_waiting = network.nodes[0].try_dial(now, addr, None);
    assert!(matches!(beside_waiting, Err(ConnectError::CidsExhausted)));
}

/// A peer retires an ID with each change of its path, and is issued another one.
#[test]
fn peer_that_wants_ever_new_ids_is_left() {
    const FREE: u64 = 10;

    let setup = Setup {
        id_quota: IdQuota {
            free: FREE,
            ..IdQuota::default()
        },
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup, Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(SECOND);
    let mut rebound = 0;
    while dialer.loss().is_none() {
        network.rebind(0);
        say_something(&dialer);
        network.run_for(3 * SECOND);
        rebound += 1;
        assert!(rebound <= 2 * FREE, "it goes on");
    }
    // Four are issued with the handshake.
    assert!(rebound >= 3);
    let limit_error = ConnectionError::Violation {
        code: 9,
        reason: "too many connection IDs retired".to_owned(),
    };
    assert_eq!(dialer.loss(), Some(limit_error));
    assert!(network.nodes[0].stats().0.issued_ids <= 1 + FREE + 2);
    let told = ConnectionError::AbortedByPeer {
        code: 9,
        reason: "too many connection IDs retired".to_owned(),
    };
    assert_eq!(listener.loss(), Some(told));
    network.run_until_empty();
    network.nodes.iter().for_each(Node::assert_empty);
}

#[test]
fn quota_grows_with_what_the_peer_sends() {
    let quota = IdQuota::default();
    assert!(!quota.is_exceeded(1024, 0));
    assert!(quota.is_exceeded(1025, 99));
    assert!(!quota.is_exceeded(1025, 100));
    // Other implementations use one for 10,000 packets.
    assert!(!quota.is_exceeded(1_000_000, 10_000 * 1_000_000));
}

fn say_something(peer: &Peer) {
    let Some(Ok(stream)) = peer.open().now_or_never() else {
        return;
    };
    peer.write_now(stream, &[0; 100]);
    peer.drop_stream(stream);
}
