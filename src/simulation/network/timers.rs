//! The timers of all nodes.

use std::{collections::BTreeSet, mem, time::Instant};

/// When each node has something to do even if nothing happens to it.
#[derive(Default)]
pub(crate) struct Timers {
    set: BTreeSet<(Instant, usize)>,
    armed: Vec<Option<Instant>>,
}

impl Timers {
    /// Adds a node.
    pub(crate) fn add(&mut self) {
        self.armed.push(None);
    }

    pub(crate) fn arm(&mut self, node: usize, due: Option<Instant>) {
        if self.armed[node] == due {
            return;
        }
        if let Some(before) = mem::replace(&mut self.armed[node], due) {
            self.set.remove(&(before, node));
        }
        self.set.extend(due.map(|due| (due, node)));
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.set.first().map(|&(due, _)| due)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (due, node) = self.set.first().copied()?;
        if due > now {
            return None;
        }
        self.set.pop_first();
        self.armed[node] = None;
        Some(node)
    }
}
