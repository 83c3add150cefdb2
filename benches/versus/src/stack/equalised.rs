//! The settings that all equalised stacks share: the defaults of both libp2p transports.

use std::time::Duration;

use anyhow::Result;

pub const MTU: u16 = 1452;
pub const STREAM_WINDOW: u32 = 10_000_000;
pub const CONNECTION_WINDOW: u32 = 15_000_000;
/// The default of quinn-proto, which the official transport does not change.
pub const SEND_WINDOW: u64 = 10_000_000;
pub const STREAMS: u32 = 256;
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// All of these settings, for the stacks that use quinn-proto directly.
pub fn transport() -> Result<quinn_proto::TransportConfig> {
    let mut discovery = quinn_proto::MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU);
    let mut transport = quinn_proto::TransportConfig::default();
    transport
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .allow_spin(false)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into()?))
        .keep_alive_interval(Some(KEEP_ALIVE));
    Ok(transport)
}

/// The windows, for the report.
pub const WINDOWS: &str = "10 MB stream, 15 MB connection, 10 MB send";
