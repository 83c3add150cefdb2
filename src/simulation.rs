//! Nodes in simulated networks: virtual time, datagrams as values, and one seed for all randomness.
//!
//! Tests and fuzz targets use them. The same seed replays the same run bit for bit.

#![allow(
    clippy::unwrap_used,
    reason = "what goes wrong here, goes wrong in a test"
)]

pub(crate) mod frame;
pub(crate) mod initial;
pub(crate) mod link;
pub(crate) mod mangle;
pub(crate) mod nat;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod rewrite;
pub(crate) mod spoofer;
mod stun;
pub(crate) mod tasks;
pub(crate) mod wall_clock;
pub(crate) mod wire;
