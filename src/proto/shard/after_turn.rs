//! What follows from a turn of a connection, for the shard.

use std::{
    mem,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionHandle;

use super::{Shard, slots::slot_of};
use crate::{
    proto::{
        connection::{SharedConnection, lock_connection},
        datagram::SocketHandle,
        deadlines::Phase,
        turn::{End, TurnOutcome},
    },
    trace::dropped,
};

impl<S: SocketHandle> Shard<S> {
    /// Does what follows from a turn, with the connection unlocked.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        connection: &SharedConnection,
        outcome: TurnOutcome,
    ) {
        let Some(slot) = slot_of(&mut self.slots, handle) else {
            return;
        };
        slot.load = outcome.load;
        if let Some(initial_id) = outcome.answered {
            self.unanswered.remove(&initial_id);
        }
        let (phase, admission) = if outcome.is_established {
            // TLS and quinn-proto have released them.
            slot.handshake_bytes.clear(&mut self.handshake_bytes);
            (Phase::Established, slot.admission.take())
        } else {
            (Phase::Handshake, None)
        };
        (self.deadlines).arm(now, handle, &mut slot.armed, phase, outcome.deadline);
        if outcome.is_blocked && !mem::replace(&mut slot.blocked, true) {
            self.blocked.push(handle);
        }
        if outcome.leaves_streams {
            self.untaken.push(now, connection);
        }
        if let Some(evicted) = outcome.evicted {
            self.give_up_lingering(evicted);
        }
        if let Some(admission) = admission {
            self.release(admission);
        }
        match outcome.end {
            Some(End::Drained) => self.remove(handle),
            Some(End::Closing { rtt }) => self.close(now, handle, rtt),
            None => {
                if let Some(debt) = outcome.debt {
                    self.have_wait(now, handle, debt);
                }
                if outcome.more {
                    self.want_turn(handle);
                }
            }
        }
    }

    /// Makes a connection in debt wait for its next turn.
    fn have_wait(&mut self, now: Instant, handle: ConnectionHandle, debt: Duration) {
        let Some(slot) = slot_of(&mut self.slots, handle) else {
            return;
        };
        self.totals.transport.debts += 1;
        let added = self.debtors.add(now, handle, debt);
        if let Some(former) = slot.debt.replace(added) {
            self.debtors.remove(former);
        }
        tracing::trace!(?debt, "the connection waits until its debt is paid");
        let dropped = slot.inbox.set_in_debt(true, &mut self.inbox_bytes);
        dropped!(self.totals.registry, dropped_inbox_full += dropped);
    }

    /// Makes a connection stop delivering streams, and close.
    fn give_up_lingering(&mut self, handle: ConnectionHandle) {
        if let Some(slot) = slot_of(&mut self.slots, handle) {
            lock_connection(&slot.connection).give_up_lingering();
            self.want_turn(handle);
        }
    }
}
