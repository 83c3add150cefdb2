//! What the processes of an attack tell each other.

use serde::{Deserialize, Serialize};

use super::{
    attacker::Attacked,
    catalogue::Kind,
    client::Measured,
    victim::{Closed, Held, Manner, Window},
};

/// What a process is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The victim: the cables are laid, and these peers are no strangers.
    Listen(Vec<String>),
    /// The client: connects to this address, and begins with its transfer and its pings.
    Connect(String),
    /// The client: measures for so long, with so many megabytes in each second, or as many as go.
    Measure { millis: u64, megabytes: Option<u64> },
    /// The victim: what it serves from now on, for so long.
    Window { millis: u64 },
    /// The victim: what becomes of strangers that come from now on.
    Treat(Manner),
    /// The victim: what it holds now, and has held at most since the last time.
    Weigh,
    /// The victim: closes the connections of strangers, and waits so long for it.
    Close { millis: u64 },
    /// The victim: waits until all strangers are gone, but no longer.
    Await { millis: u64 },
    /// The attacker: gets ready. The address is the victim's, with its peer ID.
    Prepare {
        kind: Kind,
        seconds: u64,
        address: String,
    },
    /// The attacker: begins with what it has prepared.
    Begin,
    /// The attacker: it is enough.
    Stop,
}

/// What a process answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// Done, or begun, as it was told.
    Ready,
    /// The victim's process.
    Namespace(u32),
    /// The victim's address.
    Listening(String),
    /// The client's peers.
    Peers(Vec<String>),
    /// The victim has ended itself: it held so many bytes.
    Exhausted(u64),
    Measured(Measured),
    Window(Window),
    Held(Held),
    Closed(Closed),
    Attacked(Attacked),
}
