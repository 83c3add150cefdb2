//! The messages between the processes of a flood.

use serde::{Deserialize, Serialize};

use super::{
    attacker::{Attacked, Kind},
    client::Measured,
    server::Served,
};

/// An order to a process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The server: the cables are ready.
    Listen,
    /// The server: reports what it has done so far.
    Tell,
    /// The client: connects to this address, and starts the upload.
    Upload(String),
    /// The client: dials and measures for this time.
    Measure { seconds: u64, per_second: u64 },
    /// The attacker.
    Attack {
        kind: Kind,
        count: usize,
        per_second: u64,
    },
}

/// A message of a process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// Done, or begun.
    Ready,
    /// The server's process ID.
    Namespace(u32),
    /// The server's address.
    Listening(String),
    Served(Served),
    Measured(Measured),
    Attacked(Attacked),
}
