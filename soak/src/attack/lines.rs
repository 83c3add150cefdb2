//! The messages between the processes of an attack.

use serde::{Deserialize, Serialize};

use super::{
    attacker::Attacked,
    catalogue::Kind,
    client::Measured,
    victim::{Closed, Held, Manner, Window},
};

/// An order to a process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The victim: the cables are ready, and these peers are honest.
    Listen(Vec<String>),
    /// The client: connects to this address, and starts the transfer and the pings.
    Connect(String),
    /// The client: measures for this time, at this rate, or as fast as possible.
    Measure { millis: u64, megabytes: Option<u64> },
    /// The victim: reports what it serves in the next `millis`.
    Window { millis: u64 },
    /// The victim: how to treat strangers from now on.
    Treat(Manner),
    /// The victim: reports how much it holds, and its peak since the last time.
    Weigh,
    /// The victim: closes the connections of strangers, and waits at most this long for that.
    Close { millis: u64 },
    /// The victim: waits until all strangers are gone, at most this long.
    Await { millis: u64 },
    /// The attacker: prepares. The address is the victim's, with its peer ID.
    Prepare {
        kind: Kind,
        seconds: u64,
        address: String,
    },
    /// The attacker: begins the prepared attack.
    Begin,
    /// The attacker: stops.
    Stop,
}

/// An answer of a process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// Done, or begun.
    Ready,
    /// The victim's process ID.
    Namespace(u32),
    /// The victim's address.
    Listening(String),
    /// The client's peer IDs.
    Peers(Vec<String>),
    /// The victim has ended itself: it held this many bytes.
    Exhausted(u64),
    Measured(Measured),
    Window(Window),
    Held(Held),
    Closed(Closed),
    Attacked(Attacked),
}
