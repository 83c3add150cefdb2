//! Waiting for a driver to do what it was asked to before its transport was dropped.

use std::time::Instant;

use crate::{
    net::clock,
    sync::{Condvar, Mutex, lock},
};

/// Whether a driver has done everything it was asked to since its transport was dropped.
#[derive(Default)]
pub(super) struct LastRound {
    is_done: Mutex<bool>,
    changed: Condvar,
}

impl LastRound {
    pub(super) fn note_done(&self) {
        *lock(&self.is_done) = true;
        self.changed.notify_all();
    }

    /// For the next driver.
    pub(super) fn reset(&self) {
        *lock(&self.is_done) = false;
    }

    /// Blocks the thread until the driver is done, but not beyond `until`.
    pub(super) fn wait(&self, until: Instant) {
        let mut is_done = lock(&self.is_done);
        while !*is_done {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            is_done = match self.changed.wait_timeout(is_done, left) {
                Ok((is_done, _)) => is_done,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
