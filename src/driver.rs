//! Marries the sans-IO core to the operating system: one task for each shard.

mod connection;
mod core;
mod doorbell;
mod incoming;
mod mailbox;
mod outbound;
mod pace;
mod slabs;
mod socket;
mod task;

pub(crate) use self::{
    connection::{DrivenConnection, Handshake},
    core::{Core, DialFrom, InUse, OpenError},
    incoming::IncomingConnection,
    socket::Socket,
};
