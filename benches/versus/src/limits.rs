//! The limits of the processes of a measurement.

use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files, because some workloads have a socket for each of many peers.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Longer than any measurement.
pub const LONGEST: Duration = Duration::from_secs(180);
