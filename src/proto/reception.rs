//! What becomes of first packets: let in to wait for the application, sent for a proof, or dropped.

use std::{sync::Arc, time::Instant};

use quinn_proto::{ConnectionId, Endpoint, Incoming, ServerConfig};

use super::{
    admission::{Admission, AdmissionLimits, Admissions, Rejection},
    pending::{IncomingKey, PendingIncoming, PendingLimits},
    registry::Unfinished,
    sources::Source,
};

/// Datagrams of clients must not be shorter until their handshake is confirmed (RFC 9000 §14.1), in bytes.
const MIN_INITIAL: usize = 1200;

/// Most datagrams in one round that cost work for strangers: keys for a first packet, and perhaps an answer. Some 2 ms
/// of it; a batch from a socket may hold eight times as many, while connections wait for their turns.
const STRANGERS_PER_ROUND: usize = 256;

/// Incoming connections before their handshake, and the count of those in the middle of it.
pub(super) struct Reception<S> {
    pub(super) pending: PendingIncoming<S>,
    admissions: Admissions,
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
        Ok(())
    }

    /// Lets an incoming connection wait for the application's answer, or gives it back to be dealt with.
    ///
    /// `initial_id` is the destination of its first packet, which came in a datagram of `len` bytes.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        incoming: Incoming,
        initial_id: ConnectionId,
        len: usize,
        socket: S,
    ) -> Result<(), (Box<Incoming>, Rejection)> {
        let source = Source {
            ip: incoming.remote_address().ip(),
            is_proven: incoming.remote_address_validated(),
        };
        let has_room = self.pending.has_room(len, source.is_proven);
        match self.admissions.admit(source, has_room) {
            Ok(admission) => {
                self.pending
                    .insert(now, incoming, initial_id, len, admission, socket);
                Ok(())
            }
            Err(rejection) => Err((Box::new(incoming), rejection)),
        }
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
}
