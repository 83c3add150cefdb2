//! The memory for data that all connections of a transport share.

use std::{
    cmp, mem,
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
    /// Windows that have grown.
    grown: AtomicU64,
}

/// The share of one connection.
#[derive(Debug)]
pub(super) struct BudgetShare {
    bytes: u64,
    /// What it held of received data when that was last counted exactly, or less since.
    exact: u64,
    kept: u64,
    grown: u64,
    /// The allowance that the connection was last told.
    allowance: u64,
}

/// The share of a connection that has ended, as long as the application holds the connection.
#[derive(Debug)]
pub(super) struct EndedShare {
    share: BudgetShare,
    budget: Budget,
}

impl Default for BudgetShare {
    fn default() -> Self {
        Self {
            bytes: 0,
            exact: 0,
            kept: 0,
            grown: 0,
            allowance: u64::MAX,
        }
    }
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self(Arc::new(Bytes {
            limit,
            used: AtomicU64::new(0),
            grown: AtomicU64::new(0),
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

    /// Whether windows may grow beyond those that connections begin with. What a window once was,
    /// its peer can use later, so growth ends while there is still much left for others: when half
    /// of the memory is used, or promised to those whose windows have grown.
    pub(super) fn lets_windows_grow(&self) -> bool {
        self.has_half() && self.0.grown.load(Ordering::Relaxed) < self.0.limit / 2
    }

    /// Whether half of it is left. What connections keep for good must leave the rest to data.
    pub(super) fn has_half(&self) -> bool {
        self.used() < self.0.limit / 2
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
        change(&budget.0.used, &mut self.bytes, bytes);
    }

    /// Whether received data is to be counted exactly, of which the connection holds this number of
    /// bytes: half of the budget is used, and that is much more than when it was last.
    ///
    /// It may be less, because a datagram counts for each stream of which it has a frame. Such
    /// counts of a few peers would take the rest of the budget from all others.
    pub(super) fn may_overcount(&self, received: u64, budget: &Budget) -> bool {
        let inexact = INEXACT_BYTES.min(budget.allowance() / INEXACT_PART);
        !budget.has_half() && received.saturating_sub(self.exact) > inexact
    }

    /// Notes that this was counted exactly.
    pub(super) fn note_exact(&mut self, received: u64) {
        self.exact = received;
    }

    /// Notes how much received data there is. Returns whether it is more than was counted exactly.
    pub(super) fn has_risen(&mut self, received: u64) -> bool {
        let has_risen = received > self.exact;
        self.exact = self.exact.min(received);
        has_risen
    }

    /// Sets the number of bytes that it keeps whatever the application reads.
    pub(super) fn set_kept(&mut self, bytes: u64, budget: &Budget) {
        change(&budget.0.used, &mut self.kept, bytes);
    }

    /// Sets how many bytes the peer may send, if the connection's window has grown.
    pub(super) fn set_grown(&mut self, bytes: u64, budget: &Budget) {
        change(&budget.0.grown, &mut self.grown, bytes);
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
    /// used up, and the connection holds more than its minimum. What it keeps whatever is read does
    /// not count.
    pub(super) fn is_over(&self, budget: &Budget) -> bool {
        self.bytes > LEAST && budget.is_used_up()
    }
}

impl EndedShare {
    pub(super) fn new(mut share: BudgetShare, budget: Budget) -> Self {
        // The peer sends nothing more.
        share.set_grown(0, &budget);
        Self { share, budget }
    }

    /// Sets what the connection holds, and what it keeps whatever the application reads.
    pub(super) fn set(&mut self, bytes: u64, kept: u64) {
        self.share.set(bytes, &self.budget);
        self.share.set_kept(kept, &self.budget);
    }
}

impl Drop for EndedShare {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

/// Changes a part of a total.
fn change(total: &AtomicU64, part: &mut u64, bytes: u64) {
    let before = mem::replace(part, bytes);
    match bytes.cmp(&before) {
        cmp::Ordering::Less => {
            total.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        cmp::Ordering::Equal => {}
        cmp::Ordering::Greater => {
            total.fetch_add(bytes - before, Ordering::Relaxed);
        }
    }
}

/// The part of the rest that one connection may hold: one in four.
const PART: u64 = 4;

/// By how much more a connection may hold than when it was last counted exactly, before it is
/// counted so again: this, or an eighth of its allowance if that is less. To count takes a
/// look at each of its streams.
const INEXACT_BYTES: u64 = 1024 * 1024;
const INEXACT_PART: u64 = 8;

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
    fn windows_grow_until_half_is_used_or_promised() {
        let budget = Budget::new(LIMIT);
        let mut share = BudgetShare::default();
        share.set(LIMIT / 2 - 1, &budget);
        assert!(budget.lets_windows_grow());
        share.set(LIMIT / 2, &budget);
        assert!(!budget.lets_windows_grow());
        share.set(0, &budget);
        share.set_grown(LIMIT / 2, &budget);
        assert!(!budget.lets_windows_grow());
        share.set_grown(0, &budget);
        assert!(budget.lets_windows_grow());
    }

    #[test]
    fn budget_is_used_up_when_nothing_is_left() {
        let budget = Budget::new(LIMIT);
        let mut share = BudgetShare::default();
        share.set(LIMIT - 1, &budget);
        assert!(!share.is_over(&budget));
        share.set(LIMIT, &budget);
        assert!(share.is_over(&budget));
    }

    #[test]
    fn what_is_kept_uses_the_budget_but_is_no_reason_to_drop_data() {
        let budget = Budget::new(LIMIT);
        let mut keeping = BudgetShare::default();
        keeping.set_kept(LIMIT / 2 - 1, &budget);
        assert!(budget.has_half());
        keeping.set_kept(LIMIT / 2, &budget);
        assert!(!budget.has_half());
        keeping.set_kept(LIMIT, &budget);
        assert!(budget.is_used_up());
        keeping.set(LEAST, &budget);
        assert!(!keeping.is_over(&budget));
        keeping.set(LEAST + 1, &budget);
        assert!(keeping.is_over(&budget));
    }

    #[test]
    fn share_of_an_ended_connection_is_given_back_when_it_is_dropped() {
        let budget = Budget::new(LIMIT);
        let mut share = BudgetShare::default();
        share.set(2, &budget);
        share.set_kept(1, &budget);
        share.set_grown(LIMIT, &budget);
        let mut ended = EndedShare::new(share, budget.clone());
        assert!(budget.lets_windows_grow());
        assert_eq!(budget.used(), 3);
        ended.set(1, 1);
        assert_eq!(budget.used(), 2);
        drop(ended);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn counts_are_inexact_while_half_is_used_and_they_have_grown() {
        let budget = Budget::new(LIMIT);
        let mut others = BudgetShare::default();
        let mut share = BudgetShare::default();
        others.set(LIMIT / 2 - 1, &budget);
        assert!(!share.may_overcount(LIMIT, &budget), "half is left");
        others.set(LIMIT / 2, &budget);
        let inexact = LIMIT / 2 / PART / INEXACT_PART;
        assert_eq!(inexact, INEXACT_BYTES);
        assert!(!share.may_overcount(inexact, &budget));
        assert!(share.may_overcount(inexact + 1, &budget));
        share.note_exact(inexact + 1);
        assert!(!share.may_overcount(2 * inexact + 1, &budget));
        assert!(share.may_overcount(2 * inexact + 2, &budget));
        // What was given up has to be counted again.
        assert!(!share.has_risen(0));
        assert!(share.has_risen(1));
        assert!(share.may_overcount(inexact + 1, &budget));
        // The less is left, the more exactly.
        others.set(LIMIT, &budget);
        assert!(!share.may_overcount(LEAST / INEXACT_PART, &budget));
        assert!(share.may_overcount(LEAST / INEXACT_PART + 1, &budget));
    }

    #[test]
    fn change_of_more_than_an_eighth_is_news_unless_there_is_plenty() {
        let mut share = BudgetShare::default();
        assert!(!share.is_news(PLENTY));
        assert!(share.is_news(8_000));
        assert!(!share.is_news(8_000));
        assert!(!share.is_news(7_112), "888 of 889");
        assert!(share.is_news(7_111), "889 of 888");
        assert!(!share.is_news(8_126), "1,015 of 1,015");
        assert!(share.is_news(8_127), "1,016 of 1,015");
        assert!(share.is_news(2 * PLENTY));
        assert!(!share.is_news(u64::MAX));
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
