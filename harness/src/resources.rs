//! What a process uses, this one or another.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike},
    },
    unistd::{SysconfVar, sysconf},
};
use serde::{Deserialize, Serialize};

/// What this process has used so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
    /// Context switches of both kinds.
    pub switches: u64,
}

impl Usage {
    pub fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
        Ok(Self {
            user: duration(usage.user_time()),
            system: duration(usage.system_time()),
            switches: u64::try_from(switches)?,
        })
    }

    /// What was used since an earlier moment.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }

    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// User and system time of another process, which may have ended if nobody has waited for it.
pub fn cpu_of(process: u32) -> Result<Duration> {
    let ticks = ticks(&fs::read_to_string(format!("/proc/{process}/stat"))?)?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Resident bytes of this process.
pub fn resident() -> Result<u64> {
    bytes(&fs::read_to_string("/proc/self/status")?, "VmRSS:")
}

/// The most bytes that were resident of another process.
pub fn peak_of(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    bytes(&status, "VmHWM:")
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0))
}

/// User and system time, in the text of `/proc/ID/stat`.
fn ticks(stat: &str) -> Result<u64> {
    // The name in front of it may contain any character, even a parenthesis.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("no time in stat")?.parse()?) };
    Ok(next()? + next()?)
}

/// An amount of memory, in the text of `/proc/ID/status`.
fn bytes(status: &str, name: &str) -> Result<u64> {
    let amount = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = amount.and_then(|amount| amount.trim().strip_suffix(" kB"));
    let kibibytes = kibibytes.with_context(|| format!("no {name} in status"))?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_behind_any_name() {
        let stat = "7 (a) R 1 (b) S 1 7 7 0 -1 4194304 105 0 2 0 310 25 9 9 20 0 4 0 1234";
        assert_eq!(ticks(stat).unwrap(), 335);
        assert!(ticks("7 (a) S 1 7").is_err());
    }

    #[test]
    fn memory_is_read_by_its_name() {
        let status = "Name:\tpeer\nVmPeak:\t 9000 kB\nVmHWM:\t   5120 kB\nVmRSS:\t   4096 kB\n";
        assert_eq!(bytes(status, "VmHWM:").unwrap(), 5120 * 1024);
        assert_eq!(bytes(status, "VmRSS:").unwrap(), 4096 * 1024);
        assert!(bytes(status, "VmSwap:").is_err());
    }

    #[test]
    fn use_of_this_process_grows_with_what_it_does() {
        let before = Usage::now().unwrap();
        while Usage::now().unwrap().since(&before).cpu() < Duration::from_millis(30) {}
        let id = std::process::id();
        assert!(cpu_of(id).unwrap() > Duration::ZERO);

        let block = vec![1_u8; 64 << 20];
        assert!(resident().unwrap() >= 64 << 20);
        drop(block);
        assert!(peak_of(id).unwrap() >= 64 << 20);
    }
}
