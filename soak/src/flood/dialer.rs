//! Honest dialers.

use std::{
    future::poll_fn,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_core::{
    Endpoint, Transport as _,
    muxing::StreamMuxerExt,
    transport::{DialOpts, PortUse},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{Config, Connection, Stream, Transport};
use multiaddr::Multiaddr;

pub struct Dialer {
    transport: Mutex<Transport>,
    peer_id: PeerId,
}

impl Default for Dialer {
    fn default() -> Self {
        let identity = Keypair::generate_ed25519();
        Self {
            transport: Mutex::new(Transport::new(Config::new(&identity))),
            peer_id: identity.public().to_peer_id(),
        }
    }
}

impl Dialer {
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub async fn connect(&self, address: &Multiaddr, port_use: PortUse) -> Result<Connection> {
        let opts = DialOpts {
            role: Endpoint::Dialer,
            port_use,
        };
        let dial = self
            .transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dial(address.clone(), opts)?;
        Ok(dial.await?.1)
    }

    /// Dials from a new socket, asks a question, checks the answer, and closes. Returns the time
    /// until the answer.
    pub async fn ask(&self, address: &Multiaddr) -> Result<Duration> {
        let start = Instant::now();
        let dial = self.connect(address, PortUse::New);
        let mut muxer = dial.await.context("dial")?;
        let mut stream = open(&mut muxer).await?;
        stream.write_all(QUESTION).await?;
        stream.close().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        ensure!(
            answer == (QUESTION.len() as u64).to_be_bytes(),
            "wrong answer"
        );
        let time = start.elapsed();
        poll_fn(|cx| muxer.poll_close_unpin(cx)).await?;
        Ok(time)
    }
}

pub async fn open(muxer: &mut Connection) -> Result<Stream> {
    Ok(poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await?)
}

const QUESTION: &[u8] = b"is anybody there?";
