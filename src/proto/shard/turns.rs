//! Which connections get a turn, and when; and the turn itself.

use std::{mem, sync::Arc, task::Waker, time::Instant};

use quinn_proto::{ConnectionHandle, EndpointEvent};

use super::{
    Shard,
    after_turn::{End, TurnOutcome},
    slots::slot,
};
use crate::proto::{
    connection::{Connection, lock_connection},
    datagram::{Output, SocketHandle},
    deadlines::Armed,
    turn::{LIGHT_BYTES, Sending, Turn},
    turn_queue::Load,
    work::Meter,
};

/// If fewer connections than this need a turn, all due timers are handled. Otherwise one is handled
/// for each [`TURNS_PER_TIMER`] turns. A round has about as many turns.
///
/// Thousands of dials may have begun, and may be given up, at the same time. Connections with
/// something to receive or to send must not wait for all of them.
pub(in crate::proto) const READY_BESIDE_TIMERS: usize = 32;

/// While at least [`READY_BESIDE_TIMERS`] connections need a turn, one timer is handled for this
/// many turns, so that timers are never held up for good. A fixed number for each round would let
/// timers pile up on a slow machine, where a round has time for one turn.
const TURNS_PER_TIMER: usize = 8;

impl<S: SocketHandle> Shard<S> {
    /// Does what comes before turns: counts strangers anew, sends hole punches, queues connections
    /// whose timers are due, and discards what has waited for too long. Adds the wakers that are
    /// due to `wakers`.
    pub(crate) fn prepare_turns(
        &mut self,
        now: Instant,
        out: &mut impl Output<S>,
        wakers: &mut Vec<Waker>,
    ) {
        self.reception.begin_turns();
        self.send_punches(now, out);
        self.queue_due(now);
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
        out: &mut impl Output<S>,
        wakers: &mut Vec<Waker>,
    ) -> Option<Load> {
        let handle = self.ready.pop()?;
        self.turns_beside_timers += 1;
        let Some(slot) = slot(&mut self.slots, handle) else {
            return Some(Load::default());
        };
        slot.queued = false;
        if slot.armed.is_due(now) {
            // It has its turn anyway.
            self.deadlines.disarm(handle, &mut slot.armed);
            slot.timer_is_due = true;
        }
        let shared = Arc::clone(&slot.connection);
        let mut connection = lock_connection(&shared);
        let span = connection.span();
        let _entered = span.enter();
        if connection.is_released() {
            // A thread has panicked while it used the connection. Further packets of the peer are
            // answered with a stateless reset.
            connection.take_due(wakers);
            drop(connection);
            self.remove(handle);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            return Some(Load::default());
        }
        let outcome = self.run_turn(now, handle, &mut connection, meter, out, wakers)?;
        drop(connection);
        let load = outcome.load;
        self.settle(now, handle, &shared, outcome);
        Some(load)
    }

    /// Runs the turn of a connection, and adds the wakers that are due to `wakers`.
    fn run_turn(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        connection: &mut Connection,
        meter: &impl Meter,
        out: &mut impl Output<S>,
        wakers: &mut Vec<Waker>,
    ) -> Option<TurnOutcome> {
        let slot = slot(&mut self.slots, handle)?;
        let due_before = wakers.len();
        let unanswered = slot.unanswered_dial;
        let mut turn = Turn {
            now,
            handle,
            slot,
            connection,
            endpoint: &mut self.endpoint,
            id_quota: self.id_quota,
            connections: self.connections,
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
        let mut forget = turn.apply_changes_and_timers();
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
            || (turn.slot.timer_is_due && !turn.slot.untried_path)
            || turn.connection.announce_turn();
        let deadline = turn.next_deadline();
        // If the anti-amplification limit has held back the CONNECTION_CLOSE, the connection waits
        // for more credit.
        let is_told = turn.slot.close_packet.is_some() || turn.connection.was_ended_by_peer();
        if forget && is_told && !drained {
            turn.endpoint.handle_event(handle, EndpointEvent::drained());
            drained = true;
        }
        let end = if drained {
            Some(End::Drained)
        } else {
            let rtt = turn.connection.rtt();
            is_finished.then_some(End::Closing { rtt })
        };
        if end.is_some() {
            turn.release();
        }
        let leaves_streams = end.is_some() && turn.connection.has_untaken();
        let is_confirmed = !turn.slot.is_confirmed && turn.connection.is_confirmed();
        let is_established = turn.connection.authenticated().is_some();
        turn.connection.take_due(wakers);
        let is_light =
            is_established && !more && turn.moved <= LIGHT_BYTES && wakers.len() - due_before <= 1;
        turn.share_memory();
        turn.note_mtu(false);
        turn.slot.is_confirmed |= is_confirmed;
        Some(TurnOutcome {
            load: if is_light { Load::Light } else { Load::Heavy },
            debt,
            more,
            deadline,
            is_blocked: sending == Sending::Blocked,
            is_established,
            answered: unanswered.filter(|_| turn.slot.unanswered_dial.is_none()),
            evicted,
            end,
            leaves_streams,
        })
    }

    /// Queues the connection for a turn.
    pub(crate) fn want_turn(&mut self, handle: ConnectionHandle) {
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        if slot.waits_until.is_some() && lock_connection(&slot.connection).has_no_future() {
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
    fn send_punches(&mut self, now: Instant, out: &mut impl Output<S>) {
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
    fn queue_due(&mut self, now: Instant) {
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
                slot.timer_is_due = true;
            }
            self.want_turn(handle);
        }
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
}
