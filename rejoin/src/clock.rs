//! The only place that reads the clocks.

use web_time::{Instant, SystemTime, UNIX_EPOCH};

/// Decides when something happens.
#[expect(
    clippy::disallowed_methods,
    reason = "time is an argument everywhere else"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970, by a clock that may be wrong or go back. They are told to the user, and
/// compared with the times of temporary files.
#[expect(
    clippy::disallowed_methods,
    reason = "time is an argument everywhere else"
)]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
