//! Paths that treat datagrams badly in ways that a peer can notice: and what it does about it.

use std::{net::SocketAddr, time::Duration};

use quinn_proto::EcnCodepoint;

use super::{
    link::{Ecn, Impairments},
    network::Network,
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

/// Nobody can tell it from congestion; it makes a peer slow, and nothing else.
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
        assert_eq!(stats.congestion_events > 0, ecn == Ecn::ForgedCe);
        assert_eq!(stats.lost_packets, 0);
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

    // Some minutes later it is tried again.
    network.impair(Impairments::NONE);
    network.run_for(Duration::from_secs(1200));
    exchange_between(&mut network, &dialer, &listener, 3, 50_000);
    network.run_for(Duration::from_secs(2));
    assert_eq!(mtus(), wide);
}

/// The old path is kept until the new one is validated, which this one never is. For as long as somebody who is always
/// first goes on with it, though, he can slow a transfer down as if he were on the path (RFC 9000 §9.3.3).
#[test]
fn copies_from_a_forged_address_neither_move_nor_stop_a_transfer() {
    for seed in seeds().take(10) {
        let (mut network, dialer, listener) = connected(Impairments::NONE);
        let addr = SocketAddr::from(([198, 51, 100, 7], 7));
        network.spoofer = Some(Spoofer::new(0, addr, 2 + seed % 5, 100));
        exchange_between(&mut network, &dialer, &listener, seed, 100_000);
        let spoofer = network.spoofer.take().unwrap();
        assert!(spoofer.bytes_sent > 0 && spoofer.bytes_received > 0);
        // RFC 9000 §8.1, summed up over all the times at which it seemed to be the peer's address.
        assert!(spoofer.bytes_received <= 3 * spoofer.bytes_sent);

        network.run_for(Duration::from_secs(10));
        let real = network.nodes[0].addr();
        assert_eq!(network.nodes[1].remote_addrs(), [real].into());
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
        exchange_between(&mut network, &dialer, &listener, seed + 1, 10_000);
    }
}

fn connected(impairments: Impairments) -> (Network, Peer, Peer) {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.impair(impairments);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    (network, dialer, listener)
}

/// What the dialer's datagrams are marked with, each mark once.
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
