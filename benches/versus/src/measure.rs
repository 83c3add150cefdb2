//! What a process has used, as it measures itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Result;
use harness::resources::{self, resident};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The state of a process at one moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Time of the machine's monotonic clock.
    at: Duration,
    used: resources::Usage,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Connections accepted so far.
    pub connections: u64,
    /// Connections that have ended so far, including those that ended before they were accepted.
    pub ended: u64,
}

/// The connections of a server, counted by the tasks that own them.
#[derive(Debug, Default)]
pub struct Connections {
    pub accepted: AtomicU64,
    pub ended: AtomicU64,
}

/// What a process has used between two marks.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub wall: Duration,
    pub used: resources::Usage,
}

impl Mark {
    pub fn now(connections: &Connections) -> Result<Self> {
        Ok(Self {
            at: Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?),
            used: resources::Usage::now()?,
            resident: resident()?,
            connections: connections.accepted.load(Ordering::Relaxed),
            ended: connections.ended.load(Ordering::Relaxed),
        })
    }

    pub fn until(&self, end: &Self) -> Usage {
        Usage {
            wall: end.at.saturating_sub(self.at),
            used: end.used.since(&self.used),
        }
    }
}

impl Usage {
    pub fn cpu(&self) -> Duration {
        self.used.cpu()
    }
}
