//! Paths that treat datagrams badly in ways that a peer can notice, and the peer's reaction.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use futures::FutureExt;
use quinn_proto::EcnCodepoint;

use super::{
    link::{Ecn, Impairments},
    network::{Fault, Network},
    node::Setup,
    peer::Peer,
    seeds,
    spoofer::Spoofer,
    transfer::exchange_between,
};

#[test]
fn marks_are_sent_for_as_long_as_the_path_keeps_them() {
    let (mut network, dialer, listener) = connected(Impairments::NONE);
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    assert_eq!(marks(&mut network, &dialer), [Some(EcnCodepoint::Ect0)]);
}

#[test]
fn marks_are_not_sent_where_they_are_bleached_or_made_up() {
    for ecn in [Ecn::Bleached, Ecn::ForgedEct1] {
        let (mut network, dialer, listener) = connected(Impairments {
            ecn,
            ..Impairments::NONE
        });
        exchange_between(&mut network, &dialer, &listener, 1, 50_000);
        assert_eq!(marks(&mut network, &dialer), [None], "{ecn:?}");
    }
}

#[test]
fn marks_that_begin_to_be_bleached_are_not_sent_any_more() {
    let (mut network, dialer, listener) = connected(Impairments::NONE);
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    network.impair(Impairments {
        ecn: Ecn::Bleached,
        ..Impairments::NONE
    });
    exchange_between(&mut network, &dialer, &listener, 2, 50_000);
    assert_eq!(marks(&mut network, &dialer), [None]);
}

/// Forged marks look like congestion. They slow a peer down, and have no other effect.
#[test]
fn forged_congestion_slows_a_transfer_down_and_it_is_exact() {
    let times = [Ecn::Kept, Ecn::ForgedCe].map(|ecn| {
        let (mut network, dialer, listener) = connected(Impairments {
            ecn,
            ..Impairments::NONE
        });
        let began = network.elapsed();
        exchange_between(&mut network, &dialer, &listener, 1, 500_000);
        let stats = dialer.stats();
        assert_eq!(stats.packets.congestion_events > 0, ecn == Ecn::ForgedCe);
        assert_eq!(stats.packets.lost_packets, 0);
        network.elapsed() - began
    });
    assert!(times[1] > times[0], "{times:?}");
}

#[test]
fn path_that_becomes_narrow_is_used_as_it_is_and_grows_again() {
    const NARROW: Impairments = Impairments {
        mtu: 1200,
        ..Impairments::NONE
    };

    let (mut network, dialer, listener) = connected(Impairments::NONE);
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    network.run_for(Duration::from_secs(2));
    let mtus = || [&dialer, &listener].map(|peer| peer.stats().mtu_bytes);
    let wide = mtus();
    assert!(wide.iter().all(|&mtu| mtu > 1300), "{wide:?}");

    network.impair(NARROW);
    exchange_between(&mut network, &dialer, &listener, 2, 200_000);
    assert_eq!(mtus(), [1200, 1200]);

    // Some minutes later it is probed again.
    network.impair(Impairments::NONE);
    network.run_for(Duration::from_secs(1200));
    exchange_between(&mut network, &dialer, &listener, 3, 50_000);
    network.run_for(Duration::from_secs(2));
    assert_eq!(mtus(), wide);
}

/// The old path is kept until the new one is validated, which does not happen here. However, an
/// attacker who is always first and continues can slow a transfer down as if it were on the path
/// (RFC 9000 §9.3.3).
#[test]
fn copies_from_a_forged_address_neither_move_nor_stop_a_transfer() {
    for seed in seeds().take(10) {
        let (mut network, dialer, listener) = connected(Impairments::NONE);
        let addr = SocketAddr::from(([198, 51, 100, 7], 7));
        network.spoofer = Some(Spoofer::new(0, addr, 2 + seed % 5, 100));
        exchange_between(&mut network, &dialer, &listener, seed, 100_000);
        let spoofer = network.spoofer.take().unwrap();
        assert!(spoofer.bytes_sent > 0 && spoofer.bytes_received > 0);
        // RFC 9000 §8.1, summed over all the times at which this seemed to be the peer's address.
        assert!(spoofer.bytes_received <= 3 * spoofer.bytes_sent);

        network.run_for(Duration::from_secs(10));
        let real = network.nodes[0].addr();
        assert_eq!(network.nodes[1].remote_addrs(), [real].into());
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
        exchange_between(&mut network, &dialer, &listener, seed + 1, 10_000);
    }
}

/// Applications are not told of addresses that were only the source of copies.
#[test]
fn nothing_is_reported_of_a_forged_address() {
    for seed in seeds().take(10) {
        let (mut network, dialer, listener) = connected(Impairments::NONE);
        let changes = address_changes(&mut network, &listener);
        // First all datagrams of the peer, including its answers to challenges; then a part of
        // them.
        for every in [1, 3] {
            network.spoofer = Some(Spoofer::new(0, FORGED.into(), every, 100));
            exchange_between(&mut network, &dialer, &listener, seed, 100_000);
            network.run_for(Duration::from_secs(20));
            assert!(network.spoofer.take().unwrap().bytes_received > 0);
        }
        assert_eq!(*changes.borrow(), [], "seed {seed}");
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
    }
}

/// While an attacker sends copies from elsewhere, a NAT assigns another address to the peer. (An
/// attacker on the path who is always first, and copies one of each pair of probes, can keep a
/// connection from finding the new address for any length of time.)
#[test]
fn peer_that_really_moves_is_followed_beside_forged_copies() {
    for seed in seeds().take(10) {
        let (mut network, dialer, listener) = connected(Impairments::NONE);
        let changes = address_changes(&mut network, &listener);
        network.spoofer = Some(Spoofer::new(0, FORGED.into(), 5 + seed % 5, 100));
        network.schedule(Duration::from_millis(30), Fault::Rebind(0));
        exchange_between(&mut network, &dialer, &listener, seed, 200_000);
        network.run_for(Duration::from_secs(20));
        assert!(network.spoofer.take().unwrap().bytes_received > 0);
        let moved = network.public_addr(0);
        assert_ne!(moved, network.nodes[0].addr());
        assert_eq!(network.nodes[1].remote_addrs(), [moved].into());
        assert_eq!(*changes.borrow(), [moved], "seed {seed}");
        exchange_between(&mut network, &dialer, &listener, seed + 1, 10_000);
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
    }
}

/// Anyone who has seen a packet can send garbage with its connection ID from any address.
#[test]
fn garbage_from_many_addresses_does_not_keep_a_new_address_from_being_validated() {
    let (mut network, dialer, listener) = connected(Impairments::NONE);
    let changes = address_changes(&mut network, &listener);
    let moved = network.rebind(0);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, &[0; 1000]), 1000);
    network.settle();
    let mut garbage = network.in_flight_to(network.nodes[1].addr()).swap_remove(0);
    garbage[20..].fill(0);
    // The listener has sent its challenge, and the answer has not come yet.
    network.run_for(Duration::from_millis(15));
    assert_eq!(network.nodes[1].remote_addrs(), [moved].into());
    for host in 1..=10 {
        let now = network.now;
        network.nodes[1].receive(now, ([198, 51, 100, host], 7).into(), &garbage);
    }
    network.run_for(Duration::from_secs(1));
    assert_eq!(*changes.borrow(), [moved]);
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

#[test]
fn where_migration_is_forbidden_copies_from_a_forged_address_get_no_answer_and_change_nothing() {
    for seed in seeds().take(10) {
        let forbidding = Setup {
            configure: |builder| builder.migration(false),
            ..Setup::default()
        };
        let (mut network, dialer, listener) =
            connected_with(Impairments::NONE, Setup::default(), forbidding);
        let changes = address_changes(&mut network, &listener);
        network.spoofer = Some(Spoofer::new(0, FORGED.into(), 1 + seed % 5, 100));
        let began = network.elapsed();
        exchange_between(&mut network, &dialer, &listener, seed, 100_000);
        let spoofer = network.spoofer.take().unwrap();
        assert!(spoofer.bytes_sent > 0);
        assert_eq!(spoofer.bytes_received, 0);
        let took = network.elapsed() - began;
        // As fast as without an attack.
        assert!(took < Duration::from_secs(1), "{took:?}");
        let real = network.nodes[0].addr();
        assert_eq!(network.nodes[1].remote_addrs(), [real].into());
        assert_eq!(*changes.borrow(), []);
    }
}

/// An attacker who forwards all datagrams in both directions is a path, and is used as one. When
/// this ends, the connection goes on over the other path (RFC 9000 §9.3.3).
#[test]
fn path_through_somebody_who_only_forwards_is_left_when_he_stops() {
    for seed in seeds().take(10) {
        let (mut network, dialer, listener) = connected(Impairments::NONE);
        let changes = address_changes(&mut network, &listener);
        network.spoofer = Some(Spoofer::new(0, FORGED.into(), 1, u64::MAX).forwarding());
        exchange_between(&mut network, &dialer, &listener, seed, 100_000);
        network.run_for(Duration::from_secs(20));
        assert_eq!(*changes.borrow(), [SocketAddr::from(FORGED)]);
        network.spoofer = None;
        exchange_between(&mut network, &dialer, &listener, seed + 1, 100_000);
        network.run_for(Duration::from_secs(20));
        let real = network.nodes[0].addr();
        assert_eq!(network.nodes[1].remote_addrs(), [real].into());
        assert_eq!(*changes.borrow(), [SocketAddr::from(FORGED), real]);
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
    }
}

pub(super) const FORGED: ([u8; 4], u16) = ([198, 51, 100, 7], 7);

/// The changes reported to the application from now on.
fn address_changes(network: &mut Network, peer: &Peer) -> Rc<RefCell<Vec<SocketAddr>>> {
    let changes: Rc<RefCell<Vec<_>>> = Rc::default();
    let (peer, heard) = (peer.clone(), Rc::clone(&changes));
    network.spawn(async move {
        while let Ok(addr) = peer.address_change().await {
            heard.borrow_mut().push(addr);
        }
    });
    changes
}

pub(super) fn connected(impairments: Impairments) -> (Network, Peer, Peer) {
    connected_with(impairments, Setup::default(), Setup::default())
}

fn connected_with(
    impairments: Impairments,
    dialer: Setup,
    listener: Setup,
) -> (Network, Peer, Peer) {
    let mut network = Network::pair(1, dialer, listener);
    network.impair(impairments);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    (network, dialer, listener)
}

/// The ECN marks of the dialer's datagrams, each once.
fn marks(network: &mut Network, dialer: &Peer) -> Vec<Option<EcnCodepoint>> {
    network.run_for(Duration::from_secs(1));
    let opened = dialer.clone();
    let stream = network.block_on(async move { opened.open().await.unwrap() });
    dialer.write_now(stream, &[0; 5000]);
    network.settle();
    let from = network.nodes[0].addr();
    let sent = network.intercept().into_iter();
    let mut marks: Vec<_> = sent
        .filter(|datagram| datagram.from == from)
        .map(|datagram| datagram.ecn)
        .collect();
    assert!(!marks.is_empty());
    marks.dedup();
    marks
}
