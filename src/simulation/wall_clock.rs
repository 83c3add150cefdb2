//! Wall-clock time, which users and NTP may change. Certificates and tokens use it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use quinn_proto::TimeSource;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// A clock that stands still until it is set; a real one would make two runs of a seed differ.
#[derive(Clone, Debug)]
pub(crate) struct WallClock(Arc<AtomicU64>);

impl WallClock {
    /// A day in 2023.
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000)))
    }

    pub(crate) fn step(&self, seconds: i64) {
        let before = self.0.load(Ordering::Relaxed);
        let after = before.saturating_add_signed(seconds);
        self.0.store(after, Ordering::Relaxed);
    }

    fn since_1970(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// For tokens.
impl TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.since_1970()
    }
}

/// For certificates.
impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.since_1970()))
    }
}
