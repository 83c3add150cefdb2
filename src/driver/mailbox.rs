//! Where the application and other shards leave what they want from a driver.

use std::{
    collections::VecDeque,
    convert::Infallible,
    mem,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use quinn_proto::VarInt;

use super::{
    doorbell::Doorbell,
    flushes::{Flush, Flushes},
    requests::{Dropped, Request, Requests},
    socket_group::SocketGroup,
};
use crate::{
    net::{Obstacle, UdpSocket},
    proto::{Datagram, MAX_UNMATCHED},
    sync::{Mutex, lock},
};

/// The most bytes of datagrams from other shards that wait here.
///
/// About as many as a socket's receive buffer holds. Datagrams beyond it are dropped, and QUIC
/// repairs the loss.
pub(super) const MAX_FORWARDED_BYTES: usize = 1024 * 1024;

/// The most reports of unreachable addresses that wait. They only save time; further ones are
/// dropped.
pub(super) const MAX_UNREACHABLE: usize = 64;

/// The mailbox of one driver.
#[derive(Default)]
pub(crate) struct Mailbox {
    inside: Mutex<Inside>,
    doorbell: Arc<Doorbell>,
    flushes: Flushes,
    /// Whether the driver is to be told about unmatched datagrams.
    wants_unmatched: AtomicBool,
}

#[derive(Default)]
struct Inside {
    /// Requests that wait until the driver has time for them.
    requests: Requests,
    /// Datagrams that wait until the driver has room for them.
    forwarded: VecDeque<Datagram<Arc<SocketGroup>>>,
    forwarded_bytes: usize,
    mail: Mail,
    /// The driver has stopped, or is stopping.
    stopped: bool,
    /// The driver has stopped without a panic, so a new one may replace it.
    gone: bool,
    /// The transport is shut down: no new connection begins.
    is_shut_down: bool,
    /// Which of its successive drivers the mailbox has now.
    generation: Generation,
}

/// What has arrived since the driver's last look, and whether requests or datagrams wait.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) has_requests: bool,
    pub(super) has_forwarded: bool,
    /// The number of requests dropped.
    pub(super) dropped: Dropped,
    /// The number of datagrams from other shards that were dropped.
    pub(super) overflowed: u64,
    /// Addresses that were not reached, each with the initial ID of the dial concerned.
    pub(super) unreachable: Vec<(SocketAddr, Vec<u8>, Obstacle)>,
    /// Senders of datagrams that belong to no connection of the shard that got them.
    pub(super) unmatched: Vec<SocketAddr>,
    pub(super) sockets: Vec<(Arc<UdpSocket>, Weak<SocketGroup>)>,
    /// Some sockets have got a successor.
    pub(super) given_up: bool,
    /// The last flush that was asked for.
    pub(super) flush: Option<Flush>,
    /// The transport and all attempts to connect are gone: stop once nothing is left to drive.
    pub(super) may_stop: bool,
    /// Close all connections.
    pub(super) close_all: Option<CloseAll>,
}

/// How to close all connections.
#[derive(Clone, Debug)]
pub(super) struct CloseAll {
    pub(super) code: VarInt,
    pub(super) reason: Bytes,
    /// Close without waiting for the delivery of streams that were closed.
    pub(super) at_once: bool,
}

/// Asks driver `reader` to read this UDP socket, or another driver if that one has stopped. Any
/// driver will do, because it forwards datagrams of other shards.
pub(super) fn read_socket(
    mailboxes: &[Arc<Mailbox>],
    reader: usize,
    socket: &Arc<SocketGroup>,
    io: &Arc<UdpSocket>,
) -> Result<(), Undeliverable> {
    let (before, from) = mailboxes.split_at(reader);
    from.iter()
        .chain(before)
        .find_map(|mailbox| mailbox.read_socket(socket, io).ok())
        .ok_or(Undeliverable::Stopped)
}

/// The reason why a request was not delivered to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undeliverable {
    /// Too many requests of this kind wait already.
    Overloaded,
    /// The driver has stopped.
    Stopped,
    /// The transport is shut down.
    ShutDown,
}

/// Identifies one of the successive drivers of a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl Generation {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Mailbox {
    pub(super) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    pub(super) fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// Asks the driver to note when it has sent what its connections have to send now.
    pub(super) fn ask_for_flush(&self) -> Flush {
        let flush = self.flushes.ask();
        self.post(|inside| inside.mail.flush = inside.mail.flush.max(Some(flush)));
        flush
    }

    pub(super) fn request(&self, request: Request) -> Result<(), Undeliverable> {
        self.push(request, None)
    }

    /// Like [`request`](Self::request), if `begin` succeeds. It is called only if the request can
    /// be delivered, and while the mailbox is locked.
    pub(super) fn request_with<T, E>(
        &self,
        request: Request,
        begin: impl FnOnce() -> Result<T, E>,
    ) -> Result<Result<T, E>, Undeliverable> {
        self.push_with(request, None, begin)
    }

    /// Like [`request`](Self::request), but only for this driver and not for a later one.
    pub(super) fn request_in(
        &self,
        generation: Generation,
        request: Request,
    ) -> Result<(), Undeliverable> {
        self.push(request, Some(generation))
    }

    fn push(&self, request: Request, generation: Option<Generation>) -> Result<(), Undeliverable> {
        let begin = || Ok::<(), Infallible>(());
        self.push_with(request, generation, begin).map(|_| ())
    }

    fn push_with<T, E>(
        &self,
        request: Request,
        generation: Option<Generation>,
        begin: impl FnOnce() -> Result<T, E>,
    ) -> Result<Result<T, E>, Undeliverable> {
        let mut inside = lock(&self.inside);
        if inside.stopped || generation.is_some_and(|generation| generation != inside.generation) {
            return Err(Undeliverable::Stopped);
        }
        if inside.is_shut_down && request.begins_connection() {
            return Err(Undeliverable::ShutDown);
        }
        let Inside { requests, mail, .. } = &mut *inside;
        if !requests.has_room_for(&request, &mut mail.dropped) {
            return Err(Undeliverable::Overloaded);
        }
        let begun = begin();
        if begun.is_ok() {
            requests.push(request);
            drop(inside);
            self.doorbell.ring();
        }
        Ok(begun)
    }

    /// Leaves datagrams for this driver's shard.
    pub(super) fn forward(&self, datagrams: &mut Vec<Datagram<Arc<SocketGroup>>>) {
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
        // Datagrams are left only if the driver has stopped. They are dropped, because each would
        // keep its socket open.
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

    /// Sets whether a dial of this shard may wait for a datagram that belongs to no connection.
    pub(super) fn want_unmatched(&self, wants: bool) {
        self.wants_unmatched.store(wants, Ordering::Relaxed);
    }

    /// Leaves the senders of such datagrams that another shard has got, if it waits for any.
    pub(super) fn note_unmatched(&self, remote_addrs: &[SocketAddr]) {
        if !self.wants_unmatched.load(Ordering::Relaxed) {
            return;
        }
        self.post(|inside| {
            let unmatched = &mut inside.mail.unmatched;
            let room = MAX_UNMATCHED.saturating_sub(unmatched.len());
            unmatched.extend(remote_addrs.iter().take(room));
        });
    }

    /// Notes that some sockets have got a successor.
    pub(super) fn note_given_up(&self) {
        self.post(|inside| inside.mail.given_up = true);
    }

    /// The current driver.
    pub(super) fn generation(&self) -> Generation {
        lock(&self.inside).generation
    }

    /// Whether the driver has stopped.
    pub(super) fn has_stopped(&self) -> bool {
        lock(&self.inside).stopped
    }

    /// Asks the driver to read this UDP socket until the group has no user.
    fn read_socket(
        &self,
        socket: &Arc<SocketGroup>,
        io: &Arc<UdpSocket>,
    ) -> Result<(), Undeliverable> {
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

    pub(super) fn allow_stop(&self) {
        self.post(|inside| inside.mail.may_stop = true);
    }

    /// Makes the driver close all connections, and begin none from now on, including those already
    /// requested. Peers receive the code and reason of the first call.
    pub(super) fn close_connections(&self, close_all: CloseAll) {
        let mut dropped = Requests::default();
        lock(&self.inside).is_shut_down = true;
        self.post(|inside| {
            mem::swap(&mut inside.requests, &mut dropped);
            match &mut inside.mail.close_all {
                Some(first) => first.at_once |= close_all.at_once,
                none => *none = Some(close_all),
            }
        });
        // Dropping requests wakes their dials, so it happens after unlocking.
        drop(dropped);
    }

    pub(super) fn take(&self) -> Mail {
        let mut inside = lock(&self.inside);
        Mail {
            has_requests: !inside.requests.is_empty(),
            has_forwarded: !inside.forwarded.is_empty(),
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

    /// Takes datagrams from other shards, oldest first, until their charges reach `bytes`. Returns
    /// whether more are left.
    pub(super) fn take_forwarded(
        &self,
        bytes: usize,
        datagrams: &mut Vec<Datagram<Arc<SocketGroup>>>,
    ) -> bool {
        let mut inside = lock(&self.inside);
        let mut taken = 0;
        while taken < bytes {
            let Some(datagram) = inside.forwarded.pop_front() else {
                // The queue is empty, so the memory of a burst is freed.
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

    /// Notes that the driver has stopped without a panic, so that another one may replace it.
    pub(super) fn mark_gone(&self) {
        lock(&self.inside).gone = true;
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.inside).gone
    }

    /// Accepts requests for a new driver from now on.
    pub(super) fn revive(&self) {
        self.flushes.begin_again();
        let mut inside = lock(&self.inside);
        let next = Inside {
            is_shut_down: inside.is_shut_down,
            generation: inside.generation.next(),
            ..Inside::default()
        };
        let left = mem::replace(&mut *inside, next);
        drop(inside);
        drop(left);
    }

    /// Accepts nothing from now on. Drops the remaining requests, whose callers then get an error.
    /// Returns the rest of what has arrived.
    pub(super) fn stop(&self) -> Mail {
        let mut inside = lock(&self.inside);
        let stopped = Inside {
            stopped: true,
            is_shut_down: inside.is_shut_down,
            generation: inside.generation,
            ..Inside::default()
        };
        let left = mem::replace(&mut *inside, stopped);
        drop(inside);
        left.mail
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
