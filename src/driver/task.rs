//! The task of one shard.

mod reading;
mod requests;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use quinn_proto::ConnectionHandle;

use self::reading::Reader;
pub(super) use self::reading::ReceiveSettings;
#[cfg(all(test, not(loom)))]
pub(super) use self::{
    reading::MAX_INBOX_BYTES,
    requests::{HANDSHAKES_PER_ROUND, REQUESTS_PER_ROUND},
};
use super::{
    flushes::Flush,
    idle::Idle,
    incoming::{IncomingConnection, IncomingQueue},
    mailbox::{CloseAll, Mailbox, read_socket},
    outbound::Outbound,
    requests::{Dropped, Reply},
    round_scheduler::RoundScheduler,
    slabs::Slabs,
    socket_group::SocketGroup,
    sockets::Sockets,
    stun::StunDispatcher,
    wakers,
};
use crate::{
    error::HandshakeError,
    net::{MoreToRead, Obstacle, ReceiveBuffers, Timer, clock, task::wake_after_others},
    proto::{Datagram, Meter, PunchKey, Shard, ShardCount},
    trace::dropped,
};

/// Connections that ring between two polls in normal operation. The memory for more of them is
/// freed.
const FEW_RUNG: usize = 1024;

/// The most turns that are given without a pause. A round gives turns up to three times: light ones
/// before it reads, then any, and any again after requests.
const TURNS_WITHOUT_PAUSE: usize = 32;

/// For how long turns are begun; then the driver does the rest of its round, and other tasks of the
/// runtime run. Turns after requests have the same time again. Light turns before reading have no
/// limit on their time, only on their number.
///
/// A ping during a bulk transfer waits for the end of a round at both hosts, in both directions.
const SERVE_TIME: Duration = Duration::from_micros(100);

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
    rung: Vec<ConnectionHandle>,
    wakers: Vec<Waker>,
    scheduler: RoundScheduler,
    /// When the next unused socket is to be closed.
    next_unused: Option<Instant>,
    settings: ReceiveSettings,
    /// The transport and all attempts to connect are gone: the driver stops once nothing is left to
    /// drive.
    may_stop: bool,
    /// A flush that is not done.
    flush: Option<Flush>,
    /// The application has shut the transport down.
    is_shut_down: bool,
    /// Whether `poll` is running. If it still is when the driver is dropped, `poll` has panicked.
    is_running: bool,
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
            rung: Vec::new(),
            wakers: Vec::new(),
            scheduler: RoundScheduler::default(),
            next_unused: None,
            shared,
            settings,
            may_stop: false,
            flush: None,
            is_shut_down: false,
            is_running: false,
        }
    }

    fn mailbox(&self) -> &Arc<Mailbox> {
        &self.shared.mailboxes[self.shard.id().index()]
    }

    /// One poll; docs/architecture.md has its steps.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.mailbox().doorbell().register(cx.waker());
        let forwarded = self.take_mail();
        let before = self.shard.totals().transport.datagrams_received;
        if self.scheduler.puts_light_first() {
            self.give_light_turns();
        }
        let more = self.receive(cx);
        let has_received = self.shard.totals().transport.datagrams_received > before;
        if self.scheduler.put_off_round(has_received) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.unblock(cx);
        self.end_punches();
        self.scheduler.begin_round(has_received);
        self.give_turns();
        if !self.scheduler.has_yielded() && self.take_requests() {
            // So their first packets leave in this round, unless many connections wait for turns.
            self.give_turns();
        }
        // Again, because turns note which of them are over.
        self.end_punches();
        self.pass_on_unmatched();
        // Once more, to register for sockets that have become blocked since.
        self.unblock(cx);
        for (socket, error) in self.outbound.take_broken() {
            self.shared.sockets.replace_failed(&socket, error);
        }
        self.report_incoming();
        self.post_totals();
        if !self.shard.has_connections() {
            self.shared.idle.wake();
        }
        if self.may_stop && self.shard.is_empty() {
            // There will be no more dials.
            self.shared.sockets.close_kept();
        }
        self.next_unused = self.shared.sockets.close_unused();
        if [more, forwarded].contains(&MoreToRead::Maybe)
            || self.shard.has_ready()
            || self.has_requests
            || self.timer.poll(cx, self.next_deadline()).is_ready()
        {
            // Only one round for each poll, so that tasks woken by it run before more data arrives.
            // If readers run late, they find their data in thousands of pieces, which quinn-proto
            // then has to copy together. The driver wakes itself only if there is more to do,
            // because that makes tokio wake an idle thread as well, which costs more than a ping.
            if self.scheduler.has_yielded() {
                wake_after_others(cx);
            } else {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        if let Some(flush) = self.flush
            && self.has_sent_all()
        {
            self.flush = None;
            self.mailbox().flushes().note_done(flush);
        }
        if self.may_stop && self.shard.is_empty() && self.readers.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Takes what has arrived in the mailbox. Returns whether there may be more.
    fn take_mail(&mut self) -> MoreToRead {
        let mail = self.mailbox().take();
        let mut rung = mem::take(&mut self.rung);
        self.mailbox().doorbell().take(&mut rung);
        self.may_stop |= mail.may_stop;
        self.flush = mail.flush.or(self.flush);
        if let Some(close_all) = mail.close_all {
            self.close_connections(&close_all);
        }
        for handle in rung.drain(..) {
            self.shard.want_turn(handle);
        }
        if rung.capacity() > FEW_RUNG {
            rung = Vec::new();
        }
        self.rung = rung;
        self.has_requests = mail.has_requests;
        self.count_dropped(mail.dropped, mail.overflowed);
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
        for remote_addr in mail.unmatched {
            self.shard.offer_unmatched(remote_addr);
        }
        for (io, socket) in mail.sockets {
            self.readers.push(Reader::new(io, socket));
        }
        if mail.has_forwarded {
            self.take_forwarded()
        } else {
            MoreToRead::No
        }
    }

    /// Gives turns to connections.
    fn give_turns(&mut self) {
        let began = clock::now();
        self.slabs.free_spare(began);
        (self.shard).prepare_turns(began, &mut self.outbound, &mut self.wakers);
        wakers::wake(self.wakers.drain(..));
        for _ in 0..TURNS_WITHOUT_PAUSE {
            // The time of each turn, because round-trip times are measured from it.
            let now = clock::now();
            if now - began > SERVE_TIME || !self.shard.has_ready() {
                break;
            }
            if !self.shard.has_light() && self.scheduler.yield_to_woken() {
                break;
            }
            self.give_turn(now);
        }
    }

    /// Gives turns to connections that are expected to have little to do.
    fn give_light_turns(&mut self) {
        for _ in 0..TURNS_WITHOUT_PAUSE {
            if !self.shard.has_light() {
                break;
            }
            self.give_turn(clock::now());
        }
    }

    /// Gives one connection a turn, and wakes the tasks that waited for it.
    fn give_turn(&mut self, now: Instant) {
        let served = (self.shard).give_turn(now, &Clocks, &mut self.outbound, &mut self.wakers);
        if let Some(load) = served {
            self.scheduler.note_turn(load, self.wakers.len());
        }
        wakers::wake(self.wakers.drain(..));
    }

    /// Lets connections whose socket is writable again have turns.
    fn unblock(&mut self, cx: &mut Context<'_>) {
        if self.outbound.poll_writable(cx).is_ready() {
            self.shard.unblock();
        }
    }

    /// Counts what the mailbox had no room for.
    fn count_dropped(&mut self, requests: Dropped, datagrams: u64) {
        let totals = self.shard.totals();
        dropped!(totals.registry, dropped_overload += datagrams);
        requests.add_to(&mut totals.transport);
    }

    fn close_connections(&mut self, close_all: &CloseAll) {
        let CloseAll {
            code,
            reason,
            at_once,
        } = close_all;
        self.is_shut_down = true;
        self.shard.close_connections(*code, reason, *at_once);
        for (key, _) in self.punches.drain(..) {
            self.shard.end_punch(key);
        }
        self.refuse_all();
    }

    /// Refuses incoming connections, which can no longer be accepted.
    fn refuse_all(&mut self) {
        self.shared.incoming.clear();
        self.shard.refuse_all(&mut self.outbound);
    }

    fn report_incoming(&mut self) {
        while let Some(incoming) = self.shard.poll_incoming() {
            let incoming = IncomingConnection::new(incoming, Arc::clone(self.mailbox()));
            // If the queue is full, the connection is dropped, which requests a refusal.
            self.shared.incoming.push(incoming);
        }
        if self.may_stop {
            // The transport is gone, so no application will take them.
            self.shared.incoming.clear();
        }
    }

    /// Sends what is ready, and closes all connections: with `close_all` if the application has
    /// asked for that. A runtime that shuts down drops its tasks, but sockets can still send.
    fn say_goodbye(&mut self, close_all: Option<&CloseAll>) {
        let mut rung = Vec::new();
        self.mailbox().doorbell().take(&mut rung);
        for handle in rung {
            self.shard.want_turn(handle);
        }
        // One turn each: what the application has written last leaves before the close.
        for _ in 0..self.shard.ready() {
            self.give_turn(clock::now());
        }
        if let Some(close_all) = close_all {
            self.close_connections(close_all);
        }
        self.refuse_all();
        self.shard.close_all();
        while self.shard.has_ready() {
            self.give_turn(clock::now());
        }
    }

    /// Whether nothing waits to be sent, also not for a socket, nor for the acknowledgement after
    /// which a connection is closed.
    fn has_sent_all(&self) -> bool {
        self.shard.has_sent_all() && self.outbound.is_empty()
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
        this.is_running = true;
        let polled = this.round(cx);
        this.is_running = false;
        polled
    }
}

/// Runs whether the driver has finished, panicked or lost its runtime, so that no caller waits for
/// it in vain.
impl Drop for Driver {
    fn drop(&mut self) {
        let left = self.mailbox().stop();
        self.count_dropped(left.dropped, left.overflowed);
        self.punches.clear();
        let has_panicked = self.is_running;
        if !has_panicked {
            self.say_goodbye(left.close_all.as_ref());
        }
        self.shard.orphan_all(&mut self.wakers);
        wakers::wake(self.wakers.drain(..));
        for reader in self.readers.drain(..) {
            if let Some(socket) = reader.group() {
                // This fails only if all drivers have stopped.
                let _ = read_socket(&self.shared.mailboxes, 0, &socket, reader.io());
            }
        }
        // Both before another driver can begin, whose flushes are its own. The drop of a transport
        // waits for them only while there is a runtime.
        self.mailbox().flushes().note_over();
        self.shared.sockets.driver_stopped();
        // After a panic no new driver replaces this one, because it would panic again.
        if !has_panicked {
            self.mailbox().mark_gone();
        }
        self.shared.idle.wake();
        self.shared.incoming.wake();
    }
}

/// What the drivers of a transport need of the state in `Drivers`; all of them have the same.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) shards: ShardCount,
    /// The mailboxes of all shards.
    pub(super) mailboxes: Arc<[Arc<Mailbox>]>,
    pub(super) incoming: Arc<IncomingQueue>,
    pub(super) stun: Arc<StunDispatcher>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) idle: Arc<Idle>,
}

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
