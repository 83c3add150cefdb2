//! Incoming connections that wait for the application's answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionId, Incoming};

use super::{admission::Admission, sources::Source};

/// Identifies an incoming connection within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IncomingKey(u64);

/// Limits of one shard on incoming connections that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingLimits {
    pub(crate) connections: usize,
    /// The most bytes of all of them.
    pub(crate) bytes: usize,
    /// The most bytes of each.
    pub(crate) bytes_each: usize,
    pub(crate) patience: Duration,
}

/// Incoming connections, bounded in number, memory and time. No TLS work has been done for them.
pub(super) struct PendingIncoming<S> {
    /// Oldest first. All have the same deadline after their arrival.
    waiting: BTreeMap<IncomingKey, Pending<S>>,
    /// By the destination connection ID of their first packet. Clients choose it, hence the
    /// standard hasher.
    by_initial_id: HashMap<ConnectionId, IncomingKey>,
    next_key: u64,
    /// Those that were not reported to the application yet.
    unreported: VecDeque<IncomingKey>,
    bytes: usize,
    limits: PendingLimits,
}

/// The first packet of an incoming connection.
pub(in crate::proto) struct FirstPacket<S> {
    pub(in crate::proto) incoming: Incoming,
    /// The destination connection ID of the packet.
    pub(in crate::proto) initial_id: ConnectionId,
    /// Length of its datagram in bytes.
    pub(in crate::proto) len: usize,
    /// Whether the datagram was marked for ECN.
    pub(in crate::proto) is_marked: bool,
    pub(in crate::proto) socket: S,
}

pub(in crate::proto) struct Pending<S> {
    pub(in crate::proto) incoming: Incoming,
    pub(in crate::proto) socket: S,
    /// Whether its first datagram was marked for ECN.
    pub(in crate::proto) is_marked: bool,
    pub(in crate::proto) admission: Admission,
    /// When its handshake must be complete; it may wait until then.
    pub(in crate::proto) deadline: Instant,
    pub(in crate::proto) source: Source,
    /// Bytes of the datagrams that it holds.
    pub(in crate::proto) bytes: usize,
    initial_id: ConnectionId,
}

impl<S> PendingIncoming<S> {
    pub(super) fn new(limits: PendingLimits) -> Self {
        Self {
            waiting: BTreeMap::new(),
            by_initial_id: HashMap::new(),
            next_key: 0,
            unreported: VecDeque::new(),
            bytes: 0,
            limits,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the datagrams that all of them hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.limits.connections
    }

    /// Whether there is memory for a first datagram of this many bytes.
    ///
    /// Senders that have not proven their address get at most half of the memory, because forged
    /// addresses cost nothing.
    pub(super) fn has_room(&self, bytes: usize, is_proven: bool) -> bool {
        !self.is_full() && bytes <= self.limits.bytes_each && self.fits(bytes, is_proven)
    }

    pub(super) fn insert(
        &mut self,
        now: Instant,
        first: FirstPacket<S>,
        admission: Admission,
        source: Source,
    ) {
        let FirstPacket {
            incoming,
            initial_id,
            len: bytes,
            is_marked,
            socket,
        } = first;
        let key = IncomingKey(self.next_key);
        self.next_key += 1;
        self.bytes += bytes;
        self.by_initial_id.insert(initial_id, key);
        self.waiting.insert(
            key,
            Pending {
                incoming,
                socket,
                is_marked,
                admission,
                deadline: now + self.limits.patience,
                source,
                bytes,
                initial_id,
            },
        );
        self.unreported.push_back(key);
    }

    /// The connection to which packets with this ID belong.
    pub(super) fn find(&self, initial_id: &ConnectionId) -> Option<IncomingKey> {
        self.by_initial_id.get(initial_id).copied()
    }

    /// Whether a connection may hold this many more bytes.
    pub(super) fn may_grow(&self, key: IncomingKey, bytes: usize) -> bool {
        self.waiting.get(&key).is_some_and(|pending| {
            let is_proven = pending.source.is_proven;
            pending.bytes + bytes <= self.limits.bytes_each && self.fits(bytes, is_proven)
        })
    }

    /// Notes that a connection holds this many more bytes. Returns its source.
    pub(super) fn grow(&mut self, key: IncomingKey, bytes: usize) -> Option<Source> {
        let pending = self.waiting.get_mut(&key)?;
        pending.bytes += bytes;
        self.bytes += bytes;
        Some(pending.source)
    }

    pub(super) fn source(&self, key: IncomingKey) -> Option<Source> {
        self.waiting.get(&key).map(|pending| pending.source)
    }

    /// The address from which its first packet came.
    pub(super) fn remote_addr(&self, key: IncomingKey) -> Option<SocketAddr> {
        let pending = self.waiting.get(&key)?;
        Some(pending.incoming.remote_address())
    }

    pub(super) fn remove(&mut self, key: IncomingKey) -> Option<Pending<S>> {
        let pending = self.waiting.remove(&key)?;
        self.by_initial_id.remove(&pending.initial_id);
        self.bytes -= pending.bytes;
        debug_assert_eq!(self.by_initial_id.len(), self.waiting.len());
        Some(pending)
    }

    /// Takes the next connection to report to the application.
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

    /// Removes a connection whose time is over.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Pending<S>> {
        if self.first_deadline()? > now {
            return None;
        }
        self.pop()
    }

    /// Removes the oldest connection.
    pub(super) fn pop(&mut self) -> Option<Pending<S>> {
        let (&oldest, _) = self.waiting.first_key_value()?;
        self.remove(oldest)
    }

    fn fits(&self, bytes: usize, is_proven: bool) -> bool {
        let limit = if is_proven {
            self.limits.bytes
        } else {
            self.limits.bytes / 2
        };
        self.bytes + bytes <= limit
    }
}
