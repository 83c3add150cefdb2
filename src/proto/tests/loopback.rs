//! What leaves through the loopback interface, to peers on the same host and to those behind a forwarder.

use std::time::Duration;

use super::{
    link::{Bottleneck, Impairments},
    network::Network,
    node::Setup,
    peer::Peer,
    transfer::exchange_between,
};

/// Of the loopback interface, as Linux has it.
const MAX_PAYLOAD: u16 = 65_507;

/// What a node accepts whose receive buffer holds 208 KiB.
const LARGEST: u16 = 6656;

/// Where a connection through the loopback interface begins.
const FIRST: u16 = 1452;

const NEAR: Impairments = Impairments {
    delay: Duration::from_micros(50),
    mtu: MAX_PAYLOAD as usize,
    ..Impairments::NONE
};

/// A forwarder on the same host, and 20 Mbit/s behind it.
const FORWARDER: Impairments = Impairments {
    delay: Duration::from_millis(50),
    mtu: MAX_PAYLOAD as usize,
    bottleneck: Some(Bottleneck {
        bytes_per_second: 2_500_000,
        queue_bytes: 250_000,
    }),
    ..Impairments::NONE
};

const MB: usize = 1_000_000;

/// And where nothing large would arrive.
#[test]
fn connection_that_does_little_sends_nothing_large() {
    for (impairments, mtu) in [(NEAR, LARGEST), (FORWARDER, FIRST)] {
        let (mut network, dialer, listener) = connected(Impairments {
            mtu: FIRST.into(),
            ..impairments
        });
        network.run_for(Duration::from_secs(30));
        exchange_between(&mut network, &dialer, &listener, 1, 1000);
        network.run_for(Duration::from_secs(30));
        assert_eq!(mtus(&dialer, &listener), [mtu; 2]);
        for (node, peer) in network.nodes.iter().zip([dialer, listener]) {
            let sent = node.books().1.bytes_sent;
            let stats = peer.stats();
            // A probe would have been sent three times.
            assert!(sent < 2 * u64::from(LARGEST), "{sent} bytes");
            assert_eq!((stats.bytes_sent, stats.lost_packets), (sent, 0));
        }
    }
}

#[test]
fn datagrams_to_the_same_host_are_large_after_two_round_trips() {
    let (mut network, dialer, listener) = connected(NEAR);
    assert_eq!(mtus(&dialer, &listener), [LARGEST; 2]);
    let before = network.datagrams_sent();
    exchange_between(&mut network, &dialer, &listener, 1, MB);
    let most = 2 * (2 * MB) as u64 / u64::from(LARGEST);
    let sent = network.datagrams_sent() - before;
    assert!(sent < most, "{sent} datagrams for {MB} bytes each way");
}

#[test]
fn forwarder_gets_what_a_network_gets() {
    let transfer = |max_payload, impairments| {
        let mut network = network(max_payload, impairments);
        let (dialer, listener) = network.connect(0, 1);
        let began = network.elapsed();
        exchange_between(&mut network, &dialer, &listener, 1, 10 * MB);
        let took = network.elapsed() - began;
        (took, mtus(&dialer, &listener))
    };
    let (took, mtus) = transfer(Some(MAX_PAYLOAD), FORWARDER);
    let (usual, _) = transfer(
        Some(1472),
        Impairments {
            mtu: 1472,
            ..FORWARDER
        },
    );
    assert_eq!(mtus, [FIRST; 2]);
    assert!(took < usual * 11 / 10, "{took:?} instead of {usual:?}");
}

#[test]
fn path_that_swallows_large_datagrams_is_used_with_small_ones() {
    const NARROW: Impairments = Impairments { mtu: 1460, ..NEAR };

    // From the beginning.
    let (mut network, dialer, listener) = connected(NARROW);
    let began = network.elapsed();
    exchange_between(&mut network, &dialer, &listener, 1, MB);
    let took = network.elapsed() - began;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(mtus(&dialer, &listener), [1200; 2]);

    // What it carries is tried out from then on.
    network.run_for(Duration::from_secs(300));
    assert_eq!(mtus(&dialer, &listener), [1200; 2]);
    network.impair(NEAR);
    network.run_for(Duration::from_secs(300));
    assert_eq!(mtus(&dialer, &listener), [LARGEST; 2]);

    // Again, while it is in use.
    network.impair(NARROW);
    exchange_between(&mut network, &dialer, &listener, 2, MB);
    assert_eq!(mtus(&dialer, &listener), [1200; 2]);
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

/// Because it was busy.
#[test]
fn peer_that_seemed_far_at_first_is_found_near() {
    let busy = Impairments {
        delay: Duration::from_millis(20),
        ..NEAR
    };
    let (mut network, dialer, listener) = connected(busy);
    exchange_between(&mut network, &dialer, &listener, 1, MB);
    assert_eq!(mtus(&dialer, &listener), [FIRST; 2]);
    network.impair(NEAR);
    network.run_for(Duration::from_secs(90));
    assert_eq!(mtus(&dialer, &listener), [LARGEST; 2]);
}

fn network(max_payload: Option<u16>, impairments: Impairments) -> Network {
    let setup = Setup {
        max_payload,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    network.impair(impairments);
    network
}

/// A few round trips after the handshake.
fn connected(impairments: Impairments) -> (Network, Peer, Peer) {
    let mut network = network(Some(MAX_PAYLOAD), impairments);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(3 * 2 * impairments.delay);
    (network, dialer, listener)
}

fn mtus(dialer: &Peer, listener: &Peer) -> [u16; 2] {
    [dialer, listener].map(|peer| peer.stats().mtu_bytes)
}
