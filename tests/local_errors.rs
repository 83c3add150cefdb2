//! Dials that this host's operating system refuses: their errors, and that they fail at once.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{io::ErrorKind, time::Duration};

use futures::future::join_all;
use libp2p_quinn::{DialError, Error, HandshakeError};
use support::{
    cables::{Near, at_near},
    node::{NEW_PORT, Node, handshake_error},
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
