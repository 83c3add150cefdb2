//! The resources of this process at one moment.

use std::{fmt, fs};

use anyhow::{Context, Result};
use harness::resources::resident;
use libp2p_quinn::RegistryStats;
use serde::{Deserialize, Serialize};
use tikv_jemalloc_ctl::{epoch, stats};

/// A sample after this many connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Attempts to connect so far, including those that had to fail.
    pub connections: u64,
    /// Streams so far.
    pub streams: u64,
    /// The sum of all figures that the registries mark as *now*, which should be zero.
    pub entries: u64,
    /// Tasks of the runtime that have not ended.
    pub tasks: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Bytes allocated and not freed, in Rust and C.
    pub live_bytes: u64,
    pub resident_bytes: u64,
}

impl Sample {
    pub fn take(connections: u64, streams: u64, entries: u64) -> Result<Self> {
        // jemalloc updates its figures only on request.
        epoch::advance().context("jemalloc's epoch")?;
        Ok(Self {
            connections,
            streams,
            entries,
            tasks: tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks() as u64,
            descriptors: descriptors()?,
            live_bytes: stats::allocated::read().context("jemalloc's count")? as u64,
            resident_bytes: resident()?,
        })
    }

    /// Whether nothing is left of the connections since `start`.
    pub fn is_as_empty_as(&self, start: &Self) -> bool {
        self.entries == 0 && self.tasks <= start.tasks && self.descriptors <= start.descriptors
    }
}

/// The sum of all figures that must be zero when every connection is gone.
pub fn entries(stats: &RegistryStats) -> u64 {
    let counts = [
        stats.connections,
        stats.handshaking,
        stats.initial_ids,
        stats.peers,
        stats.pending_incoming,
        stats.remote_addresses,
    ];
    stats.active_ids + counts.iter().map(|&count| count as u64).sum::<u64>()
}

fn descriptors() -> Result<u64> {
    // Without the descriptor of the directory itself.
    Ok(fs::read_dir("/proc/self/fd")?.count() as u64 - 1)
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} streams: {} entries, {} tasks, {} descriptors, {} KiB allocated, {} KiB resident",
            self.connections,
            self.streams,
            self.entries,
            self.tasks,
            self.descriptors,
            self.live_bytes / 1024,
            self.resident_bytes / 1024
        )
    }
}
