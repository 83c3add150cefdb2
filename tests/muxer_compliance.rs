//! The rules of libp2p for a muxer and its streams, and our additional guarantees.
//!
//! libp2p's own test harness for muxers is not published; its rules are restated here. If the side
//! of the dialer matters, a rule is tried both ways.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::VecDeque, future::poll_fn, io, task::Poll};

use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::{join, poll_immediate},
};
use libp2p_core::{StreamMuxer, muxing::StreamMuxerBox, muxing::StreamMuxerExt};
use libp2p_quinn::{ConfigBuilder, ConfigError, Connection, ConnectionError, StreamError};
use support::{
    node::{Node, bounded, connect, echo, until},
    streams::{accept, fill, open, open_between, receive, send, stream_error},
};
use tokio::task::unconstrained;

/// Tries a rule with the dialer as the first side, and with the listener.
async fn both_ways(rule: impl AsyncFn(Connection, Connection)) {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (dialled, accepted) = connect(&mut dialer, &mut listener).await;
        rule(dialled, accepted).await;
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (dialled, accepted) = connect(&mut dialer, &mut listener).await;
        rule(accepted, dialled).await;
    })
    .await;
}

async fn read_all(stream: &mut (impl futures::AsyncRead + Unpin)) -> Vec<u8> {
    let mut contents = Vec::new();
    stream.read_to_end(&mut contents).await.unwrap();
    contents
}

/// Writes until the peer's reset arrives.
async fn write_until_error(stream: &mut (impl futures::AsyncWrite + Unpin)) -> io::Error {
    loop {
        if let Err(error) = stream.write_all(&[0; 1000]).await {
            return error;
        }
    }
}

#[tokio::test]
async fn closing_a_stream_delivers_what_was_written_to_it() {
    both_ways(async |mut alice, mut bob| {
        let mut sent = open(&mut alice).await;
        sent.write_all(b"PING").await.unwrap();
        sent.close().await.unwrap();
        assert_eq!(read_all(&mut accept(&mut bob).await).await, b"PING");
    })
    .await;
}

#[tokio::test]
async fn a_closed_stream_can_still_be_read() {
    both_ways(async |mut alice, mut bob| {
        let mut asked = open(&mut alice).await;
        asked.write_all(b"PING").await.unwrap();
        asked.close().await.unwrap();
        let mut answering = accept(&mut bob).await;
        assert_eq!(read_all(&mut answering).await, b"PING");
        answering.write_all(b"PONG").await.unwrap();
        answering.close().await.unwrap();
        assert_eq!(read_all(&mut asked).await, b"PONG");
        // The end is reported on every further read.
        assert_eq!(asked.read(&mut [0; 8]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn both_sides_open_streams_at_the_same_time() {
    both_ways(async |mut alice, mut bob| {
        let (mut from_alice, mut from_bob) = join(open(&mut alice), open(&mut bob)).await;
        from_alice.write_all(b"alice").await.unwrap();
        from_bob.write_all(b"bob").await.unwrap();
        let (mut at_alice, mut at_bob) = join(accept(&mut alice), accept(&mut bob)).await;
        for stream in [&mut from_alice, &mut from_bob] {
            stream.close().await.unwrap();
        }
        assert_eq!(read_all(&mut at_alice).await, b"bob");
        assert_eq!(read_all(&mut at_bob).await, b"alice");
    })
    .await;
}

#[tokio::test]
async fn each_half_outlives_the_other() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        near.close().await.unwrap();
        assert_eq!(read_all(&mut far).await, b"");
        for word in [&b"still"[..], b"here"] {
            far.write_all(word).await.unwrap();
            let mut read = vec![0; word.len()];
            near.read_exact(&mut read).await.unwrap();
            assert_eq!(read, word);
        }
        let written = near.write_all(b"too late").await.unwrap_err();
        assert_eq!(written.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(stream_error(&written), &StreamError::Closed);
        // Closing again is no error.
        near.close().await.unwrap();
        far.close().await.unwrap();
        far.close().await.unwrap();
        assert_eq!(read_all(&mut near).await, b"");
    })
    .await;
}

#[tokio::test]
async fn a_dropped_stream_is_finished_and_its_bytes_are_delivered() {
    both_ways(async |mut alice, mut bob| {
        let mut sent = open(&mut alice).await;
        let written = vec![7; 300_000];
        sent.write_all(&written).await.unwrap();
        drop(sent);
        let mut received = accept(&mut bob).await;
        assert_eq!(read_all(&mut received).await, written);
        assert_eq!(received.reset_code(), None);
    })
    .await;
}

#[tokio::test]
async fn a_stream_dropped_after_many_small_writes_delivers_them_all() {
    both_ways(async |mut alice, mut bob| {
        let mut sent = open(&mut alice).await;
        // Less than one window, so that none of it waits for the peer.
        for number in 0..1000_u32 {
            sent.write_all(&number.to_be_bytes()).await.unwrap();
        }
        drop(sent);
        let received = read_all(&mut accept(&mut bob).await).await;
        let expected: Vec<u8> = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(received, expected);
    })
    .await;
}

#[tokio::test]
async fn a_stream_dropped_unread_asks_the_peer_to_stop() {
    both_ways(async |mut alice, mut bob| {
        let (near, mut far) = open_between(&mut alice, &mut bob).await;
        drop(near);
        let error = write_until_error(&mut far).await;
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(stream_error(&error), &StreamError::Stopped(0));
        assert_eq!(far.stop_code(), Some(0));
        // go closes streams like that, so it must not make `close` fail.
        far.close().await.unwrap();
        assert_eq!(read_all(&mut far).await, b"");
    })
    .await;
}

#[tokio::test]
async fn a_stream_dropped_after_the_end_stops_nothing() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        far.close().await.unwrap();
        assert_eq!(read_all(&mut near).await, b"");
        drop(near);
        assert_eq!(read_all(&mut far).await, b"");
        assert_eq!(far.stop_code(), None);
    })
    .await;
}

#[tokio::test]
async fn a_reset_arrives_with_its_code() {
    both_ways(async |mut alice, mut bob| {
        for code in [0, 42, (1 << 62) - 1] {
            let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
            assert_eq!(far.reset_code(), None);
            near.reset(code).unwrap();
            for _ in 0..2 {
                let error = far.read(&mut [0; 8]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert_eq!(stream_error(&error), &StreamError::Reset(code));
            }
            assert_eq!(far.reset_code(), Some(code));
            // The other half is not concerned.
            far.write_all(b"go on").await.unwrap();
            far.close().await.unwrap();
            assert_eq!(read_all(&mut near).await, b"go on");
            let error = near.write(b"no").await.unwrap_err();
            assert_eq!(stream_error(&error), &StreamError::Closed);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_arrives_with_its_code() {
    both_ways(async |mut alice, mut bob| {
        for code in [0, 42, (1 << 62) - 1] {
            let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
            assert_eq!(far.stop_code(), None);
            near.stop(code).unwrap();
            let error = write_until_error(&mut far).await;
            assert_eq!(stream_error(&error), &StreamError::Stopped(code));
            assert_eq!(far.stop_code(), Some(code));
            // It is too late for a reset, which must not overwrite the reason.
            assert_eq!(far.reset(7), Err(StreamError::Closed));
            assert_eq!(far.stop_code(), Some(code));
            far.close().await.unwrap();
            assert_eq!(near.stop(code), Err(StreamError::Closed));
            // The other half is not concerned.
            near.write_all(b"go on").await.unwrap();
            near.close().await.unwrap();
            assert_eq!(read_all(&mut far).await, b"go on");
        }
    })
    .await;
}

#[tokio::test]
async fn streams_dropped_before_the_peer_takes_them_make_room_for_others() {
    bounded(async {
        let (_dialer, _listener, mut alice, mut bob) =
            connect_with(|config| config.max_peer_streams(2)).await;
        for _ in 0..10 {
            let mut stream = open(&mut alice).await;
            stream.write_all(b"gone").await.unwrap();
            drop(stream);
            // This stream arrives after the packets that the drop has sent.
            let (mut from_bob, mut at_alice) = open_between(&mut bob, &mut alice).await;
            at_alice.write_all(b"?").await.unwrap();
            from_bob.read_exact(&mut [0]).await.unwrap();
            let mut accepted = accept(&mut bob).await;
            assert_eq!(accepted.stop_code(), Some(0));
            assert_eq!(read_all(&mut accepted).await, b"gone");
        }
    })
    .await;
}

#[tokio::test]
async fn codes_that_do_not_fit_become_the_largest_that_does() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        near.reset(u64::MAX).unwrap();
        let error = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(stream_error(&error), &StreamError::Reset((1 << 62) - 1));
    })
    .await;
}

#[tokio::test]
async fn codes_survive_the_boxing_of_muxers() {
    both_ways(async |mut alice, bob| {
        let mut bob = StreamMuxerBox::new(bob);
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        near.reset(5).unwrap();
        near.stop(6).unwrap();
        let error = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(stream_error(&error), &StreamError::Reset(5));
        let error = write_until_error(&mut far).await;
        assert_eq!(stream_error(&error), &StreamError::Stopped(6));
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_ends_its_streams() {
    both_ways(async |mut alice, mut bob| {
        let (near, mut far) = open_between(&mut alice, &mut bob).await;
        alice.close_with(99, "good bye");
        let lost = ConnectionError::ClosedByPeer {
            code: 99,
            reason: "good bye".into(),
        };
        let read = far.read(&mut [0; 8]).await.unwrap_err();
        let written = far.write(b"x").await.unwrap_err();
        let closed = far.close().await.unwrap_err();
        for error in [read, written, closed] {
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
            assert_eq!(stream_error(&error), &StreamError::Connection(lost.clone()));
        }
        let polled = poll_fn(|cx| bob.poll_unpin(cx)).await;
        assert_eq!(polled.unwrap_err(), lost);
        drop(near);
    })
    .await;
}

#[tokio::test]
async fn our_own_streams_end_with_our_own_close() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, _far) = open_between(&mut alice, &mut bob).await;
        alice.close_with(99, "good bye");
        let error = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert_eq!(
            stream_error(&error),
            &StreamError::Connection(ConnectionError::LocallyClosed)
        );
        alice.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn dropping_the_muxer_closes_the_connection_with_code_zero() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, _far) = open_between(&mut alice, &mut bob).await;
        drop(alice);
        let error = poll_fn(|cx| bob.poll_unpin(cx)).await.unwrap_err();
        assert_eq!(
            error,
            ConnectionError::ClosedByPeer {
                code: 0,
                reason: String::new()
            }
        );
        let error = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    })
    .await;
}

#[tokio::test]
async fn what_has_arrived_can_be_read_after_the_connection_was_closed() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        near.write_all(&[7; 1000]).await.unwrap();
        let mut first = [0];
        far.read_exact(&mut first).await.unwrap();
        alice.close_with(1, "");
        let _ = poll_fn(|cx| bob.poll_unpin(cx)).await.unwrap_err();
        let mut rest = vec![0; 999];
        far.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, [7; 999]);
        let error = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    })
    .await;
}

#[tokio::test]
async fn a_close_ends_when_the_peer_is_told() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let (near, far) = open_between(&mut dialled, &mut accepted).await;
        let close = poll_fn(|cx| dialled.poll_close_unpin(cx));
        close.await.unwrap();
        let registry = dialer.stats().registry;
        assert_eq!(registry.connections, 0);
        assert_eq!(registry.peers, 0);
        assert_eq!(registry.remote_addresses, 0);
        // Closing again is no error; the other side gets the first code.
        dialled.close().await.unwrap();
        let _ = poll_fn(|cx| accepted.poll_unpin(cx)).await.unwrap_err();
        let closed = accepted.close().await;
        assert_eq!(
            closed.unwrap_err(),
            ConnectionError::ClosedByPeer {
                code: 0,
                reason: String::new()
            }
        );
        assert_eq!(listener.stats().registry.connections, 0);
        drop((near, far));
        // The IDs are kept a little longer, for late packets.
        for node in [&dialer, &listener] {
            until(|| {
                let registry = node.stats().registry;
                registry.active_ids == 0 && registry.initial_ids == 0 && registry.closing == 0
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn two_hundred_and_fifty_six_streams_are_there_and_the_next_one_waits_for_room() {
    both_ways(async |mut alice, mut bob| {
        let mut streams = VecDeque::new();
        for _ in 0..256 {
            streams.push_back(open_between(&mut alice, &mut bob).await);
        }
        assert!(opens_none(&mut alice).await);
        // The peer's own streams have a separate limit.
        let (_from_bob, _at_alice) = open_between(&mut bob, &mut alice).await;
        assert!(opens_none(&mut alice).await);
        // The peer gets credit in steps of an eighth, not for every stream.
        for (mut near, mut far) in streams.drain(..33) {
            near.close().await.unwrap();
            assert_eq!(read_all(&mut far).await, b"");
            far.close().await.unwrap();
            assert_eq!(read_all(&mut near).await, b"");
        }
        for _ in 0..33 {
            streams.push_back(open_between(&mut alice, &mut bob).await);
        }
        assert!(opens_none(&mut alice).await);
    })
    .await;
}

/// Whether no stream can be opened now.
async fn opens_none(muxer: &mut Connection) -> bool {
    poll_immediate(poll_fn(|cx| muxer.poll_outbound_unpin(cx)))
        .await
        .is_none()
}

/// Connects two nodes with these settings.
async fn connect_with(
    set: impl Fn(ConfigBuilder) -> Result<ConfigBuilder, ConfigError>,
) -> (Node, Node, Connection, Connection) {
    let (mut dialer, mut listener) = (Node::with(&set), Node::with(&set));
    let (dialled, accepted) = connect(&mut dialer, &mut listener).await;
    (dialer, listener, dialled, accepted)
}

#[tokio::test]
async fn streams_that_nobody_accepts_hold_the_peer_back() {
    bounded(async {
        let (_dialer, _listener, mut alice, mut bob) =
            connect_with(|config| config.max_peer_streams(4)).await;
        for _ in 0..4 {
            let mut stream = open(&mut alice).await;
            stream.write_all(b"whole").await.unwrap();
            stream.close().await.unwrap();
        }
        let (mut from_bob, mut at_alice) = open_between(&mut bob, &mut alice).await;
        from_bob.write_all(b"?").await.unwrap();
        at_alice.read_exact(&mut [0]).await.unwrap();
        assert!(opens_none(&mut alice).await);
        let mut accepted = accept(&mut bob).await;
        assert_eq!(read_all(&mut accepted).await, b"whole");
        drop(accepted);
        open(&mut alice).await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stops_its_sender() {
    const STREAM_WINDOW: usize = 100_000;
    const SEND_WINDOW: usize = 50_000;
    bounded(async {
        let (_dialer, _listener, mut alice, mut bob) = connect_with(|config| {
            config
                .stream_receive_window_bytes(STREAM_WINDOW as u64)?
                .send_window_bytes(SEND_WINDOW as u64)
        })
        .await;
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        let echo = tokio::spawn(echo(bob));
        let written = fill(&mut near, &mut alice).await;
        // The peer's window, and the data that is kept here beyond it.
        assert!(written + 1 >= STREAM_WINDOW, "{written}");
        assert!(
            written < STREAM_WINDOW + SEND_WINDOW + 64 * 1024,
            "{written}"
        );

        let (mut reader, mut writer) = near.split();
        let (sent, received) = tokio::join!(send(&mut writer, 2_000_000), async {
            let mut filled = vec![0; written];
            far.read_exact(&mut filled).await.unwrap();
            assert!(filled.iter().all(|byte| *byte == 9));
            receive(&mut far).await
        });
        assert_eq!(sent, received);
        far.close().await.unwrap();
        assert_eq!(read_all(&mut reader).await, b"");
        drop(alice);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stream_dropped_while_the_peer_holds_it_back_delivers_what_it_has_taken() {
    bounded(async {
        for write_size in [10, 5000] {
            let (dialer, _listener, mut alice, mut bob) = connect_with(|config| {
                config
                    .stream_receive_window_bytes(10_000)?
                    .send_window_bytes(15_000)
            })
            .await;
            let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
            let mut taken = 0;
            // The peer must end this loop, not tokio's cooperative budget.
            unconstrained(async {
                let data = &[3; 5000][..write_size];
                while let Some(written) = poll_immediate(near.write(data)).await {
                    taken += written.unwrap();
                }
            })
            .await;
            // Small writes are gathered beyond the peer's window.
            let expected = if write_size == 10 { 10_000.. } else { 9_999.. };
            assert!(expected.contains(&taken), "{taken}");
            drop(near);
            let received = read_all(&mut far).await;
            assert_eq!(received, vec![3; taken]);
            drop(far);
            until(|| dialer.stats().connections[0].open_streams == 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn small_writes_share_datagrams_and_keep_their_order() {
    const WRITES: u32 = 20_000;
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let before = dialer.stats().transport.datagrams_sent;
        let mut sent = open(&mut dialled).await;
        let write = async {
            for number in 0..WRITES {
                sent.write_all(&number.to_be_bytes()).await.unwrap();
            }
            sent.close().await.unwrap();
        };
        let read = async { read_all(&mut accept(&mut accepted).await).await };
        let ((), received) = join(write, read).await;
        assert!(received.chunks(4).eq((0..WRITES).map(u32::to_be_bytes)));
        let datagrams = dialer.stats().transport.datagrams_sent - before;
        assert!(datagrams < u64::from(WRITES) / 20, "{datagrams}");
    })
    .await;
}

#[tokio::test]
async fn one_stalled_stream_does_not_stall_the_others() {
    bounded(async {
        let (_dialer, _listener, mut alice, mut bob) =
            connect_with(|config| config.stream_receive_window_bytes(50_000)).await;
        let (mut near, _far) = open_between(&mut alice, &mut bob).await;
        let echo = tokio::spawn(echo(bob));
        fill(&mut near, &mut alice).await;
        support::streams::transfer_through_echo(&mut alice, 500_000).await;
        drop(alice);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn flushing_and_empty_reads_and_writes_are_ready_at_once() {
    both_ways(async |mut alice, mut bob| {
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        assert!(poll_immediate(near.flush()).await.unwrap().is_ok());
        assert_eq!(poll_immediate(near.write(&[])).await.unwrap().unwrap(), 0);
        assert_eq!(poll_immediate(far.read(&mut [])).await.unwrap().unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_pending_call_that_is_dropped_has_taken_nothing() {
    both_ways(async |mut alice, mut bob| {
        assert!(
            poll_immediate(poll_fn(|cx| bob.poll_inbound_unpin(cx)))
                .await
                .is_none()
        );
        let (mut near, mut far) = open_between(&mut alice, &mut bob).await;
        let mut word = [0; 4];
        assert!(poll_immediate(far.read(&mut word)).await.is_none());
        near.write_all(b"word").await.unwrap();
        far.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"word");
    })
    .await;
}

#[tokio::test]
async fn the_last_waker_of_a_call_is_the_one_that_is_woken() {
    both_ways(async |mut alice, mut bob| {
        // The first task waits, and another task takes its place.
        let waiting = poll_immediate(poll_fn(|cx| bob.poll_inbound_unpin(cx))).await;
        assert!(waiting.is_none());
        let accepting = tokio::spawn(async move { accept(&mut bob).await });
        tokio::task::yield_now().await;
        let mut stream = open(&mut alice).await;
        stream.write_all(b"!").await.unwrap();
        let accepted = accepting.await.unwrap();
        drop(accepted);
    })
    .await;
}

#[tokio::test]
async fn streams_of_a_dropped_muxer_are_forgotten() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let (near, far) = open_between(&mut dialled, &mut accepted).await;
        let open_streams = |node: &Node| node.stats().connections[0].open_streams;
        assert_eq!((open_streams(&dialer), open_streams(&listener)), (1, 1));
        drop((near, far));
        until(|| (open_streams(&dialer), open_streams(&listener)) == (0, 0)).await;
        drop((dialled, accepted));
        until(|| dialer.stats().registry.connections == 0).await;
        until(|| listener.stats().registry.connections == 0).await;
    })
    .await;
}

#[tokio::test]
async fn an_idle_muxer_has_nothing_to_report() {
    both_ways(async |mut alice, mut bob| {
        let (_near, _far) = open_between(&mut alice, &mut bob).await;
        for muxer in [&mut alice, &mut bob] {
            let polled =
                poll_fn(|cx| Poll::Ready(StreamMuxer::poll(std::pin::Pin::new(&mut *muxer), cx)));
            assert!(polled.await.is_pending());
        }
    })
    .await;
}
