//! Passes what has arrived for a connection to it.

use std::{mem, time::Duration};

use super::Turn;
use crate::{
    error::HandshakeError,
    proto::{
        datagram::SocketHandle,
        slot::LeftPath,
        work::{HANDSHAKE_TIME, Meter, TURN_TIME},
    },
};

/// The most datagrams that one connection handles in one turn: about 30 µs of work if they are
/// honest. If they are not, [`TURN_TIME`] ends the turn.
///
/// Short turns keep the latency of one connection's ping low during another connection's bulk
/// transfer.
pub(in crate::proto) const DATAGRAMS_PER_TURN: usize = 64;

/// No further datagram is handled once those handled count for this much memory (the charges of
/// the inbox), because datagrams may be large.
const CHARGE_PER_TURN: usize = 128 * 1024;

impl<S: SocketHandle> Turn<'_, S> {
    /// Passes datagrams from the inbox to the connection. Returns the debt, if there is one.
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
            (self.slot.addresses).note_received(received.remote_addr, received.len);
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
            let is_authenticated = self.connection.authenticated().is_some();
            if self.slot.local_ip.is_none() && is_authenticated && received.local_ip.is_some() {
                self.slot.local_ip = received.local_ip;
                self.register_path();
            }
            if self.connection.note_migration() {
                let remote_addr = self.connection.remote_addr();
                tracing::debug!(
                    reason = "authenticated_packet",
                    from = %before,
                    to = %remote_addr,
                    "the peer's address has changed"
                );
                let socket = mem::replace(&mut self.slot.socket, received.socket);
                let local_ip = mem::replace(&mut self.slot.local_ip, received.local_ip);
                if self.slot.addresses.is_validated(before) {
                    self.slot.left = Some(LeftPath {
                        remote_addr: before,
                        socket,
                        local_ip,
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
}
