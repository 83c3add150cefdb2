//! What the processes of a flood say to each other.

use serde::{Deserialize, Serialize};

use super::{
    attacker::{Attacked, Kind},
    client::Measured,
    server::Served,
};

/// What a process is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The server: the cables are laid.
    Listen,
    /// The server: says what it has done so far.
    Tell,
    /// The client: connects to this address, and begins to upload.
    Upload(String),
    /// The client: dials and measures for so long.
    Measure { seconds: u64, per_second: u64 },
    /// The attacker.
    Attack {
        kind: Kind,
        count: usize,
        per_second: u64,
    },
}

/// What a process says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// Done, or begun, as it was told.
    Ready,
    /// The server's process.
    Namespace(u32),
    /// The server's address.
    Listening(String),
    Served(Served),
    Measured(Measured),
    Attacked(Attacked),
}
