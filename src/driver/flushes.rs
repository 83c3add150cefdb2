//! Waiting until a driver has sent what its connections had to send.

use std::{sync::PoisonError, time::Instant};

use crate::{
    net::clock,
    sync::{Condvar, Mutex, lock},
};

/// The flushes that threads wait for. Successive drivers of a mailbox share them.
#[derive(Default)]
pub(super) struct Flushes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asked: Flush,
    done: Flush,
    /// Whether the driver has stopped, and no other one has begun.
    is_over: bool,
}

/// A flush. It is done when a round of the driver that began after it was asked for has left
/// nothing to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flush(u64);

impl Flushes {
    /// Counts another flush.
    pub(super) fn ask(&self) -> Flush {
        let mut state = lock(&self.state);
        state.asked.0 += 1;
        state.asked
    }

    /// Notes that this flush and those before it are done.
    pub(super) fn note_done(&self, flush: Flush) {
        let mut state = lock(&self.state);
        state.done = state.done.max(flush);
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that the driver has sent its last datagram.
    pub(super) fn note_over(&self) {
        lock(&self.state).is_over = true;
        self.changed.notify_all();
    }

    /// Whether the driver has sent its last datagram.
    pub(super) fn are_over(&self) -> bool {
        lock(&self.state).is_over
    }

    /// For the next driver, which owes nothing to those who asked earlier ones.
    pub(super) fn begin_again(&self) {
        let mut state = lock(&self.state);
        state.done = state.asked;
        state.is_over = false;
    }

    /// Blocks the thread until the flush is done or the driver has stopped, but not beyond `until`.
    /// Returns `false` if the time did not suffice.
    pub(super) fn wait(&self, flush: Flush, until: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.is_over || state.done >= flush {
                return true;
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            let (changed, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = changed;
            if timeout.timed_out() {
                // Not compared with `until`: a clock that a test has paused stands still.
                return state.is_over || state.done >= flush;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn flush_is_done_with_those_that_were_asked_for_later() {
        let (flushes, now) = (Flushes::default(), clock::now());
        let [first, second] = [(); 2].map(|()| flushes.ask());
        assert!(!flushes.wait(first, now));
        assert!(!flushes.wait(first, now + Duration::from_millis(1)));
        flushes.note_done(first);
        assert!(flushes.wait(first, now));
        assert!(!flushes.wait(second, now));
        for flush in [second, first] {
            flushes.note_done(flush);
            assert!(flushes.wait(second, now));
        }
    }

    #[test]
    fn nobody_waits_for_a_driver_that_is_over_and_the_next_one_owes_what_it_is_asked_for() {
        let (flushes, now) = (Flushes::default(), clock::now());
        let earlier = flushes.ask();
        flushes.note_over();
        assert!(flushes.wait(earlier, now));
        flushes.begin_again();
        assert!(flushes.wait(earlier, now));
        assert!(!flushes.wait(flushes.ask(), now));
    }

    /// The waiting thread gets the lock only after its time is over, and then has to see that the
    /// flush is done.
    #[test]
    fn flush_that_is_done_at_the_last_moment_is_done() {
        let flushes = Flushes::default();
        let flush = flushes.ask();
        let until = clock::now() + Duration::from_millis(40);
        thread::scope(|scope| {
            let waits = scope.spawn(|| flushes.wait(flush, until));
            thread::sleep(Duration::from_millis(20));
            let mut state = lock(&flushes.state);
            thread::sleep(Duration::from_millis(40));
            state.done = flush;
            drop(state);
            assert!(waits.join().unwrap());
        });
    }
}
