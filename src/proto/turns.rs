//! When a connection wants a turn, and who has to be woken after one.

use std::{mem, task::Waker};

/// What a connection wants of its shard, and of its user.
#[derive(Default)]
pub(super) struct Turns {
    count: u64,
    wanted: Wanted,
    /// Due wakers, in the order in which they became so.
    due: Vec<Waker>,
    /// Wakers that are not needed any more, to be dropped as soon as the connection is unlocked.
    displaced: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    No,
    /// The shard does not know yet.
    Unannounced,
    /// The shard knows.
    Announced,
}

impl Turns {
    /// Asks for a turn: there may be something to send.
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

    /// A turn begins.
    pub(super) fn begin(&mut self) {
        self.count += 1;
    }

    /// The turn does all that was wanted so far.
    pub(super) fn fulfil(&mut self) {
        self.wanted = Wanted::No;
    }

    /// Which turn this is.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Has the waker woken, if there is one, as soon as the connection is unlocked.
    pub(super) fn wake(&mut self, waker: &mut Option<Waker>) {
        self.due.extend(waker.take());
    }

    pub(super) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.due);
    }

    /// Remembers who waits, without cloning the waker of the one who waits already.
    pub(super) fn wait(&mut self, slot: &mut Option<Waker>, waker: &Waker) {
        if !slot
            .as_ref()
            .is_some_and(|waiting| waiting.will_wake(waker))
        {
            self.displaced.extend(slot.replace(waker.clone()));
        }
    }

    /// Nobody waits any more.
    pub(super) fn forget(&mut self, slot: &mut Option<Waker>) {
        self.displaced.extend(slot.take());
    }

    pub(super) fn take_displaced(&mut self) -> Vec<Waker> {
        mem::take(&mut self.displaced)
    }
}
