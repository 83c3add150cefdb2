//! Datagrams that wait for their connection's turn.

use std::collections::VecDeque;

/// Datagrams that wait for the next turn of one connection.
pub(super) struct Inbox<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    /// Whether the connection has to wait until it has paid a debt.
    in_debt: bool,
}

/// Bytes that wait in all inboxes of a shard.
#[derive(Debug, Default)]
pub(super) struct InboxBytes {
    /// Of connections that are not in debt.
    ready: usize,
    /// Of connections in debt. Sockets are read even while these wait.
    in_debt: usize,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            in_debt: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a datagram that counts for `charge` bytes, unless too many wait already.
    pub(super) fn push(&mut self, datagram: T, charge: usize, all: &mut InboxBytes) -> bool {
        let has_room = if self.in_debt {
            self.bytes + charge <= MAX_DEBTOR_BYTES && all.in_debt + charge <= MAX_DEBTORS_BYTES
        } else {
            self.bytes + charge <= MAX_BYTES
        };
        if has_room {
            if self.waiting.capacity() == 0 {
                // Most turns take one datagram.
                self.waiting.reserve_exact(1);
            }
            self.waiting.push_back((datagram, charge));
            self.bytes += charge;
            *self.share_of(all) += charge;
        }
        has_room
    }

    /// Removes the oldest datagram, and returns it with its charge.
    pub(super) fn pop(&mut self, all: &mut InboxBytes) -> Option<(T, usize)> {
        let (datagram, charge) = self.waiting.pop_front()?;
        self.bytes -= charge;
        *self.share_of(all) -= charge;
        Some((datagram, charge))
    }

    /// Sets whether the connection is in debt. Returns how many datagrams were dropped because of
    /// the lower limit.
    pub(super) fn set_in_debt(&mut self, in_debt: bool, all: &mut InboxBytes) -> u64 {
        *self.share_of(all) -= self.bytes;
        self.in_debt = in_debt;
        let mut dropped = 0;
        while in_debt
            && (self.bytes > MAX_DEBTOR_BYTES || all.in_debt + self.bytes > MAX_DEBTORS_BYTES)
            && let Some((_, charge)) = self.waiting.pop_back()
        {
            self.bytes -= charge;
            dropped += 1;
        }
        *self.share_of(all) += self.bytes;
        dropped
    }

    /// Frees the memory of the queue if it is empty.
    ///
    /// Small queues are freed at once, because most connections are idle most of the time; larger
    /// ones only if `all` is set.
    pub(super) fn shrink(&mut self, all: bool) {
        if self.waiting.is_empty() && (all || self.waiting.capacity() <= FEW_PLACES) {
            self.waiting = VecDeque::new();
        }
    }

    /// Drops all datagrams.
    pub(super) fn clear(&mut self, all: &mut InboxBytes) {
        *self.share_of(all) -= self.bytes;
        self.bytes = 0;
        self.waiting = VecDeque::new();
    }

    fn share_of<'a>(&self, all: &'a mut InboxBytes) -> &'a mut usize {
        if self.in_debt {
            &mut all.in_debt
        } else {
            &mut all.ready
        }
    }
}

impl InboxBytes {
    /// Bytes that wait for connections that are not in debt.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }
}

/// The most bytes that wait for the next turn of one connection: the size of one receive batch,
/// which may all belong to it.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// The most bytes of one connection in debt, which has to wait for each of them.
const MAX_DEBTOR_BYTES: usize = 128 * 1024;

/// The most bytes of all connections in debt.
const MAX_DEBTORS_BYTES: usize = 1024 * 1024;

/// A queue with at most this many places is small. A place takes some 200 bytes.
const FEW_PLACES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: usize = 1024;

    fn fill(inbox: &mut Inbox<()>, all: &mut InboxBytes) -> usize {
        (0..).take_while(|_| inbox.push((), CHARGE, all)).count()
    }

    #[test]
    fn one_inbox_holds_a_batch_and_no_more() {
        let mut all = InboxBytes::default();
        let mut inbox = Inbox::new();
        assert_eq!(fill(&mut inbox, &mut all), MAX_BYTES / CHARGE);
        assert_eq!(all.ready(), MAX_BYTES);
        assert!(inbox.pop(&mut all).is_some());
        assert!(inbox.push((), CHARGE, &mut all));
        assert!(!inbox.push((), CHARGE, &mut all));
        inbox.clear(&mut all);
        assert_eq!(all.ready(), 0);
    }

    #[test]
    fn memory_of_a_few_datagrams_is_freed_at_once_and_that_of_a_batch_on_demand() {
        let mut all = InboxBytes::default();
        let mut inbox = Inbox::new();
        for (count, is_freed) in [(1, true), (FEW_PLACES, true), (FEW_PLACES + 1, false)] {
            for _ in 0..count {
                inbox.push((), CHARGE, &mut all);
            }
            inbox.shrink(true);
            assert_eq!(inbox.waiting.len(), count);
            while inbox.pop(&mut all).is_some() {}
            inbox.shrink(false);
            assert_eq!(inbox.waiting.capacity() == 0, is_freed, "{count}");
        }
        inbox.shrink(true);
        assert_eq!(inbox.waiting.capacity(), 0);
    }

    #[test]
    fn debtors_hold_little_each_and_together_and_keep_nobody_else_waiting() {
        let mut all = InboxBytes::default();
        let most = MAX_DEBTORS_BYTES / MAX_DEBTOR_BYTES;
        let mut inboxes: Vec<_> = (0..2 * most).map(|_| Inbox::new()).collect();
        for (number, inbox) in inboxes.iter_mut().enumerate() {
            fill(inbox, &mut all);
            let dropped = inbox.set_in_debt(true, &mut all);
            let kept = if number < most { MAX_DEBTOR_BYTES } else { 0 };
            assert_eq!(dropped as usize, (MAX_BYTES - kept) / CHARGE);
            assert!(!inbox.push((), CHARGE, &mut all));
        }
        assert_eq!((all.ready(), all.in_debt), (0, MAX_DEBTORS_BYTES));
        // One of them has paid its debt.
        assert_eq!(inboxes[0].set_in_debt(false, &mut all), 0);
        assert_eq!(all.ready(), MAX_DEBTOR_BYTES);
        assert!(inboxes[0].push((), CHARGE, &mut all));
        assert!(inboxes[most].push((), CHARGE, &mut all));
        for mut inbox in inboxes {
            while inbox.pop(&mut all).is_some() {}
        }
        assert_eq!((all.ready(), all.in_debt), (0, 0));
    }
}
