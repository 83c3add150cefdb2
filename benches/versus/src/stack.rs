//! What is compared, behind traits that cost nothing.

pub mod bare;
pub mod equalised;
pub mod floor;
pub mod libp2p;
pub mod quinn;
pub mod swarm;
pub mod tls;

use std::{
    fmt,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::{AsyncRead, AsyncWrite};
use libp2p_identity::{Keypair, PeerId};
use serde::{Deserialize, Serialize};

/// One of the things that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StackName {
    /// libp2p-quinn through libp2p's traits.
    Ours,
    /// libp2p-quic through the same traits, driven by the same code.
    Official,
    /// quinn with the TLS of ours, AES-128-GCM first.
    QuinnAes,
    /// The same with ChaCha20-Poly1305 first, as the official one has it.
    QuinnChacha,
    /// quinn-proto and a blocking socket in one thread, AES-128-GCM.
    Floor,
    /// UDP and AES-128-GCM, without a protocol.
    Bare,
}

impl StackName {
    /// All but ours.
    pub const OTHERS: &[Self] = &[
        Self::Official,
        Self::QuinnAes,
        Self::QuinnChacha,
        Self::Floor,
        Self::Bare,
    ];

    /// The name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Official => "official",
            Self::QuinnAes => "quinn-aes",
            Self::QuinnChacha => "quinn-chacha",
            Self::Floor => "floor",
            Self::Bare => "bare",
        }
    }
}

/// How a stack is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// MTU, windows, stream limit and timeouts are the same in all stacks.
    Equalised,
    /// What each stack does if nobody tells it otherwise.
    Shipped,
}

/// How an endpoint is made, apart from its identity.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub profile: Profile,
    /// Of the interface to bind to: the loopback one, or one in a network of our own.
    pub ip: Ipv4Addr,
}

/// Where a server is, and who it is; `HOST:PORT/PEER` on the command line.
#[derive(Clone, Debug)]
pub struct Address {
    pub socket: SocketAddr,
    pub peer: PeerId,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket, self.peer)
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (socket, peer) = text.split_once('/').context("no peer in the address")?;
        Ok(Self {
            socket: socket.parse()?,
            peer: peer.parse()?,
        })
    }
}

/// What a stack has to say of itself for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub suite: String,
    pub group: String,
    pub mtu: String,
    pub windows: String,
    pub segments: String,
}

/// A socket with everything that it takes to dial and to be dialled.
pub trait Endpoint: Send + Sync + Sized + 'static {
    type Connection: Connection;
    type Incoming: Future<Output = Result<Self::Connection>> + Send;

    /// Whether it serves one stream of one connection, and blocks the thread meanwhile.
    const ONE_AT_A_TIME: bool = false;

    /// Binds to a free port.
    fn bind(identity: &Keypair, setup: Setup) -> impl Future<Output = Result<Self>> + Send;

    fn address(&self) -> Address;

    /// The handshake up to a connection that can open streams.
    fn connect(&self, to: &Address) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// The next connection that somebody begins; for one caller at a time.
    fn accept(&self) -> impl Future<Output = Result<Self::Incoming>> + Send;

    /// What is known, with a connection of it established.
    fn facts(&self, connection: &Self::Connection) -> Facts;
}

/// An established connection; the last clone that goes closes it.
pub trait Connection: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn open(&self) -> impl Future<Output = Result<Self::Stream>> + Send;

    /// For one caller at a time.
    fn accept(&self) -> impl Future<Output = Result<Self::Stream>> + Send;
}
