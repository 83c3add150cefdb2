//! The memory for data that all connections of a transport share.

use std::{
    cmp,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The limit on data that all connections of a transport hold: received and not read, or written
/// and not acknowledged. Shards share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Bytes>);

#[derive(Debug)]
struct Bytes {
    limit: u64,
    used: AtomicU64,
}

/// The share of one connection.
#[derive(Debug)]
pub(super) struct BudgetShare {
    bytes: u64,
    /// The allowance that the connection was last told.
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

    /// How much any connection may now hold in each direction: a quarter of the rest.
    ///
    /// So windows shrink as the budget is used up, first those of the connections that hold most,
    /// and later connections still find some memory.
    pub(super) fn allowance(&self) -> u64 {
        cmp::max(self.0.limit.saturating_sub(self.used()) / PART, LEAST)
    }

    /// Whether the budget is used up. It may even be exceeded, because peers still have credit from
    /// before their windows shrank.
    pub(super) fn is_used_up(&self) -> bool {
        self.used() >= self.0.limit
    }
}

impl BudgetShare {
    /// Sets the number of bytes that the connection holds.
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

    /// Whether the connection has to be told its new allowance. Small changes, and changes above
    /// the largest window, do not matter.
    pub(super) fn is_news(&mut self, allowance: u64) -> bool {
        let allowance = allowance.min(PLENTY);
        let is_news = self.allowance.min(PLENTY).abs_diff(allowance) > allowance / 8;
        if is_news {
            self.allowance = allowance;
        }
        is_news
    }

    /// Whether to drop further data of the peer until the application has read some: the budget is
    /// used up, and the connection holds more than its minimum.
    pub(super) fn is_over(&self, budget: &Budget) -> bool {
        self.bytes > LEAST && budget.is_used_up()
    }
}

/// The part of the rest that one connection may hold: one in four.
const PART: u64 = 4;

/// Larger than any window, unless a user has configured it so.
const PLENTY: u64 = 1 << 40;

/// What each connection may hold in each direction in any case: enough for requests and answers,
/// and for a transfer to make progress.
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
