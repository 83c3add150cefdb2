//! Panics are reported, and affect only their own shard or task.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    cell::Cell,
    future::poll_fn,
    mem::ManuallyDrop,
    pin::{Pin, pin},
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt,
    channel::oneshot,
    future::{Either, join_all, select},
};
use libp2p::swarm::{SwarmEvent, dial_opts::DialOpts};
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportEvent},
};
use libp2p_quinn::{
    Connection, ConnectionError, DialError, Error, Handle, HandshakeError, ListenError, Stream,
    StreamError,
};
use multiaddr::Multiaddr;
use support::{
    node::{Echo, LOOPBACK_V4, NEW_PORT, Node, bounded, connect, connect_at, echo, is_over, until},
    streams::{ask, open, open_between, stream_error},
    swarm, trap,
};
use tokio::runtime::{Builder, Runtime};

/// Places of a panic in a driver's work, as the number of log events before it. A question with its
/// answer has some 40, and a handshake some 200.
const PLACES: [usize; 5] = [0, 5, 37, 150, 600];

#[test]
fn driver_that_panics_fails_its_connections_and_nobody_elses() {
    let server = Server::start();
    for place in PLACES {
        runtime().block_on(bounded(async {
            let mut node = Node::with(|config| config.shards(2));
            let listener = node.listen_at(LOOPBACK_V4).await.0;
            let mut other = Node::new();
            let other_listener = other.listen_at(LOOPBACK_V4).await.0;
            let mut connections = Vec::new();
            // Two on each shard, and two on another transport.
            for dialer in [0, 0, 0, 0, 1, 1] {
                let dialer = if dialer == 0 { &mut node } else { &mut other };
                connections.push(dialer.dial(&server.addr).await.unwrap().1);
            }
            // A separate task, which has to be woken.
            let reported = tokio::spawn(async move {
                let event = match select(pin!(node.event()), pin!(other.event())).await {
                    Either::Left((event, _)) | Either::Right((event, _)) => event,
                };
                (node, other, event)
            });
            trap::set(place);
            let ends: Vec<_> = join_all(connections.iter_mut().map(converse)).await;
            let failed: Vec<_> = ends.iter().map(Result::is_err).collect();
            for error in ends.into_iter().filter_map(Result::err) {
                assert_eq!(error, ConnectionError::DriverStopped);
            }
            let (mut node, mut other, event) = reported.await.unwrap();
            let (shards, beside) = failed.split_at(4);
            match beside {
                // One of the two shards has panicked; the other one goes on.
                [false, false] => {
                    assert!(matches!(
                        shards,
                        [true, false, true, false] | [false, true, false, true]
                    ));
                    assert!(matches!(
                        event,
                        TransportEvent::ListenerError {
                            listener_id,
                            error: Error::Listen(ListenError::DriverStopped),
                        } if listener_id == listener
                    ));
                    for opts in [NEW_PORT, NEW_PORT] {
                        let dial = node.try_dial(&server.addr, opts).unwrap();
                        connections.push(dial.await.unwrap().1);
                    }
                    for connection in &mut connections[6..] {
                        ask(connection).await;
                    }
                }
                [true, true] => {
                    assert_eq!(shards, [false; 4]);
                    assert!(matches!(
                        event,
                        TransportEvent::ListenerClosed {
                            listener_id,
                            reason: Err(Error::Listen(ListenError::DriverStopped)),
                        } if listener_id == other_listener
                    ));
                    for _ in 0..2 {
                        assert!(matches!(
                            other.dial(&server.addr).await,
                            Err(Error::Dial(DialError::DriverStopped))
                        ));
                    }
                    let listening = other
                        .transport
                        .listen_on(ListenerId::next(), LOOPBACK_V4.parse().unwrap());
                    assert!(listening.is_err());
                }
                _ => panic!("{failed:?}"),
            }
            leave_nothing([node, other], connections).await;
        }));
    }
}

/// Asks a server until the trap was sprung, and once more.
async fn converse(connection: &mut Connection) -> Result<(), ConnectionError> {
    loop {
        let last = trap::is_sprung();
        let mut stream = poll_fn(|cx| connection.poll_outbound_unpin(cx)).await?;
        match question(&mut stream).await {
            Ok(()) if last => return Ok(()),
            Ok(()) => {}
            Err(StreamError::Connection(error)) => return Err(error),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn question(stream: &mut Stream) -> Result<(), StreamError> {
    let mut answer = [0; 5];
    let asked = async {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut answer).await
    };
    asked.await.map_err(|error| stream_error(&error).clone())?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

#[test]
fn driver_that_panics_fails_the_handshakes_of_both_sides() {
    let server = Server::start();
    for place in PLACES {
        runtime().block_on(bounded(async {
            let mut node = Node::new();
            let addr = node.listen().await;
            let visitor = server.runtime.spawn({
                let mut visitor = Node::new();
                async move {
                    let dialled = visitor.dial(&addr).await;
                    std::future::pending::<()>().await;
                    drop(dialled);
                }
            });
            let upgrade = node.knock().await.upgrade;
            let dial = node.dial(&server.addr);
            trap::set(place);
            let (dialled, accepted) = tokio::join!(dial, upgrade);
            visitor.abort();
            for result in [dialled, accepted] {
                match result {
                    // Its handshake was complete before the panic, which may not have occurred.
                    Ok((_, mut connection)) => {
                        if trap::is_sprung() {
                            let end = poll_fn(|cx| connection.poll_unpin(cx)).await;
                            assert_eq!(end.unwrap_err(), ConnectionError::DriverStopped);
                        }
                    }
                    Err(error) => assert!(
                        matches!(
                            error,
                            Error::Dial(DialError::DriverStopped)
                                | Error::Handshake(HandshakeError::Connection(
                                    ConnectionError::DriverStopped
                                ))
                        ),
                        "{error:?}"
                    ),
                }
            }
            leave_nothing([node], Vec::new()).await;
        }));
    }
}

#[test]
fn swarm_hears_of_a_driver_that_panicked_and_goes_on() {
    let runtime = runtime();
    let server = Server::start();
    runtime.block_on(bounded(async {
        let mut swarm = swarm::ours();
        let listening = swarm::listen(&mut swarm).await;
        let (closed, listener_closed, refused) = (Cell::new(0), Cell::new(false), Cell::new(false));
        swarm.dial(server.addr.clone()).unwrap();
        while !(closed.get() == 1 && listener_closed.get() && refused.get()) {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => trap::set(0),
                SwarmEvent::ConnectionClosed { cause, .. } => {
                    closed.set(closed.get() + 1);
                    assert!(cause.unwrap().to_string().contains("driver"));
                    let opts = DialOpts::unknown_peer_id().address(server.addr.clone());
                    swarm.dial(opts.build()).unwrap();
                }
                SwarmEvent::ListenerClosed {
                    reason, addresses, ..
                } => {
                    reason.unwrap_err();
                    assert_eq!(addresses, std::slice::from_ref(&listening));
                    listener_closed.set(true);
                }
                SwarmEvent::OutgoingConnectionError { .. } => refused.set(true),
                _ => {}
            }
        }
    }));
}

#[test]
fn runtime_that_ends_in_the_middle_of_transfers_leaves_nobody_waiting() {
    let server = Server::start();
    let doomed = runtime();
    let (stop, stopped) = oneshot::channel::<()>();
    let (hand_over, connections) = oneshot::channel();
    let driving = thread::spawn({
        let addr = server.addr.clone();
        move || {
            doomed.block_on(async {
                let mut node = Node::with(|config| config.shards(2));
                let mut connections = Vec::new();
                for _ in 0..4 {
                    connections.push(node.dial(&addr).await.unwrap().1);
                }
                hand_over.send((node.transport.handle(), connections)).ok();
                let _ = stopped.await;
            });
        }
    });
    server.runtime.block_on(bounded(async {
        let (handle, connections) = connections.await.unwrap();
        let mut stop = Some(stop);
        let transfers: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                tokio::spawn(async move {
                    let mut stream = open(&mut connection).await;
                    let error = loop {
                        if let Err(error) = question(&mut stream).await {
                            break error;
                        }
                    };
                    let closed = connection.close().await;
                    (error, closed)
                })
            })
            .collect();
        until(|| handle.stats().transport.datagrams_sent > 200).await;
        drop(stop.take());
        for ends in join_all(transfers).await {
            let (error, closed) = ends.unwrap();
            let stopped = ConnectionError::DriverStopped;
            assert_eq!(error, StreamError::Connection(stopped.clone()));
            assert_eq!(closed, Err(stopped));
        }
        // The runtime drops the tasks of its shards one after the other.
        until(|| is_over(&handle)).await;
    }));
    driving.join().unwrap();
}

#[test]
fn waker_that_panics_harms_its_own_task_alone() {
    runtime().block_on(bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let (mut dialled, mut accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let (mut beside, beside_accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        tokio::spawn(echo(beside_accepted));
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(open_between(&mut dialled, &mut accepted).await);
        }
        // The readers make all wakers due at once, when the connection ends.
        let readers = streams.iter_mut().enumerate().map(|(index, (near, _))| {
            let mut buf = [0];
            if index % 2 == 0 {
                let waker = Waker::from(Arc::new(Panics));
                let read =
                    Pin::new(&mut *near).poll_read(&mut Context::from_waker(&waker), &mut buf);
                assert!(read.is_pending());
                async { None }.left_future()
            } else {
                async move { Some(near.read(&mut [0]).await.unwrap_err()) }.right_future()
            }
        });
        let readers = join_all(readers.collect::<Vec<_>>());
        let close = async {
            // The peer's close wakes them in the driver.
            accepted.close_with(7, "");
        };
        let (ends, ()) = tokio::join!(readers, close);
        assert_eq!(ends.iter().flatten().count(), 4);
        ask(&mut beside).await;

        // Also in a task that uses the connection.
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(open(&mut beside).await);
        }
        let waker = Waker::from(Arc::new(Panics));
        let mut buf = [0];
        let read = Pin::new(&mut streams[0]).poll_read(&mut Context::from_waker(&waker), &mut buf);
        assert!(read.is_pending());
        let waits = async { streams[1].read(&mut [0]).await.unwrap_err() };
        let (error, closed) = tokio::join!(waits, beside.close());
        assert_eq!(
            stream_error(&error),
            &StreamError::Connection(ConnectionError::LocallyClosed)
        );
        closed.unwrap();

        // Also in a task that waits for a dial.
        let mut dial = dialer.dial(&addr);
        let waker = Waker::from(Arc::new(Panics));
        assert!(
            dial.poll_unpin(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(listener.knock().await);
        connect_at(&mut dialer, &mut listener, &addr).await;
    }));
}

/// The waker of a broken executor.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[test]
fn task_that_only_its_waker_keeps_may_go_with_its_stream() {
    // If a thread hangs, drivers may hang too, so they are not waited for.
    let runtime = ManuallyDrop::new(
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap(),
    );
    runtime.block_on(bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let (kept, _far) = open_between(&mut dialled, &mut accepted).await;
        let (mut read, _far) = open_between(&mut dialled, &mut accepted).await;
        let (also_kept, _far) = open_between(&mut dialled, &mut accepted).await;
        let waits = poll_with(owner(kept), |cx| dialled.poll_inbound_unpin(cx));
        assert!(waits.is_pending());
        let waits = poll_with(owner(also_kept), |cx| {
            Pin::new(&mut read).poll_read(cx, &mut [0])
        });
        assert!(waits.is_pending());
        // On a separate thread, which may hang.
        let (done, is_done) = mpsc::sync_channel(1);
        thread::spawn(move || {
            // Another task waits instead.
            let waits = poll_with(Waker::noop().clone(), |cx| dialled.poll_inbound_unpin(cx));
            assert!(waits.is_pending());
            drop(read);
            done.send(dialled).unwrap();
        });
        let dialled = is_done.recv_timeout(LONG).expect("the thread is stuck");
        let stats = dialer.stats();
        assert_eq!(stats.connections[0].open_streams, 0);
        dialled.close().await.unwrap();
    }));
}

/// Longer than a thread takes unless it hangs.
const LONG: Duration = Duration::from_secs(30);

/// The waker of a task that owns a stream, and that only this waker keeps alive.
fn owner(stream: Stream) -> Waker {
    struct Task(#[expect(dead_code, reason = "it is kept")] Mutex<Stream>);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    Arc::new(Task(Mutex::new(stream))).into()
}

fn poll_with<T>(waker: Waker, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(&waker))
}

/// Drops everything that a test has created, and asserts that nothing is left.
async fn leave_nothing(nodes: impl IntoIterator<Item = Node>, connections: Vec<Connection>) {
    let handles: Vec<Handle> = nodes
        .into_iter()
        .map(|node| node.transport.handle())
        .collect();
    drop(connections);
    until(|| handles.iter().all(is_over)).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    until(|| metrics.num_alive_tasks() == 0).await;
}

/// An echo server on separate threads, without a trap.
struct Server {
    runtime: Runtime,
    addr: Multiaddr,
    _echo: Echo,
}

impl Server {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (addr, echo) = runtime.block_on(async {
            let mut listener = Node::new();
            (listener.listen().await, listener.spawn_echo())
        });
        Self {
            runtime,
            addr,
            _echo: echo,
        }
    }
}

/// A runtime on this thread, on which a trap can be set.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
