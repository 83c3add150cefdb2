//! Dials that this host's operating system refuses: their errors, and that they fail at once.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use futures::future::join_all;
use libp2p_quinn::{DialError, Error, HandshakeError};
use rustix::net::sockopt;
use support::{
    cables::{Near, at_near},
    icmp::send_too_big,
    node::{NEW_PORT, Node, REUSE_PORT, handshake_error, quic_addr, socket_addr, until},
    streams::transfer_through_echo,
};
use tokio::time::timeout;

/// Far below the handshake timeout, and enough for a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

fn or_skip(result: Result<(), String>) {
    support::required::or_skip("namespaces", result);
}

#[test]
fn a_dial_to_where_no_route_leads_says_so() {
    or_skip(at_near(async |near: Near| {
        near.run("ip route add unreachable 203.0.113.0/24");
        near.run("ip route add prohibit 198.51.100.0/24");
        for listens in [false, true] {
            let mut node = Node::new();
            if listens {
                node.listen_at("/ip4/10.1.0.1/udp/0/quic-v1").await;
            }
            for (addr, kind) in [
                (
                    "/ip4/192.0.2.1/udp/9/quic-v1",
                    ErrorKind::NetworkUnreachable,
                ),
                (
                    "/ip6/2001:db8::1/udp/9/quic-v1",
                    ErrorKind::NetworkUnreachable,
                ),
                ("/ip4/203.0.113.1/udp/9/quic-v1", ErrorKind::HostUnreachable),
                (
                    "/ip4/198.51.100.1/udp/9/quic-v1",
                    ErrorKind::PermissionDenied,
                ),
                // The link is not given.
                ("/ip6/fe80::1/udp/9/quic-v1", ErrorKind::InvalidInput),
            ] {
                let dial = node.dial(&addr.parse().unwrap());
                match timeout(AT_ONCE, dial).await.unwrap() {
                    Err(Error::Dial(DialError::NoRoute(error))) => {
                        assert_eq!(error.kind(), kind, "{addr}: {error}");
                    }
                    other => panic!("{addr}: {other:?}"),
                }
            }
            assert_eq!(node.stats().transport.datagrams_sent, 0);
        }
    }));
}

#[test]
fn a_dial_through_an_interface_that_is_too_narrow_names_its_size() {
    or_skip(at_near(async |near: Near| {
        near.run("ip link set b0 mtu 1200");
        let dial = Node::new().dial(&near.far[1]);
        match timeout(AT_ONCE, dial).await.unwrap() {
            Err(Error::Dial(DialError::InterfaceTooNarrow { max_payload })) => {
                assert_eq!(max_payload, 1172);
            }
            other => panic!("{other:?}"),
        }
    }));
}

/// Anyone who knows the port of a listener can report that a path is narrow. The kernel keeps that
/// for ten minutes.
#[test]
fn no_forged_icmp_message_makes_an_interface_narrow() {
    or_skip(at_near(async |near: Near| {
        for (listener, far, forged, mtu) in [
            ("/ip4/10.1.0.1/udp/0/quic-v1", &near.far[0], 1300, 1472),
            // Less than QUIC needs.
            ("/ip4/10.1.0.1/udp/0/quic-v1", &near.far[0], 600, 1472),
            ("/ip6/fd00:1::1/udp/0/quic-v1", &near.far_v6, 1280, 1452),
        ] {
            let mut node = Node::new();
            let listening = socket_addr(&node.listen_at(listener).await.1);
            let target = socket_addr(far);
            near.spawn_at_far(async move || send_too_big(forged, listening, target))
                .join()
                .unwrap()
                .unwrap();
            until(|| path_mtu(target) == u32::from(forged)).await;
            for opts in [NEW_PORT, REUSE_PORT] {
                let dial = node.try_dial(far, opts).unwrap();
                let (_, mut connection) = dial.await.unwrap();
                transfer_through_echo(&mut connection, MIB).await;
                assert_eq!(node.stats().connections[0].mtu_bytes, mtu, "{forged}");
                drop(connection);
                until(|| node.stats().connections.is_empty()).await;
            }
            // What comes in is no narrower.
            let handle = node.transport.handle();
            let _echo = node.spawn_echo();
            let (tell, told) = tokio::sync::oneshot::channel::<()>();
            let far = near.spawn_at_far(async move || {
                let dial = Node::new().dial(&quic_addr(listening));
                let (_, mut connection) = dial.await.unwrap();
                transfer_through_echo(&mut connection, MIB).await;
                let _ = told.await;
            });
            let mtu_bytes = || {
                handle
                    .stats()
                    .connections
                    .first()
                    .map(|seen| seen.mtu_bytes)
            };
            until(|| mtu_bytes() == Some(mtu) || far.is_finished()).await;
            assert_eq!(mtu_bytes(), Some(mtu), "{forged}");
            drop(tell);
            until(|| far.is_finished()).await;
            far.join().unwrap().unwrap();
        }
    }));
}

/// The MTU of the path to this address, as far as the kernel is told.
fn path_mtu(remote_addr: SocketAddr) -> u32 {
    let wildcard = if remote_addr.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(wildcard).unwrap();
    socket.connect(remote_addr).unwrap();
    if remote_addr.is_ipv4() {
        sockopt::ip_mtu(&socket).unwrap()
    } else {
        sockopt::ipv6_mtu(&socket).unwrap()
    }
}

const MIB: u64 = 1024 * 1024;

#[test]
fn a_dial_that_a_firewall_of_this_host_keeps_in_ends_with_its_second_packet() {
    or_skip(at_near(async |near: Near| {
        near.nft(
            "table ip f {
                chain o {
                    type filter hook output priority 0;
                    ip daddr 10.1.0.2 counter drop
                }
            }",
        );
        let mut node = Node::new();
        // The other dial is not affected.
        let (kept_in, let_out) = tokio::join!(
            timeout(3 * AT_ONCE, node.try_dial(&near.far[0], NEW_PORT).unwrap()),
            node.try_dial(&near.far[1], NEW_PORT).unwrap(),
        );
        let error = handshake_error(kept_in.unwrap());
        assert_eq!(error, HandshakeError::NotPermitted);
        assert!(let_out.is_ok());
        // The first packet that is refused does not end a dial, because later ones may be permitted
        // and answered.
        near.nft("flush ruleset");
        near.nft(
            "table ip f {
                chain o {
                    type filter hook output priority 0;
                    ip daddr 10.1.0.2 limit rate over 1/hour burst 1 packets counter accept
                    ip daddr 10.1.0.2 counter drop
                }
            }",
        );
        let dialled = node.try_dial(&near.far[0], NEW_PORT).unwrap().await;
        assert!(dialled.is_ok(), "{dialled:?}");
    }));
}

#[test]
fn a_dial_to_nobody_on_the_link_ends_when_the_kernel_has_looked_for_him() {
    or_skip(at_near(async |near: Near| {
        for listens in [false, true] {
            // The kernel takes three seconds, independent of the handshake timeout.
            let mut node = Node::with(|config| config.handshake_timeout(Duration::from_secs(40)));
            if listens {
                node.listen_at("/ip4/10.1.0.1/udp/0/quic-v1").await;
                node.listen_at("/ip6/fd00:1::1/udp/0/quic-v1").await;
            }
            let addrs = [
                "/ip4/10.1.0.99/udp/9/quic-v1",
                "/ip6/fd00:1::99/udp/9/quic-v1",
            ];
            let dials = addrs.map(|addr| node.dial(&addr.parse().unwrap()));
            for failed in join_all(dials).await {
                assert_eq!(handshake_error(failed), HandshakeError::HostUnreachable);
            }
            // Others are not affected.
            assert!(node.dial(&near.far[0]).await.is_ok());
        }
    }));
}
