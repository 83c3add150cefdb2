//! What tests see of a node: its statistics, and what is left of connections.

use std::{collections::HashSet, net::SocketAddr, rc::Rc, time::Instant};

use quinn_proto::ConnectionIdGenerator;

use super::Node;
use crate::{
    proto::{Bandwidth, IssuedIds, Shard, ShardConnectionIdGenerator, Totals, sum},
    stats::{RegistryStats, TransportStats},
};

impl Node {
    /// The statistics of all shards.
    pub(crate) fn stats(&self) -> (RegistryStats, TransportStats) {
        let Totals {
            registry,
            mut transport,
        } = sum(&self.registries, |_| {});
        self.config.report(&mut transport);
        (registry, transport)
    }

    /// The limits on bandwidth, which a test may change.
    pub(crate) fn bandwidth(&self) -> &Bandwidth {
        self.config.bandwidth()
    }

    pub(crate) fn reset_stats(&self) {
        for registry in &self.registries {
            registry.lock().unwrap().reset();
        }
        self.config.reset_counts();
    }

    pub(crate) fn remote_addrs(&self) -> HashSet<SocketAddr> {
        let registries = self
            .registries
            .iter()
            .map(|registry| registry.lock().unwrap());
        registries
            .flat_map(|registry| registry.remote_addrs().copied().collect::<Vec<_>>())
            .collect()
    }

    /// The number of issued IDs that still lead to a connection, determined by sending a datagram
    /// to each.
    ///
    /// Changes the totals of the statistics, and nothing else.
    pub(crate) fn routable_ids(&mut self, now: Instant) -> u64 {
        /// Of no node, so that no connection takes the datagram as a sign of life of its peer.
        const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 1], 9);

        let routed = |node: &Self| node.stats().0.routed_short;
        let before = routed(self);
        for id in self.issued_ids() {
            // Too short to be valid, and to be answered with a stateless reset.
            let probe = [&[0x40], &id[..], &[0; 4]].concat();
            self.receive(now, STRANGER.into(), &probe);
        }
        self.turn(now);
        routed(self) - before
    }

    /// Every connection ID issued so far, and some that will be issued next.
    pub(crate) fn issued_ids(&self) -> Vec<Vec<u8>> {
        /// IDs of handshakes that failed while they were accepted, which are not in the statistics.
        const MOST_UNBOOKED: u64 = 32;

        let (registry, transport) = self.stats();
        // Retries and refusals have IDs, too.
        let unbooked = MOST_UNBOOKED + transport.retries_sent + transport.incoming_refused;
        let issued = registry.issued_ids + unbooked;
        let seeds = self.count.iter().zip(&self.seeds);
        let ids = seeds.flat_map(|(id, seed)| {
            let seed = seed.connection_ids;
            let mut generator =
                ShardConnectionIdGenerator::new(id, self.count, seed, IssuedIds::default());
            (0..issued)
                .map(move |_| generator.generate_cid().to_vec())
                .collect::<Vec<_>>()
        });
        ids.collect()
    }

    /// Asserts that nothing is left of any connection.
    pub(crate) fn assert_empty(&self) {
        let (registry, _) = self.stats();
        let now = RegistryStats {
            active_ids: registry.active_ids,
            closing: registry.closing,
            connections: registry.connections,
            handshake_sources: registry.handshake_sources,
            handshaking: registry.handshaking,
            initial_ids: registry.initial_ids,
            peers: registry.peers,
            pending_incoming: registry.pending_incoming,
            pending_incoming_bytes: registry.pending_incoming_bytes,
            remote_addresses: registry.remote_addresses,
            ..RegistryStats::default()
        };
        assert_eq!(now, RegistryStats::default());
        // Each end of a connection that the application still holds has one. What it has received
        // or written may count.
        if self
            .doorbells
            .iter()
            .all(|bell| Rc::strong_count(bell) == 1)
        {
            assert_eq!(self.budget.used(), 0);
        }
        assert_eq!(self.next_timeout(), None);
        for shard in &self.shards {
            assert!(shard.is_empty());
            assert!(!shard.has_ready());
            assert_eq!(shard.inbox_bytes(), 0);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(Shard::is_empty)
    }
}
