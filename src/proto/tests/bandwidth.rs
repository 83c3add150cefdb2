//! Limits on bandwidth, in virtual time.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
    stream::FuturesUnordered,
};

use super::{link::Impairments, network::Network, node::Setup, peer::Peer};
use crate::{bandwidth::BandwidthLimits, error::StreamError, proto::StreamId};

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
        let mut counting = FuturesUnordered::new();
        for read in counts {
            // Those that are accepted are read meanwhile: they may have all of the credit.
            let stream = loop {
                let accept = pin!(to.accept());
                match select(accept, counting.next()).await {
                    Either::Left((stream, _)) => break stream.unwrap(),
                    Either::Right((Some(()), _)) => {}
                    Either::Right((None, accept)) => break accept.await.unwrap(),
                }
            };
            counting.push(count(to.clone(), stream, read));
        }
        while counting.next().await.is_some() {}
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
fn new_limits_hold_within_a_second() {
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
    network.run_for(Duration::from_millis(1_500));
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

/// What was asked for at a high rate would take minutes at the low one.
#[test]
fn limit_that_falls_far_holds_up_nobody_for_long() {
    let limit = |total| limits(|limits| limits.send.total = Some(total));
    let mut network = network(limit(u64::MAX), BandwidthLimits::default());
    let connections: Vec<_> = (0..20).map(|_| network.connect(0, 1)).collect();
    let reads: Vec<_> = (connections.iter())
        .map(|(dialled, accepted)| transfer(&mut network, dialled, accepted))
        .collect();
    network.run_for(Duration::from_millis(200));
    network.nodes[0].bandwidth().set(limit(100_000));
    // What was written before leaves first.
    network.run_for(Duration::from_secs(3));
    let before: Vec<_> = reads.iter().map(|read| read.get()).collect();
    network.run_for(Duration::from_secs(10));
    let rates = reads.iter().zip(before);
    let rates: Vec<_> = rates.map(|(read, before)| read.get() - before).collect();
    assert_is_near(rates.iter().sum::<u64>() as f64 / 10.0, 100_000);
    assert!(rates.iter().all(|&bytes| bytes > 40_000), "{rates:?}");
}

#[test]
fn limit_that_is_lifted_and_set_again_holds_up_nobody() {
    let both = limits(|limits| {
        limits.send.total = Some(MB);
        limits.send.each_connection = Some(10_000);
    });
    let own = limits(|limits| limits.send.each_connection = Some(10_000));
    let mut network = network(both, BandwidthLimits::default());
    let connections = [0, 1].map(|_| network.connect(0, 1));
    let reads = (connections.each_ref())
        .map(|(dialled, accepted)| transfer(&mut network, dialled, accepted));
    network.run_for(Duration::from_secs(60));
    for _ in 0..5 {
        for limits in [own, both] {
            network.nodes[0].bandwidth().set(limits);
            network.run_for(Duration::from_millis(150));
        }
    }
    network.run_for(Duration::from_secs(2));
    for read in reads {
        assert_is_near(rate(&mut network, &read, Duration::from_secs(5)), 10_000);
    }
}

/// An application may adjust limits all the time, or set the same again.
#[test]
fn limits_that_change_all_the_time_are_limits_and_hold_up_nobody() {
    // When a limit falls far each time, there is a new line each time, so parts are not equal.
    for (first, second, least) in [
        (50_000, 50_000, 40_000),
        (50_000, 45_000, 40_000),
        (50_000, 10_000, 1_200),
    ] {
        let limit = |total| limits(|limits| limits.send.total = Some(total));
        let mut network = network(limit(first), BandwidthLimits::default());
        let connections: Vec<_> = (0..10).map(|_| network.connect(0, 1)).collect();
        let reads: Vec<_> = (connections.iter())
            .map(|(dialled, accepted)| transfer(&mut network, dialled, accepted))
            .collect();
        network.run_for(Duration::from_secs(1));
        let before: Vec<_> = reads.iter().map(|read| read.get()).collect();
        for _ in 0..50 {
            for total in [second, first] {
                network.nodes[0].bandwidth().set(limit(total));
                network.run_for(Duration::from_millis(100));
            }
        }
        let bytes = reads
            .iter()
            .zip(before)
            .map(|(read, before)| read.get() - before);
        let bytes: Vec<_> = bytes.collect();
        let total = bytes.iter().sum::<u64>() as f64 / 10.0;
        let most = 1.05 * (first + second) as f64 / 2.0;
        assert!(total < most, "{total} with {first} and {second}");
        assert!(bytes.iter().all(|&bytes| bytes > least), "{bytes:?}");
    }
}

/// Each of them may move a datagram although nothing is left.
#[test]
fn streams_that_come_and_go_do_not_evade_a_limit_or_hold_up_others() {
    let limits = limits(|limits| limits.send.total = Some(100_000));
    let mut network = network(limits, BandwidthLimits::default());
    let (dialled, accepted) = network.connect(0, 1);
    let long_lived = transfer(&mut network, &dialled, &accepted);
    network.run_for(Duration::from_secs(1));
    let read = Rc::new(Cell::new(0));
    network.spawn({
        let dialled = dialled.clone();
        async move {
            while let Ok(stream) = dialled.open().await {
                dialled.write_all(stream, &[7; 1_200]).await.unwrap();
                dialled.finish(stream).unwrap();
                dialled.drop_stream(stream);
            }
        }
    });
    network.spawn({
        let read = Rc::clone(&read);
        async move {
            while let Ok(stream) = accepted.accept().await {
                count(accepted.clone(), stream, Rc::clone(&read)).await;
                accepted.drop_stream(stream);
            }
        }
    });
    let before = long_lived.get();
    network.run_for(Duration::from_secs(10));
    let (short, long) = (read.get(), long_lived.get() - before);
    assert!((short + long) as f64 / 10.0 < 105_000.0, "{short} {long}");
    assert!(long > 50_000, "{short} {long}");
}

#[test]
fn end_and_reset_of_a_stream_do_not_wait() {
    let limits = limits(|limits| limits.receive.total = Some(1_000));
    // What a stream may read in a period, with something left, and without.
    for bytes in [1_100, 1_200] {
        for reset in [false, true] {
            let took = end_of(limits, bytes, reset);
            assert!(took < 3 * ROUND_TRIP, "{bytes} {reset} {took:?}");
        }
    }
}

/// How long the end of a stream, or its reset, takes to a reader that waits for more than `bytes`
/// bytes.
fn end_of(limits: BandwidthLimits, bytes: usize, reset: bool) -> Duration {
    let mut network = network(BandwidthLimits::default(), limits);
    let (dialled, accepted) = network.connect(0, 1);
    let stream = dialled.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialled.write_now(stream, &vec![7; bytes]), bytes);
    let reader = network.block_on({
        let accepted = accepted.clone();
        async move {
            let stream = accepted.accept().await.unwrap();
            read_exactly(&accepted, stream, bytes).await;
            stream
        }
    });
    let end: Rc<Cell<Option<Result<usize, StreamError>>>> = Rc::default();
    network.spawn({
        let end = Rc::clone(&end);
        async move {
            end.set(Some(accepted.read(reader, &mut [0; 200]).await));
        }
    });
    network.run_for(ROUND_TRIP);
    assert!(end.take().is_none());
    let began = network.elapsed();
    let expected = if reset {
        dialled.reset(stream, 7).unwrap();
        Err(StreamError::Reset(7))
    } else {
        dialled.finish(stream).unwrap();
        Ok(0)
    };
    let alarms = network.alarms();
    network.block_on(async move {
        loop {
            if let Some(end) = end.take() {
                assert_eq!(end, expected);
                break;
            }
            alarms.after(Duration::from_millis(1)).await;
        }
    });
    network.elapsed() - began
}

/// As multistream-select reads the length of each message.
#[test]
fn small_operations_share_the_datagram_of_a_period() {
    let limits = limits(|limits| limits.receive.total = Some(10_000));
    let mut network = network(BandwidthLimits::default(), limits);
    let (dialled, accepted) = network.connect(0, 1);
    transfer(&mut network, &dialled, &accepted);
    network.run_for(Duration::from_secs(10));
    let stream = dialled.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialled.write_now(stream, &[7; 100]), 100);
    let began = network.elapsed();
    network.block_on(async move {
        let stream = accepted.accept().await.unwrap();
        for _ in 0..20 {
            read_exactly(&accepted, stream, 1).await;
        }
        read_exactly(&accepted, stream, 80).await;
    });
    let took = network.elapsed() - began;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// At a rate where grants are larger than datagrams.
#[test]
fn streams_of_a_connection_share_what_is_granted() {
    for number in [2, 3, 5] {
        let limits = limits(|limits| limits.send.total = Some(10 * MB));
        let mut network = network(limits, BandwidthLimits::default());
        let (dialled, accepted) = network.connect(0, 1);
        let reads = transfers(&mut network, &dialled, &accepted, number);
        network.run_for(Duration::from_secs(2));
        let read = reads.iter().map(|read| read.get());
        let (least, most) = (read.clone().min().unwrap(), read.clone().max().unwrap());
        assert!(4 * least > 3 * most, "{:?}", read.collect::<Vec<_>>());
    }
}

#[test]
fn limit_on_receiving_bounds_what_a_peer_sends_at_once() {
    let rate = 200_000;
    let listener = Setup {
        configure: |builder| {
            let limits = limits(|limits| limits.receive.total = Some(200_000));
            builder.bandwidth_limits(limits).unwrap()
        },
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), listener);
    let (dialled, accepted) = network.connect(0, 1);
    let read = transfers(&mut network, &dialled, &accepted, 4);
    network.run_for(Duration::from_secs(5));
    let (read, sent) = (
        read.iter().map(|read| read.get()).sum::<u64>(),
        dialled.stats().bytes_sent,
    );
    assert_is_near(read as f64 / 5.0, rate);
    // A second's worth for a stream, and half of that for others.
    assert!(
        sent as f64 <= 1.1 * (read + rate * 3 / 2) as f64,
        "{sent} {read}"
    );
}
