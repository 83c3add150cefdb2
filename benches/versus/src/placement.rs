//! The CPUs on which a process runs.

use std::thread;

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tokio::runtime::{Builder, Runtime};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The server runs on CPU 0, the client on CPU 1.
    Pinned,
    /// The kernel chooses.
    Unpinned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

impl Placement {
    /// Moves this process. Call this before any thread starts.
    pub fn apply(self, side: Side) -> Result<()> {
        if self == Self::Pinned {
            let mut cpus = CpuSet::new();
            cpus.set(match side {
                Side::Server => 0,
                Side::Client => 1,
            })?;
            sched_setaffinity(Pid::from_raw(0), &cpus)?;
        }
        Ok(())
    }
}

/// The runtime of all stacks: multi-threaded, with a worker for each CPU that the process may use.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(workers()?)
        .enable_all()
        .build()?)
}

fn workers() -> Result<usize> {
    Ok(thread::available_parallelism()?.get())
}
