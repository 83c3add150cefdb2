//! The transport as a whole: what it refuses, what it tolerates, and what continues without being
//! polled.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{future::poll_fn, time::Duration};

use futures::future::join_all;
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportError},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{Config, ConnectionError, DialError, Error, ListenError, Transport};
use multiaddr::Multiaddr;
use support::{
    node::{
        LOOPBACK_V4, Node, REUSE_PORT, bounded, connect, connect_at, quic_addr, silent,
        socket_addr, until,
    },
    relay::Relay,
    streams::{ask, transfer_through_echo},
};

/// A documentation address (RFC 5737), which no host has.
const NOBODY: &str = "/ip4/192.0.2.77/udp/4001/quic-v1";

#[tokio::test]
async fn addresses_of_other_transports_are_given_back() {
    let mut node = Node::new();
    let peer = PeerId::random();
    let anything_else = [
        "/ip4/192.0.2.7/tcp/4001".to_owned(),
        "/ip4/192.0.2.7/udp/4001".to_owned(),
        "/ip4/192.0.2.7/udp/4001/quic".to_owned(),
        "/ip4/192.0.2.7/udp/4001/quic-v1/webtransport".to_owned(),
        format!("/ip4/192.0.2.7/udp/4001/quic-v1/p2p/{peer}/p2p-circuit"),
        "/dns/example.com/udp/4001/quic-v1".to_owned(),
        "/dns4/example.com/udp/4001/quic-v1".to_owned(),
        "/memory/7".to_owned(),
    ];
    let nowhere = [
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip4/0.0.0.0/udp/4001/quic-v1",
        "/ip6/::/udp/4001/quic-v1",
        "/ip4/255.255.255.255/udp/4001/quic-v1",
        "/ip4/224.0.0.1/udp/4001/quic-v1",
        "/ip6/ff02::1/udp/4001/quic-v1",
    ];
    for addr in &anything_else {
        let addr: Multiaddr = addr.parse().unwrap();
        match node.transport.listen_on(ListenerId::next(), addr.clone()) {
            Err(TransportError::MultiaddrNotSupported(back)) => assert_eq!(back, addr),
            other => panic!("{addr}: {other:?}"),
        }
    }
    for addr in anything_else.iter().map(String::as_str).chain(nowhere) {
        let addr: Multiaddr = addr.parse().unwrap();
        match node.try_dial(&addr, REUSE_PORT) {
            Err(TransportError::MultiaddrNotSupported(back)) => assert_eq!(back, addr),
            other => panic!("{addr}: {other:?}"),
        }
    }
    assert_eq!(node.stats().transport.sockets, 0);
}

#[tokio::test]
async fn what_is_not_quic_is_counted_and_disturbs_nobody() {
    const EACH: u64 = 50;
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let handle = listener.transport.handle();
        let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let echo = tokio::spawn(support::node::echo(accepted));
        let (stranger, _) = silent("127.0.0.1");
        let listener = socket_addr(&addr);
        let strange = |datagram: &[u8]| {
            for _ in 0..EACH {
                stranger.send_to(datagram, listener).unwrap();
            }
        };
        let before = handle.stats().registry;
        let counted = |registry: &libp2p_quinn::RegistryStats| {
            [
                registry.malformed - before.malformed,
                registry.non_quic - before.non_quic,
                registry.unknown - before.unknown,
            ]
        };
        // A zero-length datagram, and a header that is truncated in its ID.
        strange(&[]);
        strange(&[0xc3, 0, 0, 0, 1, 20, 7]);
        // A STUN binding request (RFC 8489 §5).
        strange(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6]);
        // A packet for an unknown connection.
        strange(&[0x47; 40]);
        transfer_through_echo(&mut dialled, 1_000_000).await;
        until(|| counted(&handle.stats().registry) == [2 * EACH, EACH, EACH]).await;
        ask(&mut dialled).await;
        assert_eq!(counted(&handle.stats().registry), [2 * EACH, EACH, EACH]);
        assert_eq!(handle.stats().registry.connections, 1);
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_find_their_connection_whatever_socket_they_arrive_at() {
    bounded(async {
        let mut dialer = Node::new();
        let mut listener = Node::with(|config| config.shards(4));
        let one = socket_addr(&listener.listen().await);
        let other = socket_addr(&listener.listen().await);
        let relay = Relay::to(&[one, other]).await;
        let handle = listener.transport.handle();
        let _echo = listener.spawn_echo();
        // Several, so that more than one shard has work.
        for _ in 0..4 {
            let (_, mut dialled) = dialer.dial(&quic_addr(relay.addr())).await.unwrap();
            transfer_through_echo(&mut dialled, 500_000).await;
            dialled.close().await.unwrap();
        }
        let stats = handle.stats();
        assert_eq!(stats.transport.handshakes_completed, 4);
        if cfg!(target_os = "linux") {
            // The kernel delivers each datagram to the shard that owns its ID, except datagrams
            // that it has merged.
            assert!(stats.registry.forwarded < stats.registry.routed_short / 10);
        } else {
            assert!(stats.registry.forwarded > 0);
        }
        assert_eq!(stats.registry.foreign, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_dials_at_once_succeed() {
    bounded(async {
        // A long timeout for slow machines: the test is about lost connections, not about speed.
        let patient = || Node::with(|config| config.handshake_timeout(Duration::from_secs(30)));
        let (mut dialer, mut listener) = (patient(), patient());
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let dials: Vec<_> = (0..200).map(|_| dialer.dial(&addr)).collect();
        let mut connections = Vec::new();
        for dialled in join_all(dials.into_iter().map(tokio::spawn)).await {
            connections.push(dialled.unwrap().unwrap().1);
        }
        join_all(connections.iter_mut().map(ask)).await;
        assert_eq!(dialer.stats().transport.handshakes_completed, 200);
        assert_eq!(dialer.stats().transport.handshakes_failed, 0);
    })
    .await;
}

#[tokio::test]
async fn everything_goes_on_while_nobody_polls_the_transport() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        // The dialer's transport is never polled, and the listener's once more.
        let dial = dialer.dial(&addr);
        let dial = tokio::spawn(dial);
        let upgrade = tokio::spawn(listener.knock().await.upgrade);
        let (_, mut dialled) = dial.await.unwrap().unwrap();
        let (_, accepted) = upgrade.await.unwrap().unwrap();
        let echo = tokio::spawn(support::node::echo(accepted));
        transfer_through_echo(&mut dialled, 100_000).await;
        dialled.close().await.unwrap();
        echo.await.unwrap();
    })
    .await;
}

#[test]
fn without_a_tokio_runtime_listening_and_dialling_fail() {
    let mut transport = Transport::new(Config::new(&Keypair::generate_ed25519()));
    let listening = transport.listen_on(ListenerId::next(), LOOPBACK_V4.parse().unwrap());
    assert!(
        matches!(
            listening,
            Err(TransportError::Other(Error::Listen(ListenError::NoRuntime)))
        ),
        "{listening:?}"
    );
    let dial = transport.dial(NOBODY.parse().unwrap(), REUSE_PORT).unwrap();
    let dialled = futures::executor::block_on(dial);
    assert!(
        matches!(dialled, Err(Error::Dial(DialError::NoRuntime))),
        "{dialled:?}"
    );
}

#[tokio::test]
async fn a_muxer_repeats_its_error() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        accepted.close_with(7, "enough");
        let end = ConnectionError::ClosedByPeer {
            code: 7,
            reason: "enough".into(),
        };
        for _ in 0..2 {
            let polled = poll_fn(|cx| dialled.poll_unpin(cx)).await;
            assert_eq!(polled.unwrap_err(), end);
            let inbound = poll_fn(|cx| dialled.poll_inbound_unpin(cx)).await;
            assert_eq!(inbound.unwrap_err(), end);
            let outbound = poll_fn(|cx| dialled.poll_outbound_unpin(cx)).await;
            assert_eq!(outbound.unwrap_err(), end);
            let closed = poll_fn(|cx| dialled.poll_close_unpin(cx)).await;
            assert_eq!(closed.unwrap_err(), end);
        }
    })
    .await;
}
