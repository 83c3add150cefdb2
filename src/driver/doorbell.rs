//! Waking a driver, and saying which connections want a turn.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use futures::task::AtomicWaker;
use quinn_proto::ConnectionHandle;

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
        self.lock().push(handle);
        self.ring();
    }

    /// Swaps the connections that rang for an empty list, so that neither allocates for long.
    pub(super) fn take(&self, turns: &mut Vec<ConnectionHandle>) {
        mem::swap(&mut *self.lock(), turns);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ConnectionHandle>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
