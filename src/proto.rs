//! The sans-IO core: no clock, no socket, no task, no ambient randomness.
//!
//! Time and random seeds come in as arguments, datagrams come in and go out as values. Wakers are
//! kept as data and handed to the caller when they are due, never woken here. So two nodes, a lossy
//! network and virtual time fit in one unit test, and the same seed replays the same run.

mod connection;
mod connection_id;
mod registry;
mod router;
mod shard;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    connection::{Connection, StreamId},
    connection_id::Shards,
    registry::{Registry, Totals},
    router::{Malformed, Route, route},
    shard::{
        Datagram, Incoming, IncomingKey, Outbound, Sent, Settings, Shard, ShardSeed,
        SharedConnection, Socket, lock,
    },
};
