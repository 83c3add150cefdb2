//! A QUIC transport for [libp2p](libp2p_core) that drives the sans-IO state machine of
//! [quinn-proto](quinn_proto) itself.

mod address;
mod authenticator;
mod config;
mod connecting;
mod connection;
mod driver;
mod error;
mod handle;
mod listener;
mod net;
mod proto;
mod stats;
mod stream;
mod transport;

pub use self::{
    authenticator::{CertificateError, GenerateError, PeerAuthenticator, VerifiedPeer},
    config::{Config, ConfigBuilder},
    connecting::Connecting,
    connection::Connection,
    error::{
        ConfigError, ConnectionError, DialError, Error, HandshakeError, ListenError, StreamError,
    },
    handle::Handle,
    stats::{
        ConnectionStats, ListenerStats, RegistryStats, SEQUENCE_BUCKETS, Stats, TransportStats,
    },
    stream::Stream,
    transport::Transport,
};
