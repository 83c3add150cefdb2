//! The clock.

use std::time::Instant;

/// The monotonic time, now: that of tokio's timers, which a test can stop.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
