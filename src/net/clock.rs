//! Clocks.

use std::time::{Duration, Instant};

/// The current monotonic time. It is the time of tokio's timers, which tests can pause.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// CPU time used by this thread. If the operating system does not report it, the time since an
/// arbitrary moment.
pub(crate) fn thread_cpu_time() -> Duration {
    #[cfg(unix)]
    if let Ok(time) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID) {
        return time.into();
    }
    static SOME_MOMENT: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    now() - *SOME_MOMENT.get_or_init(now)
}
