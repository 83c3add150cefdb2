//! Decides about first packets: admitted to wait for the application, asked for a proof of the
//! address, or dropped.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use quinn_proto::{ConnectionId, Endpoint, ServerConfig};

pub(crate) use self::{
    admission::AdmissionLimits,
    pending::{IncomingKey, PendingLimits},
};
use self::{
    admission::Admissions, pending::PendingIncoming, recent_retries::RecentRetries, sources::Source,
};
pub(super) use self::{
    admission::{Admission, Rejection},
    pending::{FirstPacket, Pending},
};
use super::registry::Unfinished;

mod admission;
mod pending;
mod recent_retries;
mod sources;

/// Datagrams with Initial packets of clients must not be shorter (RFC 9000 §14.1), in bytes.
pub(super) const MIN_INITIAL: usize = 1200;

/// The most datagrams of strangers that get work before connections have turns again, except for
/// those that are answered with a stateless reset. One read can bring 2,048, and without this limit
/// all connections would wait for them.
pub(super) const STRANGERS_PER_ROUND: usize = 256;

/// The most stateless resets before connections have turns again. Any noise with a short header
/// calls for one, so they do not use up the places of first packets.
pub(super) const RESETS_PER_ROUND: usize = 256;

/// Incoming connections before their handshake, and the count of those in it.
pub(super) struct Reception<S> {
    pending: PendingIncoming<S>,
    admissions: Admissions,
    retries: RecentRetries,
    server: Arc<ServerConfig>,
    /// A copy with no room for incoming connections: with it, quinn-proto drops first packets
    /// without any work.
    closed_server: Arc<ServerConfig>,
    /// Whether quinn-proto currently has `closed_server`.
    is_closed: bool,
    /// Datagrams since connections last had turns that have cost work for strangers, except for
    /// those of `resets`.
    strangers: usize,
    /// Stateless resets that were made since then.
    resets: usize,
}

/// The reason why a datagram may not wait with its incoming connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwelcome {
    Overload,
    SourceFull,
    TooShort,
    /// It does not come from the address of the first one.
    OtherSource,
}

impl<S> Reception<S> {
    pub(super) fn new(
        server: Arc<ServerConfig>,
        admission: AdmissionLimits,
        pending: PendingLimits,
    ) -> Self {
        let mut closed_server = ServerConfig::clone(&server);
        closed_server.max_incoming(0);
        Self {
            pending: PendingIncoming::new(pending),
            admissions: Admissions::new(admission),
            retries: RecentRetries::default(),
            server,
            closed_server: Arc::new(closed_server),
            is_closed: false,
            strangers: 0,
            resets: 0,
        }
    }

    pub(super) fn server(&self) -> &ServerConfig {
        &self.server
    }

    /// Connections are about to have turns, so strangers are counted anew.
    pub(super) fn begin_round(&mut self) {
        self.strangers = 0;
        self.resets = 0;
    }

    /// Notes that a datagram has cost work for a stranger. Returns whether there is time for an
    /// answer.
    pub(super) fn note_stranger(&mut self) -> bool {
        let has_time = !self.is_busy();
        self.strangers += 1;
        has_time
    }

    /// Notes that a stateless reset was made.
    pub(super) fn note_reset(&mut self) {
        self.resets += 1;
    }

    /// The stateless resets that were made since connections last had turns.
    #[cfg(test)]
    pub(super) fn resets(&self) -> usize {
        self.resets
    }

    /// Whether another stateless reset may be made before the next turns.
    pub(super) fn may_reset(&self) -> bool {
        self.resets < RESETS_PER_ROUND
    }

    /// Whether as much work was done for strangers as may be before the next turns.
    fn is_busy(&self) -> bool {
        self.strangers >= STRANGERS_PER_ROUND
    }

    /// Whether quinn-proto drops first packets.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Makes `endpoint` drop first packets while there is no place for new connections, or no time.
    pub(super) fn open_or_close(&mut self, endpoint: &mut Endpoint, has_ids: bool) {
        let is_closed =
            !has_ids || self.is_busy() || self.admissions.is_full() || self.pending.is_full();
        if is_closed != self.is_closed {
            self.is_closed = is_closed;
            let server = if is_closed {
                &self.closed_server
            } else {
                &self.server
            };
            endpoint.set_server_config(Some(Arc::clone(server)));
        }
    }

    /// Whether another datagram of an incoming connection may wait with it.
    pub(super) fn expect_more(
        &self,
        key: IncomingKey,
        from: SocketAddr,
        len: usize,
    ) -> Result<(), Unwelcome> {
        if self.pending.remote_addr(key) != Some(from) {
            // All that waits gives credit to the first address, for what is sent there.
            return Err(Unwelcome::OtherSource);
        }
        if len < MIN_INITIAL {
            // Many short datagrams would take far more memory than they have bytes.
            return Err(Unwelcome::TooShort);
        }
        if !self.pending.may_grow(key, len) {
            return Err(Unwelcome::Overload);
        }
        match self.pending.source(key) {
            Some(source) if !self.admissions.may_hold(source, len) => Err(Unwelcome::SourceFull),
            _ => Ok(()),
        }
    }

    /// The incoming connection that waits for packets with this ID.
    pub(super) fn find(&self, initial_id: &ConnectionId) -> Option<IncomingKey> {
        self.pending.find(initial_id)
    }

    /// Notes another datagram that waits with the connection.
    pub(super) fn grow(&mut self, key: IncomingKey, len: usize) {
        if let Some(source) = self.pending.grow(key, len) {
            self.admissions.hold(source, len);
        }
    }

    /// Admits an incoming connection to wait for the application's answer, or returns it with the
    /// reason for rejecting it.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        first: FirstPacket<S>,
    ) -> Result<(), (Box<FirstPacket<S>>, Rejection)> {
        let source = Source {
            ip: first.incoming.remote_address().ip(),
            is_proven: first.incoming.remote_address_validated(),
        };
        let len = first.len;
        let has_room = self.pending.has_room(len, source.is_proven);
        match self.admissions.admit(source, len, has_room) {
            Ok(admission) => {
                self.pending.insert(now, first, admission, source);
                Ok(())
            }
            Err(rejection) => Err((Box::new(first), rejection)),
        }
    }

    /// Whether a first packet with this ID, whose sender has to prove its address, should be
    /// answered with a Retry.
    pub(super) fn owes_retry(&mut self, now: Instant, initial_id: ConnectionId) -> bool {
        self.retries.is_due(now, initial_id)
    }

    /// The number of connections that wait.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Takes the next connection to report to the application.
    pub(super) fn next_unreported(&mut self) -> Option<(IncomingKey, &Pending<S>)> {
        self.pending.next_unreported()
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.pending.first_deadline()
    }

    /// Removes a connection that was answered. Its admission must be released when its handshake
    /// ends.
    pub(super) fn take_pending(&mut self, key: IncomingKey) -> Option<Pending<S>> {
        let pending = self.pending.remove(key);
        self.release_held(pending)
    }

    /// Removes a connection whose time is over.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Pending<S>> {
        let pending = self.pending.pop_expired(now);
        self.release_held(pending)
    }

    /// Removes any connection.
    pub(super) fn take_any(&mut self) -> Option<Pending<S>> {
        let pending = self.pending.pop();
        self.release_held(pending)
    }

    /// Releases the admission of a handshake, however it ended.
    pub(super) fn release(&mut self, admission: Admission) {
        self.admissions.release(admission);
    }

    pub(super) fn unfinished(&self) -> Unfinished {
        Unfinished {
            pending: self.pending.len(),
            pending_bytes: self.pending.bytes(),
            sources: self.admissions.sources(),
        }
    }

    /// Notes that a connection that was removed holds no bytes any more.
    fn release_held(&mut self, pending: Option<Pending<S>>) -> Option<Pending<S>> {
        let pending = pending?;
        self.admissions.let_go(pending.source, pending.bytes);
        Some(pending)
    }
}
