//! The memory that connections share.

use std::time::Duration;

use futures::{FutureExt, future::join_all};

use super::{link::Impairments, network::Network, node::Setup, peer::Peer};
use crate::proto::StreamId;

const LIMIT: u64 = 1024 * 1024;

/// What each connection may hold in each direction in any case.
const LEAST: u64 = 64 * 1024;

const PEERS: u64 = 6;

/// More than a window.
const MUCH: usize = 12_000_000;

#[test]
fn peers_that_send_what_nobody_reads_share_the_budget_and_nothing_is_lost() {
    let (mut network, pairs) = limited_and_its_peers();
    let mut written = Vec::new();
    let mut streams = Vec::new();
    for (_, peer) in &pairs {
        let stream = peer.open().now_or_never().unwrap().unwrap();
        streams.push(stream);
        written.push(0);
    }
    for _ in 0..200 {
        for ((_, peer), (stream, written)) in pairs.iter().zip(streams.iter().zip(&mut written)) {
            while *written < MUCH {
                let count = peer.write_now(*stream, &[7; 16_384]);
                *written += count;
                if count == 0 {
                    break;
                }
            }
        }
        network.run_for(Duration::from_millis(20));
        let used = network.nodes[0].budget.used();
        // A batch may be in flight when the budget is used up.
        assert!(used <= LIMIT + PEERS * 4 * LEAST, "{used}");
    }
    assert!(network.nodes[0].budget.used() > LIMIT / 2);
    assert!(network.nodes[0].stats().0.dropped_budget > 0);
    let read = pairs
        .iter()
        .zip(&streams)
        .map(|((listener, peer), stream)| {
            assert_eq!(listener.loss(), None);
            peer.finish(*stream).unwrap();
            let listener = listener.clone();
            async move {
                let stream = listener.accept().await.unwrap();
                listener.read_to_end(stream).await.unwrap().len()
            }
        });
    let read = network.block_on(join_all(read.collect::<Vec<_>>()));
    assert_eq!(read, written);
    network.run_for(Duration::from_secs(1));
    assert!(network.nodes[0].budget.used() < LEAST);
}

#[test]
fn peers_that_acknowledge_nothing_share_the_budget() {
    let (mut network, pairs) = limited_and_its_peers();
    network.impair(Impairments::DEAD);
    let streams: Vec<_> = pairs
        .iter()
        .map(|(listener, _)| listener.open().now_or_never().unwrap().unwrap())
        .collect();
    let mut written = 0;
    for _ in 0..100 {
        for ((listener, _), stream) in pairs.iter().zip(&streams) {
            written += listener.write_now(*stream, &[7; 16_384]) as u64;
        }
        network.run_for(Duration::from_millis(10));
    }
    assert!(written > LIMIT / 2, "{written}");
    assert!(written <= LIMIT + PEERS * 2 * LEAST, "{written}");
    network.run_until_empty();
    drop(pairs);
    assert_eq!(network.nodes[0].budget.used(), 0);
}

/// Its peers end their connections while the application still holds what they have sent.
#[test]
fn what_the_application_holds_of_ended_connections_counts_until_it_is_read_or_dropped() {
    let (mut network, _) = limited_and_its_peers();
    let mut held: Vec<(Peer, StreamId)> = Vec::new();
    for round in 0..30 {
        let (dialer, listener) = network.connect(1, 0);
        network.run_for(Duration::from_millis(100));
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        for _ in 0..20 {
            dialer.write_now(stream, &[7; 64 * 1024]);
            network.run_for(Duration::from_millis(20));
        }
        let stream = listener.accept().now_or_never().unwrap().unwrap();
        dialer.close(0);
        network.run_for(Duration::from_millis(100));
        assert!(listener.loss().is_some());
        held.push((listener, stream));
        let bytes: u64 = held.iter().map(|(peer, _)| peer.stats().held_bytes).sum();
        let used = network.nodes[0].budget.used();
        assert!(used >= bytes, "{used} for {bytes} in round {round}");
    }
    let bytes = |(peer, _): &(Peer, StreamId)| peer.stats().held_bytes;
    let [first, last] = [held.first(), held.last()].map(|peer| peer.map(bytes).unwrap());
    assert!(first > 2 * LEAST, "{first}");
    assert!(last < first / 3, "there is hardly room for {last}");
    let used = network.nodes[0].budget.used();
    let (reader, stream) = held.pop().unwrap();
    let (reader, read) = network.block_on(async move {
        let mut buf = vec![0; 1024 * 1024];
        let mut read = 0;
        while let Ok(count) = reader.read(stream, &mut buf).await {
            read += count as u64;
        }
        (reader, read)
    });
    assert!(read > 0);
    assert!(network.nodes[0].budget.used() <= used - read);
    drop((reader, held));
    assert!(network.nodes[0].budget.used() < LEAST);
}

/// Nobody takes the streams in time.
#[test]
fn streams_of_an_ended_connection_count_until_they_are_dropped() {
    let (mut network, pairs) = limited_and_its_peers();
    let (listener, dialer) = &pairs[0];
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, &[7; 10_000]), 10_000);
    network.run_for(Duration::from_millis(100));
    dialer.close(0);
    network.run_for(Duration::from_millis(100));
    assert!(listener.loss().is_some());
    assert!(network.nodes[0].budget.used() >= 10_000);
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.nodes[0].budget.used(), 0);
}

/// A node with little memory, and the two ends of each of its connections, its own end first.
fn limited_and_its_peers() -> (Network, Vec<(Peer, Peer)>) {
    let mut network = Network::new(1);
    network.add(Setup {
        configure: |builder| builder.max_buffered_bytes(Some(LIMIT)).unwrap(),
        ..Setup::default()
    });
    let pairs = (0..PEERS)
        .map(|_| {
            let node = network.add(Setup::default());
            let (dialer, listener) = network.connect(node, 0);
            (listener, dialer)
        })
        .collect();
    network.run_for(Duration::from_secs(1));
    (network, pairs)
}
