//! Tens of thousands of dials to hosts that do not answer, and live dials at the same time.
//!
//! Alone in its program, because it uses a whole core for some seconds.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use futures::future::join_all;
use libp2p_quinn::{Connecting, HandshakeError};
use support::node::{Node, bounded, handshake_error, poll_now, quic_addr, until};
use tokio::time::{sleep, timeout};

/// As many as a crawler of a large network has in progress.
const DEAD: usize = 30_000;

/// Live dials in each direction.
const LIVE: usize = 20;

/// The pause between them, so that all of them have the crowd beside them.
const PAUSE: Duration = Duration::from_millis(150);

/// How long a dial may take, and an incoming handshake.
const PATIENCE: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(250)];

/// A busy machine may stop everything for a moment.
const MOST_LATE: usize = LIVE / 10;

/// The default.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowd_of_dead_dials_holds_up_neither_live_ones_nor_those_who_dial_us() {
    bounded(async {
        let (mut node, mut visitor, mut server) = (Node::new(), Node::new(), Node::new());
        let handle = node.transport.handle();
        let at_node = node.listen().await;
        // Each server at an address of its own, like the dead hosts.
        let mut at_servers = Vec::new();
        for number in 1..=LIVE {
            let addr = format!("/ip4/127.0.0.{number}/udp/0/quic-v1");
            at_servers.push(server.listen_at(&addr).await.1);
        }
        let _echo = server.spawn_echo();
        let silent = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let mut dead: Vec<_> = (0..DEAD)
            .map(|number| {
                let ip = u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number as u32;
                node.dial(&quic_addr((Ipv4Addr::from(ip), port).into()))
            })
            .collect();
        let live: Vec<_> = at_servers.iter().map(|addr| node.dial(addr)).collect();
        let visits: Vec<_> = (0..LIVE).map(|_| visitor.dial(&at_node)).collect();
        let _echo = node.spawn_echo();

        assert!(dead.iter_mut().all(|dial| poll_now(dial).is_pending()));
        let dead = tokio::spawn(join_all(dead));
        let [for_dials, for_visits] = PATIENCE;
        let (live, visits) = tokio::join!(
            tokio::spawn(count_late(for_dials, live)),
            tokio::spawn(count_late(for_visits, visits)),
        );
        for late in [live.unwrap(), visits.unwrap()] {
            assert!(late <= MOST_LATE, "{late} of {LIVE}");
        }

        // All of them end in time, whether their handshakes have begun or not.
        let dead = timeout(HANDSHAKE_TIMEOUT * 2, dead).await.unwrap();
        for dialled in dead.unwrap() {
            assert_eq!(handshake_error(dialled), HandshakeError::TimedOut);
        }
        let transport = handle.stats().transport;
        let dials = transport.dials + transport.dials_expired;
        assert_eq!(dials, (DEAD + LIVE) as u64);
        until(|| handle.stats().registry.handshaking == 0).await;
    })
    .await;
}

/// Dials at short intervals; returns how many took longer than `patience`.
async fn count_late(patience: Duration, dials: Vec<Connecting>) -> usize {
    let dials = (0..).zip(dials).map(async |(number, mut dial)| {
        sleep(PAUSE * number).await;
        match timeout(patience, &mut dial).await {
            Ok(dialled) => (dialled.unwrap(), false),
            Err(_) => (dial.await.unwrap(), true),
        }
    });
    let dialled = join_all(dials).await;
    dialled.iter().filter(|(_, is_late)| *is_late).count()
}
