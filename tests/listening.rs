//! Listening on loopback sockets and on all interfaces, and removing listeners.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeSet, future::poll_fn, io::ErrorKind, net::IpAddr, task::Poll, time::Duration,
};

use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportError, TransportEvent},
};
use libp2p_quinn::{Error, Handle, HandshakeError, ListenError};
use multiaddr::Multiaddr;
#[cfg(unix)]
use nix::net::if_::InterfaceFlags;
use support::{
    node::{
        LOOPBACK_V4, LOOPBACK_V6, Node, bounded, connect_at, handshake_error, poll_now, port,
        quic_addr, silent, socket_addr, until,
    },
    streams::ask,
};

/// Long enough for every handshake on loopback, short enough to wait for.
const SHORT: Duration = Duration::from_millis(500);

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

/// The addresses of this host that need no zone, as the operating system lists them.
#[cfg(unix)]
fn interface_ips() -> BTreeSet<IpAddr> {
    nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let addr = interface.address?;
            let v4 = addr.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
            v4.or_else(|| {
                let v6 = addr.as_sockaddr_in6()?.ip();
                (!v6.is_unicast_link_local()).then_some(IpAddr::V6(v6))
            })
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
        // Waits for an answer that never comes.
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

/// Handshakes at any stage: accepted ones go on, waiting ones are refused, and first packets that
/// come too late are ignored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_under_way_as_a_listener_goes_end_once_on_both_sides() {
    const DIALS: usize = 8;

    bounded(async {
        let rounds = [0, 3, 5, 6].map(|accepts| [0, 1, 4].map(|steps| (accepts, steps)));
        for (accepts, steps) in rounds.into_iter().flatten() {
            let mut dialer = Node::with(|config| config.handshake_timeout(SHORT));
            let mut listener = Node::new();
            let (id, addr) = listener.listen_at(LOOPBACK_V4).await;
            let handles = [dialer.transport.handle(), listener.transport.handle()];
            let dials: Vec<_> = (0..DIALS)
                .map(|_| tokio::spawn(dialer.dial(&addr)))
                .collect();
            let mut upgrades = Vec::new();
            for _ in 0..accepts {
                upgrades.push(tokio::spawn(listener.knock().await.upgrade));
            }
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            // Removes only the listener, or drops the whole transport.
            if accepts % 2 == 0 {
                assert!(listener.transport.remove_listener(id));
                let event = listener.event().await;
                assert!(
                    matches!(event, TransportEvent::ListenerClosed { .. }),
                    "{event:?}"
                );
                assert!(listener.event_now().is_none());
            } else {
                drop(listener);
            }

            let mut echoes = Vec::new();
            for upgrade in upgrades {
                let (peer_id, accepted) = upgrade.await.unwrap().unwrap();
                assert_eq!(peer_id, dialer.peer_id);
                echoes.push(tokio::spawn(support::node::echo(accepted)));
            }
            let mut dialled = Vec::new();
            for dial in dials {
                match dial.await.unwrap() {
                    Ok((_, muxer)) => dialled.push(muxer),
                    Err(Error::Handshake(error)) => assert!(
                        matches!(
                            error,
                            HandshakeError::Refused
                                | HandshakeError::TimedOut
                                // From ICMP, after the socket is closed.
                                | HandshakeError::Unreachable
                        ),
                        "{error:?}"
                    ),
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert_eq!((dialled.len(), echoes.len()), (accepts, accepts));
            for mut muxer in dialled {
                ask(&mut muxer).await;
            }
            for echo in echoes {
                echo.await.unwrap();
            }
            until(|| {
                handles
                    .iter()
                    .all(|handle| handle.stats().connections.is_empty())
            })
            .await;
            let [dials, incoming] = handles.map(|handle| handle.stats().transport);
            let ended = dials.handshakes_completed + dials.handshakes_failed;
            assert_eq!(dials.handshakes_completed, accepts as u64);
            assert_eq!((dials.dials, ended), (DIALS as u64, DIALS as u64));
            assert_eq!(incoming.handshakes_completed, accepts as u64);
            assert_eq!(incoming.handshakes_failed, 0);
            assert!(incoming.incoming_refused <= (DIALS - accepts) as u64);
        }
    })
    .await;
}

/// The application drops one connection at any point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_let_go_as_a_listener_goes_fail_once_on_both_sides() {
    bounded(async {
        for polls in 0..24 {
            let mut dialer = Node::with(|config| config.handshake_timeout(SHORT));
            let mut listener = Node::new();
            let (id, addr) = listener.listen_at(LOOPBACK_V4).await;
            let handles = [dialer.transport.handle(), listener.transport.handle()];
            let dial = tokio::spawn(dialer.dial(&addr));
            let mut upgrade = listener.knock().await.upgrade;
            let mut accepted = None;
            for _ in 0..polls {
                if let Poll::Ready(end) = poll_now(&mut upgrade) {
                    accepted = Some(end.unwrap());
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert!(listener.transport.remove_listener(id));
            let was_accepted = accepted.is_some();
            drop((upgrade, accepted));
            let dialled = dial.await.unwrap();
            // The dialer's handshake may be complete when the listener's is not.
            if let Ok((_, mut muxer)) = dialled {
                poll_fn(|cx| muxer.poll_unpin(cx)).await.unwrap_err();
            } else {
                assert!(!was_accepted, "{dialled:?}");
            }
            let ends = |handle: &Handle| {
                let transport = handle.stats().transport;
                transport.handshakes_completed
                    + transport.handshakes_failed
                    + transport.incoming_refused
            };
            until(|| {
                let is_over =
                    |handle: &Handle| handle.stats().connections.is_empty() && ends(handle) > 0;
                handles.iter().all(is_over)
            })
            .await;
            assert_eq!(handles.each_ref().map(ends), [1, 1], "{polls}");
        }
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
        // TLS work begins with a connection, which would have been issued an ID.
        assert_eq!(stats.registry.issued_ids, 0);
        assert_eq!(stats.registry.pending_incoming, 0);
        assert_eq!(stats.registry.initial_ids, 0);
        assert_eq!(stats.transport.handshakes_failed, 0);
        assert_eq!(stats.transport.incoming, 1);
    })
    .await;
}
