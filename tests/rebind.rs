//! Sockets that are replaced, or that fail, under connections that go on.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p_core::{
    muxing::{StreamMuxerEvent, StreamMuxerExt},
    transport::TransportEvent,
};
use libp2p_quinn::{Connection, ConnectionError, Handle, RebindError};
use sha2::{Digest, Sha256};
use support::{
    node::{
        NEW_PORT, Node, OfficialNode, REUSE_PORT, bounded, connect, connect_at, is_over,
        socket_addr, until,
    },
    streams::{self, ask, transfer_through_echo},
};
use tokio::{
    sync::mpsc::{Receiver, channel},
    task::JoinHandle,
    time::sleep,
};

const SHARDS: u8 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_survives_a_hundred_rebinds() {
    const REBINDS: usize = 100;

    for shards in [1, SHARDS] {
        bounded(async {
            let (mut dialer, mut listener) = (sharded(shards), sharded(SHARDS));
            let [handle, other] = [&dialer, &listener].map(|node| node.transport.handle());
            let (dialled, accepted) = connect(&mut dialer, &mut listener).await;
            let mut served = serve(accepted);
            let transfer = Transfer::begin(dialled).await;

            let mut last = other.stats().connections[0].remote_addr;
            for _ in 0..REBINDS {
                handle.rebind().unwrap();
                let moved = served.moved_to.recv().await.unwrap();
                assert_ne!(moved, last);
                assert_eq!(moved, other.stats().connections[0].remote_addr);
                assert_eq!(moved.port(), local_port(&handle));
                last = moved;
            }

            let dialled = transfer.end().await;
            assert_eq!(handle.stats().transport.sockets_rebound, REBINDS as u64);
            for handle in [&handle, &other] {
                let stats = handle.stats();
                assert_eq!(stats.transport.handshakes_completed, 1);
                assert_eq!(stats.registry.foreign, 0);
                assert_eq!(stats.registry.connections, 1);
            }
            dialled.close().await.unwrap();
            assert_eq!(served.end().await, closed());
            drop((dialer, listener));
            until(|| is_over(&handle) && is_over(&other)).await;
        })
        .await;
    }
}

/// Whether each dial has a socket of its own, or all share one.
#[tokio::test]
async fn all_that_was_dialled_from_other_sockets_than_a_listener_s_moves() {
    bounded(async {
        let mut listener = Node::new();
        let addr = listener.listen().await;
        let mut dialer = Node::new();
        let handle = dialer.transport.handle();
        let _echo = listener.spawn_echo();
        let dials: Vec<_> = [REUSE_PORT, REUSE_PORT, NEW_PORT, NEW_PORT]
            .map(|opts| dialer.try_dial(&addr, opts).unwrap())
            .into();
        let mut connections: Vec<_> = join_all(dials)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        for (_, connection) in &mut connections {
            ask(connection).await;
        }
        let before = local_ports(&handle);
        assert_eq!(before.len(), 3);
        handle.rebind().unwrap();
        until(|| {
            local_ports(&handle)
                .iter()
                .all(|port| !before.contains(port))
        })
        .await;
        assert_eq!(local_ports(&handle).len(), 3);
        assert_eq!(handle.stats().transport.sockets_rebound, 3);
        for (_, connection) in &mut connections {
            ask(connection).await;
        }
        // The old sockets are closed after a while.
        until(|| handle.stats().transport.sockets == 3).await;
        drop((connections, dialer));
        until(|| is_over(&handle)).await;
    })
    .await;
}

#[tokio::test]
async fn listeners_and_what_was_dialled_from_them_stay() {
    bounded(async {
        let (mut one, mut other) = (Node::new(), Node::new());
        let handle = one.transport.handle();
        handle.rebind().unwrap();
        let own = socket_addr(&one.listen().await);
        let (mut dialled, accepted) = connect(&mut one, &mut other).await;
        let mut served = serve(accepted);
        let before = handle.stats();
        assert_eq!(local_ports(&handle), [own.port()]);

        handle.rebind().unwrap();
        ask(&mut dialled).await;
        let after = handle.stats();
        assert_eq!(after.transport.sockets_rebound, 0);
        assert_eq!(after.transport.sockets, before.transport.sockets);
        assert_eq!(local_ports(&handle), [own.port()]);
        assert!(served.moved_to.try_recv().is_err());
    })
    .await;
}

/// A socket that is only kept for the next dial is closed instead.
#[tokio::test]
async fn socket_that_nobody_uses_is_not_moved() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handle = dialer.transport.handle();
        let addr = listener.listen().await;
        let connected = connect_at(&mut dialer, &mut listener, &addr).await;
        let before = local_port(&handle);
        drop(connected);
        until(|| {
            let registry = handle.stats().registry;
            registry.connections == 0 && registry.closing == 0
        })
        .await;
        assert_eq!(handle.stats().transport.sockets, 1);
        handle.rebind().unwrap();
        assert_eq!(handle.stats().transport.sockets_rebound, 0);
        let _connected = connect_at(&mut dialer, &mut listener, &addr).await;
        assert_ne!(local_port(&handle), before);
        until(|| handle.stats().transport.sockets == 1).await;
    })
    .await;
}

#[tokio::test]
async fn without_drivers_there_is_nothing_to_move() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handle = dialer.transport.handle();
        let connected = connect(&mut dialer, &mut listener).await;
        handle.rebind().unwrap();
        drop((connected, dialer));
        until(|| matches!(handle.rebind(), Err(RebindError::DriverStopped))).await;
        assert!(is_over(&handle));
    })
    .await;
}

/// From a thread outside of the runtime, while nothing else makes the connection send.
#[tokio::test]
async fn any_thread_may_rebind() {
    bounded(async {
        let [mut dialer, mut listener] =
            [(); 2].map(|()| Node::with(|config| config.keep_alive_interval(None)));
        let handle = dialer.transport.handle();
        let (_dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let mut served = serve(accepted);
        // Until MTU discovery and everything else at the start of a connection is over.
        sleep(Duration::from_secs(1)).await;
        let rebind = std::thread::spawn(move || handle.rebind());
        rebind.join().unwrap().unwrap();
        served.moved_to.recv().await.unwrap();
    })
    .await;
}

/// RFC 9000 §9: a client does not migrate before the handshake is confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_succeed_whatever_is_rebound_meanwhile() {
    bounded(async {
        let mut listener = sharded(SHARDS);
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let mut dialer = sharded(SHARDS);
        let handle = dialer.transport.handle();
        let dials: Vec<_> = (0..60)
            .map(|number| [REUSE_PORT, NEW_PORT][number % 2])
            .map(|opts| tokio::spawn(dialer.try_dial(&addr, opts).unwrap()))
            .collect();
        let done = Arc::new(AtomicBool::new(false));
        let rebinding = tokio::spawn({
            let (handle, done) = (handle.clone(), Arc::clone(&done));
            async move {
                while !done.load(Ordering::Relaxed) {
                    handle.rebind().unwrap();
                    sleep(Duration::from_millis(2)).await;
                }
            }
        });
        let mut connections = Vec::new();
        for dialled in join_all(dials).await {
            connections.push(dialled.unwrap().unwrap().1);
        }
        done.store(true, Ordering::Relaxed);
        rebinding.await.unwrap();
        join_all(connections.iter_mut().map(ask)).await;
        let stats = handle.stats();
        assert_eq!(stats.transport.handshakes_completed, 60);
        assert_eq!(stats.transport.handshakes_failed, 0);
        assert!(stats.transport.sockets_rebound > 0);
        drop((connections, dialer));
        until(|| is_over(&handle)).await;
    })
    .await;
}

/// The official transport sends `disable_active_migration` (RFC 9000 §18.2), and drops packets from
/// another address.
#[tokio::test]
async fn peer_that_disables_migration_is_not_left() {
    bounded(async {
        let (mut dialer, mut official) = (Node::new(), OfficialNode::new());
        let handle = dialer.transport.handle();
        let addr = official.listen().await;
        let _echo = official.spawn_echo();
        let (_, mut dialled) = dialer.dial(&addr).await.unwrap();
        ask(&mut dialled).await;
        let before = local_ports(&handle);
        for _ in 0..3 {
            handle.rebind().unwrap();
            ask(&mut dialled).await;
            assert_eq!(local_ports(&handle), before);
        }
        // A replacement that is not used yet is kept.
        assert_eq!(handle.stats().transport.sockets_rebound, 1);
        // Long after the old socket would have been closed if it were unused.
        until(|| handle.stats().transport.sockets == 2).await;
        transfer_through_echo(&mut dialled, 1_000_000).await;
        dialled.close().await.unwrap();
    })
    .await;
}

#[cfg(target_os = "linux")]
mod failing {
    use libp2p_quinn::{Error, ListenError};
    use support::sockets::shut_down;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn transfer_survives_the_failure_of_the_dialer_s_socket() {
        for shards in [1, SHARDS] {
            bounded(async {
                let (mut dialer, mut listener) = (sharded(shards), sharded(SHARDS));
                let [handle, other] = [&dialer, &listener].map(|node| node.transport.handle());
                let (dialled, accepted) = connect(&mut dialer, &mut listener).await;
                let mut served = serve(accepted);
                let transfer = Transfer::begin(dialled).await;
                for _ in 0..3 {
                    let port = local_port(&handle);
                    assert_eq!(shut_down(port, usize::MAX), usize::from(shards));
                    let moved = served.moved_to.recv().await.unwrap();
                    assert_ne!(moved.port(), port);
                    assert_eq!(moved.port(), local_port(&handle));
                    // A replacement that fails sooner is bound again instead.
                    sleep(Duration::from_secs(1)).await;
                }
                let dialled = transfer.end().await;
                assert!(handle.stats().transport.sockets_rebound >= 3);
                dialled.close().await.unwrap();
                assert_eq!(served.end().await, closed());
                drop((dialer, listener));
                until(|| is_over(&handle) && is_over(&other)).await;
            })
            .await;
        }
    }

    /// It cannot move: the handshake, and a peer that disables migration, need the old address.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn failed_socket_is_bound_again_for_a_connection_that_must_not_move() {
        bounded(async {
            let mut dialer = Node::new();
            let mut official = OfficialNode::new();
            let handle = dialer.transport.handle();
            let addr = official.listen().await;
            let _echo = official.spawn_echo();
            let (_, mut dialled) = dialer.dial(&addr).await.unwrap();
            ask(&mut dialled).await;
            let port = local_port(&handle);
            let transfer = Transfer::begin(dialled).await;
            assert_eq!(shut_down(port, usize::MAX), 1);
            // The replacement, and the socket itself.
            until(|| handle.stats().transport.sockets_rebound == 2).await;
            let dialled = transfer.end().await;
            assert_eq!(local_port(&handle), port);
            dialled.close().await.unwrap();
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn failed_listener_reports_it_and_listens_again() {
        for (shards, dead) in [(1, 1), (SHARDS, 1), (SHARDS, usize::from(SHARDS))] {
            bounded(async {
                let (mut dialer, mut listener) = (Node::new(), sharded(shards));
                let [handle, other] = [&dialer, &listener].map(|node| node.transport.handle());
                let addr = listener.listen().await;
                let (dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
                let served = serve(accepted);
                let transfer = Transfer::begin(dialled).await;

                let local_addr = socket_addr(&addr);
                assert_eq!(shut_down(local_addr.port(), dead), dead);
                assert_eq!(failure(&mut listener).await, local_addr);
                until(|| other.stats().transport.sockets_rebound == 1).await;
                let stats = other.stats();
                assert_eq!(stats.transport.sockets, usize::from(shards));
                assert_eq!(stats.listeners[0].local_addr, local_addr);

                // Also transfers that have begun before.
                let mut dialled = transfer.end().await;
                ask(&mut dialled).await;
                let (mut another, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
                let _echo = serve(accepted);
                transfer_through_echo(&mut another, 1_000_000).await;

                // Steering still works.
                let stats = other.stats();
                assert_eq!(stats.registry.foreign, 0);
                assert!(stats.registry.forwarded <= stats.registry.routed_short / 10);
                for connection in [dialled, another] {
                    connection.close().await.unwrap();
                }
                assert_eq!(served.end().await, closed());
                drop((dialer, listener));
                until(|| is_over(&handle) && is_over(&other)).await;
            })
            .await;
        }
    }

    /// Each failure is noticed.
    #[tokio::test]
    async fn listener_without_connections_notices_its_failure() {
        bounded(async {
            let mut listener = Node::new();
            let handle = listener.transport.handle();
            let addr = listener.listen().await;
            let local_addr = socket_addr(&addr);
            for times in 1..=2 {
                // A failure does not count while the previous one is being repaired.
                until(|| handle.stats().transport.sockets_rebound == times - 1).await;
                assert_eq!(shut_down(local_addr.port(), 1), 1);
                assert_eq!(failure(&mut listener).await, local_addr);
                until(|| handle.stats().transport.sockets_rebound == times).await;
            }
            let mut dialer = Node::new();
            let _connected = connect_at(&mut dialer, &mut listener, &addr).await;
        })
        .await;
    }

    /// The address at which a listener reports a failed socket.
    async fn failure(node: &mut Node) -> SocketAddr {
        match node.event().await {
            TransportEvent::ListenerError {
                error: Error::Listen(ListenError::Socket { addr, .. }),
                ..
            } => addr,
            event => panic!("{event:?} instead of a failure"),
        }
    }
}

fn sharded(shards: u8) -> Node {
    Node::with(|config| config.shards(shards))
}

/// The port from which the only connection is sent.
fn local_port(handle: &Handle) -> u16 {
    let stats = handle.stats();
    assert_eq!(stats.connections.len(), 1);
    stats.connections[0].local_addr.port()
}

/// The ports from which connections are sent, without duplicates.
fn local_ports(handle: &Handle) -> Vec<u16> {
    let stats = handle.stats();
    let mut ports: Vec<_> = (stats.connections.iter())
        .map(|connection| connection.local_addr.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The end of a connection whose peer has closed it.
fn closed() -> ConnectionError {
    ConnectionError::ClosedByPeer {
        code: 0,
        reason: String::new(),
    }
}

/// A connection whose streams are echoed.
struct Served {
    /// The peer's new addresses.
    moved_to: Receiver<SocketAddr>,
    task: JoinHandle<ConnectionError>,
}

impl Served {
    /// The end of the connection.
    async fn end(self) -> ConnectionError {
        self.task.await.unwrap()
    }
}

fn serve(mut muxer: Connection) -> Served {
    let (moved, moved_to) = channel(256);
    let task = tokio::spawn(async move {
        poll_fn(|cx| {
            while let Poll::Ready(event) = muxer.poll_unpin(cx) {
                match event {
                    Ok(StreamMuxerEvent::AddressChange(addr)) => {
                        moved.try_send(socket_addr(&addr)).unwrap();
                    }
                    Err(end) => return Poll::Ready(end),
                }
            }
            while let Poll::Ready(inbound) = muxer.poll_inbound_unpin(cx) {
                match inbound {
                    Ok(stream) => drop(tokio::spawn(streams::echo(stream))),
                    Err(end) => return Poll::Ready(end),
                }
            }
            Poll::Pending
        })
        .await
    });
    Served { moved_to, task }
}

/// A transfer through an echo server that runs until it is ended.
struct Transfer {
    ending: Arc<AtomicBool>,
    task: JoinHandle<Connection>,
}

impl Transfer {
    /// Returns when data is in flight.
    async fn begin(mut muxer: Connection) -> Self {
        const BLOCK: usize = 16 * 1024;

        let ending = Arc::new(AtomicBool::new(false));
        let is_ending = Arc::clone(&ending);
        let (mut reader, mut writer) = streams::open(&mut muxer).await.split();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let write = async move {
            let mut block = vec![0; BLOCK];
            let mut hash = Sha256::new();
            for number in 0_u64.. {
                if is_ending.load(Ordering::Relaxed) {
                    break;
                }
                for (index, byte) in block.iter_mut().enumerate() {
                    *byte = (number as usize * 31 + (index >> 3)) as u8;
                }
                block[..8].copy_from_slice(&number.to_be_bytes());
                writer.write_all(&block).await.unwrap();
                hash.update(&block);
                tokio::task::yield_now().await;
            }
            writer.close().await.unwrap();
            hash.finalize()
        };
        let read = async move {
            let mut started = Some(started);
            let mut buf = vec![0; BLOCK];
            let mut hash = Sha256::new();
            loop {
                match reader.read(&mut buf).await.unwrap() {
                    0 => return hash.finalize(),
                    length => hash.update(&buf[..length]),
                }
                if let Some(started) = started.take() {
                    let _ = started.send(());
                }
            }
        };
        let task = tokio::spawn(async move {
            let (sent, received) = tokio::join!(write, read);
            assert_eq!(sent, received);
            muxer
        });
        has_started.await.unwrap();
        Self { ending, task }
    }

    /// Ends it, and compares the data received with the data sent.
    async fn end(self) -> Connection {
        self.ending.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
