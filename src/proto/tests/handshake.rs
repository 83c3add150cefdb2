//! Handshakes that succeed, and handshakes that fail in each possible way.

use std::{net::SocketAddr, time::Duration};

use libp2p_identity::PeerId;

use super::{
    link::Impairments,
    network::Network,
    node::{Answer, Setup},
    peer::Peer,
};
use crate::{
    authenticator::CertificateError,
    error::{ConnectionError, HandshakeError},
    proto::{deadlines::SLACK, long_header_id},
};

/// The default.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn both_sides_are_authenticated_and_counted_once() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.connect(0, 1);
    network.run_for(Duration::from_secs(1));

    let stats = [0, 1].map(|node| network.nodes[node].stats());
    for (registry, transport) in &stats {
        assert_eq!(registry.connections, 1);
        assert_eq!(registry.handshaking, 0);
        assert_eq!(registry.peers, 1);
        assert_eq!(registry.remote_addresses, 1);
        assert_eq!(transport.handshakes_completed, 1);
        assert_eq!(transport.handshakes_failed, 0);
    }
    assert_eq!(
        stats.each_ref().map(|(registry, _)| registry.initial_ids),
        [0, 1]
    );
    assert_eq!(
        stats.each_ref().map(|(_, transport)| transport.dials),
        [1, 0]
    );
    assert_eq!(
        stats.each_ref().map(|(_, transport)| transport.incoming),
        [0, 1]
    );
    for (sender, receiver) in [(0, 1), (1, 0)] {
        assert_eq!(stats[sender].1.bytes_sent, stats[receiver].1.bytes_received);
        assert_eq!(
            stats[sender].1.datagrams_sent,
            stats[receiver].1.datagrams_received
        );
    }
}

#[test]
fn dial_dropped_during_the_handshake_leaves_nothing_at_once() {
    // Before the first datagram is sent, before it arrives, and before the answer arrives.
    for milliseconds in [0, 5, 15] {
        let mut network = Network::pair(milliseconds, Setup::default(), Setup::default());
        let dialer = network.dial(0, 1);
        if milliseconds > 0 {
            network.run_for(Duration::from_millis(milliseconds));
        }
        dialer.abandon();
        network.settle();
        network.nodes[0].assert_empty();
        assert_eq!(network.nodes[0].stats().1.handshakes_failed, 1);
        assert_eq!(
            network.block_on(async move { dialer.established().await }),
            Err(HandshakeError::Abandoned)
        );

        network.run_until_empty();
        network.nodes[1].assert_empty();
        assert_eq!(network.nodes[1].stats().1.handshakes_completed, 0);
    }
}

#[test]
fn silent_peer_fails_the_dial_after_the_handshake_timeout() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.impair(Impairments::DEAD);
    let dialer = network.dial(0, 1);
    assert_eq!(
        outcome(&mut network, &dialer),
        Err(HandshakeError::TimedOut)
    );
    let late = network.elapsed() - HANDSHAKE_TIMEOUT;
    assert!(late < SLACK, "{late:?}");
    network.nodes[0].assert_empty();
    assert_eq!(network.nodes[0].stats().1.handshakes_timed_out, 1);
}

#[test]
fn peer_that_falls_silent_fails_the_handshake_on_both_sides() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    // The Initial packet is in flight; the answer to it will be lost.
    network.impair(Impairments::DEAD);
    network.run_for(Duration::from_millis(15));
    let listener = network.nodes[1].accepted.pop_front().unwrap();

    assert_eq!(
        outcome(&mut network, &dialer),
        Err(HandshakeError::TimedOut)
    );
    assert_eq!(
        outcome(&mut network, &listener),
        Err(HandshakeError::TimedOut)
    );
    // The CONNECTION_CLOSE may exceed the anti-amplification limit.
    network.run_until_empty();
    for node in &network.nodes {
        node.assert_empty();
        assert_eq!(node.stats().1.handshakes_timed_out, 1);
    }
}

#[test]
fn handshake_deadline_is_over_with_the_handshake() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(10 * HANDSHAKE_TIMEOUT);
    assert_eq!(dialer.loss(), None);
    assert_eq!(listener.loss(), None);
}

#[test]
fn incoming_connection_that_nobody_answers_is_forgotten() {
    let setup = Setup {
        answer: Answer::Hold,
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), setup);
    let dialer = network.dial(0, 1);
    network.run_for(Duration::from_millis(15));
    let (registry, _) = network.nodes[1].stats();
    assert_eq!((registry.pending_incoming, registry.initial_ids), (1, 1));
    assert_eq!(registry.connections, 0);

    assert_eq!(
        outcome(&mut network, &dialer),
        Err(HandshakeError::TimedOut)
    );
    network.run_until_empty();
    network.nodes[1].assert_empty();
    assert_eq!(network.nodes[1].stats().1.incoming_refused, 1);
    let now = network.now;
    let answer = network.nodes[1].answer_incoming(now, true);
    assert_eq!(answer, Some(HandshakeError::TimedOut));
}

#[test]
fn incoming_connections_past_the_limit_are_dropped() {
    let setup = Setup {
        answer: Answer::Hold,
        configure: |builder| builder.max_pending_incoming(3).unwrap(),
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), setup);
    for _ in 0..5 {
        network.dial(0, 1);
    }
    network.run_for(Duration::from_millis(15));
    assert_eq!(network.nodes[1].unanswered_incoming.len(), 3);
    assert_eq!(network.nodes[1].stats().0.pending_incoming, 3);
    network.run_until_empty();
    network.nodes[1].assert_empty();
}

#[test]
fn refused_dial_says_so() {
    let setup = Setup {
        answer: Answer::Refuse,
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), setup);
    let dialer = network.dial(0, 1);
    assert_eq!(outcome(&mut network, &dialer), Err(HandshakeError::Refused));
    assert_eq!(network.nodes[1].stats().1.incoming_refused, 1);
    network.run_until_empty();
    for node in &network.nodes {
        node.assert_empty();
    }
}

#[test]
fn peer_of_another_version_fails_the_dial_at_once() {
    let setup = Setup {
        // Draft 29.
        versions: vec![0xff00_001d],
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), setup);
    let dialer = network.dial(0, 1);
    assert_eq!(
        outcome(&mut network, &dialer),
        Err(ConnectionError::VersionMismatch.into())
    );
    assert_eq!(network.elapsed(), Duration::from_millis(20));
    network.run_until_empty();
    for node in &network.nodes {
        node.assert_empty();
    }
}

#[test]
fn wrong_peer_fails_the_dial_and_never_counts_as_a_peer() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let expected = PeerId::random();
    let dialer = network.dial_expecting(0, 1, Some(expected));
    let mismatch = CertificateError::PeerMismatch {
        expected: Box::new(expected),
        actual: Box::new(network.nodes[1].peer_id()),
    };
    assert_eq!(outcome(&mut network, &dialer), Err(mismatch.into()));

    let listener = network.nodes[1].accepted.pop_front().unwrap();
    assert!(matches!(
        outcome(&mut network, &listener),
        Err(HandshakeError::Connection(
            ConnectionError::AbortedByPeer { .. }
        ))
    ));
    network.run_until_empty();
    for node in &network.nodes {
        node.assert_empty();
        let (_, transport) = node.stats();
        assert_eq!(
            (transport.handshakes_completed, transport.handshakes_failed),
            (0, 1)
        );
    }
}

#[test]
fn unreachable_address_fails_only_dials_to_it_that_have_heard_nothing() {
    let mut network = Network::new(1);
    network.add(Setup {
        listening: false,
        ..Setup::default()
    });
    for _ in 0..2 {
        network.add(Setup::default());
    }
    let established = network.connect(0, 1).0;
    network.run_for(Duration::from_secs(1));
    // Only the first datagram of the answer arrives, which does not complete the handshake.
    let answered = network.dial(0, 1);
    network.run_for(Duration::from_millis(15));
    let answer = network.intercept().swap_remove(0);
    let now = network.now;
    network.nodes[0].receive(now, answer.from, &answer.contents);
    network.settle();
    assert_eq!(network.nodes[0].stats().0.handshaking, 1);
    network.intercept();
    let unanswered = network.dial(0, 1);
    network.settle();
    let first = network.intercept().swap_remove(0);
    let quoted = long_header_id(&first.contents).unwrap();
    let elsewhere = network.dial(0, 2);
    network.settle();

    let addr = network.nodes[1].addr();
    let other_port = SocketAddr::new(addr.ip(), addr.port() + 1);
    let now = network.now;
    network.nodes[0].shards[0].unreachable(now, other_port, quoted, HandshakeError::Unreachable);
    // Forged by an attacker who has not seen the packet.
    network.nodes[0].shards[0].unreachable(now, addr, &[7; 8], HandshakeError::Unreachable);
    network.nodes[0].shards[0].unreachable(now, addr, &[], HandshakeError::Unreachable);
    network.settle();
    assert_eq!(unanswered.loss(), None);
    network.nodes[0].shards[0].unreachable(now, addr, quoted, HandshakeError::Unreachable);
    assert_eq!(
        outcome(&mut network, &unanswered),
        Err(HandshakeError::Unreachable)
    );
    for unaffected in [established, answered, elsewhere] {
        assert_eq!(unaffected.loss(), None);
    }
    assert_eq!(network.nodes[0].stats().0.connections, 3);
}

#[test]
fn dial_from_a_listener_believes_only_later_that_nobody_listens() {
    let mut network = Network::new(1);
    for _ in 0..2 {
        network.add(Setup::default());
    }
    let addr = network.nodes[1].addr();
    let refused = network.dial(0, 1);
    network.settle();
    // The peer's router rejects the packet, and reports that at once.
    for datagram in network.intercept() {
        let quoted = long_header_id(&datagram.contents).unwrap();
        let now = network.now;
        network.nodes[0].shards[0].unreachable(now, addr, quoted, HandshakeError::Unreachable);
    }
    network.settle();
    assert_eq!(refused.loss(), None);
    // The retransmission passes.
    network.run_for(Duration::from_secs(2));
    assert!(outcome(&mut network, &refused).is_ok());

    let refused = network.dial(0, 1);
    network.settle();
    network.intercept();
    network.run_for(Duration::from_millis(990));
    assert!(network.intercept().is_empty());
    network.run_for(Duration::from_millis(10));
    let again = network.intercept().swap_remove(0);
    let quoted = long_header_id(&again.contents).unwrap();
    let now = network.now;
    network.nodes[0].shards[0].unreachable(now, addr, quoted, HandshakeError::Unreachable);
    assert_eq!(
        outcome(&mut network, &refused),
        Err(HandshakeError::Unreachable)
    );
}

/// The result of the handshake.
fn outcome(network: &mut Network, peer: &Peer) -> Result<PeerId, HandshakeError> {
    let peer = peer.clone();
    network.block_on(async move { peer.established().await })
}
