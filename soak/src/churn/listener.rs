//! Accepts connections, and treats them in every way that an application may.

use std::{future::poll_fn, pin::Pin, time::Duration};

use anyhow::{Context, Result};
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportEvent},
};
use libp2p_identity::Keypair;
use libp2p_quinn::{Config, Connecting, Connection, Handle, Transport};
use multiaddr::{Multiaddr, Protocol};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinHandle;

use super::streams;
use crate::sample;

pub struct Listener {
    address: Multiaddr,
    handle: Handle,
    task: JoinHandle<()>,
}

/// How to treat an incoming connection.
enum Fate {
    Served,
    Refused,
    /// Dropped during its handshake.
    Abandoned,
    /// Dropped some time after its handshake.
    Dropped,
}

impl Listener {
    pub async fn start(seed: u64, shards: u8) -> Result<Self> {
        let identity = Keypair::generate_ed25519();
        let config = Config::builder(&identity).shards(shards)?.build()?;
        let mut transport = Transport::new(config);
        let handle = transport.handle();
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
        let address = next_event(&mut transport)
            .await
            .into_new_address()
            .context("the first event of a listener is no address")?
            .with(Protocol::P2p(identity.public().to_peer_id()));
        let task = tokio::spawn(accept(transport, StdRng::seed_from_u64(seed)));
        Ok(Self {
            address,
            handle,
            task,
        })
    }

    /// The address with the peer ID.
    pub fn address(&self) -> &Multiaddr {
        &self.address
    }

    pub fn entries(&self) -> u64 {
        sample::entries(&self.handle.stats().registry)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn next_event(transport: &mut Transport) -> TransportEvent<Connecting, libp2p_quinn::Error> {
    poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

async fn accept(mut transport: Transport, mut rng: StdRng) {
    loop {
        let TransportEvent::Incoming { upgrade, .. } = next_event(&mut transport).await else {
            continue;
        };
        let pause = Duration::from_millis(rng.random_range(0..PAUSE_MS));
        let fate = Fate::any(&mut rng);
        let rng = StdRng::seed_from_u64(rng.next_u64());
        match fate {
            Fate::Served => {
                tokio::spawn(async move {
                    if let Ok((_, muxer)) = upgrade.await {
                        serve(muxer, rng).await;
                    }
                });
            }
            Fate::Refused => drop(upgrade),
            Fate::Abandoned => {
                tokio::spawn(tokio::time::timeout(pause, upgrade));
            }
            Fate::Dropped => {
                tokio::spawn(async move {
                    if let Ok((_, muxer)) = upgrade.await {
                        let _ = tokio::time::timeout(pause, serve(muxer, rng)).await;
                    }
                });
            }
        }
    }
}

/// Accepts streams until the connection ends.
async fn serve(mut muxer: Connection, mut rng: StdRng) {
    while let Ok(stream) = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await {
        let service = streams::Service::any(&mut rng);
        tokio::spawn(streams::serve(stream, service));
    }
}

impl Fate {
    fn any(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..100) {
            0..5 => Self::Refused,
            5..9 => Self::Abandoned,
            9..15 => Self::Dropped,
            _ => Self::Served,
        }
    }
}

/// Longest time in milliseconds until something is dropped; a handshake takes one or two on an idle
/// machine.
const PAUSE_MS: u64 = 6;
