//! How connections come to the shard, and how they leave it.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{ConnectionHandle, ConnectionId, EndpointEvent, VarInt};

use super::Shard;
use crate::{
    address::Host,
    error::HandshakeError,
    proto::{
        amplification::AddressLimits,
        budget::BudgetShare,
        closing::{ClosePacket, ClosingConnections},
        connection::{Connection, Direction, SharedConnection, Trace, lock_connection},
        datagram::SocketHandle,
        deadlines::Armed,
        delivery::Delivery,
        handshake_bytes::HandshakeBytes,
        inbox::Inbox,
        path_doubts::{Doubter, PathDoubts},
        reception::Admission,
        registry::{self, Unfinished},
        silence::Silence,
        slot::Slot,
        turn_queue::Load,
        work::Account,
    },
    spare,
    sync::Mutex,
    trace::ConnectionSpan,
};

/// The initial state of a connection.
pub(super) struct InitialState {
    /// Of an incoming connection: the local address of its first datagram.
    pub(super) local_ip: Option<IpAddr>,
    pub(super) amplification: AddressLimits,
    pub(super) deadline: Instant,
    /// When a dial is given up that has heard nothing.
    pub(super) silent_until: Option<Instant>,
    /// Only for incoming connections.
    pub(super) admission: Option<Admission>,
    /// Bytes of its datagrams received so far.
    pub(super) received_bytes: usize,
    /// The initial ID; only for dials.
    pub(super) unanswered_dial: Option<ConnectionId>,
    /// Whether the last datagram was marked for ECN; `None` if none has arrived.
    pub(super) heard_marked: Option<bool>,
}

impl<S: SocketHandle> Shard<S> {
    pub(super) fn connection(
        &self,
        quic: quinn_proto::Connection,
        trace: Trace,
        local_addr: SocketAddr,
        direction: Direction,
    ) -> Connection {
        let (limits, linger_timeout) = (self.stream_limits, self.linger_timeout);
        Connection::new(
            quic,
            trace,
            self.id,
            local_addr,
            direction,
            (limits, self.bandwidth.clone()),
            linger_timeout,
        )
    }

    /// Numbers the next connection. No other connection of the transport has the same number.
    pub(super) fn trace(&self, direction: Direction, remote_addr: SocketAddr) -> Trace {
        let number = registry::lock(&self.registry).next_number();
        let number = number * self.shards.count() as u64 + self.id.index() as u64;
        let is_outbound = direction == Direction::Outbound;
        Trace {
            number,
            span: ConnectionSpan::new(number, is_outbound, remote_addr),
        }
    }

    pub(super) fn insert(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        connection: Connection,
        socket: S,
        initial: InitialState,
    ) -> SharedConnection {
        let direction = connection.direction();
        let (local_addr, remote_addr) = (connection.local_addr(), connection.remote_addr());
        let mtu = connection.current_mtu();
        let number = connection.number();
        let shared = Arc::new(Mutex::new(connection));
        registry::lock(&self.registry).insert(
            handle,
            number,
            Arc::clone(&shared),
            local_addr,
            remote_addr,
            direction == Direction::Inbound,
        );
        tracing::debug!(%local_addr, "the connection begins");
        let known = self.doubtful_hosts.get(Host::of(remote_addr.ip()));
        let mut handshake_bytes = HandshakeBytes::default();
        handshake_bytes.add(initial.received_bytes, &mut self.handshake_bytes);
        if self.slots.len() <= handle.0 {
            self.slots.resize_with(handle.0 + 1, || None);
        }
        self.slots[handle.0] = Some(Slot {
            connection: Arc::clone(&shared),
            socket,
            local_ip: initial.local_ip,
            previous_path: None,
            delivery: Delivery::default(),
            move_is_due: false,
            mtu,
            amplification: initial.amplification,
            budget: BudgetShare::default(),
            drops_data: false,
            admission: initial.admission,
            inbox: Inbox::new(),
            account: Account::new(),
            debt: None,
            armed: Armed::default(),
            timer_is_due: false,
            untried_path: false,
            turns_without_sending: 0,
            load: Load::default(),
            handshake_deadline: Some(initial.deadline),
            silent_until: initial.silent_until,
            is_confirmed: false,
            handshake_bytes,
            silence: Silence::default(),
            doubter: Doubter::new(known.copied().unwrap_or(PathDoubts::NONE)),
            ignores_window: false,
            lingers_since: None,
            close_deadline: None,
            idle_since: now,
            heard_at: now,
            nothing_sent_since: false,
            close_packet: None,
            unanswered_dial: initial.unanswered_dial,
            was_forbidden: false,
            heard_marked: initial.heard_marked,
            ids_issued: 0,
            datagrams_received: 0,
            queued: false,
            blocked: false,
        });
        self.connections += 1;
        self.want_turn(handle);
        shared
    }

    /// Removes the state of a connection that has ended, except what its closing or draining state
    /// needs.
    pub(super) fn close(&mut self, now: Instant, handle: ConnectionHandle, rtt: Duration) {
        let close_packet = self.vacate(handle);
        let until = ClosingConnections::<S>::deadline(now, rtt);
        if let Some(evicted) = self.closing.insert(handle, until, close_packet) {
            self.forget(evicted);
        }
    }

    /// Discards a connection after its closing or draining state.
    pub(super) fn forget(&mut self, handle: ConnectionHandle) {
        self.endpoint.handle_event(handle, EndpointEvent::drained());
        registry::lock(&self.registry).remove(handle);
    }

    /// Removes a connection that the endpoint has already discarded.
    pub(super) fn remove(&mut self, handle: ConnectionHandle) {
        self.vacate(handle);
        registry::lock(&self.registry).remove(handle);
    }

    /// Removes a connection's slot, and notes its end. Returns the packet that has closed it, if
    /// there is one.
    fn vacate(&mut self, handle: ConnectionHandle) -> Option<ClosePacket<S>> {
        let mut slot = self.slots.get_mut(handle.0).and_then(Option::take)?;
        self.connections -= 1;
        let mut connection = lock_connection(&slot.connection);
        registry::lock(&self.registry).end(handle, &connection);
        connection.keep_share(mem::take(&mut slot.budget), &self.budget);
        drop(connection);
        if let Some(admission) = slot.admission.take() {
            self.release(admission);
        }
        if let Some(initial_id) = slot.unanswered_dial {
            self.unanswered.remove(&initial_id);
        }
        if let Some(debt) = slot.debt {
            self.debtors.remove(debt);
        }
        slot.inbox.clear(&mut self.inbox_bytes);
        slot.handshake_bytes.clear(&mut self.handshake_bytes);
        (self.lingering).remove(handle, &mut slot.lingers_since);
        self.deadlines.disarm(handle, &mut slot.armed);
        while self.slots.pop_if(|slot| slot.is_none()).is_some() {}
        if let Some(room) = spare::room_for(self.slots.len(), self.slots.capacity()) {
            self.slots.shrink_to(room);
        }
        slot.close_packet
    }

    /// Closes every connection at the application's request. Handshakes are abandoned.
    pub(crate) fn close_connections(&mut self, code: VarInt, reason: &Bytes, at_once: bool) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot_of(&mut self.slots, handle) {
                let mut connection = lock_connection(&slot.connection);
                if connection.authenticated().is_none() {
                    connection.abandon(HandshakeError::ShutDown);
                } else if at_once {
                    connection.give_up_lingering();
                    connection.close(code, reason.clone());
                } else {
                    connection.close_in_order(code, reason.clone());
                }
                drop(connection);
                self.want_turn(handle);
            }
        }
    }

    /// Closes every connection because its driver stops. Their next turns send the
    /// CONNECTION_CLOSE.
    pub(crate) fn close_all(&mut self) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot_of(&mut self.slots, handle) {
                lock_connection(&slot.connection).close_with_driver();
                self.want_turn(handle);
            }
        }
    }

    /// Ends every connection because its driver has stopped.
    pub(crate) fn orphan_all(&mut self, wakers: &mut Vec<Waker>) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot_of(&mut self.slots, handle) {
                let mut connection = lock_connection(&slot.connection);
                connection.orphan();
                connection.take_due(wakers);
                drop(connection);
                self.remove(handle);
            }
        }
        while let Some(handle) = self.closing.pop_first() {
            self.forget(handle);
        }
        self.untaken.clear(wakers);
        // Without an answer: after a panic there is none, and otherwise none is left.
        while let Some(pending) = self.reception.take_any() {
            self.endpoint.ignore(pending.incoming);
            self.release(pending.admission);
        }
        // This includes a connection whose acceptance was interrupted by a panic.
        registry::lock(&self.registry).set_unfinished(Unfinished::default());
        self.post_totals();
    }

    /// Releases the admission of a handshake that has ended.
    pub(super) fn release(&mut self, admission: Admission) {
        self.reception.release(admission);
        self.note_unfinished();
    }

    pub(super) fn note_unfinished(&self) {
        registry::lock(&self.registry).set_unfinished(self.reception.unfinished());
    }

    /// The stateless resets that were made in this round.
    #[cfg(test)]
    pub(crate) fn resets_made(&self) -> usize {
        self.reception.resets()
    }

    /// The number of connections for which memory is allocated.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.slots.capacity() + self.unanswered.room() + registry::lock(&self.registry).room()
    }
}

pub(super) fn slot_of<S>(
    slots: &mut [Option<Slot<S>>],
    handle: ConnectionHandle,
) -> Option<&mut Slot<S>> {
    slots.get_mut(handle.0)?.as_mut()
}
