//! Connection IDs that contain their shard.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Length of the connection IDs that we issue, in bytes.
///
/// They cannot be guessed and are in effect never reused: at least 58 bits are random (the first
/// byte is constrained), so the probability that two of 2^24 IDs of a shard are equal is about
/// 2^-11. Reuse matters because the stateless reset token of an ID is a function of the ID (RFC
/// 9000 §10.3.2).
pub(crate) const CONNECTION_ID_LEN: usize = 8;

/// The most shards of one transport. The first byte of an ID encodes the shard, and must still have
/// some entropy.
pub(crate) const MAX_SHARDS: u8 = 64;

/// The most connection IDs of one shard in use at once.
///
/// quinn-proto draws random IDs until it finds an unused one. With this many in use, one draw in
/// 2^34 fails; with nearly all in use, it would draw for ever.
const MAX_ACTIVE_IDS: usize = 1 << 24;

/// The most IDs of one connection at once: quinn-proto issues no more, even if the peer permits
/// more.
const ACTIVE_IDS_PER_CONNECTION: usize = 8;

/// IDs that a connection may be issued in any case. A peer retires an ID when it changes its
/// address, or to be harder to track.
const FREE_IDS: u64 = 1024;

/// Datagrams that a peer has to send for each ID beyond [`FREE_IDS`]. quic-go changes its ID every
/// 10,000 packets.
const DATAGRAMS_PER_ID: u64 = 100;

/// Limits on issuing connection IDs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdQuota {
    /// The most connections of one shard at once, including those that wait for the application's
    /// answer. Each has a bounded number of IDs, so this also bounds the IDs in use.
    pub(crate) connections: usize,
    /// The number of IDs that each connection may be issued in any case.
    pub(crate) free: u64,
}

impl IdQuota {
    /// Whether a connection was issued more IDs than it may be, after this many datagrams of its
    /// peer.
    pub(super) fn is_exceeded(self, issued: u64, datagrams_received: u64) -> bool {
        issued > self.free + datagrams_received / DATAGRAMS_PER_ID
    }
}

impl Default for IdQuota {
    fn default() -> Self {
        Self {
            connections: MAX_ACTIVE_IDS / ACTIVE_IDS_PER_CONNECTION,
            free: FREE_IDS,
        }
    }
}

/// The number of shards of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardCount(u8);

/// One shard of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ShardId(u8);

impl ShardCount {
    pub(crate) const ONE: Self = Self(1);

    /// `None` unless there is at least one shard and at most [`MAX_SHARDS`].
    pub(crate) fn new(count: u8) -> Option<Self> {
        (1..=MAX_SHARDS).contains(&count).then_some(Self(count))
    }

    pub(crate) fn count(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    /// The shard of a connection ID with this first byte, whether we or the client chose the ID.
    pub(crate) fn of(self, first_byte: u8) -> ShardId {
        ShardId(first_byte % self.0)
    }
}

impl ShardId {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Issues the connection IDs of one shard.
pub(crate) struct ShardConnectionIdGenerator {
    rng: StdRng,
    shard: ShardId,
    shards: ShardCount,
    issued: IssuedIds,
    resets: ResetPermit,
}

/// Whether quinn-proto may make a stateless reset now. It may at first.
///
/// It makes one for each packet of an unknown connection whose ID the generator does not refuse.
/// That costs a signature and random bytes.
#[derive(Clone, Debug)]
pub(crate) struct ResetPermit(Arc<AtomicBool>);

impl ResetPermit {
    pub(crate) fn set(&self, may_reset: bool) {
        self.0.store(may_reset, Ordering::Relaxed);
    }
}

impl Default for ResetPermit {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

/// Counts the IDs that a generator has issued; quinn-proto owns the generator itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct IssuedIds(Arc<AtomicU64>);

impl IssuedIds {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ShardConnectionIdGenerator {
    pub(crate) fn new(
        shard: ShardId,
        shards: ShardCount,
        seed: [u8; 32],
        issued: IssuedIds,
    ) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            shard,
            shards,
            issued,
            resets: ResetPermit::default(),
        }
    }

    pub(crate) fn with_permit(self, resets: ResetPermit) -> Self {
        Self { resets, ..self }
    }
}

impl ConnectionIdGenerator for ShardConnectionIdGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_LEN];
        self.rng.fill_bytes(&mut bytes);
        bytes[0] = congruent(bytes[0], self.shard, self.shards);
        self.issued.0.fetch_add(1, Ordering::Relaxed);
        ConnectionId::new(&bytes)
    }

    /// Refuses the IDs of other shards, so that we never send a stateless reset for one of them.
    /// quinn-proto asks about IDs of unknown connections only.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if !self.resets.0.load(Ordering::Relaxed) {
            return Err(InvalidCid);
        }
        match id.first() {
            Some(&first)
                if id.len() == CONNECTION_ID_LEN && self.shards.of(first) == self.shard =>
            {
                Ok(())
            }
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        // IDs do not expire; the peer decides when to retire them.
        None
    }
}

/// The byte of `shard` in the same run of `shards` numbers as `byte`.
fn congruent(byte: u8, shard: ShardId, shards: ShardCount) -> u8 {
    let base = byte - byte % shards.0;
    // The last run is incomplete: if it lacks the shard's number, the first run is used.
    base.checked_add(shard.0).unwrap_or(shard.0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_hundred_datagrams_of_a_peer_earn_it_an_id_beyond_the_free_ones() {
        let quota = IdQuota {
            free: 10,
            ..IdQuota::default()
        };
        for (most, datagrams) in [(10, 0), (10, 99), (11, 100), (11, 199), (12, 200)] {
            assert!(!quota.is_exceeded(most, datagrams));
            assert!(quota.is_exceeded(most + 1, datagrams));
        }
    }

    #[test]
    fn an_issued_id_leads_back_to_its_shard() {
        for count in 1..=MAX_SHARDS {
            let shards = ShardCount::new(count).unwrap();
            for shard in shards.iter() {
                let mut generator =
                    ShardConnectionIdGenerator::new(shard, shards, [7; 32], IssuedIds::default());
                for _ in 0..50 {
                    let id = generator.generate_cid();
                    assert_eq!(shards.of(id[0]), shard);
                    assert!(generator.validate(&id).is_ok());
                }
            }
        }
    }

    #[test]
    fn ids_of_other_shards_and_other_lengths_are_foreign() {
        let shards = ShardCount::new(4).unwrap();
        let [a, b] = [0, 1].map(|n| {
            ShardConnectionIdGenerator::new(ShardId(n), shards, [n; 32], IssuedIds::default())
        });
        let (mut a, b) = (a, b);
        let id = a.generate_cid();
        assert!(b.validate(&id).is_err());
        assert!(a.validate(&ConnectionId::new(&id[..7])).is_err());
        assert!(a.validate(&ConnectionId::new(&[])).is_err());
    }

    #[test]
    fn ids_do_not_repeat_and_all_first_bytes_occur() {
        let shards = ShardCount::new(1).unwrap();
        let issued = IssuedIds::default();
        let mut generator =
            ShardConnectionIdGenerator::new(ShardId(0), shards, [1; 32], issued.clone());
        let ids: HashSet<_> = (0..20_000).map(|_| generator.generate_cid()).collect();
        assert_eq!(ids.len(), 20_000);
        assert_eq!(issued.count(), 20_000);
        let first: HashSet<u8> = ids.iter().map(|id| id[0]).collect();
        assert_eq!(first.len(), 256);
    }

    #[test]
    fn the_number_of_shards_is_bounded() {
        assert!(ShardCount::new(0).is_none());
        assert!(ShardCount::new(MAX_SHARDS).is_some());
        assert!(ShardCount::new(MAX_SHARDS + 1).is_none());
    }
}
