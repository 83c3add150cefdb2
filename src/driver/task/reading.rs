//! Reads the UDP sockets, and takes in what other shards have read.

use std::{
    io,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};

use super::{Clocks, Driver};
use crate::{
    driver::{slabs::Cutout, socket_group::SocketGroup},
    net::{Fault, MoreToRead, ReceiveBuffers, UdpSocket, Unreachable, clock},
    proto::{Routed, Unrouted, long_header_id},
    trace::dropped,
};

/// The settings for receiving.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct ReceiveSettings {
    /// Larger datagrams are dropped: we announce this limit to peers (`max_udp_payload_size`, RFC
    /// 9000 §18.2).
    pub(in crate::driver) max_datagram_bytes: usize,
    pub(in crate::driver) measure_routing: bool,
}

/// The most ICMP errors read from each UDP socket in one round. Anyone who knows the port can cause
/// them.
const ICMP_ERRORS_PER_ROUND: usize = 64;

/// UDP sockets are not read while more bytes than this wait for their connections' turns; then
/// datagrams wait in the kernel's buffer.
pub(in crate::driver) const MAX_INBOX_BYTES: usize = 1024 * 1024;

impl Driver {
    /// Reads each UDP socket once, beginning with a different one each time. Returns whether there
    /// may be more.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> MoreToRead {
        self.readers.retain(Reader::is_used);
        let mut more = MoreToRead::No;
        for step in 0..self.readers.len() {
            if self.shard.inbox_bytes() > MAX_INBOX_BYTES {
                // Serving the connections asks for another round, which reads them.
                return MoreToRead::Maybe;
            }
            let index = (self.next_reader + step) % self.readers.len();
            let icmp_errors = self.read_icmp_errors(cx, index);
            let datagrams = self.receive_from(cx, index);
            if [icmp_errors, datagrams].contains(&MoreToRead::Maybe) {
                more = MoreToRead::Maybe;
            }
        }
        self.next_reader = self.next_reader.wrapping_add(1);
        more
    }

    /// Takes datagrams that other shards have read for this one, unless enough wait already. The
    /// rest stays in the mailbox, which is bounded.
    pub(super) fn take_forwarded(&mut self) -> MoreToRead {
        let room = MAX_INBOX_BYTES.saturating_sub(self.shard.inbox_bytes());
        let mut datagrams = Vec::new();
        let has_more = self.mailbox().take_forwarded(room, &mut datagrams);
        let now = clock::now();
        for datagram in datagrams {
            self.shard.handle(now, datagram, &mut self.outbound);
        }
        if has_more {
            MoreToRead::Maybe
        } else {
            MoreToRead::No
        }
    }

    /// Reads ICMP errors about datagrams that were not delivered.
    fn read_icmp_errors(&mut self, cx: &mut Context<'_>, index: usize) -> MoreToRead {
        let reader = &mut self.readers[index];
        let Some(socket) = reader.group() else {
            return MoreToRead::No;
        };
        for _ in 0..ICMP_ERRORS_PER_ROUND {
            let Poll::Ready(icmp_error) = reader.poll_icmp_error(cx) else {
                return MoreToRead::No;
            };
            let Some(unreachable) = icmp_error else {
                continue;
            };
            self.shared
                .stun
                .unreachable(&socket, unreachable.remote_addr, &unreachable.quoted);
            // The connection ID of our first packets is random, so only a host on the path can
            // quote it.
            let Some(initial_id) = long_header_id(&unreachable.quoted) else {
                continue;
            };
            for mailbox in self.shared.mailboxes.iter() {
                mailbox.unreachable(
                    unreachable.remote_addr,
                    initial_id.to_vec(),
                    unreachable.obstacle,
                );
            }
        }
        MoreToRead::Maybe
    }

    fn receive_from(&mut self, cx: &mut Context<'_>, index: usize) -> MoreToRead {
        let reader = &mut self.readers[index];
        let Some(socket) = reader.group() else {
            return MoreToRead::No;
        };
        match reader.read(cx, &mut self.buffers) {
            Read::Nothing => MoreToRead::No,
            Read::Batch(more) => {
                self.handle_received(&socket);
                more
            }
            Read::InTrouble(error) => {
                tracing::debug!(%error, addr = %socket.local_addr(), "could not receive");
                self.shard.totals().transport.receive_errors += 1;
                MoreToRead::No
            }
            Read::Broken(error) => {
                self.shard.totals().transport.receive_errors += 1;
                self.shared.sockets.replace_failed(&socket, error);
                MoreToRead::No
            }
        }
    }

    /// Routes the datagrams in the receive buffers.
    fn handle_received(&mut self, socket: &Arc<SocketGroup>) {
        // The time after the system call: a packet must not have an earlier time than the packets
        // sent before it that it acknowledges.
        let now = clock::now();
        let ReceiveSettings {
            max_datagram_bytes,
            measure_routing,
        } = self.settings;
        for received in self.buffers.iter() {
            let fitting = received.up_to(max_datagram_bytes);
            let totals = self.shard.totals();
            dropped!(totals.registry, oversized += fitting.too_large);
            totals.transport.datagrams_received += fitting.too_large;
            totals.transport.bytes_received +=
                (received.contents.len() - fitting.contents.len()) as u64;
            if fitting.too_large > 0 && fitting.contents.is_empty() {
                continue;
            }
            for Cutout { contents, held } in self.slabs.cut(fitting.contents, received.stride) {
                let unrouted = Unrouted {
                    socket: Arc::clone(socket),
                    remote_addr: received.remote_addr,
                    local_ip: received.local_ip,
                    ecn: received.ecn,
                    contents,
                    held,
                };
                let meter = measure_routing.then_some(&Clocks);
                match (self.shard).route(now, unrouted, meter, &mut self.outbound) {
                    Routed::Done => {}
                    Routed::Forward(datagram) => {
                        self.forward[datagram.shard.index()].push(datagram);
                    }
                    Routed::NonQuic(contents) => {
                        self.shared
                            .stun
                            .receive(now, socket, received.remote_addr, &contents);
                    }
                }
            }
        }
        for (mailbox, datagrams) in self.shared.mailboxes.iter().zip(&mut self.forward) {
            if !datagrams.is_empty() {
                mailbox.forward(datagrams);
            }
        }
    }

    /// Tells the other shards about datagrams for which one of their dials may wait.
    pub(super) fn pass_on_unmatched(&mut self) {
        if self.shared.shards.count() == 1 {
            return;
        }
        self.mailbox().want_unmatched(self.shard.wants_unmatched());
        let unmatched = self.shard.take_unmatched();
        if unmatched.is_empty() {
            return;
        }
        for (shard, mailbox) in self.shared.mailboxes.iter().enumerate() {
            if shard != self.shard.id().index() {
                mailbox.note_unmatched(&unmatched);
            }
        }
    }
}

/// A UDP socket that a driver reads.
pub(super) struct Reader {
    io: Arc<UdpSocket>,
    group: Weak<SocketGroup>,
    /// Resolves when the UDP socket has an ICMP error.
    icmp_error: BoxFuture<'static, ()>,
    /// The earliest time for the next read, after too many errors.
    retry_at: Option<Instant>,
}

/// The result of a read.
pub(super) enum Read {
    /// Nothing; the task is woken when that changes.
    Nothing,
    /// A batch, which is in the buffers.
    Batch(MoreToRead),
    /// The UDP socket keeps failing, and is not read for a while.
    InTrouble(io::Error),
    /// The UDP socket has failed. It is not read for a while, unless it is replaced.
    Broken(io::Error),
}

/// The number of failed reads in a row after which a UDP socket is not read for a while.
const MAX_FAILURES: usize = 16;

/// How long a failing UDP socket is not read, so that it does not take up all CPU time.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

impl Reader {
    pub(super) fn new(io: Arc<UdpSocket>, group: Weak<SocketGroup>) -> Self {
        Self {
            icmp_error: Arc::clone(&io).icmp_error(),
            io,
            group,
            retry_at: None,
        }
    }

    pub(super) fn io(&self) -> &Arc<UdpSocket> {
        &self.io
    }

    /// The group of the UDP socket, while anyone uses it.
    pub(super) fn group(&self) -> Option<Arc<SocketGroup>> {
        self.group.upgrade()
    }

    /// Whether anyone uses the group and the UDP socket has not failed. Otherwise only the reader
    /// keeps it open.
    pub(super) fn is_used(&self) -> bool {
        self.group.strong_count() > 0 && !self.io.is_retired()
    }

    /// When a failing UDP socket should be read again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The next ICMP error: a datagram that was not delivered, or `None` for one that is ignored.
    pub(super) fn poll_icmp_error(&mut self, cx: &mut Context<'_>) -> Poll<Option<Unreachable>> {
        while self.icmp_error.poll_unpin(cx).is_ready() {
            // The next wait is registered before checking, so that no error is missed in between.
            self.icmp_error = Arc::clone(&self.io).icmp_error();
            if let Ok(icmp_error) = self.io.next_icmp_error() {
                return Poll::Ready(icmp_error);
            }
        }
        Poll::Pending
    }

    /// Reads one batch.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, buffers: &mut ReceiveBuffers) -> Read {
        if let Some(retry_at) = self.retry_at {
            if clock::now() < retry_at {
                return Read::Nothing;
            }
            self.retry_at = None;
        }
        for failures in 1.. {
            let error = match self.io.poll_receive(cx, buffers) {
                Poll::Pending => break,
                Poll::Ready(Ok(more)) => return Read::Batch(more),
                Poll::Ready(Err(error)) => error,
            };
            // Unless the socket is broken, the error most likely comes from ICMP and concerns a
            // datagram that was sent earlier. The socket reports each such error once, instead of
            // returning a datagram. So reading is repeated at once; otherwise a flood of forged
            // ICMP messages would keep datagrams away.
            let is_broken = Fault::of(&error) == Fault::Broken;
            if is_broken || failures == MAX_FAILURES {
                self.retry_at = Some(clock::now() + RECEIVE_RETRY);
                return if is_broken {
                    Read::Broken(error)
                } else {
                    Read::InTrouble(error)
                };
            }
        }
        Read::Nothing
    }
}
