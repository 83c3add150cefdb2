//! A connection's place in its shard, and its turns.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionEvent, ConnectionHandle, ConnectionId, Endpoint, Transmit};

use super::{
    address_limits::AddressLimits,
    admission::Admission,
    arrivals::{Arrivals, Verdict},
    budget::{Budget, BudgetShare},
    closing::Farewell,
    connection::{Connection, SharedConnection},
    connection_id::{IdQuota, IssuedIds},
    datagram::{Outbound, Sent, Socket, local_addr},
    deadlines::Armed,
    handshake_bytes::HandshakeBytes,
    inbox::{Inbox, InboxBytes},
    path_doubts::{Acknowledged, Doubter, DoubtfulHosts},
    registry::{self, Registry, Totals},
    silence::{self, Silence},
    turn_queue::Load,
    work::{Account, HANDSHAKE_TIME, Meter, TURN_TIME},
};
use crate::{address::Host, authenticator::Challenge, error::HandshakeError, sync::Mutex};

/// Most datagrams that one connection handles in one turn, about 30 µs of work if they are honest;
/// [`TURN_TIME`] ends the turn if they are not.
///
/// Small turns are what keeps one connection's ping alive beside another one's bulk transfer.
const DATAGRAMS_PER_TURN: usize = 64;

/// Most bytes of them; datagrams may be large.
const BYTES_PER_TURN: usize = 128 * 1024;

/// Most bytes that go in and out in a [light](Load::Light) turn: a few messages of a request and a reply, and much less
/// than a transfer moves in a turn.
pub(super) const LIGHT_BYTES: usize = 8 * 1024;

/// Most turns in a row in which a connection only receives, because more has arrived than one turn takes.
///
/// What it sends then is mostly acknowledgements, and one will do for all of it.
const TURNS_WITHOUT_SENDING: u8 = 3;

/// Most batches of datagrams that one connection sends in one turn.
const BATCHES_PER_TURN: usize = 2;

/// Three probe timeouts of a path whose round trips vary by as much as half of what they take.
const PATIENCE_RTTS: u32 = 9;

/// For acknowledgements that are late, and for timers.
const IDLE_SLACK: Duration = Duration::from_secs(1);

/// How long a connection that is over waits for a socket that takes nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Most datagrams of a batch that says that a connection is closed: one for each packet number
/// space.
///
/// quinn-proto closes in all of them that have keys, and begins again with the first one if they do
/// not fit into what it may send at once; a long Retry token may leave room for no other packet
/// beside it.
const CLOSE_DATAGRAMS: usize = 3;

/// Most datagrams in a batch for segmentation offload (of the 64 that Linux takes).
const MAX_SEGMENTS: usize = 44;

/// Largest UDP payload that IPv4 carries, in bytes; a batch must not be larger.
const MAX_BATCH: usize = 65_507;

pub(super) struct Slot<S> {
    pub(super) connection: SharedConnection,
    /// Where its datagrams leave; it follows the peer's authenticated packets.
    pub(super) socket: S,
    /// The address that they leave from, where the socket has several: the one where the peer's first datagram has
    /// arrived. Until then, the kernel chooses.
    pub(super) source: Option<IpAddr>,
    /// Where it was sent from to the peer's address before, until the new one is validated or given up.
    pub(super) left: Option<LeftPath<S>>,
    /// Whether what is sent from there arrives.
    pub(super) arrivals: Arrivals,
    pub(super) addresses: AddressLimits,
    /// What it holds of the memory that all connections share.
    pub(super) budget: BudgetShare,
    /// There is no memory for more stream data.
    pub(super) refuses_data: bool,
    /// Of an incoming connection, until its handshake is over.
    pub(super) admission: Option<Admission>,
    pub(super) inbox: Inbox<Received<S>>,
    /// What its datagrams have cost.
    pub(super) account: Account,
    /// Its turns have to wait until then, because it is in debt.
    pub(super) waits_until: Option<Instant>,
    pub(super) armed: Armed,
    pub(super) expired: bool,
    /// Nothing was sent yet on the path that has just become the one to the peer. Timers wait for that: quinn-proto 0.11.19
    /// leaves the one for lost packets running for those of the path before, and asserts, where debug assertions are on,
    /// that there are any on this one.
    pub(super) untried_path: bool,
    /// Turns in a row in which nothing was sent because the inbox was not empty.
    pub(super) silent_turns: u8,
    /// How much there was to do in the last turn.
    pub(super) load: Load,
    pub(super) handshake_deadline: Option<Instant>,
    /// When a dial is given up that has heard nothing.
    pub(super) silent_until: Option<Instant>,
    /// The peer has confirmed the handshake (RFC 9001 §4.1.2): it has no use for long headers any more.
    pub(super) is_confirmed: bool,
    /// What the handshake has taken.
    pub(super) handshake_bytes: HandshakeBytes,
    /// When something was received last, or first sent after that (RFC 9000 §10.1).
    pub(super) idle_since: Instant,
    /// Whether nothing was sent since the last datagram was received.
    pub(super) was_silent_since: bool,
    pub(super) silence: Silence,
    /// What its path may swallow.
    pub(super) doubter: Doubter,
    /// Whether the next datagram goes out whatever is under way.
    pub(super) probes: bool,
    /// Since when it [lingers](Connection::lingers).
    pub(super) lingers_since: Option<Instant>,
    /// When a connection that is over is forgotten, told or not.
    pub(super) close_deadline: Option<Instant>,
    /// The packet that closes it, once it is sent.
    pub(super) farewell: Option<Farewell<S>>,
    /// The ID of our first packet, until anything has arrived in answer to it.
    pub(super) unanswered_dial: Option<ConnectionId>,
    /// Whether the last datagram from the peer was marked for ECN, if any has arrived.
    pub(super) heard_marked: Option<bool>,
    /// The operating system has not let its first packet out.
    pub(super) was_forbidden: bool,
    /// After the one for the handshake.
    pub(super) ids_issued: u64,
    pub(super) datagrams_received: u64,
    pub(super) queued: bool,
    pub(super) blocked: bool,
}

/// A path that the peer has left, if it has: somebody else may have sent its packet on.
pub(super) struct LeftPath<S> {
    remote_addr: SocketAddr,
    socket: S,
    source: Option<IpAddr>,
}

/// What the kernel and routers are asked to do for us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offload {
    /// Packets are marked, so that routers mark them again before they have to drop some.
    pub(crate) ecn: bool,
    /// Batches are cut into datagrams by the kernel or the interface.
    pub(crate) segmentation: bool,
}

pub(super) struct Received<S> {
    pub(super) event: ConnectionEvent,
    pub(super) remote_addr: SocketAddr,
    /// Where it has arrived.
    pub(super) local_ip: Option<IpAddr>,
    pub(super) len: usize,
    /// Bytes of memory that are kept for as long as anything of it is.
    pub(super) held: usize,
    pub(super) socket: S,
}

/// How sending went in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// The socket takes no more.
    Blocked,
    /// All was sent that congestion control lets out.
    Done,
    /// There is more, for the next turn.
    Unfinished,
}

/// One turn of one connection, which is locked for as long as it lasts.
pub(super) struct Turn<'a, S> {
    pub(super) now: Instant,
    pub(super) handle: ConnectionHandle,
    pub(super) slot: &'a mut Slot<S>,
    pub(super) connection: &'a mut Connection,
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) id_quota: IdQuota,
    /// How many connections the shard has.
    pub(super) connections: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) keep_alive_interval: Option<Duration>,
    pub(super) offload: Offload,
    pub(super) doubtful_hosts: &'a mut DoubtfulHosts,
    pub(super) issued: &'a IssuedIds,
    pub(super) inbox_bytes: &'a mut InboxBytes,
    pub(super) totals: &'a mut Totals,
    pub(super) registry: &'a Mutex<Registry>,
    pub(super) budget: &'a Budget,
    /// Bytes that went in and out.
    pub(super) moved: usize,
}

impl<S: Socket> Turn<'_, S> {
    /// Hands on what has arrived. Returns what it has cost beyond what the connection has earned, if
    /// it has.
    pub(super) fn receive(&mut self, meter: &impl Meter) -> Option<Duration> {
        if self.slot.inbox.is_empty() {
            return None;
        }
        let is_handshake = self.connection.authenticated().is_none();
        (self.slot.account).earn_by_waiting(self.now, self.connections);
        let stopwatch = self.slot.account.begin(self.now, is_handshake, meter);
        if self.slot.refuses_data || self.budget.is_used_up() {
            self.share_memory();
        }
        let mut bytes = 0;
        for handled in 0..DATAGRAMS_PER_TURN {
            // The first one is handled however long the connection had to wait for its lock.
            if bytes >= BYTES_PER_TURN || (handled > 0 && meter.now() - self.now >= TURN_TIME) {
                break;
            }
            let Some((received, charge)) = self.slot.inbox.pop(self.inbox_bytes) else {
                break;
            };
            self.slot.account.earn(1, received.len);
            bytes += charge;
            let before = self.connection.remote_addr();
            self.slot.unanswered_dial = None;
            self.slot.datagrams_received += 1;
            (self.slot.addresses).note_received(received.remote_addr, received.len);
            self.connection.handle_event(received.event);
            if self.connection.has_heard() {
                self.slot.idle_since = self.now;
                self.slot.was_silent_since = true;
                self.slot.silence.note_received();
            }
            // Before the next datagram: a stateless reset behind a close would pass for the reason,
            // and what piles up is taken out of quinn-proto.
            let noted = self.connection.note_arrival(received.held);
            self.totals.transport.too_fragmented += u64::from(noted.too_fragmented);
            self.after_events(noted.authenticated);
            let is_authenticated = self.connection.authenticated().is_some();
            if self.slot.source.is_none() && is_authenticated && received.local_ip.is_some() {
                self.slot.source = received.local_ip;
                self.register_path();
            }
            if self.connection.note_migration() {
                let socket = mem::replace(&mut self.slot.socket, received.socket);
                let source = mem::replace(&mut self.slot.source, received.local_ip);
                if self.slot.addresses.is_validated(before) {
                    self.slot.left = Some(LeftPath {
                        remote_addr: before,
                        socket,
                        source,
                    });
                }
                self.slot.untried_path = true;
                self.follow_peer();
            }
            if let Some(token) = self.connection.take_path_response()
                && let Some(addr) = self.slot.addresses.answered(token)
            {
                self.connection.note_validated(addr);
                if addr == self.connection.remote_addr() {
                    self.slot.left = None;
                }
                self.watch_path();
            }
        }
        self.moved += bytes;
        self.slot.inbox.shrink(false);
        let debt = self.slot.account.bill(stopwatch, meter);
        if !is_handshake {
            return debt;
        }
        // It has a limit for all of it, and no debts.
        if self.slot.account.used() > HANDSHAKE_TIME {
            self.give_up_handshake();
        }
        None
    }

    /// Ends a handshake that has cost too much, if it is not over.
    fn give_up_handshake(&mut self) {
        if self.connection.loss().is_none() && self.connection.authenticated().is_none() {
            self.totals.transport.handshakes_too_costly += 1;
            self.connection.abandon(HandshakeError::TooCostly);
        }
    }

    /// What the application did, and what time did, since the last turn takes effect.
    ///
    /// Returns `true` if the connection is to be forgotten after this turn.
    pub(super) fn begin(&mut self) -> bool {
        let now = self.now;
        if self
            .slot
            .handshake_deadline
            .is_some_and(|deadline| deadline <= now)
        {
            self.slot.handshake_deadline = None;
            self.totals.transport.handshakes_timed_out += 1;
            self.connection.abandon(HandshakeError::TimedOut);
        }
        if self.slot.silent_until.is_some_and(|until| until <= now) {
            self.slot.silent_until = None;
            if self.connection.heard_nothing() {
                self.connection.abandon(HandshakeError::TimedOut);
            }
        }
        if self.idle_deadline().is_some_and(|deadline| deadline <= now) {
            self.connection.give_up_silent();
        }
        self.keep_up();
        let forget = self.connection.begin_turn(now);
        if !self.slot.untried_path && mem::take(&mut self.slot.expired) {
            // What a burst has needed is not kept for long.
            self.slot.inbox.shrink(true);
            self.connection.handle_timeout(now);
            // A new path that could not be validated is given up for the one before it.
            if self.connection.note_migration() {
                let remote_addr = self.connection.remote_addr();
                if let Some(left) =
                    (self.slot.left.take()).filter(|left| left.remote_addr == remote_addr)
                {
                    self.slot.socket = left.socket;
                    self.slot.source = left.source;
                }
                self.follow_peer();
            }
        }
        forget
    }

    /// Sends something if the peer has been silent for too long.
    fn keep_up(&mut self) {
        let now = self.now;
        if self.probe_at().is_some_and(|at| at <= now) {
            self.slot.silence.note_probed(now);
            self.connection.probe();
            self.slot.probes = true;
        }
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.connection.probe();
            self.slot.silence.note_kept_alive(now);
        }
    }

    /// When to send something because the peer would give up an idle connection before quinn-proto
    /// sends anything.
    fn keep_alive_at(&self) -> Option<Instant> {
        let theirs = self.connection.authenticated()?.negotiated.max_idle_timeout;
        let interval = silence::keep_alive_interval(self.keep_alive_interval?, theirs?)?;
        if self.connection.loss().is_some() {
            return None;
        }
        Some((self.slot.silence).keep_alive_at(self.slot.idle_since, interval))
    }

    /// When to ask a peer of which nothing is heard.
    fn probe_at(&self) -> Option<Instant> {
        let may_probe = self.connection.authenticated().is_some() && !self.connection.is_over();
        self.slot.silence.probe_at().filter(|_| may_probe)
    }

    /// Leaves a socket that another one has taken the place of.
    ///
    /// Not before the peer lets it; until then the connection stays where it is.
    pub(super) fn follow_socket(&mut self, out: &impl Outbound<S>) {
        let Some(successor) = self.slot.socket.successor() else {
            return;
        };
        if self.migrate(false) {
            self.slot.source = out.source_ip(&successor, self.connection.remote_addr());
            self.slot.socket = successor;
            self.register_path();
        }
    }

    /// Leaves the source address for the one that the kernel would send from, if that is another one: because it
    /// is gone, or because nothing arrives any more, and what leads to the peer may have changed.
    ///
    /// Not before the peer lets it. Until then the connection keeps what it has: it may be back.
    fn leave_source(&mut self, out: &impl Outbound<S>, is_gone: bool) {
        if !self.connection.may_migrate(is_gone) {
            return;
        }
        let source = out.source_ip(&self.slot.socket, self.connection.remote_addr());
        if source.is_none() || source == self.slot.source {
            return;
        }
        if self.migrate(is_gone) {
            self.totals.transport.source_changes += 1;
            self.slot.source = source;
            self.register_path();
        }
    }

    /// Sees whether what is sent arrives; if nothing does, another source may do better.
    fn watch_arrivals(&mut self, out: &impl Outbound<S>) {
        if self.connection.authenticated().is_none() || self.connection.is_over() {
            return;
        }
        let acknowledgements = self.connection.path_control().acknowledgements();
        let arrivals = &mut self.slot.arrivals;
        arrivals.note_acknowledged(acknowledgements);
        match arrivals.judge(self.now) {
            Verdict::Fine => {}
            Verdict::Ask => self.connection.probe(),
            Verdict::Nothing => self.leave_source(out, false),
        }
    }

    /// Begins to use another connection ID, for another local address. Returns `false` if that may not be.
    fn migrate(&mut self, is_gone: bool) -> bool {
        let Some(event) = self.connection.change_local_address(is_gone) else {
            return false;
        };
        if let Some(event) = self.endpoint.handle_event(self.handle, event) {
            self.connection.handle_event(event);
        }
        true
    }

    /// The peer has moved, or has not.
    fn follow_peer(&mut self) {
        self.watch_path();
        let remote_addr = self.connection.remote_addr();
        if self.slot.addresses.is_validated(remote_addr) {
            // Perhaps it was while the peer seemed to be elsewhere.
            self.connection.note_validated(remote_addr);
        }
        self.register_path();
    }

    /// Looks for what validates the path, if that is not done.
    fn watch_path(&self) {
        let remote_addr = self.connection.remote_addr();
        let is_validated = self.slot.addresses.is_validated(remote_addr);
        self.connection.watch_paths(!is_validated);
    }

    fn register_path(&self) {
        registry::lock(self.registry).migrated(
            self.handle,
            local_addr(&self.slot.socket, self.slot.source),
            self.connection.remote_addr(),
        );
    }

    /// Lets the connection and the endpoint tell each other what they have to.
    ///
    /// Returns `true` if the connection is drained.
    pub(super) fn exchange(&mut self) -> bool {
        let mut drained = false;
        while let Some(event) = self.connection.poll_endpoint_event() {
            drained |= event.is_drained();
            let before = self.issued.count();
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
            let issued = self.issued.count() - before;
            if issued > 0 {
                registry::lock(self.registry).issued(self.handle, issued);
                self.slot.ids_issued += issued;
            }
        }
        let Slot {
            ids_issued,
            datagrams_received,
            ..
        } = *self.slot;
        if self.id_quota.is_exceeded(ids_issued, datagrams_received) {
            self.connection.give_up_on_ids();
        }
        drained
    }

    pub(super) fn handle_application_events(&mut self) {
        let authenticated = self.connection.handle_application_events();
        self.after_events(authenticated);
    }

    fn after_events(&mut self, authenticated: bool) {
        if authenticated && let Some(peer) = self.connection.authenticated() {
            registry::lock(self.registry).authenticated(self.handle, peer.peer_id);
        }
        if authenticated {
            // The handshake came from there, and nowhere else.
            self.slot.addresses.validate(self.connection.remote_addr());
        }
        if authenticated || self.connection.loss().is_some() {
            self.slot.handshake_deadline = None;
            self.slot.silent_until = None;
        }
    }

    pub(super) fn send(&mut self, out: &mut impl Outbound<S>, buf: &mut Vec<u8>) -> Sending {
        // A peer that has to hear of the end hears of it before the application, which may end as
        // well.
        let may_wait = self.connection.loss().is_none();
        if may_wait && !self.slot.inbox.is_empty() && self.slot.silent_turns < TURNS_WITHOUT_SENDING
        {
            self.slot.silent_turns += 1;
            return Sending::Unfinished;
        }
        self.slot.silent_turns = 0;
        if self.connection.is_over() {
            self.connection.lift_congestion_control();
        }
        self.doubt_path();
        let remote_addr = self.connection.remote_addr();
        if !out.is_ready(&self.slot.socket, remote_addr) {
            return Sending::Blocked;
        }
        self.watch_arrivals(&*out);
        for _ in 0..BATCHES_PER_TURN {
            let mtu = usize::from(self.connection.current_mtu());
            // So that what is too much is one datagram.
            let is_validated = self.slot.addresses.is_validated(remote_addr);
            let probes = mem::take(&mut self.slot.probes);
            // Nor in the handshake: where a batch is lost as a whole, nobody would get any further.
            let is_established = self.connection.authenticated().is_some();
            let doubts = self.slot.doubter.doubts();
            let may_batch = self.offload.segmentation && doubts.may_batch(self.now);
            let most = if self.connection.is_over() && may_batch {
                CLOSE_DATAGRAMS
            } else if is_validated && is_established && may_batch && !probes {
                MAX_SEGMENTS
            } else {
                1
            };
            let max_segments = out
                .max_segments(&self.slot.socket, remote_addr)
                .min(most)
                .min(MAX_BATCH / mtu.max(1))
                .max(1);
            buf.clear();
            let asks = self.slot.silence.owes_nothing()
                || self.slot.doubter.wants_to_know()
                || self.slot.arrivals.wants_to_know();
            let elicited = asks.then(|| self.connection.elicited());
            let transmit = if probes {
                self.connection.poll_probe(self.now, buf)
            } else {
                self.connection.poll_transmit(self.now, max_segments, buf)
            };
            let Some(mut transmit) = transmit else {
                self.slot.untried_path = false;
                return Sending::Done;
            };
            // quinn-proto has none for what we have dialled, and keeps the first one for ever. What asks
            // whether the peer is still where it was leaves from where that knows us.
            let left = self.slot.left.as_ref();
            let left = left.filter(|left| left.remote_addr == transmit.destination);
            let left_socket = left.map(|left| left.socket.clone());
            transmit.src_ip = left.map_or(self.slot.source, |left| left.source);
            // A peer that marks nothing may have found out that marked packets do not arrive.
            let may_mark = self.slot.heard_marked.unwrap_or(true) && doubts.may_mark(self.now);
            if !(self.offload.ecn && may_mark) {
                transmit.ecn = None;
            }
            if elicited.is_some_and(|elicited| self.connection.elicited() > elicited) {
                self.slot.silence.note_sent(self.now);
                self.slot.doubter.note_sent(self.now);
                self.slot.arrivals.note_sent(self.now);
            }
            // It may also be to the peer's address before, which is asked whether it is still the one.
            if transmit.destination == self.connection.remote_addr() {
                self.slot.untried_path = false;
            }
            if mem::take(&mut self.slot.was_silent_since) {
                self.slot.idle_since = self.now;
            }
            let Some(transmit) = self.credited(transmit, buf) else {
                continue;
            };
            let count = datagrams(&transmit);
            let totals = &mut self.totals.transport;
            totals.bytes_sent += transmit.size as u64;
            totals.datagrams_sent += count;
            // They will be acknowledged, which takes time as well.
            self.slot.account.earn(count, transmit.size);
            self.moved += transmit.size;
            if self.connection.is_over() && !self.connection.was_ended_by_peer() {
                self.keep_farewell(&transmit, buf);
            }
            let from_anywhere = Transmit {
                src_ip: None,
                ..transmit
            };
            let socket = left_socket.as_ref().unwrap_or(&self.slot.socket);
            match out.send(socket, transmit, buf) {
                Sent::Ready => {}
                Sent::SourceGone if self.connection.is_over() => {
                    // Nothing is sent again, and who is told late need not be told under another ID.
                    let _ = out.send(socket, from_anywhere, buf);
                }
                Sent::Forbidden => self.note_forbidden(),
                // What is lost with it is sent again.
                Sent::SourceGone => self.leave_source(&*out, true),
                Sent::Blocked => return Sending::Blocked,
            }
        }
        if self.connection.is_over() {
            // What closes it is among them. Nothing else would bound how often quinn-proto says it
            // again if it cannot say all of it at once.
            Sending::Done
        } else {
            Sending::Unfinished
        }
    }

    /// A dial that is never let out need not wait until its time is over. Firewalls may let out the
    /// second packet of two, where they limit how many there are.
    fn note_forbidden(&mut self) {
        if self.slot.unanswered_dial.is_none() {
            return;
        }
        if mem::replace(&mut self.slot.was_forbidden, true) {
            self.connection.abandon(HandshakeError::NotPermitted);
        }
    }

    /// Books what the connection holds, and lets it hold as much as there is memory for.
    pub(super) fn share_memory(&mut self) {
        let bytes = self.connection.buffered_bytes();
        self.slot.budget.set(bytes, self.budget);
        let is_over = self.slot.budget.is_over(self.budget);
        if is_over || mem::take(&mut self.slot.refuses_data) {
            self.slot.refuses_data = is_over;
            self.totals.registry.dropped_budget += self.connection.refuse_data(is_over);
        }
        self.connection.look_at_windows(self.now);
        let allowance = self.budget.allowance();
        if self.slot.budget.is_news(allowance) {
            self.connection.set_allowance(allowance);
        }
    }

    /// When an established connection is given up whose peer is silent.
    ///
    /// quinn-proto has a deadline of its own, which is over before that unless the peer has made it
    /// long: it is three probe timeouts at least, and the peer chooses a part of these.
    fn idle_deadline(&self) -> Option<Instant> {
        let peer = self.connection.authenticated()?;
        let theirs = peer.negotiated.max_idle_timeout;
        let timeout = self.idle_timeout.into_iter().chain(theirs).min()?;
        if self.connection.loss().is_some() {
            return None;
        }
        // The peer can have round trips look longer than they are.
        let round_trips = (PATIENCE_RTTS * self.connection.rtt()).min(timeout * 3 / 2);
        Some(self.slot.idle_since + timeout.max(round_trips) + IDLE_SLACK)
    }

    /// Sees whether the path swallows what it should carry.
    fn doubt_path(&mut self) {
        let control = self.connection.path_control();
        let acknowledged = Acknowledged {
            bytes: control.acknowledged(),
            is_all: !control.was_in_flight(),
            is_late: control.found_late(),
        };
        let host = Host::of(self.connection.remote_addr().ip());
        let doubter = &mut self.slot.doubter;
        if let Some(doubts) = doubter.note_acknowledged(self.now, acknowledged) {
            self.totals.transport.path_doubts += 1;
            self.doubtful_hosts.note(self.now, host, doubts);
        }
        if doubter.begins(self.now, self.connection.rtt()) {
            self.connection.path_control().look_for_late(self.now);
        }
    }

    /// What may be sent of a batch, whose contents are in `buf`, to an address that may not be validated.
    fn credited(&mut self, transmit: Transmit, buf: &mut Vec<u8>) -> Option<Transmit> {
        // Also what asks a validated address: it must not be taken for what is in the next packet.
        let challenge = self.connection.take_path_challenge();
        let addresses = &mut self.slot.addresses;
        let destination = transmit.destination;
        if addresses.is_validated(destination) {
            return Some(transmit);
        }
        if let Some(challenge) = &challenge {
            addresses.note_challenge(destination, challenge.token);
        }
        if addresses.may_send(destination, transmit.size) {
            return Some(transmit);
        }
        if let Some(Challenge { unpadded, .. }) = challenge
            && transmit.segment_size.is_none()
        {
            let size = unpadded.len();
            if addresses.may_send(destination, size) {
                // RFC 9000 §8.2.1: what validates the path is shorter if it has to be. The other packet
                // with that number is gone.
                *buf = unpadded;
                return Some(Transmit { size, ..transmit });
            }
            if addresses.may_ask(self.now, destination) {
                return Some(transmit);
            }
        }
        // Lost, for all that quinn-proto knows.
        self.totals.transport.sends_not_credited += datagrams(&transmit);
        None
    }

    /// Keeps the packet that closes the connection, which is the last one of the batch.
    fn keep_farewell(&mut self, transmit: &Transmit, contents: &[u8]) {
        let size = transmit.segment_size.unwrap_or(transmit.size);
        self.slot.farewell = contents.chunks(size).last().map(|contents| Farewell {
            socket: self.slot.socket.clone(),
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            contents: contents.into(),
        });
    }

    /// Whether the connection is over and all is done that there is to do about it: the peer is told,
    /// or has told us.
    pub(super) fn is_finished(&mut self, sending: Sending) -> bool {
        if !self.connection.is_over() {
            return false;
        }
        let close_by = *self
            .slot
            .close_deadline
            .get_or_insert(self.now + CLOSE_TIMEOUT);
        let is_told = match sending {
            Sending::Done => self.slot.farewell.is_some() || self.connection.was_ended_by_peer(),
            Sending::Blocked => self.slot.farewell.is_some(),
            Sending::Unfinished => false,
        };
        is_told || close_by <= self.now
    }

    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.connection
            .poll_timeout()
            .into_iter()
            .chain(self.slot.handshake_deadline)
            .chain(self.slot.silent_until)
            .chain(self.slot.close_deadline)
            .chain(self.probe_at())
            .chain(self.keep_alive_at())
            .chain(self.connection.linger_deadline())
            .chain(self.idle_deadline())
            .min()
    }
}

/// How many datagrams a transmit is cut into.
pub(super) fn datagrams(transmit: &Transmit) -> u64 {
    match transmit.segment_size {
        Some(size) => transmit.size.div_ceil(size) as u64,
        None => 1,
    }
}
