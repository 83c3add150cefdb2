//! What arrives at a node.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::BytesMut;
use quinn_proto::EcnCodepoint;

use super::{NoWork, Node, setup::Reader, socket::SimSocket};
use crate::proto::{Datagram, Route, Routed, Shard, SocketHandle, Unrouted, route};

impl Node {
    /// Reads a datagram from the socket, and passes it to its owner as the driver does.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, contents: &[u8]) {
        self.receive_marked(now, from, contents, None);
    }

    /// Like [`receive`](Self::receive), with ECN bits.
    pub(crate) fn receive_marked(
        &mut self,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
        ecn: Option<EcnCodepoint>,
    ) {
        let reader = self.reader(contents);
        let unrouted = Unrouted {
            ecn,
            ..self.unrouted(from, contents)
        };
        match self.shards[reader].route(now, unrouted, None::<&NoWork>, &mut self.outbox) {
            Routed::Done => {}
            Routed::Forward(datagram) => {
                self.shards[datagram.shard.index()].handle(now, datagram, &mut self.outbox);
            }
            Routed::NonQuic(contents) => {
                if let Some(stun) = &mut self.stun {
                    stun.handle(now, self.socket.local_addr(), from, &contents);
                }
            }
        }
        self.pass_on_unmatched();
    }

    /// Reads a datagram that keeps `held` bytes of memory.
    pub(crate) fn receive_holding(
        &mut self,
        held: usize,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            let datagram = Datagram { held, ..datagram };
            self.shards[datagram.shard.index()].handle(now, datagram, &mut self.outbox);
        }
    }

    /// Reads a datagram that was sent to this local address.
    pub(crate) fn receive_at(
        &mut self,
        local_ip: IpAddr,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            let datagram = Datagram {
                local_ip: Some(local_ip),
                ..datagram
            };
            self.shards[datagram.shard.index()].handle(now, datagram, &mut self.outbox);
        }
    }

    /// Passes a datagram to this shard, regardless of its owner.
    pub(crate) fn receive_on(
        &mut self,
        shard: usize,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            self.shards[shard].handle(now, datagram, &mut self.outbox);
        }
    }

    /// Reads a datagram from this socket, and passes it to this shard, regardless of its owner.
    pub(crate) fn receive_at_socket(
        &mut self,
        socket: &SimSocket,
        shard: usize,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            let socket = socket.clone();
            let datagram = Datagram { socket, ..datagram };
            self.shards[shard].handle(now, datagram, &mut self.outbox);
        }
    }

    /// The shard that owns a datagram.
    pub(crate) fn owner(&self, contents: &[u8]) -> usize {
        match route(contents, self.count) {
            Route::Quic { shard, .. } => shard.index(),
            other => panic!("no datagram of QUIC: {other:?}"),
        }
    }

    /// The shard whose task reads a datagram.
    fn reader(&self, contents: &[u8]) -> usize {
        let Route::Quic { shard, .. } = route(contents, self.count) else {
            return 0;
        };
        match self.reader {
            Reader::Owner => shard.index(),
            Reader::NeverTheOwner => (shard.index() + 1) % self.count.count(),
        }
    }

    /// Tells all shards about datagrams that belong to no connection, as the drivers do.
    fn pass_on_unmatched(&mut self) {
        let unmatched: Vec<_> = (self.shards.iter_mut())
            .flat_map(Shard::take_unmatched)
            .collect();
        for remote_addr in unmatched {
            for shard in &mut self.shards {
                shard.offer_unmatched(remote_addr);
            }
        }
    }

    fn routed(&self, from: SocketAddr, contents: &[u8]) -> Option<Datagram<SimSocket>> {
        match route(contents, self.count) {
            Route::Quic { shard, header } => Some(self.unrouted(from, contents).to(shard, header)),
            Route::NonQuic | Route::Drop(_) => None,
        }
    }

    fn unrouted(&self, from: SocketAddr, contents: &[u8]) -> Unrouted<SimSocket> {
        Unrouted {
            socket: self.socket.clone(),
            remote_addr: from,
            local_ip: None,
            ecn: None,
            contents: BytesMut::from(contents),
            held: contents.len(),
        }
    }
}
