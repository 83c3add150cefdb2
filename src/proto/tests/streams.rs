//! Streams: their ends, their order, and flow control.

use std::time::Duration;

use futures::{FutureExt, future::join};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    link::Impairments,
    network::Network,
    node::{Node, Setup},
    peer::Peer,
    received::holding,
    seeds, set_windows,
    transfer::{patient, payload},
};
use crate::{error::StreamError, proto::StreamId};

/// The window in these tests, small enough to matter.
const WINDOW_BYTES: u64 = 8 * 1024;

/// The most bytes of small writes that one stream gathers.
const GATHER_BYTES: usize = 16 * 1024;

/// Streams that a peer may have open in these tests.
const MAX_STREAMS: u32 = 4;

#[test]
fn one_half_may_be_closed_long_before_the_other() {
    let (mut network, dialer, listener) = connected(Setup::default());
    network.block_on(async move {
        let stream = dialer.open().await.unwrap();
        dialer.write_all(stream, b"question").await.unwrap();
        dialer.finish(stream).unwrap();
        assert_eq!(
            dialer.write(stream, b"more").await,
            Err(StreamError::Closed)
        );

        let accepted = listener.accept().await.unwrap();
        assert_eq!(listener.read_to_end(accepted).await.unwrap(), b"question");
        listener.write_all(accepted, b"answer").await.unwrap();
        listener.finish(accepted).unwrap();
        assert_eq!(dialer.read_to_end(stream).await.unwrap(), b"answer");
        // The end is reported again.
        assert_eq!(dialer.read(stream, &mut [0; 8]).await, Ok(0));
    });
}

#[test]
fn reset_and_stop_arrive_with_their_codes() {
    let (mut network, dialer, listener) = connected(Setup::default());
    network.block_on(async move {
        let stream = dialer.open().await.unwrap();
        dialer.write_all(stream, b"x").await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!(listener.read(accepted, &mut [0; 8]).await, Ok(1));

        dialer.reset(stream, 17).unwrap();
        let read = listener.read(accepted, &mut [0; 8]).await;
        assert_eq!(read, Err(StreamError::Reset(17)));
        assert_eq!(
            listener.with(|connection| connection.streams().reset_code(accepted)),
            Some(17)
        );

        dialer.stop(stream, 23).unwrap();
        let stopped = loop {
            if let Err(error) = listener.write(accepted, &[0; 4096]).await {
                break error;
            }
        };
        assert_eq!(stopped, StreamError::Stopped(23));
        assert_eq!(
            listener.with(|connection| connection.streams().stop_code(accepted)),
            Some(23)
        );
        // Nobody will read it, so finishing it succeeds without doing anything.
        assert_eq!(listener.finish(accepted), Ok(()));
    });
}

/// Credit and the end arrive in one packet after the sender has dropped the stream.
#[test]
fn stream_that_is_stopped_with_bytes_to_come_is_reset() {
    let setup = Setup {
        configure: set_windows::<{ 8 * 1024 }, { 12 * 1024 }>,
        ..Setup::default()
    };
    let (mut network, dialer, listener) = connected(setup);
    network.run_for(Duration::from_secs(1));
    let [first, second] = [(); 2].map(|()| dialer.open().now_or_never().unwrap().unwrap());
    assert_eq!(dialer.write_now(first, &[0; 8 * 1024]), 8 * 1024);
    assert_eq!(dialer.write_now(second, &[0; 8 * 1024]), 4 * 1024);
    // Gathered, because nothing more can be sent.
    assert_eq!(dialer.write_now(second, b"x"), 1);
    dialer.drop_stream(first);
    dialer.drop_stream(second);
    network.run_for(Duration::from_secs(1));
    let [first, second] = [(); 2].map(|()| listener.accept().now_or_never().unwrap().unwrap());
    let read = listener.read_to_end(first).now_or_never();
    assert_eq!(read, Some(Ok(vec![0; 8 * 1024])));
    listener.stop(second, 0).unwrap();
    network.run_for(Duration::from_secs(1));
    let unfinished = dialer.with(|connection| connection.unfinished_streams());
    assert_eq!(unfinished, 0);
}

/// Streams of a peer that accepts almost no data share one limit on gathered data.
#[test]
fn what_waits_for_credit_is_bounded_and_counts() {
    const CREDIT: usize = 200 * 1024;
    let setup = Setup {
        configure: set_windows::<{ 2 * 1024 }, { CREDIT as u64 }>,
        ..Setup::default()
    };
    let (mut network, dialer, _listener) = connected(setup);
    network.run_for(Duration::from_secs(1));
    let mut taken = 0;
    for _ in 0..100 {
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        while let written @ 1.. = dialer.write_now(stream, &[0; 4000]) {
            taken += written;
        }
        network.run_for(Duration::from_millis(1));
    }
    assert!(taken > 1024 * 1024, "{taken}");
    assert!(taken <= 1024 * 1024 + CREDIT + 4096, "{taken}");
    let buffered = dialer.with(|connection| connection.buffered_bytes());
    assert!(buffered >= (taken - CREDIT) as u64, "{buffered} of {taken}");
}

#[test]
fn slow_reader_stops_its_sender() {
    let (mut network, dialer, listener) = connected(narrow());
    let contents = payload(1, 200_000);
    let expected = contents.clone();
    let (stream, accepted) = open_stream(&mut network, &dialer, &listener);

    let mut taken = 0;
    for _ in 0..100 {
        taken += dialer.write_now(stream, &contents[taken..]);
        network.run_for(Duration::from_millis(50));
    }
    // Unread data is with the receiver, and does not exceed its window.
    assert_eq!(taken as u64, WINDOW_BYTES - 1);

    let resumed = network.elapsed();
    let received = network.block_on(async move {
        let send = async {
            dialer.write_all(stream, &contents[taken..]).await.unwrap();
            dialer.finish(stream).unwrap();
        };
        join(send, listener.read_to_end(accepted)).await.1
    });
    assert!(received.unwrap() == [&[0][..], &expected].concat());
    // Credit is given as soon as something is read, a window for each round trip of 20 ms; it does
    // not wait for the next acknowledgement.
    let took = network.elapsed() - resumed;
    assert!(took < Duration::from_millis(600), "{took:?}");
}

/// It stays in quinn-proto, which saves a copy.
#[test]
fn what_is_left_behind_a_small_read_is_not_moved() {
    const BYTES: usize = 5_000;

    let (mut network, dialer, listener) = connected(Setup::default());
    let (stream, accepted) = open_stream(&mut network, &dialer, &listener);
    assert_eq!(dialer.write_now(stream, &[7; BYTES]), BYTES);
    network.run_for(Duration::from_secs(1));
    let mut left = BYTES;
    while left > 1_000 {
        let read = listener.read(accepted, &mut [0; 1_000]).now_or_never();
        assert_eq!(read, Some(Ok(1_000)));
        left -= 1_000;
        let holding = holding(&listener);
        assert_eq!(holding.bytes, 0);
        assert!(holding.backlog >= left as u64);
    }
}

#[test]
fn slow_reader_of_one_stream_does_not_stop_the_others() {
    let (mut network, dialer, listener) = connected(Setup {
        configure: set_windows::<WINDOW_BYTES, { 2 * WINDOW_BYTES }>,
        ..Setup::default()
    });
    let (stalled, _) = open_stream(&mut network, &dialer, &listener);
    while dialer.write_now(stalled, &[0; 4096]) > 0 {}
    let (stream, accepted) = open_stream(&mut network, &dialer, &listener);
    let contents = payload(1, 100_000);
    let received = network.block_on({
        let contents = contents.clone();
        async move {
            let send = async {
                dialer.write_all(stream, &contents).await.unwrap();
                dialer.finish(stream).unwrap();
            };
            join(send, listener.read_to_end(accepted)).await.1
        }
    });
    assert!(received.unwrap()[1..] == contents);
}

#[test]
fn small_writes_are_gathered_and_stay_in_order() {
    let (mut network, dialer, listener) = connected(Setup::default());
    let (stream, accepted) = open_stream(&mut network, &dialer, &listener);
    let contents = payload(1, 70_000);
    let before = network.nodes[0].stats().1.datagrams_sent;
    let mut sizes = (1..40).cycle();
    let mut rest = &contents[..];
    while !rest.is_empty() {
        let size = sizes.next().unwrap().min(rest.len());
        let taken = dialer.write_now(stream, &rest[..size]);
        assert!(taken > 0);
        rest = &rest[taken..];
    }
    dialer.finish(stream).unwrap();
    let received = network.block_on(async move { listener.read_to_end(accepted).await });
    assert!(received.unwrap()[1..] == contents);
    // 3,500 writes; they fill 60 datagrams, in addition to acknowledgements and MTU probes.
    let datagrams = network.nodes[0].stats().1.datagrams_sent - before;
    assert!(datagrams < 100, "{datagrams}");
}

#[test]
fn first_write_after_a_pause_leaves_at_once_and_the_others_in_the_same_turn() {
    let (mut network, dialer, listener) = connected(Setup::default());
    let (stream, accepted) = open_stream(&mut network, &dialer, &listener);
    for size in [1, 1000, 1024, 5000] {
        network.run_for(Duration::from_secs(1));
        let now = network.now;
        let sent = |network: &Network| network.nodes[0].stats().1.bytes_sent;
        let before = sent(&network);
        for _ in 0..2 {
            assert_eq!(dialer.write_now(stream, &vec![0; size]), size);
        }
        network.settle();
        assert_eq!(network.now, now);
        assert!(sent(&network) - before > 2 * size as u64, "{size}");
    }
    // A loss does not delay data that is written after it.
    network.impair(Impairments::DEAD);
    dialer.write_now(stream, &[0; 5000]);
    network.settle();
    network.impair(Impairments::NONE);
    dialer.write_now(stream, &[0; 3000]);
    dialer.finish(stream).unwrap();
    let received = network.block_on(async move { listener.read_to_end(accepted).await });
    assert_eq!(
        received.unwrap().len(),
        1 + 2 * (1 + 1000 + 1024 + 5000) + 8000
    );
}

#[test]
fn small_and_large_writes_stay_in_order_over_a_bad_link() {
    for seed in seeds().take(10) {
        let mut network = Network::pair(seed, narrow(), narrow());
        let (dialer, listener) = network.connect(0, 1);
        network.impair(Impairments {
            jitter: Duration::from_millis(10),
            loss: 0.1,
            ..Impairments::NONE
        });
        let mut random = StdRng::seed_from_u64(seed);
        let contents = payload(seed, 60_000);
        let expected = contents.clone();
        let received = network.block_on(async move {
            let send = async {
                let stream = dialer.open().await.unwrap();
                let mut rest = &contents[..];
                while !rest.is_empty() {
                    let most = if random.random_bool(0.9) { 100 } else { 5000 };
                    let size = random.random_range(1..=most).min(rest.len());
                    dialer.write_all(stream, &rest[..size]).await.unwrap();
                    rest = &rest[size..];
                }
                dialer.drop_stream(stream);
            };
            let receive = async {
                let accepted = listener.accept().await.unwrap();
                listener.read_to_end(accepted).await
            };
            join(send, receive).await.1
        });
        assert!(received.unwrap() == expected, "seed {seed}");
    }
}

#[test]
fn end_follows_gathered_bytes_of_a_dropped_stream_that_was_blocked() {
    let (mut network, dialer, listener) = connected(narrow());
    let (stream, accepted) = open_stream(&mut network, &dialer, &listener);
    let contents = payload(1, 100_000);
    let mut taken = 0;
    for small in contents.chunks(100) {
        let count = dialer.write_now(stream, small);
        taken += count;
        if count < small.len() {
            break;
        }
    }
    // The window is full, and so is the buffer for gathered data behind it.
    assert!(taken > WINDOW_BYTES as usize);
    assert!(taken <= WINDOW_BYTES as usize + GATHER_BYTES + 100);
    dialer.drop_stream(stream);
    network.run_for(Duration::from_secs(1));
    assert_eq!(dialer.open_streams(), 1);

    let received = network.block_on(async move { listener.read_to_end(accepted).await });
    assert!(received.unwrap()[1..] == contents[..taken]);
    assert_eq!(dialer.open_streams(), 0);
}

#[test]
fn streams_that_nobody_accepts_hold_their_opener_back() {
    let (mut network, dialer, listener) = connected(few_streams());
    for _ in 0..MAX_STREAMS {
        let stream = open_now(&mut network, &dialer);
        dialer.write_now(stream.unwrap(), b"x");
    }
    network.run_for(Duration::from_secs(60));
    assert_eq!(open_now(&mut network, &dialer), None);

    let opened = network.block_on(async move {
        let make_room = async {
            let accepted = listener.accept().await.unwrap();
            listener.reset(accepted, 0).unwrap();
            listener.drop_stream(accepted);
        };
        let let_go = async {
            // Streams count until both halves have ended.
            dialer.finish(first_stream()).unwrap();
            dialer.drop_stream(first_stream());
            dialer.open().await
        };
        join(make_room, let_go).await.1
    });
    opened.unwrap();
}

#[test]
fn stream_given_up_before_it_was_accepted_is_not_counted_for_ever() {
    let (mut network, dialer, listener) = connected(few_streams());
    network.block_on(async move {
        for round in 0..5 * MAX_STREAMS {
            let stream = dialer.open().await.unwrap();
            dialer.write_all(stream, b"x").await.unwrap();
            // FIN and STOP_SENDING arrive before the stream is accepted.
            dialer.drop_stream(stream);
            let accepted = listener.accept().await.unwrap();
            if round % 2 == 0 {
                let write = listener.write(accepted, b"y").await;
                assert_eq!(write, Err(StreamError::Stopped(0)));
            }
            listener.drop_stream(accepted);
        }
    });
}

#[test]
fn streams_ended_in_any_way_leave_nothing() {
    for seed in seeds().take(20) {
        let mut network = Network::pair(seed, churning(), churning());
        let (dialer, listener) = network.connect(0, 1);
        network.impair(Impairments {
            jitter: Duration::from_millis(10),
            loss: 0.05,
            ..Impairments::NONE
        });
        let [dialling, listening] = [(&dialer, 1), (&listener, 2)].map(|(peer, salt)| {
            let seed = seed << 8 | salt;
            join(
                churn(peer.clone(), seed),
                churn_back(peer.clone(), seed << 8),
            )
        });
        network.block_on(join(dialling, listening));
        // Lost resets are retransmitted, and credit is given.
        network.impair(Impairments::NONE);
        network.run_for(Duration::from_secs(5));
        assert_eq!((dialer.open_streams(), listener.open_streams()), (0, 0));
        for peer in [&dialer, &listener] {
            for _ in 0..MAX_STREAMS {
                assert!(
                    open_now(&mut network, peer).is_some(),
                    "a stream is not freed"
                );
            }
        }
        dialer.close(0);
        network.run_until_empty();
        network.nodes.iter().for_each(Node::assert_empty);
    }
}

/// The number of streams that one side of [`churn`] opens.
const CHURNED: usize = 60;

/// Opens streams, and ends each in some way.
async fn churn(peer: Peer, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..CHURNED {
        let stream = peer.open().await.unwrap();
        end_somehow(&peer, stream, &mut random).await;
    }
}

/// Accepts as many, and ends each in some way.
async fn churn_back(peer: Peer, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..CHURNED {
        let stream = peer.accept().await.unwrap();
        end_somehow(&peer, stream, &mut random).await;
    }
}

async fn end_somehow(peer: &Peer, stream: StreamId, random: &mut StdRng) {
    // Each of these may fail if the peer was faster; only the final state matters.
    let size = random.random_range(1..3000);
    let _ = peer.write_all(stream, &vec![0; size]).await;
    match random.random_range(0..5) {
        0 => {
            let _ = peer.finish(stream);
            let _ = peer.read_to_end(stream).await;
        }
        1 => drop(peer.reset(stream, 1)),
        2 => drop(peer.stop(stream, 2)),
        3 => drop(peer.finish(stream)),
        _ => {}
    }
    peer.drop_stream(stream);
}

fn connected(setup: Setup) -> (Network, Peer, Peer) {
    let mut network = Network::pair(1, setup.clone(), setup);
    let (dialer, listener) = network.connect(0, 1);
    (network, dialer, listener)
}

/// Opens a stream with one byte, which is not read yet.
fn open_stream(network: &mut Network, dialer: &Peer, listener: &Peer) -> (StreamId, StreamId) {
    let (dialer, listener) = (dialer.clone(), listener.clone());
    network.block_on(async move {
        let stream = dialer.open().await.unwrap();
        dialer.write_all(stream, &[0]).await.unwrap();
        (stream, listener.accept().await.unwrap())
    })
}

/// Opens a stream if that is possible without waiting for the peer.
fn open_now(network: &mut Network, peer: &Peer) -> Option<StreamId> {
    let opened = peer.open().now_or_never();
    network.settle();
    opened.map(Result::unwrap)
}

#[test]
fn peer_that_opens_streams_gets_to_all_it_may_have() {
    let (mut network, dialer, _listener) = connected(Setup::default());
    assert_eq!(opened_with_data(&mut network, &dialer, 0), 100);
    // Half of them would have been enough.
    network.run_for(Duration::from_millis(20));
    assert_eq!(opened_with_data(&mut network, &dialer, 100), 256);
    network.run_for(Duration::from_secs(1));
    assert_eq!(opened_with_data(&mut network, &dialer, 256), 256);
}

#[test]
fn idle_peer_gets_no_more_streams() {
    let (mut network, dialer, _listener) = connected(Setup::default());
    for _ in 0..49 {
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        dialer.write_now(stream, b"x");
    }
    network.run_for(Duration::from_secs(1));
    assert_eq!(opened_with_data(&mut network, &dialer, 49), 100);
}

/// Opens and writes to as many streams as permitted. Returns how many are open, of which `open`
/// were open before.
fn opened_with_data(network: &mut Network, peer: &Peer, open: usize) -> usize {
    let mut count = open;
    while let Some(stream) = peer.open().now_or_never() {
        peer.write_now(stream.unwrap(), b"x");
        count += 1;
    }
    network.settle();
    count
}

fn narrow() -> Setup {
    Setup {
        configure: set_windows::<WINDOW_BYTES, WINDOW_BYTES>,
        ..Setup::default()
    }
}

fn few_streams() -> Setup {
    Setup {
        configure: |builder| builder.max_peer_streams(MAX_STREAMS).unwrap(),
        ..Setup::default()
    }
}

/// Like `few_streams`, for a bad link.
fn churning() -> Setup {
    Setup {
        configure: |builder| {
            (patient().configure)(builder)
                .max_peer_streams(MAX_STREAMS)
                .unwrap()
        },
        ..Setup::default()
    }
}

/// The first stream that a dialer opens (RFC 9000 §2.1).
fn first_stream() -> StreamId {
    quinn_proto::VarInt::from_u32(0).into()
}
