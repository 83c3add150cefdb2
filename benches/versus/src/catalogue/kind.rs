//! What a workload does, and how much of it at a time.

use crate::{go::Dialer, relay::Link};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As many bytes as possible.
    Bulk(Bulk),
    /// One message after the other, there and back.
    PingPong { size: usize, beside: Beside },
    /// One connection after the other, or many at a time.
    Handshakes { peers: Peers, at_once: usize },
    /// Connections of a returning peer, each of them closed by the one who dials, one after the
    /// other or many at a time.
    Close { closing: Closing, at_once: usize },
    /// Streams with a request and a reply of 100 bytes.
    ShortStreams,
    /// Connections on which nothing happens.
    Idle { connections: usize },
    /// A bulk upload while others begin handshakes that they never finish.
    Flood,
    /// What whole nodes do, each with a Swarm.
    Swarm(NodeWork),
    /// A download over a link.
    Link(Link),
    /// Upload and download between a Rust node and one of go-libp2p.
    Go(Dialer),
}

/// A transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulk {
    pub direction: Direction,
    pub connections: usize,
    /// Streams on each connection.
    pub streams: usize,
    /// Bytes in each write.
    pub write: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the one that dials.
    Up,
    Down,
}

/// What else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// A bulk upload on the same connection.
    SameConnection,
    /// A bulk upload on a second connection between the same endpoints.
    OtherConnection,
}

/// Who begins the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Each one a new peer with a key, a certificate and a socket of its own, all made in advance.
    New,
    /// The same peer with the same certificate every time.
    Returning,
}

/// When a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// As soon as the client has it. The server may not have it yet, and then never does.
    AtOnce,
    /// When the next one is there, so that the server has this one.
    WhenTheNextIsThere,
}

/// What the node that dials does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeWork {
    /// 64 bytes there and back on one stream.
    Ping,
    /// Dials, waits until both nodes have identified themselves, and disconnects.
    Identify,
    /// Dials, and disconnects when it is connected.
    DialClose,
    /// As many bytes as possible on one stream, in writes of `write` bytes.
    Upload { write: usize },
    /// Requests with a reply of 100 bytes, each on a stream of its own.
    Requests { at_once: usize },
}

impl NodeWork {
    /// Whether the nodes speak identify; where nobody waits for it, it is only in the way.
    pub fn identifies(self) -> bool {
        self == Self::Identify
    }
}
