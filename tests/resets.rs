//! Strangers cannot end a connection.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use libp2p_core::muxing::StreamMuxerExt;
use libp2p_identity::Keypair;
use libp2p_quinn::{Config, Transport};
use support::{
    node::{
        LOOPBACK_V4, LOOPBACK_V6, NEW_PORT, Node, bounded, connect_at, echo, quic_addr, silent,
        socket_addr, until,
    },
    relay::{ConnectionId, Relay},
    streams::transfer_through_echo,
};
use tokio::{net::UdpSocket, time::timeout};

/// Longer than the pause between two resets of a shard.
const ANSWER_TIME: Duration = Duration::from_millis(30);

/// The listeners of the node and of its twin.
const LISTENERS: usize = 4;

/// Tries its other sockets, its other shards, and another transport of the same identity (RFC 9000
/// §21.11).
#[tokio::test]
async fn no_socket_of_a_node_or_of_its_twin_gives_a_reset_for_a_connection_that_lives() {
    bounded(async {
        let identity = Keypair::generate_ed25519();
        let mut listener = node_of(&identity);
        let mut twin = node_of(&identity);
        let mut dialer = Node::with(|config| config.shards(3));
        let addr = socket_addr(&listener.listen().await);
        let mut targets = vec![addr];
        for other in [LOOPBACK_V4, LOOPBACK_V6] {
            targets.push(socket_addr(&listener.listen_at(other).await.1));
        }
        targets.push(socket_addr(&twin.listen().await));
        assert_eq!(targets.len(), LISTENERS);

        let relay = Relay::to(&[addr]).await;
        let (mut dialled, accepted) =
            connect_at(&mut dialer, &mut listener, &quic_addr(relay.addr())).await;
        let echo = tokio::spawn(echo(accepted));
        transfer_through_echo(&mut dialled, 100_000).await;

        // Also the socket of a dial in progress.
        let (peer, peer_addr) = silent("127.0.0.1");
        let dial = tokio::spawn(listener.try_dial(&peer_addr, NEW_PORT).unwrap());
        let mut from = None;
        until(|| {
            from = peer.recv_from(&mut [0; 2048]).ok().map(|(_, from)| from);
            from.is_some()
        })
        .await;
        targets.extend(from);

        let stranger = Stranger::new().await;
        let mut tokens = BTreeSet::new();
        let live = [relay.ids_of_servers(), relay.ids_of_client()];
        assert!(live.iter().all(|ids| !ids.is_empty()));
        for id in live.iter().flatten() {
            for target in &targets {
                let answer = stranger.ask(*target, *id).await;
                tokens.extend(answer.map(|(_, token)| token));
            }
        }
        // All listeners answer an unknown ID, so the silence had no other reason. Resets are
        // rate-limited.
        let mut nobody = [0; 8];
        for target in &targets[..LISTENERS] {
            let answer = async {
                loop {
                    nobody[7] += 1;
                    if let Some((from, token)) = stranger.ask(*target, nobody).await
                        && from == *target
                    {
                        return token;
                    }
                }
            };
            tokens.insert(answer.await);
        }

        for token in &tokens {
            for id in &live[1] {
                relay.forge_to_client(&reset(*id, token)).await;
            }
            for id in &live[0] {
                relay.forge_to(addr, &reset(*id, token)).await;
            }
        }
        transfer_through_echo(&mut dialled, 1_000_000).await;
        dialled.close().await.unwrap();
        echo.await.unwrap();
        dial.abort();
    })
    .await;
}

fn node_of(identity: &Keypair) -> Node {
    let config = Config::builder(identity).shards(3).unwrap();
    Node {
        transport: Transport::new(config.build().unwrap()),
        peer_id: identity.public().to_peer_id(),
    }
}

type Token = [u8; 16];

/// A reset for the connection with this ID.
fn reset(id: ConnectionId, token: &Token) -> Vec<u8> {
    [&[0x40][..], &id, &[9; 30], token].concat()
}

/// A host without a connection that sends packets with IDs of others.
struct Stranger {
    v4: UdpSocket,
    v6: UdpSocket,
}

impl Stranger {
    async fn new() -> Self {
        Self {
            v4: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            v6: UdpSocket::bind("[::1]:0").await.unwrap(),
        }
    }

    /// Sends a packet with this ID. Returns the token at the end of an answer, if there is one.
    async fn ask(&self, target: SocketAddr, id: ConnectionId) -> Option<(SocketAddr, Token)> {
        let socket = if target.is_ipv4() { &self.v4 } else { &self.v6 };
        let packet = [&[0x40][..], &id, &[7; 200]].concat();
        socket.send_to(&packet, target).await.unwrap();
        let mut answer = [0; 2048];
        let received = timeout(ANSWER_TIME, socket.recv_from(&mut answer)).await;
        let (length, from) = received.ok()?.ok()?;
        Some((from, *answer[..length].last_chunk()?))
    }
}
