//! What strangers can do at a real socket; another implementation plays the stranger.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    future::poll_fn,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use futures::future::poll_immediate;
use libp2p_core::muxing::StreamMuxerExt;
use libp2p_identity::Keypair;
use quinn::crypto::rustls::QuicClientConfig;
use support::{
    node::{Node, bounded, connect_at, echo, socket_addr, until},
    streams::{ask, transfer_through_echo},
};

/// The most datagrams of one read without GRO; the driver's constant.
const BATCH: u64 = 32;

/// After each batch of empty datagrams, other tasks have their turn.
#[tokio::test]
async fn empty_datagrams_count_as_others_do_in_a_round() {
    const EMPTY: u64 = 200;
    bounded(async {
        let mut node = Node::new();
        let addr = socket_addr(&node.listen().await);
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..EMPTY {
            stranger.send_to(&[], addr).unwrap();
        }
        let handle = node.transport.handle();
        let (mut rounds, mut counted) = (0, 0);
        // A task that is always ready to run, on the driver's thread, so that the two alternate.
        let other = poll_fn(move |cx| {
            let now = handle.stats().registry.malformed;
            assert!(now - counted <= BATCH, "{now} after {counted}");
            rounds += u64::from(now > counted);
            counted = now;
            if counted == EMPTY {
                return Poll::Ready(rounds);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(tokio::spawn(other).await.unwrap() >= EMPTY / BATCH);
    })
    .await;
}

/// Datagrams of the size that we permit peers, and one byte more.
#[tokio::test]
async fn datagrams_that_are_too_large_are_dropped_before_they_are_looked_at() {
    const LARGEST: usize = 1472;

    bounded(async {
        let mut node = Node::with(|config| config.max_mtu_bytes(LARGEST as u16));
        let addr = socket_addr(&node.listen().await);
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Datagrams that look like QUIC, and others.
        for (oversized, first) in [(1, 0x40), (2, 0x00)] {
            let datagram = [first; LARGEST + 1];
            stranger.send_to(&datagram, addr).unwrap();
            stranger.send_to(&datagram[..LARGEST], addr).unwrap();
            until(|| node.stats().transport.datagrams_received == 2 * oversized).await;
            assert_eq!(node.stats().registry.oversized, oversized);
        }
        let stats = node.stats();
        assert_eq!(stats.registry.unknown, 1);
        assert_eq!(stats.registry.non_quic, 1);
        assert_eq!(stats.transport.bytes_received, 4 * LARGEST as u64 + 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_worthless_datagrams_does_not_stop_a_connection() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let echo = tokio::spawn(echo(accepted));
        let addr = socket_addr(&addr);
        let stop = Arc::new(AtomicBool::new(false));
        let flood = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                // Empty, not QUIC, and of an unknown connection.
                let worthless: [&[u8]; 3] = [&[], &[0; 20], &[0x47; 40]];
                while !stop.load(Ordering::Relaxed) {
                    for datagram in worthless {
                        // As many as the kernel accepts.
                        let _ = stranger.send_to(datagram, addr);
                    }
                }
            }
        });
        until(|| listener.stats().registry.malformed > 0).await;
        for _ in 0..20 {
            ask(&mut dialled).await;
        }
        transfer_through_echo(&mut dialled, 300_000).await;
        // The flood went on all the time, and was counted.
        let before = listener.stats().registry;
        until(|| listener.stats().registry.non_quic > before.non_quic).await;
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

/// A new peer may open a few streams of the kind that libp2p uses, and nothing else.
#[tokio::test]
async fn a_new_connection_may_open_few_streams_of_one_kind() {
    /// As [`max_peer_streams`](libp2p_quinn::ConfigBuilder::max_peer_streams) says.
    const FIRST_STREAMS: usize = 100;
    bounded(async {
        for (limit, expected) in [(256, FIRST_STREAMS), (65_536, FIRST_STREAMS), (5, 5)] {
            let mut node = Node::with(|config| config.max_peer_streams(limit));
            let addr = node.listen().await;
            let upgrade = tokio::spawn(async move {
                let accepted = node.accept().await;
                (node, accepted)
            });
            let tls = libp2p_tls::make_client_config(&Keypair::generate_ed25519(), None).unwrap();
            let tls = QuicClientConfig::try_from(tls).unwrap();
            let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let connection = endpoint
                .connect_with(
                    quinn::ClientConfig::new(Arc::new(tls)),
                    socket_addr(&addr),
                    "libp2p",
                )
                .unwrap()
                .await
                .unwrap();
            let mut streams = Vec::new();
            while let Some(stream) = poll_immediate(connection.open_bi()).await {
                streams.push(stream.unwrap());
            }
            assert_eq!(streams.len(), expected, "of {limit}");
            assert!(poll_immediate(connection.open_uni()).await.is_none());
            // Datagrams were not even negotiated.
            assert_eq!(connection.max_datagram_size(), None);
            let (_node, (_, mut muxer)) = upgrade.await.unwrap();
            // It has sent nothing on them, so none is open for us.
            let inbound = poll_immediate(poll_fn(|cx| muxer.poll_inbound_unpin(cx))).await;
            assert!(inbound.is_none());
        }
    })
    .await;
}
