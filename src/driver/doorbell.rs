//! Waking a driver, and saying which connections want a turn.

use std::{mem, task::Waker};

use quinn_proto::ConnectionHandle;

use crate::sync::{AtomicWaker, Mutex, lock};

/// Wakes one driver.
#[derive(Default)]
pub(crate) struct Doorbell {
    driver: AtomicWaker,
    /// Connections that want a turn. One may be in here more than once, if it had a turn for another reason.
    turns: Mutex<Vec<ConnectionHandle>>,
}

impl Doorbell {
    pub(super) fn register(&self, driver: &Waker) {
        self.driver.register(driver);
    }

    /// Makes the driver look around.
    pub(super) fn ring(&self) {
        self.driver.wake();
    }

    /// Rings for a connection that wants a turn.
    pub(super) fn ring_for(&self, handle: ConnectionHandle) {
        lock(&self.turns).push(handle);
        self.ring();
    }

    /// Swaps the connections that rang for an empty list, so that neither allocates for long.
    pub(super) fn take(&self, turns: &mut Vec<ConnectionHandle>) {
        mem::swap(&mut *lock(&self.turns), turns);
    }
}
