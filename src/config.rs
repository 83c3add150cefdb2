//! Configuration: every number is a named constant with its reason, and is lowered to quinn-proto's types
//! here and nowhere else.

mod retry;
mod secrets;

use std::{sync::Arc, time::Duration};

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, NoneTokenLog, NoneTokenStore,
    ServerConfig, TransportConfig, ValidationTokenConfig, VarInt, congestion::CubicConfig,
};

pub use self::retry::RetryPolicy;
use self::secrets::{ResetKey, TokenKey};
use crate::{
    authenticator::{Authenticator, GenerateError},
    error::{ConfigError, DialError},
    net::BufferSizes,
    proto::{AdmissionLimits, FIRST_PEER_STREAMS, IdQuota, PendingLimits, Settings, Shards},
};

/// Long enough for two retransmissions of a lost first flight, after 1 and 3 s (RFC 9002 §6.2.2).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// No handshake takes an hour.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(3600);

/// A dead peer is noticed in 10 s, and one lost keep-alive does no harm.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Half of the idle timeout, and well under the 30 s after which many NATs forget a UDP binding
/// (RFC 4787 §4.3 asks for minutes, reality does not).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Nobody keeps anything alive with a packet a day.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);

/// quinn-proto has two map entries for each stream that a peer may open; with so many an idle connection
/// takes 5 MB.
const MOST_PEER_STREAMS: u32 = 65_536;

/// What other libp2p implementations allow.
const MAX_PEER_STREAMS: u32 = 256;

/// Enough for 800 Mbit/s at 100 ms on one stream.
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 10_000_000;

/// Half a stream more than one stream's window: a stalled stream does not stall the others.
const CONNECTION_RECEIVE_WINDOW_BYTES: u32 = 15_000_000;

/// As much unacknowledged data as one stream's window lets out.
const SEND_WINDOW_BYTES: u64 = 10_000_000;

/// Whatever the interface takes.
const MAX_MTU_BYTES: u16 = LARGEST_MTU_BYTES;

/// What is tried where the interface does not tell: Ethernet's 1500 bytes less IPv6 and UDP headers.
const USUAL_MTU_BYTES: u16 = 1452;

/// Where the search for the MTU ends. Ethernet's is found with two probes instead of six; a path of 1492 bytes
/// (PPPoE) is used with 4 % less than it carries.
const MTU_STEP_BYTES: u16 = 64;

/// A receive buffer should hold so many of the datagrams that peers are allowed to send: a burst of them is
/// lost otherwise.
const DATAGRAMS_IN_RECEIVE_BUFFER: usize = 32;

/// No network carries larger packets; only the way back to the same host does.
const WIDEST_NETWORK_BYTES: u16 = 16 * 1024;

/// Send window on the way back to the same host, where all that is under way waits in the peer's receive buffer.
///
/// More overruns it when the peer is late. What is lost then are the large datagrams, for which there is no
/// room, and not the small ones between them; that looks like a path that has become narrower, and would have
/// them all sent small from then on. Less also waits in front of a ping, and stays in the CPU's caches: 10 MB for
/// each of eight connections cost 10 % more time for each byte. Half of this costs 5 % more itself.
const LOOPBACK_SEND_WINDOW_BYTES: u64 = 512 * 1024;

/// Smallest UDP payload that every QUIC path carries (RFC 9000 §14).
const MIN_MTU_BYTES: u16 = 1200;

/// Largest UDP payload there is over IPv6 without jumbograms, less what quinn-proto cannot use.
const LARGEST_MTU_BYTES: u16 = 65_500;

/// Smallest limit that we tell peers for what they send us: 1500 bytes of Ethernet less IPv4 and UDP headers.
const MAX_RECEIVE_BYTES: u16 = 1472;

/// A burst of 80 ms at 800 Mbit/s; the kernel may grant less. The usual default of 208 KiB drops a burst
/// of two hundred handshakes.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// From one batch of datagrams to what no kernel grants.
const SOCKET_BUFFERS: std::ops::RangeInclusive<usize> = 64 * 1024..=1024 * 1024 * 1024;

/// Some 50 MB if all of them stall. With round trips of 200 ms, it is also as many as the TLS work of a core leaves
/// unfinished at once.
const MAX_INCOMING_HANDSHAKES: usize = 1024;

/// Hundreds of peers may share the IPv4 address of their carrier's NAT and come back at the same moment: 300 all get
/// in within a second. With less they need a second attempt; with more, few addresses could take all places.
const MAX_HANDSHAKES_PER_SOURCE: usize = 128;

/// Of the places for handshakes, senders that have not proven their address get one in so many, so that forged
/// addresses never take the others.
const PLACES_PER_UNPROVEN: usize = 4;

/// Connections that wait for the application's answer. Each holds an Initial or two, 3 KB.
const MAX_PENDING_INCOMING: usize = 1024;

/// An Initial or two for each of those that may wait, and half as much again.
const MAX_PENDING_INCOMING_BYTES: usize = 4 * 1024 * 1024;

/// So many sources it takes to hold all of them. An eighth is an Initial or two for each of the handshakes that one
/// source may have.
const SOURCES_OF_BYTES: usize = 8;

/// Bytes that one incoming connection may hold that was not answered: a ClientHello with a post-quantum key share
/// takes two datagrams, a client may retransmit them.
const INCOMING_BUFFER_BYTES: usize = 16 * 1024;

/// Room for one of these, whether its address is proven or not.
const LEAST_PENDING_INCOMING_BYTES: usize = 2 * INCOMING_BUFFER_BYTES;

/// One: 8 and 64 connections between two processes on two cores took 6 % more CPU time for each byte with two, and
/// were no faster. One is what two cores can be kept busy with.
const SHARDS: Shards = Shards::ONE;

/// How a [`Transport`](crate::Transport) behaves; cheap to clone.
///
/// One `Config` has one certificate, and so does every transport made of its clones.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kept as it came out: [`Config::new`] cannot fail, the first use of the transport can.
    authenticator: Result<Authenticator, Arc<GenerateError>>,
    knobs: Knobs,
}

/// Sets what differs from the defaults; made by [`Config::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ConfigBuilder {
    keypair: Keypair,
    knobs: Knobs,
}

#[derive(Clone, Debug)]
struct Knobs {
    connection_receive_window: VarInt,
    handshake_timeout: Duration,
    idle_timeout: Option<Duration>,
    keep_alive_interval: Option<Duration>,
    max_handshakes_per_source: usize,
    max_incoming_handshakes: usize,
    max_mtu: u16,
    max_peer_streams: VarInt,
    max_pending_incoming: usize,
    max_pending_incoming_bytes: usize,
    measure_routing: bool,
    migration: bool,
    mtu_discovery: bool,
    retry: RetryPolicy,
    send_window: u64,
    shards: Shards,
    socket_buffers: BufferSizes,
    stream_receive_window: VarInt,
}

impl Config {
    /// The defaults, for the node that `keypair` identifies.
    pub fn new(keypair: &Keypair) -> Self {
        Self {
            authenticator: Authenticator::new(keypair).map_err(Arc::new),
            knobs: Knobs::default(),
        }
    }

    /// Something else than the defaults.
    pub fn builder(keypair: &Keypair) -> ConfigBuilder {
        ConfigBuilder {
            keypair: keypair.clone(),
            knobs: Knobs::default(),
        }
    }

    /// As it is, but with TLS of which everything is known.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_authenticator(self, authenticator: Authenticator) -> Self {
        Self {
            authenticator: Ok(authenticator),
            ..self
        }
    }

    pub(crate) fn shards(&self) -> Shards {
        self.knobs.shards
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
        let mut config = ClientConfig::new(authenticator.client(expected));
        config
            .transport_config(Arc::new(self.knobs.transport(max_payload)))
            // A token that one peer gave must not be shown to another, and there is no name to tell
            // them apart by.
            .token_store(Arc::new(NoneTokenStore));
        Ok(config)
    }

    /// What one shard needs.
    ///
    /// `receive_buffer` is what the kernel has granted to the first socket, in bytes.
    ///
    /// `secret` is the source of the keys for stateless resets and Retry tokens. Each shard has its own:
    /// whoever can make one endpoint sign an ID that another one has issued could reset its connection.
    pub(crate) fn settings(
        &self,
        mtu_discovery: bool,
        receive_buffer: usize,
        secret: [u8; 32],
    ) -> Result<Settings, Arc<GenerateError>> {
        let authenticator = self.authenticator.as_ref().map_err(Arc::clone)?;
        let pending = self.knobs.pending();
        let mut server =
            ServerConfig::new(authenticator.server(), Arc::new(TokenKey::new(&secret)));
        let mut validation_token = ValidationTokenConfig::default();
        validation_token.sent(0).log(Arc::new(NoneTokenLog));
        server
            .transport_config(Arc::new(self.knobs.transport(None)))
            .migration(self.knobs.migration)
            // The shard counts for itself, and earlier; these are never reached.
            .max_incoming(pending.connections)
            .incoming_buffer_size(pending.bytes_each as u64)
            .incoming_buffer_size_total(pending.bytes as u64)
            .validation_token_config(validation_token);

        let mut endpoint = EndpointConfig::new(Arc::new(ResetKey::new(&secret)));
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
                let knobs = self.knobs.clone();
                Arc::new(move |max_payload| Arc::new(knobs.transport(max_payload)))
            },
            admission: self.knobs.admission(),
            handshake_timeout: self.knobs.handshake_timeout,
            id_quota: IdQuota::default(),
            max_peer_streams: self.knobs.max_peer_streams.into(),
            mtu_discovery: mtu_discovery && self.knobs.mtu_discovery,
            pending,
        })
    }
}

impl ConfigBuilder {
    /// Bytes that a peer may send on all its streams together without our reading any of them.
    ///
    /// Bounds the memory of a connection with a slow reader (RFC 9000 §4.1). Default: 15,000,000, half
    /// again as much as one stream, so that one stalled stream does not stall the others.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0 and for 2^62 and above.
    pub fn connection_receive_window_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        self.knobs.connection_receive_window = window("connection_receive_window_bytes", bytes)?;
        Ok(self)
    }

    /// Longest time for a handshake, from the first packet to an authenticated peer.
    ///
    /// The time that an incoming connection waits for the application's answer is part of it.
    /// Default: 5 s, room for two retransmissions of the first packet.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for zero and for more than an hour.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if timeout.is_zero() || timeout > LONGEST_HANDSHAKE {
            return Err(ConfigError::OutOfRange {
                name: "handshake_timeout",
                expected: "more than zero, at most an hour",
            });
        }
        self.knobs.handshake_timeout = timeout;
        Ok(self)
    }

    /// Longest silence after which a connection is given up ([RFC 9000 §10.1]).
    ///
    /// The smaller one of ours and the peer's counts. `None` leaves it to the peer; if it says the same,
    /// a dead path hangs every stream on it. Default: 10 s.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for zero and for 2^62 ms and above.
    ///
    /// [RFC 9000 §10.1]: https://www.rfc-editor.org/rfc/rfc9000#section-10.1
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Result<Self, ConfigError> {
        if timeout.is_some_and(|timeout| {
            timeout < Duration::from_millis(1) || IdleTimeout::try_from(timeout).is_err()
        }) {
            return Err(ConfigError::OutOfRange {
                name: "idle_timeout",
                expected: "at least 1 ms and less than 2^62 ms",
            });
        }
        self.knobs.idle_timeout = timeout;
        Ok(self)
    }

    /// How long a connection may be silent before we send something just to keep it alive.
    ///
    /// `None` sends nothing; the peer may. Default: 5 s, half of the idle timeout.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for zero and for more than a day. [`build`](Self::build) compares it with the idle timeout.
    pub fn keep_alive_interval(mut self, interval: Option<Duration>) -> Result<Self, ConfigError> {
        if interval.is_some_and(|interval| interval.is_zero() || interval > LONGEST_KEEP_ALIVE) {
            return Err(ConfigError::OutOfRange {
                name: "keep_alive_interval",
                expected: "more than zero, at most a day",
            });
        }
        self.knobs.keep_alive_interval = interval;
        Ok(self)
    }

    /// How many incoming connections from the same source may be unfinished: wait for the application's answer, or be
    /// in the middle of their handshake. Connections that are established do not count.
    ///
    /// A source is an IPv4 address or an IPv6 /56, what a customer usually has; an IPv6 /48 may have four times as
    /// many. Shards share the number equally.
    ///
    /// Anyone can forge an address, and must not be able to shut its owner out. So with this many unfinished from a
    /// source, whoever has not proven to be there is asked to do so (Retry, [RFC 9000 §8.1.2]); first packets are
    /// dropped only when this many of those that have proven it are unfinished, too. They are not refused: whoever is
    /// honest comes again by itself a second later. With [`RetryPolicy::Never`] no address is ever proven, and this has
    /// no effect.
    ///
    /// Default: 128. Hundreds of peers behind the NAT of one carrier can come at the same moment.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0.
    ///
    /// [RFC 9000 §8.1.2]: https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2
    pub fn max_handshakes_per_source(mut self, handshakes: usize) -> Result<Self, ConfigError> {
        self.knobs.max_handshakes_per_source =
            at_least_one("max_handshakes_per_source", handshakes)?;
        Ok(self)
    }

    /// How many incoming connections may be unfinished: wait for the application's answer, or be in the middle of their
    /// handshake. First packets of more are dropped; whoever is honest comes again by itself a second later.
    ///
    /// When a quarter of the places is taken, the rest is for senders that have proven their address, unless
    /// [`RetryPolicy::Never`] forbids to ask. Shards share the number equally. Default: 1024, some 50 MB if all of them
    /// stall.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0.
    pub fn max_incoming_handshakes(mut self, handshakes: usize) -> Result<Self, ConfigError> {
        self.knobs.max_incoming_handshakes = at_least_one("max_incoming_handshakes", handshakes)?;
        Ok(self)
    }

    /// Largest UDP payload that is tried on a path, in bytes (RFC 8899).
    ///
    /// Never more than the interface takes (where the system does not tell: 1452, what IPv6 and UDP leave of
    /// Ethernet's 1500 bytes), and than the peer does. We let peers send as much, but at most a
    /// 32nd of the socket's receive buffer. Default: 65,500; loopback and jumbo frames make use of it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 1200 and above 65,500.
    pub fn max_mtu_bytes(mut self, bytes: u16) -> Result<Self, ConfigError> {
        if !(MIN_MTU_BYTES..=LARGEST_MTU_BYTES).contains(&bytes) {
            return Err(ConfigError::OutOfRange {
                name: "max_mtu_bytes",
                expected: "1200 to 65500 bytes",
            });
        }
        self.knobs.max_mtu = bytes;
        Ok(self)
    }

    /// How many streams a peer may have open to us at once.
    ///
    /// Streams that the application does not take go on counting, so this is also what holds back a
    /// peer that opens more than is wanted. Room is given back an eighth of the limit at a time.
    /// The limit begins with 100 and grows when the peer has used half of it, which it may notice as a round
    /// trip before it gets to more. Default: 256, as everywhere in libp2p.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0, with which no protocol could be negotiated, and for more than
    /// 65,536: each stream that is allowed takes 84 bytes, used or not.
    pub fn max_peer_streams(mut self, streams: u32) -> Result<Self, ConfigError> {
        if !(1..=MOST_PEER_STREAMS).contains(&streams) {
            return Err(ConfigError::OutOfRange {
                name: "max_peer_streams",
                expected: "1 to 65536",
            });
        }
        self.knobs.max_peer_streams = streams.into();
        Ok(self)
    }

    /// How many incoming connections may wait for the application's answer; more are dropped.
    ///
    /// No TLS work has been done for them, and each holds at most 16 KiB. Shards share the number equally.
    /// Default: 1024.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0.
    pub fn max_pending_incoming(mut self, connections: usize) -> Result<Self, ConfigError> {
        self.knobs.max_pending_incoming = at_least_one("max_pending_incoming", connections)?;
        Ok(self)
    }

    /// Bytes of datagrams that incoming connections may hold while they wait for the application's answer.
    ///
    /// Those that have not proven their address get no more than half of it, and those of one source that have proven it
    /// an eighth (sources are those of [`max_handshakes_per_source`](Self::max_handshakes_per_source)). What is more is
    /// dropped. Shards share the number equally, but each has 32 KiB, and each source 16 KiB. Default: 4 MiB, enough for an Initial or two of each that may wait.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 32 KiB.
    pub fn max_pending_incoming_bytes(mut self, bytes: usize) -> Result<Self, ConfigError> {
        if bytes < LEAST_PENDING_INCOMING_BYTES {
            return Err(ConfigError::OutOfRange {
                name: "max_pending_incoming_bytes",
                expected: "at least 32 KiB",
            });
        }
        self.knobs.max_pending_incoming_bytes = bytes;
        Ok(self)
    }

    /// Whether to time the routing of each datagram, for
    /// [`RegistryStats::routing_time`](crate::RegistryStats::routing_time).
    ///
    /// Costs two readings of the clock for each. Default: off.
    pub fn measure_routing(mut self, enabled: bool) -> Self {
        self.knobs.measure_routing = enabled;
        self
    }

    /// Whether a peer that dialled us may go on from another address (RFC 9000 §9).
    ///
    /// That is what a NAT makes it do now and then; the change is reported as
    /// [`StreamMuxerEvent::AddressChange`](libp2p_core::muxing::StreamMuxerEvent::AddressChange).
    /// Default: on.
    pub fn migration(mut self, enabled: bool) -> Self {
        self.knobs.migration = enabled;
        self
    }

    /// Whether to find out how large datagrams may be (RFC 8899); without it they have 1200 bytes.
    ///
    /// Default: on.
    pub fn mtu_discovery(mut self, enabled: bool) -> Self {
        self.knobs.mtu_discovery = enabled;
        self
    }

    /// When an incoming connection has to prove its address before it costs anything (Retry,
    /// [RFC 9000 §8.1.2]).
    ///
    /// Other limits than that of the policy ask for it as well:
    /// [`max_handshakes_per_source`](Self::max_handshakes_per_source),
    /// [`max_incoming_handshakes`](Self::max_incoming_handshakes) and
    /// [`max_pending_incoming_bytes`](Self::max_pending_incoming_bytes); [`RetryPolicy::Never`] never does.
    ///
    /// Default: [`RetryPolicy::UnderLoad`], with 256 handshakes.
    ///
    /// [RFC 9000 §8.1.2]: https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.knobs.retry = policy;
        self
    }

    /// Bytes that may be under way to a peer without its acknowledgement.
    ///
    /// Bounds what a connection holds for retransmission. Should be twice the bandwidth-delay product of
    /// the path. On the way back to the same host it is 512 KiB at most: there it is the peer's receive buffer that
    /// all of it waits in. Default: 10,000,000.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0.
    pub fn send_window_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        if bytes == 0 {
            return Err(ConfigError::OutOfRange {
                name: "send_window_bytes",
                expected: "at least 1",
            });
        }
        self.knobs.send_window = bytes;
        Ok(self)
    }

    /// How many tasks share the work, each with an endpoint of its own.
    ///
    /// A connection stays with one of them. On Linux each has a socket of its own at each address, and the kernel
    /// brings datagrams to the right one; where that is refused, and elsewhere, one task reads for all and hands
    /// them on. Default: 1, which keeps a core busy with a gigabyte per second; more are for machines with many
    /// cores and as much to do.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0 and for more than 64.
    pub fn shards(mut self, shards: u8) -> Result<Self, ConfigError> {
        self.knobs.shards = Shards::new(shards).ok_or(ConfigError::OutOfRange {
            name: "shards",
            expected: "1 to 64",
        })?;
        Ok(self)
    }

    /// Size of the receive and the send buffer to ask the kernel for, for each socket, in bytes.
    ///
    /// It may grant less (on Linux at most `net.core.rmem_max` and `wmem_max`); what it granted is in
    /// [`ListenerStats`](crate::ListenerStats). Default: 8 MiB each; with the kernel's own default a burst
    /// of handshakes is lost.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 64 KiB, the size of one batch, and above 1 GiB.
    pub fn socket_buffer_bytes(mut self, receive: usize, send: usize) -> Result<Self, ConfigError> {
        if [receive, send]
            .iter()
            .any(|bytes| !SOCKET_BUFFERS.contains(bytes))
        {
            return Err(ConfigError::OutOfRange {
                name: "socket_buffer_bytes",
                expected: "64 KiB to 1 GiB",
            });
        }
        self.knobs.socket_buffers = BufferSizes { receive, send };
        Ok(self)
    }

    /// Bytes that a peer may send on one stream without our reading any of them (RFC 9000 §4.1).
    ///
    /// Default: 10,000,000, enough for 800 Mbit/s at 100 ms.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0 and for 2^62 and above.
    pub fn stream_receive_window_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        self.knobs.stream_receive_window = window("stream_receive_window_bytes", bytes)?;
        Ok(self)
    }

    /// Checks what concerns several settings, and makes the certificate.
    ///
    /// # Errors
    ///
    /// [`ConfigError::KeepAliveTooLong`], [`ConfigError::StreamWindowTooLarge`], or
    /// [`ConfigError::Certificate`] if the host key does not sign.
    pub fn build(self) -> Result<Config, ConfigError> {
        let knobs = self.knobs;
        if let (Some(keep_alive), Some(idle)) = (knobs.keep_alive_interval, knobs.idle_timeout)
            && keep_alive > idle / 2
        {
            return Err(ConfigError::KeepAliveTooLong);
        }
        if knobs.stream_receive_window > knobs.connection_receive_window {
            return Err(ConfigError::StreamWindowTooLarge);
        }
        let authenticator = Authenticator::new(&self.keypair).map_err(ConfigError::Certificate)?;
        Ok(Config {
            authenticator: Ok(authenticator),
            knobs,
        })
    }
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            connection_receive_window: CONNECTION_RECEIVE_WINDOW_BYTES.into(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            idle_timeout: Some(IDLE_TIMEOUT),
            keep_alive_interval: Some(KEEP_ALIVE_INTERVAL),
            max_handshakes_per_source: MAX_HANDSHAKES_PER_SOURCE,
            max_incoming_handshakes: MAX_INCOMING_HANDSHAKES,
            max_mtu: MAX_MTU_BYTES,
            max_peer_streams: MAX_PEER_STREAMS.into(),
            max_pending_incoming: MAX_PENDING_INCOMING,
            max_pending_incoming_bytes: MAX_PENDING_INCOMING_BYTES,
            measure_routing: false,
            migration: true,
            mtu_discovery: true,
            retry: RetryPolicy::default(),
            send_window: SEND_WINDOW_BYTES,
            shards: SHARDS,
            socket_buffers: BufferSizes {
                receive: SOCKET_BUFFER_BYTES,
                send: SOCKET_BUFFER_BYTES,
            },
            stream_receive_window: STREAM_RECEIVE_WINDOW_BYTES.into(),
        }
    }
}

impl Knobs {
    /// What a shard lets in.
    fn admission(&self) -> AdmissionLimits {
        let handshakes = self.share(self.max_incoming_handshakes);
        let unproven = handshakes.div_ceil(PLACES_PER_UNPROVEN);
        let retry_from = self.retry.threshold(self.shards);
        AdmissionLimits {
            handshakes,
            per_source: self.share(self.max_handshakes_per_source),
            bytes_per_source: (self.pending().bytes / SOURCES_OF_BYTES).max(INCOMING_BUFFER_BYTES),
            retry_from: retry_from.map(|from| from.min(unproven)),
        }
    }

    /// What may wait in a shard.
    fn pending(&self) -> PendingLimits {
        let bytes = self.share(self.max_pending_incoming_bytes);
        PendingLimits {
            connections: self.share(self.max_pending_incoming),
            bytes: bytes.max(LEAST_PENDING_INCOMING_BYTES),
            bytes_each: INCOMING_BUFFER_BYTES,
            patience: self.handshake_timeout,
        }
    }

    /// What one shard has of a limit for all.
    fn share(&self, limit: usize) -> usize {
        limit.div_ceil(self.shards.count())
    }

    /// Largest datagram that peers may send, in bytes of UDP payload.
    fn max_receive(&self, receive_buffer: usize) -> u16 {
        let fitting = receive_buffer / DATAGRAMS_IN_RECEIVE_BUFFER;
        let fitting = u16::try_from(fitting).unwrap_or(u16::MAX);
        self.max_mtu.min(fitting).max(MAX_RECEIVE_BYTES)
    }

    fn transport(&self, max_payload: Option<u16>) -> TransportConfig {
        let mut mtu_discovery = MtuDiscoveryConfig::default();
        mtu_discovery
            .upper_bound(self.max_mtu.min(max_payload.unwrap_or(USUAL_MTU_BYTES)))
            .minimum_change(MTU_STEP_BYTES);
        let mut send_window = self.send_window;
        let mut congestion = CubicConfig::default();
        if max_payload.is_some_and(|bytes| bytes > WIDEST_NETWORK_BYTES) {
            send_window = send_window.min(LOOPBACK_SEND_WINDOW_BYTES);
            // There is no network that could be congested, and one large probe would fill the usual window.
            congestion.initial_window(LOOPBACK_SEND_WINDOW_BYTES);
        }
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(self.idle_timeout.map(|timeout| {
                IdleTimeout::try_from(timeout).expect("in range, as its setter checks")
            }))
            .keep_alive_interval(self.keep_alive_interval)
            .max_concurrent_bidi_streams(self.max_peer_streams.min(FIRST_PEER_STREAMS.into()))
            // libp2p has neither unidirectional streams nor datagrams.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .receive_window(self.connection_receive_window)
            .stream_receive_window(self.stream_receive_window)
            .send_window(send_window)
            .congestion_controller_factory(Arc::new(congestion))
            // The spin bit shows the round-trip time to everyone on the path (RFC 9000 §17.4).
            .allow_spin(false)
            .mtu_discovery_config(self.mtu_discovery.then_some(mtu_discovery));
        config
    }
}

fn window(name: &'static str, bytes: u64) -> Result<VarInt, ConfigError> {
    VarInt::from_u64(bytes)
        .ok()
        .filter(|window| window.into_inner() > 0)
        .ok_or(ConfigError::OutOfRange {
            name,
            expected: "at least 1 and less than 2^62 bytes",
        })
}

fn at_least_one(name: &'static str, count: usize) -> Result<usize, ConfigError> {
    if count == 0 {
        return Err(ConfigError::OutOfRange {
            name,
            expected: "at least 1",
        });
    }
    Ok(count)
}
