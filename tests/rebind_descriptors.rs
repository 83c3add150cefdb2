//! Sockets that must be replaced, or shared by shards, because no descriptors are left.
//!
//! The limit applies to the whole process, so nothing else may run here at the same time.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{fs::File, os::fd::AsRawFd};

use libp2p_quinn::RebindError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    node::{Node, bounded, connect, connect_at, echo, is_over, until},
    streams::transfer_through_echo,
};
use tokio::sync::{Mutex, MutexGuard};

static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebind_without_descriptors_fails_and_everything_goes_on() {
    bounded(async {
        let alone = ALONE.lock().await;
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handle = dialer.transport.handle();
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let echo = tokio::spawn(echo(accepted));
        let before = handle.stats();

        let scarce = Scarce::leaving(0, alone);
        let error = handle.rebind().unwrap_err();
        let RebindError::Bind(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.raw_os_error(), Some(EMFILE), "{error}");
        transfer_through_echo(&mut dialled, 1_000_000).await;
        let after = handle.stats();
        assert_eq!(after.transport.sockets_rebound, 0);
        assert_eq!(after.transport.sockets, before.transport.sockets);
        let local_addr = |stats: &libp2p_quinn::Stats| stats.connections[0].local_addr;
        assert_eq!(local_addr(&after), local_addr(&before));

        drop(scarce);
        handle.rebind().unwrap();
        until(|| local_addr(&handle.stats()) != local_addr(&before)).await;
        transfer_through_echo(&mut dialled, 1_000_000).await;
        drop(dialled);
        echo.await.unwrap();
        drop(dialer);
        until(|| is_over(&handle)).await;
    })
    .await;
}

/// There is no socket for each shard, so one serves all. Most of its datagrams belong to other
/// shards, whatever their source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_from_where_the_peer_has_moved_to_find_their_shard() {
    const MOVES: u64 = 10;

    bounded(async {
        let alone = ALONE.lock().await;
        let mut listener = Node::with(|config| config.shards(4));
        let other = listener.transport.handle();
        // Opens one socket first, for what needs a descriptor only once.
        drop(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let scarce = Scarce::leaving(1, alone);
        let addr = listener.listen().await;
        let _alone = scarce.over();
        assert_eq!(other.stats().transport.sockets, 1);

        let mut connections = Vec::new();
        let mut dialers = Vec::new();
        // Most likely at least one on each shard.
        for _ in 0..8 {
            let mut dialer = Node::new();
            let (dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
            connections.push((dialled, tokio::spawn(echo(accepted))));
            dialers.push(dialer);
        }
        for number in 1..=MOVES {
            for (dialer, (dialled, _)) in dialers.iter().zip(&mut connections) {
                let before = dialer.stats().connections[0].local_addr;
                dialer.transport.handle().rebind().unwrap();
                transfer_through_echo(dialled, 50_000).await;
                until(|| dialer.stats().connections[0].local_addr != before).await;
                assert_eq!(dialer.stats().transport.sockets_rebound, number);
            }
        }
        let stats = other.stats();
        assert!(stats.registry.forwarded > stats.registry.routed_short / 4);
        assert_eq!(stats.registry.foreign, 0);
        assert_eq!(stats.registry.connections, connections.len());
        for (dialled, echo) in connections {
            drop(dialled);
            echo.await.unwrap();
        }
        drop((dialers, listener));
        until(|| is_over(&other)).await;
    })
    .await;
}

/// Too many open files.
const EMFILE: i32 = 24;

/// A guard during which this process can open only a few more descriptors.
struct Scarce {
    before: Rlimit,
    alone: Option<MutexGuard<'static, ()>>,
}

impl Scarce {
    fn leaving(count: usize, alone: MutexGuard<'static, ()>) -> Self {
        let before = getrlimit(Resource::Nofile);
        // The operating system assigns the lowest free number.
        let mut free: Vec<_> = (0..=count)
            .map(|_| File::open("/dev/null").unwrap())
            .collect();
        let lowest = free.pop().unwrap().as_raw_fd() as u64;
        drop(free);
        let limit = Rlimit {
            current: Some(lowest),
            ..before
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        Self {
            before,
            alone: Some(alone),
        }
    }

    /// Ends it, and returns the lock that keeps other tests from running.
    fn over(mut self) -> MutexGuard<'static, ()> {
        self.alone.take().unwrap()
    }
}

impl Drop for Scarce {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).unwrap();
    }
}
