//! The transport over loopback sockets: addresses, listeners, dials and what goes wrong with them.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeSet,
    future::poll_fn,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use futures::future::join_all;
use libp2p_core::{
    Endpoint, Transport as _,
    muxing::StreamMuxerExt,
    transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{
    CertificateError, Config, ConnectionError, DialError, Error, HandshakeError, ListenError,
    Transport,
};
use multiaddr::{Multiaddr, Protocol};
use support::{
    node::{
        LOOPBACK_V4, LOOPBACK_V6, NEW_PORT, Node, REUSE_PORT, bounded, connect, connect_at,
        poll_now, port, quic_addr, socket_addr, until,
    },
    relay::Relay,
    streams::{accept, ask, open, transfer_through_echo},
};

/// An address that belongs to nobody (RFC 5737).
const NOBODY: &str = "/ip4/192.0.2.77/udp/4001/quic-v1";

/// Long enough for every handshake on loopback, short enough to wait for.
const SHORT: Duration = Duration::from_millis(500);

/// Longer than any test takes: whatever ends a handshake, it is not the timeout.
const NEVER: Duration = Duration::from_secs(3600);

/// A UDP socket that says nothing by itself.
fn silent(ip: &str) -> (UdpSocket, Multiaddr) {
    let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let addr = quic_addr(socket.local_addr().unwrap());
    (socket, addr)
}

/// An address at which nobody listens any more.
fn closed(ip: &str) -> Multiaddr {
    silent(ip).1
}

fn handshake_error<T: std::fmt::Debug>(result: Result<T, Error>) -> HandshakeError {
    match result {
        Err(Error::Handshake(error)) => error,
        other => panic!("{other:?} instead of a handshake error"),
    }
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
        // Whatever the first dial had begun would be over before this one is.
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
        until(|| dialer.stats().transport.sockets == 0).await;
        let registry = dialer.stats().registry;
        assert_eq!(registry.active_ids, 0);
        assert_eq!(registry.handshaking, 0);
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

/// The address that a dial to `remote` leaves from, when it is polled.
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
        while !matches!(
            dialer.event().await,
            TransportEvent::NewAddress { listen_addr, .. } if socket_addr(&listen_addr).ip().is_loopback()
        ) {}
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
        while !matches!(
            dialer.event().await,
            TransportEvent::NewAddress { listen_addr, .. } if socket_addr(&listen_addr).ip().is_loopback()
        ) {}
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

#[tokio::test]
async fn several_listeners_of_both_families_accept_each_at_its_own_address() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let mut ports = BTreeSet::new();
        for addr in [LOOPBACK_V4, LOOPBACK_V6, LOOPBACK_V4] {
            let (id, addr) = listener.listen_at(addr).await;
            assert!(ports.insert(port(&addr)) && port(&addr) != 0);
            let dial = tokio::spawn(dialer.dial(&addr));
            let knock = listener.knock().await;
            assert_eq!((knock.listener_id, &knock.local_addr), (id, &addr));
            let (accepted, dialled) = tokio::join!(knock.upgrade, dial);
            let (_, mut dialled) = dialled.unwrap().unwrap();
            let (_, accepted) = accepted.unwrap();
            let echo = tokio::spawn(support::node::echo(accepted));
            ask(&mut dialled).await;
            drop(dialled);
            echo.await.unwrap();
        }
        assert_eq!(listener.stats().listeners.len(), 3);
    })
    .await;
}

/// The addresses of this host, as the operating system lists them.
#[cfg(unix)]
fn interface_ips() -> BTreeSet<IpAddr> {
    nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter_map(|interface| {
            let addr = interface.address?;
            let v4 = addr.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
            v4.or_else(|| addr.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
        })
        .collect()
}

#[cfg(unix)]
#[tokio::test]
async fn a_wildcard_listener_announces_every_interface_of_its_family_with_the_real_port() {
    bounded(async {
        for wildcard in ["0.0.0.0", "::"] {
            let (mut dialer, mut listener) = (Node::new(), Node::new());
            let wildcard: IpAddr = wildcard.parse().unwrap();
            listener
                .transport
                .listen_on(ListenerId::next(), quic_addr((wildcard, 0).into()))
                .unwrap();
            let real = listener.stats().listeners[0].local_addr.port();
            let expected: BTreeSet<IpAddr> = interface_ips()
                .into_iter()
                .filter(|ip| ip.is_ipv4() == wildcard.is_ipv4())
                .collect();
            let mut announced = BTreeSet::new();
            while announced.len() < expected.len() {
                let TransportEvent::NewAddress { listen_addr, .. } = listener.event().await else {
                    panic!("not an address");
                };
                assert_eq!(port(&listen_addr), real);
                assert!(announced.insert(socket_addr(&listen_addr).ip()));
            }
            assert_eq!(announced, expected);
            assert!(listener.event_now().is_none());
            assert_eq!(
                listener.stats().listeners[0].addresses.len(),
                expected.len()
            );

            let loopback = expected.iter().find(|ip| ip.is_loopback()).unwrap();
            let addr = quic_addr((*loopback, real).into());
            tokio::spawn(dialer.dial(&addr));
            assert_eq!(listener.knock().await.local_addr, addr);
        }
    })
    .await;
}

#[tokio::test]
async fn removing_a_listener_reports_it_closed_once_and_leaves_its_connections_alone() {
    bounded(async {
        let mut dialer = Node::with(|config| config.handshake_timeout(SHORT));
        let mut listener = Node::new();
        let (id, addr) = listener.listen_at(LOOPBACK_V4).await;
        let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        // Waits for an answer that it will not get.
        let waiting = tokio::spawn(dialer.dial(&addr));
        until(|| listener.stats().registry.pending_incoming == 1).await;

        assert!(listener.transport.remove_listener(id));
        assert!(!listener.transport.remove_listener(id));
        match listener.event().await {
            TransportEvent::ListenerClosed {
                listener_id,
                reason: Ok(()),
            } => assert_eq!(listener_id, id),
            event => panic!("{event:?} instead of the end of the listener"),
        }
        assert!(listener.event_now().is_none());
        assert!(listener.stats().listeners.is_empty());
        assert_eq!(
            handshake_error(waiting.await.unwrap()),
            HandshakeError::Refused
        );
        assert_eq!(
            handshake_error(dialer.dial(&addr).await),
            HandshakeError::TimedOut
        );

        let echo = tokio::spawn(support::node::echo(accepted));
        ask(&mut dialled).await;
        dialled.close().await.unwrap();
        echo.await.unwrap();
        until(|| listener.stats().transport.sockets == 0).await;
        assert!(listener.event_now().is_none());
    })
    .await;
}

#[tokio::test]
async fn removing_a_listener_overrides_the_announcement_of_its_address() {
    let mut listener = Node::new();
    let id = ListenerId::next();
    let addr: Multiaddr = LOOPBACK_V4.parse().unwrap();
    listener.transport.listen_on(id, addr).unwrap();
    assert!(listener.transport.remove_listener(id));
    let event = listener.event_now();
    assert!(
        matches!(event, Some(TransportEvent::ListenerClosed { .. })),
        "{event:?}"
    );
    assert!(listener.event_now().is_none());
}

#[tokio::test]
async fn a_removed_listener_leaves_its_port_to_others() {
    bounded(async {
        let mut listener = Node::new();
        let (id, addr) = listener.listen_at(LOOPBACK_V4).await;
        listener.transport.remove_listener(id);
        until(|| listener.stats().transport.sockets == 0).await;
        let mut other = Node::new();
        until(|| {
            let id = ListenerId::next();
            other.transport.listen_on(id, addr.clone()).is_ok()
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn dialling_as_listener_is_refused_at_once() {
    let mut dialer = Node::new();
    for port_use in [PortUse::New, PortUse::Reuse] {
        let role = Endpoint::Listener;
        let dial = dialer.try_dial(&NOBODY.parse().unwrap(), DialOpts { role, port_use });
        assert!(
            matches!(
                dial,
                Err(TransportError::Other(Error::Dial(
                    DialError::ListenerRoleUnsupported
                )))
            ),
            "{dial:?}"
        );
    }
}

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
async fn an_occupied_port_is_an_error_at_once() {
    let mut node = Node::new();
    let (occupant, addr) = silent("127.0.0.1");
    match node.transport.listen_on(ListenerId::next(), addr) {
        Err(TransportError::Other(Error::Listen(ListenError::Bind { addr, source }))) => {
            assert_eq!(addr, occupant.local_addr().unwrap());
            assert_eq!(source.kind(), ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(node.stats().transport.sockets, 0);
    assert!(node.event_now().is_none());
}

/// Linux tells; elsewhere such a dial ends with its timeout.
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
async fn another_peer_than_the_expected_one_fails_the_handshake_on_both_sides() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let expected = PeerId::random();
        let dial = dialer.dial(&addr.with(Protocol::P2p(expected)));
        let upgrade = async { listener.knock().await.upgrade.await };
        let (dialled, accepted) = tokio::join!(dial, upgrade);
        match handshake_error(dialled) {
            HandshakeError::Certificate(CertificateError::PeerMismatch {
                expected: named,
                actual,
            }) => assert_eq!((*named, *actual), (expected, listener.peer_id)),
            error => panic!("{error:?}"),
        }
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
async fn an_incoming_connection_that_is_dropped_is_refused_without_tls_work() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let dial = dialer.dial(&addr);
        let refuse = async { drop(listener.knock().await) };
        let (dialled, ()) = tokio::join!(dial, refuse);
        assert_eq!(handshake_error(dialled), HandshakeError::Refused);
        until(|| listener.stats().transport.incoming_refused == 1).await;
        let stats = listener.stats();
        // A connection, which is what costs TLS work, would have been given an ID.
        assert_eq!(stats.registry.issued_ids, 0);
        assert_eq!(stats.registry.pending_incoming, 0);
        assert_eq!(stats.registry.initial_ids, 0);
        assert_eq!(stats.transport.handshakes_failed, 0);
        assert_eq!(stats.transport.incoming, 1);
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
            // RFC 8999 §5.1 and §6: the IDs swap places, then the versions that are spoken here.
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

/// The connection ID that a header goes on with, and what follows it.
fn connection_id(header: &[u8]) -> (&[u8], &[u8]) {
    let (&length, rest) = header.split_first().unwrap();
    rest.split_at(length.into())
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
        // A zero-length datagram, and a header that ends before its ID does.
        strange(&[]);
        strange(&[0xc3, 0, 0, 0, 1, 20, 7]);
        // A STUN binding request (RFC 8489 §5).
        strange(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6]);
        // A packet for a connection that never was.
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
        // Several, so that there is work for more than one shard.
        for _ in 0..4 {
            let (_, mut dialled) = dialer.dial(&quic_addr(relay.addr())).await.unwrap();
            transfer_through_echo(&mut dialled, 500_000).await;
            dialled.close().await.unwrap();
        }
        let stats = handle.stats();
        assert_eq!(stats.transport.handshakes_completed, 4);
        assert!(stats.registry.forwarded > 0);
        assert_eq!(stats.registry.foreign, 0);
        assert_eq!(stats.registry.address_fallbacks, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_dials_at_once_succeed() {
    bounded(async {
        // For slow machines: the question is whether any is lost, not how fast they are.
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
        // The dialer's transport is never polled, the listener's once more.
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
        // Two connections between the same two sockets, told apart by their IDs alone.
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
