//! Paths that silently drop marked packets, or batches.

use std::time::Duration;

use futures::future::{FutureExt, join};

use super::{
    link::{Ecn, Impairments},
    network::Network,
    node::{Outbox, Setup},
    peer::Peer,
    source_address::NEW,
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) const DROPS_MARKED: Impairments = Impairments {
    ecn: Ecn::Dropped,
    ..Impairments::NONE
};

#[test]
fn dial_through_a_router_that_drops_marked_packets_takes_a_second_and_the_next_one_no_longer() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.impair(DROPS_MARKED);
    let begun = network.elapsed();
    let (first, first_peer) = network.connect(0, 1);
    let took = network.elapsed() - begun;
    assert!(took < 2 * SECOND, "{took:?}");
    transfer(&mut network, &first, &first_peer);
    assert_eq!(network.nodes[0].stats().1.path_doubts, 1);
    // The doubt is now remembered for the host.
    let begun = network.elapsed();
    let (second, second_peer) = network.connect(0, 1);
    let took = network.elapsed() - begun;
    assert!(took < SECOND / 10, "{took:?}");
    transfer(&mut network, &second, &second_peer);
}

#[test]
fn router_that_begins_to_drop_marked_packets_holds_a_connection_up_for_a_moment() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    transfer(&mut network, &dialer, &listener);
    let undisturbed = transfer(&mut network, &dialer, &listener);
    network.impair(DROPS_MARKED);
    let took = transfer(&mut network, &dialer, &listener);
    let held_up = took.saturating_sub(undisturbed);
    assert!(held_up < 3 * SECOND / 10, "{held_up:?}");
    assert_eq!(dialer.loss(), None);
}

#[test]
fn outage_is_no_reason_to_doubt_for_long() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    transfer(&mut network, &dialer, &listener);
    // The packets are late, and not lost.
    network.impair(Impairments {
        delay: 2 * SECOND,
        ..Impairments::NONE
    });
    transfer(&mut network, &dialer, &listener);
    assert_eq!(network.nodes[0].stats().1.path_doubts, 0);
}

/// What was sent before on the other path is lost, whatever the new one carries.
#[test]
fn outage_that_ends_on_another_path_is_no_reason_to_doubt() {
    for is_rebound in [false, true] {
        let mut network = Network::pair(1, Setup::default(), Setup::default());
        let own = network.nodes[0].addr().ip();
        network.readdress(0, &[own]);
        let (dialer, listener) = network.connect(0, 1);
        transfer(&mut network, &dialer, &listener);
        network.impair(Impairments::DEAD);
        for peer in [&dialer, &listener] {
            let stream = peer.open().now_or_never().unwrap().unwrap();
            assert_eq!(peer.write_now(stream, &[0; 100]), 100);
        }
        network.run_for(SECOND / 2);
        network.impair(Impairments::NONE);
        if is_rebound {
            network.rebind(0);
        } else {
            network.readdress(0, &[NEW.into()]);
        }
        network.run_for(5 * SECOND);
        assert_ne!(network.nodes[1].remote_addrs(), [(own, 4001).into()].into());
        let moved = usize::from(is_rebound);
        assert_eq!(network.nodes[moved].stats().1.path_doubts, 0);
    }
}

/// The host and its NAT are the same, and most likely the path. But a NAT that has given the host
/// another port drops what is sent to the one before.
#[test]
fn doubt_outlasts_a_change_of_only_the_port_up_to_an_acknowledgement() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    transfer(&mut network, &dialer, &listener);
    network.run_for(SECOND);
    network.impair(Impairments::DEAD);
    send_something(&listener);
    network.run_for(SECOND / 2);
    network.impair(Impairments::NONE);
    let [before, listens_at] = [0, 1].map(|node| network.nodes[node].addr());
    let other_port = network.move_socket(0);
    assert_ne!(other_port, before);
    send_something(&dialer);
    let now = network.now;
    network.nodes[0].turn(now);
    for datagram in network.nodes[0].take_outgoing() {
        network.nodes[1].receive_marked(now, datagram.from, &datagram.contents, datagram.ecn);
    }
    network.nodes[1].turn(now);
    assert_eq!(network.nodes[1].remote_addrs(), [other_port].into());
    let mut marks = Vec::new();
    for datagram in network.nodes[1].take_outgoing() {
        if datagram.to == other_port {
            marks.push(datagram.ecn);
            let contents = &datagram.contents;
            network.nodes[0].receive_marked(now, listens_at, contents, datagram.ecn);
        }
    }
    assert!(!marks.is_empty());
    assert!(marks.iter().all(Option::is_none), "{marks:?}");
    network.run_for(SECOND / 10);
    assert_eq!(network.nodes[1].stats().1.path_doubts, 0);
    send_something(&listener);
    let now = network.now;
    network.nodes[1].turn(now);
    let outbox = &network.nodes[1].outbox;
    let (batches, datagrams) = (outbox.batches, outbox.sent.len());
    assert!(batches < datagrams, "{batches} {datagrams}");
}

/// What was sent before, from or to the other port, is lost, whatever the path carries.
#[test]
fn outage_that_ends_with_another_port_is_no_reason_to_doubt() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    transfer(&mut network, &dialer, &listener);
    network.impair(Impairments::DEAD);
    for peer in [&dialer, &listener] {
        send_something(peer);
    }
    network.run_for(SECOND / 2);
    network.impair(Impairments::NONE);
    let other_port = network.move_socket(0);
    network.run_for(5 * SECOND);
    assert_eq!(network.nodes[1].remote_addrs(), [other_port].into());
    let doubts = [0, 1].map(|node| network.nodes[node].stats().1.path_doubts);
    assert_eq!(doubts, [0, 0]);
}

#[test]
fn upload_over_an_interface_that_loses_batches_goes_on_in_single_datagrams() {
    let mut network = Network::pair(
        1,
        Setup {
            outbox: Outbox {
                swallows_batches: true,
                ..Outbox::default()
            },
            ..Setup::default()
        },
        Setup::default(),
    );
    let (dialer, listener) = network.connect(0, 1);
    let took = transfer(&mut network, &dialer, &listener);
    assert!(took < SECOND, "{took:?}");
    // Batches are tried again now and then.
    let begun = network.elapsed();
    for _ in 0..100 {
        transfer(&mut network, &dialer, &listener);
    }
    let took = (network.elapsed() - begun) / 100;
    assert!(took < SECOND / 4, "{took:?} each");
    assert_eq!(dialer.loss(), None);
}

#[test]
fn without_segmentation_offload_each_datagram_is_sent_alone() {
    let batches_and_datagrams = |configure| {
        let setup = Setup {
            configure,
            ..Setup::default()
        };
        let mut network = Network::pair(1, setup, Setup::default());
        let (dialer, _listener) = network.connect(0, 1);
        network.run_for(SECOND);
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        dialer.write_now(stream, &[7; 10_000]);
        let now = network.now;
        network.nodes[0].turn(now);
        let outbox = &network.nodes[0].outbox;
        (outbox.batches, outbox.sent.len())
    };
    let (batches, datagrams) = batches_and_datagrams(|config| config.segmentation_offload(false));
    assert!(datagrams > 5, "{datagrams}");
    assert_eq!(batches, datagrams);
    let (batches, datagrams) = batches_and_datagrams(|config| config);
    assert!(batches < datagrams, "{batches} {datagrams}");
}

fn send_something(peer: &Peer) {
    let stream = peer.open().now_or_never().unwrap().unwrap();
    assert_eq!(peer.write_now(stream, &[0; 5000]), 5000);
}

/// Transfers data to the listener, and returns how long that took.
fn transfer(network: &mut Network, dialer: &Peer, listener: &Peer) -> Duration {
    static CONTENTS: [u8; 50_000] = [7; 50_000];
    let begun = network.elapsed();
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    let (dialer, listener) = (dialer.clone(), listener.clone());
    network.block_on(async move {
        let writes = async {
            dialer.write_all(stream, &CONTENTS).await.unwrap();
            dialer.finish(stream).unwrap();
        };
        let reads = async {
            let stream = listener.accept().await.unwrap();
            let read = listener.read_to_end(stream).await.unwrap();
            assert_eq!(read.len(), CONTENTS.len());
            listener.drop_stream(stream);
        };
        join(writes, reads).await;
    });
    network.elapsed() - begun
}
