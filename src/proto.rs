//! The sans-IO core: no clock, no socket, no task, no ambient randomness.
//!
//! Time and random seeds come in as arguments, and datagrams come in and go out as values. Wakers
//! are stored as data and returned to the caller when they are due; this module never wakes them.
//! Therefore a unit test can run two nodes and a lossy network in virtual time, and the same seed
//! replays the same run.

mod amplification;
mod bandwidth;
mod budget;
mod closing;
mod congestion;
mod connection;
mod connection_id;
mod datagram;
mod deadlines;
mod delivery;
mod handshake_bytes;
mod hole_punch;
mod inbox;
mod known_paths;
mod linger;
mod pacing;
mod path_doubts;
mod per_interface;
mod reception;
mod registry;
mod reset_limits;
mod router;
mod shard;
mod silence;
mod slot;
#[cfg(feature = "nat")]
mod stun;
#[cfg(test)]
mod tests;
mod turn;
mod turn_queue;
mod unanswered;
mod untaken;
mod work;
mod writers;

#[cfg(feature = "nat")]
pub use self::stun::MappingBehaviour;
#[cfg(feature = "nat")]
pub(crate) use self::stun::{Finding, StunClient, StunTransmit};
pub(crate) use self::{
    bandwidth::Bandwidth,
    budget::Budget,
    congestion::{BbrFactory, CubicFactory, LiftableFactory},
    connection::{
        Connection, FIRST_PEER_STREAMS, ReceiveWindows, SharedConnection, StreamId, StreamLimits,
        lock_connection, with,
    },
    connection_id::{IdQuota, ShardCount},
    datagram::{Datagram, Incoming, Output, Routed, Sent, SocketHandle, Unrouted},
    hole_punch::PunchKey,
    known_paths::{KnownPaths, PathMemory},
    per_interface::PerInterface,
    reception::{AdmissionLimits, IncomingKey, PendingLimits},
    registry::{Established, Registry, Totals, sum},
    router::long_header_id,
    shard::{
        Beginning, DialDeadlines, MAX_UNMATCHED, MakeSingleConfig, Settings, Shard, ShardSeed,
    },
    turn::Offload,
    turn_queue::Load,
    work::Meter,
};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{
    connection_id::{
        CONNECTION_ID_LEN, IssuedIds, MAX_SHARDS, ShardConnectionIdGenerator, ShardId,
    },
    registry::Unfinished,
    router::{HeaderForm, Route, route},
};
