//! Settings that fit together, for nodes of one kind.

use std::time::Duration;

use quinn_proto::VarInt;

use super::knobs::Knobs;
use crate::net::BufferSizes;

/// Several settings at once, for [`ConfigBuilder::preset`](crate::ConfigBuilder::preset).
///
/// The defaults suit most applications. What each preset gains and costs was measured;
/// `docs/configuration.md` has the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// For few connections over long and fast paths: file transfer between data centres.
    ///
    /// Windows begin with 64 MB for a stream, 96 MB for a connection and 64 MB for what is sent,
    /// and do not grow. The initial congestion window is 48,000 bytes. One peer may have us hold
    /// 112 MB of what it sends, and 64 MB of what we have written. The windows need memory:
    /// [`max_buffered_bytes`](crate::ConfigBuilder::max_buffered_bytes) grants a connection a
    /// quarter of all that the transport may hold, so its default does not bound them from 3 GB
    /// of memory on.
    HighThroughput,
    /// For short messages that somebody waits for: consensus, games, remote control.
    ///
    /// The initial round-trip time is 100 ms, so a lost first packet is sent again after 300 ms
    /// instead of 1 s; over paths longer than that, every handshake sends some packets twice. The
    /// idle timeout is 5 s with keep-alives each 2 s. At most 1 MB is in flight, and an eighth of
    /// that is written ahead, so a path of 100 ms carries at most 80 Mbit/s.
    LowLatency,
    /// For protocols with thousands of streams at once: request-response, gossip.
    ///
    /// Peers may have 4096 streams open on a connection, with a window of 1 MB for each stream and
    /// 15 MB for all. One peer may have us hold 64 MB of what it sends: the window and 16 MiB as
    /// otherwise, and 1 MiB and 8 KiB for each stream beyond 256.
    ManyStreams,
    /// For small devices and nodes with thousands of connections.
    ///
    /// Windows are 512 KiB for a stream, 768 KiB for a connection and 512 KiB for what is sent. All
    /// connections together hold at most 32 MiB, 192 KiB for each connection and 4 KiB for each
    /// stream. At most 128 handshakes are unfinished, 32 of one source, and 128 connections wait
    /// with 512 KiB. Socket buffers have 512 KiB.
    MemoryConstrained,
}

impl Preset {
    pub(super) fn apply(self, knobs: &mut Knobs) {
        match self {
            Self::HighThroughput => {
                set_windows(knobs, 64_000_000, 96_000_000, 64_000_000);
                knobs.initial_window = 48_000;
            }
            Self::LowLatency => {
                knobs.initial_rtt = Duration::from_millis(100);
                knobs.idle_timeout = Some(Duration::from_secs(5));
                knobs.keep_alive_interval = Some(Duration::from_secs(2));
                knobs.send_window = 1_000_000;
                knobs.grows_send = false;
            }
            Self::ManyStreams => {
                knobs.max_peer_streams = 4096;
                knobs.stream_receive_window = VarInt::from_u32(1_000_000);
                knobs.connection_receive_window = VarInt::from_u32(15_000_000);
                knobs.grows_receive = false;
            }
            Self::MemoryConstrained => {
                set_windows(knobs, 512 * 1024, 768 * 1024, 512 * 1024);
                knobs.max_buffered_bytes = Some(32 * 1024 * 1024);
                knobs.max_incoming_handshakes = 128;
                knobs.max_handshakes_per_source = 32;
                knobs.max_pending_incoming = 128;
                knobs.max_pending_incoming_bytes = 512 * 1024;
                knobs.socket_buffers = BufferSizes {
                    receive: 512 * 1024,
                    send: 512 * 1024,
                };
            }
        }
    }
}

fn set_windows(knobs: &mut Knobs, stream: u32, connection: u32, send: u32) {
    knobs.stream_receive_window = stream.into();
    knobs.connection_receive_window = connection.into();
    knobs.grows_receive = false;
    knobs.send_window = send.into();
    knobs.grows_send = false;
}
