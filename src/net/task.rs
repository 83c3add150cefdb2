//! Tasks of the tokio runtime.

use std::{
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use tokio::{
    runtime::{EnterGuard, Handle, RuntimeFlavor},
    task::{coop, spawn_blocking, try_id, yield_now},
};

/// No tokio runtime is running although one is required.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRuntime;

/// A tokio runtime with its I/O driver, to spawn tasks and to open sockets. Functions that open
/// sockets take a reference to it to show that the caller runs in a runtime.
#[derive(Clone, Debug)]
pub(crate) struct Runtime(Handle);

impl Runtime {
    /// The runtime in which the caller runs.
    pub(crate) fn current() -> Result<Self, NoRuntime> {
        Handle::try_current().map(Self).map_err(|_| NoRuntime)
    }

    /// Whether tasks run while the calling thread is blocked: on other threads, and none of them
    /// would have been the next on this one.
    pub(crate) fn runs_beside_this_thread(&self) -> bool {
        self.0.runtime_flavor() == RuntimeFlavor::MultiThread && try_id().is_none()
    }

    /// Lets the calling thread open sockets until the result is dropped.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.0.enter()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }
}

/// Runs blocking work on the runtime's thread pool for it.
pub(crate) async fn unblocked<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}

/// Polls the calling task again after the tasks that its thread has to run now.
///
/// If a task wakes itself instead, tokio wakes an idle thread to help, which takes longer than most
/// of those tasks.
pub(crate) fn wake_after_others(cx: &mut Context<'_>) {
    // The first poll is enough to defer the task.
    let _ = pin!(yield_now()).poll(cx);
}

/// Bytes that count as one of the 128 operations after which tokio makes a task yield.
///
/// So a task that moves data as fast as it can yields after 256 KiB, some 100 µs, and not after 128
/// operations of any size.
const BYTES_PER_OPERATION: usize = 2 * 1024;

/// Runs an operation that moves bytes, unless the calling task has used up its budget; then the
/// task yields and is polled again.
///
/// The bytes moved count against the budget. An operation that is pending costs nothing.
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

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        mem,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use tokio::{spawn, time::timeout};

    use super::*;

    #[tokio::test]
    async fn task_is_polled_again_when_the_other_tasks_have_run() {
        let has_run = Arc::new(AtomicBool::new(false));
        let mut is_first = true;
        let task = spawn({
            let has_run = Arc::clone(&has_run);
            poll_fn(move |cx| {
                if mem::take(&mut is_first) {
                    wake_after_others(cx);
                    return Poll::Pending;
                }
                Poll::Ready(has_run.load(Ordering::Relaxed))
            })
        });
        spawn(async move { has_run.store(true, Ordering::Relaxed) });
        let had_run = timeout(Duration::from_secs(20), task).await;
        assert!(matches!(had_run, Ok(Ok(true))));
    }
}
