//! The statistics of one shard: which connections there are, which IDs they have, what was routed.
//!
//! Routing does not use any of it (see [`route`](super::route)), and quinn-proto maps IDs to
//! connections, so a stale entry cannot lose a packet. The registry answers queries, and it shows
//! leaks: every figure marked *now* is zero once all connections are drained.

use std::{collections::HashMap, net::SocketAddr};

use libp2p_identity::PeerId;
use quinn_proto::ConnectionHandle;

use super::{connection::SharedConnection, spare};
pub(super) use crate::sync::lock;
use crate::{
    address::Host,
    stats::{RegistryStats, SEQUENCE_BUCKETS, TransportStats},
};

/// The statistics of one shard.
#[derive(Default)]
pub(crate) struct Registry {
    connections: HashMap<ConnectionHandle, Entry>,
    remotes: HashMap<SocketAddr, usize>,
    peers: HashMap<PeerId, usize>,
    unfinished: Unfinished,
    totals: Totals,
}

/// Incoming connections whose handshake is not complete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unfinished {
    /// Those that wait for the application's answer.
    pub(super) pending: usize,
    /// Bytes of datagrams held by pending connections.
    pub(super) pending_bytes: usize,
    /// The number of networks from which they come.
    pub(super) sources: usize,
}

/// Totals. A shard adds up its own and posts the sum once a round; the fields marked *now* stay
/// zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) registry: RegistryStats,
    pub(crate) transport: TransportStats,
}

struct Entry {
    /// `None` once the connection has ended and only its IDs are left.
    connection: Option<SharedConnection>,
    local_addr: SocketAddr,
    remote_addr: SocketAddr,
    peer_id: Option<PeerId>,
    has_initial_id: bool,
    ids: Ids,
}

/// The connection IDs that were issued to one connection.
///
/// quinn-proto issues sequence number 0 with the handshake, then a batch when the handshake is
/// complete, and then one new ID for each that the peer retires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    next_sequence: u64,
    retired: u64,
    has_batch: bool,
}

impl Registry {
    /// Adds a connection. It already has one ID, that of the handshake.
    pub(super) fn insert(
        &mut self,
        handle: ConnectionHandle,
        connection: SharedConnection,
        local_addr: SocketAddr,
        remote_addr: SocketAddr,
        has_initial_id: bool,
    ) {
        *self.remotes.entry(remote_addr).or_default() += 1;
        self.totals.registry.issued_ids += 1;
        self.totals.registry.issued_sequence_numbers[0] += 1;
        self.connections.insert(
            handle,
            Entry {
                connection: Some(connection),
                local_addr,
                remote_addr,
                peer_id: None,
                has_initial_id,
                ids: Ids {
                    next_sequence: 1,
                    retired: 0,
                    has_batch: false,
                },
            },
        );
    }

    /// Notes that `count` more IDs were issued to a connection.
    pub(super) fn issued(&mut self, handle: ConnectionHandle, count: u64) {
        let Some(entry) = self.connections.get_mut(&handle) else {
            return;
        };
        if count == 0 {
            return;
        }
        let ids = &mut entry.ids;
        let totals = &mut self.totals.registry;
        for sequence in ids.next_sequence..ids.next_sequence + count {
            totals.issued_sequence_numbers[sequence_bucket(sequence)] += 1;
        }
        ids.next_sequence += count;
        totals.issued_ids += count;
        if ids.has_batch {
            ids.retired += count;
            totals.retired_ids += count;
        }
        ids.has_batch = true;
    }

    pub(super) fn authenticated(&mut self, handle: ConnectionHandle, peer_id: PeerId) {
        let Some(entry) = self.connections.get_mut(&handle) else {
            return;
        };
        entry.peer_id = Some(peer_id);
        *self.peers.entry(peer_id).or_default() += 1;
        self.totals.transport.handshakes_completed += 1;
    }

    pub(super) fn migrated(
        &mut self,
        handle: ConnectionHandle,
        local_addr: SocketAddr,
        remote_addr: SocketAddr,
    ) {
        let Some(entry) = self.connections.get_mut(&handle) else {
            return;
        };
        release(&mut self.remotes, &entry.remote_addr);
        *self.remotes.entry(remote_addr).or_default() += 1;
        entry.remote_addr = remote_addr;
        entry.local_addr = local_addr;
    }

    /// Notes the end of a connection. Its IDs stay for a while, so that late packets can be
    /// attributed.
    pub(super) fn end(&mut self, handle: ConnectionHandle) {
        let Some(entry) = self.connections.get_mut(&handle) else {
            return;
        };
        if entry.connection.take().is_none() {
            return;
        }
        release(&mut self.remotes, &entry.remote_addr);
        match entry.peer_id {
            Some(peer_id) => release(&mut self.peers, &peer_id),
            None => self.totals.transport.handshakes_failed += 1,
        }
    }

    /// Whether there are connections that have not ended.
    pub(crate) fn has_connections(&self) -> bool {
        !self.remotes.is_empty()
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, handle: ConnectionHandle) {
        self.end(handle);
        if let Some(entry) = self.connections.remove(&handle) {
            self.totals.registry.retired_ids += entry.ids.active();
        }
        if let Some(room) = spare::room_for(self.connections.len(), self.connections.capacity()) {
            self.connections.shrink_to(room);
            self.remotes.shrink_to(room);
            self.peers.shrink_to(room);
        }
    }

    /// The number of entries for which memory is allocated.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.connections.capacity() + self.remotes.capacity() + self.peers.capacity()
    }

    pub(super) fn set_unfinished(&mut self, unfinished: Unfinished) {
        self.unfinished = unfinished;
    }

    pub(super) fn post(&mut self, totals: &Totals) {
        self.totals.registry += &totals.registry;
        self.totals.transport += totals.transport;
    }

    /// All connections that have not ended, with the addresses from which they send.
    pub(crate) fn connections(&self) -> Vec<(SharedConnection, SocketAddr)> {
        self.connections
            .values()
            .filter_map(|entry| Some((entry.connection.clone()?, entry.local_addr)))
            .collect()
    }

    /// Whether there is an authenticated connection with this host over the socket at this port.
    pub(crate) fn has_peer_at(&self, host: Host, local_port: u16) -> bool {
        self.connections.values().any(|entry| {
            entry.connection.is_some()
                && entry.peer_id.is_some()
                && entry.local_addr.port() == local_port
                && Host::of(entry.remote_addr.ip()) == host
        })
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.peers.keys()
    }

    pub(crate) fn remote_addrs(&self) -> impl Iterator<Item = &SocketAddr> {
        self.remotes.keys()
    }

    /// Adds this shard's figures to those of other shards, except peers and addresses, because
    /// several shards may have the same ones.
    pub(crate) fn add_to(&self, registry: &mut RegistryStats, transport: &mut TransportStats) {
        *registry += &self.totals.registry;
        *transport += self.totals.transport;
        let entries = || self.connections.values();
        registry.active_ids += entries().map(|entry| entry.ids.active()).sum::<u64>();
        let connections = || entries().filter(|entry| entry.connection.is_some());
        registry.connections += connections().count();
        registry.closing += self.connections.len() - connections().count();
        registry.handshaking += connections()
            .filter(|entry| entry.peer_id.is_none())
            .count();
        let Unfinished {
            pending,
            pending_bytes,
            sources,
        } = self.unfinished;
        registry.handshake_sources += sources;
        registry.initial_ids += pending + entries().filter(|entry| entry.has_initial_id).count();
        registry.pending_incoming += pending;
        registry.pending_incoming_bytes += pending_bytes;
    }

    /// Resets the totals; figures marked *now* stay.
    pub(crate) fn reset(&mut self) {
        self.totals = Totals::default();
    }
}

impl Ids {
    fn active(self) -> u64 {
        self.next_sequence - self.retired
    }
}

/// Removes one use of `key`, and the key with its last use.
fn release<K: Eq + std::hash::Hash>(uses: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = uses.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            uses.remove(key);
        }
    }
}

/// 0, 1, 2–3, 4–7, …
fn sequence_bucket(sequence: u64) -> usize {
    let bits = (u64::BITS - sequence.leading_zeros()) as usize;
    bits.min(SEQUENCE_BUCKETS - 1)
}
