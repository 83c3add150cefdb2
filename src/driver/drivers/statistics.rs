//! The statistics of a transport: what its shards have counted, and its listeners.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use libp2p_core::transport::ListenerId;
use multiaddr::Multiaddr;

use super::Drivers;
use crate::{
    driver::socket_group::SocketGroup,
    proto::{Registry, Totals, lock_connection, sum},
    stats::{ListenerStats, Stats},
    sync,
};

/// A listener, as its statistics show it.
pub(super) struct Listening {
    /// Without the addresses, which `addresses` has.
    pub(super) stats: ListenerStats,
    addresses: BTreeSet<Multiaddr>,
    pub(super) socket: Weak<SocketGroup>,
}

impl Drivers {
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            listeners: sync::lock(&self.listeners)
                .iter()
                .map(|listener| ListenerStats {
                    addresses: listener.addresses.iter().cloned().collect(),
                    ..listener.stats.clone()
                })
                .collect(),
            ..Stats::default()
        };
        self.stun.report(&mut stats);
        let mut connections = Vec::new();
        let totals = self.sum(|registry| {
            connections.extend(registry.connections());
            stats.packets += registry.packets_of_ended();
        });
        stats.registry = totals.registry;
        stats.transport = totals.transport;
        // The registries are unlocked: a driver locks one while it holds a connection.
        stats.connections = (connections.iter())
            .map(|connection| lock_connection(connection).stats())
            .collect();
        for connection in &stats.connections {
            stats.packets += connection.packets;
        }
        stats
    }

    /// The statistics without those of single connections. It locks none.
    pub(crate) fn totals(&self) -> Totals {
        self.sum(|_| {})
    }

    pub(crate) fn reset_stats(&self) {
        for registry in &self.registries {
            sync::lock(registry).reset();
        }
        self.config.reset_counts();
        self.sockets.reset_stats();
        self.silent_hosts.reset_stats();
        self.stun.reset_stats();
    }

    pub(crate) fn note_listener(&self, listener_id: ListenerId, socket: &Arc<SocketGroup>) {
        let buffers = socket.buffer_sizes();
        sync::lock(&self.listeners).push(Listening {
            stats: ListenerStats {
                addresses: Vec::new(),
                listener_id,
                local_addr: socket.local_addr(),
                receive_buffer_bytes: buffers.receive,
                send_buffer_bytes: buffers.send,
            },
            addresses: BTreeSet::new(),
            socket: Arc::downgrade(socket),
        });
    }

    /// Adds an address that a listener announces.
    pub(crate) fn note_address(&self, listener_id: ListenerId, addr: Multiaddr) {
        self.change_addresses(listener_id, |addresses| addresses.insert(addr));
    }

    /// Removes an address that a listener no longer announces.
    pub(crate) fn forget_address(&self, listener_id: ListenerId, addr: &Multiaddr) {
        self.change_addresses(listener_id, |addresses| addresses.remove(addr));
    }

    pub(crate) fn forget_listener(&self, listener_id: ListenerId) {
        sync::lock(&self.listeners).retain(|listener| listener.stats.listener_id != listener_id);
    }

    fn change_addresses(
        &self,
        listener_id: ListenerId,
        change: impl FnOnce(&mut BTreeSet<Multiaddr>) -> bool,
    ) {
        if let Some(listener) = sync::lock(&self.listeners)
            .iter_mut()
            .find(|listener| listener.stats.listener_id == listener_id)
        {
            change(&mut listener.addresses);
        }
    }

    fn sum(&self, visit: impl FnMut(&Registry)) -> Totals {
        let mut totals = sum(&self.registries, visit);
        let transport = &mut totals.transport;
        transport.dials_from_other_port = self.silent_hosts.dials();
        self.config.report(transport);
        transport.buffered_bytes = self.budget.used();
        transport.shards = self.shards.count();
        transport.sockets = self.sockets.open();
        transport.sockets_rebound = self.sockets.rebound();
        totals
    }
}
