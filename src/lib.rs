//! A QUIC transport for [libp2p](libp2p_core) that drives [quinn-proto](quinn_proto)'s sans-IO
//! state machine directly, without the crate `quinn`.
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
//!   [connections](ConnectionStats) and its [connection-ID registry](RegistryStats). It finds
//!   single connections: a [`ConnectionHandle`] shows the statistics of one and closes it.
//! - [`Error`] is the error that the transport reports to libp2p. It wraps one enum for each
//!   moment: [`DialError`], [`ListenError`] and [`HandshakeError`]. After the handshake,
//!   [`ConnectionError`] and [`StreamError`] apply.
//! - With the feature `nat`, the module `nat` uses STUN to find the addresses at which others see
//!   the listeners, and how the NAT behaves.
//! - With the feature `qlog`, each connection writes a qlog file into the directory that the
//!   configuration names.
//! - [`verify_certificate`] verifies a libp2p certificate on its own. It returns a [`VerifiedPeer`]
//!   or a [`CertificateError`].
//!
//! # Traces
//!
//! Each connection has a span of [`tracing`] with the name `connection` at the level `debug`. Its
//! fields are `id` (the [number](ConnectionHandle::number)), `side`, `remote_addr`, and `peer` once
//! it is authenticated. quinn-proto's events are in it. Our own events have the field `reason`
//! where something was refused, dropped, changed or closed, or `error`, if an error of the system
//! is the cause. For a dropped datagram the reason is the name of the counter in [`RegistryStats`]
//! or [`TransportStats`]. What is dropped is at the level `trace`, and what happens to a connection
//! at `debug`. A subscriber must not call the transport, because connections are locked while it
//! runs.
//!
//! # Requirements
//!
//! A tokio runtime with time and I/O enabled, and addresses of the form
//! `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    missing_docs,
    unnameable_types,
    unreachable_pub
)]

/// Compiles the examples of documents.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/switching.md")]
    struct Switching;
    #[doc = include_str!("../docs/dialing.md")]
    struct Dialing;
}

mod address;
mod authenticator;
mod bandwidth;
mod config;
mod connecting;
mod connection;
mod connection_handle;
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
mod packets;
mod proto;
#[cfg(not(feature = "qlog"))]
#[path = "no_qlog.rs"]
mod qlog;
#[cfg(feature = "qlog")]
mod qlog;
#[cfg(any(test, fuzzing))]
#[cfg_attr(
    fuzzing,
    allow(dead_code, reason = "tests use more of it than fuzz targets do")
)]
mod simulation;
mod spare;
mod stats;
mod stream;
mod sync;
mod trace;
mod transport;

#[cfg(feature = "nat")]
pub use self::stats::StunStats;
pub use self::{
    authenticator::{CertificateError, GenerateError, VerifiedPeer, verify_certificate},
    bandwidth::{BandwidthLimits, RateLimits},
    config::{Config, ConfigBuilder, CongestionControl, Preset, RetryPolicy},
    connecting::Connecting,
    connection::Connection,
    connection_handle::ConnectionHandle,
    error::{
        ConfigError, ConnectionError, DialError, Error, HandshakeError, ListenError, RebindError,
        StreamError,
    },
    handle::Handle,
    stats::{
        ConnectionStats, FrameStats, ListenerStats, PacketStats, RegistryStats, SEQUENCE_BUCKETS,
        Stats, TransportStats,
    },
    stream::Stream,
    transport::Transport,
};
