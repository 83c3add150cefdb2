//! How a connection gets its qlog file, and how much is written.

use std::{io, path::Path};

use quinn_proto::{QlogConfig, TransportConfig};

use crate::{
    net::log_files::{LogFiles, LogLimits},
    proto::Beginning,
};

/// Peers decide how many connections there are and how many packets these have, so all of it has a
/// limit.
const LIMITS: LogLimits = LogLimits {
    // Some hours of a busy node, or some seconds of a flood of handshakes.
    files: 10_000,
    // What most disks have left.
    bytes: 1024 * 1024 * 1024,
    // Some 300,000 records, of packets and of what acknowledgements change.
    file_bytes: 64 * 1024 * 1024,
    // 4 MB. A transfer makes as many records in a tenth of a second.
    waiting: 16 * 1024,
};

/// The qlog files of all connections of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Qlog(LogFiles);

impl Qlog {
    pub(crate) fn begin(directory: &Path) -> io::Result<Self> {
        LogFiles::begin(directory, "sqlog", LIMITS).map(Self)
    }

    /// Makes a connection with this configuration write a file. Both sides of a connection name
    /// theirs after the same ID.
    pub(crate) fn attach(&self, logged: &Beginning, config: &mut TransportConfig) {
        let side = if logged.is_outbound {
            "client"
        } else {
            "server"
        };
        let name = format!("{}_{side}.sqlog", logged.initial_id);
        let Some(writer) = self.0.writer(&name) else {
            return;
        };
        let mut qlog = QlogConfig::default();
        qlog.writer(Box::new(writer))
            .title(Some(format!("libp2p-quinn, {side}")))
            .description(Some(format!("connection {}", logged.number)))
            .start_time(logged.now);
        config.qlog_stream(qlog.into_stream());
    }

    /// The number of records that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    pub(crate) fn reset_dropped(&self) {
        self.0.reset_dropped();
    }
}
