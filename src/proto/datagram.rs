//! Incoming and outgoing datagrams, as values.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};

use super::{connection_id::ShardId, reception::IncomingKey, router::HeaderForm};

/// The least that a datagram counts in limits on bytes: about the memory for keeping it, however
/// short it is.
const LEAST_CHARGE: usize = 512;

/// What a datagram of this many bytes counts in limits while it waits.
pub(super) fn charge_of(len: usize) -> usize {
    len.max(LEAST_CHARGE)
}

/// A handle to a socket. The driver owns the socket; the core only passes the handle back.
pub(crate) trait SocketHandle: Clone {
    fn local_addr(&self) -> SocketAddr;

    /// Whether it accepts connections. A socket that only dials sends no answers to strangers.
    fn is_listening(&self) -> bool;

    /// The socket to which connections should move from this one, as soon as the protocol permits.
    fn successor(&self) -> Option<Self>;
}

/// The address from which a connection with this source address sends.
pub(super) fn local_addr<S: SocketHandle>(socket: &S, source: Option<IpAddr>) -> SocketAddr {
    let mut addr = socket.local_addr();
    if let Some(ip) = source
        && addr.ip().is_unspecified()
    {
        addr.set_ip(ip);
    }
    addr
}

/// The interface for sending.
pub(crate) trait Output<S> {
    /// Whether the socket can now send a batch to that address.
    fn is_ready(&self, socket: &S, remote_addr: SocketAddr) -> bool;

    /// The most datagrams in a batch to that address.
    fn max_segments(&self, socket: &S, remote_addr: SocketAddr) -> usize;

    /// The source address that the kernel would choose for a datagram from this socket to that
    /// address; `None` if there is no route at present.
    fn source_ip(&self, socket: &S, remote_addr: SocketAddr) -> Option<IpAddr>;

    /// Sends `contents`, or keeps a copy until the socket is ready.
    fn send(&mut self, socket: &S, transmit: Transmit, contents: &[u8]) -> Sent;
}

/// Whether more can be sent to the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Ready,
    /// The operating system forbids sending it.
    Forbidden,
    /// Not before [`Shard::unblock`](super::shard::Shard::unblock).
    Blocked,
    /// No interface has the source address any more.
    SourceGone,
}

/// A datagram as it was read from a socket.
pub(crate) struct Unrouted<S> {
    pub(crate) socket: S,
    pub(crate) remote_addr: SocketAddr,
    /// The local address at which it arrived, if it is known.
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) contents: BytesMut,
    /// See [`Datagram::held`].
    pub(crate) held: usize,
}

impl<S> Unrouted<S> {
    pub(crate) fn to(self, shard: ShardId, header: HeaderForm) -> Datagram<S> {
        let Self {
            socket,
            remote_addr,
            local_ip,
            ecn,
            contents,
            held,
        } = self;
        Datagram {
            socket,
            shard,
            header,
            remote_addr,
            local_ip,
            ecn,
            contents,
            held,
        }
    }
}

/// What is left to do with a datagram after routing.
pub(crate) enum Routed<S> {
    /// Nothing: the shard has handled or dropped it.
    Done,
    /// It belongs to another shard.
    Forward(Datagram<S>),
    /// It is not QUIC. These are its contents.
    NonQuic(BytesMut),
}

/// A datagram that was routed to a shard.
pub(crate) struct Datagram<S> {
    pub(crate) socket: S,
    /// The shard to which it was routed.
    pub(crate) shard: ShardId,
    pub(crate) header: HeaderForm,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) contents: BytesMut,
    /// Bytes of memory that are kept as long as any part of `contents` is: their length, or their
    /// share of an allocation with other datagrams.
    pub(crate) held: usize,
}

impl<S> Datagram<S> {
    /// What it counts in limits on bytes while it waits.
    pub(crate) fn charge(&self) -> usize {
        charge_of(self.held)
    }
}

/// An incoming connection that waits for the application to accept or refuse it. It has cost no TLS
/// work yet.
pub(crate) struct Incoming<S> {
    pub(crate) key: IncomingKey,
    pub(crate) socket: S,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
}

/// The number of datagrams in a transmit.
pub(super) fn datagrams(transmit: &Transmit) -> u64 {
    match transmit.segment_size {
        Some(size) => transmit.size.div_ceil(size) as u64,
        None => 1,
    }
}
