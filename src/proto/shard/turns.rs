//! Which connections get a turn, and when.

use std::{mem, sync::Arc, task::Waker, time::Instant};

use quinn_proto::{ConnectionHandle, EndpointEvent};

use super::{Shard, slots::slot_of};
use crate::proto::{
    connection::lock_connection,
    datagram::{Output, SocketHandle},
    deadlines::{Armed, Phase},
    inbox::InboxBytes,
    silence,
    slot::Slot,
    turn::Turn,
    turn_queue::Load,
    work::{Debtors, Meter},
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
        self.reception.begin_round();
        self.send_punches(now, out);
        // First, so that none that has paid is given up for its silence.
        self.release_debtors(now);
        self.queue_due(now);
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
    pub(crate) fn give_turn(
        &mut self,
        now: Instant,
        meter: &impl Meter,
        out: &mut impl Output<S>,
        wakers: &mut Vec<Waker>,
    ) -> Option<Load> {
        let handle = self.ready.pop()?;
        self.turns_beside_timers += 1;
        let Some(slot) = slot_of(&mut self.slots, handle) else {
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
        let turn = Turn {
            now,
            handle,
            slot,
            connection: &mut connection,
            endpoint: &mut self.endpoint,
            id_quota: self.id_quota,
            connections: self.connections,
            idle_timeout: self.idle_timeout,
            keep_alive_interval: self.keep_alive_interval,
            offload: self.offload,
            doubtful_hosts: &mut self.doubtful_hosts,
            lingering: &mut self.lingering,
            issued: &self.issued,
            inbox_bytes: &mut self.inbox_bytes,
            totals: &mut self.totals,
            registry: &self.registry,
            budget: &self.budget,
            moved: 0,
        };
        let outcome = turn.run(meter, out, &mut self.buf, wakers);
        drop(connection);
        let load = outcome.load;
        self.settle(now, handle, &shared, outcome);
        Some(load)
    }

    /// Queues the connection for a turn.
    pub(crate) fn want_turn(&mut self, handle: ConnectionHandle) {
        let Some(slot) = slot_of(&mut self.slots, handle) else {
            return;
        };
        if slot.debt.is_some() && lock_connection(&slot.connection).has_no_future() {
            // A closed connection need not pay its debt.
            forgive(slot, &mut self.debtors, &mut self.inbox_bytes);
        }
        if !slot.queued {
            slot.queued = true;
            if slot.debt.is_none() {
                self.ready.push(handle, slot.load);
            }
        }
    }

    /// Gives turns again to connections whose sockets were not writable.
    pub(crate) fn unblock(&mut self) {
        for handle in mem::take(&mut self.blocked) {
            if let Some(slot) = slot_of(&mut self.slots, handle) {
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
            if slot_of(&mut self.slots, handle)
                .is_some_and(|slot| slot.socket.successor().is_some())
            {
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
            if let Some(slot) = slot_of(&mut self.slots, handle) {
                slot.armed = Armed::default();
                slot.timer_is_due = true;
            }
            self.give_up_debtor(now, handle);
            self.want_turn(handle);
        }
    }

    /// Lets a connection in debt end if its idle timeout is over. While it paid a debt that nobody
    /// asks for any more, others would wait longer.
    fn give_up_debtor(&mut self, now: Instant, handle: ConnectionHandle) {
        let Some(slot) = slot_of(&mut self.slots, handle).filter(|slot| slot.debt.is_some()) else {
            return;
        };
        let patience = silence::patience(&lock_connection(&slot.connection), self.idle_timeout);
        let Some(patience) = patience else {
            return;
        };
        let until = slot.idle_since.max(slot.heard_at) + patience;
        if until <= now {
            forgive(slot, &mut self.debtors, &mut self.inbox_bytes);
        } else {
            // Its timer fires no more before its next turn.
            (self.deadlines).arm(
                now,
                handle,
                &mut slot.armed,
                Phase::Established,
                Some(until),
            );
        }
    }

    /// Lets connections have turns whose debts are paid.
    fn release_debtors(&mut self, now: Instant) {
        while let Some((debt, handle)) = self.debtors.pop_due(now) {
            let Some(slot) = slot_of(&mut self.slots, handle) else {
                continue;
            };
            // Otherwise it would be the debt of another connection that had the same handle.
            debug_assert_eq!(slot.debt, Some(debt));
            slot.debt = None;
            slot.inbox.set_in_debt(false, &mut self.inbox_bytes);
            if slot.queued {
                self.ready.push(handle, slot.load);
            }
        }
    }
}

/// Lets a connection in debt have its turn without payment, and without what has arrived.
fn forgive<S>(slot: &mut Slot<S>, debtors: &mut Debtors, inbox_bytes: &mut InboxBytes) {
    if let Some(debt) = slot.debt.take() {
        debtors.remove(debt);
        slot.inbox.clear(inbox_bytes);
        slot.inbox.set_in_debt(false, inbox_bytes);
        slot.queued = false;
    }
}
