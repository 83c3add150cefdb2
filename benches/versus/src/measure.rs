//! What a process has used, as it measures itself.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike},
    },
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};
use serde::{Deserialize, Serialize};

/// The state of a process at one moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Time of the machine's monotonic clock.
    at: Duration,
    user: Duration,
    system: Duration,
    /// Context switches of both kinds.
    switches: u64,
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
    pub user: Duration,
    pub system: Duration,
    pub switches: u64,
}

impl Mark {
    pub fn now(connections: &Connections) -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
        Ok(Self {
            at: Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?),
            user: duration(usage.user_time()),
            system: duration(usage.system_time()),
            switches: u64::try_from(switches)?,
            resident: resident()?,
            connections: connections.accepted.load(Ordering::Relaxed),
            ended: connections.ended.load(Ordering::Relaxed),
        })
    }

    pub fn until(&self, end: &Self) -> Usage {
        Usage {
            wall: end.at.saturating_sub(self.at),
            user: end.user.saturating_sub(self.user),
            system: end.system.saturating_sub(self.system),
            switches: end.switches.saturating_sub(self.switches),
        }
    }
}

impl Usage {
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0))
}

fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .context("no resident size in statm")?
        .parse()?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages * u64::try_from(page)?)
}
