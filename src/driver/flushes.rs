//! Waiting until a driver has sent what its connections had to send.

use std::{sync::PoisonError, time::Instant};

use crate::{
    net::clock,
    sync::{Condvar, Mutex, lock},
};

/// The flushes that threads wait for. Successive drivers of a mailbox share them.
#[derive(Default)]
pub(super) struct Flushes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asked: Flush,
    done: Flush,
    /// Whether the driver has stopped, and no other one has begun.
    is_over: bool,
}

/// A flush. It is done when a round of the driver that began after it was asked for has left
/// nothing to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flush(u64);

impl Flushes {
    /// Counts another flush.
    pub(super) fn ask(&self) -> Flush {
        let mut state = lock(&self.state);
        state.asked.0 += 1;
        state.asked
    }

    /// Notes that this flush and those before it are done.
    pub(super) fn note_done(&self, flush: Flush) {
        let mut state = lock(&self.state);
        state.done = state.done.max(flush);
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that the driver has sent its last datagram.
    pub(super) fn note_over(&self) {
        lock(&self.state).is_over = true;
        self.changed.notify_all();
    }

    /// For the next driver, which owes nothing to those who asked earlier ones.
    pub(super) fn begin_again(&self) {
        let mut state = lock(&self.state);
        state.done = state.asked;
        state.is_over = false;
    }

    /// Blocks the thread until the flush is done or the driver has stopped, but not beyond `until`.
    /// Returns `false` if the time did not suffice.
    pub(super) fn wait(&self, flush: Flush, until: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.is_over || state.done >= flush {
                return true;
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            let (changed, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = changed;
            if timeout.timed_out() {
                // Not compared with `until`: a clock that a test has paused stands still.
                return state.is_over || state.done >= flush;
            }
        }
    }
}
