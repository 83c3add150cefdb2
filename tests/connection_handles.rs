//! A handle finds single connections, reads their statistics and closes them.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::future::poll_fn;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_core::muxing::StreamMuxerExt;
use libp2p_quinn::{Connection, ConnectionError, ConnectionHandle, Handle};
use multiaddr::Protocol;
use support::{
    node::{Node, bounded, connect, connect_at, echo, quic_addr, until},
    streams::{ask, open_between},
};

#[tokio::test]
async fn connections_are_found_by_peer_and_by_address() {
    bounded(async {
        let mut dialer = Node::new();
        let (mut near, mut far) = (Node::new(), Node::with(|config| config.shards(2)));
        let handle = dialer.transport.handle();
        let addr = near.listen().await;
        let _near = connect_at(&mut dialer, &mut near, &addr).await;
        let far_addr = far.listen().await;
        let _far = connect_at(&mut dialer, &mut far, &far_addr).await;
        let _far_again = connect_at(&mut dialer, &mut far, &far_addr).await;

        let numbers = |found: Vec<ConnectionHandle>| {
            let mut numbers: Vec<_> = found.iter().map(ConnectionHandle::number).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(handle.connections()), [0, 1, 2]);
        assert_eq!(numbers(handle.connections_with(&near.peer_id)), [0]);
        assert_eq!(numbers(handle.connections_with(&far.peer_id)), [1, 2]);
        assert!(numbers(handle.connections_with(&dialer.peer_id)).is_empty());
        assert_eq!(numbers(handle.connections_at(&addr)), [0]);
        let (of_near, of_far) = (Protocol::P2p(near.peer_id), Protocol::P2p(far.peer_id));
        assert_eq!(
            numbers(handle.connections_at(&addr.clone().with(of_near))),
            [0]
        );
        assert!(numbers(handle.connections_at(&addr.clone().with(of_far))).is_empty());
        assert!(numbers(handle.connections_at(&"/dns/example.org".parse().unwrap())).is_empty());

        let dialled = only(handle.connections_with(&near.peer_id));
        let accepted = only(near.transport.handle().connections());
        assert!(dialled.is_outbound() && !accepted.is_outbound());
        assert_eq!(accepted.peer_id(), dialer.peer_id);
        assert_eq!(dialled.remote_address(), addr);
        assert_eq!(accepted.local_address(), addr);
        let stats = accepted.stats().unwrap();
        assert_eq!(stats.peer_id, Some(dialer.peer_id));
        assert_eq!(quic_addr(stats.remote_addr), accepted.remote_address());
        // Of both shards, in which numbers do not meet.
        let of_far = numbers(far.transport.handle().connections());
        assert_ne!(of_far[0], of_far[1]);
    })
    .await;
}

#[tokio::test]
async fn connection_that_is_closed_delivers_closed_streams_and_tells_the_peer_why() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let (mut written, mut read) = open_between(&mut dialled, &mut accepted).await;
        let data = vec![7; 1_000_000];
        written.write_all(&data).await.unwrap();
        written.close().await.unwrap();
        let handle = dialer.transport.handle();
        let connection = only(handle.connections());
        connection.close(9, "seen enough");
        // What was closed first counts.
        connection.close(10, "again");
        assert_eq!(end_of(&mut dialled).await, ConnectionError::LocallyClosed);
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(received == data);
        let told = ConnectionError::ClosedByPeer {
            code: 9,
            reason: "seen enough".to_owned(),
        };
        assert_eq!(end_of(&mut accepted).await, told);
    })
    .await;
}

#[tokio::test]
async fn handle_of_a_connection_that_has_ended_keeps_nothing_and_reaches_no_other() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let handle = dialer.transport.handle();
        let (dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let before = only(handle.connections());
        assert!(before.stats().is_some());
        drop((dialled, accepted));
        until(|| ids(&handle) == 0).await;
        assert!(before.stats().is_none());
        // The next connection has the same place in its shard.
        let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        assert!(before.stats().is_none());
        before.close(1, "late");
        let echo = tokio::spawn(echo(accepted));
        ask(&mut dialled).await;
        assert_ne!(only(handle.connections()).number(), before.number());
        assert_eq!(before.peer_id(), listener.peer_id);
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

fn only(found: Vec<ConnectionHandle>) -> ConnectionHandle {
    let [connection] = <[_; 1]>::try_from(found).unwrap();
    connection
}

fn ids(handle: &Handle) -> u64 {
    handle.registry_stats().active_ids
}

async fn end_of(connection: &mut Connection) -> ConnectionError {
    poll_fn(|cx| connection.poll_unpin(cx)).await.unwrap_err()
}
