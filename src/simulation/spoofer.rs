//! An attacker who pretends that a node has moved.

use std::net::SocketAddr;

/// An attacker on the path who sends copies of a node's datagrams from another address, ahead of
/// the originals.
pub(crate) struct Spoofer {
    victim: usize,
    pub(crate) addr: SocketAddr,
    /// One in this many datagrams is copied.
    every: u64,
    seen: u64,
    /// The number of the datagram with which the attack ends.
    last: u64,
    /// Whether datagrams to that address are forwarded to the victim.
    pub(crate) forwards: bool,
    pub(crate) bytes_sent: usize,
    /// Bytes that were sent to that address.
    pub(crate) bytes_received: usize,
}

impl Spoofer {
    pub(crate) fn new(victim: usize, addr: SocketAddr, every: u64, last: u64) -> Self {
        Self {
            victim,
            addr,
            every,
            seen: 0,
            last,
            forwards: false,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Forwards answers to its victim, with their original source address.
    pub(crate) fn forwarding(self) -> Self {
        Self {
            forwards: true,
            ..self
        }
    }

    /// The node to which datagrams to this address are forwarded, if any.
    pub(crate) fn victim_at(&self, addr: SocketAddr) -> Option<usize> {
        (self.forwards && addr == self.addr).then_some(self.victim)
    }

    /// Observes a datagram that is sent. Returns whether to copy it.
    pub(crate) fn see(&mut self, sender: usize, to: SocketAddr, len: usize) -> bool {
        if to == self.addr {
            self.bytes_received += len;
        }
        if sender != self.victim {
            return false;
        }
        self.seen += 1;
        let copies = self.seen.is_multiple_of(self.every) && self.seen <= self.last;
        if copies {
            self.bytes_sent += len;
        }
        copies
    }
}
