//! The sans-IO core: no clock, no socket, no task, no ambient randomness.
//!
//! Time and random seeds come in as arguments, and datagrams come in and go out as values. Wakers
//! are stored as data and returned to the caller when they are due; this module never wakes them.
//! Therefore a unit test can run two nodes and a lossy network in virtual time, and the same seed
//! replays the same run.

mod address_limits;
mod admission;
mod arrivals;
mod budget;
mod closing;
mod congestion;
mod connection;
mod connection_id;
mod datagram;
mod deadlines;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake_bytes;
mod hole_punch;
mod inbox;
mod linger;
mod path_doubts;
mod pending;
mod per_interface;
mod recent_retries;
mod reception;
mod registry;
mod router;
mod shard;
mod silence;
#[cfg(any(test, fuzzing))]
#[cfg_attr(
    fuzzing,
    allow(dead_code, reason = "tests use more of it than fuzz targets do")
)]
pub(crate) mod simulation;
mod slot;
mod sources;
mod spare;
mod streams;
#[cfg(feature = "nat")]
mod stun;
#[cfg(test)]
mod tests;
mod turn_queue;
mod turn_requests;
mod unanswered;
mod untaken;
mod work;

#[cfg(feature = "nat")]
pub use self::stun::MappingBehaviour;
#[cfg(feature = "nat")]
pub(crate) use self::stun::{Finding, StunClient, StunTransmit};
pub(crate) use self::{
    admission::AdmissionLimits,
    budget::Budget,
    congestion::{CubicFactory, LiftableFactory},
    connection::{Connection, SharedConnection, lock},
    connection_id::{IdQuota, Shards},
    datagram::{Datagram, Incoming, Outbound, Sent, SocketHandle},
    hole_punch::PunchKey,
    pending::{IncomingKey, PendingLimits},
    per_interface::PerInterface,
    registry::{Registry, Totals},
    router::{Route, long_header_id, route},
    shard::{DialDeadlines, Settings, Shard, ShardSeed},
    slot::Offload,
    streams::{FIRST_PEER_STREAMS, ReceiveWindows, StreamId, StreamLimits},
    turn_queue::Load,
    work::Meter,
};
