//! The setters of the configuration, and the limits that they check.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use libp2p_identity::Keypair;
use quinn_proto::{IdleTimeout, VarInt};

use super::{
    congestion::CongestionControl,
    knobs::{
        Knobs, LARGEST_MTU_BYTES, LEAST_BUFFERED_BYTES, LEAST_PENDING_INCOMING_BYTES, MIN_MTU_BYTES,
    },
    preset::Preset,
    retry::RetryPolicy,
};
use crate::{bandwidth::BandwidthLimits, error::ConfigError, net::BufferSizes, proto::ShardCount};

/// Far longer than any handshake takes.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(3600);

/// A longer wait would hardly be noticed when it ends.
const LONGEST_LINGER: Duration = Duration::from_secs(3600);

/// Shorter intervals fill the connection with keep-alives; longer ones keep neither a connection
/// nor a NAT binding alive.
const KEEP_ALIVE_INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

/// From a round trip within a city to one over a satellite and back, with a queue.
const INITIAL_RTTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);

/// From the least window of RFC 9002 §7.2 to what a path of 1 Gbit/s and 80 ms holds.
const INITIAL_WINDOWS: RangeInclusive<u64> = 2_400..=10_000_000;

/// quinn-proto keeps two map entries for each stream that a peer may open: with this limit, an idle
/// connection takes 5 MB.
const MOST_PEER_STREAMS: u32 = 65_536;

/// From the size of one batch of datagrams to more than any kernel grants.
const SOCKET_BUFFERS: RangeInclusive<usize> = 64 * 1024..=1024 * 1024 * 1024;

/// Changes settings from their defaults; [`Config::builder`](super::Config::builder) creates it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use libp2p_identity::Keypair;
/// use libp2p_quinn::{Config, ConfigError};
///
/// let keypair = Keypair::generate_ed25519();
/// let config = Config::builder(&keypair)
///     .handshake_timeout(Duration::from_secs(4))
///     .and_then(|builder| builder.idle_timeout(Some(Duration::from_secs(20))))
///     .and_then(|builder| builder.build());
/// assert!(config.is_ok());
///
/// let error = Config::builder(&keypair).handshake_timeout(Duration::ZERO).err();
/// assert!(matches!(error, Some(ConfigError::OutOfRange { name: "handshake_timeout", .. })));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ConfigBuilder {
    pub(super) keypair: Keypair,
    pub(super) knobs: Knobs,
}

impl ConfigBuilder {
    pub(super) fn new(keypair: &Keypair) -> Self {
        Self {
            keypair: keypair.clone(),
            knobs: Knobs::default(),
        }
    }

    /// quinn-proto's congestion control in place of ours, to compare them.
    #[cfg(test)]
    pub(crate) fn quinn_cubic(mut self) -> Self {
        self.knobs.uses_quinn_cubic = true;
        self
    }

    /// BBR for each second connection and CUBIC for the others, to let them compete. The first one
    /// has BBR if `is_bbr_first`.
    #[cfg(test)]
    pub(crate) fn rivals(mut self, is_bbr_first: bool) -> Self {
        self.knobs.rivals = Some(std::sync::Arc::new(u32::from(is_bbr_first).into()));
        self
    }

    /// The congestion control of all connections.
    ///
    /// Default: [`CongestionControl::Cubic`], which fills long and fast paths and shares them with
    /// the TCP connections of today's systems. [`CongestionControl::Bbr`] is for paths that lose
    /// packets at random.
    pub fn congestion_control(mut self, control: CongestionControl) -> Self {
        self.knobs.congestion_control = control;
        self
    }

    /// Limits on how fast stream data is sent and received. [`Handle::set_bandwidth_limits`]
    /// changes them.
    ///
    /// With a limit on what is received, the receive window of a stream is at most what the lowest
    /// one lets in in a second, or 64 KiB if that is more, and that of a connection half again as
    /// much. Each peer may send that much at once. A limit that is set or lifted later leaves the
    /// windows of old and new connections as they are.
    ///
    /// Default: none.
    ///
    /// [`Handle::set_bandwidth_limits`]: crate::Handle::set_bandwidth_limits
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] if a limit is below 1,000 bytes per second.
    pub fn bandwidth_limits(mut self, limits: BandwidthLimits) -> Result<Self, ConfigError> {
        self.knobs.bandwidth_limits = limits.check()?;
        Ok(self)
    }

    /// Bytes that a peer may send on all streams together before we have read any of them.
    ///
    /// Bounds the memory of a connection with a slow reader (RFC 9000 §4.1). Default: 15,000,000,
    /// half again as much as one stream, so that one stalled stream does not stall the others. It
    /// grows to 66,000,000 with the window of a stream. If either of the two is set, neither grows.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0 and for 2^62 and above.
    pub fn connection_receive_window_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        self.knobs.connection_receive_window = window("connection_receive_window_bytes", bytes)?;
        self.knobs.grows_receive = false;
        Ok(self)
    }

    /// Whether to mark packets for explicit congestion notification (ECN, RFC 9000 §13.4).
    ///
    /// With ECN, routers can signal congestion before they drop packets. Some routers drop marked
    /// packets instead; if the peer acknowledges nothing for three round trips, a connection stops
    /// marking packets for a while. Default: on.
    pub fn ecn(mut self, enabled: bool) -> Self {
        self.knobs.offload.ecn = enabled;
        self
    }

    /// Longest time for a handshake: from the first poll of a dial, or the peer's first packet,
    /// until the peer is authenticated.
    ///
    /// It includes the time that an incoming connection waits for the application's answer, and the
    /// time that a dial waits for other dials. Default: 5 s, which leaves room for two
    /// retransmissions of the first packet.
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

    /// Longest silence before a connection is given up ([RFC 9000 §10.1]).
    ///
    /// The smaller of our timeout and the peer's applies. With `None`, only the peer's applies; if
    /// the peer has none either, streams on a dead path wait for ever. Default: 10 s.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 1 ms and for 2^62 ms and above.
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

    /// The round-trip time that a connection assumes before it has measured one (RFC 9002 §6.2.2).
    ///
    /// A first packet that is lost is sent again after three times as long. Over a path that is
    /// longer than that, every handshake sends some packets twice. Default: 333 ms, as the RFC
    /// recommends.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 1 ms and above 1 s. [`build`](Self::build) returns
    /// [`ConfigError::InitialRttTooLong`] if three times a value above the default exceed the
    /// [`handshake_timeout`](Self::handshake_timeout).
    pub fn initial_rtt(mut self, rtt: Duration) -> Result<Self, ConfigError> {
        if !INITIAL_RTTS.contains(&rtt) {
            return Err(ConfigError::OutOfRange {
                name: "initial_rtt",
                expected: "1 ms to 1 s",
            });
        }
        self.knobs.initial_rtt = rtt;
        Ok(self)
    }

    /// Bytes that a connection may send before the first acknowledgement (RFC 9002 §7.2).
    ///
    /// More shortens short transfers over long paths, and overruns queues of slow ones: what is
    /// lost then costs more time than was won. Default: 12,000, ten datagrams of 1200 bytes, as the
    /// RFC recommends. To a peer on the same host it is one datagram of the interface more.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 2,400, two datagrams, and above 10,000,000.
    pub fn initial_window_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        if !INITIAL_WINDOWS.contains(&bytes) {
            return Err(ConfigError::OutOfRange {
                name: "initial_window_bytes",
                expected: "2,400 to 10,000,000",
            });
        }
        self.knobs.initial_window = bytes;
        Ok(self)
    }

    /// How long a connection may be silent before we send a packet to keep it alive.
    ///
    /// With `None` we send no such packets, but the peer may. Default: 5 s, half of the idle
    /// timeout.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 1 ms and above a day. [`build`](Self::build) returns
    /// [`ConfigError::KeepAliveTooLong`] if the interval exceeds half of the idle timeout.
    pub fn keep_alive_interval(mut self, interval: Option<Duration>) -> Result<Self, ConfigError> {
        if interval.is_some_and(|interval| !KEEP_ALIVE_INTERVALS.contains(&interval)) {
            return Err(ConfigError::OutOfRange {
                name: "keep_alive_interval",
                expected: "1 ms to a day",
            });
        }
        self.knobs.keep_alive_interval = interval;
        Ok(self)
    }

    /// How long a connection that we close goes on to deliver data of streams that were closed
    /// before it.
    ///
    /// Once `poll_close` of a stream was ready, its data is delivered even if the connection is
    /// then closed or dropped: the peer receives the CONNECTION_CLOSE only after it has
    /// acknowledged that data. We stop waiting for a peer that acknowledges nothing for 3 s, or for
    /// nine round trips if these take longer. Zero closes at once. Default: 60 s.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for more than an hour.
    pub fn linger_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if timeout > LONGEST_LINGER {
            return Err(ConfigError::OutOfRange {
                name: "linger_timeout",
                expected: "at most an hour",
            });
        }
        self.knobs.linger_timeout = timeout;
        Ok(self)
    }

    /// How many incoming connections from one source may be unfinished: wait for the application's
    /// answer, or be in their handshake. Established connections do not count.
    ///
    /// A source is an IPv4 address or an IPv6 /56, the usual prefix of one customer. An IPv6 /48
    /// may have four times as many. Shards divide the number equally.
    ///
    /// Anyone can forge an address, and must not be able to lock out its owner. Therefore, once a
    /// source has this many unfinished connections, a sender that has not proven its address is
    /// asked to do so (Retry, [RFC 9000 §8.1.2]). First packets are dropped only once the source
    /// also has this many unfinished connections with a proven address. They are dropped and not
    /// refused: an honest client retransmits its first packet a second later. With
    /// [`RetryPolicy::Never`] no address is ever proven, and this setting has no effect.
    ///
    /// The number applies to an idle listener. When half of the places of
    /// [`max_incoming_handshakes`](Self::max_incoming_handshakes) are taken, by any sources, a
    /// source with a proven address may have a quarter of the number, and so on, but always at
    /// least one. So an attacker with a few hundred addresses leaves places for everyone else. If
    /// the number is at least as large as that limit, one source may take all places.
    ///
    /// Default: 128. Hundreds of peers behind one carrier's NAT may connect at the same moment.
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

    /// How many incoming connections may be unfinished: wait for the application's answer, or be in
    /// their handshake. First packets beyond that are dropped; an honest client retransmits its
    /// first packet a second later.
    ///
    /// Once a quarter of the places is taken, the others are only for senders that have proven
    /// their address, unless [`RetryPolicy::Never`] is set. Shards divide the number equally.
    /// Default: 1024. If all of them stall, that is some 50 MB, and with one shard at most 64 MB,
    /// whatever they send.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0.
    pub fn max_incoming_handshakes(mut self, handshakes: usize) -> Result<Self, ConfigError> {
        self.knobs.max_incoming_handshakes = at_least_one("max_incoming_handshakes", handshakes)?;
        Ok(self)
    }

    /// Largest UDP payload to send on any path, in bytes (RFC 8899).
    ///
    /// The interface and the peer may lower it. If the operating system does not tell the
    /// interface's MTU, we send at most 1452 bytes: Ethernet's 1500 bytes less the headers of IPv6
    /// and UDP. We announce the same size to peers, but at most a 32nd of the socket's receive
    /// buffer and at least 1472 bytes.
    ///
    /// On loopback one probe tries this size; without an acknowledgement the size stays 1452.
    ///
    /// Default: 16,370. Four datagrams of this size fill the largest batch that the kernel cuts
    /// into datagrams. Loopback and jumbo frames make use of it.
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
    /// Streams that the application has not taken count as well, so the limit also holds back a
    /// peer that opens more streams than the application wants. The credit for closed streams is
    /// returned in steps of an eighth of the limit. The limit begins with 100 and grows once the
    /// peer has used half of it; a peer that needs more streams may have to wait one round trip.
    /// Default: 256, as in other libp2p implementations.
    ///
    /// With more than 256 of them, and of streams that we have opened, a peer may have us hold 1
    /// MiB more of what it sends, and 8 KiB for each stream beyond 256.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0, with which no protocol could be negotiated, and for more
    /// than 65,536, because each stream that is allowed takes 84 bytes, used or not.
    pub fn max_peer_streams(mut self, streams: u32) -> Result<Self, ConfigError> {
        if !(1..=MOST_PEER_STREAMS).contains(&streams) {
            return Err(ConfigError::OutOfRange {
                name: "max_peer_streams",
                expected: "1 to 65536",
            });
        }
        self.knobs.max_peer_streams = streams;
        Ok(self)
    }

    /// How many incoming connections may wait for the application's answer; more are dropped.
    ///
    /// They cost no TLS work, and each holds at most 16 KiB. Shards divide the number equally.
    /// Default: 1024.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0.
    pub fn max_pending_incoming(mut self, connections: usize) -> Result<Self, ConfigError> {
        self.knobs.max_pending_incoming = at_least_one("max_pending_incoming", connections)?;
        Ok(self)
    }

    /// Bytes of data that all connections together may hold: received and not read yet, or written
    /// and not acknowledged yet. `None` means, on Linux, an eighth of the memory that the process
    /// may use: of that of the machine, or of the limit of its control group (`memory.max`) if that
    /// is smaller. Elsewhere it means 1 GiB.
    ///
    /// As the memory is used up, flow-control windows shrink: each connection may hold a quarter of
    /// the rest in each direction, and 64 KiB in any case. When nothing is left, packets with
    /// stream data for connections that hold more than that are dropped and counted until the
    /// application has read something. The peer retransmits them, but its connection may time out
    /// if that takes longer than the idle timeout. Hence all connections together hold at most this
    /// many bytes, plus 192 KiB for each connection and 4 KiB for each of its streams.
    ///
    /// They include most of the memory that it takes to sort what comes in small pieces.
    /// Connections keep that until they end, so it takes no more than half of the bytes.
    ///
    /// Default: `None`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] below 1 MiB.
    pub fn max_buffered_bytes(mut self, bytes: Option<u64>) -> Result<Self, ConfigError> {
        if bytes.is_some_and(|bytes| bytes < LEAST_BUFFERED_BYTES) {
            return Err(ConfigError::OutOfRange {
                name: "max_buffered_bytes",
                expected: "at least 1 MiB",
            });
        }
        self.knobs.max_buffered_bytes = bytes;
        Ok(self)
    }

    /// Bytes of datagrams that incoming connections may hold while they wait for the application's
    /// answer.
    ///
    /// Senders that have not proven their address may use at most half of it, and a source that has
    /// proven its address an eighth ([`max_handshakes_per_source`](Self::max_handshakes_per_source)
    /// defines a source). More datagrams are dropped. Shards divide the number equally, but each
    /// has at least 32 KiB, and each source at least 16 KiB. Default: 4 MiB, enough for one or two
    /// Initial packets of each connection that may wait.
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

    /// Appends the TLS secrets of all connections to this file, which is made if there is none.
    ///
    /// With these secrets Wireshark decrypts captured packets, and so can everybody who has both.
    /// Each handshake writes a few lines, on the driver's task and before the peer is
    /// authenticated, so peers decide how long the file grows: it is for debugging. Nothing more
    /// is written once it has 256 MiB, or after an error, and one warning says so. Default: `None`.
    pub fn key_log_file(mut self, path: Option<PathBuf>) -> Self {
        self.knobs.key_log_file = path;
        self
    }

    /// Whether the environment variable `SSLKEYLOGFILE` names the file for
    /// [`key_log_file`](Self::key_log_file), if that is not set.
    ///
    /// The variable is read when the configuration is built. If the file cannot be opened, there
    /// is a warning and no key log. A program with more privileges than the user who starts it
    /// must turn this off, or that user chooses a file for it to append to. Default: on, as in
    /// other TLS software; without the variable it does nothing.
    pub fn key_log_from_env(mut self, enabled: bool) -> Self {
        self.knobs.key_log_from_env = enabled;
        self
    }

    /// Whether to measure how long the routing of each datagram takes, for
    /// [`RegistryStats::routing_time`](crate::RegistryStats::routing_time).
    ///
    /// It costs two readings of the clock for each datagram. Default: off.
    pub fn measure_routing(mut self, enabled: bool) -> Self {
        self.knobs.measure_routing = enabled;
        self
    }

    /// Whether a peer that dialled us may change its address (RFC 9000 §9).
    ///
    /// NATs cause such changes now and then. The muxer reports the change as
    /// [`StreamMuxerEvent::AddressChange`](libp2p_core::muxing::StreamMuxerEvent::AddressChange).
    /// Default: on.
    pub fn migration(mut self, enabled: bool) -> Self {
        self.knobs.migration = enabled;
        self
    }

    /// Whether to discover the path MTU (RFC 8899); without that, datagrams have at most 1200
    /// bytes.
    ///
    /// Default: on.
    pub fn mtu_discovery(mut self, enabled: bool) -> Self {
        self.knobs.mtu_discovery = enabled;
        self
    }

    /// Sets several settings to values that fit together.
    ///
    /// Call it first: it replaces what was set before of its own settings, and later calls replace
    /// what it has set. Default: none.
    pub fn preset(mut self, preset: Preset) -> Self {
        preset.apply(&mut self.knobs);
        self
    }

    /// Writes a [qlog] file for each connection into this directory, which is made if there is
    /// none.
    ///
    /// The name of a file is the ID that the dialer has chosen for its first packet, and the side:
    /// `…_client.sqlog` for the dialer, `…_server.sqlog` for the listener. Its description is the
    /// [number](crate::ConnectionHandle::number) of the connection. quinn-proto logs packets that
    /// are sent, received or lost, and the state of congestion control.
    ///
    /// It is for debugging: each packet costs the driver some microseconds more. A thread writes
    /// the files. They have at most 64 MiB each, and the transports with this configuration write
    /// no more once 10,000 files or 1 GiB are in the directory. Files that are there when the
    /// configuration is built count and are not changed; two processes need two directories. What
    /// is beyond a limit, or cannot be written, is dropped and counted as
    /// [`TransportStats::qlog_dropped`](crate::TransportStats::qlog_dropped). Records that wait for
    /// the thread when the process ends are lost. Default: `None`.
    ///
    /// [qlog]: https://datatracker.ietf.org/doc/draft-ietf-quic-qlog-main-schema/
    #[cfg(feature = "qlog")]
    pub fn qlog_dir(mut self, directory: Option<PathBuf>) -> Self {
        self.knobs.qlog_dir = directory;
        self
    }

    /// Whether the environment variable `QLOGDIR` names a directory for
    /// [`qlog_dir`](Self::qlog_dir), if that is not set.
    ///
    /// The variable is read when the configuration is built. Default: off. Unlike
    /// [`key_log_from_env`](Self::key_log_from_env), it costs time for each packet, and the
    /// variable may be meant for another QUIC implementation in the same environment.
    #[cfg(feature = "qlog")]
    pub fn qlog_from_env(mut self, enabled: bool) -> Self {
        self.knobs.qlog_from_env = enabled;
        self
    }

    /// Whether to remember what connections have measured of the paths to their hosts, for later
    /// connections ([RFC 9959], Careful Resume).
    ///
    /// For up to 1024 hosts and an hour, the least round trip and what the path took in it are
    /// remembered. A later dial assumes that round trip until it has measured its own, so a lost
    /// first packet is sent again sooner. If the round trip of a later connection, dialled or
    /// incoming, is similar, half of what the path took may be in flight after the first round
    /// trip, instead of what slow start would have come to. It is paced, and one connection to a
    /// host tries it at a time. With [`CongestionControl::Bbr`], only the round trip is used.
    ///
    /// Clones of a configuration share what is remembered. It belongs to the address of the peer
    /// (an IPv6 /64), whichever of our addresses is used, and not to link-local addresses.
    ///
    /// Default: off, because a wrong memory costs: if a path has become slower, most of what is
    /// sent in one round trip is lost, of this connection and of others that share the path.
    ///
    /// [RFC 9959]: https://www.rfc-editor.org/rfc/rfc9959
    pub fn remember_paths(mut self, enabled: bool) -> Self {
        self.knobs.remembers_paths = enabled;
        self
    }

    /// When an incoming connection has to prove its address before we spend resources on it (Retry,
    /// [RFC 9000 §8.1.2]).
    ///
    /// Some limits ask for the proof as well:
    /// [`max_handshakes_per_source`](Self::max_handshakes_per_source),
    /// [`max_incoming_handshakes`](Self::max_incoming_handshakes) and
    /// [`max_pending_incoming_bytes`](Self::max_pending_incoming_bytes). With
    /// [`RetryPolicy::Never`] none of them does.
    ///
    /// Default: [`RetryPolicy::UnderLoad`], with 256 handshakes.
    ///
    /// [RFC 9000 §8.1.2]: https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.knobs.retry = policy;
        self
    }

    /// Whether to let the operating system cut batches into datagrams (segmentation offload), if it
    /// can.
    ///
    /// Each byte then costs a fraction of the CPU time. Some drivers and tunnels drop such batches
    /// silently; if the peer acknowledges nothing for three round trips, a connection sends single
    /// datagrams for a while. Default: on.
    pub fn segmentation_offload(mut self, enabled: bool) -> Self {
        self.knobs.offload.segmentation = enabled;
        self
    }

    /// Bytes that may be in flight to a peer without its acknowledgement.
    ///
    /// Bounds the memory for retransmissions. In addition, an eighth of it (at most a megabyte) and
    /// one write may wait to be sent. It should be twice the bandwidth-delay product of the path.
    /// To a peer on the same host it is at most 512 KiB, because there all of it waits in the
    /// peer's receive buffer. Default: 10,000,000. It grows to 48,000,000 as twice the congestion
    /// window. If it is set, it does not grow.
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
        self.knobs.grows_send = false;
        Ok(self)
    }

    /// How many shards a transport has. Each is a task with its own quinn-proto endpoint.
    ///
    /// A connection stays with one shard. On Linux each shard has its own socket at each address,
    /// and the kernel delivers datagrams to the right one. If the kernel refuses that, and on other
    /// systems, one task reads the socket and passes datagrams on. Default: 1, which can use a
    /// whole core at a gigabyte per second. More are for machines with many cores and as much
    /// traffic.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0 and for more than 64.
    pub fn shards(mut self, shards: u8) -> Result<Self, ConfigError> {
        self.knobs.shards = ShardCount::new(shards).ok_or(ConfigError::OutOfRange {
            name: "shards",
            expected: "1 to 64",
        })?;
        Ok(self)
    }

    /// Sizes of the receive and the send buffer to request from the kernel for each socket, in
    /// bytes.
    ///
    /// The kernel may grant less (on Linux at most `net.core.rmem_max` and `wmem_max`);
    /// [`ListenerStats`](crate::ListenerStats) shows what it granted. Default: 8 MiB each, because
    /// with the kernel's own default a burst of handshakes is lost.
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

    /// Bytes that a peer may send on one stream before we have read any of them (RFC 9000 §4.1).
    ///
    /// Default: 10,000,000, enough for 800 Mbit/s at a round-trip time of 100 ms. It grows to
    /// 44,000,000 where the application reads as much as half of that in a round trip, and shrinks
    /// again. If this or the window of a connection is set, neither grows.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for 0 and for 2^62 and above.
    pub fn stream_receive_window_bytes(mut self, bytes: u64) -> Result<Self, ConfigError> {
        self.knobs.stream_receive_window = window("stream_receive_window_bytes", bytes)?;
        self.knobs.grows_receive = false;
        Ok(self)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    /// The setters of the builder and the types that they take, by the text of this file.
    fn setters() -> BTreeMap<String, String> {
        let text = include_str!("builder.rs");
        let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        // Long ones are on several lines.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let setters = text.split(" pub fn ").filter_map(|rest| {
            let (name, rest) = rest.split_once('(')?;
            let arguments = rest.trim_start().strip_prefix("mut self, ")?;
            Some((name.to_owned(), arguments.split_once(") -> ")?.0.trim()))
        });
        setters
            .map(|(name, arguments)| {
                let arguments = arguments.trim_end_matches(',').split(", ");
                let types = arguments.filter_map(|argument| argument.split_once(": "));
                let types: Vec<_> = types.map(|(_, of)| of).collect();
                (name, types.join(", "))
            })
            .collect()
    }

    #[test]
    fn every_setter_has_a_row_with_its_type_in_the_documentation_and_no_other_row_is_there() {
        let rows = include_str!("../../docs/configuration.md").lines();
        let rows = rows.filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
        let rows = rows.filter_map(|(name, rest)| Some((name, rest.split_once("` |")?.0)));
        let rows: BTreeMap<_, _> = (rows)
            .map(|(name, of)| (name.to_owned(), of.to_owned()))
            .collect();
        assert_eq!(rows["socket_buffer_bytes"], "usize, usize");
        assert_eq!(rows, setters());
    }

    #[test]
    fn every_setter_is_called_by_the_fuzz_target() {
        let target = include_str!("../fuzzing/config.rs");
        for name in setters().into_keys() {
            assert!(target.contains(&format!("builder.{name}(")), "{name}");
        }
    }
}
