//! Configuration: every default is a named constant with its reason. Only this module converts
//! settings to quinn-proto's types.

mod builder;
mod congestion;
mod knobs;
mod preset;
mod retry;
mod secrets;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{
    ClientConfig, EndpointConfig, NoneTokenLog, NoneTokenStore, ServerConfig, TransportConfig,
    ValidationTokenConfig,
};

pub(crate) use self::knobs::MIN_MTU_BYTES;
pub use self::{
    builder::ConfigBuilder, congestion::CongestionControl, preset::Preset, retry::RetryPolicy,
};
use self::{
    knobs::Knobs,
    secrets::{ResetKey, ResetSecret, TokenKey},
};
use crate::{
    authenticator::{Authenticator, GenerateError},
    error::{ConfigError, DialError},
    net::{BufferSizes, KeyLogFile},
    proto::{
        Bandwidth, Beginning, Budget, IdQuota, KnownPaths, MakeSingleConfig, PerInterface,
        Settings, ShardCount,
    },
    qlog::Qlog,
    stats::TransportStats,
};

/// The configuration of a [`Transport`](crate::Transport); cheap to clone.
///
/// Each `Config` has one certificate, which every transport made from its clones uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// An error is kept here because [`Config::new`] cannot fail; the first dial or listener
    /// reports it.
    authenticator: Result<Authenticator, Arc<GenerateError>>,
    knobs: Knobs,
    reset_secret: ResetSecret,
    quic_configs: Arc<PerInterface<TransportConfig>>,
    bandwidth: Bandwidth,
    /// If paths are remembered.
    known_paths: Option<KnownPaths>,
    qlog: Option<Qlog>,
}

impl Config {
    /// The default configuration, for the node that `keypair` identifies.
    pub fn new(keypair: &Keypair) -> Self {
        Self {
            authenticator: Authenticator::new(keypair, KeyLogFile::of_environment())
                .map_err(Arc::new),
            knobs: Knobs::default(),
            reset_secret: ResetSecret::new(keypair),
            quic_configs: Arc::default(),
            bandwidth: Bandwidth::default(),
            known_paths: None,
            qlog: None,
        }
    }

    /// A builder for a configuration with other values.
    pub fn builder(keypair: &Keypair) -> ConfigBuilder {
        ConfigBuilder::new(keypair)
    }

    /// A copy with this authenticator, whose keys, randomness and time the test or fuzz target
    /// chooses.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_authenticator(self, authenticator: Authenticator) -> Self {
        Self {
            authenticator: Ok(authenticator),
            ..self
        }
    }

    /// A copy for one transport, so that its statistics and limits concern only itself.
    pub(crate) fn counting_for_itself(self) -> Self {
        Self {
            authenticator: self.authenticator.map(Authenticator::counting_for_itself),
            bandwidth: Bandwidth::new(self.bandwidth.get()),
            ..self
        }
    }

    /// Reports what the parts of the configuration have counted.
    pub(crate) fn report(&self, stats: &mut TransportStats) {
        let authenticator = self.authenticator.as_ref();
        stats.dropped_crypto = authenticator.map_or(0, Authenticator::dropped_crypto);
        stats.qlog_dropped = self.qlog.as_ref().map_or(0, Qlog::dropped);
        (stats.reads_limited, stats.writes_limited) = self.bandwidth.waits();
    }

    pub(crate) fn reset_counts(&self) {
        self.bandwidth.reset_waits();
        if let Ok(authenticator) = &self.authenticator {
            authenticator.reset_dropped_crypto();
        }
        if let Some(qlog) = &self.qlog {
            qlog.reset_dropped();
        }
    }

    pub(crate) fn shards(&self) -> ShardCount {
        self.knobs.shards
    }

    /// The memory budget of one transport's connections.
    pub(crate) fn budget(&self) -> Budget {
        self.knobs.budget()
    }

    /// The limits on bandwidth, which may change.
    pub(crate) fn bandwidth(&self) -> &Bandwidth {
        &self.bandwidth
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.knobs.handshake_timeout
    }

    pub(crate) fn initial_rtt(&self) -> Duration {
        self.knobs.initial_rtt
    }

    pub(crate) fn max_pending_incoming(&self) -> usize {
        self.knobs.max_pending_incoming
    }

    pub(crate) fn measures_routing(&self) -> bool {
        self.knobs.measure_routing
    }

    pub(crate) fn socket_buffers(&self) -> BufferSizes {
        self.knobs.socket_buffers
    }

    /// The secret from which a shard derives its key for stateless resets. It is the same after a
    /// restart of the node. `first_addr` is the address of the transport's first socket.
    pub(crate) fn reset_secret(&self, first_addr: SocketAddr, shard: usize) -> [u8; 32] {
        let secret = self.reset_secret.of_endpoint(first_addr, shard);
        secret.unwrap_or_else(rand::random)
    }

    /// The quinn-proto configuration of one dial.
    ///
    /// `max_payload` is the largest UDP payload of the interface in bytes, if known.
    pub(crate) fn client(
        &self,
        expected: Option<PeerId>,
        max_payload: Option<u16>,
    ) -> Result<ClientConfig, DialError> {
        let authenticator = self
            .authenticator
            .as_ref()
            .map_err(|error| DialError::Certificate(Arc::clone(error)))?;
        let authenticator = authenticator.with_windows(self.knobs.stream_windows());
        let mut config = ClientConfig::new(authenticator.client(expected));
        config
            .transport_config(self.transport(max_payload))
            // A token that one peer issued must not be shown to another peer. quinn-proto looks
            // tokens up by server name, and libp2p has no name that tells peers apart.
            .token_store(Arc::new(NoneTokenStore));
        Ok(config)
    }

    /// The quinn-proto configuration that is shared by all connections through interfaces with the
    /// same largest UDP payload in bytes, if known.
    fn transport(&self, max_payload: Option<u16>) -> Arc<TransportConfig> {
        self.quic_configs
            .get(max_payload, || self.knobs.transport(max_payload, None))
    }

    /// Makes the quinn-proto configuration of a single connection, unless all have the same.
    fn single(&self) -> Option<MakeSingleConfig> {
        let (qlog, paths) = (self.qlog.clone(), self.known_paths.clone());
        if qlog.is_none() && paths.is_none() {
            return None;
        }
        let knobs = self.knobs.clone();
        Some(Arc::new(move |max_payload, connection: &Beginning| {
            let memory = paths.as_ref().and_then(|paths| {
                paths.of(connection.now, connection.host, connection.is_outbound)
            });
            let mut config = knobs.transport(max_payload, memory);
            if let Some(qlog) = &qlog {
                qlog.attach(connection, &mut config);
            }
            Arc::new(config)
        }))
    }

    /// The settings of one shard.
    ///
    /// `receive_buffer` is the size of the first socket's receive buffer that the kernel has
    /// granted, in bytes.
    ///
    /// The shard derives its key for Retry tokens from `secret`, and its key for stateless resets
    /// from `reset_secret`. Each shard has its own secrets. With a common secret, an attacker
    /// could make one shard compute the reset token of an ID that another shard has issued, and so
    /// reset the connection with that ID.
    pub(crate) fn settings(
        &self,
        mtu_discovery: bool,
        receive_buffer: usize,
        secret: [u8; 32],
        reset_secret: [u8; 32],
    ) -> Result<Settings, Arc<GenerateError>> {
        let authenticator = self.authenticator.as_ref().map_err(Arc::clone)?;
        let pending = self.knobs.pending();
        let tls = authenticator.with_windows(self.knobs.stream_windows());
        let mut server = ServerConfig::new(tls.server(), Arc::new(TokenKey::new(&secret)));
        let mut validation_token = ValidationTokenConfig::default();
        validation_token.sent(0).log(Arc::new(NoneTokenLog));
        server
            .transport_config(self.transport(None))
            .migration(self.knobs.migration)
            // The shard enforces these limits itself, before quinn-proto would.
            .max_incoming(pending.connections)
            .incoming_buffer_size(pending.bytes_each as u64)
            .incoming_buffer_size_total(pending.bytes as u64)
            .validation_token_config(validation_token);

        let mut endpoint = EndpointConfig::new(Arc::new(ResetKey::new(&reset_secret)));
        endpoint
            .supported_versions(vec![1])
            // The fixed bit distinguishes QUIC from STUN on the same socket (RFC 9443 §3).
            .grease_quic_bit(false)
            // The shard limits resets by host. A limit for all hosts would be used up by noise.
            .min_reset_interval(Duration::ZERO);
        endpoint
            .max_udp_payload_size(self.knobs.max_receive(receive_buffer))
            .expect("more than the 1200 bytes that every path carries");
        Ok(Settings {
            endpoint,
            server: Arc::new(server),
            transport: {
                let config = self.clone();
                Arc::new(move |max_payload| config.transport(max_payload))
            },
            single: self.single(),
            admission: self.knobs.admission(),
            bandwidth: self.bandwidth.clone(),
            handshake_timeout: self.knobs.handshake_timeout,
            id_quota: IdQuota::default(),
            idle_timeout: self.knobs.idle_timeout,
            keep_alive_interval: self.knobs.keep_alive_interval,
            linger_timeout: self.knobs.linger_timeout,
            mtu_discovery: mtu_discovery && self.knobs.mtu_discovery,
            offload: self.knobs.offload,
            pending,
            stream_limits: self.knobs.stream_limits(),
        })
    }
}

impl ConfigBuilder {
    /// Checks the rules that concern several settings, and generates the certificate.
    ///
    /// # Errors
    ///
    /// [`ConfigError::KeepAliveTooLong`], [`ConfigError::StreamWindowTooLarge`],
    /// [`ConfigError::InitialRttTooLong`], [`ConfigError::Certificate`] if the host key cannot
    /// sign, or [`ConfigError::KeyLog`] if the file for it cannot be opened. With the feature
    /// `qlog`, `ConfigError::Qlog` if there is no directory for its files and none can be made.
    pub fn build(self) -> Result<Config, ConfigError> {
        let knobs = self.knobs;
        knobs.check()?;
        let key_log = match knobs.key_log_file.clone() {
            Some(path) => Some(
                KeyLogFile::open(&path).map_err(|source| ConfigError::KeyLog { path, source })?,
            ),
            None if knobs.key_log_from_env => KeyLogFile::of_environment(),
            None => None,
        };
        let authenticator =
            Authenticator::new(&self.keypair, key_log).map_err(ConfigError::Certificate)?;
        #[cfg(feature = "qlog")]
        let qlog = (knobs.qlog_directory())
            .map(|directory| {
                Qlog::begin(&directory).map_err(|source| ConfigError::Qlog { directory, source })
            })
            .transpose()?;
        #[cfg(not(feature = "qlog"))]
        let qlog = None;
        Ok(Config {
            authenticator: Ok(authenticator),
            bandwidth: Bandwidth::new(knobs.bandwidth_limits),
            known_paths: knobs.remembers_paths.then(KnownPaths::default),
            knobs,
            reset_secret: ResetSecret::new(&self.keypair),
            quic_configs: Arc::default(),
            qlog,
        })
    }
}
