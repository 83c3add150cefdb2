//! What the application and other shards want from a driver.

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use quinn_proto::VarInt;

use super::{
    doorbell::Doorbell,
    requests::{Dropped, Request, Requests},
    socket::Socket,
};
use crate::{
    net::{Obstacle, UdpSocket},
    proto::Datagram,
    sync::{Mutex, lock},
};

/// Most bytes of datagrams that other shards have left here.
///
/// About what a socket's receive buffer would hold; past it datagrams are dropped, and QUIC repairs it.
pub(super) const MAX_FORWARDED_BYTES: usize = 1024 * 1024;

/// Most reports of unreachable addresses that wait. They only save time; the rest is dropped.
const MAX_UNREACHABLE: usize = 64;

/// The inbox of one driver.
#[derive(Default)]
pub(crate) struct Mailbox {
    inside: Mutex<Inside>,
    doorbell: Arc<Doorbell>,
}

#[derive(Default)]
struct Inside {
    /// They wait here until the driver has time for one.
    requests: Requests,
    /// They wait here until the driver has room for them.
    forwarded: VecDeque<Datagram<Arc<Socket>>>,
    forwarded_bytes: usize,
    mail: Mail,
    /// The driver is gone, or is on its way.
    stopped: bool,
    /// Nothing is left of it.
    gone: bool,
    /// The transport is shut down: no connection begins any more.
    is_shut_down: bool,
    /// Drivers that were here before.
    former: u64,
}

/// What has arrived since the driver looked last, and what it has to know of what waits.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) has_requests: bool,
    pub(super) has_forwarded: bool,
    /// Requests that were dropped.
    pub(super) dropped: Dropped,
    /// Datagrams of other shards that found no room.
    pub(super) overflowed: u64,
    /// Addresses that were not reached, with the initial ID of the dial in question.
    pub(super) unreachable: Vec<(SocketAddr, Vec<u8>, Obstacle)>,
    pub(super) sockets: Vec<(Arc<UdpSocket>, Weak<Socket>)>,
    /// Some sockets were given up for others.
    pub(super) given_up: bool,
    /// The transport is gone: leave when there is nothing left to drive.
    pub(super) closing: bool,
    /// Close all connections.
    pub(super) farewell: Option<Farewell>,
}

/// How all connections are closed.
#[derive(Clone, Debug)]
pub(super) struct Farewell {
    pub(super) code: VarInt,
    pub(super) reason: Bytes,
    /// Without waiting for streams that were closed and are not delivered.
    pub(super) at_once: bool,
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
        .ok_or(Undeliverable::Stopped)
}

/// What was not delivered to a driver, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undeliverable {
    /// So many requests of the kind wait already that there is no place for another one.
    Overloaded,
    /// The driver is gone.
    Stopped,
    /// The transport is shut down.
    ShutDown,
}

/// Which of a mailbox's drivers, one after the other, is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenure(u64);

impl Mailbox {
    pub(super) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    pub(super) fn request(&self, request: Request) -> Result<(), Undeliverable> {
        self.push(request, None)
    }

    /// The same for what only this driver knows.
    pub(super) fn request_in(&self, tenure: Tenure, request: Request) -> Result<(), Undeliverable> {
        self.push(request, Some(tenure))
    }

    fn push(&self, request: Request, tenure: Option<Tenure>) -> Result<(), Undeliverable> {
        let mut inside = lock(&self.inside);
        if inside.stopped || tenure.is_some_and(|Tenure(former)| former != inside.former) {
            return Err(Undeliverable::Stopped);
        }
        if inside.is_shut_down && request.begins_connection() {
            return Err(Undeliverable::ShutDown);
        }
        if !inside.requests.has_room_for(&request) {
            return Err(Undeliverable::Overloaded);
        }
        inside.requests.push(request);
        drop(inside);
        self.doorbell.ring();
        Ok(())
    }

    /// Leaves datagrams that belong to this driver's shard.
    pub(super) fn forward(&self, datagrams: &mut Vec<Datagram<Arc<Socket>>>) {
        self.post(|inside| {
            for datagram in datagrams.drain(..) {
                let bytes = inside.forwarded_bytes + datagram.charge();
                if bytes > MAX_FORWARDED_BYTES {
                    inside.mail.overflowed += 1;
                } else {
                    inside.forwarded_bytes = bytes;
                    inside.forwarded.push_back(datagram);
                }
            }
        });
        // Left only if the driver has stopped: they belong to nobody, and must not keep their socket.
        datagrams.clear();
    }

    pub(super) fn unreachable(
        &self,
        remote_addr: SocketAddr,
        initial_id: Vec<u8>,
        obstacle: Obstacle,
    ) {
        self.post(|inside| {
            let unreachable = &mut inside.mail.unreachable;
            if unreachable.len() < MAX_UNREACHABLE {
                unreachable.push((remote_addr, initial_id, obstacle));
            }
        });
    }

    /// Tells that some sockets were given up for others.
    pub(super) fn note_given_up(&self) {
        self.post(|inside| inside.mail.given_up = true);
    }

    /// The driver that there is now.
    pub(super) fn tenure(&self) -> Tenure {
        Tenure(lock(&self.inside).former)
    }

    /// Whether the driver is gone.
    pub(super) fn has_stopped(&self) -> bool {
        lock(&self.inside).stopped
    }

    /// Has the driver read one of a socket's for as long as anyone uses it.
    fn read_socket(&self, socket: &Arc<Socket>, io: &Arc<UdpSocket>) -> Result<(), Undeliverable> {
        let mut inside = lock(&self.inside);
        if inside.stopped {
            return Err(Undeliverable::Stopped);
        }
        let reader = (Arc::clone(io), Arc::downgrade(socket));
        inside.mail.sockets.push(reader);
        drop(inside);
        self.doorbell.ring();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.post(|inside| inside.mail.closing = true);
    }

    /// Has the driver close all connections, and begin none from now on, also none that was asked
    /// for before. What the peers are told was decided by the first one who has asked for this.
    pub(super) fn close_connections(&self, farewell: Farewell) {
        let mut dropped = Requests::default();
        lock(&self.inside).is_shut_down = true;
        self.post(|inside| {
            mem::swap(&mut inside.requests, &mut dropped);
            match &mut inside.mail.farewell {
                Some(first) => first.at_once |= farewell.at_once,
                none => *none = Some(farewell),
            }
        });
        // Whoever waits is woken when nothing is locked.
        drop(dropped);
    }

    pub(super) fn take(&self) -> Mail {
        let mut inside = lock(&self.inside);
        Mail {
            has_requests: !inside.requests.is_empty(),
            has_forwarded: !inside.forwarded.is_empty(),
            dropped: inside.requests.take_dropped(),
            ..mem::take(&mut inside.mail)
        }
    }

    /// Takes one of the requests that wait.
    pub(super) fn take_request<T>(
        &self,
        take: impl FnOnce(&mut Requests) -> Option<T>,
    ) -> Option<T> {
        take(&mut lock(&self.inside).requests)
    }

    pub(super) fn has_requests(&self) -> bool {
        !lock(&self.inside).requests.is_empty()
    }

    /// Takes datagrams of other shards, those that came first, until they count for so many bytes;
    /// tells whether there are more.
    pub(super) fn take_forwarded(
        &self,
        bytes: usize,
        datagrams: &mut Vec<Datagram<Arc<Socket>>>,
    ) -> bool {
        let mut inside = lock(&self.inside);
        let mut taken = 0;
        while taken < bytes {
            let Some(datagram) = inside.forwarded.pop_front() else {
                // A burst is over; its memory goes with it.
                inside.forwarded = VecDeque::new();
                return false;
            };
            let charge = datagram.charge();
            inside.forwarded_bytes -= charge;
            taken += charge;
            datagrams.push(datagram);
        }
        !inside.forwarded.is_empty()
    }

    /// Nothing is left of the driver, so that another one may take its place.
    pub(super) fn mark_gone(&self) {
        lock(&self.inside).gone = true;
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.inside).gone
    }

    /// Takes things for another driver from now on.
    pub(super) fn revive(&self) {
        let mut inside = lock(&self.inside);
        let next = Inside {
            is_shut_down: inside.is_shut_down,
            former: inside.former + 1,
            ..Inside::default()
        };
        let left = mem::replace(&mut *inside, next);
        drop(inside);
        drop(left);
    }

    /// Nothing is taken any more; what is left is dropped, which its senders notice.
    pub(super) fn stop(&self) {
        let mut inside = lock(&self.inside);
        let stopped = Inside {
            stopped: true,
            is_shut_down: inside.is_shut_down,
            former: inside.former,
            ..Inside::default()
        };
        let left = mem::replace(&mut *inside, stopped);
        drop(inside);
        drop(left);
    }

    fn post(&self, write: impl FnOnce(&mut Inside)) {
        let mut inside = lock(&self.inside);
        if inside.stopped {
            return;
        }
        write(&mut inside);
        drop(inside);
        self.doorbell.ring();
    }
}
