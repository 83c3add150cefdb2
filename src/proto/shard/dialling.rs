//! Dials, and what opens the way for them.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use quinn_proto::{ClientConfig, ConnectError, ConnectionHandle, ConnectionId};
use rand::Rng;

use super::{Begun, Shard, slot};
use crate::{
    error::HandshakeError,
    proto::{
        address_limits::AddressLimits,
        connection::{Direction, SharedConnection, lock},
        datagram::Socket,
        hole_punch::PunchKey,
    },
};

/// Length of the ID that a client chooses for the server until it learns a real one, in bytes; it must be
/// unpredictable and 8 at least (RFC 9000 §7.2).
const INITIAL_ID_LEN: usize = 8;

/// quinn-proto wants a name for TLS's SNI, which libp2p does not send.
const SERVER_NAME: &str = "libp2p";

/// When a dial is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DialDeadlines {
    pub(crate) handshake: Instant,
    /// If nothing at all was heard until then.
    pub(crate) silent: Option<Instant>,
}

impl<S: Socket> Shard<S> {
    /// Begins a connection to `remote_addr`, from `socket`.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        deadlines: DialDeadlines,
        mut config: ClientConfig,
        remote_addr: SocketAddr,
        socket: S,
    ) -> Result<(ConnectionHandle, SharedConnection), ConnectError> {
        if self.has_no_ids() {
            return Err(ConnectError::CidsExhausted);
        }
        let mut initial_id = [0; INITIAL_ID_LEN];
        self.rng.fill_bytes(&mut initial_id);
        let initial_id = ConnectionId::new(&initial_id);
        config.initial_dst_cid_provider(Arc::new(move || initial_id));
        let (handle, connection) = self
            .endpoint
            .connect(now, config, remote_addr, SERVER_NAME)?;
        self.totals.transport.dials += 1;
        let connection = self.connection(connection, Direction::Outbound);
        let may_punch = socket.is_listening();
        self.unanswered
            .insert(now, initial_id, handle, remote_addr, may_punch);
        let begun = Begun {
            source: None,
            // RFC 9000 §8: it is for servers not to amplify.
            addresses: AddressLimits::new(Some(remote_addr)),
            deadline: deadlines.handshake,
            silent_until: deadlines.silent,
            admission: None,
            received_bytes: 0,
            unanswered_dial: Some(initial_id),
            heard_marked: None,
        };
        let connection = self.insert(now, handle, connection, socket, begun);
        Ok((handle, connection))
    }

    /// Sends to `remote_addr` for as long as a handshake may take, so that a NAT lets the peer's first packet in.
    pub(crate) fn punch(&mut self, now: Instant, remote_addr: SocketAddr, socket: S) -> PunchKey {
        self.totals.transport.hole_punches += 1;
        let until = now + self.handshake_timeout;
        self.punches.begin(now, until, remote_addr, socket)
    }

    pub(crate) fn end_punch(&mut self, key: PunchKey) {
        self.punches.end(key);
    }

    pub(crate) fn is_punching(&self, key: PunchKey) -> bool {
        self.punches.is_active(key)
    }

    /// Nobody has received a dial's first packet at `remote_addr`, says its host, which quotes it, or this one:
    /// a dial that has heard nothing need not wait for its timeout.
    ///
    /// `initial_id` is the random ID of that packet; whoever knows it has seen the packet, and could as well
    /// have answered it.
    pub(crate) fn unreachable(
        &mut self,
        now: Instant,
        remote_addr: SocketAddr,
        initial_id: &[u8],
        why: HandshakeError,
    ) {
        if initial_id.len() != INITIAL_ID_LEN {
            return;
        }
        let initial_id = ConnectionId::new(initial_id);
        let Some(handle) = self.unanswered.refused(now, remote_addr, &initial_id) else {
            return;
        };
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        lock(&slot.connection).abandon(why);
        self.want_turn(handle);
    }

    /// Something has come from `remote_addr` that belongs to no connection. If a dial waits for an answer from there, its
    /// peer is about to punch a hole for it: then it need not wait until it is time to send its first packet again.
    pub(crate) fn note_noise(&mut self, remote_addr: SocketAddr) {
        let Some(handle) = self.unanswered.noise_from(remote_addr) else {
            return;
        };
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        lock(&slot.connection).note_noise();
        self.want_turn(handle);
    }
}
