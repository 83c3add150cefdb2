//! Replayed packets, and key updates.

use std::time::Duration;

use super::{
    link::Impairments,
    network::Network,
    node::{Node, Setup},
    transfer::exchange_between,
};

#[test]
fn nothing_is_sent_before_the_handshake_is_over_however_well_peers_know_each_other() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    for seed in 0..4 {
        let (dialer, listener) = network.connect(0, 1);
        exchange_between(&mut network, &dialer, &listener, seed, 10_000);
        dialer.close(0);
        network.run_until_empty();
    }
    assert_eq!(network.zero_rtt_packets(), 0);
}

#[test]
fn replayed_connection_begins_nothing_but_a_handshake_that_fails() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    // Records the dialer's handshake and the packets that follow it at once.
    let dialer = network.dial(0, 1);
    let mut recorded = Vec::new();
    let [from, to] = [0, 1].map(|node| network.nodes[node].addr());
    for _ in 0..100 {
        network.settle();
        recorded.extend(network.in_flight_to(to));
        network.run_for(Duration::from_millis(10));
    }
    let listener = network.nodes[1].accepted.pop_front().unwrap();
    exchange_between(&mut network, &dialer, &listener, 1, 1000);
    dialer.close(0);
    network.run_until_empty();
    let before = network.nodes[1].stats().1;

    let now = network.now;
    for datagram in &recorded {
        network.nodes[1].receive(now, from, datagram);
    }
    network.settle();
    let replayed = network.nodes[1].accepted.pop_front().unwrap();
    let end = network.block_on(async move { replayed.established().await });
    assert!(end.is_err());
    network.run_until_empty();
    let after = network.nodes[1].stats().1;
    assert_eq!(after.handshakes_completed, before.handshakes_completed);
    network.nodes.iter().for_each(Node::assert_empty);
}

#[test]
fn keys_are_renewed_in_the_middle_of_transfers_over_a_bad_link() {
    let traces = [true, false].map(|renew| {
        let mut network = Network::pair(1, Setup::default(), Setup::default());
        let (dialer, listener) = network.connect(0, 1);
        network.run_for(Duration::from_secs(1));
        network.impair(Impairments {
            jitter: Duration::from_millis(10),
            loss: 0.05,
            duplication: 0.05,
            ..Impairments::NONE
        });
        for seed in 0..20 {
            let renewing = if seed % 2 == 0 { &dialer } else { &listener };
            if renew {
                renewing.with(|connection| connection.update_keys());
            }
            exchange_between(&mut network, &dialer, &listener, seed, 20_000);
        }
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
        network.trace()
    });
    // Other keys produce other bytes.
    assert_ne!(traces[0], traces[1]);
}
