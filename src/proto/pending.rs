//! Incoming connections that wait for the application's answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use quinn_proto::Incoming;

/// Names an incoming connection within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IncomingKey(u64);

/// Incoming connections, bounded in number and in time. No TLS work has been done for them.
pub(super) struct PendingIncoming<S> {
    /// Oldest first; all may wait equally long.
    waiting: BTreeMap<IncomingKey, Pending<S>>,
    next_key: u64,
    /// Those that the application has not heard of.
    unreported: VecDeque<IncomingKey>,
    limit: usize,
    patience: Duration,
}

pub(super) struct Pending<S> {
    pub(super) incoming: Incoming,
    pub(super) socket: S,
    deadline: Instant,
}

impl<S> PendingIncoming<S> {
    pub(super) fn new(limit: usize, patience: Duration) -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_key: 0,
            unreported: VecDeque::new(),
            limit,
            patience,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.limit
    }

    pub(super) fn insert(&mut self, now: Instant, incoming: Incoming, socket: S) {
        let key = IncomingKey(self.next_key);
        self.next_key += 1;
        let deadline = now + self.patience;
        self.waiting.insert(
            key,
            Pending {
                incoming,
                socket,
                deadline,
            },
        );
        self.unreported.push_back(key);
    }

    pub(super) fn remove(&mut self, key: IncomingKey) -> Option<Pending<S>> {
        self.waiting.remove(&key)
    }

    /// The next one that the application should hear of.
    pub(super) fn next_unreported(&mut self) -> Option<(IncomingKey, &Pending<S>)> {
        loop {
            let key = self.unreported.pop_front()?;
            if self.waiting.contains_key(&key) {
                return self.waiting.get(&key).map(|pending| (key, pending));
            }
        }
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        let (_, oldest) = self.waiting.first_key_value()?;
        Some(oldest.deadline)
    }

    /// Takes out one that has waited for too long.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Pending<S>> {
        if self.first_deadline()? > now {
            return None;
        }
        self.pop()
    }

    /// Takes out the oldest.
    pub(super) fn pop(&mut self) -> Option<Pending<S>> {
        self.waiting.pop_first().map(|(_, pending)| pending)
    }
}
