//! What a connection does about a peer from which nothing comes.

use std::time::Instant;

use super::Turn;
use crate::proto::{datagram::SocketHandle, silence};

impl<S: SocketHandle> Turn<'_, S> {
    /// Sends a packet if the peer has been silent for too long.
    pub(super) fn keep_up(&mut self) {
        let now = self.now;
        if self.probe_at().is_some_and(|at| at <= now) {
            self.slot.silence.note_probed(now);
            self.connection.ping();
            self.slot.ignores_window = true;
        }
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.connection.ping();
            self.slot.silence.note_kept_alive(now);
        }
    }

    /// When to probe a silent peer.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        let may_probe = self.connection.authenticated().is_some() && !self.connection.is_over();
        self.slot.silence.probe_at().filter(|_| may_probe)
    }

    /// When to send a keep-alive because the peer's idle timeout would end the connection before
    /// quinn-proto sends anything.
    pub(super) fn keep_alive_at(&self) -> Option<Instant> {
        let theirs = self.connection.authenticated()?.negotiated.max_idle_timeout;
        let interval = silence::keep_alive_interval(self.keep_alive_interval?, theirs?)?;
        if self.connection.loss().is_some() {
            return None;
        }
        Some((self.slot.silence).keep_alive_at(self.slot.idle_since, interval))
    }

    /// When an established connection with a silent peer is given up.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        let patience = silence::patience(self.connection, self.idle_timeout)?;
        Some(self.slot.idle_since + patience)
    }
}
