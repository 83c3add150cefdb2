//! Dials, and treats its connections in every way that an application may.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use futures::{AsyncWriteExt, StreamExt, stream::FuturesUnordered};
use libp2p_core::{
    Endpoint, Transport as _,
    muxing::StreamMuxerExt,
    transport::{DialOpts, PortUse},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{
    Config, Connecting, Connection, ConnectionError, Error, Handle, HandshakeError, Transport,
};
use multiaddr::{Multiaddr, Protocol};
use rand::{Rng, RngExt, rngs::StdRng};

use super::{
    patience, streams, take,
    tally::{Outcome, Tally},
};

pub struct Dialer {
    transport: Mutex<Transport>,
    listener: Multiaddr,
    nobody: Multiaddr,
    tally: Arc<Tally>,
}

/// How to treat a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Used, and closed.
    Ordinary,
    /// The same, from a new socket.
    OwnSocket,
    /// Used, and dropped with open streams.
    Dropped,
    /// Dropped during its handshake.
    Abandoned,
    /// Another peer is expected.
    WrongPeer,
    /// Dialled at a closed port.
    Nobody,
}

impl Manner {
    pub fn any(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..100) {
            0..10 => Self::OwnSocket,
            10..22 => Self::Dropped,
            22..30 => Self::Abandoned,
            30..35 => Self::WrongPeer,
            35..40 => Self::Nobody,
            _ => Self::Ordinary,
        }
    }
}

impl Dialer {
    pub fn new(listener: &Multiaddr, tally: Arc<Tally>) -> Result<Self> {
        Ok(Self {
            transport: Mutex::new(Transport::new(Config::new(&Keypair::generate_ed25519()))),
            listener: listener.clone(),
            // The port of the discard service (RFC 863), which no host offers any more; no socket
            // gets that port by chance.
            nobody: "/ip4/127.0.0.1/udp/9/quic-v1".parse()?,
            tally,
        })
    }

    /// Connects once, and uses the connection for up to `share` of the remaining streams.
    pub async fn connect(&self, manner: Manner, left: &AtomicU64, share: u64, rng: &mut StdRng) {
        let attempt = self.attempt(manner, left, share, rng);
        let ended = patience::bounded(attempt).await;
        let ended = ended.unwrap_or_else(|| Err(format!("a connection hangs: {manner:?}")));
        self.tally.count_connection(ended);
    }

    /// The handle of the transport, which is dropped.
    pub fn end(self) -> Handle {
        let transport = self.transport.into_inner();
        transport.unwrap_or_else(PoisonError::into_inner).handle()
    }

    async fn attempt(
        &self,
        manner: Manner,
        left: &AtomicU64,
        share: u64,
        rng: &mut StdRng,
    ) -> Result<Outcome, String> {
        let dial = self.dial(manner)?;
        if manner == Manner::Abandoned {
            let pause = Duration::from_millis(rng.random_range(0..PAUSE_MS));
            // A faster one is dropped all the same.
            drop(tokio::time::timeout(pause, dial).await);
            return Ok(Outcome::DialAbandoned);
        }
        let mut muxer = match dial.await {
            Ok((_, mut muxer)) if manner == Manner::WrongPeer => {
                // It resolves to the peer that it reached, and the connection cannot be used.
                return match poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await {
                    Err(_) => Ok(Outcome::WrongPeer),
                    Ok(_) => Err("a stream to a wrong peer".to_owned()),
                };
            }
            Ok((_, muxer)) => muxer,
            Err(Error::Handshake(error)) => return failed(manner, &error),
            Err(error) => return Err(format!("not dialled: {error:?}")),
        };
        if manner == Manner::Nobody {
            return Err(format!("connected: {manner:?}"));
        }
        let wanted = take(left, share);
        let mut begun = 0;
        let used = self.use_streams(&mut muxer, wanted, &mut begun, rng).await;
        left.fetch_add(wanted - begun, Ordering::Relaxed);
        let ended = match used {
            Ok(()) if manner == Manner::Dropped => drop_busy(muxer).await,
            Ok(()) => poll_fn(|cx| muxer.poll_close_unpin(cx))
                .await
                .map(|()| Outcome::Closed),
            Err(error) => Err(error),
        };
        match ended {
            Ok(outcome) => Ok(outcome),
            Err(ConnectionError::ClosedByPeer { .. }) => Ok(Outcome::MuxerDroppedByListener),
            // The code that quinn-proto uses before the handshake is confirmed (RFC 9000 §10.2.3).
            Err(ConnectionError::AbortedByPeer {
                code: APPLICATION_ERROR,
                ..
            }) => Ok(Outcome::HandshakeAbandonedByListener),
            Err(ConnectionError::TimedOut) => Ok(Outcome::TimedOut),
            Err(error) => Err(format!("a connection ended with {error:?}")),
        }
    }

    fn dial(&self, manner: Manner) -> Result<Connecting, String> {
        let addr = match manner {
            Manner::Nobody => self.nobody.clone(),
            Manner::WrongPeer => {
                let mut addr = self.listener.clone();
                addr.pop();
                addr.with(Protocol::P2p(PeerId::random()))
            }
            _ => self.listener.clone(),
        };
        let opts = DialOpts {
            role: Endpoint::Dialer,
            port_use: match manner {
                Manner::OwnSocket => PortUse::New,
                _ => PortUse::Reuse,
            },
        };
        let mut transport = self
            .transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        transport
            .dial(addr, opts)
            .map_err(|error| format!("not dialled: {error:?}"))
    }

    /// Counts the streams that it has opened in `begun`, even if the connection has ended
    /// meanwhile.
    async fn use_streams(
        &self,
        muxer: &mut Connection,
        wanted: u64,
        begun: &mut u64,
        rng: &mut StdRng,
    ) -> Result<(), ConnectionError> {
        let mut exchanges = FuturesUnordered::new();
        let mut opened = Ok(());
        while *begun < wanted && opened.is_ok() {
            match poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await {
                Ok(stream) => {
                    *begun += 1;
                    exchanges.push(streams::exchange(stream, streams::Use::any(rng)));
                }
                Err(error) => opened = Err(error),
            }
            while exchanges.len() >= PARALLEL_STREAMS || (opened.is_err() && !exchanges.is_empty())
            {
                if let Some(ended) = exchanges.next().await {
                    self.tally.count_stream(ended);
                }
            }
        }
        while let Some(ended) = exchanges.next().await {
            self.tally.count_stream(ended);
        }
        opened
    }
}

/// Drops a muxer before its open streams.
async fn drop_busy(mut muxer: Connection) -> Result<Outcome, ConnectionError> {
    let mut open = Vec::new();
    for _ in 0..BUSY_STREAMS {
        let mut stream = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await?;
        // An error shows when the next stream is opened.
        let _ = stream.write_all(b"more to come").await;
        open.push(stream);
    }
    drop(muxer);
    drop(open);
    Ok(Outcome::MuxerDropped)
}

/// The meaning of a failed handshake.
fn failed(manner: Manner, error: &HandshakeError) -> Result<Outcome, String> {
    match (manner, error) {
        (_, HandshakeError::Refused) => Ok(Outcome::DialRefused),
        (Manner::Nobody, HandshakeError::Unreachable) => Ok(Outcome::NobodyThere),
        (
            _,
            HandshakeError::Connection(
                ConnectionError::ClosedByPeer { .. } | ConnectionError::AbortedByPeer { .. },
            ),
        ) => Ok(Outcome::HandshakeAbandonedByListener),
        (_, HandshakeError::TimedOut) => Ok(Outcome::TimedOut),
        _ => Err(format!("{manner:?} failed: {error:?}")),
    }
}

/// RFC 9000 §20.1.
const APPLICATION_ERROR: u64 = 0x0c;

/// Streams of one connection in parallel.
const PARALLEL_STREAMS: usize = 16;

/// Streams that are open when their muxer is dropped.
const BUSY_STREAMS: usize = 3;

/// Longest time in milliseconds until a dial is abandoned; a handshake takes one or two on an idle
/// machine.
const PAUSE_MS: u64 = 6;
