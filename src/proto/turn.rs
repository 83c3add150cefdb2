//! What one connection does in one turn.

mod addresses;
mod sending;
mod silent_peer;

use std::{
    mem,
    task::Waker,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, ConnectionId, Endpoint, EndpointEvent};

#[cfg(test)]
pub(super) use self::sending::BATCHES_PER_TURN;
pub(crate) use self::sending::Offload;
use self::sending::Sending;
use super::{
    budget::Budget,
    connection::Connection,
    connection_id::{IdQuota, IssuedIds},
    datagram::{Output, SocketHandle},
    inbox::InboxBytes,
    linger::LingeringConnections,
    path_doubts::DoubtfulHosts,
    registry::{self, Registry, Totals},
    slot::Slot,
    turn_queue::Load,
    work::{HANDSHAKE_TIME, Meter, TURN_TIME},
};
use crate::{error::HandshakeError, sync::Mutex, trace::dropped};

/// The most datagrams that one connection handles in one turn: about 30 µs of work if they are
/// honest. If they are not, [`TURN_TIME`] ends the turn.
///
/// Short turns keep the latency of one connection's ping low during another connection's bulk
/// transfer.
pub(super) const DATAGRAMS_PER_TURN: usize = 64;

/// No further datagram is handled once those handled count for this much memory (the charges of
/// the inbox), because datagrams may be large.
const CHARGE_PER_TURN: usize = 128 * 1024;

/// The most bytes of datagrams received and sent in a [light](Load::Light) turn:
/// a few requests and replies, and much less than a transfer moves in a turn.
const LIGHT_BYTES: usize = 8 * 1024;

/// How long a connection that has ended, or is to be closed, waits for a socket that is not
/// writable.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// One turn of one connection, which stays locked during the turn.
pub(super) struct Turn<'a, S> {
    pub(super) now: Instant,
    pub(super) handle: ConnectionHandle,
    pub(super) slot: &'a mut Slot<S>,
    pub(super) connection: &'a mut Connection,
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) id_quota: IdQuota,
    /// The number of connections of the shard that are not closed.
    pub(super) connections: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) keep_alive_interval: Option<Duration>,
    pub(super) offload: Offload,
    pub(super) doubtful_hosts: &'a mut DoubtfulHosts,
    pub(super) lingering: &'a mut LingeringConnections,
    pub(super) issued: &'a IssuedIds,
    pub(super) inbox_bytes: &'a mut InboxBytes,
    pub(super) totals: &'a mut Totals,
    pub(super) registry: &'a Mutex<Registry>,
    pub(super) budget: &'a Budget,
    /// Bytes of the datagrams received and sent.
    pub(super) moved: usize,
}

/// What follows from a turn.
pub(super) struct TurnOutcome {
    pub(super) load: Load,
    /// CPU time beyond what the connection has earned, if any.
    pub(super) debt: Option<Duration>,
    /// Whether it needs another turn at once.
    pub(super) more: bool,
    /// When its next timer is due.
    pub(super) deadline: Option<Instant>,
    /// Whether its socket was not writable.
    pub(super) is_blocked: bool,
    /// Whether the peer is authenticated.
    pub(super) is_established: bool,
    /// The initial ID of a dial that has received its first datagram in this turn.
    pub(super) answered: Option<ConnectionId>,
    /// The connection that has lingered longest, if there is no room beside this one.
    pub(super) evicted: Option<ConnectionHandle>,
    /// How it has ended, if it has.
    pub(super) end: Option<End>,
    /// Whether it has ended with streams that the application has not taken.
    pub(super) leaves_streams: bool,
}

/// The end of a connection.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// The endpoint has discarded it.
    Drained,
    /// Only its closing or draining state is left.
    Closing { rtt: Duration },
}

impl<S: SocketHandle> Turn<'_, S> {
    /// Runs the turn, and adds the wakers that are due to `wakers`. `buf` is memory for packets.
    pub(super) fn run(
        mut self,
        meter: &impl Meter,
        out: &mut impl Output<S>,
        buf: &mut Vec<u8>,
        wakers: &mut Vec<Waker>,
    ) -> TurnOutcome {
        let due_before = wakers.len();
        let unanswered = self.slot.unanswered_dial;
        // In the order of their occurrence: datagrams have arrived before `now`.
        let debt = self.receive(meter);
        let mut forget = self.apply_changes_and_timers();
        let mut drained = self.exchange();
        self.handle_quic_events();
        self.follow_socket(&*out);
        // The application does not hold it, and the peer has closed it, so it need not drain.
        forget |= self.connection.was_turned_away();
        let sending = self.send(out, buf);
        drained |= self.exchange();
        self.handle_quic_events();

        let is_finished = self.is_finished(sending);
        let since = &mut self.slot.lingers_since;
        let evicted = if self.connection.lingers() {
            self.lingering.insert(self.now, self.handle, since)
        } else {
            self.lingering.remove(self.handle, since);
            None
        };
        let more = sending == Sending::Unfinished
            || !self.slot.inbox.is_empty()
            || (self.slot.timer_is_due && !self.slot.untried_path)
            || self.connection.announce_turn();
        let deadline = self.next_deadline();
        // If the anti-amplification limit has held back the CONNECTION_CLOSE, the connection waits
        // for more credit.
        let is_told = self.slot.close_packet.is_some() || self.connection.was_ended_by_peer();
        if forget && is_told && !drained {
            (self.endpoint).handle_event(self.handle, EndpointEvent::drained());
            drained = true;
        }
        let end = if drained {
            Some(End::Drained)
        } else {
            let rtt = self.connection.rtt();
            is_finished.then_some(End::Closing { rtt })
        };
        if end.is_some() {
            self.release();
        }
        let leaves_streams = end.is_some() && self.connection.has_untaken();
        let is_confirmed = !self.slot.is_confirmed && self.connection.is_confirmed();
        let is_established = self.connection.authenticated().is_some();
        self.connection.take_due(wakers);
        let is_light =
            is_established && !more && self.moved <= LIGHT_BYTES && wakers.len() - due_before <= 1;
        self.share_memory(false);
        self.note_mtu(false);
        self.slot.is_confirmed |= is_confirmed;
        TurnOutcome {
            load: if is_light { Load::Light } else { Load::Heavy },
            debt,
            more,
            deadline,
            is_blocked: sending == Sending::Blocked,
            is_established,
            answered: unanswered.filter(|_| self.slot.unanswered_dial.is_none()),
            evicted,
            end,
            leaves_streams,
        }
    }

    /// Passes datagrams from the inbox to the connection. Returns the debt, if there is one.
    fn receive(&mut self, meter: &impl Meter) -> Option<Duration> {
        if self.slot.inbox.is_empty() {
            return None;
        }
        let is_handshake = self.connection.authenticated().is_none();
        (self.slot.account).earn_by_waiting(self.now, self.connections);
        let stopwatch = self.slot.account.begin(self.now, is_handshake, meter);
        if self.slot.drops_data || self.budget.is_used_up() {
            self.share_memory(true);
        }
        let mut charged = 0;
        for handled in 0..DATAGRAMS_PER_TURN {
            // The first one is handled even if waiting for the connection's lock took long.
            if charged >= CHARGE_PER_TURN || (handled > 0 && meter.now() - self.now >= TURN_TIME) {
                break;
            }
            let Some((received, charge)) = self.slot.inbox.pop(self.inbox_bytes) else {
                break;
            };
            self.slot.account.earn(1, received.len);
            charged += charge;
            self.moved += received.len;
            let before = self.connection.remote_addr();
            self.slot.unanswered_dial = None;
            self.slot.datagrams_received += 1;
            (self.slot.amplification).note_received(received.remote_addr, received.len, before);
            self.connection.handle_event(received.event);
            if self.connection.has_new_packet() {
                self.slot.idle_since = self.now;
                self.slot.nothing_sent_since = true;
                self.slot.silence.note_received();
            }
            // Before the next datagram: otherwise a stateless reset after a CONNECTION_CLOSE would
            // pass for the reason of the end, and data would pile up in quinn-proto.
            let noted = self
                .connection
                .note_arrival(received.held, self.budget.has_half());
            self.totals.transport.too_fragmented += u64::from(noted.too_fragmented);
            self.totals.transport.exceeded_credit += u64::from(noted.exceeded_credit);
            self.after_events(noted.authenticated);
            self.follow_datagram(before, received.socket, received.local_ip);
            self.note_path_response();
        }
        self.slot.inbox.shrink(false);
        let too_many_blocked = self.connection.end_if_too_many_are_blocked();
        self.totals.transport.too_many_blocked += u64::from(too_many_blocked);
        self.count_if_inexact();
        // Here, because this may look at all streams, which is to be billed.
        self.look_at_windows();
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
    fn apply_changes_and_timers(&mut self) -> bool {
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
            if self.connection.heard_nothing() && self.connection.loss().is_none() {
                tracing::debug!(
                    reason = "heard_nothing",
                    "the dial begins again from another port"
                );
                registry::lock(self.registry).begins_again(self.handle);
                self.connection.abandon(HandshakeError::TimedOut);
            }
        }
        if self.idle_deadline().is_some_and(|deadline| deadline <= now) {
            self.connection.give_up_silent();
        }
        self.keep_up();
        let forget = self.connection.apply_changes(now);
        if !self.slot.untried_path && mem::take(&mut self.slot.timer_is_due) {
            // Frees memory that a burst has needed.
            self.slot.inbox.shrink(true);
            let before = self.connection.remote_addr();
            if self.connection.handle_timeout(now) {
                self.follow_return(before);
            }
        }
        forget
    }

    /// Exchanges events between the connection and the endpoint.
    ///
    /// Returns `true` if the connection is drained.
    fn exchange(&mut self) -> bool {
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

    fn handle_quic_events(&mut self) {
        let authenticated = self.connection.handle_quic_events();
        self.connection.streams().serve_write_line();
        self.after_events(authenticated);
    }

    fn after_events(&mut self, authenticated: bool) {
        if authenticated && let Some(peer) = self.connection.authenticated() {
            registry::lock(self.registry).authenticated(self.handle, peer.peer_id);
        }
        if authenticated {
            // The handshake came from this address only.
            self.slot
                .amplification
                .validate(self.connection.remote_addr());
        }
        if authenticated || self.connection.loss().is_some() {
            self.slot.handshake_deadline = None;
            self.slot.silent_until = None;
        }
    }

    /// Counts received data exactly if its count is inexact. The work is billed to the connection.
    fn count_if_inexact(&mut self) {
        let received = self.connection.held_bytes();
        if self.slot.budget.may_overcount(received, self.budget) {
            self.count_exactly(false);
        }
    }

    /// Counts received data exactly; without `all`, only of streams whose readers are not far
    /// behind. Returns whether that may have changed the count.
    fn count_exactly(&mut self, all: bool) -> bool {
        let may_have_changed = self.connection.count_exactly(all);
        (self.slot.budget).note_exact(self.connection.held_bytes());
        may_have_changed
    }

    /// Updates the budget with what the connection holds, and tells the connection its allowance.
    /// If it holds too much, data is dropped, but only if that was counted `exactly`, which is to
    /// be billed.
    fn share_memory(&mut self, exactly: bool) {
        let mut is_over = self.charge_budget();
        // Otherwise it might wait for the application to read what is not there.
        let received = self.connection.held_bytes();
        let has_risen = self.slot.budget.has_risen(received);
        let is_new = has_risen || !self.slot.drops_data;
        if exactly && is_over && is_new && self.count_exactly(true) {
            is_over = self.charge_budget();
        }
        let is_decided = exactly || !is_over;
        if is_decided && (is_over || mem::take(&mut self.slot.drops_data)) {
            self.slot.drops_data = is_over;
            let dropped = self.connection.drop_data(is_over);
            dropped!(self.totals.registry, dropped_budget += dropped);
        }
        self.look_at_windows();
        let allowance = self.budget.allowance();
        let grown = self.connection.grown_bytes();
        self.slot.budget.set_grown(grown, self.budget);
        if self.slot.budget.is_news(allowance) {
            self.connection.set_allowance(allowance);
        }
    }

    /// Lets windows follow what is read and sent.
    fn look_at_windows(&mut self) {
        let allowance = self.budget.allowance();
        let may_grow = self.budget.lets_windows_grow();
        (self.connection).look_at_windows(self.now, allowance, may_grow);
    }

    /// Updates the budget with what the connection holds. Returns whether that is too much.
    fn charge_budget(&mut self) -> bool {
        let bytes = self.connection.buffered_bytes();
        self.slot.budget.set(bytes, self.budget);
        (self.slot.budget).set_kept(self.connection.kept_bytes(), self.budget);
        self.slot.budget.is_over(self.budget)
    }

    /// Whether the connection has ended and nothing is left to do: the peer was told, or has told
    /// us.
    fn is_finished(&mut self, sending: Sending) -> bool {
        // A close waits for the end of the handshake, which the socket may hold back.
        let is_closed = self.connection.has_to_close() && !self.connection.lingers();
        if !self.connection.is_over() && !is_closed {
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

    /// Lets go of a connection that is over.
    fn release(&mut self) {
        self.connection.release();
        let given_up = self.connection.gave_up_lingering();
        if given_up {
            tracing::debug!(
                reason = "lingers_given_up",
                "closed before all was delivered"
            );
        }
        self.totals.transport.lingers_given_up += u64::from(given_up);
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        // No timer is handled before something was sent on a new path. If the socket is not
        // writable, one that is due would be armed, and fire, again and again.
        let may_time_out = !self.slot.untried_path;
        let timeout = may_time_out.then(|| self.connection.poll_timeout());
        let deadlines = [
            timeout.flatten(),
            self.slot.handshake_deadline,
            self.slot.silent_until,
            self.slot.close_deadline,
            self.probe_at(),
            self.keep_alive_at(),
            self.connection.linger_timeout(),
            self.idle_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }
}
