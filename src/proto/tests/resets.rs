//! Stateless resets (RFC 9000 §10.3): who can obtain a token, and what a token does to connections.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use futures::FutureExt;

use super::{
    link::Impairments,
    network::Network,
    node::Setup,
    peer::Peer,
    transfer::{exchange_between, payload},
};
use crate::{error::ConnectionError, proto::connection_id::CONNECTION_ID_LEN};

/// No answer to a packet with the ID of a connection may serve as a reset for it (RFC 9000 §21.11),
/// whether the packet is sent to another socket or reaches another shard.
#[test]
fn nobody_gets_a_reset_for_a_connection_that_lives() {
    let mut network = Network::pair(1, shards(4), shards(4));
    let mut pairs = Vec::new();
    for _ in 0..3 {
        pairs.push(network.connect(0, 1));
        // These connections also leave from a socket that listens.
        let (dialer, listener) = network.connect(1, 0);
        pairs.push((listener, dialer));
    }
    network.run_for(SECOND);
    let mut answered = 0;
    for victim in 0..2 {
        let other = 1 - victim;
        let addr = network.nodes[victim].addr();
        let port = |port| SocketAddr::new(addr.ip(), port);
        let sockets = [
            network.nodes[victim].socket(),
            network.nodes[victim].other_socket(port(4002), true),
            network.nodes[victim].other_socket(port(4003), false),
        ];
        let mut ids = network.nodes[victim].issued_ids();
        assert!(ids.len() > 3 * 4);
        // And some unknown IDs, which are answered.
        ids.extend((0..4).map(|number| vec![number; CONNECTION_ID_LEN]));
        let live = network.nodes[other].issued_ids();
        for id in &ids {
            let packet = short(id, &payload(1, 200));
            let owner = network.nodes[victim].owner(&packet);
            let mut tokens = HashSet::new();
            for socket in &sockets {
                for shard in [0, 1, 2, 3] {
                    // Answers are rate-limited, so time must pass for the next one.
                    network.run_for(RESET_INTERVAL);
                    let now = network.now;
                    let node = &mut network.nodes[victim];
                    node.receive_at_socket(socket, shard, now, STRANGER.into(), &packet);
                    for answer in node.take_outgoing() {
                        assert_eq!(answer.to, STRANGER.into());
                        assert_eq!(owner, shard);
                        tokens.insert(token(&answer.contents));
                    }
                }
            }
            // All from one shard, which knows its own connections.
            assert!(tokens.len() <= 1);
            answered += tokens.len();
            for token in tokens {
                for live in &live {
                    let now = network.now;
                    network.nodes[other].receive(now, addr, &reset(live, &token));
                }
            }
            network.settle();
        }
    }
    // Answers to the unknown IDs, and to IDs that were not issued yet.
    assert!(answered >= 8, "{answered}");
    for (seed, (dialer, listener)) in (0..).zip(&pairs) {
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
        exchange_between(&mut network, dialer, listener, seed, 20_000);
    }
}

#[test]
fn token_of_one_connection_ends_that_one_and_no_other() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let pairs: Vec<_> = (0..3).map(|_| network.connect(0, 1)).collect();
    network.run_for(SECOND);
    // Of each connection: the ID for packets to the listener, and the ID for packets to the dialer.
    let ids: Vec<_> = pairs
        .iter()
        .map(|(dialer, listener)| {
            [(0, dialer), (1, listener)].map(|(node, peer)| id_in_use(&mut network, node, peer))
        })
        .collect();
    // The listener discards two of them, and their dialers receive nothing of that.
    network.impair(Impairments::DEAD);
    for (_, listener) in &pairs[..2] {
        let listener = listener.clone();
        network
            .block_on(async move { listener.closed().await })
            .unwrap();
    }
    network.run_for(FORGOTTEN_AFTER);
    let packet = short(&ids[0][0], &payload(1, 200));
    network.run_for(RESET_INTERVAL);
    let [answer] = &answers(&mut network, 1, &packet)[..] else {
        panic!("no reset");
    };
    let token = token(answer);

    let (now, addr) = (network.now, network.nodes[1].addr());
    for [_, id] in &ids[1..] {
        network.nodes[0].receive(now, addr, &reset(id, &token));
    }
    network.settle();
    assert!(pairs.iter().all(|(dialer, _)| dialer.loss().is_none()));
    network.nodes[0].receive(now, addr, &reset(&ids[0][1], &token));
    network.settle();
    assert_eq!(pairs[0].0.loss(), Some(ConnectionError::Reset));
    assert!(pairs[1..].iter().all(|(dialer, _)| dialer.loss().is_none()));
    network.impair(Impairments::NONE);
    let (dialer, listener) = &pairs[2];
    exchange_between(&mut network, dialer, listener, 1, 20_000);
}

#[test]
fn no_id_is_issued_twice_by_any_shard_of_any_node() {
    let mut network = Network::pair(1, shards(4), shards(4));
    network.add(shards(3));
    let mut seen = HashSet::new();
    for round in 0..4 {
        for (from, to) in [(0, 1), (1, 2), (2, 1), (0, 2)] {
            let (dialer, listener) = network.connect(from, to);
            // So that the peer's IDs change.
            network.rebind(0);
            exchange_between(&mut network, &dialer, &listener, round, 2_000);
            network.run_for(SECOND);
            seen.insert(id_in_use(&mut network, from, &dialer));
            seen.insert(id_in_use(&mut network, to, &listener));
            if round % 2 == 0 {
                dialer.close(0);
                network.run_for(SECOND);
            }
        }
    }
    let ids: Vec<_> = network
        .nodes
        .iter()
        .flat_map(|node| node.issued_ids())
        .collect();
    let issued: u64 = network
        .nodes
        .iter()
        .map(|node| node.stats().0.issued_ids)
        .sum();
    assert!(ids.len() as u64 >= issued && issued > 4 * 4 * 2);
    let different: HashSet<_> = ids.iter().cloned().collect();
    assert_eq!(different.len(), ids.len());
    // These are the IDs that were used.
    assert!(seen.is_subset(&different));
    assert_eq!(seen.len(), 4 * 4 * 2);
}

#[test]
fn every_node_and_every_start_of_it_has_another_token_for_the_same_id() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.add(Setup::default());
    let packet = short(&[7; CONNECTION_ID_LEN], &payload(1, 200));
    let mut tokens = HashSet::new();
    for start in 0..3 {
        for node in 0..3 {
            let [one, two] = [(); 2].map(|()| {
                network.run_for(RESET_INTERVAL);
                let answers = answers(&mut network, node, &packet);
                token(&answers[0])
            });
            // A node that has lost a connection needs the token that its peer knows.
            assert_eq!(one, two);
            assert!(tokens.insert(one), "node {node}, start {start}");
            network.restart(node, Setup::default());
        }
    }
}

/// It has the same key again (decision 3).
#[test]
fn node_that_has_started_again_resets_what_it_has_forgotten() {
    let setup = || Setup {
        identity: Some([7; 32]),
        ..shards(4)
    };
    let mut network = Network::pair(1, Setup::default(), setup());
    let pairs: Vec<_> = (0..4).map(|_| network.connect(0, 1)).collect();
    network.run_for(SECOND);
    network.restart(1, setup());
    for (dialer, _) in &pairs {
        network.run_for(2 * RESET_INTERVAL);
        say_something(dialer);
        let begun = network.elapsed();
        let dialer = dialer.clone();
        let end = network.block_on(async move { dialer.address_change().await });
        assert_eq!(end, Err(ConnectionError::Reset));
        assert!(network.elapsed() - begun < SECOND);
    }
}

/// Noise comes first, more than is answered in a round.
#[test]
fn node_that_has_started_again_resets_a_crowd_at_once_whatever_noise_there_is() {
    const PEERS: usize = 100;

    let setup = || Setup {
        identity: Some([7; 32]),
        ..Setup::default()
    };
    let mut network = Network::new(1);
    network.add(setup());
    let dialers: Vec<_> = (0..PEERS)
        .map(|_| {
            let node = network.add(Setup::default());
            network.connect(node, 0).0
        })
        .collect();
    network.run_for(SECOND);
    network.restart(0, setup());
    for dialer in &dialers {
        say_something(dialer);
    }
    network.run_for(Duration::from_millis(5));
    let now = network.now;
    for seed in 0..1_000 {
        let stranger = SocketAddr::from(([198, 51, (seed >> 8) as u8, seed as u8], 4001));
        let noise = payload(seed, 60);
        let noise = short(&noise[..8], &noise[8..]);
        network.nodes[0].receive(now, stranger, &noise);
        let dial_only = network.nodes[0].other_socket(network.nodes[0].addr(), false);
        network.nodes[0].receive_at_socket(&dial_only, 0, now, stranger, &noise);
    }
    network.run_for(Duration::from_millis(30));
    let reset = dialers.iter().map(Peer::loss);
    let reset = reset.filter(|loss| *loss == Some(ConnectionError::Reset));
    assert_eq!(reset.count(), PEERS);
}

/// It does not have the key. A peer that has missed the end notices the silence.
#[test]
fn another_node_at_the_address_cannot_reset_what_the_one_before_has_forgotten() {
    let mut network = Network::pair(1, Setup::default(), shards(4));
    let pairs: Vec<_> = (0..4).map(|_| network.connect(0, 1)).collect();
    network.run_for(SECOND);
    let ids: Vec<_> = pairs
        .iter()
        .map(|(_, listener)| id_in_use(&mut network, 1, listener))
        .collect();
    network.restart(1, shards(4));
    let (packets, addr) = (SECOND / 2, network.nodes[1].addr());
    for _ in 0..5 {
        for (dialer, _) in &pairs {
            say_something(dialer);
        }
        network.settle();
        // An answer of the new node to one connection is not a reset for any of them.
        network.run_for(Duration::from_millis(15));
        let in_flight = network.intercept().into_iter();
        // The packets include probes of peers that receive nothing new.
        for answer in in_flight.filter(|datagram| datagram.from == addr) {
            let now = network.now;
            network.nodes[0].receive(now, addr, &answer.contents);
            for id in &ids {
                let forged = reset(id, &token(&answer.contents));
                network.nodes[0].receive(now, addr, &forged);
            }
        }
        network.run_for(packets);
    }
    assert!(network.nodes[1].stats().0.responses_sent > 0);
    assert!(pairs.iter().all(|(dialer, _)| dialer.loss().is_none()));
    for (dialer, _) in pairs {
        let end = network.block_on(async move { dialer.address_change().await });
        assert_eq!(end, Err(ConnectionError::TimedOut));
    }
    network.connect(0, 1);
}

#[test]
fn forged_resets_by_the_thousand_are_counted_and_hardly_answered() {
    const FORGED: u64 = 10_000;

    let mut network = Network::pair(1, shards(4), shards(4));
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(SECOND);
    // The IDs for packets to each node.
    let ids =
        [(1, &listener), (0, &dialer)].map(|(node, peer)| id_in_use(&mut network, node, peer));
    network.run_for(SECOND);
    for (node, id) in ids.iter().enumerate() {
        let before = network.nodes[node].stats();
        let peer = network.nodes[1 - node].addr();
        for seed in 0..FORGED {
            let now = network.now;
            let guess = payload(seed, 60);
            let stranger = SocketAddr::from((STRANGER.0, 1 + seed as u16));
            network.nodes[node].receive(now, stranger, &short(&guess[..8], &guess[8..]));
            // From the right address and to the right connection, except for the token.
            network.nodes[node].receive(now, peer, &short(id, &guess[8..]));
            if seed % 10 == 0 {
                network.run_for(Duration::from_millis(1));
            }
        }
        network.run_for(SECOND);
        let after = network.nodes[node].stats();
        assert_eq!(after.0.unknown - before.0.unknown, FORGED);
        assert!(after.0.routed_short - before.0.routed_short >= FORGED);
        // Each shard answers a host fifty times in a second; this took one second, and one more.
        let responses = after.0.responses_sent - before.0.responses_sent;
        assert!((1..=4 * 50 * 2).contains(&responses), "{responses}");
        assert_eq!(after.0.connections, 1);
    }
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    exchange_between(&mut network, &dialer, &listener, 1, 20_000);
}

#[test]
fn nodes_of_many_shards_that_reset_each_other_soon_stop() {
    const AT_ONCE: u64 = 100;
    const LEN: usize = 1_400;

    let mut network = Network::pair(1, shards(4), shards(4));
    let (now, addr) = (network.now, network.nodes[0].addr());
    for seed in 0..AT_ONCE {
        let packet = payload(seed, LEN);
        network.nodes[1].receive(now, addr, &short(&packet[..8], &packet[8..]));
        network.run_for(Duration::from_millis(seed % 3));
    }
    network.run_for(60 * SECOND);
    let sent: u64 = network
        .nodes
        .iter()
        .map(|node| node.stats().1.datagrams_sent)
        .sum();
    // Each answer is shorter, and the shards answer a host fifty times in a second.
    assert!((AT_ONCE..2 * 4 * 50 * 2).contains(&sent), "{sent}");
    assert!(network.intercept().is_empty());
    let resting = network.datagrams_sent();
    network.run_for(60 * SECOND);
    assert_eq!(network.datagrams_sent(), resting);
}

const SECOND: Duration = Duration::from_secs(1);

/// The IDs of a connection that has ended are known for at most a second.
const FORGOTTEN_AFTER: Duration = SECOND;

/// A host gets a reset of each shard as often as this.
const RESET_INTERVAL: Duration = Duration::from_millis(20);

const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 7], 4001);

fn shards(shards: u8) -> Setup {
    Setup {
        shards,
        ..Setup::default()
    }
}

/// A packet with a short header, or a datagram that looks like one.
fn short(id: &[u8], rest: &[u8]) -> Vec<u8> {
    [&[0x40][..], id, rest].concat()
}

/// The token at the end of a reset.
fn token(reset: &[u8]) -> [u8; 16] {
    *reset.last_chunk().unwrap()
}

/// A reset for the connection with this ID, whatever its shard.
fn reset(id: &[u8], token: &[u8]) -> Vec<u8> {
    short(id, &[&[9; 30], token].concat())
}

/// A node's answers to a datagram from a stranger.
fn answers(network: &mut Network, node: usize, datagram: &[u8]) -> Vec<Vec<u8>> {
    let now = network.now;
    network.nodes[node].receive(now, STRANGER.into(), datagram);
    let answers = network.nodes[node].take_outgoing();
    answers.into_iter().map(|answer| answer.contents).collect()
}

/// The destination ID of packets that this peer, at this node, sends.
fn id_in_use(network: &mut Network, node: usize, peer: &Peer) -> Vec<u8> {
    network.run_for(SECOND);
    network.intercept();
    peer.with(|connection| connection.ping());
    network.nodes[node].shards[peer.shard].want_turn(peer.handle);
    network.settle();
    let packet = network.intercept().swap_remove(0).contents;
    assert_eq!(packet[0] & 0xc0, 0x40);
    packet[1..1 + CONNECTION_ID_LEN].to_vec()
}

fn say_something(peer: &Peer) {
    let stream = peer.open().now_or_never().unwrap().unwrap();
    assert_eq!(peer.write_now(stream, &[0; 100]), 100);
}
