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

/// Seconds since 1970. They are only told to the user, so that a clock that goes back does no harm.
#[expect(
    clippy::disallowed_methods,
    reason = "time is an argument everywhere else"
)]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
