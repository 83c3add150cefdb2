//! A connection's state in its shard, and its turns.

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
    closing::ClosePacket,
    connection::{Connection, SharedConnection},
    connection_id::{IdQuota, IssuedIds},
    datagram::{Outbound, Sent, SocketHandle, local_addr},
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

/// The most datagrams that one connection handles in one turn: about 30 µs of work if they are
/// honest. If they are not, [`TURN_TIME`] ends the turn.
///
/// Short turns keep the latency of one connection's ping low during another connection's bulk
/// transfer.
const DATAGRAMS_PER_TURN: usize = 64;

/// The most bytes of these datagrams, because datagrams may be large.
const BYTES_PER_TURN: usize = 128 * 1024;

/// The most bytes received and sent in a [light](Load::Light) turn: a few requests and replies, and
/// much less than a transfer moves in a turn.
pub(super) const LIGHT_BYTES: usize = 8 * 1024;

/// The most turns in a row in which a connection only receives, because more has arrived than one
/// turn handles.
///
/// It would send mostly acknowledgements, and one acknowledges all of it.
const TURNS_WITHOUT_SENDING: u8 = 3;

/// The most batches of datagrams that one connection sends in one turn.
const BATCHES_PER_TURN: usize = 2;

/// Three probe timeouts in round trips, if the RTT variation is half of the RTT.
const PATIENCE_RTTS: u32 = 9;

/// Tolerance for late acknowledgements and timers.
const IDLE_SLACK: Duration = Duration::from_secs(1);

/// How long a connection that has ended waits for a socket that is not writable.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The most datagrams of a batch with CONNECTION_CLOSE: one for each packet number space.
///
/// quinn-proto closes in all spaces that have keys. If the packets do not fit into what it may send
/// at once, it begins again with the first space. A long Retry token may leave no room for another
/// packet beside it.
const CLOSE_DATAGRAMS: usize = 3;

/// The most datagrams in a batch for segmentation offload (Linux permits 64).
const MAX_SEGMENTS: usize = 44;

/// Largest UDP payload that IPv4 carries, in bytes; a batch must not be larger.
const MAX_BATCH: usize = 65_507;

pub(super) struct Slot<S> {
    pub(super) connection: SharedConnection,
    /// The socket from which it sends; it follows the peer's authenticated packets.
    pub(super) socket: S,
    /// The source address, if the socket has several: the local address of the peer's first
    /// datagram. `None` until then; the kernel chooses.
    pub(super) source: Option<IpAddr>,
    /// The previous path to the peer, until the new one is validated or given up.
    pub(super) left: Option<LeftPath<S>>,
    /// Whether packets from the current source arrive.
    pub(super) arrivals: Arrivals,
    pub(super) addresses: AddressLimits,
    /// Its share of the memory for all connections.
    pub(super) budget: BudgetShare,
    /// Whether packets with stream data are dropped because there is no memory for them.
    pub(super) refuses_data: bool,
    /// Of an incoming connection, until its handshake has ended.
    pub(super) admission: Option<Admission>,
    pub(super) inbox: Inbox<InboxDatagram<S>>,
    /// The CPU time that its datagrams have cost.
    pub(super) account: Account,
    /// When its debt is paid, if it is in debt; it gets no turn before.
    pub(super) waits_until: Option<Instant>,
    pub(super) armed: Armed,
    pub(super) expired: bool,
    /// Whether nothing was sent yet on the path that has just become the current one. Timers wait
    /// for that: quinn-proto 0.11.19 keeps the loss detection timer of the previous path, and with
    /// debug assertions it asserts that there are packets in flight on the new one.
    pub(super) untried_path: bool,
    /// The number of turns in a row in which nothing was sent because the inbox was not empty.
    pub(super) silent_turns: u8,
    /// How much work the last turn had.
    pub(super) load: Load,
    pub(super) handshake_deadline: Option<Instant>,
    /// When a dial is given up that has received nothing.
    pub(super) silent_until: Option<Instant>,
    /// Whether the handshake is confirmed (RFC 9001 §4.1.2), so that long headers are no longer
    /// needed.
    pub(super) is_confirmed: bool,
    /// The bytes that the handshake has received.
    pub(super) handshake_bytes: HandshakeBytes,
    /// The start of the idle period: when a packet was last received, or the first one sent after
    /// that (RFC 9000 §10.1).
    pub(super) idle_since: Instant,
    /// Whether nothing was sent since the last datagram was received.
    pub(super) was_silent_since: bool,
    pub(super) silence: Silence,
    /// Doubts about what its path may drop silently.
    pub(super) doubter: Doubter,
    /// Whether the next datagram ignores the congestion window.
    pub(super) probes: bool,
    /// Since when it [lingers](Connection::lingers).
    pub(super) lingers_since: Option<Instant>,
    /// When a connection that has ended is discarded, even if the peer was not told.
    pub(super) close_deadline: Option<Instant>,
    /// The packet with CONNECTION_CLOSE, once it was sent.
    pub(super) close_packet: Option<ClosePacket<S>>,
    /// The destination connection ID of our first packet, until any answer has arrived.
    pub(super) unanswered_dial: Option<ConnectionId>,
    /// Whether the last datagram of the peer was marked for ECN; `None` if none has arrived.
    pub(super) heard_marked: Option<bool>,
    /// Whether the operating system has refused to send the first packet.
    pub(super) was_forbidden: bool,
    /// The number of IDs issued after that of the handshake.
    pub(super) ids_issued: u64,
    pub(super) datagrams_received: u64,
    pub(super) queued: bool,
    pub(super) blocked: bool,
}

/// The path that the peer has left, unless an attacker has only forwarded its packets from another
/// address.
pub(super) struct LeftPath<S> {
    remote_addr: SocketAddr,
    socket: S,
    source: Option<IpAddr>,
}

/// Features of the operating system and of routers to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offload {
    /// Mark packets for ECN, so that routers mark them again before they have to drop any.
    pub(crate) ecn: bool,
    /// Let the kernel or the interface cut batches into datagrams.
    pub(crate) segmentation: bool,
}

/// A datagram in the inbox of its connection.
pub(super) struct InboxDatagram<S> {
    pub(super) event: ConnectionEvent,
    pub(super) remote_addr: SocketAddr,
    /// The local address at which it arrived.
    pub(super) local_ip: Option<IpAddr>,
    pub(super) len: usize,
    /// Bytes of memory that are kept as long as any part of it is.
    pub(super) held: usize,
    pub(super) socket: S,
}

/// The result of sending in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// The socket is not writable.
    Blocked,
    /// Everything was sent that congestion control permits.
    Done,
    /// There is more to send in the next turn.
    Unfinished,
}

/// One turn of one connection, which stays locked during the turn.
pub(super) struct Turn<'a, S> {
    pub(super) now: Instant,
    pub(super) handle: ConnectionHandle,
    pub(super) slot: &'a mut Slot<S>,
    pub(super) connection: &'a mut Connection,
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) id_quota: IdQuota,
    /// The number of connections of the shard.
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
    /// Bytes received and sent.
    pub(super) moved: usize,
}

impl<S: SocketHandle> Turn<'_, S> {
    /// Passes datagrams from the inbox to the connection. Returns the cost beyond what the
    /// connection has earned, if any.
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
            // The first one is handled even if waiting for the connection's lock took long.
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
            // Before the next datagram: otherwise a stateless reset after a CONNECTION_CLOSE would
            // pass for the reason of the end, and data would pile up in quinn-proto.
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
        // A handshake has a limit on all of its cost instead of debts.
        if self.slot.account.used() > HANDSHAKE_TIME {
            self.give_up_handshake();
        }
        None
    }

    /// Ends a handshake that has cost too much, unless it has already ended.
    fn give_up_handshake(&mut self) {
        if self.connection.loss().is_none() && self.connection.authenticated().is_none() {
            self.totals.transport.handshakes_too_costly += 1;
            self.connection.abandon(HandshakeError::TooCostly);
        }
    }

    /// Applies what the application did since the last turn, and handles timers.
    ///
    /// Returns `true` if the connection is to be discarded after this turn.
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
            // Frees memory that a burst has needed.
            self.slot.inbox.shrink(true);
            self.connection.handle_timeout(now);
            // If the new path was not validated, quinn-proto returns to the previous one.
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

    /// Sends a packet if the peer has been silent for too long.
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

    /// When to send a keep-alive because the peer's idle timeout would end the connection before
    /// quinn-proto sends anything.
    fn keep_alive_at(&self) -> Option<Instant> {
        let theirs = self.connection.authenticated()?.negotiated.max_idle_timeout;
        let interval = silence::keep_alive_interval(self.keep_alive_interval?, theirs?)?;
        if self.connection.loss().is_some() {
            return None;
        }
        Some((self.slot.silence).keep_alive_at(self.slot.idle_since, interval))
    }

    /// When to probe a silent peer.
    fn probe_at(&self) -> Option<Instant> {
        let may_probe = self.connection.authenticated().is_some() && !self.connection.is_over();
        self.slot.silence.probe_at().filter(|_| may_probe)
    }

    /// Moves to the successor of the socket, if there is one.
    ///
    /// The connection stays on the old socket until the protocol permits the move.
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

    /// Moves to the source address that the kernel would choose, if that is a different one:
    /// because the old address is gone, or because packets no longer arrive and the route may have
    /// changed.
    ///
    /// The connection keeps the old address until the protocol permits the move, and the address
    /// may come back.
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

    /// Checks whether packets arrive. If none do, another source address may work better.
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

    /// Begins to use another connection ID, for a new local address. Returns `false` if that is not
    /// permitted now.
    fn migrate(&mut self, is_gone: bool) -> bool {
        let Some(event) = self.connection.change_local_address(is_gone) else {
            return false;
        };
        if let Some(event) = self.endpoint.handle_event(self.handle, event) {
            self.connection.handle_event(event);
        }
        true
    }

    /// Updates the state after a change of the peer's address, or its reversal.
    fn follow_peer(&mut self) {
        self.watch_path();
        let remote_addr = self.connection.remote_addr();
        if self.slot.addresses.is_validated(remote_addr) {
            // The address may have been validated while the peer seemed to be elsewhere.
            self.connection.note_validated(remote_addr);
        }
        self.register_path();
    }

    /// Looks for path validation frames unless the path is validated.
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

    /// Exchanges events between the connection and the endpoint.
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
            // The handshake came from this address only.
            self.slot.addresses.validate(self.connection.remote_addr());
        }
        if authenticated || self.connection.loss().is_some() {
            self.slot.handshake_deadline = None;
            self.slot.silent_until = None;
        }
    }

    pub(super) fn send(&mut self, out: &mut impl Outbound<S>, buf: &mut Vec<u8>) -> Sending {
        // The end is told to the peer before the application, because the application may stop
        // running.
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
            // Without validation one datagram at a time, so that at most one exceeds the
            // anti-amplification limit.
            let is_validated = self.slot.addresses.is_validated(remote_addr);
            let probes = mem::take(&mut self.slot.probes);
            // Nor in the handshake, which would not progress on a path that drops batches.
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
            // quinn-proto sets no source address for connections that we dialled, and keeps the
            // first one of others. A challenge to the peer's previous address leaves from the
            // source that the peer knows.
            let left = self.slot.left.as_ref();
            let left = left.filter(|left| left.remote_addr == transmit.destination);
            let left_socket = left.map(|left| left.socket.clone());
            transmit.src_ip = left.map_or(self.slot.source, |left| left.source);
            // A peer that sends no marks may have found that marked packets do not arrive.
            let may_mark = self.slot.heard_marked.unwrap_or(true) && doubts.may_mark(self.now);
            if !(self.offload.ecn && may_mark) {
                transmit.ecn = None;
            }
            if elicited.is_some_and(|elicited| self.connection.elicited() > elicited) {
                self.slot.silence.note_sent(self.now);
                self.slot.doubter.note_sent(self.now);
                self.slot.arrivals.note_sent(self.now);
            }
            // The packet may also go to the peer's previous address, to check whether it still
            // answers there.
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
                self.keep_close_packet(&transmit, buf);
            }
            let from_anywhere = Transmit {
                src_ip: None,
                ..transmit
            };
            let socket = left_socket.as_ref().unwrap_or(&self.slot.socket);
            match out.send(socket, transmit, buf) {
                Sent::Ready => {}
                Sent::SourceGone if self.connection.is_over() => {
                    // A closed connection retransmits nothing, and needs no new connection ID, so
                    // any source address will do.
                    let _ = out.send(socket, from_anywhere, buf);
                }
                Sent::Forbidden => self.note_forbidden(),
                // QUIC retransmits what was lost.
                Sent::SourceGone => self.leave_source(&*out, true),
                Sent::Blocked => return Sending::Blocked,
            }
        }
        if self.connection.is_over() {
            // The CONNECTION_CLOSE is among them. Nothing else would limit how often quinn-proto
            // repeats it if it does not fit into one batch.
            Sending::Done
        } else {
            Sending::Unfinished
        }
    }

    /// Ends a dial whose packets the operating system refuses twice, so that it need not wait for
    /// its timeout. A rate-limiting firewall may let the second packet pass.
    fn note_forbidden(&mut self) {
        if self.slot.unanswered_dial.is_none() {
            return;
        }
        if mem::replace(&mut self.slot.was_forbidden, true) {
            self.connection.abandon(HandshakeError::NotPermitted);
        }
    }

    /// Updates the budget with what the connection holds, and tells the connection its allowance.
    pub(super) fn share_memory(&mut self) {
        let bytes = self.connection.buffered_bytes();
        self.slot.budget.set(bytes, self.budget);
        let is_over = self.slot.budget.is_over(self.budget);
        if is_over || mem::take(&mut self.slot.refuses_data) {
            self.slot.refuses_data = is_over;
            self.totals.registry.dropped_budget += self.connection.refuse_data(is_over);
        }
        let allowance = self.budget.allowance();
        if self.slot.budget.is_news(allowance) {
            self.connection.set_allowance(allowance);
        }
    }

    /// When an established connection with a silent peer is given up.
    ///
    /// quinn-proto has its own deadline, which is earlier unless the peer has prolonged it: it is
    /// at least three probe timeouts, and the peer's `max_ack_delay` is part of them.
    fn idle_deadline(&self) -> Option<Instant> {
        let peer = self.connection.authenticated()?;
        let theirs = peer.negotiated.max_idle_timeout;
        let timeout = self.idle_timeout.into_iter().chain(theirs).min()?;
        if self.connection.loss().is_some() {
            return None;
        }
        // The peer can make round trips seem longer than they are.
        let round_trips = (PATIENCE_RTTS * self.connection.rtt()).min(timeout * 3 / 2);
        Some(self.slot.idle_since + timeout.max(round_trips) + IDLE_SLACK)
    }

    /// Checks whether the path drops marked packets or batches.
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

    /// Returns the part of a batch, whose contents are in `buf`, that may be sent to an address
    /// that may not be validated.
    fn credited(&mut self, transmit: Transmit, buf: &mut Vec<u8>) -> Option<Transmit> {
        // Taken even if the address is validated: the challenge must not be attributed to the next
        // packet.
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
                // RFC 9000 §8.2.1: a datagram with PATH_CHALLENGE is not padded if the limit
                // forbids it. The padded packet with the same number is dropped.
                *buf = unpadded;
                return Some(Transmit { size, ..transmit });
            }
            if addresses.may_ask(self.now, destination) {
                return Some(transmit);
            }
        }
        // quinn-proto will regard it as lost.
        self.totals.transport.sends_not_credited += datagrams(&transmit);
        None
    }

    /// Keeps the packet with CONNECTION_CLOSE, the last one of the batch.
    fn keep_close_packet(&mut self, transmit: &Transmit, contents: &[u8]) {
        let size = transmit.segment_size.unwrap_or(transmit.size);
        self.slot.close_packet = contents.chunks(size).last().map(|contents| ClosePacket {
            socket: self.slot.socket.clone(),
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            contents: contents.into(),
        });
    }

    /// Whether the connection has ended and nothing is left to do: the peer was told, or has told
    /// us.
    pub(super) fn is_finished(&mut self, sending: Sending) -> bool {
        if !self.connection.is_over() {
            return false;
        }
        let close_by = *self
            .slot
            .close_deadline
            .get_or_insert(self.now + CLOSE_TIMEOUT);
        let is_told = match sending {
            Sending::Done => {
                self.slot.close_packet.is_some() || self.connection.was_ended_by_peer()
            }
            Sending::Blocked => self.slot.close_packet.is_some(),
            Sending::Unfinished => false,
        };
        is_told || close_by <= self.now
    }

    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let deadlines = [
            self.connection.poll_timeout(),
            self.slot.handshake_deadline,
            self.slot.silent_until,
            self.slot.close_deadline,
            self.probe_at(),
            self.keep_alive_at(),
            self.connection.linger_deadline(),
            self.idle_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }
}

/// The number of datagrams in a transmit.
pub(super) fn datagrams(transmit: &Transmit) -> u64 {
    match transmit.segment_size {
        Some(size) => transmit.size.div_ceil(size) as u64,
        None => 1,
    }
}
