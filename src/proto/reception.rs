//! What becomes of first packets: let in to wait for the application, sent for a proof, or dropped.

use std::{sync::Arc, time::Instant};

use quinn_proto::{ConnectionId, Endpoint, ServerConfig};

use super::{
    admission::{Admission, AdmissionLimits, Admissions, Rejection},
    pending::{FirstPacket, IncomingKey, Pending, PendingIncoming, PendingLimits},
    recent_retries::RecentRetries,
    registry::Unfinished,
    sources::Source,
};

/// Datagrams of clients must not be shorter until their handshake is confirmed (RFC 9000 §14.1), in bytes.
const MIN_INITIAL: usize = 1200;

/// Most datagrams in one round that cost work for strangers: keys for a first packet, and perhaps an answer. A few
/// milliseconds of it at most; a batch from a socket may hold eight times as many, while connections wait for their
/// turns.
const STRANGERS_PER_ROUND: usize = 256;

/// Incoming connections before their handshake, and the count of those in the middle of it.
pub(super) struct Reception<S> {
    pending: PendingIncoming<S>,
    admissions: Admissions,
    retries: RecentRetries,
    server: Arc<ServerConfig>,
    /// The same, with which quinn-proto drops first packets before it does any work for them.
    closed_server: Arc<ServerConfig>,
    /// Which of the two quinn-proto has.
    is_closed: bool,
    /// Datagrams that have cost work for strangers in this round.
    strangers: usize,
}

/// Why a datagram does not wait with the incoming connection that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwelcome {
    Overload,
    SourceFull,
    TooShort,
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
        }
    }

    pub(super) fn server(&self) -> &ServerConfig {
        &self.server
    }

    pub(super) fn begin_round(&mut self) {
        self.strangers = 0;
    }

    /// A datagram has cost work for a stranger.
    pub(super) fn note_stranger(&mut self) {
        self.strangers += 1;
    }

    /// Whether strangers have had all the work of this round that is theirs.
    pub(super) fn is_busy(&self) -> bool {
        self.strangers >= STRANGERS_PER_ROUND
    }

    /// Whether quinn-proto drops first packets.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Has `endpoint` drop first packets while there is no place for what they begin, or no time.
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
    pub(super) fn expect_more(&self, key: IncomingKey, len: usize) -> Result<(), Unwelcome> {
        if len < MIN_INITIAL {
            // Many of them would take far more memory than they have bytes.
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

    /// The incoming connection that waits for packets to this ID, if there is one.
    pub(super) fn find(&self, initial_id: &ConnectionId) -> Option<IncomingKey> {
        self.pending.find(initial_id)
    }

    /// Another datagram waits with it from now on.
    pub(super) fn grow(&mut self, key: IncomingKey, len: usize) {
        if let Some(source) = self.pending.grow(key, len) {
            self.admissions.hold(source, len);
        }
    }

    /// Lets an incoming connection wait for the application's answer, or gives it back to be dealt with.
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

    /// Whether a first packet to this ID, whose sender has to prove its address, is to be answered.
    pub(super) fn owes_retry(&mut self, now: Instant, initial_id: ConnectionId) -> bool {
        self.retries.is_due(now, initial_id)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The next one that the application should hear of.
    pub(super) fn next_unreported(&mut self) -> Option<(IncomingKey, &Pending<S>)> {
        self.pending.next_unreported()
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.pending.first_deadline()
    }

    /// Takes out one that was answered; its admission is to be released when its handshake is over.
    pub(super) fn take(&mut self, key: IncomingKey) -> Option<Pending<S>> {
        let pending = self.pending.remove(key);
        self.taken(pending)
    }

    /// Takes out one that has waited for too long.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Pending<S>> {
        let pending = self.pending.pop_expired(now);
        self.taken(pending)
    }

    /// Takes out any.
    pub(super) fn take_any(&mut self) -> Option<Pending<S>> {
        let pending = self.pending.pop();
        self.taken(pending)
    }

    /// A handshake is over, however it went.
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

    fn taken(&mut self, pending: Option<Pending<S>>) -> Option<Pending<S>> {
        let pending = pending?;
        self.admissions.let_go(pending.source, pending.bytes);
        Some(pending)
    }
}
