//! Connection IDs that carry their shard.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Length of the connection IDs that we issue, in bytes.
///
/// Unguessable and in effect never reused: 58 bits at least are free (the first byte is constrained), so that
/// among 2^24 IDs of a shard the chance that two are the same is about 2^-11. Reuse matters because the
/// stateless-reset token of an ID is a function of the ID (RFC 9000 §10.3.2).
pub(crate) const CONNECTION_ID_LEN: usize = 8;

/// Most shards that one transport can have; the shard's number lives in one byte of the ID, and some
/// entropy must be left in it.
pub(crate) const MAX_SHARDS: u8 = 64;

/// Most connection IDs of one shard that peers may address it by at once.
///
/// quinn-proto draws IDs until it finds a free one. With so many taken one draw in 2^34 is in vain; with nearly all
/// of them taken it would draw for ever.
const MAX_ACTIVE_IDS: usize = 1 << 24;

/// Most IDs of one connection at once, whatever its peer asks for: quinn-proto issues no more.
const ACTIVE_IDS_PER_CONNECTION: usize = 8;

/// IDs that a connection may be issued in any case. A peer retires one when it changes its address, or when it wants
/// to be harder to follow.
const FREE_IDS: u64 = 1024;

/// Datagrams that a peer has to send for each ID beyond [`FREE_IDS`]. quic-go changes the ID every 10,000 packets.
const DATAGRAMS_PER_ID: u64 = 100;

/// How many connection IDs may be issued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdQuota {
    /// Connections of one shard at once, waiting ones among them; each has so many IDs at most that there is a limit
    /// to these, too.
    pub(crate) connections: usize,
    /// IDs for each connection in any case.
    pub(crate) free: u64,
}

impl IdQuota {
    /// Whether a connection, whose peer has sent so many datagrams, was issued more IDs than it may.
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

/// How many shards a transport has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shards(u8);

/// One shard of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ShardId(u8);

impl Shards {
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

    /// The shard that a connection ID beginning with this byte belongs to, whoever chose the ID.
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
    shards: Shards,
    issued: IssuedIds,
}

/// Counts the IDs that a generator has issued; the generator itself disappears into quinn-proto.
#[derive(Clone, Debug, Default)]
pub(crate) struct IssuedIds(Arc<AtomicU64>);

impl IssuedIds {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ShardConnectionIdGenerator {
    pub(crate) fn new(shard: ShardId, shards: Shards, seed: [u8; 32], issued: IssuedIds) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            shard,
            shards,
            issued,
        }
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

    /// Refuses the IDs of other shards, so that no stateless reset is ever sent for one of them.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
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
        // The peer retires IDs when it wants to; we see no reason to make it do so.
        None
    }
}

/// The byte nearest below `byte` (or the first one above) that belongs to `shard`.
fn congruent(byte: u8, shard: ShardId, shards: Shards) -> u8 {
    let base = byte - byte % shards.0;
    // The last, incomplete run of numbers would overflow; the first run takes its place.
    base.checked_add(shard.0).unwrap_or(shard.0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_issued_id_leads_back_to_its_shard() {
        for count in 1..=MAX_SHARDS {
            let shards = Shards::new(count).unwrap();
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
        let shards = Shards::new(4).unwrap();
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
        let shards = Shards::new(1).unwrap();
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
        assert!(Shards::new(0).is_none());
        assert!(Shards::new(MAX_SHARDS).is_some());
        assert!(Shards::new(MAX_SHARDS + 1).is_none());
    }
}
