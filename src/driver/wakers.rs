//! Wakes tasks. Wakers are application code, so a panic in one must not affect other tasks.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// Wakes one task after another. A panic in a waker reaches its thread's panic hook, and the next
/// task is woken all the same.
pub(super) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain(|| waker.wake());
    }
}

/// Runs what may call code of the application, and contains a panic of that.
pub(super) fn contain(act: impl FnOnce()) {
    // The code inside changes none of our own state, so a panic leaves nothing half done.
    let _ = catch_unwind(AssertUnwindSafe(act));
}
