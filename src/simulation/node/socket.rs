//! A socket that is only an address, and what a node sends from it.

use std::{
    cell::{Cell, RefCell},
    mem,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use quinn_proto::{EcnCodepoint, Transmit};

use crate::proto::{Output, Sent, SocketHandle};

/// A socket that is only an address.
#[derive(Clone)]
pub(crate) struct SimSocket(Rc<SocketState>);

struct SocketState {
    addr: SocketAddr,
    listening: Cell<bool>,
    successor: RefCell<Option<SimSocket>>,
}

impl SimSocket {
    pub(super) fn new(addr: SocketAddr, listening: bool) -> Self {
        Self(Rc::new(SocketState {
            addr,
            listening: Cell::new(listening),
            successor: RefCell::default(),
        }))
    }

    pub(super) fn give_up_for(&self, successor: &Self) {
        self.0.successor.replace(Some(successor.clone()));
    }
}

impl SocketHandle for SimSocket {
    fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }

    fn is_listening(&self) -> bool {
        self.0.listening.get()
    }

    fn successor(&self) -> Option<Self> {
        self.0.successor.borrow().clone()
    }
}

/// Collects a node's datagrams until the network takes them.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(crate) sent: Vec<Outgoing>,
    pub(crate) max_segments: usize,
    /// Whether batches, which would be cut into datagrams, are dropped.
    pub(crate) swallows_batches: bool,
    /// The number of batches after which the socket blocks until the network has taken them.
    pub(crate) room: usize,
    pub(crate) batches: usize,
    /// The host behind an interface that is busy: what is sent to it waits.
    pub(crate) busy_host: Option<IpAddr>,
    /// The addresses of the host, if the node's socket has all of them; the kernel chooses the
    /// first one.
    pub(crate) ips: Option<Vec<IpAddr>>,
}

#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) contents: Vec<u8>,
    pub(crate) ecn: Option<EcnCodepoint>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            max_segments: 8,
            swallows_batches: false,
            room: usize::MAX,
            batches: 0,
            busy_host: None,
            ips: None,
        }
    }
}

impl Outbox {
    fn is_busy(&self, remote_addr: SocketAddr) -> bool {
        self.busy_host == Some(remote_addr.ip())
    }

    /// The source address of a datagram; `None` if the host does not have it.
    fn source(&self, socket: &SimSocket, transmit: &Transmit) -> Option<SocketAddr> {
        let mut from = socket.local_addr();
        if let Some(ips) = &self.ips {
            let chosen = transmit.src_ip.or_else(|| ips.first().copied());
            from.set_ip(chosen.filter(|ip| ips.contains(ip))?);
        }
        Some(from)
    }

    pub(super) fn take(&mut self) -> Vec<Outgoing> {
        self.batches = 0;
        mem::take(&mut self.sent)
    }
}

impl Output<SimSocket> for Outbox {
    fn is_ready(&self, _: &SimSocket, remote_addr: SocketAddr) -> bool {
        self.batches < self.room && !self.is_busy(remote_addr)
    }

    fn max_segments(&self, _: &SimSocket, _: SocketAddr) -> usize {
        self.max_segments
    }

    fn source_ip(&self, socket: &SimSocket, _: SocketAddr) -> Option<IpAddr> {
        match &self.ips {
            Some(ips) => ips.first().copied(),
            None => Some(socket.local_addr().ip()),
        }
    }

    fn send(&mut self, socket: &SimSocket, transmit: Transmit, contents: &[u8]) -> Sent {
        assert_eq!(transmit.size, contents.len());
        let Some(from) = self.source(socket, &transmit) else {
            return Sent::SourceGone;
        };
        if self.is_busy(transmit.destination) {
            return Sent::Blocked;
        }
        let segment = transmit.segment_size.unwrap_or(contents.len());
        assert!(contents.len() <= segment * self.max_segments);
        if !(self.swallows_batches && contents.len() > segment) {
            self.sent
                .extend(contents.chunks(segment).map(|contents| Outgoing {
                    from,
                    to: transmit.destination,
                    contents: contents.to_vec(),
                    ecn: transmit.ecn,
                }));
        }
        self.batches += 1;
        if self.is_ready(socket, transmit.destination) {
            Sent::Ready
        } else {
            Sent::Blocked
        }
    }
}
