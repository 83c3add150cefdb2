//! What can be set, and what is refused.

use std::{ops::RangeInclusive, time::Duration};

use libp2p_identity::Keypair;
use quinn_proto::{IdleTimeout, VarInt};

use super::{
    knobs::{Knobs, LARGEST_MTU_BYTES, LEAST_BUFFERED_BYTES, LEAST_PENDING_INCOMING_BYTES},
    retry::RetryPolicy,
};
use crate::{error::ConfigError, net::BufferSizes, proto::Shards};

/// No handshake takes an hour.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(3600);

/// Whoever waits for longer does not notice the end of it.
const LONGEST_LINGER: Duration = Duration::from_secs(3600);

/// With less a connection does little else; with more nothing is kept alive.
const KEEP_ALIVE_INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

/// quinn-proto has two map entries for each stream that a peer may open; with so many an idle connection
/// takes 5 MB.
const MOST_PEER_STREAMS: u32 = 65_536;

/// From one batch of datagrams to what no kernel grants.
const SOCKET_BUFFERS: RangeInclusive<usize> = 64 * 1024..=1024 * 1024 * 1024;

/// Smallest UDP payload that every QUIC path carries (RFC 9000 §14).
pub(crate) const MIN_MTU_BYTES: u16 = 1200;

/// Sets what differs from the defaults; made by [`Config::builder`](super::Config::builder).
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

    /// Bytes that a peer may send on all its streams together without our reading any of them.
    ///
    /// Bounds the memory of a connection with a slow reader (RFC 9000 §4.1). Default: 15,000,000, half
    /// again as much as one stream, so that one stalled stream does not stall the others; it grows to
    /// 66,000,000 with that of a stream. If this or that of a stream is set, neither grows.
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
    /// Routers can tell of a queue then before they drop anything. Some drop marked packets
    /// instead; where nothing is acknowledged for three round trips, a connection goes on without
    /// marks for a while. Default: on.
    pub fn ecn(mut self, enabled: bool) -> Self {
        self.knobs.offload.ecn = enabled;
        self
    }

    /// Longest time for a handshake, from the first poll of a dial or the first packet of a peer to
    /// an authenticated peer.
    ///
    /// The time that an incoming connection waits for the application's answer is part of it, and
    /// so is the time that a dial waits behind others. Default: 5 s, room for two retransmissions
    /// of the first packet.
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
    /// [`ConfigError::OutOfRange`] below 1 ms and above a day. [`build`](Self::build) compares it with the idle timeout.
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

    /// How long a connection that we close goes on to deliver streams that were closed before it.
    ///
    /// A stream whose `poll_close` was ready has its bytes delivered although the connection is
    /// closed or dropped behind it: the peer hears of the end when it has acknowledged them. A peer
    /// that acknowledges nothing for 3 s, or for nine round trips if these take longer, is waited
    /// for no longer. Zero closes at once. Default: 60 s.
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
    /// The number is for an idle listener. When half of the places of
    /// [`max_incoming_handshakes`](Self::max_incoming_handshakes) are taken, by whomever, each source that has proven its
    /// address may have a quarter of it, and so on, but one at least: a few hundred addresses in one hand leave places to
    /// all others. If it is as large as that limit, one source may have all places.
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
        self.knobs.max_peer_streams = streams;
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

    /// Bytes of data that all connections together may hold: received and not read yet, or written and
    /// not acknowledged yet. `None` is an eighth of the memory that the process may use, or 1 GiB where
    /// the system does not say how much that is.
    ///
    /// As it is used up, windows shrink: each connection may hold a quarter of what is left in each
    /// direction, and 64 KiB in any case. When nothing is left, packets with stream data for connections
    /// that hold more than that are dropped and counted until the application has read something; the
    /// peer sends them again, but may find the connection idle for too long if that takes longer than
    /// the idle timeout. So connections hold this and 128 KiB for each of them at most.
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

    /// Whether to have the operating system cut batches of datagrams (segmentation offload), where
    /// it can.
    ///
    /// Each byte costs a fraction of the CPU time then. Some drivers and tunnels lose such batches
    /// without a word; where nothing is acknowledged for three round trips, a connection sends
    /// single datagrams for a while. Default: on.
    pub fn segmentation_offload(mut self, enabled: bool) -> Self {
        self.knobs.offload.segmentation = enabled;
        self
    }

    /// Bytes that may be under way to a peer without its acknowledgement.
    ///
    /// Bounds what a connection holds for retransmission. Another eighth of it, a megabyte at most, and one write
    /// may wait to be sent. Should be twice the bandwidth-delay product of the path. On the way back to the same host
    /// it is 512 KiB at most: there it is the peer's receive buffer that all of it waits in. Default: 10,000,000, which
    /// grows to 48,000,000 as twice the congestion window. If it is set, it does not grow.
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
    /// Default: 10,000,000, enough for 800 Mbit/s at 100 ms. It grows to 44,000,000 where the application reads
    /// as much as half of that in a round trip, and shrinks again. If this or that of a connection is set, neither
    /// grows.
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
