//! A QUIC transport for [libp2p](libp2p_core) that drives the sans-IO state machine of
//! [quinn-proto](quinn_proto) itself.
//!
//! In a `SwarmBuilder` it takes the place of `.with_quic()`:
//!
//! ```
//! use libp2p_quinn::{Config, Transport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let swarm = libp2p::SwarmBuilder::with_new_identity()
//!     .with_tokio()
//!     .with_other_transport(|key| Transport::new(Config::new(key)))?
//!     .with_behaviour(|_| libp2p::ping::Behaviour::default())?
//!     .build();
//! # let _ = swarm;
//! # Ok(())
//! # }
//! ```
//!
//! # Contents
//!
//! - [`Transport`] listens and dials; [`Connecting`] is a handshake on its way.
//! - [`Connection`] is the stream muxer, [`Stream`] one of its streams. Both have what libp2p's traits lack:
//!   error codes.
//! - [`Config`] has every number that can be changed, its default and the reason for it.
//! - [`Handle`] gives [`Stats`], also when a Swarm has taken the transport: of the
//!   [transport](TransportStats), its [listeners](ListenerStats), its [connections](ConnectionStats) and its
//!   [connection-ID registry](RegistryStats).
//! - [`Error`] is what libp2p hears; it is made of one enum for each moment: [`DialError`], [`ListenError`]
//!   and [`HandshakeError`]. Later come [`ConnectionError`] and [`StreamError`].
//! - With the feature `nat`, the module `nat` finds out by STUN which addresses others see the listeners at, and how
//!   the NAT behaves.
//! - [`PeerAuthenticator`] checks a libp2p certificate by itself, and gives a [`VerifiedPeer`] or a
//!   [`CertificateError`].
//!
//! # What it needs
//!
//! A tokio runtime with time and I/O enabled, and an address of the form
//! `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`.

mod address;
mod authenticator;
mod config;
mod connecting;
mod connection;
mod driver;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod hole_punch;
mod known_hosts;
mod listener;
#[cfg(feature = "nat")]
pub mod nat;
mod net;
mod proto;
mod stats;
mod stream;
mod sync;
mod transport;

#[cfg(feature = "nat")]
pub use self::stats::StunStats;
pub use self::{
    authenticator::{CertificateError, GenerateError, PeerAuthenticator, VerifiedPeer},
    config::{Config, ConfigBuilder, RetryPolicy},
    connecting::Connecting,
    connection::Connection,
    error::{
        ConfigError, ConnectionError, DialError, Error, HandshakeError, ListenError, RebindError,
        StreamError,
    },
    handle::Handle,
    stats::{
        ConnectionStats, ListenerStats, RegistryStats, SEQUENCE_BUCKETS, Stats, TransportStats,
    },
    stream::Stream,
    transport::Transport,
};
