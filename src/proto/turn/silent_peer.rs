//! What a connection does about a peer from which nothing comes.

use std::time::{Duration, Instant};

use super::Turn;
use crate::proto::{datagram::SocketHandle, silence};

/// Three probe timeouts in round trips. A probe timeout is the RTT and four times its variation
/// (RFC 9002 §6.2.1), which makes three round trips if the variation is half of the RTT.
const PATIENCE_RTTS: u32 = 9;

/// Tolerance for late acknowledgements and timers.
const IDLE_SLACK: Duration = Duration::from_secs(1);

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
    ///
    /// quinn-proto has its own deadline, which is earlier unless the peer has prolonged it: it is
    /// at least three probe timeouts, and the peer's `max_ack_delay` is part of them.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
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
}
