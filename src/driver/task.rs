//! The task of one shard.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use quinn_proto::{ConnectError, ConnectionHandle};
#[cfg(feature = "nat")]
use {crate::proto::Outbound as _, quinn_proto::Transmit, std::net::SocketAddr};

#[cfg(feature = "nat")]
use super::stun::StunDispatcher;
use super::{
    connection::{DrivenConnection, Handshake},
    idle::Idle,
    incoming::{IncomingConnection, IncomingQueue},
    mailbox::{CloseAll, Mailbox, read_socket},
    outbound::Outbound,
    reader::{Read, Reader},
    requests::{Accept, Dial, HandshakeRequest, PacketRequest, Requests},
    round_scheduler::RoundScheduler,
    slabs::{Piece, Slabs},
    socket_group::SocketGroup,
    sockets::Sockets,
    wakers::{self, Reply},
};
use crate::{
    error::{DialError, HandshakeError},
    net::{Backlog, Obstacle, ReceiveBuffers, Timer, clock, task::wake_after_others},
    proto::{
        Datagram, DialDeadlines, Meter, PunchKey, Route, Shard, Shards, SharedConnection, Totals,
        long_header_id, route,
    },
};

/// The most turns in one round; then the sockets are read again.
const TURNS_PER_ROUND: usize = 32;

/// How long a round gives turns to connections; then other tasks of the runtime run.
///
/// A ping during a bulk transfer waits for the end of a round at both hosts, in both directions.
const ROUND_TIME: Duration = Duration::from_micros(100);

/// The most handshakes begun in one round. Each costs 100–200 µs of TLS work, during which all
/// other connections wait.
const HANDSHAKES_PER_ROUND: usize = 2;

/// How long a round works on requests if TLS takes longer than that. One handshake is begun in any
/// case.
const REQUEST_TIME: Duration = Duration::from_micros(400);

/// The most requests of each kind in one round: those that cost a packet, those that nobody waits
/// for any more, and those that have waited for too long.
const REQUESTS_PER_ROUND: usize = 64;

/// The most ICMP errors read from each socket in one round. Anyone who knows the port can cause
/// them.
const REPORTS_PER_ROUND: usize = 64;

/// Sockets are not read while more bytes than this wait for their connections' turns; then
/// datagrams wait in the kernel's buffer.
pub(super) const MAX_INBOX_BYTES: usize = 1024 * 1024;

/// Connections that ring between two polls in normal operation. The memory for more of them is
/// freed.
const FEW_TURNS: usize = 1024;

/// The clocks that measure turns.
struct Clocks;

impl Meter for Clocks {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn cpu_time(&self) -> Duration {
        clock::thread_cpu_time()
    }
}

/// The settings for receiving.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveSettings {
    /// Larger datagrams are dropped: we announce this limit to peers (`max_udp_payload_size`, RFC
    /// 9000 §18.2).
    pub(super) max_datagram_bytes: usize,
    pub(super) measure_routing: bool,
}

/// The state that all drivers of a transport share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) shards: Shards,
    /// The mailboxes of all shards.
    pub(super) mailboxes: Arc<[Arc<Mailbox>]>,
    pub(super) incoming: Arc<IncomingQueue>,
    #[cfg(feature = "nat")]
    pub(super) stun: Arc<StunDispatcher>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) idle: Arc<Idle>,
}

/// The task of one shard: it receives, gives turns to connections, sends, and sleeps.
pub(super) struct Driver {
    shard: Shard<Arc<SocketGroup>>,
    shared: Shared,
    readers: Vec<Reader>,
    /// The reader that comes first in the next round, so that no socket starves another.
    next_reader: usize,
    /// Whether requests wait in the mailbox.
    has_requests: bool,
    /// Hole punches in progress, each with the reply to send at its end.
    punches: Vec<(PunchKey, Reply<()>)>,
    outbound: Outbound,
    timer: Timer,
    buffers: ReceiveBuffers,
    slabs: Slabs,
    /// Datagrams for other shards, by shard.
    forward: Vec<Vec<Datagram<Arc<SocketGroup>>>>,
    /// Connections that have rung; empty between two polls.
    turns: Vec<ConnectionHandle>,
    wakers: Vec<Waker>,
    scheduler: RoundScheduler,
    /// When the next unused socket is to be closed.
    next_unused: Option<Instant>,
    settings: ReceiveSettings,
    closing: bool,
}

impl Driver {
    pub(super) fn new(
        shard: Shard<Arc<SocketGroup>>,
        shared: Shared,
        settings: ReceiveSettings,
    ) -> Self {
        let outbound = Outbound::new(shard.id().index());
        Self {
            shard,
            readers: Vec::new(),
            next_reader: 0,
            has_requests: false,
            punches: Vec::new(),
            outbound,
            timer: Timer::default(),
            buffers: ReceiveBuffers::new(),
            slabs: Slabs::default(),
            forward: (0..shared.shards.count()).map(|_| Vec::new()).collect(),
            turns: Vec::new(),
            wakers: Vec::new(),
            scheduler: RoundScheduler::default(),
            next_unused: None,
            shared,
            settings,
            closing: false,
        }
    }

    fn mailbox(&self) -> &Arc<Mailbox> {
        &self.shared.mailboxes[self.shard.id().index()]
    }

    /// Takes what has arrived in the mailbox. Returns whether there may be more.
    fn take_mail(&mut self) -> Backlog {
        let mail = self.mailbox().take();
        let mut turns = std::mem::take(&mut self.turns);
        self.mailbox().doorbell().take(&mut turns);
        self.closing |= mail.closing;
        if let Some(close_all) = mail.close_all {
            self.close_connections(&close_all);
        }
        for handle in turns.drain(..) {
            self.shard.want_turn(handle);
        }
        if turns.capacity() > FEW_TURNS {
            turns = Vec::new();
        }
        self.turns = turns;
        self.has_requests = mail.has_requests;
        let totals = self.shard.totals();
        totals.registry.dropped_overload += mail.overflowed;
        mail.dropped.add_to(&mut totals.transport);
        if mail.given_up {
            self.shard.follow_sockets();
        }
        if !mail.unreachable.is_empty() {
            let now = clock::now();
            for (remote_addr, initial_id, obstacle) in mail.unreachable {
                let why = match obstacle {
                    Obstacle::NoNeighbour => HandshakeError::HostUnreachable,
                    Obstacle::PortClosed => HandshakeError::Unreachable,
                };
                self.shard.unreachable(now, remote_addr, &initial_id, why);
            }
        }
        for (io, socket) in mail.sockets {
            self.readers.push(Reader::new(io, socket));
        }
        if mail.has_forwarded {
            self.take_forwarded()
        } else {
            Backlog::None
        }
    }

    fn close_connections(&mut self, close_all: &CloseAll) {
        let CloseAll {
            code,
            reason,
            at_once,
        } = close_all;
        self.shard.close_connections(*code, reason, *at_once);
        // Incoming connections can no longer be accepted.
        self.shared.incoming.clear();
        self.shard.refuse_all(&mut self.outbound);
    }

    /// Takes datagrams that other shards have read for this one, unless enough wait already. The
    /// rest stays in the mailbox, which is bounded.
    fn take_forwarded(&mut self) -> Backlog {
        let room = MAX_INBOX_BYTES.saturating_sub(self.shard.inbox_bytes());
        let mut datagrams = Vec::new();
        let has_more = self.mailbox().take_forwarded(room, &mut datagrams);
        let now = clock::now();
        for datagram in datagrams {
            self.shard.handle(now, datagram, &mut self.outbound);
        }
        if has_more {
            Backlog::More
        } else {
            Backlog::None
        }
    }

    /// Reads each socket once, beginning with a different one each time. Returns whether there may
    /// be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> Backlog {
        self.readers.retain(Reader::is_used);
        let mut backlog = Backlog::None;
        for step in 0..self.readers.len() {
            if self.shard.inbox_bytes() > MAX_INBOX_BYTES {
                // Serving the connections asks for another round, which reads the sockets.
                return Backlog::More;
            }
            let index = (self.next_reader + step) % self.readers.len();
            let reports = self.hear_unreachable(cx, index);
            let datagrams = self.receive_from(cx, index);
            if [reports, datagrams].contains(&Backlog::More) {
                backlog = Backlog::More;
            }
        }
        self.next_reader = self.next_reader.wrapping_add(1);
        backlog
    }

    /// Reads ICMP errors about datagrams that were not delivered.
    fn hear_unreachable(&mut self, cx: &mut Context<'_>, index: usize) -> Backlog {
        let reader = &mut self.readers[index];
        #[cfg(feature = "nat")]
        let Some(socket) = reader.socket() else {
            return Backlog::None;
        };
        for _ in 0..REPORTS_PER_ROUND {
            let Poll::Ready(report) = reader.poll_report(cx) else {
                return Backlog::None;
            };
            let Some(report) = report else {
                continue;
            };
            #[cfg(feature = "nat")]
            self.shared
                .stun
                .unreachable(&socket, report.remote_addr, &report.quoted);
            // The connection ID of our first packets is random, so only a host on the path can
            // quote it.
            let Some(initial_id) = long_header_id(&report.quoted) else {
                continue;
            };
            for mailbox in self.shared.mailboxes.iter() {
                mailbox.unreachable(report.remote_addr, initial_id.to_vec(), report.obstacle);
            }
        }
        Backlog::More
    }

    fn receive_from(&mut self, cx: &mut Context<'_>, index: usize) -> Backlog {
        let reader = &mut self.readers[index];
        let Some(socket) = reader.socket() else {
            return Backlog::None;
        };
        match reader.read(cx, &mut self.buffers) {
            Read::Nothing => Backlog::None,
            Read::Batch(backlog) => {
                self.handle_received(&socket);
                backlog
            }
            Read::InTrouble(error) => {
                tracing::debug!(%error, addr = %socket.local_addr(), "could not receive");
                self.shard.totals().transport.receive_errors += 1;
                Backlog::None
            }
            Read::Broken(error) => {
                self.shard.totals().transport.receive_errors += 1;
                self.shared.sockets.replace_failed(&socket, error);
                Backlog::None
            }
        }
    }

    /// Routes the datagrams in the receive buffers.
    fn handle_received(&mut self, socket: &Arc<SocketGroup>) {
        // The time after the system call: a packet must not have an earlier time than the packets
        // sent before it that it acknowledges.
        let now = clock::now();
        let own = self.shard.id();
        let ReceiveSettings {
            max_datagram_bytes,
            measure_routing,
        } = self.settings;
        for received in self.buffers.iter() {
            let fitting = received.up_to(max_datagram_bytes);
            let totals = self.shard.totals();
            totals.registry.oversized += fitting.too_large;
            totals.transport.datagrams_received += fitting.too_large;
            totals.transport.bytes_received +=
                (received.contents.len() - fitting.contents.len()) as u64;
            if fitting.too_large > 0 && fitting.contents.is_empty() {
                continue;
            }
            for piece in self.slabs.cut(fitting.contents, received.stride) {
                let Piece { contents, held } = piece;
                let started = measure_routing.then(clock::now);
                let route = route(&contents, self.shared.shards);
                let routing_time = started.map(|started| clock::now() - started);
                let Totals {
                    registry,
                    transport,
                } = self.shard.totals();
                if let Some(routing_time) = routing_time {
                    registry.timed_datagrams += 1;
                    registry.routing_time += routing_time;
                }
                transport.datagrams_received += 1;
                transport.bytes_received += contents.len() as u64;
                match route {
                    Route::Quic { shard, header } => {
                        let datagram = Datagram {
                            socket: Arc::clone(socket),
                            shard,
                            header,
                            remote_addr: received.remote_addr,
                            local_ip: received.local_ip,
                            ecn: received.ecn,
                            contents,
                            held,
                        };
                        if shard != own {
                            registry.forwarded += 1;
                            self.forward[shard.index()].push(datagram);
                        } else {
                            self.shard.handle(now, datagram, &mut self.outbound);
                        }
                    }
                    Route::NonQuic => {
                        registry.non_quic += 1;
                        self.shard.note_unmatched_datagram(received.remote_addr);
                        #[cfg(feature = "nat")]
                        self.shared
                            .stun
                            .receive(now, socket, received.remote_addr, &contents);
                    }
                    Route::Drop(_) => {
                        registry.malformed += 1;
                        self.shard.note_unmatched_datagram(received.remote_addr);
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

    /// Lets connections whose socket is writable again have turns.
    fn unblock(&mut self, cx: &mut Context<'_>) {
        if self.outbound.poll_writable(cx).is_ready() {
            self.shard.unblock();
        }
    }

    /// Gives turns to connections.
    fn serve(&mut self) {
        let began = clock::now();
        self.slabs.free_spare(began);
        (self.shard).begin_turns(began, &mut self.outbound, &mut self.wakers);
        wakers::wake(self.wakers.drain(..));
        for _ in 0..TURNS_PER_ROUND {
            // The time of each turn, because round-trip times are measured from it.
            let now = clock::now();
            if now - began > ROUND_TIME || !self.shard.has_ready() {
                break;
            }
            if !self.shard.has_light() && self.scheduler.yield_to_woken() {
                break;
            }
            self.serve_one(now);
        }
    }

    /// Gives turns to connections that are expected to have little to do.
    fn serve_light(&mut self) {
        for _ in 0..TURNS_PER_ROUND {
            if !self.shard.has_light() {
                break;
            }
            self.serve_one(clock::now());
        }
    }

    /// Gives one connection a turn, and wakes the tasks that waited for it.
    fn serve_one(&mut self, now: Instant) {
        let served = (self.shard).serve(now, &Clocks, &mut self.outbound, &mut self.wakers);
        if let Some(load) = served {
            self.scheduler.note_turn(load, self.wakers.len());
        }
        wakers::wake(self.wakers.drain(..));
    }

    /// Handles requests, after the established connections have had turns. Returns whether there
    /// were any.
    ///
    /// First those that cost a packet, then dials that are too late, then handshakes.
    fn take_requests(&mut self) -> bool {
        if !self.has_requests {
            return false;
        }
        let began = clock::now();
        let requests = self.send_requested(began) + self.fail_late_dials(began);
        let requests = requests + self.begin_handshakes(began);
        self.has_requests = self.mailbox().has_requests();
        requests > 0
    }

    /// Handles requests that cost a packet. Returns how many there were.
    fn send_requested(&mut self, began: Instant) -> usize {
        let mut now = began;
        for handled in 0..REQUESTS_PER_ROUND {
            if now - began > REQUEST_TIME {
                return handled;
            }
            let Some(request) = self.mailbox().take_request(Requests::next_packet) else {
                return handled;
            };
            match request {
                PacketRequest::Refuse { key } => self.shard.refuse(key, &mut self.outbound),
                PacketRequest::Punch {
                    remote_addr,
                    socket,
                    over,
                } => {
                    let key = self.shard.punch(now, remote_addr, socket);
                    self.punches.push((key, over));
                }
                #[cfg(feature = "nat")]
                PacketRequest::Send {
                    remote_addr,
                    socket,
                    contents,
                } => self.send(remote_addr, &socket, &contents),
            }
            now = clock::now();
        }
        REQUESTS_PER_ROUND
    }

    /// Makes dials fail whose time is over. Returns how many there were.
    fn fail_late_dials(&mut self, now: Instant) -> usize {
        let mailbox = Arc::clone(self.mailbox());
        let late = || mailbox.take_request(|requests| requests.next_expired(now));
        let late = std::iter::from_fn(late).take(REQUESTS_PER_ROUND);
        late.map(|dial| self.fail_late(dial)).count()
    }

    fn fail_late(&mut self, dial: Dial) {
        self.shard.totals().transport.dials_expired += 1;
        dial.reply.send(Err(HandshakeError::TimedOut.into()));
    }

    /// Begins handshakes. Returns how many requests were taken for that.
    fn begin_handshakes(&mut self, began: Instant) -> usize {
        let mut now = clock::now();
        let mut begun = 0;
        for taken in 0..REQUESTS_PER_ROUND {
            let Some(request) = self.mailbox().take_request(Requests::next_handshake) else {
                return taken;
            };
            let has_begun = match request {
                HandshakeRequest::Accept(accept) => self.accept(now, accept),
                HandshakeRequest::Dial(dial) => self.dial(now, dial),
            };
            if !has_begun {
                continue;
            }
            begun += 1;
            let last = std::mem::replace(&mut now, clock::now());
            // The next one is likely to take as long as this one.
            if begun == HANDSHAKES_PER_ROUND || now - began + (now - last) > REQUEST_TIME {
                return taken + 1;
            }
        }
        REQUESTS_PER_ROUND
    }

    /// Begins the handshake of an incoming connection, if its caller still waits for it.
    fn accept(&mut self, now: Instant, accept: Accept) -> bool {
        let Accept {
            key,
            max_payload,
            reply,
        } = accept;
        if reply.is_canceled() {
            self.shard.refuse(key, &mut self.outbound);
            return false;
        }
        let accepted = self.shard.accept(now, key, max_payload, &mut self.outbound);
        // If the caller no longer waits, dropping the handshake abandons it.
        reply.send(accepted.map(|accepted| self.handshake(accepted)));
        true
    }

    /// Begins a dial, if its caller still waits for it.
    fn dial(&mut self, now: Instant, dial: Dial) -> bool {
        if dial.reply.is_canceled() {
            return false;
        }
        if dial.deadline <= now {
            self.fail_late(dial);
            return false;
        }
        let Dial {
            config,
            remote_addr,
            socket,
            deadline,
            silent_for,
            reply,
        } = dial;
        let deadlines = DialDeadlines {
            handshake: deadline,
            silent: silent_for.map(|silent| (now + silent).min(deadline)),
        };
        let dialled = (self.shard).connect(now, deadlines, *config, remote_addr, socket);
        reply.send(match dialled {
            Ok(dialled) => Ok(self.handshake(dialled)),
            Err(ConnectError::CidsExhausted) => Err(DialError::OutOfConnectionIds.into()),
            Err(error) => Err(DialError::Refused(error.to_string()).into()),
        });
        true
    }

    /// Sends a datagram that is not QUIC. If the socket is blocked it may be lost; the client
    /// retransmits.
    #[cfg(feature = "nat")]
    fn send(&mut self, remote_addr: SocketAddr, socket: &Arc<SocketGroup>, contents: &[u8]) {
        let transmit = Transmit {
            destination: remote_addr,
            ecn: None,
            size: contents.len(),
            segment_size: None,
            src_ip: None,
        };
        let totals = &mut self.shard.totals().transport;
        totals.bytes_sent += transmit.size as u64;
        totals.datagrams_sent += 1;
        let _ = self.outbound.send(socket, transmit, contents);
    }

    fn handshake(&self, (handle, connection): (ConnectionHandle, SharedConnection)) -> Handshake {
        let doorbell = Arc::clone(self.mailbox().doorbell());
        Handshake::new(DrivenConnection::new(connection, handle, doorbell))
    }

    /// Ends hole punches whose callers are gone, and reports those whose time is over.
    fn end_punches(&mut self) {
        let ended = self.punches.extract_if(.., |(key, over)| {
            if over.is_canceled() {
                self.shard.end_punch(*key);
            }
            !self.shard.is_punching(*key)
        });
        for (_, over) in ended {
            over.send(());
        }
    }

    fn report_incoming(&mut self) {
        while let Some(incoming) = self.shard.poll_incoming() {
            let incoming = IncomingConnection::new(incoming, Arc::clone(self.mailbox()));
            // If the queue is full, the connection is dropped, which requests a refusal.
            self.shared.incoming.push(incoming);
        }
        if self.closing {
            // The transport is gone, so no application will take them.
            self.shared.incoming.clear();
        }
    }

    fn post_totals(&mut self) {
        self.shard.totals().transport += self.outbound.take_counts();
        self.shard.post_totals();
    }

    fn next_deadline(&self) -> Option<Instant> {
        let retries = self.readers.iter().filter_map(Reader::retry_at);
        self.shard
            .next_timeout()
            .into_iter()
            .chain(self.outbound.next_retry())
            .chain(self.next_unused)
            .chain(self.slabs.next_free())
            .chain(retries)
            .min()
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.mailbox().doorbell().register(cx.waker());
        let forwarded = this.take_mail();
        let before = this.shard.totals().transport.datagrams_received;
        if this.scheduler.serves_light_first() {
            this.serve_light();
        }
        let backlog = this.receive(cx);
        let has_received = this.shard.totals().transport.datagrams_received > before;
        if this.scheduler.put_off_round(has_received) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.unblock(cx);
        this.end_punches();
        this.scheduler.begin_round(has_received);
        this.serve();
        if !this.scheduler.has_yielded() && this.take_requests() {
            // Their first packets leave in this round.
            this.serve();
        }
        // Once more, to register for sockets that have become blocked since.
        this.unblock(cx);
        for (socket, error) in this.outbound.take_broken() {
            this.shared.sockets.replace_failed(&socket, error);
        }
        this.report_incoming();
        this.post_totals();
        if !this.shard.has_connections() {
            this.shared.idle.wake();
        }
        if this.closing && this.shard.is_empty() {
            // There will be no more dials.
            this.shared.sockets.close_kept();
        }
        this.next_unused = this.shared.sockets.close_unused();
        if [backlog, forwarded].contains(&Backlog::More)
            || this.shard.has_ready()
            || this.has_requests
            || this.timer.poll(cx, this.next_deadline()).is_ready()
        {
            // Only one round for each poll, so that tasks woken by it run before more data arrives.
            // If readers run late, they find their data in thousands of pieces, which quinn-proto
            // then has to copy together. Only if there is more to do: a task that wakes itself
            // makes tokio wake an idle thread as well, which costs more than a ping.
            if this.scheduler.has_yielded() {
                wake_after_others(cx);
            } else {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        if this.closing && this.shard.is_empty() && this.readers.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Runs whether the driver has finished, panicked or lost its runtime, so that no caller waits for
/// it in vain.
impl Drop for Driver {
    fn drop(&mut self) {
        self.mailbox().stop();
        self.shared.sockets.driver_stopped();
        self.punches.clear();
        if !std::thread::panicking() {
            // A runtime that shuts down drops its tasks, but sockets can still send.
            self.shard.close_all();
            while self.shard.has_ready() {
                self.serve_one(clock::now());
            }
        }
        self.shard.orphan_all(&mut self.wakers);
        wakers::wake(self.wakers.drain(..));
        for reader in self.readers.drain(..) {
            if let Some(socket) = reader.socket() {
                // This fails only if all drivers have stopped.
                let _ = read_socket(&self.shared.mailboxes, 0, &socket, reader.io());
            }
        }
        // After a panic no new driver replaces this one, because it would panic again.
        if !std::thread::panicking() {
            self.mailbox().mark_gone();
        }
        self.shared.idle.wake();
        self.shared.incoming.wake();
    }
}
