//! Windows that grow with the bandwidth-delay product: what they leave to other streams and other
//! connections, and that peers keep to what they were told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use futures::{FutureExt, future::join};
use quinn_proto::TransportErrorCode;

use super::{link::Impairments, network::Network, node::Setup, peer::Peer, set_windows};
use crate::{
    authenticator::Protection,
    config::Preset,
    error::ConnectionError,
    proto::{StreamId, budget::BudgetShare, connection::Grown},
    simulation::{
        frame::{self, Frame, Number},
        rewrite::{Changes, Level},
    },
};

/// With what a stream and a connection begin, and to what they grow.
const FIRST_STREAM: u64 = 10_000_000;
const FIRST_CONNECTION: u64 = 15_000_000;
const LARGEST_STREAM: u64 = 44_000_000;
const LARGEST_CONNECTION: u64 = 66_000_000;

/// What one connection may take beyond its window, regardless of what its peer sends.
const OVERHEAD: u64 = 16 * 1024 * 1024;

/// Enough for a stream to grow to its largest window at a round trip of 200 ms.
const MUCH: usize = 120_000_000;

const DELAY: Duration = Duration::from_millis(100);

#[test]
fn stream_that_nobody_reads_has_the_window_that_it_began_with() {
    let (mut network, dialer, listener) = pair();
    let stream = open(&dialer);
    let arrived = stall(&mut network, &[(&dialer, stream)]);
    assert_about(arrived, FIRST_STREAM);
    assert_goes_on(&mut network, &dialer, &listener);
}

#[test]
fn connection_that_nobody_reads_has_the_window_that_it_began_with() {
    let (mut network, dialer, listener) = pair();
    let streams = [(); 3].map(|()| (&dialer, open(&dialer)));
    let arrived = stall(&mut network, &streams);
    assert_about(arrived, FIRST_CONNECTION);
    assert_eq!(grown(&listener).connection, FIRST_CONNECTION);
}

#[test]
fn stream_that_is_read_fast_grows_and_leaves_something_to_others() {
    let (mut network, dialer, listener) = pair();
    let stream = open(&dialer);
    transfer(&mut network, &dialer, &listener, stream, MUCH);
    let windows = grown(&listener);
    assert!(windows.stream > LARGEST_STREAM * 7 / 8, "{windows:?}");
    assert!(
        windows.connection > LARGEST_CONNECTION * 7 / 8,
        "{windows:?}"
    );
    let arrived = stall(&mut network, &[(&dialer, stream)]);
    // A quarter of a window is taken out before it stops.
    assert!(
        (2 * FIRST_STREAM..LARGEST_STREAM * 27 / 20).contains(&arrived),
        "{arrived}"
    );
    let held = listener.stats().held_bytes;
    assert!(held <= LARGEST_CONNECTION + OVERHEAD, "{held}");
    assert_goes_on(&mut network, &dialer, &listener);
}

#[test]
fn windows_shrink_and_a_stream_that_still_has_credit_cannot_take_all() {
    let (mut network, dialer, listener) = pair();
    let fast = open(&dialer);
    transfer(&mut network, &dialer, &listener, fast, MUCH);
    read_slowly(&mut network, &dialer, &listener);
    let windows = grown(&listener);
    assert_eq!((windows.stream, windows.limits), (FIRST_STREAM, 1));
    assert!(
        windows.connection > LARGEST_STREAM,
        "the credit of a stream cannot be taken back"
    );
    stall(&mut network, &[(&dialer, fast)]);
    assert_goes_on(&mut network, &dialer, &listener);
    // Nor when other connections have taken the memory.
    listener.with(|connection| connection.set_receive_limit(0));
    assert_goes_on(&mut network, &dialer, &listener);
    listener.with(|connection| connection.set_receive_limit(u64::MAX));

    // Nobody reads it any more, and its end is under way.
    listener.drop_stream(fast);
    dialer.drop_stream(fast);
    read_slowly(&mut network, &dialer, &listener);
    let windows = grown(&listener);
    assert_eq!((windows.connection, windows.limits), (FIRST_CONNECTION, 0));
    let arrived = stall(&mut network, &[(&dialer, open(&dialer))]);
    assert_about(arrived, FIRST_STREAM);
}

/// What is free beside a stalled stream is less than quinn-proto tells the peer of at once.
#[test]
fn reader_that_pauses_goes_on_beside_a_stalled_stream() {
    const BURST: usize = 100_000;
    // Windows that are set do not grow.
    let setup = Setup {
        configure: set_windows::<FIRST_STREAM, FIRST_CONNECTION>,
        ..setup()
    };
    for paused in [1_200_000, 1_500_000, 1_800_000] {
        let (mut network, dialer, listener) = pair_of(setup.clone(), setup.clone());
        let stalled = open(&dialer);
        stall(&mut network, &[(&dialer, stalled)]);
        let stream = open(&dialer);
        let mut sent = 0;
        while sent < paused {
            sent += dialer.write_now(stream, &[7; BURST]);
            network.run_for(DELAY);
        }
        network.run_for(5 * DELAY);
        for expected in [stalled, stream] {
            assert_eq!(listener.accept().now_or_never(), Some(Ok(expected)));
        }
        for round in 0..40 {
            let mut buf = vec![0; 3_000_000];
            let read = listener.read(stream, &mut buf).now_or_never();
            assert!(
                read.is_some(),
                "nothing arrives in round {round} of {paused}"
            );
            dialer.write_now(stream, &[7; BURST]);
            network.run_for(5 * DELAY);
        }
    }
}

/// A pile is a large part of what such a connection's window has beyond that of a stream.
#[test]
fn stalled_stream_leaves_something_to_others_with_small_windows() {
    let setup = Setup {
        configure: |builder| builder.preset(Preset::MemoryConstrained),
        ..setup()
    };
    const PILE: usize = 129 * 1452;
    for read in [PILE / 3, PILE / 2, 2 * PILE / 3, 5 * PILE / 6] {
        let (mut network, dialer, listener) = pair_of(setup.clone(), setup.clone());
        assert_leaves_something(&mut network, &dialer, &listener, PILE, read);
    }
}

/// So is a pile of such datagrams.
#[test]
fn stalled_stream_leaves_something_to_others_with_large_datagrams() {
    const DATAGRAM: u16 = 8_972;
    const PILE: usize = 129 * 6_600;
    let setup = Setup {
        configure: set_windows::<2_000_000, 3_000_000>,
        max_payload: Some(DATAGRAM),
        ..setup()
    };
    for read in [PILE / 4, PILE / 3, PILE / 2, 2 * PILE / 3, 5 * PILE / 6] {
        let (mut network, dialer, listener) = pair_of(setup.clone(), setup.clone());
        network.impair(Impairments {
            mtu: DATAGRAM.into(),
            ..far()
        });
        let stream = open(&dialer);
        transfer(&mut network, &dialer, &listener, stream, 20_000_000);
        let mtu = dialer.stats().mtu_bytes;
        assert!(mtu > 6_000, "{mtu}");
        assert_leaves_something(&mut network, &dialer, &listener, PILE, read);
    }
}

/// A packet of each is lost, and many follow it.
#[test]
fn streams_with_lost_packets_do_not_take_the_place_of_one_that_stalls() {
    let setup = Setup {
        configure: |builder| builder.preset(Preset::MemoryConstrained),
        ..setup()
    };
    let (mut network, dialer, listener) = pair_of(setup.clone(), setup);
    let first = open(&dialer);
    transfer(&mut network, &dialer, &listener, first, 3_000_000);
    for _ in 0..12 {
        let stream = open(&dialer);
        network.impair(Impairments { loss: 1.0, ..far() });
        dialer.write_now(stream, &[7; 1_000]);
        network.run_for(Duration::from_millis(1));
        network.impair(far());
        let mut left = 300_000;
        while left > 0 {
            left -= dialer.write_now(stream, &vec![7; left]);
            network.run_for(Duration::from_millis(10));
        }
        let reader = listener.clone();
        network.block_on(async move {
            assert_eq!(reader.accept().await, Ok(stream));
            let mut left = 301_000;
            while left > 0 {
                left -= reader.read(stream, &mut [0; 10_000]).await.unwrap();
            }
        });
    }
    let kept = listener.with(|connection| connection.kept_bytes());
    assert_eq!(kept, 0, "more than a few piles are counted");
    assert_leaves_something(&mut network, &dialer, &listener, 300_000, 100_000);
}

/// Of `written` bytes of a stream, `read` are read. After that nobody reads it, and another stream
/// goes on.
#[track_caller]
fn assert_leaves_something(
    network: &mut Network,
    dialer: &Peer,
    listener: &Peer,
    written: usize,
    read: usize,
) {
    const BURST: usize = 8_000;
    let stalled = open(dialer);
    write(network, dialer, stalled, written);
    network.run_for(5 * DELAY);
    assert_eq!(listener.accept().now_or_never(), Some(Ok(stalled)));
    let mut buf = vec![0; read];
    let mut left = read;
    while left > 0 {
        match listener.read(stalled, &mut buf[..left]).now_or_never() {
            Some(Ok(bytes)) => left -= bytes,
            other => panic!("{other:?} with {left} left of {read}"),
        }
    }
    stall(network, &[(dialer, stalled)]);
    let stream = open(dialer);
    dialer.write_now(stream, &[7; BURST]);
    network.run_for(5 * DELAY);
    assert_eq!(listener.accept().now_or_never(), Some(Ok(stream)));
    for round in 0..100 {
        let arrived = listener
            .read(stream, &mut vec![0; 2 * BURST])
            .now_or_never();
        assert!(
            arrived.is_some(),
            "nothing arrives in round {round} with {read} read"
        );
        dialer.write_now(stream, &[7; BURST]);
        network.run_for(5 * DELAY);
    }
}

#[test]
fn peer_is_told_of_the_credit_for_a_stream_that_is_stopped() {
    assert_told_of_credit(false);
}

/// Also if nobody reads it.
#[test]
fn peer_is_told_of_the_credit_for_a_stream_that_it_resets() {
    assert_told_of_credit(true);
}

/// It is less than quinn-proto tells the peer of at once.
#[track_caller]
fn assert_told_of_credit(is_reset: bool) {
    const WINDOW: u64 = 1_600_000;
    const DROPPED: u64 = 120_000;
    /// Less is not told, and the peer may have had as much too early.
    const PART: u64 = WINDOW / 32;
    let setup = Setup {
        configure: set_windows::<1_000_000, WINDOW>,
        ..setup()
    };
    let (mut network, dialer, listener) = pair_of(setup.clone(), setup);
    stall(&mut network, &[(&dialer, open(&dialer))]);
    let dropped = open(&dialer);
    write(&mut network, &dialer, dropped, DROPPED as usize);
    if !is_reset {
        dialer.finish(dropped).unwrap();
    }
    network.run_for(5 * DELAY);
    let waiting = [(); 2].map(|()| (&dialer, open(&dialer)));
    stall(&mut network, &waiting);
    assert_eq!(
        stall(&mut network, &waiting) / 10_000,
        0,
        "all credit is used"
    );
    if is_reset {
        dialer.reset(dropped, 0).unwrap();
    }
    while let Some(Ok(accepted)) = listener.accept().now_or_never() {
        if accepted == dropped && !is_reset {
            listener.drop_stream(accepted);
        }
    }
    let arrived = stall(&mut network, &waiting);
    assert!(
        (DROPPED - PART - 1..DROPPED * 11 / 10 + PART).contains(&arrived),
        "{arrived}"
    );
}

/// The peer has used the credit that it had before a shortage of memory.
#[test]
fn credit_for_dropped_data_is_given_once_memory_is_free_again() {
    for is_reset in [false, true] {
        let (mut network, dialer, listener) = pair();
        listener.with(|connection| connection.set_receive_limit(0));
        let streams = [(); 2].map(|()| (&dialer, open(&dialer)));
        let arrived = stall(&mut network, &streams);
        assert_about(arrived, FIRST_CONNECTION);
        for (_, stream) in streams {
            assert_eq!(listener.accept().now_or_never(), Some(Ok(stream)));
            if is_reset {
                dialer.reset(stream, 0).unwrap();
                network.run_for(5 * DELAY);
                let read = listener.read(stream, &mut [0]).now_or_never();
                assert!(matches!(read, Some(Err(_))), "{read:?}");
            }
            listener.drop_stream(stream);
            network.run_for(5 * DELAY);
            dialer.drop_stream(stream);
        }
        network.run_for(5 * DELAY);
        listener.with(|connection| connection.set_receive_limit(u64::MAX));
        let arrived = stall(&mut network, &[(&dialer, open(&dialer))]);
        assert_about(arrived, FIRST_STREAM);
    }
}

/// quinn-proto would give it at the reset, and again for what nobody has read.
#[test]
fn credit_for_a_stream_that_is_reset_and_dropped_is_given_once() {
    let (mut network, dialer, listener) = pair();
    let stream = open(&dialer);
    stall(&mut network, &[(&dialer, stream)]);
    dialer.reset(stream, 0).unwrap();
    network.run_for(5 * DELAY);
    assert_eq!(listener.accept().now_or_never(), Some(Ok(stream)));
    listener.drop_stream(stream);
    dialer.drop_stream(stream);
    network.run_for(5 * DELAY);
    let streams = [(); 3].map(|()| (&dialer, open(&dialer)));
    let arrived = stall(&mut network, &streams);
    assert_about(arrived, FIRST_CONNECTION);
}

#[test]
fn limits_of_streams_that_are_over_are_forgotten() {
    const ENOUGH: usize = 15_000_000;

    let (mut network, dialer, listener) = pair();
    for end in 0..6 {
        let stream = open(&dialer);
        transfer(&mut network, &dialer, &listener, stream, ENOUGH);
        assert_eq!(grown(&listener).limits, 1);
        match end {
            0 => dialer.finish(stream).unwrap(),
            1 => dialer.reset(stream, 1).unwrap(),
            // What is under way arrives after it.
            2 => {
                dialer.write_now(stream, &[0; 60_000]);
                listener.stop(stream, 1).unwrap();
            }
            3 => listener.drop_stream(stream),
            4 => {
                dialer.finish(stream).unwrap();
                network.run_for(4 * DELAY);
                listener.stop(stream, 1).unwrap();
            }
            _ => {
                dialer.reset(stream, 1).unwrap();
                network.run_for(4 * DELAY);
                listener.drop_stream(stream);
            }
        }
        network.run_for(4 * DELAY);
        // Reads the end, if it was not dropped.
        let reader = listener.clone();
        let _ = network.block_on(async move { reader.read(stream, &mut [0]).await });
        assert_eq!(grown(&listener).limits, 0, "{end}");
        listener.drop_stream(stream);
        dialer.drop_stream(stream);
    }
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

#[test]
fn end_of_a_stream_may_come_so_late_that_it_is_dropped() {
    /// So many packets that quinn-proto takes an earlier one for a duplicate.
    const OVERTAKING: u64 = 129;

    let (mut network, dialer, listener) = pair();
    let stream = open(&dialer);
    transfer(&mut network, &dialer, &listener, stream, 15_000_000);
    network.run_for(4 * DELAY);
    dialer.reset(stream, 1).unwrap();
    network.settle();
    let late = network.intercept();
    assert!(!late.is_empty());
    listener.drop_stream(stream);
    let before = listener.stats().datagrams_received;
    let other = open(&dialer);
    for _ in 0..8 {
        assert!(dialer.write_now(other, &[7; 64 * 1024]) > 0);
    }
    // What is lost is sent again after a round trip.
    network.run_for(DELAY * 5 / 2);
    let after = listener.stats().datagrams_received;
    assert!(after - before >= OVERTAKING, "{before} {after}");
    let now = network.now;
    for datagram in late {
        network.nodes[1].receive(now, datagram.from, &datagram.contents);
    }
    // It is sent again.
    network.run_for(10 * DELAY);
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    assert_eq!(grown(&listener).limits, 0);
    assert_goes_on(&mut network, &dialer, &listener);
}

#[test]
fn peer_that_exceeds_what_it_was_told_is_closed() {
    for read in [0, 8_000_000] {
        let is_greedy: Arc<AtomicBool> = Arc::default();
        let setup = setup();
        let greedy = Setup {
            changes: greed(&is_greedy),
            ..setup.clone()
        };
        let (mut network, dialer, listener) = pair_of(greedy, setup);
        let stream = open(&dialer);
        if read > 0 {
            transfer(&mut network, &dialer, &listener, stream, read);
            assert_eq!(grown(&listener).limits, 1);
        }
        is_greedy.store(true, Ordering::Relaxed);
        let data = vec![7; 64 * 1024];
        for _ in 0..200 {
            if dialer.loss().is_some() {
                break;
            }
            while dialer.loss().is_none() && dialer.write_now(stream, &data) > 0 {}
            network.run_for(DELAY / 4);
        }
        let code = u64::from(TransportErrorCode::FLOW_CONTROL_ERROR);
        assert!(
            matches!(listener.loss(), Some(ConnectionError::Violation { code: seen, .. }) if seen == code),
            "{:?}",
            listener.loss()
        );
        assert!(
            matches!(dialer.loss(), Some(ConnectionError::AbortedByPeer { code: told, .. }) if told == code),
            "{:?}",
            dialer.loss()
        );
        assert_eq!(network.nodes[1].stats().1.exceeded_credit, 1);
    }
}

#[test]
fn peers_that_were_fast_and_stall_share_the_budget() {
    const LIMIT: u64 = 100_000_000;
    const PEERS: usize = 8;
    /// What each connection may hold in any case, in each direction, and a batch that is in flight.
    const EACH: u64 = 512 * 1024;

    let mut network = Network::new(1);
    network.record_nothing();
    network.add(Setup {
        configure: |builder| builder.max_buffered_bytes(Some(LIMIT)).unwrap(),
        ..setup()
    });
    network.impair(far());
    let (mut peers, mut large) = (Vec::new(), Vec::new());
    for _ in 0..PEERS {
        let node = network.add(setup());
        let (dialer, listener) = network.connect(node, 0);
        let stream = open(&dialer);
        transfer(&mut network, &dialer, &listener, stream, MUCH / 3);
        let windows = grown(&listener);
        // What the budget leaves to one connection.
        assert!(windows.connection <= LIMIT / 4, "{windows:?}");
        if windows.connection > FIRST_CONNECTION {
            large.push(windows.connection);
        }
        peers.push((dialer, listener, stream));
    }
    // Half of the budget, and the one that exceeds it.
    assert!(!large.is_empty());
    let promised: u64 = large.iter().sum();
    assert!(promised <= LIMIT / 2 + LIMIT / 4, "{large:?}");
    let data = vec![7; 64 * 1024];
    for _ in 0..100 {
        for (dialer, _, stream) in &peers {
            while dialer.write_now(*stream, &data) > 0 {}
        }
        network.run_for(DELAY / 2);
        let used = network.nodes[0].budget.used();
        assert!(used <= LIMIT + PEERS as u64 * EACH, "{used}");
    }
    let used = network.nodes[0].budget.used();
    assert!(used > LIMIT / 2, "{used}");

    // Now nothing grows, although it is read as fast as anything before.
    let node = network.add(setup());
    let (dialer, listener) = network.connect(node, 0);
    let stream = open(&dialer);
    transfer(&mut network, &dialer, &listener, stream, MUCH / 3);
    assert_eq!(grown(&listener).stream, FIRST_STREAM);
    for (dialer, listener, _) in &peers {
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
        listener.close(0);
    }
    // What has arrived counts as long as it can be read.
    drop(peers);
    network.run_for(Duration::from_secs(5));
    transfer_on(&mut network, &dialer, &listener, stream, MUCH / 3);
    assert!(grown(&listener).stream > FIRST_STREAM);
}

#[test]
fn nothing_grows_while_half_of_the_budget_is_used_and_windows_shrink_under_pressure() {
    const LIMIT: u64 = 400_000_000;

    let limited = Setup {
        configure: |builder| builder.max_buffered_bytes(Some(LIMIT)).unwrap(),
        ..setup()
    };
    let (mut network, dialer, listener) = pair_of(setup(), limited);
    let budget = network.nodes[1].budget.clone();
    let mut others = BudgetShare::default();
    others.set(LIMIT * 11 / 20, &budget);
    let stream = open(&dialer);
    transfer(&mut network, &dialer, &listener, stream, MUCH / 3);
    // A quarter of the rest would be 45 MB for the connection.
    assert_eq!(grown(&listener).stream, FIRST_STREAM);
    others.set(LIMIT * 9 / 20, &budget);
    transfer_on(&mut network, &dialer, &listener, stream, MUCH / 3);
    let before = grown(&listener).stream;
    assert!(before > FIRST_STREAM * 2, "{before}");
    // What has grown stays, until there is less memory for it.
    others.set(LIMIT * 11 / 20, &budget);
    transfer_on(&mut network, &dialer, &listener, stream, MUCH / 3);
    let after = grown(&listener).stream;
    assert!(
        after > FIRST_STREAM * 2 && after <= before,
        "{before} {after}"
    );
    others.set(LIMIT * 19 / 20, &budget);
    transfer_on(&mut network, &dialer, &listener, stream, MUCH / 3);
    assert_eq!(grown(&listener).stream, FIRST_STREAM);
    others.set(0, &budget);
}

/// Makes a peer send on its first stream whatever the connection may, once it is told to.
fn greed(is_greedy: &Arc<AtomicBool>) -> Changes {
    let is_greedy = Arc::clone(is_greedy);
    let heard = move |level, payload: &mut BytesMut| {
        if level == Level::OneRtt && is_greedy.load(Ordering::Relaxed) {
            payload.extend_from_slice(&frame::encode(&[Frame::MaxStreamData {
                stream: Number(0),
                limit: Number(1 << 40),
            }]));
        }
    };
    Changes {
        heard: Some(Arc::new(Mutex::new(heard))),
        ..Changes::default()
    }
}

fn setup() -> Setup {
    Setup {
        protection: Protection::None,
        ..Setup::default()
    }
}

fn far() -> Impairments {
    Impairments {
        delay: DELAY,
        ..Impairments::NONE
    }
}

/// With default settings and a round trip of 200 ms.
fn pair() -> (Network, Peer, Peer) {
    pair_of(setup(), setup())
}

fn pair_of(dialer: Setup, listener: Setup) -> (Network, Peer, Peer) {
    let mut network = Network::pair(1, dialer, listener);
    network.record_nothing();
    network.impair(far());
    let (dialer, listener) = network.connect(0, 1);
    (network, dialer, listener)
}

fn grown(peer: &Peer) -> Grown {
    peer.with(|connection| connection.grown())
}

fn open(dialer: &Peer) -> StreamId {
    dialer.open().now_or_never().unwrap().unwrap()
}

/// Sends that many bytes on a new stream, which are read at once.
fn transfer(network: &mut Network, dialer: &Peer, listener: &Peer, stream: StreamId, bytes: usize) {
    let opened = join_transfer(dialer, listener, stream, bytes, true);
    network.block_on(opened);
}

/// The same on a stream that was used before.
fn transfer_on(
    network: &mut Network,
    dialer: &Peer,
    listener: &Peer,
    stream: StreamId,
    bytes: usize,
) {
    let used = join_transfer(dialer, listener, stream, bytes, false);
    network.block_on(used);
}

fn join_transfer(
    dialer: &Peer,
    listener: &Peer,
    stream: StreamId,
    bytes: usize,
    is_new: bool,
) -> impl Future<Output = ()> + 'static {
    let (dialer, listener) = (dialer.clone(), listener.clone());
    async move {
        let write = async {
            let data = vec![7; 256 * 1024];
            let mut left = bytes;
            while left > 0 {
                let most = left.min(data.len());
                left -= dialer.write(stream, &data[..most]).await.unwrap();
            }
        };
        let read = async {
            if is_new {
                assert_eq!(listener.accept().await.unwrap(), stream);
            }
            let mut buf = vec![0; 256 * 1024];
            let mut left = bytes;
            while left > 0 {
                let most = left.min(buf.len());
                left -= listener.read(stream, &mut buf[..most]).await.unwrap();
            }
        };
        join(write, read).await;
    }
}

/// Writes that many bytes, for which there is credit.
fn write(network: &mut Network, dialer: &Peer, stream: StreamId, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let written = dialer.write_now(stream, &vec![7; left]);
        assert!(written > 0);
        left -= written;
        network.run_for(2 * DELAY);
    }
}

/// Writes to streams as much as is taken; returns how much that was.
fn stall(network: &mut Network, streams: &[(&Peer, StreamId)]) -> u64 {
    let data = vec![7; 64 * 1024];
    let mut sent = 0;
    for (dialer, _) in streams.iter().take(1) {
        sent = dialer.stats().bytes_sent;
    }
    for _ in 0..200 {
        for (dialer, stream) in streams {
            while dialer.write_now(*stream, &data) > 0 {}
        }
        network.run_for(DELAY / 2);
    }
    streams[0].0.stats().bytes_sent - sent
}

fn assert_about(arrived: u64, expected: u64) {
    assert!(
        (expected * 9 / 10..expected * 21 / 20).contains(&arrived),
        "{arrived}"
    );
}

/// A few round trips with few data in each.
fn read_slowly(network: &mut Network, dialer: &Peer, listener: &Peer) {
    for _ in 0..5 {
        network.run_for(5 * DELAY);
        assert_goes_on(network, dialer, listener);
    }
}

/// Another stream is read to its end.
fn assert_goes_on(network: &mut Network, dialer: &Peer, listener: &Peer) {
    let (dialer, listener) = (dialer.clone(), listener.clone());
    let read = network.block_on(async move {
        let write = async {
            let stream = dialer.open().await.unwrap();
            dialer.write_all(stream, &vec![9; 2_000_000]).await.unwrap();
            dialer.finish(stream).unwrap();
            stream
        };
        let read = async {
            loop {
                let stream = listener.accept().await.unwrap();
                let mut buf = [0; 1];
                listener.read(stream, &mut buf).await.unwrap();
                if buf == [9] {
                    let read = listener.read_to_end(stream).await.unwrap().len();
                    listener.drop_stream(stream);
                    return read;
                }
            }
        };
        let (stream, read) = join(write, read).await;
        dialer.drop_stream(stream);
        read
    });
    assert_eq!(read, 1_999_999);
}
