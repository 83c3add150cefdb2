//! Somebody who pretends that a node has moved.

use std::net::SocketAddr;

/// Somebody on the path who sends copies from another address, ahead of the datagrams themselves.
pub(crate) struct Spoofer {
    victim: usize,
    pub(crate) addr: SocketAddr,
    /// One out of so many is copied.
    every: u64,
    seen: u64,
    /// With this one the attack is over.
    last: u64,
    /// Whether what is sent to that address reaches the victim.
    pub(crate) forwards: bool,
    pub(crate) bytes_sent: usize,
    /// What was sent to that address.
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

    /// Sends answers on to its victim, as if they came from where they were sent.
    pub(crate) fn forwarding(self) -> Self {
        Self {
            forwards: true,
            ..self
        }
    }

    /// The node that gets what is sent to this address, if any does.
    pub(crate) fn victim_at(&self, addr: SocketAddr) -> Option<usize> {
        (self.forwards && addr == self.addr).then_some(self.victim)
    }

    /// Sees a datagram that is sent; returns whether it is to be copied.
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
