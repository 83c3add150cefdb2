//! Dials and hole punches.

use std::{mem, net::SocketAddr, sync::Arc, time::Instant};

use quinn_proto::{ClientConfig, ConnectError, ConnectionHandle, ConnectionId};
use rand::Rng;

use super::{Beginning, InitialState, Shard, slot_of};
use crate::{
    address::Host,
    error::HandshakeError,
    proto::{
        amplification::AddressLimits,
        connection::{Direction, SharedConnection, lock_connection},
        datagram::{SocketHandle, local_addr},
        hole_punch::PunchKey,
    },
};

/// Length of the destination connection ID that a client chooses for its first packets, in bytes.
/// It must be unpredictable, and at least 8 bytes long (RFC 9000 §7.2).
const INITIAL_ID_LEN: usize = 8;

/// quinn-proto requires a server name, which libp2p does not send.
const SERVER_NAME: &str = "libp2p";

/// The most senders of unmatched datagrams that wait at a shard, for other shards or from them.
/// They only save time; further ones are dropped.
pub(crate) const MAX_UNMATCHED: usize = 64;

/// When a dial is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DialDeadlines {
    pub(crate) handshake: Instant,
    /// When it is given up if it has heard nothing.
    pub(crate) silent: Option<Instant>,
}

impl<S: SocketHandle> Shard<S> {
    /// Begins a connection to `remote_addr`, from `socket`.
    ///
    /// `max_payload` is the largest UDP payload of the interface in bytes, if known.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        deadlines: DialDeadlines,
        mut config: ClientConfig,
        max_payload: Option<u16>,
        remote_addr: SocketAddr,
        socket: S,
    ) -> Result<(ConnectionHandle, SharedConnection), ConnectError> {
        if self.has_no_ids() {
            return Err(ConnectError::CidsExhausted);
        }
        let mut initial_id = [0; INITIAL_ID_LEN];
        self.rng.fill_bytes(&mut initial_id);
        let initial_id = ConnectionId::new(&initial_id);
        let trace = self.trace(Direction::Outbound, remote_addr);
        let span = trace.span.clone();
        let _entered = span.enter();
        if let Some(single) = &self.single {
            let connection = Beginning {
                host: Host::of(remote_addr.ip()),
                initial_id,
                is_outbound: true,
                now,
                number: trace.number,
            };
            config.transport_config(single(max_payload, &connection));
        }
        config.initial_dst_cid_provider(Arc::new(move || initial_id));
        let (handle, connection) = self
            .endpoint
            .connect(now, config, remote_addr, SERVER_NAME)?;
        self.totals.transport.dials += 1;
        let local_addr = local_addr(&socket, None);
        let connection = self.connection(connection, trace, local_addr, Direction::Outbound);
        let may_punch = socket.is_listening();
        self.unanswered
            .insert(now, initial_id, handle, remote_addr, may_punch);
        let initial = InitialState {
            local_ip: None,
            // The anti-amplification limit applies to servers only (RFC 9000 §8).
            amplification: AddressLimits::new(Some(remote_addr)),
            deadline: deadlines.handshake,
            silent_until: deadlines.silent,
            admission: None,
            received_bytes: 0,
            unanswered_dial: Some(initial_id),
            heard_marked: None,
        };
        let connection = self.insert(now, handle, connection, socket, initial);
        Ok((handle, connection))
    }

    /// Sends to `remote_addr` until the handshake timeout, so that a NAT lets the peer's first
    /// packet in.
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

    /// Handles an ICMP error that quotes a dial's first packet: a dial that has received nothing
    /// need not wait for its timeout.
    ///
    /// `initial_id` is the random ID of that packet. A host that knows it has seen the packet, and
    /// could just as well have answered it.
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
        let Some(handle) = self.unanswered.unreachable(now, remote_addr, &initial_id) else {
            return;
        };
        let Some(slot) = slot_of(&mut self.slots, handle) else {
            return;
        };
        lock_connection(&slot.connection).abandon(why);
        self.want_turn(handle);
    }

    /// Handles a datagram from `remote_addr` that belongs to no connection. If a dial waits for an
    /// answer from there, its peer is most likely punching a hole for it. Then it sends a packet at
    /// once, whose acknowledgement reveals that the first one was lost.
    ///
    /// The bytes of such a datagram are random, so they lead to any shard. The dial may be of
    /// another one ([`take_unmatched`](Self::take_unmatched)).
    pub(super) fn note_unmatched_datagram(&mut self, remote_addr: SocketAddr) {
        if !self.offer_unmatched(remote_addr)
            && self.shards.count() > 1
            && self.unmatched.len() < MAX_UNMATCHED
        {
            self.unmatched.push(remote_addr);
        }
    }

    /// Handles a datagram that belongs to no connection and that another shard may have got.
    /// Returns whether a dial of this shard waits for it.
    pub(crate) fn offer_unmatched(&mut self, remote_addr: SocketAddr) -> bool {
        let Some(handle) = self.unanswered.unmatched_datagram_from(remote_addr) else {
            return false;
        };
        let Some(slot) = slot_of(&mut self.slots, handle) else {
            return false;
        };
        lock_connection(&slot.connection).note_unmatched_datagram();
        self.want_turn(handle);
        true
    }

    /// Takes the senders of datagrams that belong to no connection, for which no dial of this shard
    /// waits.
    pub(crate) fn take_unmatched(&mut self) -> Vec<SocketAddr> {
        mem::take(&mut self.unmatched)
    }

    /// Whether [`offer_unmatched`](Self::offer_unmatched) may find a dial.
    pub(crate) fn wants_unmatched(&self) -> bool {
        self.unanswered.may_punch()
    }
}
