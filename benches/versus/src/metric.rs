//! The figures that a workload measures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The figures of one run.
pub type Metrics = BTreeMap<Metric, f64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    MegabytesPerSecond,
    OperationsPerSecond,
    MedianMicros,
    P99Micros,
    CpuSecondsPerGigabyte,
    ClientCpuSecondsPerGigabyte,
    ServerCpuSecondsPerGigabyte,
    CpuMicrosPerOperation,
    ClientCpuMicrosPerOperation,
    ServerCpuMicrosPerOperation,
    ClientKilobytesPerConnection,
    ServerKilobytesPerConnection,
    ClientIdleMicros,
    ServerIdleMicros,
    HandshakeMillis,
    UploadMegabytesPerSecond,
    DownloadMegabytesPerSecond,
    RustCpuSecondsPerGigabyte,
    MegabytesPerSecondInFlood,
    KeptInFlood,
    AnsweredInFlood,
    AcceptedShare,
    DroppedBeforeLink,
    SystemShare,
    SwitchesPerSecond,
}

impl Metric {
    /// The name in tables and plots.
    pub fn label(self) -> &'static str {
        match self {
            Self::MegabytesPerSecond => "MB/s",
            Self::OperationsPerSecond => "1/s",
            Self::MedianMicros => "p50 µs",
            Self::P99Micros => "p99 µs",
            Self::CpuSecondsPerGigabyte => "CPU s/GB",
            Self::ClientCpuSecondsPerGigabyte => "client s/GB",
            Self::ServerCpuSecondsPerGigabyte => "server s/GB",
            Self::CpuMicrosPerOperation => "CPU µs",
            Self::ClientCpuMicrosPerOperation => "client µs",
            Self::ServerCpuMicrosPerOperation => "server µs",
            Self::ClientKilobytesPerConnection => "client KB",
            Self::ServerKilobytesPerConnection => "server KB",
            Self::ClientIdleMicros => "client µs/s",
            Self::ServerIdleMicros => "server µs/s",
            Self::HandshakeMillis => "handshake ms",
            Self::UploadMegabytesPerSecond => "upload MB/s",
            Self::DownloadMegabytesPerSecond => "download MB/s",
            Self::RustCpuSecondsPerGigabyte => "Rust CPU s/GB",
            Self::MegabytesPerSecondInFlood => "MB/s in flood",
            Self::KeptInFlood => "kept",
            Self::AnsweredInFlood => "answered/s",
            Self::AcceptedShare => "accepted %",
            Self::DroppedBeforeLink => "not taken",
            Self::SystemShare => "system %",
            Self::SwitchesPerSecond => "switches/s",
        }
    }

    /// Whether a larger value is better; `None` for a figure that only explains others.
    pub fn more_is_better(self) -> Option<bool> {
        match self {
            Self::MegabytesPerSecond
            | Self::OperationsPerSecond
            | Self::UploadMegabytesPerSecond
            | Self::DownloadMegabytesPerSecond
            | Self::MegabytesPerSecondInFlood
            | Self::KeptInFlood
            | Self::AcceptedShare => Some(true),
            Self::AnsweredInFlood
            | Self::DroppedBeforeLink
            | Self::SystemShare
            | Self::SwitchesPerSecond => None,
            _ => Some(false),
        }
    }
}
