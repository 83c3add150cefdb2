//! The official transport, `libp2p-quic`, as a peer: as dialer and as listener.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{future::poll_fn, io};

use futures::{
    AsyncReadExt, AsyncWriteExt, StreamExt,
    future::{join, try_join_all},
};
use libp2p::swarm::{DialError, SwarmEvent, dial_opts::DialOpts};
use libp2p_core::{Transport as _, muxing::StreamMuxerExt};
use libp2p_identity::PeerId;
use libp2p_quinn::{ConnectionError, StreamError};
use multiaddr::Protocol;
use support::{
    certificates::hosts,
    node::{LOOPBACK_V4, Node, OfficialNode, Peer, Quic, bounded, connect, connect_at, echo},
    streams::{Digested, accept, open, open_between, receive, send, stream_error},
    swarm,
};

/// Bytes to transfer in each direction: 16 MiB, or 256 MiB in long runs.
fn transfer_bytes() -> u64 {
    let mebibytes = match std::env::var_os("LIBP2P_QUINN_LONG") {
        Some(_) => 256,
        None => 16,
    };
    mebibytes * 1024 * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swarms_ping_and_identify_each_other() {
    bounded(async {
        swarm::meet(&mut swarm::ours(), &mut swarm::official()).await;
        swarm::meet(&mut swarm::official(), &mut swarm::ours()).await;
    })
    .await;
}

async fn transfer_both_ways<D: Quic, L: Quic>(mut dialer: Peer<D>, mut listener: Peer<L>) {
    let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
    let (near, far) = open_between(&mut dialled, &mut accepted).await;
    let ((mut near_reader, mut near_writer), (mut far_reader, mut far_writer)) =
        (near.split(), far.split());
    let bytes = transfer_bytes();
    let there = async { join(send(&mut near_writer, bytes), receive(&mut far_reader)).await };
    let back = async { join(send(&mut far_writer, bytes), receive(&mut near_reader)).await };
    let (there, back): ((Digested, _), (Digested, _)) = join(there, back).await;
    assert_eq!(there.0, there.1);
    assert_eq!(back.0, back.1);
    assert_eq!(there.0.length, bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_transferred_arrives_whole() {
    bounded(transfer_both_ways(Node::new(), OfficialNode::new())).await;
    bounded(transfer_both_ways(OfficialNode::new(), Node::new())).await;
}

async fn open_a_thousand_streams<D: Quic, L: Quic>(mut dialer: Peer<D>, mut listener: Peer<L>) {
    let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
    let echo = tokio::spawn(echo(accepted));
    for round in 0..10_u32 {
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(open(&mut dialled).await);
        }
        try_join_all(
            streams
                .into_iter()
                .enumerate()
                .map(async |(index, mut stream)| {
                    let word = format!("stream {index} of round {round}");
                    stream.write_all(word.as_bytes()).await?;
                    stream.close().await?;
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).await?;
                    assert_eq!(answer, word);
                    io::Result::Ok(())
                }),
        )
        .await
        .unwrap();
    }
    drop(dialled);
    echo.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_come_and_go() {
    bounded(open_a_thousand_streams(Node::new(), OfficialNode::new())).await;
    bounded(open_a_thousand_streams(OfficialNode::new(), Node::new())).await;
}

async fn close_by_halves<D: Quic, L: Quic>(mut dialer: Peer<D>, mut listener: Peer<L>) {
    let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
    let (mut near, mut far) = open_between(&mut dialled, &mut accepted).await;
    let mut contents = Vec::new();
    near.write_all(b"question").await.unwrap();
    near.close().await.unwrap();
    far.read_to_end(&mut contents).await.unwrap();
    assert_eq!(contents, b"question");
    contents.clear();
    far.write_all(b"answer").await.unwrap();
    far.close().await.unwrap();
    near.read_to_end(&mut contents).await.unwrap();
    assert_eq!(contents, b"answer");
    // The listener opens the stream, and closes first.
    let (mut far, mut near) = open_between(&mut accepted, &mut dialled).await;
    far.close().await.unwrap();
    contents.clear();
    near.read_to_end(&mut contents).await.unwrap();
    assert_eq!(contents, b"");
    near.write_all(b"still here").await.unwrap();
    near.close().await.unwrap();
    far.read_to_end(&mut contents).await.unwrap();
    assert_eq!(contents, b"still here");
}

#[tokio::test]
async fn each_half_of_a_stream_closes_by_itself() {
    bounded(close_by_halves(Node::new(), OfficialNode::new())).await;
    bounded(close_by_halves(OfficialNode::new(), Node::new())).await;
}

/// Writes until the peer's reset arrives.
async fn write_until_error(stream: &mut (impl futures::AsyncWrite + Unpin)) -> io::Error {
    loop {
        if let Err(error) = stream.write_all(&[0; 1000]).await {
            return error;
        }
    }
}

/// Abandons streams on each side, and checks what the other side sees.
async fn abandon(ours: &mut libp2p_quinn::Connection, official: &mut libp2p_quic::Connection) {
    let code = quinn::VarInt::from_u32(42);
    let (mut near, mut far) = open_between(ours, official).await;
    near.reset(42).unwrap();
    let error = far.read(&mut [0; 8]).await.unwrap_err();
    let read = error.get_ref().and_then(|error| error.downcast_ref());
    assert_eq!(read, Some(&quinn::ReadError::Reset(code)));
    near.stop(42).unwrap();
    let error = write_until_error(&mut far).await;
    let written = error.get_ref().and_then(|error| error.downcast_ref());
    assert_eq!(written, Some(&quinn::WriteError::Stopped(code)));

    // The official transport has no error codes; it can only drop a stream.
    let (mut near, far) = open_between(ours, official).await;
    drop(far);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    let error = write_until_error(&mut near).await;
    assert_eq!(stream_error(&error), &StreamError::Stopped(0));
    assert_eq!(near.stop_code(), Some(0));
    near.close().await.unwrap();
}

#[tokio::test]
async fn abandoned_streams_keep_their_codes() {
    bounded(async {
        let (mut ours, mut official) = (Node::new(), OfficialNode::new());
        let (mut here, mut there) = connect(&mut ours, &mut official).await;
        abandon(&mut here, &mut there).await;
        let (mut there, mut here) = connect(&mut official, &mut ours).await;
        abandon(&mut here, &mut there).await;
    })
    .await;
}

#[tokio::test]
async fn a_closed_connection_is_noticed_with_its_code() {
    bounded(async {
        let (mut ours, mut official) = (Node::new(), OfficialNode::new());
        let (here, mut there) = connect(&mut ours, &mut official).await;
        here.close_with(0x1234, "enough");
        let error = poll_fn(|cx| there.poll_inbound_unpin(cx))
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("enough"), "{error}");

        let (mut here, there) = connect(&mut ours, &mut official).await;
        drop(there);
        let error = poll_fn(|cx| here.poll_unpin(cx)).await.unwrap_err();
        assert_eq!(
            error,
            ConnectionError::ClosedByPeer {
                code: 0,
                reason: String::new()
            }
        );
    })
    .await;
}

#[tokio::test]
async fn the_wrong_official_peer_is_refused_in_the_handshake() {
    bounded(async {
        let (mut ours, mut official) = (Node::new(), OfficialNode::new());
        let addr = official.listen().await;
        let dial = ours.dial(&addr.with(Protocol::P2p(PeerId::random())));
        let (dialled, accepted) = join(dial, async { official.knock().await.upgrade.await }).await;
        let (met, mut connection) = dialled.unwrap();
        assert_eq!(met, official.peer_id);
        assert!(poll_fn(|cx| connection.poll_unpin(cx)).await.is_err());
        assert!(accepted.is_err());
    })
    .await;
}

#[tokio::test]
async fn an_official_swarm_that_expects_another_peer_leaves() {
    bounded(async {
        let (mut official, mut ours) = (swarm::official(), swarm::ours());
        let addr = swarm::listen(&mut ours).await;
        let listener_id = *ours.local_peer_id();
        let expected = PeerId::random();
        let dial = DialOpts::peer_id(expected).addresses(vec![addr]).build();
        official.dial(dial).unwrap();
        let (mut told, mut left) = (false, false);
        while !(told && left) {
            tokio::select! {
                event = official.select_next_some() => {
                    if let SwarmEvent::OutgoingConnectionError { error, .. } = event {
                        assert!(
                            matches!(&error, DialError::WrongPeerId { obtained, .. } if *obtained == listener_id),
                            "{error:?}"
                        );
                        told = true;
                    }
                }
                event = ours.select_next_some() => {
                    left |= matches!(event, SwarmEvent::ConnectionClosed { .. });
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_our_listener_leaves_a_transfer_intact() {
    bounded(async {
        let (mut official, mut ours) = (OfficialNode::new(), Node::new());
        let (id, addr) = ours.listen_at(LOOPBACK_V4).await;
        let (mut dialled, mut accepted) = connect_at(&mut official, &mut ours, &addr).await;
        let (near, mut far) = open_between(&mut dialled, &mut accepted).await;
        let (mut reader, mut writer) = near.split();
        let sending = tokio::spawn(async move { send(&mut writer, 32 * 1024 * 1024).await });
        // In the middle of the transfer: the windows cannot hold all of it.
        let mut first = vec![0; 1_000_000];
        far.read_exact(&mut first).await.unwrap();
        assert!(!sending.is_finished());
        assert!(ours.transport.remove_listener(id));
        far.write_all(&first).await.unwrap();
        far.close().await.unwrap();
        let mut rest = Vec::new();
        let (back, _) = join(receive(&mut reader), far.read_to_end(&mut rest)).await;
        assert_eq!(back.length, 1_000_000);
        first.extend(rest);
        let received = receive(&mut &first[..]).await;
        assert_eq!(received, sending.await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn every_type_of_host_key_is_known_to_both() {
    bounded(async {
        for keypair in hosts() {
            let (mut ours, mut official) = (Node::of(&keypair), OfficialNode::new());
            connect(&mut ours, &mut official).await;
            connect(&mut official, &mut ours).await;
            let (mut ours, mut official) = (Node::new(), OfficialNode::of(&keypair));
            connect(&mut ours, &mut official).await;
            connect(&mut official, &mut ours).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    bounded(async {
        let (mut ours, mut official) = (Node::new(), OfficialNode::new());
        let _outbound = connect(&mut ours, &mut official).await;
        let _inbound = connect(&mut official, &mut ours).await;
        let connections = ours.stats().connections;
        assert_eq!(connections.len(), 2);
        for connection in connections {
            assert_eq!(connection.key_exchange_group, Some("X25519MLKEM768"));
            let suite = connection.cipher_suite.unwrap();
            assert!(suite.starts_with("TLS13_"), "{suite}");
            assert_eq!(connection.peer_id, Some(official.peer_id));
        }
    })
    .await;
}

#[tokio::test]
async fn our_last_words_arrive() {
    bounded(async {
        let (mut ours, mut official) = (Node::new(), OfficialNode::new());
        let (mut here, mut there) = connect(&mut ours, &mut official).await;
        let mut stream = open(&mut here).await;
        stream.write_all(b"last words").await.unwrap();
        drop(stream);
        let mut heard = Vec::new();
        let mut accepted = accept(&mut there).await;
        accepted.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
    })
    .await;
}
