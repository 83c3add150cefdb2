//! What connections count stays in the sums of the transport when they end.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::future::poll_fn;

use libp2p_core::muxing::StreamMuxerExt;
use libp2p_quinn::{Connection, Handle, PacketStats};
use support::{
    node::{Node, bounded, until},
    streams::ask,
};

#[tokio::test]
async fn packets_of_a_connection_count_after_its_end() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handles = [&dialer, &listener].map(|node| node.transport.handle());
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let (_, mut connection) = dialer.dial(&addr).await.unwrap();
        ask(&mut connection).await;

        let alive = handles[0].stats();
        let [of_connection] = &alive.connections[..] else {
            panic!("{alive:?}");
        };
        assert_grown(&PacketStats::default(), &of_connection.packets);
        assert_eq!(alive.packets, of_connection.packets);
        // One question.
        assert_eq!(alive.packets.frames_sent.stream, 1);

        close(connection).await;
        until(|| handles[0].stats().connections.is_empty()).await;
        until(|| handles[1].stats().connections.is_empty()).await;
        let over = handles[0].stats();
        assert_grown(&alive.packets, &over.packets);
        assert_eq!(over.transport.ended_locally_closed, 1);

        let listener = handles[1].stats();
        assert_eq!(listener.packets.frames_received.stream, 1);
        assert_eq!(listener.packets.frames_received.connection_close, 1);
        assert_eq!(listener.transport.ended_closed_by_peer, 1);

        handles[0].reset_stats();
        let reset = handles[0].stats();
        assert_eq!(reset.packets, PacketStats::default());
        assert_eq!(reset.transport.ended_locally_closed, 0);
    })
    .await;
}

#[tokio::test]
async fn sum_never_shrinks_while_connections_come_and_go() {
    const CONNECTIONS: u64 = 20;

    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let handle = listener.transport.handle();
        let watch = tokio::task::spawn_blocking({
            let handle = handle.clone();
            move || watch(&handle, CONNECTIONS)
        });
        let _echo = listener.spawn_echo();
        for _ in 0..CONNECTIONS {
            let (_, mut connection) = dialer.dial(&addr).await.unwrap();
            ask(&mut connection).await;
            close(connection).await;
        }
        watch.await.unwrap();
    })
    .await;
}

/// Reads the statistics until all connections have ended.
fn watch(handle: &Handle, connections: u64) {
    let mut before = PacketStats::default();
    loop {
        let stats = handle.stats();
        assert_grown(&before, &stats.packets);
        if stats.transport.ended_closed_by_peer == connections {
            return;
        }
        before = stats.packets;
    }
}

/// Asserts that no figure is smaller than before, and that none has vanished.
fn assert_grown(before: &PacketStats, after: &PacketStats) {
    let [before, after] = [before, after].map(|stats| format!("{stats:#?}"));
    assert_eq!(before.lines().count(), after.lines().count());
    for (before, after) in before.lines().zip(after.lines()) {
        let figures = [before, after].map(|line| {
            let figure = line.trim_end_matches(',').rsplit(' ').next();
            figure.unwrap().parse::<u64>().unwrap_or_default()
        });
        assert!(figures[0] <= figures[1], "{before} then {after}");
    }
}

async fn close(mut connection: Connection) {
    poll_fn(|cx| connection.poll_close_unpin(cx)).await.unwrap();
}
