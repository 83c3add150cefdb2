//! Nothing is left when everything has ended.
//!
//! Tests run one at a time here, because they count the descriptors of the process.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    future::poll_fn,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::{AsyncReadExt, AsyncWriteExt, executor::block_on, future::poll_immediate};
use libp2p_core::muxing::StreamMuxerExt;
use libp2p_quinn::{ConnectionError, Error, Handle, HandshakeError, StreamError};
use support::{
    node::{
        Node, bounded, connect, connect_at, descriptors, echo, is_over, poll_now, runtime,
        socket_addr, until,
    },
    streams::{ask, open_between, stream_error, transfer_through_echo},
};

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test that must leave neither a task nor a descriptor.
fn leaves_nothing<T: Future<Output = Vec<Handle>>>(test: impl FnOnce() -> T) {
    let _turn = one_at_a_time();
    let runtime = runtime();
    runtime.block_on(bounded(async {
        let tasks = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let before = (tasks(), descriptors());
        for handle in test().await {
            until(|| is_over(&handle)).await;
        }
        until(|| (tasks(), descriptors()) == before).await;
    }));
}

#[test]
fn a_transport_that_was_never_used_leaves_nothing() {
    leaves_nothing(async || vec![Node::new().transport.handle()]);
}

#[test]
fn a_dropped_listener_leaves_nothing() {
    leaves_nothing(async || {
        let mut node = Node::with(|config| config.shards(3));
        node.listen().await;
        // One for each shard, if the kernel can steer.
        let sockets = if cfg!(target_os = "linux") { 3 } else { 1 };
        assert_eq!(node.stats().transport.sockets, sockets);
        vec![node.transport.handle()]
    });
}

#[test]
fn closed_connections_leave_nothing() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        for _ in 0..5 {
            let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
            let echo = tokio::spawn(echo(accepted));
            transfer_through_echo(&mut dialled, 100_000).await;
            dialled.close().await.unwrap();
            echo.await.unwrap();
        }
        assert_eq!(dialer.stats().registry.connections, 0);
        vec![dialer.transport.handle(), listener.transport.handle()]
    });
}

#[test]
fn connections_outlive_their_transport_and_leave_nothing() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let handles = vec![dialer.transport.handle(), listener.transport.handle()];
        drop((dialer, listener));
        let echo = tokio::spawn(echo(accepted));
        transfer_through_echo(&mut dialled, 1_000_000).await;
        assert!(
            handles
                .iter()
                .all(|handle| handle.stats().registry.connections == 1)
        );
        dialled.close().await.unwrap();
        echo.await.unwrap();
        handles
    });
}

#[test]
fn datagrams_for_a_shard_without_connections_keep_nothing() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::with(|config| config.shards(2)));
        let addr = listener.listen().await;
        let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let handles = vec![dialer.transport.handle(), listener.transport.handle()];
        drop((dialer, listener));
        let echo = tokio::spawn(echo(accepted));
        // One of the two shards has no connection, and stops if it has no socket to read, while
        // strangers still send to it.
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = socket_addr(&addr);
        let unknown = || handles[1].stats().registry.unknown;
        let before = unknown();
        until(|| {
            for first in [0, 1] {
                stranger
                    .send_to(&[0x40, first, 2, 3, 4, 5, 6, 7, 8, 9], target)
                    .unwrap();
            }
            unknown() > before + 100
        })
        .await;
        transfer_through_echo(&mut dialled, 1_000_000).await;
        dialled.close().await.unwrap();
        echo.await.unwrap();
        handles
    });
}

#[test]
fn dropped_connections_and_streams_leave_nothing() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let (mut near, far) = open_between(&mut dialled, &mut accepted).await;
            near.write_all(&[7; 10_000]).await.unwrap();
            streams.push((near, far));
        }
        // Streams are held longer than their connections, and those longer than the transports.
        let handles = vec![dialer.transport.handle(), listener.transport.handle()];
        drop((dialer, listener));
        drop((dialled, accepted));
        for handle in &handles {
            until(|| is_over(handle)).await;
        }
        drop(streams);
        handles
    });
}

#[test]
fn dials_dropped_at_any_point_leave_nothing() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let handle = listener.transport.handle();
        let server = listener.spawn_echo();
        for polls in 0..60 {
            let mut dial = dialer.dial(&addr);
            for _ in 0..polls {
                // At whatever stage it is by then; sometimes it is complete.
                if poll_now(&mut dial).is_ready() {
                    break;
                }
                until(once_more()).await;
            }
        }
        let dialer = dialer.transport.handle();
        until(|| dialer.stats().registry.connections == 0).await;
        until(|| handle.stats().registry.connections == 0).await;
        drop(server);
        vec![dialer, handle]
    });
}

/// Returns `false` once, so that waiting for it lets other tasks run.
fn once_more() -> impl FnMut() -> bool {
    let mut asked = false;
    move || std::mem::replace(&mut asked, true)
}

#[test]
fn upgrades_dropped_at_any_point_leave_nothing() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        for polls in 0..20 {
            let mut dial = tokio::spawn(dialer.dial(&addr));
            // The second datagram of a dial that was just refused may knock again, so there may be
            // more than one knock for a dial.
            loop {
                let mut upgrade = tokio::select! {
                    // Refused, closed or established: it ends in any case.
                    dialled = &mut dial => break drop(dialled.unwrap()),
                    knock = listener.knock() => knock.upgrade,
                };
                for _ in 0..polls {
                    if poll_now(&mut upgrade).is_ready() {
                        break;
                    }
                    until(once_more()).await;
                }
            }
        }
        vec![dialer.transport.handle(), listener.transport.handle()]
    });
}

#[test]
fn a_dropped_transport_refuses_those_who_wait() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let handle = listener.transport.handle();
        let dial = tokio::spawn(dialer.dial(&addr));
        until(|| handle.stats().registry.pending_incoming == 1).await;
        drop(listener);
        let dialled = dial.await.unwrap();
        assert!(
            matches!(dialled, Err(Error::Handshake(HandshakeError::Refused))),
            "{dialled:?}"
        );
        vec![dialer.transport.handle(), handle]
    });
}

#[test]
fn dials_and_upgrades_outlive_their_transport() {
    leaves_nothing(async || {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let handles = vec![dialer.transport.handle(), listener.transport.handle()];
        let dial = dialer.dial(&addr);
        drop(dialer);
        let dial = tokio::spawn(dial);
        let upgrade = listener.knock().await.upgrade;
        drop(listener);
        let (accepted, dialled) = tokio::join!(upgrade, dial);
        let (_, mut dialled) = dialled.unwrap().unwrap();
        let echo = tokio::spawn(echo(accepted.unwrap().1));
        ask(&mut dialled).await;
        drop(dialled);
        echo.await.unwrap();
        handles
    });
}

#[test]
fn the_end_of_the_runtime_ends_everything_with_an_error() {
    let _turn = one_at_a_time();
    let before = descriptors();
    let first = runtime();
    let (dialer, listener, mut dialled, accepted, (mut near, far), upgrade, dial) =
        first.block_on(bounded(async {
            let (mut dialer, mut listener) = (Node::new(), Node::new());
            let addr = listener.listen().await;
            let (mut dialled, mut accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
            let streams = open_between(&mut dialled, &mut accepted).await;
            let mut dial = dialer.dial(&addr);
            assert!(poll_immediate(&mut dial).await.is_none());
            let upgrade = listener.knock().await.upgrade;
            (dialer, listener, dialled, accepted, streams, upgrade, dial)
        }));
    drop(first);

    let stopped = StreamError::Connection(ConnectionError::DriverStopped);
    let read = block_on(near.read(&mut [0; 8])).unwrap_err();
    let written = block_on(near.write(b"x")).unwrap_err();
    for error in [read, written] {
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert_eq!(stream_error(&error), &stopped);
    }
    for _ in 0..2 {
        let polled = block_on(poll_fn(|cx| dialled.poll_unpin(cx)));
        assert_eq!(polled.unwrap_err(), ConnectionError::DriverStopped);
        let closed = block_on(poll_fn(|cx| dialled.poll_close_unpin(cx)));
        assert_eq!(closed.unwrap_err(), ConnectionError::DriverStopped);
    }
    assert!(block_on(dial).is_err());
    assert!(block_on(upgrade).is_err());
    let handles = [dialer.transport.handle(), listener.transport.handle()];
    drop((near, far, dialled, accepted, dialer, listener));
    assert!(handles.iter().all(is_over));
    assert_eq!(descriptors(), before);
}
