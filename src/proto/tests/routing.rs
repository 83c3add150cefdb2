//! Shards, sockets and addresses: a datagram reaches its connection wherever it arrives, and no
//! other connection.

use std::time::Duration;

use futures::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    link::Impairments,
    network::Network,
    node::{Node, Outgoing, Reader, Setup},
    peer::Peer,
    seeds,
    transfer::{exchange_over, payload},
};
use crate::{
    error::{ConnectionError, HandshakeError},
    stats::{RegistryStats, TransportStats},
};

#[test]
fn datagrams_that_all_come_in_at_the_wrong_shard_arrive_all_the_same() {
    for seed in seeds().take(10) {
        let setup = Setup {
            reader: Reader::NeverTheOwner,
            shards: 4,
            ..Setup::default()
        };
        let mut network = Network::pair(seed, setup.clone(), setup);
        for _ in 0..4 {
            exchange_over(&mut network, seed, 20_000);
        }
        for node in &network.nodes {
            let (registry, transport) = node.stats();
            assert_eq!(registry.forwarded, transport.datagrams_received);
            assert_eq!(registry.foreign, 0);
            assert!(registry.routed_long > 0 && registry.routed_short > 0);
        }
    }
}

#[test]
fn datagram_handed_to_a_wrong_shard_is_foreign_and_gets_no_answer() {
    let (mut network, dialer, listener) = four_shards();
    let before = network.nodes[1].stats().0;
    // An Initial, and packets of an established connection.
    network.dial(0, 1);
    send_something(&dialer);
    network.settle();
    let datagrams = network.intercept();
    assert!(datagrams.len() >= 2);

    let now = network.now;
    let node = &mut network.nodes[1];
    let mut handed = 0;
    for Outgoing { from, contents, .. } in &datagrams {
        let owner = node.owner(contents);
        for shard in (0..4).filter(|&shard| shard != owner) {
            node.receive_on(shard, now, *from, contents);
            handed += 1;
        }
    }
    node.turn(now);
    assert!(node.take_outgoing().is_empty());
    assert!(node.unanswered_incoming.is_empty() && node.accepted.is_empty());
    let (registry, _) = node.stats();
    assert_eq!(registry.foreign - before.foreign, handed);
    assert_eq!(registry.responses_sent, before.responses_sent);
    assert_eq!(registry.connections, before.connections);
    assert_eq!(listener.loss(), None);
}

#[test]
fn wrong_shard_cannot_reset_a_connection() {
    let (mut network, dialer, _) = four_shards();
    let now = network.now;
    for (seed, shard) in (0..4).flat_map(|shard| (0..20).map(move |seed| (seed, shard))) {
        // A short header, the ID in question, and random bytes behind it.
        let mut datagram = payload(seed, 200);
        datagram[0] = 0x40 | datagram[0] & 0x3f;
        let owner = network.nodes[0].owner(&datagram);
        if owner != shard {
            let from = network.nodes[1].addr();
            network.nodes[0].receive_on(shard, now, from, &datagram);
        }
    }
    assert!(network.nodes[0].take_outgoing().is_empty());
    network.run_for(Duration::from_secs(1));
    assert_eq!(dialer.loss(), None);
    // The owner does answer.
    let mut datagram = payload(0, 200);
    datagram[0] = 0x40 | datagram[0] & 0x3f;
    let (now, from) = (network.now, network.nodes[1].addr());
    let owner = network.nodes[0].owner(&datagram);
    network.nodes[0].receive_on(owner, now, from, &datagram);
    assert_eq!(network.nodes[0].take_outgoing().len(), 1);
}

#[test]
fn socket_that_only_dials_answers_no_stranger() {
    let mut network = Network::pair(
        1,
        Setup::default(),
        Setup {
            listening: false,
            ..Setup::default()
        },
    );
    let stranger = network.dial(0, 1);
    let addr = network.nodes[0].addr();
    let now = network.now;
    // A packet of an unknown connection, one of an unknown version, and noise.
    let mut unknown_version = vec![0xc0, 0xff, 0, 0, 9, 8];
    unknown_version.resize(1200, 1);
    let mut established = payload(1, 1200);
    established[0] = 0x40;
    for datagram in [unknown_version, established, payload(2, 1200)] {
        network.nodes[1].receive(now, addr, &datagram);
    }
    let end = network.block_on(async move { stranger.established().await });
    assert_eq!(end, Err(HandshakeError::TimedOut));

    let (registry, transport) = network.nodes[1].stats();
    assert_eq!(transport.datagrams_sent, 0);
    assert_eq!(registry.responses_sent, 0);
    assert_eq!(registry.pending_incoming, 0);
    assert!(registry.unknown >= 3);
    network.nodes[1].assert_empty();
}

#[test]
fn noise_of_any_kind_is_survived_and_starts_nothing() {
    let dropped = |stats: &RegistryStats| stats.non_quic + stats.malformed + stats.unknown;
    let mut reported = 0;
    for seed in seeds() {
        let (mut network, dialer, listener) = four_shards();
        let mut random = StdRng::seed_from_u64(seed);
        let now = network.now;
        let addr = network.nodes[0].addr();
        let before = network.nodes[1].stats();
        for number in 0..NOISE {
            let is_initial = number % 2 == 0;
            let least = if is_initial { LEAST_INITIAL } else { 0 };
            let len = random.random_range(least..1400);
            let mut datagram = payload(seed << 16 | number, len);
            if is_initial {
                initial_header(&mut datagram);
            }
            network.nodes[1].receive(now, addr, &datagram);
        }
        network.nodes[1].turn(now);
        let after = network.nodes[1].stats();
        // Until an incoming connection is accepted, its first packet is not decrypted.
        let begun = after.1.incoming - before.1.incoming;
        let dropped = dropped(&after.0) - dropped(&before.0);
        assert_eq!(dropped + begun, NOISE, "seed {seed}: {after:?}");
        reported += begun;
        network.run_for(Duration::from_secs(6));
        let (registry, transport) = network.nodes[1].stats();
        let ends = (transport.handshakes_completed, transport.handshakes_failed);
        assert_eq!(ends, (1, begun), "seed {seed}");
        assert_eq!(
            (dialer.loss(), listener.loss()),
            (None, None),
            "seed {seed}"
        );
        assert_eq!(registry.connections, 1, "seed {seed}");
    }
    assert!(reported > 0);
}

/// The number of datagrams of noise.
const NOISE: u64 = 50;

/// The least length of a datagram with a client's Initial packet (RFC 9000 §14.1).
const LEAST_INITIAL: usize = 1200;

/// Makes a datagram begin like an Initial packet of version 1 without a token (RFC 9000 §17.2.2).
fn initial_header(datagram: &mut [u8]) {
    let len = datagram.len();
    datagram[0] = 0xc0 | datagram[0] & 0x0f;
    datagram[1..6].copy_from_slice(&[0, 0, 0, 1, 8]);
    datagram[14] = 8;
    datagram[23] = 0;
    let rest = (len - 26) as u16 | 0x4000;
    datagram[24..26].copy_from_slice(&rest.to_be_bytes());
}

#[test]
fn listener_follows_a_peer_whose_address_changes() {
    for shards in [1, 4] {
        let setup = Setup {
            shards,
            ..Setup::default()
        };
        let mut network = Network::pair(1, setup.clone(), setup);
        let (dialer, listener) = network.connect(0, 1);
        network.run_for(Duration::from_secs(1));
        for _ in 0..3 {
            let retired = |network: &Network| network.nodes[0].stats().0.retired_ids;
            let before = (network.nodes[1].stats().0.retired_ids, retired(&network));
            let addr = network.rebind(0);
            send_something(&dialer);
            let seen = network.block_on({
                let listener = listener.clone();
                async move { listener.address_change().await }
            });
            assert_eq!(seen, Ok(addr));
            assert_eq!(network.nodes[1].remote_addrs(), [addr].into());
            network.run_for(Duration::from_secs(30));
            assert_eq!((dialer.loss(), listener.loss()), (None, None));
            let after = network.nodes[1].stats().0;
            assert_eq!(after.connections, 1);
            // The peer uses another ID, so that its move cannot be traced (RFC 9000 §9.5).
            assert!(after.retired_ids >= before.0);
            assert!(
                retired(&network) > before.1,
                "the listener retires the dialer's IDs as it moves"
            );
            for node in 0..2 {
                assert_ids_balance(&mut network, node);
            }
        }
        // Both still receive each other's packets.
        send_something(&listener);
        let accepted = network.block_on(async move { dialer.accept().await });
        assert!(accepted.is_ok());
    }
}

#[test]
fn address_that_was_only_spoofed_is_left_again() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    // An attacker on the path sends a datagram from an address that does not answer.
    send_something(&dialer);
    network.settle();
    let spoofed = ([198, 51, 100, 7], 7).into();
    let now = network.now;
    for datagram in network.intercept() {
        network.nodes[1].receive(now, spoofed, &datagram.contents);
    }
    network.settle();
    assert_eq!(network.nodes[1].remote_addrs(), [spoofed].into());

    network.run_for(Duration::from_secs(10));
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    assert_eq!(
        network.nodes[1].remote_addrs(),
        [network.nodes[0].addr()].into()
    );
}

#[test]
fn migration_can_be_forbidden() {
    let setup = Setup {
        configure: |builder| builder.migration(false),
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), setup);
    let (dialer, listener) = network.connect(0, 1);
    network.rebind(0);
    let end = network.block_on(async move { listener.address_change().await });
    assert_eq!(end, Err(ConnectionError::TimedOut));
    drop(dialer);
    network.run_until_empty();
    network.nodes.iter().for_each(Node::assert_empty);
}

#[test]
fn what_comes_from_no_host_is_not_answered() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let now = network.now;
    let mut unknown_version = vec![0xc0, 0xff, 0, 0, 9, 8];
    unknown_version.resize(1200, 1);
    // Sending to port 0 is an error, after which quinn-udp would disable segmentation offload.
    for from in [
        "192.0.2.9:0",
        "0.0.0.0:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
    ] {
        network.nodes[1].receive(now, from.parse().unwrap(), &unknown_version);
    }
    network.settle();
    assert!(network.intercept().is_empty());
    let registry = network.nodes[1].stats().0;
    assert_eq!((registry.martian, registry.responses_sent), (4, 0));
    let from = "192.0.2.9:9".parse().unwrap();
    network.nodes[1].receive(now, from, &unknown_version);
    network.settle();
    assert_eq!(network.nodes[1].stats().0.responses_sent, 1);
}

/// An answer would have to leave from that address, which the kernel refuses; quinn-udp would then
/// disable features of the socket.
#[test]
fn what_was_sent_to_many_is_not_answered() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let now = network.now;
    let from = network.nodes[0].addr();
    network.dial(0, 1);
    network.settle();
    let first = network.intercept().swap_remove(0).contents;
    for group in ["255.255.255.255", "224.0.0.1", "ff02::1"] {
        network.nodes[1].receive_at(group.parse().unwrap(), now, from, &first);
    }
    network.nodes[1].turn(now);
    assert!(network.nodes[1].take_outgoing().is_empty());
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!((registry.martian, transport.incoming), (3, 0));
    network.nodes[1].receive_at("192.0.2.2".parse().unwrap(), now, from, &first);
    network.nodes[1].turn(now);
    assert_eq!(network.nodes[1].stats().1.incoming, 1);
}

#[test]
fn connections_between_the_same_addresses_are_told_apart() {
    const CONNECTIONS: usize = 20;

    let setup = Setup {
        shards: 4,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| network.connect(0, 1)).collect();
    let registry = network.nodes[1].stats().0;
    assert_eq!(registry.connections, CONNECTIONS);
    assert_eq!((registry.remote_addresses, registry.peers), (1, 1));

    let (closed, open) = pairs.split_at(CONNECTIONS / 2);
    for (dialer, _) in closed {
        dialer.close(0);
    }
    network.run_for(Duration::from_secs(2));
    for (number, (dialer, listener)) in (0..).zip(open.iter().cloned()) {
        let received = network.block_on(async move {
            let stream = dialer.open().await.unwrap();
            dialer.write_all(stream, &[number]).await.unwrap();
            dialer.finish(stream).unwrap();
            let accepted = listener.accept().await.unwrap();
            listener.read_to_end(accepted).await
        });
        assert_eq!(received, Ok(vec![number]));
    }
    let registry = network.nodes[1].stats().0;
    assert_eq!(registry.connections, CONNECTIONS / 2);
    assert_eq!((registry.remote_addresses, registry.peers), (1, 1));
}

#[test]
fn reset_registry_forgets_sums_and_keeps_what_is_now() {
    let (mut network, dialer, _) = four_shards();
    let before = network.nodes[0].stats().0;
    network.nodes[0].reset_stats();
    let (after, transport) = network.nodes[0].stats();
    assert_eq!(transport, TransportStats::default());
    let now = RegistryStats {
        active_ids: before.active_ids,
        connections: 1,
        peers: 1,
        remote_addresses: 1,
        ..RegistryStats::default()
    };
    assert_eq!(after, now);
    dialer.close(0);
    network.run_until_empty();
    network.nodes[0].assert_empty();
}

/// A reset has no ID that identifies its connection, so it reaches a random shard; the next one may
/// reach the right one.
#[test]
fn stateless_reset_mostly_finds_its_connection_among_shards() {
    let mut reset = 0;
    for seed in 0..SEEDS_FOR_CHANCE {
        let setup = Setup {
            shards: 4,
            ..Setup::default()
        };
        let mut network = Network::pair(seed, setup.clone(), setup);
        let (dialer, listener) = network.connect(0, 1);
        network.run_for(Duration::from_secs(1));
        network.impair(Impairments::DEAD);
        let closed = network.block_on(async move { listener.closed().await });
        closed.unwrap();
        network.impair(Impairments::NONE);
        let end = network.block_on(async move { dialer.address_change().await });
        match end {
            Err(ConnectionError::Reset) => reset += 1,
            // Otherwise the idle timeout ends it.
            end => assert_eq!(end, Err(ConnectionError::TimedOut), "seed {seed}"),
        }
        network.run_until_empty();
        network.nodes.iter().for_each(Node::assert_empty);
    }
    assert!(reset > SEEDS_FOR_CHANCE / 2, "{reset}");
}

const SEEDS_FOR_CHANCE: u64 = 40;

#[test]
fn ids_that_the_registry_calls_active_are_those_that_lead_somewhere() {
    let setup = Setup {
        shards: 3,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    let mut peers = Vec::new();
    for _ in 0..6 {
        peers.push(network.connect(0, 1).0);
        network.rebind(0);
        network.run_for(Duration::from_secs(3));
        for node in 0..2 {
            assert_ids_balance(&mut network, node);
        }
    }
    for peer in peers {
        peer.close(0);
        for node in 0..2 {
            assert_ids_balance(&mut network, node);
        }
    }
    network.impair(Impairments::NONE);
    network.run_until_empty();
    for node in 0..2 {
        assert_ids_balance(&mut network, node);
        network.nodes[node].assert_empty();
        assert_eq!(network.nodes[node].stats().0.active_ids, 0);
    }
}

/// IDs are issued, then active, then retired; quinn-proto knows all IDs that the registry counts as
/// active.
pub(super) fn assert_ids_balance(network: &mut Network, node: usize) {
    network.settle();
    let now = network.now;
    let (registry, _) = network.nodes[node].stats();
    assert_eq!(
        registry.issued_ids - registry.retired_ids,
        registry.active_ids
    );
    assert_eq!(network.nodes[node].routable_ids(now), registry.active_ids);
    assert_eq!(
        registry.issued_sequence_numbers.iter().sum::<u64>(),
        registry.issued_ids
    );
    assert_eq!(registry.foreign, 0);
}

/// Two nodes of four shards each, connected.
fn four_shards() -> (Network, Peer, Peer) {
    let setup = Setup {
        shards: 4,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    (network, dialer, listener)
}

/// Opens a stream and writes a few bytes.
fn send_something(peer: &Peer) {
    let stream = peer.open().now_or_never().unwrap().unwrap();
    assert_eq!(peer.write_now(stream, &[0; 100]), 100);
}
