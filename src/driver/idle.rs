//! Waiting until a transport has no connection left.

use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Waker},
};

use super::wakers;
use crate::sync::{Mutex, lock};

/// The tasks that wait until all connections are closed.
#[derive(Default)]
pub(super) struct Idle {
    waiting: Mutex<Vec<Waker>>,
    /// Whether any task waits; cheaper to check than the mutex.
    is_awaited: AtomicBool,
}

impl Idle {
    /// Wakes the task when a driver has no connection left. The task then checks all drivers.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        self.is_awaited.store(true, Ordering::Release);
    }

    /// Wakes the waiting tasks because a driver has no connection left.
    pub(super) fn wake(&self) {
        if self.is_awaited.load(Ordering::Acquire) {
            let mut waiting = lock(&self.waiting);
            self.is_awaited.store(false, Ordering::Relaxed);
            let due = mem::take(&mut *waiting);
            drop(waiting);
            wakers::wake(due);
        }
    }
}
