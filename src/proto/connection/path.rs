//! The addresses of a connection: its own changes, and those of its peer.

use std::{
    net::SocketAddr,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use quinn_proto::EndpointEvent;

use super::{Connection, Direction};
use crate::{error::ConnectionError, packets::Challenge, proto::congestion::PathControl};

/// A change of the peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum PathChange {
    /// The path is most likely the same (RFC 9000 §9.4).
    OnlyPort,
    NewPath,
}

impl Connection {
    /// Resolves to the peer's new address, once after each change. After the end of the connection,
    /// resolves to its error, after the application has taken all streams that the peer opened
    /// before.
    ///
    /// An attacker on the path can forward copies of the peer's packets from another address, so an
    /// address is reported only once it is validated.
    pub(crate) fn poll_address_change(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<SocketAddr, ConnectionError>> {
        if !self.streams.has_waiting() {
            self.alive()?;
        }
        match self.moved_to.take() {
            Some(addr) => Poll::Ready(Ok(addr)),
            None => {
                self.signals.wait(&mut self.wakers.address_change, waker);
                Poll::Pending
            }
        }
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    /// Our address from which it sends.
    pub(in crate::proto) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Notes from which of our addresses it sends.
    pub(in crate::proto) fn set_local_addr(&mut self, addr: SocketAddr) {
        self.local_addr = addr;
    }

    /// Migrates to another local address, from which the shard is to send, with a connection ID
    /// that was not used on the old path (RFC 9000 §9.5).
    ///
    /// Returns `None` if that is not permitted now; otherwise an event for the endpoint.
    ///
    /// Only clients migrate. But if its old address is gone, a server has nothing to lose: it may
    /// be behind a router whose address is all that its peer knows.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-9
    pub(in crate::proto) fn change_local_address(
        &mut self,
        is_gone: bool,
    ) -> Option<EndpointEvent> {
        if !self.may_migrate(is_gone) {
            return None;
        }
        let issued = Some(self.quic.stats().frame_rx.new_connection_id);
        self.quic.local_address_changed();
        // All earlier events were polled before. This one announces the reset token of the new ID,
        // if there is a new ID.
        let event = self.quic.poll_endpoint_events();
        self.ids_seen_when_exhausted = if event.is_none() { issued } else { None };
        event
    }

    /// Whether [`change_local_address`](Self::change_local_address) may do anything.
    pub(in crate::proto) fn may_migrate(&self, is_gone: bool) -> bool {
        (self.direction == Direction::Outbound || is_gone)
            && (self.loss.is_none() || self.lingers())
            && (self.authenticated.as_ref())
                .is_some_and(|peer| !peer.negotiated.disables_active_migration)
            && self.is_confirmed()
            && self.ids_seen_when_exhausted != Some(self.quic.stats().frame_rx.new_connection_id)
    }

    /// Forgets what was measured of the path: it begins at another IP address of ours now.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-9.4
    pub(in crate::proto) fn begin_path(&mut self, now: Instant) {
        self.quic.path_changed(now);
        self.take_path_control();
    }

    fn take_path_control(&mut self) {
        self.note_acknowledged();
        self.path_control = PathControl::of(&self.quic);
        self.acknowledged = self.path_control.acknowledged();
    }

    /// Whether an authenticated packet has come from another address since the last call, and what
    /// that means.
    pub(in crate::proto) fn note_migration(&mut self, now: Instant) -> Option<PathChange> {
        (self.quic.remote_address() != self.remote_addr).then(|| self.take_path(now))
    }

    /// Whether quinn-proto has returned to the previous path, because a new one was not validated.
    /// The peer's address may be the same on both, if it was at a third one in between.
    pub(super) fn has_returned(&self) -> bool {
        !self.path_control.is_of(&self.quic)
    }

    /// Follows quinn-proto to the previous path.
    ///
    /// quinn-proto 0.11.19 leaves the timer for lost packets armed for those of the path that it
    /// gives up. The PING arms it anew, and sees to it that there is something in flight.
    pub(in crate::proto) fn note_return(&mut self, now: Instant) -> PathChange {
        let change = self.take_path(now);
        self.ping();
        change
    }

    fn take_path(&mut self, now: Instant) -> PathChange {
        let before = self.path_control.clone();
        self.remote_addr = self.quic.remote_address();
        self.take_path_control();
        if self.authenticated.is_none() {
            self.known_addr = self.remote_addr;
        }
        if self.path_control.is_shared_with(&before) {
            return PathChange::OnlyPort;
        }
        // quinn-proto has it begin when the packet came, or does not begin it anew, and until now
        // packets were sent to the address before.
        self.path_control.begin(now);
        PathChange::NewPath
    }

    /// Notes that the peer's address is validated. If it is the current one, the application is
    /// told.
    pub(in crate::proto) fn note_validated(&mut self, addr: SocketAddr) {
        if addr == self.remote_addr && addr != self.known_addr {
            tracing::debug!(remote_addr = %addr, "the peer's new address is validated");
            self.known_addr = addr;
            self.moved_to = Some(addr);
            self.signals.make_due(&mut self.wakers.address_change);
        }
    }

    /// Starts or stops looking for path validation frames.
    pub(in crate::proto) fn watch_paths(&self, is_watched: bool) {
        if let Some(watch) = &self.watch {
            watch.watch(is_watched);
        }
    }

    /// Takes a PATH_CHALLENGE that was sent while they were looked for.
    pub(in crate::proto) fn take_path_challenge(&self) -> Option<Challenge> {
        let watch = self.watch.as_ref().filter(|watch| watch.is_watched())?;
        watch.take_challenge()
    }

    /// Takes the data of a PATH_RESPONSE that was received while they were looked for.
    pub(in crate::proto) fn take_path_response(&self) -> Option<u64> {
        let watch = self.watch.as_ref().filter(|watch| watch.is_watched())?;
        watch.take_response()
    }

    /// The congestion control of the path.
    pub(in crate::proto) fn path_control(&self) -> &PathControl {
        &self.path_control
    }

    pub(in crate::proto) fn current_mtu(&self) -> u16 {
        self.quic.current_mtu()
    }

    pub(in crate::proto) fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    /// Bytes in flight after the last acknowledgement.
    #[cfg(test)]
    pub(in crate::proto) fn bytes_in_flight(&self) -> u64 {
        self.path_control.in_flight()
    }
}
