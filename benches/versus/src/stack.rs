//! The stacks, behind traits without dynamic dispatch.

pub mod bare;
pub mod equalised;
pub mod floor;
pub mod libp2p;
pub mod quinn;
pub mod seen;
pub mod swarm;
pub mod tcp;
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

/// The stacks that `versus` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StackName {
    /// libp2p-quinn through libp2p's traits.
    Ours,
    /// The same, with a log at the level INFO and with metrics.
    OursSeen,
    /// The same, with a log at the level DEBUG.
    OursTraced,
    /// Ours with BBR.
    OursBbr,
    /// libp2p-quic through the same traits, driven by the same code.
    Official,
    /// quinn with our TLS, AES-128-GCM first.
    QuinnAes,
    /// The same with ChaCha20-Poly1305 first, as in the official transport.
    QuinnChacha,
    /// quinn-proto and a blocking socket in one thread, AES-128-GCM.
    Floor,
    /// UDP and AES-128-GCM, without a protocol.
    Bare,
    /// The kernel's TCP with CUBIC, without encryption.
    TcpCubic,
    /// The same with BBR.
    TcpBbr,
    /// go-libp2p's QUIC transport on both sides, by its own program.
    Go,
}

impl StackName {
    /// All that are not ours.
    pub const OTHERS: &[Self] = &[
        Self::OursBbr,
        Self::Official,
        Self::QuinnAes,
        Self::QuinnChacha,
        Self::Floor,
        Self::Bare,
        Self::TcpCubic,
        Self::TcpBbr,
        Self::Go,
    ];

    /// The name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursSeen => "ours-seen",
            Self::OursTraced => "ours-traced",
            Self::OursBbr => "ours-bbr",
            Self::Official => "official",
            Self::QuinnAes => "quinn-aes",
            Self::QuinnChacha => "quinn-chacha",
            Self::Floor => "floor",
            Self::Bare => "bare",
            Self::TcpCubic => "tcp-cubic",
            Self::TcpBbr => "tcp-bbr",
            Self::Go => "go",
        }
    }
}

/// How a stack is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// MTU, windows, stream limit and timeouts are the same in all stacks.
    Equalised,
    /// The defaults of each stack.
    Shipped,
    /// The defaults, on a machine that grants no larger socket buffers than Linux does by default.
    StockBuffers,
}

/// The largest socket buffer that Linux grants by default (`net.core.rmem_max`, `wmem_max`): 208
/// KiB.
///
/// A network namespace cannot set these limits for itself. A stack that asks for this much has what
/// it would be granted there, and a stack that asks for nothing has it anyway.
pub const STOCK_BUFFER: usize = 212_992;

/// The settings of an endpoint, except its identity.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub profile: Profile,
    /// The local address to bind to: loopback, or an address in a network namespace.
    pub ip: Ipv4Addr,
}

/// The address and the identity of a server; `HOST:PORT/PEER` on the command line.
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

/// What the report says about a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub suite: String,
    pub group: String,
    pub mtu: String,
    pub windows: String,
    pub segments: String,
}

/// An endpoint of a stack, which can dial and accept.
pub trait Endpoint: Send + Sync + Sized + 'static {
    type Connection: Connection;
    type Incoming: Future<Output = Result<Self::Connection>> + Send;

    /// Whether it serves one stream of one connection, and blocks the thread meanwhile.
    const ONE_AT_A_TIME: bool = false;

    /// Binds to a free port.
    fn bind(identity: &Keypair, setup: Setup) -> impl Future<Output = Result<Self>> + Send;

    fn address(&self) -> Address;

    /// Dials, and waits until the connection can open streams.
    fn connect(&self, to: &Address) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// Waits for the next incoming connection. Only one caller at a time.
    fn accept(&self) -> impl Future<Output = Result<Self::Incoming>> + Send;

    /// The facts about this stack, once it has a connection.
    fn facts(&self, connection: &Self::Connection) -> Facts;
}

/// An established connection. Dropping the last clone closes it.
pub trait Connection: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn open(&self) -> impl Future<Output = Result<Self::Stream>> + Send;

    /// Waits for the next stream of the peer. Only one caller at a time.
    fn accept(&self) -> impl Future<Output = Result<Self::Stream>> + Send;
}
