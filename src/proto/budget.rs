//! Memory for data that all connections of a transport share.

use std::{
    cmp,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How much all connections of a transport may hold: received and not read, or written and not
/// acknowledged. Shards share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Bytes>);

#[derive(Debug)]
struct Bytes {
    limit: u64,
    used: AtomicU64,
}

/// What one connection has of it.
#[derive(Debug)]
pub(super) struct BudgetShare {
    bytes: u64,
    /// What it was told last that it may hold.
    allowance: u64,
}

impl Default for BudgetShare {
    fn default() -> Self {
        Self {
            bytes: 0,
            allowance: u64::MAX,
        }
    }
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self(Arc::new(Bytes {
            limit,
            used: AtomicU64::new(0),
        }))
    }

    pub(crate) fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// How much any one connection may hold now in each direction: a quarter of what is left, as its
    /// windows allow.
    ///
    /// So windows shrink as the budget is used up, those of the connections that hold most first, and
    /// whoever comes later still finds something.
    pub(super) fn allowance(&self) -> u64 {
        cmp::max(self.0.limit.saturating_sub(self.used()) / PART, LEAST)
    }

    /// Whether nothing is left. Peers may still have credit, from the time before their windows
    /// shrank.
    pub(super) fn is_used_up(&self) -> bool {
        self.used() >= self.0.limit
    }
}

impl BudgetShare {
    /// The connection holds so many bytes now.
    pub(super) fn set(&mut self, bytes: u64, budget: &Budget) {
        match bytes.cmp(&self.bytes) {
            cmp::Ordering::Less => {
                let less = self.bytes - bytes;
                budget.0.used.fetch_sub(less, Ordering::Relaxed);
            }
            cmp::Ordering::Equal => return,
            cmp::Ordering::Greater => {
                let more = bytes - self.bytes;
                budget.0.used.fetch_add(more, Ordering::Relaxed);
            }
        }
        self.bytes = bytes;
    }

    /// Whether the connection has to be told what it may hold now. Where there is more than any window
    /// takes it is not, nor of small differences.
    pub(super) fn is_news(&mut self, allowance: u64) -> bool {
        let allowance = allowance.min(PLENTY);
        let is_news = self.allowance.min(PLENTY).abs_diff(allowance) > allowance / 8;
        if is_news {
            self.allowance = allowance;
        }
        is_news
    }

    /// Whether what the peer sends is dropped until something of it is read: others hold no more than
    /// that, and nothing is left.
    pub(super) fn is_over(&self, budget: &Budget) -> bool {
        self.bytes > LEAST && budget.is_used_up()
    }
}

/// One of so many parts of what is left is what one connection may hold.
const PART: u64 = 4;

/// No window is larger, unless somebody has set it so.
const PLENTY: u64 = 1 << 40;

/// What each connection may hold in each direction whatever the others do: enough for requests and
/// answers, and for a transfer to go on.
const LEAST: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 64 * 1024 * 1024;

    #[test]
    fn whoever_takes_all_it_may_leaves_something_to_others() {
        let budget = Budget::new(LIMIT);
        let mut greedy: Vec<_> = (0..8).map(|_| BudgetShare::default()).collect();
        for _ in 0..100 {
            for share in &mut greedy {
                let held = share.bytes;
                share.set(cmp::max(held, budget.allowance()), &budget);
            }
        }
        assert!(budget.used() <= LIMIT, "{}", budget.used());
        assert!(!budget.is_used_up());
        assert!(budget.allowance() > LEAST, "{}", budget.allowance());
        for share in &mut greedy {
            share.set(0, &budget);
        }
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.allowance(), LIMIT / PART);
    }

    #[test]
    fn crowd_takes_the_budget_and_the_least_for_each() {
        let budget = Budget::new(LIMIT);
        let mut crowd: Vec<_> = (0..10_000).map(|_| BudgetShare::default()).collect();
        for share in &mut crowd {
            share.set(budget.allowance(), &budget);
        }
        assert!(budget.used() <= LIMIT + 10_000 * LEAST);
        assert!(budget.is_used_up());
        assert!(!crowd[9_999].is_over(&budget));
        assert!(crowd[0].is_over(&budget));
    }
}
