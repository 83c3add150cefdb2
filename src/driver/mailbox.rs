//! What the application and other shards want from a driver.

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use quinn_proto::ClientConfig;

use super::{connection::Handshake, doorbell::Doorbell, socket::Socket, wakers::Reply};
use crate::{
    error::{DialError, HandshakeError},
    net::UdpSocket,
    proto::{Datagram, IncomingKey},
    sync::{Mutex, lock},
};

/// Most dials and accepted connections that wait for their driver.
///
/// It takes two every few hundred microseconds; this is ten seconds of work, longer than anyone waits.
const MAX_REQUESTS: usize = 65_536;

/// Most bytes of datagrams that other shards have left here.
///
/// About what a socket's receive buffer would hold; past it datagrams are dropped, and QUIC repairs it.
const MAX_FORWARDED_BYTES: usize = 1024 * 1024;

/// Most reports of unreachable addresses that wait. They only save time; the rest is dropped.
const MAX_UNREACHABLE: usize = 64;

/// The inbox of one driver.
#[derive(Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    doorbell: Arc<Doorbell>,
}

/// What has arrived since the driver looked last.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) requests: VecDeque<Request>,
    pub(super) forwarded: Vec<Datagram<Arc<Socket>>>,
    pub(super) forwarded_bytes: usize,
    /// Datagrams that found `forwarded` full.
    pub(super) overflowed: u64,
    /// Addresses where nobody listens, with the initial ID of the dial in question.
    pub(super) unreachable: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) sockets: Vec<(Arc<UdpSocket>, Weak<Socket>)>,
    /// Some sockets were given up for others.
    pub(super) given_up: bool,
    /// The transport is gone: leave when there is nothing left to drive.
    pub(super) closing: bool,
    /// The driver is gone.
    stopped: bool,
}

/// Something to be done between the turns of connections; most of it costs TLS work.
pub(super) enum Request {
    Accept {
        key: IncomingKey,
        /// What the interface takes, in bytes of UDP payload, if it tells.
        max_payload: Option<u16>,
        reply: Reply<Result<Handshake, HandshakeError>>,
    },
    Dial {
        config: Box<ClientConfig>,
        remote_addr: SocketAddr,
        socket: Arc<Socket>,
        reply: Reply<Result<Handshake, DialError>>,
    },
    Refuse {
        key: IncomingKey,
    },
    /// Send to an address until nobody waits any more, or the time for a handshake is over.
    Punch {
        remote_addr: SocketAddr,
        socket: Arc<Socket>,
        over: Reply<()>,
    },
    /// Send a datagram that is not QUIC.
    #[cfg(feature = "nat")]
    Send {
        remote_addr: SocketAddr,
        socket: Arc<Socket>,
        contents: Vec<u8>,
    },
}

/// Has one of a socket's read by the driver with this number, or by another one if that is gone: what comes in is for
/// all of them.
pub(super) fn read_socket(
    mailboxes: &[Arc<Mailbox>],
    reader: usize,
    socket: &Arc<Socket>,
    io: &Arc<UdpSocket>,
) -> Result<(), Undeliverable> {
    let (before, from) = mailboxes.split_at(reader);
    from.iter()
        .chain(before)
        .find_map(|mailbox| mailbox.read_socket(socket, io).ok())
        .ok_or(Undeliverable)
}

/// The driver is gone, or has far too much to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undeliverable;

impl Mailbox {
    pub(super) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    pub(super) fn request(&self, request: Request) -> Result<(), Undeliverable> {
        let mut mail = lock(&self.mail);
        let is_full =
            mail.requests.len() >= MAX_REQUESTS && !matches!(request, Request::Refuse { .. });
        if mail.stopped || is_full {
            return Err(Undeliverable);
        }
        mail.requests.push_back(request);
        drop(mail);
        self.doorbell.ring();
        Ok(())
    }

    /// Leaves datagrams that belong to this driver's shard.
    pub(super) fn forward(&self, datagrams: &mut Vec<Datagram<Arc<Socket>>>) {
        self.post(|mail| {
            for datagram in datagrams.drain(..) {
                let bytes = mail.forwarded_bytes + datagram.charge();
                if bytes > MAX_FORWARDED_BYTES {
                    mail.overflowed += 1;
                } else {
                    mail.forwarded_bytes = bytes;
                    mail.forwarded.push(datagram);
                }
            }
        });
        // Left only if the driver has stopped: they belong to nobody, and must not keep their socket.
        datagrams.clear();
    }

    pub(super) fn unreachable(&self, remote_addr: SocketAddr, initial_id: Vec<u8>) {
        self.post(|mail| {
            if mail.unreachable.len() < MAX_UNREACHABLE {
                mail.unreachable.push((remote_addr, initial_id));
            }
        });
    }

    /// Tells that some sockets were given up for others.
    pub(super) fn note_given_up(&self) {
        self.post(|mail| mail.given_up = true);
    }

    /// Whether the driver is gone.
    pub(super) fn has_stopped(&self) -> bool {
        lock(&self.mail).stopped
    }

    /// Has the driver read one of a socket's for as long as anyone uses it.
    fn read_socket(&self, socket: &Arc<Socket>, io: &Arc<UdpSocket>) -> Result<(), Undeliverable> {
        let mut mail = lock(&self.mail);
        if mail.stopped {
            return Err(Undeliverable);
        }
        mail.sockets.push((Arc::clone(io), Arc::downgrade(socket)));
        drop(mail);
        self.doorbell.ring();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.post(|mail| mail.closing = true);
    }

    pub(super) fn take(&self) -> Mail {
        mem::take(&mut *lock(&self.mail))
    }

    /// Nothing is taken any more; what is left is dropped, which its senders notice.
    pub(super) fn stop(&self) {
        let left = mem::replace(
            &mut *lock(&self.mail),
            Mail {
                stopped: true,
                ..Mail::default()
            },
        );
        drop(left);
    }

    fn post(&self, write: impl FnOnce(&mut Mail)) {
        let mut mail = lock(&self.mail);
        if mail.stopped {
            return;
        }
        write(&mut mail);
        drop(mail);
        self.doorbell.ring();
    }
}
