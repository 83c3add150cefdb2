//! Which connections get a turn, and when.

use std::{
    mem,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, EndpointEvent};

use super::{Shard, slots::slot};
use crate::{
    proto::{
        connection::lock,
        datagram::{Outbound, SocketHandle},
        deadlines::{Armed, Phase},
        turn::{LIGHT_BYTES, Sending, Turn},
        turn_queue::Load,
        work::Meter,
    },
    trace::dropped,
};

/// While at least this many connections need a turn, due timers are handled only as
/// [`TURNS_PER_TIMER`] says. A round has about as many turns.
///
/// Thousands of dials may have begun, and may be given up, at the same time. Connections with
/// something to receive or to send must not wait for all of them.
const READY_BESIDE_TIMERS: usize = 32;

/// While at least [`READY_BESIDE_TIMERS`] connections need a turn, one timer is handled for this
/// many turns, so that timers are never held up for good. A fixed number for each round would let
/// timers pile up on a slow machine, where a round has time for one turn.
const TURNS_PER_TIMER: usize = 8;

impl<S: SocketHandle> Shard<S> {
    /// Does what comes before turns: counts strangers anew, sends hole punches, queues connections
    /// whose timers are due, and discards what has waited for too long. Adds the wakers that are
    /// due to `wakers`.
    pub(crate) fn begin_turns(
        &mut self,
        now: Instant,
        out: &mut impl Outbound<S>,
        wakers: &mut Vec<Waker>,
    ) {
        self.reception.begin_round();
        self.send_punches(now, out);
        self.queue_expired(now);
        self.release_debtors(now);
        self.untaken.expire(now, wakers);
        while let Some(handle) = self.closing.pop_due(now) {
            self.forget(handle);
        }
        while let Some(pending) = self.reception.take_expired(now) {
            self.totals.transport.incoming_refused += 1;
            let remote_addr = pending.incoming.remote_address();
            tracing::debug!(
                reason = "handshake_timeout",
                %remote_addr,
                "dropped an incoming connection"
            );
            self.endpoint.ignore(pending.incoming);
            self.release(pending.admission);
        }
    }

    /// Gives one connection its turn.
    ///
    /// Returns how much work it had, or `None` if no connection needs a turn. Adds the wakers that
    /// are due to `wakers`; the connection is unlocked when this returns.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        meter: &impl Meter,
        out: &mut impl Outbound<S>,
        wakers: &mut Vec<Waker>,
    ) -> Option<Load> {
        let handle = self.ready.pop()?;
        self.turns_beside_timers += 1;
        let Some(slot) = slot(&mut self.slots, handle) else {
            return Some(Load::default());
        };
        let due_before = wakers.len();
        slot.queued = false;
        if slot.armed.is_due(now) {
            // It has its turn anyway.
            self.deadlines.disarm(handle, &mut slot.armed);
            slot.expired = true;
        }
        let unanswered = slot.unanswered_dial;
        let shared = Arc::clone(&slot.connection);
        let mut connection = lock(&shared);
        let _entered = connection.span().clone().entered();
        if connection.is_released() {
            // A thread has panicked while it used the connection. Further packets of the peer are
            // answered with a stateless reset.
            connection.take_due(wakers);
            drop(connection);
            self.remove(handle);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            return Some(Load::default());
        }
        let mut turn = Turn {
            now,
            handle,
            slot,
            connection: &mut connection,
            endpoint: &mut self.endpoint,
            id_quota: self.id_quota,
            connections: self.live,
            idle_timeout: self.idle_timeout,
            keep_alive_interval: self.keep_alive_interval,
            offload: self.offload,
            doubtful_hosts: &mut self.doubtful_hosts,
            issued: &self.issued,
            inbox_bytes: &mut self.inbox_bytes,
            totals: &mut self.totals,
            registry: &self.registry,
            budget: &self.budget,
            moved: 0,
        };

        // In the order of their occurrence: datagrams have arrived before `now`.
        let debt = turn.receive(meter);
        let mut forget = turn.begin();
        let mut drained = turn.exchange();
        turn.handle_application_events();
        turn.follow_socket(&*out);
        // The application does not hold it, and the peer has closed it, so it need not drain.
        forget |= turn.connection.was_turned_away();
        let sending = turn.send(out, &mut self.buf);
        drained |= turn.exchange();
        turn.handle_application_events();

        let is_finished = turn.is_finished(sending);
        let since = &mut turn.slot.lingers_since;
        let evicted = if turn.connection.lingers() {
            self.lingering.insert(now, handle, since)
        } else {
            self.lingering.remove(handle, since);
            None
        };
        let more = sending == Sending::Unfinished
            || !turn.slot.inbox.is_empty()
            || (turn.slot.expired && !turn.slot.untried_path)
            || turn.connection.announce_turn();
        let deadline = turn.next_deadline();
        // If the anti-amplification limit has held back the CONNECTION_CLOSE, the connection waits
        // for more credit.
        let is_told = turn.slot.close_packet.is_some() || turn.connection.was_ended_by_peer();
        if forget && is_told && !drained {
            turn.endpoint.handle_event(handle, EndpointEvent::drained());
            drained = true;
        }
        if drained || is_finished {
            turn.connection.release();
            let given_up = turn.connection.gave_up_lingering();
            if given_up {
                tracing::debug!(
                    reason = "lingers_given_up",
                    "closed before all was delivered"
                );
            }
            turn.totals.transport.lingers_given_up += u64::from(given_up);
        }
        let leaves_streams = (drained || is_finished) && turn.connection.has_untaken();
        let rtt = turn.connection.rtt();
        let is_confirmed = !turn.slot.is_confirmed && turn.connection.is_confirmed();
        let is_established = turn.connection.authenticated().is_some();
        turn.connection.take_due(wakers);
        let is_light =
            is_established && !more && turn.moved <= LIGHT_BYTES && wakers.len() - due_before <= 1;
        let load = if is_light { Load::Light } else { Load::Heavy };
        turn.share_memory();
        turn.note_mtu(false);
        let slot = turn.slot;
        slot.load = load;
        slot.is_confirmed |= is_confirmed;
        if let Some(initial_id) = unanswered
            && slot.unanswered_dial.is_none()
        {
            self.unanswered.remove(&initial_id);
        }
        if is_established {
            // TLS and quinn-proto have released them.
            slot.handshake_bytes.clear(&mut self.handshake_bytes);
        }
        let admission = if is_established {
            slot.admission.take()
        } else {
            None
        };
        let phase = if is_established {
            Phase::Established
        } else {
            Phase::Handshake
        };
        (self.deadlines).arm(now, handle, &mut slot.armed, phase, deadline);
        if sending == Sending::Blocked && !mem::replace(&mut slot.blocked, true) {
            self.blocked.push(handle);
        }
        drop(connection);

        if leaves_streams {
            self.untaken.push(now, &shared);
        }
        if let Some(evicted) = evicted {
            self.give_up_lingering(evicted);
        }
        if let Some(admission) = admission {
            self.release(admission);
        }
        if drained {
            self.remove(handle);
            return Some(load);
        }
        if is_finished {
            self.close(now, handle, rtt);
            return Some(load);
        }
        if let Some(debt) = debt {
            self.have_wait(now, handle, debt);
        }
        if more {
            self.want_turn(handle);
        }
        Some(load)
    }

    /// Queues the connection for a turn.
    pub(crate) fn want_turn(&mut self, handle: ConnectionHandle) {
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        if slot.waits_until.is_some() && lock(&slot.connection).has_no_future() {
            // A closed connection need not pay its debt.
            slot.waits_until = None;
            slot.inbox.clear(&mut self.inbox_bytes);
            slot.inbox.set_in_debt(false, &mut self.inbox_bytes);
            slot.queued = false;
        }
        if !slot.queued {
            slot.queued = true;
            if slot.waits_until.is_none() {
                self.ready.push(handle, slot.load);
            }
        }
    }

    /// Gives turns again to connections whose sockets were not writable.
    pub(crate) fn unblock(&mut self) {
        for handle in mem::take(&mut self.blocked) {
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.blocked = false;
            }
            self.want_turn(handle);
        }
    }

    /// Gives turns to connections whose sockets have got a [successor](SocketHandle::successor). In
    /// its turn a connection moves if it may.
    pub(crate) fn follow_sockets(&mut self) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if slot(&mut self.slots, handle).is_some_and(|slot| slot.socket.successor().is_some()) {
                self.want_turn(handle);
            }
        }
    }

    /// Sends the datagrams of hole punches that are due.
    fn send_punches(&mut self, now: Instant, out: &mut impl Outbound<S>) {
        while let Some((socket, transmit)) =
            self.punches
                .poll_transmit(now, &mut self.rng, &mut self.buf)
        {
            self.count_sent(&transmit);
            // If it is blocked, it is dropped: the next one is enough.
            let _ = out.send(&socket, transmit, &self.buf);
        }
    }

    /// Queues connections whose timers are due.
    fn queue_expired(&mut self, now: Instant) {
        loop {
            if self.ready.len() < READY_BESIDE_TIMERS {
                self.turns_beside_timers = 0;
            } else if self.turns_beside_timers >= TURNS_PER_TIMER {
                self.turns_beside_timers -= TURNS_PER_TIMER;
            } else {
                break;
            }
            let Some(handle) = self.deadlines.pop_due(now) else {
                self.turns_beside_timers = 0;
                break;
            };
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.armed = Armed::default();
                slot.expired = true;
            }
            self.want_turn(handle);
        }
    }

    /// Makes a connection in debt wait for its next turn.
    fn have_wait(&mut self, now: Instant, handle: ConnectionHandle, debt: Duration) {
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        self.totals.transport.debts += 1;
        slot.waits_until = Some(self.debtors.add(now, handle, debt));
        tracing::trace!(?debt, "the connection waits until its debt is paid");
        let dropped = slot.inbox.set_in_debt(true, &mut self.inbox_bytes);
        dropped!(self.totals.registry, dropped_inbox_full += dropped);
    }

    /// Lets connections have turns whose debts are paid.
    fn release_debtors(&mut self, now: Instant) {
        while let Some((until, handle)) = self.debtors.pop_due(now) {
            let Some(slot) = slot(&mut self.slots, handle) else {
                continue;
            };
            // Another connection may have got the same handle.
            if slot.waits_until != Some(until) {
                continue;
            }
            slot.waits_until = None;
            slot.inbox.set_in_debt(false, &mut self.inbox_bytes);
            if slot.queued {
                self.ready.push(handle, slot.load);
            }
        }
    }

    /// Makes a connection stop delivering streams, and close.
    fn give_up_lingering(&mut self, handle: ConnectionHandle) {
        if let Some(slot) = slot(&mut self.slots, handle) {
            lock(&slot.connection).give_up_lingering();
            self.want_turn(handle);
        }
    }
}
