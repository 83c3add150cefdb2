//! Locks and wakers shared between threads: those of the standard library, or loom's, which tries
//! every interleaving.
//!
//! `tests/loom` compiles this package with `cfg(loom)`, so that the models in `driver` run the code
//! that is shipped.

#[cfg(loom)]
pub(crate) use self::loom_waker::AtomicWaker;
#[cfg(not(loom))]
pub(crate) use futures::task::AtomicWaker;
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

use std::sync::{Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError};

/// Locks, even if a thread has panicked while it held the lock. Only for data that is consistent
/// between any two statements; for connections there is
/// [`lock_connection`](crate::proto::lock_connection).
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks without loom's knowledge: data that one thread uses, which has a lock only because the
/// compiler requires `Sync`, or data that outlives a model. Nothing that loom schedules may happen
/// while the lock is held.
pub(crate) fn lock_unmodelled<T>(mutex: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(loom)]
mod loom_waker {
    use std::task::Waker;

    /// loom's `AtomicWaker` with the interface of the one in `futures`.
    #[derive(Default)]
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }

        pub(crate) fn take(&self) -> Option<Waker> {
            self.0.take_waker()
        }
    }
}
