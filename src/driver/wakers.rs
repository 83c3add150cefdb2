//! Waking those who wait. Wakers are the application's code, and what goes wrong in one stays with its task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

use futures::channel::oneshot;

/// Wakes one after the other. A waker that panics has told its thread's panic hook; the next one is woken all the same.
pub(super) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain(|| waker.wake());
    }
}

/// An answer that somebody waits for. Dropping it says that there will be none.
pub(super) struct Reply<T>(Option<oneshot::Sender<T>>);

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Answers; if nobody waits any more, the answer is dropped.
    pub(super) fn send(mut self, answer: T) {
        if let Some(sender) = self.0.take() {
            contain(|| drop(sender.send(answer)));
        }
    }

    /// Whether nobody waits any more.
    pub(super) fn is_canceled(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let sender = self.0.take();
        contain(|| drop(sender));
    }
}

fn contain(act: impl FnOnce()) {
    // Nothing of ours is touched in there that could be left half done.
    let _ = catch_unwind(AssertUnwindSafe(act));
}
