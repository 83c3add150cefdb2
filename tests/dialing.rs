//! Dialling over loopback sockets: the sockets from which dials leave, and their failures.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::BTreeSet, future::poll_fn, io::ErrorKind, net::SocketAddr, time::Duration};

use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportEvent},
};
use libp2p_identity::PeerId;
use libp2p_quinn::{ConnectionError, HandshakeError};
use multiaddr::{Multiaddr, Protocol};
use support::{
    node::{
        LOOPBACK_V4, LOOPBACK_V6, NEW_PORT, Node, bounded, connect, connect_at, handshake_error,
        poll_now, port, silent, socket_addr, until,
    },
    streams::{accept, ask, open, transfer_through_echo},
};
use tokio::time::{sleep, timeout};

/// A documentation address (RFC 5737), which no host has.
const NOBODY: &str = "/ip4/192.0.2.77/udp/4001/quic-v1";

/// Long enough for every handshake on loopback, short enough to wait for.
const SHORT: Duration = Duration::from_millis(500);

/// Longer than any test, so that the timeout does not end a handshake.
const NEVER: Duration = Duration::from_secs(3600);

/// An address with a closed port.
fn closed(ip: &str) -> Multiaddr {
    silent(ip).1
}

#[tokio::test]
async fn dials_with_and_without_the_peer_id() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let named = addr.clone().with(Protocol::P2p(listener.peer_id));
        for addr in [addr, named] {
            let (_dialled, _accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        }
        assert_eq!(dialer.stats().transport.handshakes_completed, 2);
        assert_eq!(listener.stats().transport.handshakes_completed, 2);
    })
    .await;
}

#[tokio::test]
async fn a_dial_does_nothing_before_it_is_polled() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (target, addr) = silent("127.0.0.1");
        let dial = dialer.dial(&addr);
        assert_eq!(dialer.stats().transport.sockets, 0);
        // The first dial would have had an effect before this one is complete.
        let (_dialled, _accepted) = connect(&mut dialer, &mut listener).await;
        assert_eq!(dialer.stats().transport.dials, 1);
        let received = target.recv(&mut [0; 2048]);
        assert_eq!(received.unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(dial);
        assert_eq!(dialer.stats().registry.connections, 1);
    })
    .await;
}

#[tokio::test]
async fn dropping_a_dial_frees_its_connection_and_socket() {
    bounded(async {
        let mut dialer = Node::new();
        let (target, addr) = silent("127.0.0.1");
        let mut dial = dialer.dial(&addr);
        let target = tokio::net::UdpSocket::from_std(target).unwrap();
        let mut initial = [0; 2048];
        tokio::select! {
            _ = &mut dial => panic!("nobody has answered"),
            received = target.recv(&mut initial) => assert!(received.unwrap() >= 1200),
        }
        assert_eq!(dialer.stats().registry.connections, 1);
        assert_eq!(dialer.stats().transport.sockets, 1);
        drop(dial);
        until(|| dialer.stats().registry.connections == 0).await;
        let registry = dialer.stats().registry;
        assert_eq!(registry.active_ids, 0);
        assert_eq!(registry.handshaking, 0);
        until(|| dialer.stats().transport.sockets == 0).await;
    })
    .await;
}

#[tokio::test]
async fn dials_one_after_the_other_leave_from_the_same_port() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let mut ports = BTreeSet::new();
        for _ in 0..3 {
            let dial = tokio::spawn(dialer.dial(&addr));
            let knock = listener.knock().await;
            ports.insert(port(&knock.send_back_addr));
            let (accepted, dialled) = tokio::join!(knock.upgrade, dial);
            drop((accepted.unwrap(), dialled.unwrap().unwrap()));
            until(|| dialer.stats().registry.connections == 0).await;
        }
        assert_eq!(ports.len(), 1, "{ports:?}");
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_no_dial_uses_stays_for_unused_linger() {
    const UNUSED_TIMEOUT: Duration = Duration::from_secs(5);

    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        // Twice, because each use starts the time again.
        for pause in [UNUSED_TIMEOUT / 2, Duration::ZERO] {
            let connected = connect_at(&mut dialer, &mut listener, &addr).await;
            drop(connected);
            until(|| dialer.stats().registry.connections == 0).await;
            sleep(pause).await;
        }
        sleep(UNUSED_TIMEOUT - SHORT).await;
        assert_eq!(dialer.stats().transport.sockets, 1);
        let closed = until(|| dialer.stats().transport.sockets == 0);
        timeout(UNUSED_TIMEOUT, closed).await.unwrap();
        // Another one lingers, but not after its transport is gone.
        drop(connect_at(&mut dialer, &mut listener, &addr).await);
        until(|| dialer.stats().registry.connections == 0).await;
        let handle = dialer.transport.handle();
        assert_eq!(handle.stats().transport.sockets, 1);
        drop(dialer);
        let closed = until(|| handle.stats().transport.sockets == 0);
        timeout(UNUSED_TIMEOUT / 2, closed).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dial_leaves_from_the_listener() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let from = dialer.listen().await;
        let addr = listener.listen().await;
        let _dial = tokio::spawn(dialer.dial(&addr));
        assert_eq!(listener.knock().await.send_back_addr, from);
        assert_eq!(dialer.stats().transport.sockets, 1);
    })
    .await;
}

#[tokio::test]
async fn dials_without_a_listener_share_a_socket() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let first = connect_at(&mut dialer, &mut listener, &addr).await;
        let second = connect_at(&mut dialer, &mut listener, &addr).await;
        assert_eq!(dialer.stats().transport.sockets, 1);
        drop((first, second));
    })
    .await;
}

#[tokio::test]
async fn a_dial_from_a_new_port_has_a_port_of_its_own() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let mut ports = BTreeSet::from([port(&dialer.listen().await)]);
        let addr = listener.listen().await;
        for _ in 0..2 {
            tokio::spawn(dialer.try_dial(&addr, NEW_PORT).unwrap());
            assert!(ports.insert(port(&listener.knock().await.send_back_addr)));
        }
    })
    .await;
}

/// The address from which a dial to `remote` leaves when it is polled.
async fn leaves_from(dialer: &mut Node, remote: &Multiaddr) -> SocketAddr {
    let mut dial = dialer.dial(remote);
    let remote = socket_addr(remote);
    let mut local_addr = None;
    until(|| {
        let _ = poll_now(&mut dial);
        local_addr = dialer
            .stats()
            .connections
            .iter()
            .find(|connection| connection.remote_addr == remote)
            .map(|connection| connection.local_addr);
        local_addr.is_some()
    })
    .await;
    drop(dial);
    until(|| dialer.stats().registry.connections == 0).await;
    local_addr.unwrap()
}

/// Waits until a wildcard listener has announced its loopback address.
async fn announces_loopback(node: &mut Node) {
    while !matches!(
        node.event().await,
        TransportEvent::NewAddress { listen_addr, .. } if socket_addr(&listen_addr).ip().is_loopback()
    ) {}
}

#[tokio::test]
async fn a_loopback_listener_is_not_used_for_another_host() {
    bounded(async {
        let mut dialer = Node::new();
        let listener = dialer.listen().await;
        let from = leaves_from(&mut dialer, &NOBODY.parse().unwrap()).await;
        assert_ne!(from.port(), port(&listener));
        let (_target, loopback) = silent("127.0.0.1");
        let from = leaves_from(&mut dialer, &loopback).await;
        assert_eq!(from.port(), port(&listener));
    })
    .await;
}

#[tokio::test]
async fn a_loopback_listener_is_used_before_it_announces_its_address() {
    bounded(async {
        let mut dialer = Node::new();
        let loopback = LOOPBACK_V4.parse().unwrap();
        dialer
            .transport
            .listen_on(ListenerId::next(), loopback)
            .unwrap();
        let own = dialer.stats().listeners[0].local_addr.port();
        let (_target, remote) = silent("127.0.0.1");
        assert_eq!(leaves_from(&mut dialer, &remote).await.port(), own);
    })
    .await;
}

#[tokio::test]
async fn a_wildcard_listener_is_used_for_every_host_once_its_loopback_address_is_known() {
    bounded(async {
        let mut dialer = Node::new();
        let wildcard = "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap();
        dialer
            .transport
            .listen_on(ListenerId::next(), wildcard)
            .unwrap();
        let own = dialer.stats().listeners[0].local_addr.port();
        let (_target, loopback) = silent("127.0.0.1");
        assert_ne!(leaves_from(&mut dialer, &loopback).await.port(), own);
        announces_loopback(&mut dialer).await;
        assert_eq!(leaves_from(&mut dialer, &loopback).await.port(), own);
        let nobody = NOBODY.parse().unwrap();
        assert_eq!(leaves_from(&mut dialer, &nobody).await.port(), own);
    })
    .await;
}

#[tokio::test]
async fn a_dial_leaves_from_the_listener_at_the_address_that_the_kernel_would_choose() {
    bounded(async {
        let mut dialer = Node::new();
        let wildcard = "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap();
        dialer
            .transport
            .listen_on(ListenerId::next(), wildcard)
            .unwrap();
        let any = dialer.stats().listeners[0].local_addr.port();
        announces_loopback(&mut dialer).await;
        let id = ListenerId::next();
        dialer
            .transport
            .listen_on(id, LOOPBACK_V4.parse().unwrap())
            .unwrap();
        let specific = dialer.stats().listeners[1].local_addr.port();
        while !matches!(
            dialer.event().await,
            TransportEvent::NewAddress { listener_id, .. } if listener_id == id
        ) {}
        let (_target, loopback) = silent("127.0.0.1");
        assert_eq!(leaves_from(&mut dialer, &loopback).await.port(), specific);
        let nobody = NOBODY.parse().unwrap();
        assert_eq!(leaves_from(&mut dialer, &nobody).await.port(), any);
    })
    .await;
}

/// Linux reports it; elsewhere such a dial ends with its timeout.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_port_ends_its_dial_and_no_other() {
    bounded(async {
        for (ip, own) in [("127.0.0.1", LOOPBACK_V4), ("::1", LOOPBACK_V6)] {
            let mut dialer = Node::with(|config| config.handshake_timeout(NEVER));
            let mut listener = Node::new();
            let (_, open) = listener.listen_at(own).await;
            let (_target, silent) = silent(ip);
            let mut unanswered = dialer.dial(&silent);
            assert!(poll_now(&mut unanswered).is_pending());

            let dial = dialer.dial(&open);
            let refused = dialer.dial(&closed(ip));
            let (dialled, accepted, refused) = tokio::join!(dial, listener.accept(), refused);
            assert_eq!(handshake_error(refused), HandshakeError::Unreachable);
            let (_, mut dialled) = dialled.unwrap();
            let echo = tokio::spawn(support::node::echo(accepted.1));
            ask(&mut dialled).await;
            assert!(poll_now(&mut unanswered).is_pending());
            drop(dialled);
            echo.await.unwrap();
            assert_eq!(dialer.stats().transport.handshakes_failed, 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_peer_ends_with_the_handshake_timeout() {
    bounded(async {
        let mut dialer = Node::with(|config| config.handshake_timeout(SHORT));
        let (_target, addr) = silent("127.0.0.1");
        assert_eq!(
            handshake_error(dialer.dial(&addr).await),
            HandshakeError::TimedOut
        );
        until(|| dialer.stats().registry.connections == 0).await;
        let transport = dialer.stats().transport;
        assert_eq!(transport.handshakes_timed_out, 1);
        assert_eq!(transport.handshakes_failed, 1);
    })
    .await;
}

#[tokio::test]
async fn a_silent_peer_ends_with_the_idle_timeout_if_that_is_shorter() {
    bounded(async {
        let mut dialer = Node::with(|config| {
            let config = config.handshake_timeout(NEVER)?;
            config
                .idle_timeout(Some(SHORT))?
                .keep_alive_interval(Some(SHORT / 2))
        });
        let (_target, addr) = silent("127.0.0.1");
        assert_eq!(
            handshake_error(dialer.dial(&addr).await),
            HandshakeError::TimedOut
        );
        until(|| dialer.stats().registry.connections == 0).await;
    })
    .await;
}

#[tokio::test]
async fn connection_tells_its_peer_its_address_and_its_figures() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let dial = dialer.dial(&addr);
        let upgrade = async { listener.knock().await.upgrade.await };
        let (dialled, accepted) = tokio::join!(dial, upgrade);
        let (dialled, accepted) = (dialled.unwrap().1, accepted.unwrap().1);
        assert_eq!(dialled.peer_id(), Some(listener.peer_id));
        assert_eq!(accepted.peer_id(), Some(dialer.peer_id));
        assert_eq!(dialled.remote_address(), addr);
        let (dialled, accepted) = (dialled.stats(), accepted.stats());
        assert!(dialled.is_outbound && !accepted.is_outbound);
        assert_eq!(dialled.local_addr.port(), accepted.remote_addr.port());
        assert_eq!(accepted.local_addr.port(), dialled.remote_addr.port());
        let (handle, all) = (dialer.transport.handle(), dialer.stats());
        assert_eq!(all.connections.len(), 1);
        assert_eq!(handle.transport_stats().handshakes_completed, 1);
        assert_eq!(handle.registry_stats(), all.registry);
    })
    .await;
}

#[tokio::test]
async fn another_peer_than_the_expected_one_fails_the_handshake_on_both_sides() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let expected = PeerId::random();
        let dial = dialer.dial(&addr.with(Protocol::P2p(expected)));
        let upgrade = async { listener.knock().await.upgrade.await };
        let (dialled, accepted) = tokio::join!(dial, upgrade);
        // The dial resolves to the other peer, and the connection cannot be used.
        let (met, mut connection) = dialled.unwrap();
        assert_eq!(met, listener.peer_id);
        assert_eq!(connection.peer_id(), None);
        let end = poll_fn(|cx| connection.poll_unpin(cx)).await.unwrap_err();
        assert!(matches!(end, ConnectionError::Violation { .. }), "{end:?}");
        let opened = poll_fn(|cx| connection.poll_outbound_unpin(cx)).await;
        assert_eq!(opened.unwrap_err(), end);
        match handshake_error(accepted) {
            HandshakeError::Connection(ConnectionError::AbortedByPeer { code, .. }) => {
                assert_eq!(code & !0xff, 0x100, "a TLS alert, not {code:#x}");
            }
            error => panic!("{error:?}"),
        }
        assert_eq!(dialer.stats().transport.handshakes_completed, 0);
        assert_eq!(listener.stats().transport.handshakes_completed, 0);
    })
    .await;
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_from_a_silent_one() {
    bounded(async {
        let mut dialer = Node::with(|config| config.handshake_timeout(NEVER));
        let (peer, addr) = silent("127.0.0.1");
        let peer = tokio::net::UdpSocket::from_std(peer).unwrap();
        let answer = async {
            let mut initial = [0; 2048];
            let (_, from) = peer.recv_from(&mut initial).await.unwrap();
            // RFC 8999 §5.1 and §6: the IDs are exchanged, and the supported versions follow.
            let (destination, rest) = connection_id(&initial[5..]);
            let (source, _) = connection_id(rest);
            let mut negotiation = vec![0xc0, 0, 0, 0, 0];
            for id in [source, destination] {
                negotiation.push(id.len() as u8);
                negotiation.extend(id);
            }
            negotiation.extend(0x6b33_43cf_u32.to_be_bytes());
            peer.send_to(&negotiation, from).await.unwrap();
        };
        let (dialled, ()) = tokio::join!(dialer.dial(&addr), answer);
        assert_eq!(
            handshake_error(dialled),
            HandshakeError::Connection(ConnectionError::VersionMismatch)
        );
    })
    .await;
}

/// The next connection ID in a header, and the rest.
fn connection_id(header: &[u8]) -> (&[u8], &[u8]) {
    let (&length, rest) = header.split_first().unwrap();
    rest.split_at(length.into())
}

#[tokio::test]
async fn a_node_can_dial_itself() {
    bounded(async {
        let mut node = Node::new();
        let addr = node.listen().await;
        let dial = tokio::spawn(node.dial(&addr));
        let upgrade = node.knock().await.upgrade;
        let (accepted, dialled) = tokio::join!(upgrade, dial);
        let ((inbound_id, mut inbound), (outbound_id, mut outbound)) =
            (accepted.unwrap(), dialled.unwrap().unwrap());
        assert_eq!((inbound_id, outbound_id), (node.peer_id, node.peer_id));
        let opened = open(&mut outbound).await;
        drop(opened);
        drop(accept(&mut inbound).await);
        assert_eq!(node.stats().transport.sockets, 1);
    })
    .await;
}

#[tokio::test]
async fn crossed_dials_between_two_listeners_both_succeed() {
    bounded(async {
        let (mut alice, mut bob) = (Node::new(), Node::new());
        let (at_alice, at_bob) = (alice.listen().await, bob.listen().await);
        let (from_alice, from_bob) = (alice.dial(&at_bob), bob.dial(&at_alice));
        let accepted = async { tokio::join!(alice.accept(), bob.accept()) };
        let (to_bob, to_alice, (by_alice, by_bob)) = tokio::join!(from_alice, from_bob, accepted);
        let ((bob_id, mut to_bob), (alice_id, mut to_alice)) = (to_bob.unwrap(), to_alice.unwrap());
        assert_eq!((by_alice.0, by_bob.0), (bob.peer_id, alice.peer_id));
        assert_eq!((alice_id, bob_id), (alice.peer_id, bob.peer_id));
        // Two connections between the same two sockets, distinguished only by their IDs.
        let echoes = [by_alice.1, by_bob.1].map(|muxer| tokio::spawn(support::node::echo(muxer)));
        tokio::join!(
            transfer_through_echo(&mut to_bob, 300_000),
            transfer_through_echo(&mut to_alice, 300_000)
        );
        assert_eq!(alice.stats().registry.connections, 2);
        assert_eq!(alice.stats().transport.sockets, 1);
        drop((to_bob, to_alice));
        for echo in echoes {
            echo.await.unwrap();
        }
    })
    .await;
}
