//! Limits on bandwidth, in virtual time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use futures::{FutureExt, future::join_all};

use super::{link::Impairments, network::Network, node::Setup, peer::Peer};
use crate::{bandwidth::BandwidthLimits, proto::StreamId};

const ROUND_TRIP: Duration = Duration::from_millis(20);

const MB: u64 = 1_000_000;

/// A dialer with these limits, and a listener with those.
fn network(dialer: BandwidthLimits, listener: BandwidthLimits) -> Network {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.nodes[0].bandwidth().set(dialer);
    network.nodes[1].bandwidth().set(listener);
    network.impair(Impairments {
        delay: ROUND_TRIP / 2,
        ..Impairments::NONE
    });
    network
}

fn limits(change: impl FnOnce(&mut BandwidthLimits)) -> BandwidthLimits {
    let mut limits = BandwidthLimits::default();
    change(&mut limits);
    limits
}

/// Writes for ever on a new stream of `from`, and counts what `to` reads of it.
fn transfer(network: &mut Network, from: &Peer, to: &Peer) -> Rc<Cell<u64>> {
    transfers(network, from, to, 1).remove(0)
}

/// The same on several streams.
fn transfers(network: &mut Network, from: &Peer, to: &Peer, streams: usize) -> Vec<Rc<Cell<u64>>> {
    for _ in 0..streams {
        let stream = from.open().now_or_never().unwrap().unwrap();
        let from = from.clone();
        network.spawn(async move {
            let data = vec![7; 64 * 1024];
            while from.write_all(stream, &data).await.is_ok() {}
        });
    }
    let reads: Vec<Rc<Cell<u64>>> = (0..streams).map(|_| Rc::default()).collect();
    let (to, counts) = (to.clone(), reads.clone());
    network.spawn(async move {
        let mut counting = Vec::new();
        for read in counts {
            counting.push(count(to.clone(), to.accept().await.unwrap(), read));
        }
        join_all(counting).await;
    });
    reads
}

/// Counts what it reads.
async fn count(to: Peer, stream: StreamId, read: Rc<Cell<u64>>) {
    let mut buf = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = to.read(stream, &mut buf).await {
        read.set(read.get() + bytes as u64);
    }
}

/// What was read in this time, in bytes per second.
fn rate(network: &mut Network, read: &Cell<u64>, time: Duration) -> f64 {
    let before = read.get();
    network.run_for(time);
    (read.get() - before) as f64 / time.as_secs_f64()
}

fn assert_is_near(actual: f64, expected: u64) {
    let expected = expected as f64;
    assert!(
        (actual - expected).abs() < 0.05 * expected,
        "{actual} {expected}"
    );
}

#[test]
fn rate_of_a_transfer_is_that_of_the_limit_on_either_side() {
    let time = Duration::from_secs(5);
    for limit in [10_000, MB, 10 * MB] {
        let limits = [
            (
                limits(|limits| limits.send.total = Some(limit)),
                BandwidthLimits::default(),
            ),
            (
                limits(|limits| limits.send.each_peer = Some(limit)),
                BandwidthLimits::default(),
            ),
            (
                limits(|limits| limits.send.each_connection = Some(limit)),
                BandwidthLimits::default(),
            ),
            (
                BandwidthLimits::default(),
                limits(|limits| limits.receive.total = Some(limit)),
            ),
        ];
        for (dialer, listener) in limits {
            let mut network = network(dialer, listener);
            let (dialled, accepted) = network.connect(0, 1);
            let read = transfer(&mut network, &dialled, &accepted);
            assert_is_near(rate(&mut network, &read, time), limit);
        }
    }
}

#[test]
fn limit_of_100_mb_in_a_second_is_met() {
    let limits = limits(|limits| limits.send.total = Some(100 * MB));
    let mut network = network(limits, BandwidthLimits::default());
    let (dialled, accepted) = network.connect(0, 1);
    let read = transfer(&mut network, &dialled, &accepted);
    // Slow start takes a while.
    network.run_for(Duration::from_millis(300));
    assert_is_near(
        rate(&mut network, &read, Duration::from_millis(700)),
        100 * MB,
    );
}

#[test]
fn connections_get_equal_parts_whatever_their_number_of_streams() {
    let limits = limits(|limits| limits.send.total = Some(MB));
    let mut network = network(limits, BandwidthLimits::default());
    let mut all = Vec::new();
    for streams in [1, 1, 8, 30] {
        let (dialled, accepted) = network.connect(0, 1);
        let reads = transfers(&mut network, &dialled, &accepted, streams);
        all.push((dialled, reads));
    }
    network.run_for(Duration::from_secs(1));
    let sum = |reads: &[Rc<Cell<u64>>]| reads.iter().map(|read| read.get()).sum::<u64>();
    let before: Vec<_> = all.iter().map(|(_, reads)| sum(reads)).collect();
    network.run_for(Duration::from_secs(5));
    for ((_, reads), before) in all.iter().zip(before) {
        assert_is_near((sum(reads) - before) as f64 / 5.0, MB / 4);
        // And so do the streams of a connection.
        let bytes = reads.iter().map(|read| read.get());
        let (least, most) = (bytes.clone().min().unwrap(), bytes.max().unwrap());
        assert!(4 * least > 3 * most, "{least} {most}");
    }
}

#[test]
fn connections_of_one_peer_share_its_limit() {
    let mut limits = BandwidthLimits::default();
    limits.send.each_peer = Some(MB);
    let mut network = network(limits, BandwidthLimits::default());
    let other = network.add(Setup::default());
    let connections = [1, 1, other].map(|node| network.connect(0, node));
    let reads = connections
        .each_ref()
        .map(|(dialled, accepted)| transfer(&mut network, dialled, accepted));
    network.run_for(Duration::from_secs(5));
    let rates = reads.map(|read| read.get() as f64 / 5.0);
    assert_is_near(rates[0] + rates[1], MB);
    assert_is_near(rates[0], MB / 2);
    assert_is_near(rates[2], MB);
}

/// Longest time that a ping takes beside a transfer on the same connection.
fn ping(limits: BandwidthLimits) -> Duration {
    let mut network = network(limits, limits);
    let (dialled, accepted) = network.connect(0, 1);
    transfer(&mut network, &dialled, &accepted);
    network.run_for(Duration::from_secs(1));
    let pinging = dialled.open().now_or_never().unwrap().unwrap();
    network.spawn(async move {
        let stream = accepted.accept().await.unwrap();
        let mut buf = [0; 32];
        while let Ok(bytes @ 1..) = accepted.read(stream, &mut buf).await {
            accepted.write_all(stream, &buf[..bytes]).await.unwrap();
        }
    });
    let longest = Rc::new(Cell::new(Duration::ZERO));
    let alarms = network.alarms();
    network.block_on({
        let longest = Rc::clone(&longest);
        async move {
            for _ in 0..50 {
                let began = alarms.now();
                dialled.write_all(pinging, &[7; 32]).await.unwrap();
                read_exactly(&dialled, pinging, 32).await;
                longest.set(longest.get().max(alarms.now() - began));
                alarms.after(Duration::from_millis(33)).await;
            }
        }
    });
    longest.get()
}

async fn read_exactly(peer: &Peer, stream: StreamId, mut bytes: usize) {
    while bytes > 0 {
        let mut buf = vec![0; bytes];
        bytes -= peer.read(stream, &mut buf).await.unwrap();
    }
}

#[test]
fn ping_does_not_wait_for_a_transfer_that_is_limited() {
    for limit in [100_000, MB, 10 * MB] {
        for limits in [
            limits(|limits| limits.send.total = Some(limit)),
            limits(|limits| limits.receive.each_connection = Some(limit)),
        ] {
            let took = ping(limits);
            assert!(
                took < ROUND_TRIP + Duration::from_millis(20),
                "{limit}: {took:?}"
            );
        }
    }
}

#[test]
fn new_limits_hold_at_once_for_everybody() {
    let mut network = network(BandwidthLimits::default(), BandwidthLimits::default());
    let (dialled, accepted) = network.connect(0, 1);
    let read = transfer(&mut network, &dialled, &accepted);
    let set = |network: &Network, limit| {
        let limits = limits(|limits| limits.send.total = limit);
        network.nodes[0].bandwidth().set(limits);
    };
    set(&network, Some(10_000));
    network.run_for(Duration::from_secs(30));
    for limit in [MB, 50_000, 5 * MB] {
        set(&network, Some(limit));
        // Some was written before.
        network.run_for(Duration::from_millis(500));
        assert_is_near(rate(&mut network, &read, Duration::from_secs(5)), limit);
    }
    set(&network, Some(1_000));
    network.run_for(Duration::from_secs(5));
    set(&network, None);
    network.run_for(Duration::from_millis(500));
    let unlimited = rate(&mut network, &read, Duration::from_millis(500));
    assert!(unlimited > 20.0 * MB as f64, "{unlimited}");
    let (_, stats) = network.nodes[0].stats();
    assert!(stats.writes_limited > 100);
    assert_eq!(stats.reads_limited, 0);
}

/// There are no more turns then that could let them go on.
#[test]
fn what_has_arrived_is_read_without_a_limit_after_the_end() {
    let limits = limits(|limits| limits.receive.total = Some(1_000));
    let mut network = network(BandwidthLimits::default(), limits);
    let (dialled, accepted) = network.connect(0, 1);
    let stream = dialled.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialled.write_now(stream, &[7; 50_000]), 50_000);
    dialled.finish(stream).unwrap();
    let contents = Rc::new(RefCell::new(None));
    network.spawn({
        let contents = Rc::clone(&contents);
        async move {
            let stream = accepted.accept().await.unwrap();
            *contents.borrow_mut() = accepted.read_to_end(stream).await.ok();
        }
    });
    network.run_for(Duration::from_secs(1));
    assert!(contents.borrow().is_none());
    dialled.close(0);
    network.run_for(Duration::from_secs(1));
    assert_eq!(contents.borrow().as_ref().map(Vec::len), Some(50_000));
}

#[test]
fn handshakes_and_closes_do_not_wait() {
    let limits = limits(|limits| {
        limits.send.total = Some(1_000);
        limits.receive.total = Some(1_000);
    });
    let mut network = network(limits, limits);
    let (dialled, accepted) = network.connect(0, 1);
    transfer(&mut network, &dialled, &accepted);
    network.run_for(Duration::from_secs(1));
    let began = network.elapsed();
    let (_other, _) = network.connect(0, 1);
    assert!(network.elapsed() - began < 3 * ROUND_TRIP);
    dialled.close(7);
    network.run_for(ROUND_TRIP);
    assert!(accepted.loss().is_some());
}
