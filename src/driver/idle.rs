//! Waiting until a transport has no connection left.

use std::{
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Context,
};

use super::wakers;
use crate::sync::{AtomicWaker, Mutex, lock};

/// The futures that wait until all connections are closed.
#[derive(Default)]
pub(super) struct Idle {
    /// Those that were dropped stay until the next one is added.
    waiting: Mutex<Vec<Weak<AtomicWaker>>>,
    /// Whether any future waits; cheaper to check than the mutex.
    is_awaited: AtomicBool,
}

impl Idle {
    /// Wakes the task of a future when a driver has no connection left. It then checks all drivers.
    pub(super) fn register(&self, cx: &Context<'_>, waker: &Arc<AtomicWaker>) {
        waker.register(cx.waker());
        let mut waiting = lock(&self.waiting);
        if !waiting
            .iter()
            .any(|other| other.as_ptr() == Arc::as_ptr(waker))
        {
            waiting.retain(|other| other.strong_count() > 0);
            waiting.push(Arc::downgrade(waker));
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
            wakers::wake(due.iter().filter_map(|waker| waker.upgrade()?.take()));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::simulation::tasks::WakeFlag;

    #[test]
    fn each_future_that_waits_is_woken_and_one_that_was_dropped_is_forgotten() {
        let idle = Idle::default();
        let [first, dropped, second] = [(); 3].map(|()| (Arc::default(), Arc::default()));
        let register = |(task, waker): &(Arc<WakeFlag>, Arc<AtomicWaker>)| {
            idle.register(&Context::from_waker(&Waker::from(Arc::clone(task))), waker);
        };
        let is_woken = |(task, _): &(Arc<WakeFlag>, _)| task.is_set();
        register(&first);
        register(&dropped);
        drop(dropped);
        register(&second);
        register(&first);
        assert_eq!(lock(&idle.waiting).len(), 2);
        idle.wake();
        assert!(is_woken(&first) && is_woken(&second));
    }
}
