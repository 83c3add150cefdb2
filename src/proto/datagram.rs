//! Datagrams that come in and go out, as values.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};

use super::{connection_id::ShardId, pending::IncomingKey, router::HeaderForm};

/// What a datagram counts for at least in limits on bytes: about what it takes to keep it, however short it is.
const LEAST_CHARGE: usize = 512;

/// What a datagram of so many bytes counts for while it waits.
pub(super) fn charge_of(len: usize) -> usize {
    len.max(LEAST_CHARGE)
}

/// What a socket has to tell the core.
pub(crate) trait Socket: Clone {
    fn local_addr(&self) -> SocketAddr;

    /// Whether connections are accepted here. A socket that only dials answers no strangers.
    fn is_listening(&self) -> bool;

    /// The socket that connections should send from in place of this one, as soon as they may.
    fn successor(&self) -> Option<Self>;
}

/// Where the datagrams of a connection leave that has this source address.
pub(super) fn local_addr<S: Socket>(socket: &S, source: Option<IpAddr>) -> SocketAddr {
    let mut addr = socket.local_addr();
    if let Some(ip) = source
        && addr.ip().is_unspecified()
    {
        addr.set_ip(ip);
    }
    addr
}

/// Where datagrams leave.
pub(crate) trait Outbound<S> {
    /// Whether the socket would take a batch for that address now.
    fn is_ready(&self, socket: &S, remote_addr: SocketAddr) -> bool;

    /// How many datagrams for that address the socket takes at once.
    fn max_segments(&self, socket: &S, remote_addr: SocketAddr) -> usize;

    /// The address that a datagram from this socket to that address leaves from if it is given none; `None` if
    /// there is no way at present.
    fn source_ip(&self, socket: &S, remote_addr: SocketAddr) -> Option<IpAddr>;

    /// Sends `contents`, or keeps a copy of them until the socket takes them.
    fn send(&mut self, socket: &S, transmit: Transmit, contents: &[u8]) -> Sent;
}

/// Whether a socket takes more for the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Ready,
    /// The operating system does not let it out.
    Forbidden,
    /// Not before [`Shard::unblock`](super::shard::Shard::unblock).
    Blocked,
    /// No interface has the address any more that it should leave from.
    SourceGone,
}

/// A datagram that was routed to this shard.
pub(crate) struct Datagram<S> {
    pub(crate) socket: S,
    /// As routed.
    pub(crate) shard: ShardId,
    pub(crate) header: HeaderForm,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) contents: BytesMut,
    /// Bytes of memory that it keeps for as long as anybody keeps a part of `contents`: their
    /// length, or its share of an allocation in which others lie as well.
    pub(crate) held: usize,
}

impl<S> Datagram<S> {
    /// What it counts for in limits on bytes while it waits.
    pub(crate) fn charge(&self) -> usize {
        charge_of(self.held)
    }
}

/// An incoming connection that waits for the application's answer.
///
/// No TLS work has been done for it yet.
pub(crate) struct Incoming<S> {
    pub(crate) key: IncomingKey,
    pub(crate) socket: S,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
}
