//! The statistics of one shard: which connections there are, which IDs they have, what was routed.
//!
//! Routing does not use any of it (see [`router`](super::router)), and quinn-proto maps IDs to
//! connections, so a stale entry cannot lose a packet. The registry answers queries, and it shows
//! leaks: every figure marked *now* is zero once all connections are drained.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use libp2p_identity::PeerId;
use quinn_proto::ConnectionHandle;

use super::connection::{Connection, SharedConnection};
pub(super) use crate::sync::lock;
use crate::{
    address::Host,
    error::ConnectionError,
    spare,
    stats::{PacketStats, RegistryStats, SEQUENCE_BUCKETS, TransportStats},
    sync::Mutex,
};

/// The statistics of one shard.
#[derive(Default)]
pub(crate) struct Registry {
    connections: HashMap<ConnectionHandle, Entry>,
    remotes: HashMap<SocketAddr, usize>,
    peers: HashMap<PeerId, usize>,
    unfinished: Unfinished,
    /// The number of connections that have begun.
    begun: u64,
    totals: Totals,
    /// Of connections that have ended.
    packets: PacketStats,
}

/// Incoming connections whose handshake is not complete.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unfinished {
    /// Those that wait for the application's answer.
    pub(crate) pending: usize,
    /// Bytes of datagrams held by pending connections.
    pub(crate) pending_bytes: usize,
    /// The number of sources from which they come.
    pub(crate) sources: usize,
}

/// Totals. A shard adds up its own and posts the sum once a round; the fields marked *now* stay
/// zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) registry: RegistryStats,
    pub(crate) transport: TransportStats,
}

/// Adds up the totals of all shards of a transport. Calls `visit` with each shard's registry, so
/// that what else it reads fits the totals.
pub(crate) fn sum(registries: &[Arc<Mutex<Registry>>], mut visit: impl FnMut(&Registry)) -> Totals {
    let mut totals = Totals::default();
    let mut peers = HashSet::new();
    let mut remote_addrs = HashSet::new();
    for registry in registries {
        let registry = lock(registry);
        registry.add_to(&mut totals.registry, &mut totals.transport);
        peers.extend(registry.peers().copied());
        remote_addrs.extend(registry.remote_addrs().copied());
        visit(&registry);
    }
    totals.registry.peers = peers.len();
    totals.registry.remote_addresses = remote_addrs.len();
    totals
}

struct Entry {
    /// `None` once the connection has ended and only its IDs are left.
    connection: Option<SharedConnection>,
    number: u64,
    local_addr: SocketAddr,
    remote_addr: SocketAddr,
    peer_id: Option<PeerId>,
    /// Whether the peer has dialled us. Then the ID that it chose for its first packets leads to
    /// the connection as well.
    is_inbound: bool,
    /// Whether the dial begins again from another port, so that its handshake goes on there.
    begins_again: bool,
    ids: Ids,
}

/// A connection whose peer is authenticated, as the registry knew it when it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Established {
    pub(crate) handle: ConnectionHandle,
    pub(crate) is_outbound: bool,
    pub(crate) local_addr: SocketAddr,
    /// It tells the connection from others with the same handle, earlier or later.
    pub(crate) number: u64,
    pub(crate) peer_id: PeerId,
    pub(crate) remote_addr: SocketAddr,
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
    /// The number of the next connection, which no other connection of this registry has.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.begun += 1;
        self.begun - 1
    }

    /// Adds a connection. It already has one ID, that of the handshake.
    pub(crate) fn insert(
        &mut self,
        handle: ConnectionHandle,
        number: u64,
        connection: SharedConnection,
        local_addr: SocketAddr,
        remote_addr: SocketAddr,
        is_inbound: bool,
    ) {
        *self.remotes.entry(remote_addr).or_default() += 1;
        self.totals.registry.issued_ids += 1;
        self.totals.registry.issued_sequence_numbers[0] += 1;
        self.connections.insert(
            handle,
            Entry {
                connection: Some(connection),
                number,
                local_addr,
                remote_addr,
                peer_id: None,
                is_inbound,
                begins_again: false,
                ids: Ids {
                    next_sequence: 1,
                    retired: 0,
                    has_batch: false,
                },
            },
        );
    }

    /// Notes that `count` more IDs were issued to a connection.
    pub(crate) fn issued(&mut self, handle: ConnectionHandle, count: u64) {
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

    pub(crate) fn authenticated(&mut self, handle: ConnectionHandle, peer_id: PeerId) {
        let Some(entry) = self.connections.get_mut(&handle) else {
            return;
        };
        entry.peer_id = Some(peer_id);
        *self.peers.entry(peer_id).or_default() += 1;
        self.totals.transport.handshakes_completed += 1;
    }

    pub(crate) fn migrated(
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

    /// Notes that a dial is given up to begin again from another port.
    pub(super) fn begins_again(&mut self, handle: ConnectionHandle) {
        if let Some(entry) = self.connections.get_mut(&handle) {
            entry.begins_again = true;
        }
    }

    /// Notes the end of a connection. Its IDs stay for a while, so that late packets can be
    /// attributed.
    pub(crate) fn end(&mut self, handle: ConnectionHandle, connection: &Connection) {
        let Some(entry) = self.connections.get_mut(&handle) else {
            return;
        };
        if entry.connection.take().is_none() {
            return;
        }
        self.packets += connection.packet_stats();
        release(&mut self.remotes, &entry.remote_addr);
        let transport = &mut self.totals.transport;
        match entry.peer_id {
            Some(peer_id) => {
                release(&mut self.peers, &peer_id);
                *ended(transport, connection.loss()) += 1;
            }
            None if entry.begins_again => {}
            None => transport.handshakes_failed += 1,
        }
    }

    /// Whether there are connections that have not ended.
    pub(crate) fn has_connections(&self) -> bool {
        !self.remotes.is_empty()
    }

    /// Removes a connection that has ended.
    pub(crate) fn remove(&mut self, handle: ConnectionHandle) {
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

    pub(crate) fn set_unfinished(&mut self, unfinished: Unfinished) {
        self.unfinished = unfinished;
    }

    pub(super) fn post(&mut self, totals: &Totals) {
        self.totals.registry += &totals.registry;
        self.totals.transport += totals.transport;
    }

    /// Packets and frames of the connections that have ended.
    pub(crate) fn packets_of_ended(&self) -> PacketStats {
        self.packets
    }

    /// All connections that have not ended.
    pub(crate) fn connections(&self) -> impl Iterator<Item = SharedConnection> {
        let entries = self.connections.values();
        entries.filter_map(|entry| entry.connection.clone())
    }

    /// The connections that have not ended and whose peer is authenticated.
    pub(crate) fn established(&self) -> impl Iterator<Item = Established> {
        let entries = self.connections.iter();
        entries.filter_map(|(&handle, entry)| {
            entry.connection.as_ref()?;
            Some(Established {
                handle,
                is_outbound: !entry.is_inbound,
                local_addr: entry.local_addr,
                number: entry.number,
                peer_id: entry.peer_id?,
                remote_addr: entry.remote_addr,
            })
        })
    }

    /// The connection with this handle and number, unless it has ended.
    pub(crate) fn find(&self, handle: ConnectionHandle, number: u64) -> Option<SharedConnection> {
        let entry = self.connections.get(&handle)?;
        let entry = Some(entry).filter(|entry| entry.number == number)?;
        entry.connection.clone()
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
        registry.initial_ids += pending + entries().filter(|entry| entry.is_inbound).count();
        registry.pending_incoming += pending;
        registry.pending_incoming_bytes += pending_bytes;
    }

    /// Resets the totals; figures marked *now* stay.
    pub(crate) fn reset(&mut self) {
        self.totals = Totals::default();
        self.packets = PacketStats::default();
    }
}

impl Ids {
    fn active(self) -> u64 {
        self.next_sequence - self.retired
    }
}

/// The counter of connections that have ended like this.
fn ended<'a>(totals: &'a mut TransportStats, loss: Option<&ConnectionError>) -> &'a mut u64 {
    match loss {
        Some(ConnectionError::AbortedByPeer { .. }) => &mut totals.ended_aborted_by_peer,
        Some(ConnectionError::ClosedByPeer { .. }) => &mut totals.ended_closed_by_peer,
        Some(ConnectionError::DriverStopped) | None => &mut totals.ended_driver_stopped,
        Some(ConnectionError::LocallyClosed) => &mut totals.ended_locally_closed,
        Some(ConnectionError::Reset) => &mut totals.ended_reset,
        Some(ConnectionError::TimedOut) => &mut totals.ended_timed_out,
        Some(ConnectionError::Violation { .. } | ConnectionError::VersionMismatch) => {
            &mut totals.ended_violation
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_are_counted_by_powers_of_two_and_the_last_bucket_has_the_rest() {
        let last = SEQUENCE_BUCKETS - 1;
        for (sequence, bucket) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 3),
            (7, 3),
            ((1 << (last - 1)) - 1, last - 1),
            (1 << (last - 1), last),
            (u64::MAX, last),
        ] {
            assert_eq!(sequence_bucket(sequence), bucket, "{sequence}");
        }
    }
}
