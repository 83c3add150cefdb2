//! Configuration: every number is a named constant with its reason, and is lowered to quinn-proto's types
//! here and nowhere else.

mod builder;
mod knobs;
mod retry;
mod secrets;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{
    ClientConfig, EndpointConfig, NoneTokenLog, NoneTokenStore, ServerConfig, TransportConfig,
    ValidationTokenConfig,
};

pub(crate) use self::builder::MIN_MTU_BYTES;
pub use self::{builder::ConfigBuilder, retry::RetryPolicy};
use self::{
    knobs::Knobs,
    secrets::{ResetKey, ResetSecret, TokenKey},
};
use crate::{
    authenticator::{Authenticator, GenerateError},
    error::{ConfigError, DialError},
    net::BufferSizes,
    proto::{Budget, IdQuota, PerInterface, Settings, Shards},
};

/// How a [`Transport`](crate::Transport) behaves; cheap to clone.
///
/// One `Config` has one certificate, and so does every transport made of its clones.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kept as it came out: [`Config::new`] cannot fail, the first use of the transport can.
    authenticator: Result<Authenticator, Arc<GenerateError>>,
    knobs: Knobs,
    reset_secret: ResetSecret,
    transports: Arc<PerInterface<TransportConfig>>,
}

impl Config {
    /// The defaults, for the node that `keypair` identifies.
    pub fn new(keypair: &Keypair) -> Self {
        Self {
            authenticator: Authenticator::new(keypair).map_err(Arc::new),
            knobs: Knobs::default(),
            reset_secret: ResetSecret::new(keypair),
            transports: Arc::default(),
        }
    }

    /// Something else than the defaults.
    pub fn builder(keypair: &Keypair) -> ConfigBuilder {
        ConfigBuilder::new(keypair)
    }

    /// As it is, but with TLS of which everything is known.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_authenticator(self, authenticator: Authenticator) -> Self {
        Self {
            authenticator: Ok(authenticator),
            ..self
        }
    }

    /// For one transport, whose statistics are about no other's packets.
    pub(crate) fn counting_for_itself(self) -> Self {
        Self {
            authenticator: self.authenticator.map(Authenticator::counting_for_itself),
            ..self
        }
    }

    /// Packets that connections have dropped for their CRYPTO.
    pub(crate) fn dropped_crypto(&self) -> u64 {
        self.authenticator
            .as_ref()
            .map_or(0, Authenticator::dropped_crypto)
    }

    pub(crate) fn reset_dropped_crypto(&self) {
        if let Ok(authenticator) = &self.authenticator {
            authenticator.reset_dropped_crypto();
        }
    }

    pub(crate) fn shards(&self) -> Shards {
        self.knobs.shards
    }

    /// For one transport: what its connections may hold.
    pub(crate) fn budget(&self) -> Budget {
        self.knobs.budget()
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.knobs.handshake_timeout
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

    /// The source of a shard's key for stateless resets, which is the same after a restart of the
    /// node. `first_addr` is that of the transport's first socket.
    pub(crate) fn reset_secret(&self, first_addr: SocketAddr, shard: usize) -> [u8; 32] {
        let secret = self.reset_secret.of_endpoint(first_addr, shard);
        secret.unwrap_or_else(rand::random)
    }

    /// What one dial needs.
    ///
    /// `max_payload` is what the interface takes, in bytes of UDP payload, if it tells.
    pub(crate) fn client(
        &self,
        expected: Option<PeerId>,
        max_payload: Option<u16>,
    ) -> Result<ClientConfig, DialError> {
        let authenticator = self
            .authenticator
            .as_ref()
            .map_err(|error| DialError::Certificate(Arc::clone(error)))?;
        let withheld = self.knobs.withheld_credit();
        let mut config = ClientConfig::new(authenticator.withholding(withheld).client(expected));
        config
            .transport_config(self.transport(max_payload))
            // A token that one peer gave must not be shown to another, and there is no name to tell
            // them apart by.
            .token_store(Arc::new(NoneTokenStore));
        Ok(config)
    }

    /// What connections through an interface share that takes `max_payload` bytes of UDP payload, if it tells.
    fn transport(&self, max_payload: Option<u16>) -> Arc<TransportConfig> {
        self.transports
            .get(max_payload, || self.knobs.transport(max_payload))
    }

    /// What one shard needs.
    ///
    /// `receive_buffer` is what the kernel has granted to the first socket, in bytes.
    ///
    /// `secret` is the source of the key for Retry tokens, and `reset_secret` of the one for
    /// stateless resets. Each shard has its own: whoever can make one endpoint sign an ID that
    /// another one has issued could reset its connection.
    pub(crate) fn settings(
        &self,
        mtu_discovery: bool,
        receive_buffer: usize,
        secret: [u8; 32],
        reset_secret: [u8; 32],
    ) -> Result<Settings, Arc<GenerateError>> {
        let authenticator = self.authenticator.as_ref().map_err(Arc::clone)?;
        let pending = self.knobs.pending();
        let tls = authenticator
            .withholding(self.knobs.withheld_credit())
            .server();
        let mut server = ServerConfig::new(tls, Arc::new(TokenKey::new(&secret)));
        let mut validation_token = ValidationTokenConfig::default();
        validation_token.sent(0).log(Arc::new(NoneTokenLog));
        server
            .transport_config(self.transport(None))
            .migration(self.knobs.migration)
            // The shard counts for itself, and earlier; these are never reached.
            .max_incoming(pending.connections)
            .incoming_buffer_size(pending.bytes_each as u64)
            .incoming_buffer_size_total(pending.bytes as u64)
            .validation_token_config(validation_token);

        let mut endpoint = EndpointConfig::new(Arc::new(ResetKey::new(&reset_secret)));
        endpoint
            .supported_versions(vec![1])
            // The fixed bit tells QUIC from STUN on the same socket (RFC 9443 §3).
            .grease_quic_bit(false);
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
            admission: self.knobs.admission(),
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
    /// Checks what concerns several settings, and makes the certificate.
    ///
    /// # Errors
    ///
    /// [`ConfigError::KeepAliveTooLong`], [`ConfigError::StreamWindowTooLarge`], or
    /// [`ConfigError::Certificate`] if the host key does not sign.
    pub fn build(self) -> Result<Config, ConfigError> {
        let knobs = self.knobs;
        knobs.check()?;
        let authenticator = Authenticator::new(&self.keypair).map_err(ConfigError::Certificate)?;
        Ok(Config {
            authenticator: Ok(authenticator),
            knobs,
            reset_secret: ResetSecret::new(&self.keypair),
            transports: Arc::default(),
        })
    }
}
