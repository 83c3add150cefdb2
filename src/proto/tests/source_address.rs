//! Hosts whose addresses change while connections go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::FutureExt;

use super::{
    network::Network,
    node::{Node, Setup},
    peer::Peer,
    transfer::exchange_between,
};
use crate::config::CongestionControl;

const SECOND: Duration = Duration::from_secs(1);

/// In another network than the nodes' initial addresses.
pub(super) const NEW: [u8; 4] = [192, 0, 2, 7];

#[test]
fn source_stays_while_the_host_has_it() {
    for node in [0, 1] {
        let (mut network, peers, old) = connected(node, Setup::default());
        network.readdress(node, &[NEW.into(), old]);
        assert_arrives(&mut network, 0, &peers);
        network.run_for(30 * SECOND);
        assert_eq!(remote_ip(&network, 1 - node), old);
        assert_eq!(source_changes(&network, node), 0);
        close(&mut network, &peers[0]);
    }
}

/// RFC 9000 §9.5: no connection ID is used from both addresses.
#[test]
fn source_that_is_gone_is_left_for_another_one() {
    let (mut network, peers, _) = connected(0, Setup::default());
    let mut seen = Seen::default();
    seen.look(&mut network, 0, &peers[0]);
    network.readdress(0, &[NEW.into()]);
    seen.look(&mut network, 0, &peers[0]);
    seen.assert_apart(2);
    // The intercepted datagrams are lost.
    assert_arrives(&mut network, 2, &peers);
    assert_eq!(remote_ip(&network, 1), IpAddr::from(NEW));
    assert_eq!(source_changes(&network, 0), 1);
    close(&mut network, &peers[0]);
}

/// RFC 9000 §9.4. BBR would keep the rate of the old path for two cycles, and its round trip for 10
/// seconds.
#[test]
fn what_was_measured_of_a_path_is_forgotten_with_its_address_and_not_with_its_port() {
    for congestion in [CongestionControl::Cubic, CongestionControl::Bbr] {
        for is_port in [true, false] {
            let setup = Setup {
                listening: false,
                configure: match congestion {
                    CongestionControl::Bbr => {
                        |builder| builder.congestion_control(CongestionControl::Bbr)
                    }
                    _ => |builder| builder,
                },
                ..Setup::default()
            };
            let mut network = Network::pair(1, setup, Setup::default());
            if !is_port {
                let ip = network.nodes[0].addr().ip();
                network.readdress(0, &[ip]);
            }
            let (dialer, listener) = network.connect(0, 1);
            network.run_for(SECOND);
            let peers = [dialer, listener];
            exchange_between(&mut network, &peers[0], &peers[1], 1, 500_000);
            let measured = || {
                let stats = peers[0].stats();
                (stats.congestion_window_bytes, stats.rtt)
            };
            let before = measured();
            if is_port {
                network.move_socket(0);
            } else {
                network.readdress(0, &[NEW.into()]);
            }
            write_something(&peers[0]);
            network.settle();
            let after = measured();
            if is_port {
                assert_eq!(after, before);
            } else {
                assert!(after.0 < before.0 / 2, "{after:?} {before:?}");
                assert!(after.1 > 10 * before.1, "{after:?} {before:?}");
            }
            assert_arrives(&mut network, 1, &peers);
            close(&mut network, &peers[0]);
        }
    }
}

/// Its peer would not recognize the new address, unless the host is behind a router.
#[test]
fn source_of_a_connection_that_came_in_is_left_under_another_id_too() {
    let (mut network, [_, listener], _) = connected(1, Setup::default());
    assert_leaves_its_source(&mut network, &listener);
}

#[track_caller]
fn assert_leaves_its_source(network: &mut Network, listener: &Peer) {
    let mut seen = Seen::default();
    seen.look(network, 1, listener);
    network.readdress(1, &[NEW.into()]);
    seen.look(network, 1, listener);
    seen.assert_apart(2);
    assert_eq!(source_changes(network, 1), 1);
}

#[test]
fn connection_that_may_not_move_lives_on_when_its_source_is_back() {
    let listener = Setup {
        configure: |builder| builder.migration(false),
        ..Setup::default()
    };
    let (mut network, peers, old) = connected(0, listener);
    network.readdress(0, &[NEW.into()]);
    write_something(&peers[0]);
    network.run_for(5 * SECOND);
    network.readdress(0, &[NEW.into(), old]);
    assert_arrives(&mut network, 1, &peers);
    assert_eq!(remote_ip(&network, 1), old);
    assert_eq!(source_changes(&network, 0), 0);
    close(&mut network, &peers[0]);
}

/// It keeps its address until there is a route again.
#[test]
fn source_that_comes_back_before_any_other_is_kept() {
    let (mut network, peers, old) = connected(0, Setup::default());
    network.readdress(0, &[]);
    write_something(&peers[0]);
    network.run_for(5 * SECOND);
    network.readdress(0, &[old]);
    assert_arrives(&mut network, 1, &peers);
    assert_eq!(source_changes(&network, 0), 0);
    close(&mut network, &peers[0]);
}

/// The address exists but leads nowhere: its interface has lost its link, or a tunnel takes packets
/// from it.
#[test]
fn silent_path_is_left_for_the_one_that_the_kernel_would_take() {
    let (mut network, peers, old) = connected(0, Setup::default());
    network.readdress(0, &[NEW.into()]);
    network.nodes[0].outbox.ips = Some(vec![NEW.into(), old]);
    write_something(&peers[0]);
    network.run_for(2 * SECOND);
    assert_eq!(source_changes(&network, 0), 0);
    network.run_for(2 * SECOND);
    assert_eq!(source_changes(&network, 0), 1);
    assert_eq!(remote_ip(&network, 1), IpAddr::from(NEW));
    assert_arrives(&mut network, 1, &peers);
    close(&mut network, &peers[0]);
}

/// The peer was elsewhere for a moment, or a copy of its packet was.
#[test]
fn source_that_is_gone_is_left_also_if_the_peer_has_moved_and_is_back() {
    let (mut network, [dialer, listener], old) = connected(1, Setup::default());
    let home = network.nodes[0].addr();
    for from in [SocketAddr::from(ELSEWHERE), home] {
        seem_to_be(&mut network, &dialer, from, old);
    }
    network.run_for(5 * SECOND);
    assert_leaves_its_source(&mut network, &listener);
}

/// Only a packet to the peer's earlier address, which leaves from the earlier source, is refused.
#[test]
fn source_is_kept_where_an_earlier_one_is_gone() {
    const OTHER: [u8; 4] = [192, 0, 2, 8];

    let (mut network, [dialer, _listener], old) = connected(1, Setup::default());
    network.readdress(1, &[old, NEW.into()]);
    network.nodes[1].outbox.ips = Some(vec![OTHER.into(), NEW.into()]);
    seem_to_be(&mut network, &dialer, ELSEWHERE.into(), NEW.into());
    assert_eq!(source_changes(&network, 1), 0);
}

/// Another address than that of the dialer.
const ELSEWHERE: ([u8; 4], u16) = ([198, 51, 100, 7], 7);

/// Makes the dialer send something that arrives from one address at another one. No answer arrives.
fn seem_to_be(network: &mut Network, dialer: &Peer, from: SocketAddr, to: IpAddr) {
    write_something(dialer);
    network.settle();
    let (now, home) = (network.now, network.nodes[0].addr());
    for datagram in network.intercept() {
        if datagram.from == home {
            network.nodes[1].receive_at(to, now, from, &datagram.contents);
        }
    }
    network.settle();
    network.intercept();
    assert_eq!(network.nodes[1].remote_addrs(), [from].into());
}

/// A connection between a host whose addresses may change and another host, and its initial
/// address.
pub(super) fn connected(node: usize, listener: Setup) -> (Network, [Peer; 2], IpAddr) {
    let mut network = Network::pair(1, Setup::default(), listener);
    let old = network.nodes[node].addr().ip();
    network.readdress(node, &[old]);
    let (dialer, listener) = network.connect(0, 1);
    // Until the handshake is confirmed, and IDs are issued.
    network.run_for(SECOND);
    (network, [dialer, listener], old)
}

/// An attacker on the path sends a copy of a packet first, from elsewhere and to another address of
/// the host. Packets from that address would never arrive.
#[test]
fn source_is_kept_where_only_a_copy_has_come_to_another_address() {
    let (mut network, peers, old) = connected(1, Setup::default());
    network.readdress(1, &[old, NEW.into()]);
    let dialer = network.nodes[0].addr();
    write_something(&peers[1]);
    network.settle();
    for datagram in network.intercept() {
        let now = network.now;
        network.nodes[0].receive(now, datagram.from, &datagram.contents);
    }
    // Until it acknowledges that, and sends nothing more.
    let answer = loop {
        network.run_for(Duration::from_millis(1));
        let mut sent = network.intercept().into_iter();
        if let Some(answer) = sent.find(|datagram| datagram.from == dialer) {
            break answer.contents;
        }
    };
    let (now, forged) = (network.now, SocketAddr::from(([198, 51, 100, 7], 7)));
    network.nodes[1].receive_at(NEW.into(), now, forged, &answer);
    network.nodes[1].receive_at(old, now, dialer, &answer);
    network.run_for(Duration::from_millis(1));
    assert_eq!(network.nodes[1].remote_addrs(), [forged].into());
    network.run_for(4 * SECOND);
    assert_eq!(network.nodes[1].remote_addrs(), [dialer].into());
    assert_eq!(remote_ip(&network, 0), old);
    let [dialer, listener] = &peers;
    let writer = listener.clone();
    let stream = writer.open().now_or_never().unwrap().unwrap();
    assert_eq!(writer.write_now(stream, &[1; 100]), 100);
    writer.finish(stream).unwrap();
    let reader = dialer.clone();
    network.block_on(async move {
        for expected in [[0; 100], [1; 100]] {
            let stream = reader.accept().await.unwrap();
            assert_eq!(reader.read_to_end(stream).await.unwrap(), expected);
        }
    });
    exchange_between(&mut network, dialer, listener, 1, 50_000);
    close(&mut network, dialer);
}

/// The connection IDs of datagrams, by their source address.
#[derive(Default)]
struct Seen(BTreeMap<IpAddr, BTreeSet<Vec<u8>>>);

impl Seen {
    /// Makes a node send something, and intercepts it.
    fn look(&mut self, network: &mut Network, node: usize, peer: &Peer) {
        write_something(peer);
        network.settle();
        let to = network.nodes[1 - node].addr();
        for datagram in network.intercept() {
            if datagram.to == to {
                let id = datagram.contents[1..9].to_vec();
                self.0.entry(datagram.from.ip()).or_default().insert(id);
            }
        }
    }

    fn assert_apart(&self, addresses: usize) {
        assert_eq!(self.0.len(), addresses, "{:?}", self.0);
        let ids: Vec<_> = self.0.values().flatten().collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}

pub(super) fn write_something(peer: &Peer) {
    let stream = peer.open().now_or_never().unwrap().unwrap();
    assert_eq!(peer.write_now(stream, &[0; 100]), 100);
    peer.finish(stream).unwrap();
}

/// Waits for data that was written `times` times, and for more in both directions.
fn assert_arrives(network: &mut Network, times: usize, [dialer, listener]: &[Peer; 2]) {
    let reader = listener.clone();
    network.block_on(async move {
        for _ in 0..times {
            let stream = reader.accept().await.unwrap();
            assert_eq!(reader.read_to_end(stream).await.unwrap(), [0; 100]);
        }
    });
    exchange_between(network, dialer, listener, 1, 50_000);
}

/// The address of a node's only peer.
fn remote_ip(network: &Network, node: usize) -> IpAddr {
    let addrs: Vec<_> = network.nodes[node].remote_addrs().into_iter().collect();
    assert_eq!(addrs.len(), 1);
    addrs[0].ip()
}

fn source_changes(network: &Network, node: usize) -> u64 {
    network.nodes[node].stats().1.source_changes
}

fn close(network: &mut Network, dialer: &Peer) {
    assert_eq!(dialer.loss(), None);
    dialer.close(0);
    network.run_until_empty();
    network.nodes.iter().for_each(Node::assert_empty);
}
