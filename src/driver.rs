//! Connects the sans-IO core to the operating system: one task for each shard.

mod connection;
mod doorbell;
mod drivers;
mod flushes;
mod idle;
mod incoming;
mod mailbox;
mod outbound;
mod requests;
mod round_scheduler;
mod sender;
mod silent_hosts;
mod slabs;
mod socket_group;
mod sockets;
#[cfg(feature = "nat")]
mod stun;
#[cfg(not(feature = "nat"))]
#[path = "driver/no_stun.rs"]
mod stun;
mod task;
#[cfg(test)]
mod tests;
mod wakers;

#[cfg(feature = "nat")]
pub(crate) use self::stun::StunRegistration;
pub(crate) use self::{
    connection::{DrivenConnection, Handshake},
    drivers::{DialFrom, Drivers, OpenError, UseGuard},
    incoming::IncomingConnection,
    silent_hosts::{Departure, Heard},
    socket_group::SocketGroup,
};
