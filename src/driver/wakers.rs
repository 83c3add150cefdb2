//! Wakes tasks. Wakers are application code, so a panic in one must not affect other tasks.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

use futures::channel::oneshot;

/// Wakes one task after another. A panic in a waker reaches its thread's panic hook, and the next
/// task is woken all the same.
pub(super) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain(|| waker.wake());
    }
}

/// The sender of an answer. Dropping it tells the receiver that there will be none.
pub(super) struct Reply<T>(Option<oneshot::Sender<T>>);

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Sends the answer; it is dropped if no caller waits for it any more.
    pub(super) fn send(mut self, answer: T) {
        if let Some(sender) = self.0.take() {
            contain(|| drop(sender.send(answer)));
        }
    }

    /// Whether no caller waits for the answer any more.
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
    // The code inside changes none of our own state, so a panic leaves nothing half done.
    let _ = catch_unwind(AssertUnwindSafe(act));
}
