//! The timers of all nodes.

use std::{
    collections::BTreeSet,
    mem,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// When each node has something to do even if nothing happens to it.
pub(crate) struct Timers {
    set: BTreeSet<(Instant, usize)>,
    armed: Vec<Option<Armed>>,
    /// By how much timers are late at most.
    pub(crate) late: Duration,
    random: StdRng,
}

#[derive(Clone, Copy)]
struct Armed {
    due: Instant,
    rings: Instant,
}

impl Timers {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            set: BTreeSet::new(),
            armed: Vec::new(),
            late: Duration::ZERO,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds a node.
    pub(crate) fn add(&mut self) {
        self.armed.push(None);
    }

    pub(crate) fn arm(&mut self, now: Instant, node: usize, due: Option<Instant>) {
        if self.armed[node].map(|armed| armed.due) == due {
            return;
        }
        let armed = due.map(|due| Armed {
            due,
            rings: self.rings(now, due),
        });
        if let Some(before) = mem::replace(&mut self.armed[node], armed) {
            self.set.remove(&(before.rings, node));
        }
        self.set.extend(armed.map(|armed| (armed.rings, node)));
    }

    /// What is due already needs no timer.
    fn rings(&mut self, now: Instant, due: Instant) -> Instant {
        if due <= now || self.late.is_zero() {
            return due;
        }
        due + self.late.mul_f64(self.random.random())
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.set.first().map(|&(rings, _)| rings)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (rings, node) = self.set.first().copied()?;
        if rings > now {
            return None;
        }
        self.set.pop_first();
        self.armed[node] = None;
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_late_by_as_much_as_was_asked_for_at_most_and_never_early() {
        let now = crate::net::clock::now();
        for late in [0, 2].map(Duration::from_millis) {
            let mut timers = Timers::new(1);
            timers.late = late;
            timers.add();
            timers.arm(now, 0, Some(now));
            assert_eq!(timers.first(), Some(now), "no timer is needed");
            let lateness = (1..=1_000).map(|millis| {
                let due = now + Duration::from_millis(millis);
                timers.arm(now, 0, Some(due));
                timers.first().unwrap() - due
            });
            let (least, most) = lateness.fold((late, Duration::ZERO), |(least, most), lateness| {
                (least.min(lateness), most.max(lateness))
            });
            assert!(least <= late / 100 && most >= late.mul_f64(0.99) && most <= late);
            let rings = timers.first().unwrap();
            assert_eq!(timers.pop_due(rings - Duration::from_nanos(1)), None);
            assert_eq!(timers.pop_due(rings), Some(0));
            assert_eq!(timers.first(), None);
        }
    }
}
