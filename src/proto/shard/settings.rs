//! The settings of a shard.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionId, EndpointConfig, ServerConfig, TransportConfig};

use crate::{
    address::Host,
    proto::{
        bandwidth::Bandwidth,
        connection::StreamLimits,
        connection_id::IdQuota,
        reception::{AdmissionLimits, PendingLimits},
        turn::Offload,
    },
};

/// The settings of a shard.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: Arc<ServerConfig>,
    /// Makes what depends on the interface. The argument is its largest UDP payload in bytes, if
    /// known.
    pub(crate) transport: MakeTransportConfig,
    /// Makes the same for a single connection, if it is logged or its path is remembered; `None`
    /// if all have the same.
    pub(crate) single: Option<MakeSingleConfig>,
    pub(crate) admission: AdmissionLimits,
    pub(crate) bandwidth: Bandwidth,
    pub(crate) handshake_timeout: Duration,
    pub(crate) id_quota: IdQuota,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) keep_alive_interval: Option<Duration>,
    pub(crate) linger_timeout: Duration,
    pub(crate) mtu_discovery: bool,
    pub(crate) offload: Offload,
    pub(crate) pending: PendingLimits,
    /// The same as in the server's and the clients' configurations.
    pub(crate) stream_limits: StreamLimits,
}

impl Settings {
    /// Largest datagram that we permit peers to send, in bytes of UDP payload.
    pub(crate) fn max_datagram_bytes(&self) -> usize {
        let bytes = self.endpoint.get_max_udp_payload_size();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// Makes the part of a configuration that depends on the interface.
pub(crate) type MakeTransportConfig =
    Arc<dyn Fn(Option<u16>) -> Arc<TransportConfig> + Send + Sync>;

/// Makes the same for a single connection.
pub(crate) type MakeSingleConfig =
    Arc<dyn Fn(Option<u16>, &Beginning) -> Arc<TransportConfig> + Send + Sync>;

/// A connection that begins, for its log and for what is known of its path.
#[cfg_attr(
    not(feature = "qlog"),
    expect(dead_code, reason = "there are no logs without the feature `qlog`")
)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    pub(crate) host: Host,
    /// The ID that the dialer has chosen for its first packet.
    pub(crate) initial_id: ConnectionId,
    pub(crate) is_outbound: bool,
    pub(crate) now: Instant,
    pub(crate) number: u64,
}

/// The seeds of all randomness in a shard.
#[derive(Clone, Copy)]
pub(crate) struct ShardSeed {
    pub(crate) connection_ids: [u8; 32],
    pub(crate) endpoint: [u8; 32],
    pub(crate) initial_ids: [u8; 32],
}
