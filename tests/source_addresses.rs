//! Hosts whose addresses and routes change under connections.
//!
//! If a socket has no address of its own, the kernel chooses one for each datagram. A connection
//! keeps its source address as long as the host has it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use libp2p_quinn::{Connection, Stats};
use multiaddr::Multiaddr;
use support::{
    cables::{Near, at_near},
    capture::{Capture, apart},
    node::{Node, OfficialNode, socket_addr, until},
    streams::{ask, transfer_through_echo},
};
use tokio::time::sleep;

fn or_skip(result: Result<(), String>) {
    support::required::or_skip("namespaces", result);
}

/// The near host's path to the far one, by IPv4 or by IPv6.
struct Family {
    is_v4: bool,
    old: IpAddr,
    new: IpAddr,
}

impl Family {
    const BOTH: [bool; 2] = [true, false];

    fn of(is_v4: bool) -> Self {
        let [old, new] = if is_v4 {
            ["10.1.0.1", "10.1.0.7"]
        } else {
            ["fd00:1::1", "fd00:1::7"]
        };
        let [old, new] = [old, new].map(|ip| ip.parse().unwrap());
        Self { is_v4, old, new }
    }

    fn far<'a>(&self, near: &'a Near) -> &'a Multiaddr {
        if self.is_v4 {
            &near.far[0]
        } else {
            &near.far_v6
        }
    }

    fn wildcard(&self) -> Multiaddr {
        let ip = if self.is_v4 {
            "/ip4/0.0.0.0"
        } else {
            "/ip6/::"
        };
        format!("{ip}/udp/0/quic-v1").parse().unwrap()
    }

    /// Makes the kernel prefer another address. The old one remains; in IPv6 it is deprecated, like
    /// privacy addresses after a day (RFC 8981 §3.4).
    fn prefer_new(&self, near: &Near) {
        if self.is_v4 {
            near.run("ip address add 10.1.0.7/32 dev a0");
            near.run("ip route replace 10.1.0.0/24 dev a0 src 10.1.0.7");
        } else {
            near.run("ip address add fd00:1::7/64 dev a0 nodad");
            near.run("ip address change fd00:1::1/64 dev a0 preferred_lft 0");
        }
    }

    fn remove_old(&self, near: &Near) {
        if self.is_v4 {
            near.run("ip address del 10.1.0.1/24 dev a0");
            near.run("ip route replace 10.1.0.0/24 dev a0 src 10.1.0.7");
        } else {
            near.run("ip address del fd00:1::1/64 dev a0");
        }
    }
}

#[test]
fn what_was_dialled_keeps_its_source_and_moves_under_another_id_when_that_is_gone() {
    for is_v4 in Family::BOTH {
        for listens in [false, true] {
            or_skip(at_near(async move |near: Near| {
                let family = Family::of(is_v4);
                let capture = Capture::begin();
                let mut node = Node::new();
                if listens {
                    node.listen_at(&family.wildcard().to_string()).await;
                }
                let far = family.far(&near);
                let (_, mut connection) = node.dial(far).await.unwrap();
                ask(&mut connection).await;
                assert_eq!(seen_from(&near), [family.old].into());
                assert_eq!(sends_from(&node.stats()), [family.old].into());

                family.prefer_new(&near);
                transfer_through_echo(&mut connection, 200_000).await;
                assert_eq!(seen_from(&near), [family.old].into());
                assert_eq!(node.stats().transport.source_changes, 0);

                family.remove_old(&near);
                transfer_through_echo(&mut connection, 200_000).await;
                assert_eq!(seen_from(&near), [family.new].into());
                assert_eq!(sends_from(&node.stats()), [family.new].into());
                assert_eq!(node.stats().transport.source_changes, 1);
                assert_eq!(node.stats().transport.handshakes_completed, 1);
                let ids = capture.ids_to(socket_addr(far).ip());
                assert_eq!(apart(&ids), [family.old, family.new].into());
            }));
        }
    }
}

/// The official listeners drop packets from other addresses for ever.
#[test]
fn connection_to_an_official_listener_keeps_its_source() {
    or_skip(at_near(async |near: Near| {
        let family = Family::of(true);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (over, is_over) = tokio::sync::oneshot::channel::<()>();
        let official = near.spawn_at_far(async move || {
            let mut node = OfficialNode::new();
            let _ = tell.send(node.listen_at("/ip4/10.1.0.2/udp/0/quic-v1").await.1);
            let _echo = node.spawn_echo();
            let _ = is_over.await;
        });
        let far = told.recv().unwrap();
        let mut node = Node::new();
        let (_, mut connection) = node.dial(&far).await.unwrap();
        family.prefer_new(&near);
        transfer_through_echo(&mut connection, 200_000).await;
        assert_eq!(sends_from(&node.stats()), [family.old].into());
        assert_eq!(node.stats().transport.source_changes_refused, 0);

        // It survives if its address comes back before its idle timeout.
        family.remove_old(&near);
        let back = async {
            until(|| node.stats().transport.source_changes_refused > 0).await;
            near.run("ip address add 10.1.0.1/24 dev a0");
        };
        tokio::join!(ask(&mut connection), back);
        let stats = node.stats();
        assert_eq!(sends_from(&stats), [family.old].into());
        assert_eq!(stats.transport.source_changes, 0);
        assert_eq!(stats.transport.source_changes_refused, 1);
        drop(over);
        until(|| official.is_finished()).await;
        official.join().unwrap().unwrap();
    }));
}

#[test]
fn what_came_in_keeps_the_address_that_it_came_in_at() {
    for is_v4 in Family::BOTH {
        or_skip(at_near(async move |near: Near| {
            let family = Family::of(is_v4);
            let capture = Capture::begin();
            let mut node = Node::new();
            let addr = node.listen_at(&family.wildcard().to_string()).await.1;
            let handle = node.transport.handle();
            let addr = addr.replace(0, |_| Some(family.old.into())).unwrap();
            let _echo = node.spawn_echo();
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            let (go_on, mut goes_on) = tokio::sync::mpsc::channel::<()>(1);
            let far = near.spawn_at_far(async move || {
                let mut dialer = Node::new();
                let (_, mut connection): (_, Connection) = dialer.dial(&addr).await.unwrap();
                loop {
                    transfer_through_echo(&mut connection, 100_000).await;
                    let _ = tell.send(());
                    if goes_on.recv().await.is_none() {
                        break;
                    }
                }
                assert_eq!(dialer.stats().transport.handshakes_completed, 1);
            });
            let transferred = async || until(|| told.try_recv().is_ok()).await;
            transferred().await;
            family.prefer_new(&near);
            go_on.send(()).await.unwrap();
            transferred().await;
            assert_eq!(sends_from(&handle.stats()), [family.old].into());
            assert_eq!(handle.stats().transport.source_changes, 0);
            // Its client knows the far host by no other address.
            let far_ip = socket_addr(family.far(&near)).ip();
            assert_eq!(apart(&capture.ids_to(far_ip)), [family.old].into());
            drop(go_on);
            until(|| far.is_finished()).await;
            far.join().unwrap().unwrap();
        }));
    }
}

/// As when the lease of an address expires, and is renewed.
#[test]
fn address_that_is_gone_for_a_while_ends_nothing() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let (_, mut connection) = node.dial(&near.far[0]).await.unwrap();
        ask(&mut connection).await;
        near.run("ip address del 10.1.0.1/24 dev a0");
        let asked = async {
            ask(&mut connection).await;
        };
        let back = async {
            sleep(Duration::from_secs(3)).await;
            near.run("ip address add 10.1.0.1/24 dev a0");
        };
        tokio::join!(asked, back);
        let transport = node.stats().transport;
        assert_eq!(transport.source_changes, 0);
        // There is no other address to move to.
        assert_eq!(transport.source_changes_refused, 0);
        assert_eq!(transport.handshakes_completed, 1);
    }));
}

/// As with a VPN, which appears at once, and drops packets without its own source address.
#[test]
fn new_route_that_takes_only_its_own_source_is_followed() {
    or_skip(at_near(async |near: Near| {
        let capture = Capture::begin();
        near.nft_at_far(
            "table ip f {
                chain i {
                    type filter hook input priority 0;
                    iifname b0 ip saddr 10.1.0.1 drop
                }
            }",
        );
        let mut node = Node::new();
        let (_, mut connection) = node.dial(&near.far[0]).await.unwrap();
        ask(&mut connection).await;
        near.run("ip route add 10.1.0.2/32 dev b0 src 10.2.0.1");
        transfer_through_echo(&mut connection, 200_000).await;
        let new: IpAddr = "10.2.0.1".parse().unwrap();
        assert_eq!(seen_from(&near), [new].into());
        assert_eq!(node.stats().transport.source_changes, 1);
        let ids = capture.ids_to(socket_addr(&near.far[0]).ip());
        assert_eq!(apart(&ids), ["10.1.0.1".parse().unwrap(), new].into());
    }));
}

/// The near node's addresses as the far node sees them.
fn seen_from(near: &Near) -> BTreeSet<IpAddr> {
    let stats = near.far_handle.stats();
    let connections = stats.connections.iter();
    connections
        .map(|connection| connection.remote_addr.ip())
        .collect()
}

fn sends_from(stats: &Stats) -> BTreeSet<IpAddr> {
    let connections = stats.connections.iter();
    connections
        .map(|connection| connection.local_addr.ip())
        .collect()
}
