//! Tasks of the runtime.

use std::{
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use tokio::{
    runtime::{EnterGuard, Handle},
    task::{coop, spawn_blocking, yield_now},
};

/// No tokio runtime is running where one was needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRuntime;

/// A tokio runtime with its I/O driver, to spawn on and to open sockets in.
#[derive(Clone, Debug)]
pub(crate) struct Runtime(Handle);

impl Runtime {
    /// The runtime that the caller runs on.
    pub(crate) fn current() -> Result<Self, NoRuntime> {
        Handle::try_current().map(Self).map_err(|_| NoRuntime)
    }

    /// For as long as the result lives, the calling thread can open sockets.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.0.enter()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }
}

/// Does what may block on a thread that the runtime has for that.
pub(crate) async fn unblocked<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}

/// Has the calling task polled again after those that its thread has to run now.
///
/// Where it wakes itself instead, tokio asks an idle thread to help with them, which takes longer than most of them.
pub(crate) fn make_way(cx: &mut Context<'_>) {
    // Its first poll is all that it needs to be remembered.
    let _ = pin!(yield_now()).poll(cx);
}

/// Bytes that count as one of the 128 operations after which tokio has a task make room for others.
///
/// A task that moves data as fast as it can then goes on for 256 KiB, some 100 µs, and not for 128 times
/// whatever it moves at once.
const BYTES_PER_OPERATION: usize = 2 * 1024;

/// Moves some bytes, unless the calling task has had its share; it is polled again then.
///
/// What was moved counts against the share. An operation that has to wait costs nothing.
pub(crate) fn poll_moving<E>(
    cx: &mut Context<'_>,
    operation: impl FnOnce(&mut Context<'_>) -> Poll<Result<usize, E>>,
) -> Poll<Result<usize, E>> {
    let share = ready!(coop::poll_proceed(cx));
    let moved = ready!(operation(cx));
    share.made_progress();
    for _ in 0..moved
        .as_ref()
        .map_or(0, |bytes| bytes / BYTES_PER_OPERATION)
    {
        if !coop::has_budget_remaining() {
            break;
        }
        if let Poll::Ready(share) = coop::poll_proceed(cx) {
            share.made_progress();
        }
    }
    Poll::Ready(moved)
}
