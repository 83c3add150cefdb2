//! The kinds of workloads and their parameters.

use std::time::Duration;

use crate::{go::Dialer, relay::Link};

/// What a workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A transfer at full speed.
    Bulk(Bulk),
    /// One message at a time, there and back.
    PingPong { size: usize, beside: Beside },
    /// Handshakes, one at a time or many.
    Handshakes { peers: Peers, at_once: usize },
    /// Connections of a returning peer, one at a time or many. The dialer closes each of them.
    Close { closing: Closing, at_once: usize },
    /// Streams with a request and a reply of 100 bytes.
    ShortStreams,
    /// Idle connections.
    Idle { connections: usize },
    /// A bulk upload during a flood of unfinished handshakes.
    Flood,
    /// Work of complete nodes, each with a Swarm.
    Swarm(NodeWork),
    /// A download over a link, in writes of `write` bytes.
    Link { link: Link, write: usize },
    /// Upload and download between a Rust node and a go-libp2p node.
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
    /// From the dialer to the listener.
    Up,
    Down,
}

/// What runs beside a ping-pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// A bulk upload on the same connection.
    SameConnection,
    /// A bulk upload on a second connection between the same endpoints.
    OtherConnection,
}

/// Which peers dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// A new peer for each connection, with its own key, certificate and socket, all made in
    /// advance.
    New,
    /// The same peer with the same certificate each time.
    Returning,
}

/// When a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// As soon as the client's handshake is complete. The server's may not be, and then never is.
    AtOnce,
    /// When the next connection exists, so that the server has accepted this one.
    WhenTheNextIsThere,
}

/// What the dialing node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeWork {
    /// 64 bytes there and back on one stream.
    Ping,
    /// Dials, waits until both nodes have identified themselves, and disconnects.
    Identify,
    /// Dials, and disconnects once it is connected.
    DialClose,
    /// A transfer at full speed on one stream, in writes of `write` bytes.
    Upload { write: usize },
    /// Requests with a reply of 100 bytes, each on its own stream.
    Requests { at_once: usize },
    /// Requests by the clock, beside a transfer at a steady rate.
    Steady(Steady),
}

/// Requests of 1 KB with replies of 1 KB that several dialers begin by the clock. The first of them
/// also uploads at a steady rate, on the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    /// Dialers, each a node with a connection of its own.
    pub peers: usize,
    /// Requests that a dialer begins at one moment, each on a stream of its own.
    pub at_once: usize,
    /// From one such moment to the next.
    pub every: Duration,
    /// A request is sent before its protocol is agreed on (multistream-select's `V1Lazy`).
    pub lazy: bool,
}

impl NodeWork {
    /// Whether the nodes support identify. Where no workload waits for it, it would only add noise.
    pub fn identifies(self) -> bool {
        self == Self::Identify
    }

    /// Whether dialers send before a stream's protocol is agreed on.
    pub fn is_lazy(self) -> bool {
        matches!(self, Self::Steady(Steady { lazy: true, .. }))
    }

    /// The bytes of a request and of a reply.
    pub fn exchange(self) -> (usize, usize) {
        match self {
            Self::Steady(_) => (1024, 1024),
            _ => (25, 100),
        }
    }
}
