//! The values of all settings, their defaults, and what they come to in quinn-proto.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use quinn_proto::{
    IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt, congestion::ControllerFactory,
};

use super::{congestion::CongestionControl, retry::RetryPolicy};
use crate::{
    bandwidth::BandwidthLimits,
    error::ConfigError,
    net::{BufferSizes, interfaces::WIDEST_NETWORK_BYTES, memory},
    packets::StreamWindows,
    proto::{
        AdmissionLimits, Budget, FIRST_PEER_STREAMS, LiftableFactory, Offload, PathMemory,
        PendingLimits, ReceiveWindows, ShardCount, StreamLimits,
    },
};

/// Long enough for two retransmissions of a lost first flight, after 1 and 3 s (RFC 9002 §6.2.2).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A dead peer is noticed in 10 s, and one lost keep-alive does no harm.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Half of the idle timeout, and well under the 30 s after which many NATs forget a UDP binding
/// (RFC 4787 §4.3 asks for minutes, reality does not).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

// Otherwise `check` would refuse the defaults.
const _: () = assert!(KEEP_ALIVE_INTERVAL.as_millis() <= IDLE_TIMEOUT.as_millis() / 2);

/// What 7 MB take at 1 Mbit/s. More is for who knows the networks.
const LINGER_TIMEOUT: Duration = Duration::from_secs(60);

/// What other libp2p implementations allow.
const MAX_PEER_STREAMS: u32 = 256;

/// What RFC 9002 §6.2.2 recommends where nothing is known of a path.
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// Ten datagrams of 1200 bytes (RFC 9002 §7.2).
const INITIAL_WINDOW_BYTES: u64 = 12_000;

/// Enough for 800 Mbit/s at 100 ms on one stream.
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 10_000_000;

/// What a path of 5 Gbit/s and 63 ms holds, and an eighth more, because quinn-proto gives credit in
/// eighths. The window of the connection grows in proportion, to 66 MB.
const LARGEST_STREAM_RECEIVE_WINDOW_BYTES: u32 = 44_000_000;

// Otherwise a sender would use up its first window before quinn-proto gives it an eighth more.
const _: () = assert!(STREAM_RECEIVE_WINDOW_BYTES > LARGEST_STREAM_RECEIVE_WINDOW_BYTES / 8);

/// Half a stream more than one stream's window: a stalled stream does not stall the others.
const CONNECTION_RECEIVE_WINDOW_BYTES: u32 = 15_000_000;

/// As much unacknowledged data as one stream's window lets out.
const SEND_WINDOW_BYTES: u64 = 10_000_000;

/// What the largest window of one stream lets out, and what arrives while acknowledgements are on
/// their way.
const LARGEST_SEND_WINDOW_BYTES: u64 = 48_000_000;

/// Four of them fill the largest batch. Larger ones are of use on loopback alone: 65,500 bytes save
/// a transfer 5 % of its CPU time, and cost a short connection 15 % more for the probe.
const MAX_MTU_BYTES: u16 = 16_370;

/// What is tried where the interface does not tell: Ethernet's 1500 bytes less the headers of IPv6
/// and UDP.
const USUAL_MTU_BYTES: u16 = 1452;

/// The search for the MTU ends at this step. It finds that of Ethernet with two probes instead of
/// six. A path of 1492 bytes (PPPoE) is used with 4 % less than it carries.
const MTU_STEP_BYTES: u16 = 64;

/// The number of datagrams of the largest size allowed to peers that a receive buffer should hold.
/// With less room a burst of them is lost.
const DATAGRAMS_IN_RECEIVE_BUFFER: usize = 32;

/// What may be in flight on the way back to the same host, where twice as much may be written and
/// not acknowledged. All of it waits in the peer's receive buffer.
///
/// More overruns that buffer when the peer is late. The large datagrams are lost then, for which
/// there is no room, and not the small ones between them; that looks like a path that has become
/// narrower, and would have all of them sent small from then on. Twice as much also doubles the
/// time of a ping beside a transfer, and two thirds of it cost a transfer 10 % more CPU time.
const SAME_HOST_WINDOW_BYTES: u64 = 256 * 1024;

/// Largest UDP payload there is over IPv6 without jumbograms, less what quinn-proto cannot use.
pub(super) const LARGEST_MTU_BYTES: u16 = 65_500;

/// Smallest UDP payload that every path for QUIC carries (RFC 9000 §14).
pub(crate) const MIN_MTU_BYTES: u16 = 1200;

/// The smallest `max_udp_payload_size` that we send: 1500 bytes of Ethernet less IPv4 and UDP
/// headers.
const MAX_RECEIVE_BYTES: u16 = 1472;

/// A burst of 80 ms at 800 Mbit/s; the kernel may grant less. The usual default of 208 KiB drops a
/// burst of two hundred handshakes.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Some 50 MB if all of them stall, at 50 KB each. `soak attack` checks that they hold at most 64
/// MB, whatever they send. With round trips of 200 ms, it is also the number of handshakes that are
/// unfinished at once when TLS uses a whole core.
const MAX_INCOMING_HANDSHAKES: usize = 1024;

/// Hundreds of peers may share the IPv4 address of their carrier's NAT and come back at the same
/// moment: 300 all get in within a second. With less they need a second attempt; with more, few
/// addresses could take all places.
const MAX_HANDSHAKES_PER_SOURCE: usize = 128;

/// Senders that have not proven their address get one place for handshakes in four, so that forged
/// addresses never take the others.
const PLACES_PER_UNPROVEN: usize = 4;

/// Connections that wait for the application's answer. Each holds an Initial or two, 3 KB.
const MAX_PENDING_INCOMING: usize = 1024;

/// An Initial or two for each of those that may wait, and half as much again.
const MAX_PENDING_INCOMING_BYTES: usize = 4 * 1024 * 1024;

/// The number of sources that together can use the whole limit. An eighth is an Initial or two for
/// each of the handshakes that one source may have.
const SOURCES_OF_BYTES: usize = 8;

/// Bytes that one incoming connection may hold that was not answered: a ClientHello with a
/// post-quantum key share takes two datagrams, and a client may retransmit them.
const INCOMING_BUFFER_BYTES: usize = 16 * 1024;

/// Room for one of these, whether its address is proven or not.
pub(super) const LEAST_PENDING_INCOMING_BYTES: usize = 2 * INCOMING_BUFFER_BYTES;

/// Connections may hold this part of the memory: an eighth.
const MEMORY_PARTS: u64 = 8;

/// What they may hold where the system does not say how much memory there is.
const USUAL_BUFFERED_BYTES: u64 = 1024 * 1024 * 1024;

/// What a peer may send at once under a low limit: a few messages.
const LEAST_LIMITED_WINDOW_BYTES: u64 = 64 * 1024;

/// A few connections can do something with this.
pub(super) const LEAST_BUFFERED_BYTES: u64 = 1024 * 1024;

/// One: 8 and 64 connections between two processes on two cores took 6 % more CPU time for each
/// byte with two, and were no faster. One is enough to keep two cores busy.
const SHARDS: ShardCount = ShardCount::ONE;

/// One field for each setting of [`ConfigBuilder`](super::ConfigBuilder).
#[derive(Clone, Debug)]
pub(super) struct Knobs {
    pub(super) bandwidth_limits: BandwidthLimits,
    pub(super) congestion_control: CongestionControl,
    pub(super) connection_receive_window: VarInt,
    /// Whether receive windows grow: unless one of them was set.
    pub(super) grows_receive: bool,
    /// Whether the send window grows: unless it was set.
    pub(super) grows_send: bool,
    pub(super) handshake_timeout: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) initial_rtt: Duration,
    pub(super) initial_window: u64,
    pub(super) keep_alive_interval: Option<Duration>,
    pub(super) key_log_file: Option<PathBuf>,
    pub(super) key_log_from_env: bool,
    pub(super) linger_timeout: Duration,
    pub(super) max_buffered_bytes: Option<u64>,
    pub(super) max_handshakes_per_source: usize,
    pub(super) max_incoming_handshakes: usize,
    pub(super) max_mtu: u16,
    pub(super) max_peer_streams: u32,
    pub(super) max_pending_incoming: usize,
    pub(super) max_pending_incoming_bytes: usize,
    pub(super) measure_routing: bool,
    pub(super) migration: bool,
    pub(super) mtu_discovery: bool,
    pub(super) offload: Offload,
    #[cfg(feature = "qlog")]
    pub(super) qlog_dir: Option<PathBuf>,
    #[cfg(feature = "qlog")]
    pub(super) qlog_from_env: bool,
    pub(super) remembers_paths: bool,
    pub(super) retry: RetryPolicy,
    pub(super) send_window: u64,
    pub(super) shards: ShardCount,
    pub(super) socket_buffers: BufferSizes,
    pub(super) stream_receive_window: VarInt,
    /// quinn-proto's congestion control in place of ours, to compare them.
    #[cfg(test)]
    pub(super) uses_quinn_cubic: bool,
    /// CUBIC and BBR in turn, to let them compete.
    #[cfg(test)]
    pub(super) rivals: Option<Arc<std::sync::atomic::AtomicU32>>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            bandwidth_limits: BandwidthLimits::default(),
            congestion_control: CongestionControl::default(),
            connection_receive_window: CONNECTION_RECEIVE_WINDOW_BYTES.into(),
            grows_receive: true,
            grows_send: true,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            idle_timeout: Some(IDLE_TIMEOUT),
            initial_rtt: INITIAL_RTT,
            initial_window: INITIAL_WINDOW_BYTES,
            keep_alive_interval: Some(KEEP_ALIVE_INTERVAL),
            key_log_file: None,
            key_log_from_env: true,
            linger_timeout: LINGER_TIMEOUT,
            max_buffered_bytes: None,
            max_handshakes_per_source: MAX_HANDSHAKES_PER_SOURCE,
            max_incoming_handshakes: MAX_INCOMING_HANDSHAKES,
            max_mtu: MAX_MTU_BYTES,
            max_peer_streams: MAX_PEER_STREAMS,
            max_pending_incoming: MAX_PENDING_INCOMING,
            max_pending_incoming_bytes: MAX_PENDING_INCOMING_BYTES,
            measure_routing: false,
            migration: true,
            mtu_discovery: true,
            offload: Offload {
                ecn: true,
                segmentation: true,
            },
            #[cfg(feature = "qlog")]
            qlog_dir: None,
            #[cfg(feature = "qlog")]
            qlog_from_env: false,
            remembers_paths: false,
            retry: RetryPolicy::default(),
            send_window: SEND_WINDOW_BYTES,
            shards: SHARDS,
            socket_buffers: BufferSizes {
                receive: SOCKET_BUFFER_BYTES,
                send: SOCKET_BUFFER_BYTES,
            },
            stream_receive_window: STREAM_RECEIVE_WINDOW_BYTES.into(),
            #[cfg(test)]
            uses_quinn_cubic: false,
            #[cfg(test)]
            rivals: None,
        }
    }
}

impl Knobs {
    /// What concerns several settings.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let (Some(keep_alive), Some(idle)) = (self.keep_alive_interval, self.idle_timeout)
            && keep_alive > idle / 2
        {
            return Err(ConfigError::KeepAliveTooLong);
        }
        if self.stream_receive_window > self.connection_receive_window {
            return Err(ConfigError::StreamWindowTooLarge);
        }
        // A short timeout with the default is the user's choice.
        if self.initial_rtt > INITIAL_RTT && 3 * self.initial_rtt > self.handshake_timeout {
            return Err(ConfigError::InitialRttTooLong);
        }
        Ok(())
    }

    /// Where qlog files are written, if they are.
    #[cfg(feature = "qlog")]
    pub(super) fn qlog_directory(&self) -> Option<PathBuf> {
        let of_env = || std::env::var_os("QLOGDIR").filter(|name| !name.is_empty());
        let of_env = || self.qlog_from_env.then(of_env).flatten().map(PathBuf::from);
        self.qlog_dir.clone().or_else(of_env)
    }

    /// What all connections of a transport may hold.
    pub(super) fn budget(&self) -> Budget {
        let share = || memory::available().map(|memory| memory / MEMORY_PARTS);
        let limit = self.max_buffered_bytes.or_else(share);
        Budget::new(
            limit
                .unwrap_or(USUAL_BUFFERED_BYTES)
                .max(LEAST_BUFFERED_BYTES),
        )
    }

    /// What a shard lets in.
    pub(super) fn admission(&self) -> AdmissionLimits {
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
    pub(super) fn pending(&self) -> PendingLimits {
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
    pub(super) fn max_receive(&self, receive_buffer: usize) -> u16 {
        let fitting = receive_buffer / DATAGRAMS_IN_RECEIVE_BUFFER;
        let fitting = u16::try_from(fitting).unwrap_or(u16::MAX);
        self.max_mtu.min(fitting).max(MAX_RECEIVE_BYTES)
    }

    pub(super) fn stream_limits(&self) -> StreamLimits {
        StreamLimits {
            max_peer_streams: self.max_peer_streams,
            windows: ReceiveWindows {
                connection: self.first_connection_window().into(),
                stream: self.stream_windows(),
            },
            send_window: self.send_window,
            largest_send_window: if self.grows_send {
                LARGEST_SEND_WINDOW_BYTES
            } else {
                self.send_window
            },
        }
    }

    pub(super) fn stream_windows(&self) -> StreamWindows {
        StreamWindows {
            first: self.first_stream_window().into(),
            largest: self.largest_stream_window().into(),
        }
    }

    fn first_stream_window(&self) -> VarInt {
        let limited = self.limited_stream_window();
        limited.map_or(self.stream_receive_window, |limited| {
            self.stream_receive_window.min(limited)
        })
    }

    /// Half again as much as that of a stream under a limit, so that a stalled stream does not
    /// stall the others.
    fn first_connection_window(&self) -> VarInt {
        let set = self.connection_receive_window;
        let limited = self.limited_stream_window().and_then(|limited| {
            let limited = limited.into_inner();
            VarInt::from_u64(limited + limited / 2).ok()
        });
        limited.map_or(set, |limited| set.min(limited))
    }

    /// The window of a stream under a limit on what is received: what that lets in in a second, so
    /// that the longest paths can be filled.
    fn limited_stream_window(&self) -> Option<VarInt> {
        let rate = self.bandwidth_limits.receive.lowest()?;
        VarInt::from_u64(rate.max(LEAST_LIMITED_WINDOW_BYTES)).ok()
    }

    fn largest_stream_window(&self) -> VarInt {
        let largest = if self.grows_receive {
            LARGEST_STREAM_RECEIVE_WINDOW_BYTES.into()
        } else {
            self.stream_receive_window
        };
        let limited = self.limited_stream_window();
        limited.map_or(largest, |limited| largest.min(limited))
    }

    /// `memory` is that of the path to the host, if the configuration is for a single connection.
    pub(super) fn transport(
        &self,
        max_payload: Option<u16>,
        memory: Option<PathMemory>,
    ) -> TransportConfig {
        let is_wide = max_payload.is_some_and(|bytes| bytes > WIDEST_NETWORK_BYTES);
        let upper = self.max_mtu.min(max_payload.unwrap_or(USUAL_MTU_BYTES));
        let search = MtuSearch::new(upper, is_wide);
        let mut mtu_discovery = MtuDiscoveryConfig::default();
        mtu_discovery
            .upper_bound(search.upper)
            .minimum_change(search.step);
        let mut initial_window = self.initial_window;
        if is_wide {
            // One large probe would fill the usual window.
            initial_window += u64::from(search.upper.min(MAX_MTU_BYTES));
        }
        // On loopback there is no path to remember.
        let memory = memory.filter(|_| !is_wide);
        let initial_rtt = (memory.as_ref()).map_or(self.initial_rtt, |memory| {
            memory.initial_rtt(self.initial_rtt)
        });
        let congestion = LiftableFactory {
            inner: self.congestion(initial_window),
            same_host_window: is_wide.then_some(SAME_HOST_WINDOW_BYTES),
            memory: Mutex::new(memory),
        };
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(self.idle_timeout.map(|timeout| {
                IdleTimeout::try_from(timeout).expect("in range, as its setter checks")
            }))
            .keep_alive_interval(self.keep_alive_interval)
            .initial_rtt(initial_rtt)
            .max_concurrent_bidi_streams(self.max_peer_streams.min(FIRST_PEER_STREAMS).into())
            // libp2p has neither unidirectional streams nor datagrams.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .receive_window(self.first_connection_window())
            .stream_receive_window(self.largest_stream_window())
            .send_window(self.send_window)
            .congestion_controller_factory(Arc::new(congestion))
            // The spin bit shows the round-trip time to everyone on the path (RFC 9000 §17.4).
            .allow_spin(false)
            .mtu_discovery_config(self.mtu_discovery.then_some(mtu_discovery));
        if self.mtu_discovery {
            config.initial_mtu(search.lower);
        }
        config
    }

    fn congestion(&self, initial_window: u64) -> Arc<dyn ControllerFactory + Send + Sync> {
        #[cfg(test)]
        if self.uses_quinn_cubic {
            let mut theirs = quinn_proto::congestion::CubicConfig::default();
            theirs.initial_window(initial_window);
            return Arc::new(theirs);
        }
        #[cfg(test)]
        if let Some(count) = &self.rivals {
            return Arc::new(super::congestion::Rivals {
                count: Arc::clone(count),
                initial_window,
            });
        }
        self.congestion_control.factory(initial_window)
    }
}

/// Between which sizes of datagrams the path MTU is searched, and how finely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MtuSearch {
    lower: u16,
    upper: u16,
    step: u16,
}

impl MtuSearch {
    /// On a network, the search halves what is left of the range. On the way back to the same host
    /// it is the upper end or nothing: every probe costs a short connection time, and whatever is
    /// there that takes less is not the interface.
    fn new(upper: u16, is_wide: bool) -> Self {
        let lower = if is_wide {
            USUAL_MTU_BYTES
        } else {
            MIN_MTU_BYTES
        };
        let lower = lower.min(upper);
        let step = if is_wide {
            // quinn-proto tries the upper end first if the middle is less than a step away, and
            // nothing after it if the middle is less than a step away from there.
            (upper - lower) / 2 + 2
        } else {
            MTU_STEP_BYTES
        };
        Self { lower, upper, step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_to_the_same_host_takes_one_probe() {
        let MtuSearch { lower, upper, step } = MtuSearch::new(MAX_MTU_BYTES, true);
        assert_eq!((lower, upper), (USUAL_MTU_BYTES, MAX_MTU_BYTES));
        // The middle is not tried, and the upper end is.
        assert!((upper - lower) / 2 < step && step <= upper - lower);
        // Nor is anything tried when that one is lost.
        assert!(upper - (lower + upper - 1) / 2 < step);
    }

    #[test]
    fn no_interface_is_too_narrow_to_begin_with() {
        for is_wide in [false, true] {
            let search = MtuSearch::new(MIN_MTU_BYTES, is_wide);
            assert_eq!(search.lower, MIN_MTU_BYTES);
        }
    }
}
