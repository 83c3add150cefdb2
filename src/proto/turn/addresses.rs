//! From which of our addresses a connection sends, and to which of its peer's.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::Turn;
use crate::proto::{
    connection::PathChange,
    datagram::{Output, SocketHandle, local_addr},
    delivery::Verdict,
    registry,
    slot::PreviousPath,
};

impl<S: SocketHandle> Turn<'_, S> {
    /// Moves to the successor of the socket, if there is one.
    ///
    /// The connection stays on the old socket until the protocol permits the move.
    pub(super) fn follow_socket(&mut self, out: &impl Output<S>) {
        let Some(successor) = self.slot.socket.successor() else {
            return;
        };
        if self.migrate(false) {
            let local_ip = out.source_ip(&successor, self.connection.remote_addr());
            self.begin_path(successor, local_ip, self.now, "socket_replaced");
        }
    }

    /// Moves to the source address that the kernel would choose, if that is a different one:
    /// because the old address is gone, or because packets no longer arrive and the route may have
    /// changed.
    ///
    /// The connection keeps the old address until the protocol permits the move, and the address
    /// may come back.
    pub(super) fn leave_source(&mut self, out: &impl Output<S>, is_gone: bool) {
        let may_migrate = self.connection.may_migrate(is_gone);
        if self.slot.move_is_due && !may_migrate {
            return;
        }
        let local_ip = out.source_ip(&self.slot.socket, self.connection.remote_addr());
        if local_ip.is_none() || local_ip == self.slot.local_ip {
            return;
        }
        let reason = if is_gone {
            "source_gone"
        } else {
            "nothing_arrives"
        };
        if may_migrate && self.migrate(is_gone) {
            self.totals.transport.source_changes += 1;
            self.slot.move_is_due = false;
            let socket = self.slot.socket.clone();
            // What the system has just refused to send counts as sent on the old path.
            let began = self.now + Duration::from_nanos(is_gone.into());
            self.begin_path(socket, local_ip, began, reason);
        } else if !mem::replace(&mut self.slot.move_is_due, true) {
            self.totals.transport.source_changes_refused += 1;
            tracing::debug!(reason, "may not move to another address");
        }
    }

    /// Checks whether packets arrive. If none do, another source address may work better.
    pub(super) fn watch_delivery(&mut self, out: &impl Output<S>) {
        if self.connection.authenticated().is_none() || self.connection.is_over() {
            return;
        }
        let acknowledgements = self.connection.path_control().acknowledgements();
        let delivery = &mut self.slot.delivery;
        delivery.note_acknowledged(acknowledgements);
        match delivery.judge(self.now) {
            Verdict::Fine => {}
            Verdict::Ask => self.connection.ping(),
            Verdict::Nothing => self.leave_source(out, false),
        }
    }

    /// Sends from another of our addresses from now on. If only the port is another one, the path
    /// is most likely the same (RFC 9000 §9.4). Otherwise what is sent before `began` does not
    /// count for the new one.
    fn begin_path(&mut self, socket: S, local_ip: Option<IpAddr>, began: Instant, reason: &str) {
        let before = self.source_ip();
        self.slot.socket = socket;
        self.slot.local_ip = local_ip;
        self.register_path();
        let local_addr = self.connection.local_addr();
        tracing::debug!(reason, %local_addr, "moved to another address");
        if self.source_ip() != before {
            self.connection.begin_path(began);
            self.note_path_begun();
            self.note_mtu(true);
            // What is in flight on the old path counts against the new window.
            self.slot.ignores_window = true;
        } else {
            self.slot.doubter.note_port_changed();
        }
    }

    fn source_ip(&self) -> IpAddr {
        let local_ip = self.slot.local_ip;
        local_ip.unwrap_or_else(|| self.slot.socket.local_addr().ip())
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

    /// Follows the peer after a datagram that has come in at `socket`, to our address `local_ip`.
    /// `before` is the address that the peer had before.
    pub(super) fn follow_datagram(
        &mut self,
        before: SocketAddr,
        socket: S,
        local_ip: Option<IpAddr>,
    ) {
        let is_authenticated = self.connection.authenticated().is_some();
        if self.slot.local_ip.is_none() && is_authenticated && local_ip.is_some() {
            self.slot.local_ip = local_ip;
            self.register_path();
        }
        if let Some(change) = self.connection.note_migration(self.now) {
            let remote_addr = self.connection.remote_addr();
            tracing::debug!(
                reason = "authenticated_packet",
                from = %before,
                to = %remote_addr,
                "the peer's address has changed"
            );
            let is_back = |left: &mut PreviousPath<S>| left.remote_addr == remote_addr;
            // A peer that is back knows the address from which packets have come to it.
            let (socket, local_ip) = match self.slot.previous_path.take_if(is_back) {
                Some(left) => (left.socket, left.local_ip),
                None => (socket, local_ip),
            };
            let socket = mem::replace(&mut self.slot.socket, socket);
            let local_ip = mem::replace(&mut self.slot.local_ip, local_ip);
            if self.slot.amplification.is_validated(before) {
                self.slot.previous_path = Some(PreviousPath {
                    remote_addr: before,
                    socket,
                    local_ip,
                });
            }
            self.slot.untried_path = true;
            self.follow_peer(change);
        }
    }

    /// Notes that the peer has answered a challenge, if it has: it receives at that address.
    pub(super) fn note_path_response(&mut self) {
        if let Some(token) = self.connection.take_path_response()
            && let Some(addr) = self.slot.amplification.answered(token)
        {
            self.connection.note_validated(addr);
            if addr == self.connection.remote_addr() {
                self.slot.previous_path = None;
            }
            self.watch_path();
        }
    }

    /// Follows quinn-proto to the previous path, to which it has returned because the new one was
    /// not validated in time. `before` is the address that the peer had before the timers were
    /// handled; that of the previous path may be the same.
    pub(super) fn follow_return(&mut self, before: SocketAddr) {
        let change = self.connection.note_return(self.now);
        let remote_addr = self.connection.remote_addr();
        tracing::debug!(
            reason = "not_validated",
            from = %before,
            to = %remote_addr,
            "the peer's address has changed back"
        );
        self.slot.untried_path = true;
        let left = (self.slot.previous_path.take()).filter(|left| left.remote_addr == remote_addr);
        if let Some(left) = left {
            self.slot.socket = left.socket;
            self.slot.local_ip = left.local_ip;
        }
        self.follow_peer(change);
    }

    /// Updates the state after a change of the peer's address, or its reversal.
    fn follow_peer(&mut self, change: PathChange) {
        match change {
            PathChange::OnlyPort => self.slot.doubter.note_port_changed(),
            PathChange::NewPath => self.note_path_begun(),
        }
        self.note_mtu(true);
        self.watch_path();
        let remote_addr = self.connection.remote_addr();
        if self.slot.amplification.is_validated(remote_addr) {
            // The address may have been validated while the peer seemed to be elsewhere.
            self.connection.note_validated(remote_addr);
        }
        self.register_path();
    }

    fn note_path_begun(&mut self) {
        let acknowledged = self.connection.path_control().acknowledged();
        self.slot.doubter.begin_path(acknowledged);
    }

    /// Looks for path validation frames unless the path is validated.
    fn watch_path(&self) {
        let remote_addr = self.connection.remote_addr();
        let is_validated = self.slot.amplification.is_validated(remote_addr);
        self.connection.watch_paths(!is_validated);
    }

    fn register_path(&mut self) {
        let local_addr = local_addr(&self.slot.socket, self.slot.local_ip);
        self.connection.set_local_addr(local_addr);
        registry::lock(self.registry).migrated(
            self.handle,
            local_addr,
            self.connection.remote_addr(),
        );
    }

    /// Traces a change of the MTU. A new path begins with the smallest.
    pub(super) fn note_mtu(&mut self, is_new_path: bool) {
        let to = self.connection.current_mtu();
        let from = mem::replace(&mut self.slot.mtu, to);
        if from != to {
            let reason = match (is_new_path, from < to) {
                (true, _) => "path_changed",
                (false, true) => "probe_acknowledged",
                (false, false) => "black_hole",
            };
            tracing::debug!(reason, from, to, "the MTU has changed");
        }
    }
}
