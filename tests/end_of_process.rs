//! What peers are told when a process exits right after it has dropped its transport.
//!
//! Each test runs itself again in a process that connects, does something, and exits. Nothing of
//! ours runs after `exit`, and the runtime's threads may not have run since the drop.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]
#![allow(clippy::disallowed_methods, reason = "a drop is timed")]

mod support;

use std::{
    env,
    future::poll_fn,
    mem,
    pin::Pin,
    process::{Command, exit},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportEvent},
};
use libp2p_quinn::{Connection, ConnectionError};
use support::{
    far::Far,
    node::{LOOPBACK_V4, Node, bounded, poll_now, runtime, silent},
    streams::open,
};
use tokio::task::JoinHandle;

/// Where the process that exits finds its peer.
const PEER: &str = "PEER_OF_A_PROCESS_THAT_EXITS";

/// How often it exits, because it may be lucky.
const TIMES: usize = 10;

#[test]
fn connections_that_were_dropped_are_closed() {
    const TEST: &str = "connections_that_were_dropped_are_closed";
    exits_after(1, async |dialed, dialer| (dialed, dialer));
    assert_told(TEST, 1, TIMES);
}

/// The peer has to acknowledge the data before.
#[test]
fn connections_with_streams_that_were_closed_are_closed() {
    const TEST: &str = "connections_with_streams_that_were_closed_are_closed";
    exits_after(2, async |mut dialed, dialer| {
        for connection in &mut dialed {
            let mut stream = open(connection).await;
            stream.write_all(b"last words").await.unwrap();
            stream.close().await.unwrap();
        }
        poll_fn(|cx| dialed[1].poll_close_unpin(cx)).await.unwrap();
        (dialed, dialer)
    });
    assert_told(TEST, 2, TIMES);
}

#[test]
fn connections_are_closed_although_a_dial_is_under_way() {
    const TEST: &str = "connections_are_closed_although_a_dial_is_under_way";
    exits_after(1, async |dialed, mut dialer| {
        let (_socket, nobody) = silent("127.0.0.1");
        let mut dial = dialer.dial(&nobody);
        assert!(poll_now(&mut dial).is_pending());
        // It stays under way.
        mem::forget(dial);
        (dialed, dialer)
    });
    assert_told(TEST, 1, TIMES);
}

/// The waker of an event of the old drivers makes the transport listen again, so that new drivers
/// begin before the old ones are quite gone.
#[test]
fn connections_are_closed_although_new_drivers_have_begun_early() {
    const TEST: &str = "connections_are_closed_although_new_drivers_have_begun_early";
    if let Ok(peer) = env::var(PEER) {
        let (first, second) = (runtime(), runtime());
        let mut dialer = Node::new();
        first.block_on(dialer.listen());
        let reviver = Arc::new(Reviver {
            dialer: Mutex::new(Some(dialer)),
            is_armed: AtomicBool::new(false),
            next: second.handle().clone(),
        });
        let waker = Waker::from(Arc::clone(&reviver));
        let polled = {
            let mut dialer = reviver.dialer.lock().unwrap();
            let transport = Pin::new(&mut dialer.as_mut().unwrap().transport);
            transport.poll(&mut Context::from_waker(&waker))
        };
        assert!(polled.is_pending());
        reviver.is_armed.store(true, Ordering::SeqCst);
        drop(first);
        let mut dialer = reviver.dialer.lock().unwrap().take().unwrap();
        second.block_on(bounded(async {
            let (_, dialed) = dialer.dial(&peer.parse().unwrap()).await.unwrap();
            until_drivers_sleep().await;
            drop_and_exit(vec![dialed], dialer)
        }));
    }
    assert_told(TEST, 1, TIMES);
}

struct Reviver {
    dialer: Mutex<Option<Node>>,
    is_armed: AtomicBool,
    next: tokio::runtime::Handle,
}

impl Wake for Reviver {
    fn wake(self: Arc<Self>) {
        // Once, because listening wakes as well.
        if !self.is_armed.swap(false, Ordering::SeqCst) {
            return;
        }
        let reviver = thread::spawn(move || {
            let _context = self.next.enter();
            let mut dialer = self.dialer.lock().unwrap();
            let addr = LOOPBACK_V4.parse().unwrap();
            let transport = &mut dialer.as_mut().unwrap().transport;
            // It fails while the old drivers are not quite gone.
            let _ = transport.listen_on(ListenerId::next(), addr);
        });
        reviver.join().unwrap();
    }
}

/// Its socket is not writable when the connections are closed.
#[cfg(target_os = "linux")]
#[test]
fn connections_at_a_slow_interface_are_closed() {
    use harness::namespace::Namespace;
    use support::{
        required::or_skip,
        visit::{outcome, visit},
    };

    const TEST: &str = "connections_at_a_slow_interface_are_closed";
    const CONNECTIONS: usize = 350;
    const LIMIT: &str = "qdisc add dev lo root tbf rate 4mbit burst 4kb limit 100kb";
    exits_after(CONNECTIONS, async |dialed, dialer| {
        let limited = Command::new("tc").args(LIMIT.split(' ')).status();
        assert!(limited.unwrap().success());
        (dialed, dialer)
    });
    loop {
        let Some([slow]) = or_skip("namespaces", Namespace::hold()) else {
            return;
        };
        let told = visit(slow.id(), || Far::new().told(TEST, CONNECTIONS));
        if let Some(told) = outcome(told).unwrap() {
            assert_eq!(told, CONNECTIONS);
            return;
        }
    }
}

/// In the process that exits: connects, does this, drops what is left, and exits.
fn exits_after(
    connections: usize,
    deed: impl AsyncFnOnce(Vec<Connection>, Node) -> (Vec<Connection>, Node),
) {
    let Ok(peer) = env::var(PEER) else {
        return;
    };
    let peer = peer.parse().unwrap();
    runtime().block_on(bounded(async {
        let mut dialer = Node::with(|config| config.socket_buffer_bytes(1 << 20, 64 << 10));
        let mut dialed = Vec::new();
        while dialed.len() < connections {
            let some = AT_A_TIME.min(connections - dialed.len());
            let dials: Vec<_> = (0..some).map(|_| dialer.dial(&peer)).collect();
            let answers = join_all(dials).await.into_iter();
            dialed.extend(answers.map(|dialed| dialed.unwrap().1));
        }
        until_drivers_sleep().await;
        let (dialed, dialer) = deed(dialed, dialer).await;
        drop_and_exit(dialed, dialer)
    }));
}

/// Dials under way at a time.
const AT_A_TIME: usize = 20;

/// Outside of tasks of a multi-threaded runtime, so that the drop of the transport waits.
fn drop_and_exit(dialed: Vec<Connection>, dialer: Node) -> ! {
    drop(dialed);
    let began = Instant::now();
    drop(dialer);
    exit(if began.elapsed() < LONGEST {
        0
    } else {
        OUT_OF_TIME
    })
}

/// The longest that the drop of a transport takes. If it takes as long, the machine is too busy to
/// tell anything.
const LONGEST: Duration = Duration::from_millis(100);
const OUT_OF_TIME: i32 = 3;

async fn until_drivers_sleep() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Runs a test in processes that exit, so `often`, and asserts that each closes its connections.
fn assert_told(test: &str, connections: usize, often: usize) {
    let told = (0..).filter_map(|_| Far::new().told(test, connections));
    for told in told.take(often) {
        assert_eq!(told, connections);
    }
}

impl Far {
    /// Runs a test in a process that exits. Returns how many of its connections it has closed, or
    /// `None` if the time did not suffice.
    fn told(mut self, test: &str, connections: usize) -> Option<usize> {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", test])
            .env(PEER, self.addr.to_string())
            .spawn()
            .unwrap();
        let ends = self.runtime.block_on(bounded(async {
            let mut ends = Vec::new();
            while ends.len() < connections {
                if let TransportEvent::Incoming { upgrade, .. } = self.node.event().await {
                    ends.push(tokio::spawn(async {
                        end_of(upgrade.await.unwrap().1).await
                    }));
                }
            }
            join_all(ends.into_iter().map(async |end| end.await.unwrap())).await
        }));
        let is_told = |end: &ConnectionError| matches!(end, ConnectionError::ClosedByPeer { .. });
        let told = ends.iter().filter(|end| is_told(end)).count();
        match child.wait().unwrap().code() {
            Some(0) => Some(told),
            code => {
                assert_eq!(code, Some(OUT_OF_TIME));
                None
            }
        }
    }
}

/// Reads all streams of a connection until it ends.
async fn end_of(mut connection: Connection) -> ConnectionError {
    let mut readers: Vec<JoinHandle<_>> = Vec::new();
    loop {
        match poll_fn(|cx| connection.poll_inbound_unpin(cx)).await {
            Ok(mut stream) => readers.push(tokio::spawn(async move {
                let mut words = Vec::new();
                stream.read_to_end(&mut words).await
            })),
            Err(end) => return end,
        }
    }
}
