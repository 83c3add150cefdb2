//! A connection's requests for turns, and its wakers that are due.

use std::{mem, task::Waker};

/// What a connection requests from its shard and from its users.
#[derive(Default)]
pub(super) struct TurnRequests {
    count: u64,
    wanted: Wanted,
    /// Wakers that are due, in order.
    due: Vec<Waker>,
    /// Wakers that are no longer needed, to be dropped when the connection is unlocked.
    displaced: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    No,
    /// The shard has not been told yet.
    Unannounced,
    /// The shard has been told.
    Announced,
}

impl TurnRequests {
    /// Requests a turn, because there may be something to send.
    pub(super) fn want(&mut self) {
        if self.wanted == Wanted::No {
            self.wanted = Wanted::Unannounced;
        }
    }

    /// Whether the shard has to be told; `true` once for each turn.
    pub(super) fn announce(&mut self) -> bool {
        let unannounced = self.wanted == Wanted::Unannounced;
        if unannounced {
            self.wanted = Wanted::Announced;
        }
        unannounced
    }

    /// Begins a turn.
    pub(super) fn begin(&mut self) {
        self.count += 1;
    }

    /// Notes that the turn does everything requested so far.
    pub(super) fn fulfil(&mut self) {
        self.wanted = Wanted::No;
    }

    /// The number of this turn, by which a write tells whether it is the first of its stream in it.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Makes a waker due, if there is one, so that it is woken when the connection is unlocked.
    pub(super) fn make_due(&mut self, waker: &mut Option<Waker>) {
        self.due.extend(waker.take());
    }

    pub(super) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.due);
    }

    /// Stores a waker. It is not cloned if the same task is already waiting.
    pub(super) fn wait(&mut self, slot: &mut Option<Waker>, waker: &Waker) {
        if !slot
            .as_ref()
            .is_some_and(|waiting| waiting.will_wake(waker))
        {
            self.displaced.extend(slot.replace(waker.clone()));
        }
    }

    /// Removes a waker that is no longer needed.
    pub(super) fn forget(&mut self, slot: &mut Option<Waker>) {
        self.displaced.extend(slot.take());
    }

    pub(super) fn take_displaced(&mut self) -> Vec<Waker> {
        mem::take(&mut self.displaced)
    }
}
