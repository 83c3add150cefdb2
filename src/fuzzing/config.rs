//! Fuzz target: configurations with arbitrary values.

use std::{sync::LazyLock, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use libp2p_identity::Keypair;

use super::all;
use crate::{
    bandwidth::BandwidthLimits,
    config::{Config, ConfigBuilder, CongestionControl, Preset, RetryPolicy},
    error::ConfigError,
    simulation::{network::Network, node::Setup},
};

/// Applies settings in any order. Each setter accepts or refuses its value, and a configuration of
/// accepted values works.
pub fn config(data: &[u8]) {
    let mut input = Unstructured::new(data);
    if let Ok(plan) = Plan::arbitrary(&mut input) {
        plan.run();
    }
}

#[derive(Arbitrary, Debug)]
struct Plan {
    max_payload: Option<u16>,
    receive_buffer: u32,
    connects: bool,
    #[arbitrary(with = all)]
    settings: Vec<Setting>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Setting {
    BandwidthLimits([Option<u64>; 6]),
    Bbr,
    Cubic,
    NewReno,
    ConnectionReceiveWindow(u64),
    Ecn(bool),
    HandshakeTimeout(u64),
    IdleTimeout(Option<u64>),
    InitialRtt(u64),
    InitialWindow(u64),
    KeepAliveInterval(Option<u64>),
    KeyLogOff,
    KeyLogFromEnv(bool),
    LingerTimeout(u64),
    MaxBufferedBytes(Option<u64>),
    MaxHandshakesPerSource(usize),
    MaxIncomingHandshakes(usize),
    MaxMtu(u16),
    MaxPeerStreams(u32),
    MaxPendingIncoming(u16),
    MaxPendingIncomingBytes(usize),
    MeasureRouting(bool),
    Migration(bool),
    MtuDiscovery(bool),
    HighThroughput,
    LowLatency,
    ManyStreams,
    MemoryConstrained,
    #[cfg(feature = "qlog")]
    QlogOff,
    #[cfg(feature = "qlog")]
    QlogFromEnv(bool),
    RememberPaths(bool),
    RetryAlways,
    RetryNever,
    RetryUnderLoad(usize),
    SegmentationOffload(bool),
    SendWindow(u64),
    Shards(u8),
    SocketBuffers(u32, u32),
    StreamReceiveWindow(u64),
}

/// Times above this one, in milliseconds, behave alike.
const LONGEST_TIME: u64 = 1 << 40;

impl Plan {
    fn run(self) {
        static HOST: LazyLock<Keypair> = LazyLock::new(Keypair::generate_ed25519);

        let mut builder = Config::builder(&HOST);
        let mut slow = false;
        let mut shards = 1;
        for setting in self.settings {
            // A setter that returns an error has consumed the builder.
            let before = builder.clone();
            match setting.apply(builder) {
                Ok(after) => {
                    builder = after;
                    slow |= setting.is_slow();
                    if let Setting::Shards(count) = setting {
                        shards = count;
                    }
                }
                Err(error) => {
                    assert!(matches!(error, ConfigError::OutOfRange { .. }), "{error}");
                    builder = before;
                }
            }
        }
        let config = match builder.build() {
            Ok(config) => config,
            Err(
                ConfigError::InitialRttTooLong
                | ConfigError::KeepAliveTooLong
                | ConfigError::StreamWindowTooLarge,
            ) => return,
            Err(error) => panic!("{error}"),
        };
        for discovery in [false, true] {
            let settings =
                config.settings(discovery, self.receive_buffer as usize, [7; 32], [7; 32]);
            let settings = settings.expect("the certificate was made in `build`");
            (settings.transport)(self.max_payload);
        }
        let client = config.client(None, self.max_payload);
        client.expect("the certificate was made in `build`");
        if self.connects && !slow {
            connect(config, shards);
        }
    }
}

/// Two nodes with this configuration connect, exchange data and close.
fn connect(config: Config, shards: u8) {
    let setup = Setup {
        config: Some(config),
        shards,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    let (dialer, listener) = network.connect(0, 1);
    let received = network.block_on({
        let (dialer, listener) = (dialer.clone(), listener.clone());
        async move {
            let stream = dialer.open().await.ok()?;
            dialer.write_all(stream, b"hello").await.ok()?;
            dialer.finish(stream).ok()?;
            let accepted = listener.accept().await.ok()?;
            listener.read_to_end(accepted).await.ok()
        }
    });
    assert_eq!(received.as_deref(), Some(&b"hello"[..]));
    dialer.close(0);
    listener.close(0);
    network.run_until_empty();
}

impl Setting {
    fn apply(self, builder: ConfigBuilder) -> Result<ConfigBuilder, ConfigError> {
        let time = Duration::from_millis;
        match self {
            Self::BandwidthLimits(rates) => {
                let mut limits = BandwidthLimits::default();
                for (limits, rates) in [&mut limits.receive, &mut limits.send]
                    .into_iter()
                    .zip(rates.chunks(3))
                {
                    limits.each_connection = rates[0];
                    limits.each_peer = rates[1];
                    limits.total = rates[2];
                }
                builder.bandwidth_limits(limits)
            }
            Self::Bbr => Ok(builder.congestion_control(CongestionControl::Bbr)),
            Self::Cubic => Ok(builder.congestion_control(CongestionControl::Cubic)),
            Self::NewReno => Ok(builder.congestion_control(CongestionControl::NewReno)),
            Self::ConnectionReceiveWindow(bytes) => builder.connection_receive_window_bytes(bytes),
            Self::Ecn(enabled) => Ok(builder.ecn(enabled)),
            Self::HandshakeTimeout(ms) => builder.handshake_timeout(time(ms)),
            Self::IdleTimeout(ms) => builder.idle_timeout(ms.map(time)),
            Self::InitialRtt(ms) => builder.initial_rtt(time(ms)),
            Self::InitialWindow(bytes) => builder.initial_window_bytes(bytes),
            Self::KeepAliveInterval(ms) => builder.keep_alive_interval(ms.map(time)),
            Self::KeyLogOff => Ok(builder.key_log_file(None)),
            Self::KeyLogFromEnv(enabled) => Ok(builder.key_log_from_env(enabled)),
            Self::LingerTimeout(ms) => builder.linger_timeout(time(ms)),
            Self::MaxBufferedBytes(bytes) => builder.max_buffered_bytes(bytes),
            Self::MaxHandshakesPerSource(count) => builder.max_handshakes_per_source(count),
            Self::MaxIncomingHandshakes(count) => builder.max_incoming_handshakes(count),
            Self::MaxMtu(bytes) => builder.max_mtu_bytes(bytes),
            Self::MaxPeerStreams(streams) => builder.max_peer_streams(streams),
            Self::MaxPendingIncoming(count) => builder.max_pending_incoming(count.into()),
            Self::MaxPendingIncomingBytes(bytes) => builder.max_pending_incoming_bytes(bytes),
            Self::MeasureRouting(enabled) => Ok(builder.measure_routing(enabled)),
            Self::Migration(enabled) => Ok(builder.migration(enabled)),
            Self::MtuDiscovery(enabled) => Ok(builder.mtu_discovery(enabled)),
            Self::HighThroughput => Ok(builder.preset(Preset::HighThroughput)),
            Self::LowLatency => Ok(builder.preset(Preset::LowLatency)),
            Self::ManyStreams => Ok(builder.preset(Preset::ManyStreams)),
            Self::MemoryConstrained => Ok(builder.preset(Preset::MemoryConstrained)),
            #[cfg(feature = "qlog")]
            Self::QlogOff => Ok(builder.qlog_dir(None)),
            #[cfg(feature = "qlog")]
            Self::QlogFromEnv(enabled) => Ok(builder.qlog_from_env(enabled)),
            Self::RememberPaths(enabled) => Ok(builder.remember_paths(enabled)),
            Self::RetryAlways => Ok(builder.retry_policy(RetryPolicy::Always)),
            Self::RetryNever => Ok(builder.retry_policy(RetryPolicy::Never)),
            Self::RetryUnderLoad(handshakes) => {
                Ok(builder.retry_policy(RetryPolicy::UnderLoad { handshakes }))
            }
            Self::SegmentationOffload(enabled) => Ok(builder.segmentation_offload(enabled)),
            Self::SendWindow(bytes) => builder.send_window_bytes(bytes),
            Self::Shards(count) => builder.shards(count),
            Self::SocketBuffers(receive, send) => {
                builder.socket_buffer_bytes(receive as usize, send as usize)
            }
            Self::StreamReceiveWindow(bytes) => builder.stream_receive_window_bytes(bytes),
        }
    }

    /// Whether a connection with this setting may rightly time out, or would run for too long.
    fn is_slow(self) -> bool {
        const ROUND_TRIPS: u64 = 1_000;
        match self {
            Self::HandshakeTimeout(ms)
            | Self::IdleTimeout(Some(ms))
            | Self::KeepAliveInterval(Some(ms)) => !(ROUND_TRIPS..LONGEST_TIME).contains(&ms),
            Self::MaxPeerStreams(streams) => streams > 1024,
            Self::ManyStreams => true,
            Self::Shards(count) => count > 4,
            _ => false,
        }
    }
}
