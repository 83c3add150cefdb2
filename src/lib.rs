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
//! - [`Transport`] listens and dials; [`Connecting`] is a handshake in progress.
//! - [`Connection`] is the stream muxer and [`Stream`] one of its streams. Both add the error codes
//!   that libp2p's traits lack.
//! - [`Config`] has every setting, its default and the reason for the default.
//! - [`Handle`] gives [`Stats`] even after a Swarm has taken the transport: of the
//!   [transport](TransportStats), its [listeners](ListenerStats), its
//!   [connections](ConnectionStats) and its [connection-ID registry](RegistryStats).
//! - [`Error`] is the error that the transport reports to libp2p. It wraps one enum for each
//!   moment: [`DialError`], [`ListenError`] and [`HandshakeError`]. After the handshake,
//!   [`ConnectionError`] and [`StreamError`] apply.
//! - With the feature `nat`, the module `nat` uses STUN to find the addresses at which others see
//!   the listeners, and how the NAT behaves.
//! - [`PeerAuthenticator`] verifies a libp2p certificate on its own. It returns a [`VerifiedPeer`]
//!   or a [`CertificateError`].
//!
//! # Requirements
//!
//! A tokio runtime with time and I/O enabled, and addresses of the form
//! `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`.

mod address;
mod authenticator;
mod config;
mod connecting;
mod connection;
mod driver;
mod error;
mod expected_peers;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
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
