//! One timer for many deadlines.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep_until};

/// Resolves after this much time.
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A timer for the earliest of its owner's deadlines.
///
/// When the deadline moves to a later time, the armed one stays: it fires early, and the owner
/// finds that nothing is due. That is cheaper than moving a timer for every packet.
#[derive(Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Timer {
    /// Ready at `deadline`. Before, it wakes the task at that time or earlier.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else {
            // A timer that is still armed may wake the task once for nothing.
            return Poll::Pending;
        };
        loop {
            let armed = match self.armed {
                Some(armed) if armed <= deadline => armed,
                _ => self.arm(deadline),
            };
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
            }
            self.armed = None;
            if armed >= deadline {
                return Poll::Ready(());
            }
        }
    }

    fn arm(&mut self, deadline: Instant) -> Instant {
        self.armed = Some(deadline);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline.into()),
            None => self.sleep = Some(Box::pin(sleep_until(deadline.into()))),
        }
        deadline
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

    use super::*;
    use crate::{net::clock, simulation::tasks::WakeFlag};

    #[tokio::test(start_paused = true)]
    async fn timer_is_not_moved_to_a_later_deadline_and_is_ready_only_then() {
        const PAUSE: Duration = Duration::from_secs(1);

        let task = Arc::<WakeFlag>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        let is_woken = || task.take();
        let mut timer = Timer::default();
        let first = clock::now() + PAUSE;
        let later = first + PAUSE;
        assert!(timer.poll(&mut cx, Some(first)).is_pending());
        assert!(timer.poll(&mut cx, Some(later)).is_pending());
        tokio::time::advance(PAUSE).await;
        assert!(is_woken(), "by the timer that is armed");
        assert!(timer.poll(&mut cx, Some(later)).is_pending());
        tokio::time::advance(PAUSE).await;
        assert!(is_woken());
        assert!(timer.poll(&mut cx, Some(later)).is_ready());
    }
}
