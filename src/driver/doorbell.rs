//! Wakes a driver, and lists the connections that need a turn.

use std::{mem, task::Waker};

use quinn_proto::ConnectionHandle;

use crate::sync::{AtomicWaker, Mutex, lock};

/// Wakes one driver.
#[derive(Default)]
pub(crate) struct Doorbell {
    /// Of the driver, which waits for mail and for connections that need a turn.
    waker: AtomicWaker,
    /// Connections that have rung, because they need a turn. A connection may be listed more than
    /// once if it had a turn for another reason in between.
    rung: Mutex<Vec<ConnectionHandle>>,
}

impl Doorbell {
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn ring(&self) {
        self.waker.wake();
    }

    /// Wakes the driver for a connection that needs a turn.
    pub(super) fn ring_for(&self, handle: ConnectionHandle) {
        lock(&self.rung).push(handle);
        self.ring();
    }

    /// Swaps the list of connections for an empty one, so that both vectors keep their memory.
    pub(super) fn take(&self, rung: &mut Vec<ConnectionHandle>) {
        mem::swap(&mut *lock(&self.rung), rung);
    }
}
