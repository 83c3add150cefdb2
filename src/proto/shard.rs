//! One shard: a quinn-proto endpoint, its connections, and the order of their turns.

mod dialling;
mod incoming;
mod receiving;

use std::{
    mem,
    net::IpAddr,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, ConnectionId, Endpoint, EndpointConfig, EndpointEvent, ServerConfig,
    Transmit, TransportConfig, VarInt,
};
use rand::{SeedableRng, rngs::StdRng};

pub(crate) use self::dialling::DialDeadlines;
use super::{
    address_limits::AddressLimits,
    admission::{Admission, AdmissionLimits},
    arrivals::Arrivals,
    budget::{Budget, BudgetShare},
    closing::{ClosePacket, ClosingConnections},
    connection::{Connection, Direction, SharedConnection, lock},
    connection_id::{IdQuota, IssuedIds, ShardConnectionIdGenerator, ShardId, Shards},
    datagram::{Outbound, SocketHandle, local_addr},
    deadlines::{Armed, Deadlines},
    handshake_bytes::{AllHandshakeBytes, HandshakeBytes},
    hole_punch::Punches,
    inbox::{Inbox, InboxBytes},
    linger::LingeringConnections,
    path_doubts::{Doubter, DoubtfulHosts, PathDoubts},
    pending::PendingLimits,
    per_interface::PerInterface,
    reception::Reception,
    registry::{self, Registry, Totals, Unfinished},
    silence::Silence,
    slot::{LIGHT_BYTES, Offload, Sending, Slot, Turn, datagrams},
    spare,
    streams::StreamLimits,
    turn_queue::{Load, TurnQueue},
    unanswered::UnansweredDials,
    untaken::UntakenStreams,
    work::{Account, Debtors, Meter},
};
use crate::{address::Host, error::HandshakeError, sync::Mutex};

/// While at least this many connections need a turn, due timers give no further turns: about as
/// many as have a turn in a round.
///
/// Thousands of dials may have begun, and may be given up, at the same time. Connections with
/// something to receive or to send must not wait for all of them.
const READY_BESIDE_TIMERS: usize = 32;

/// Timers handled in each round in any case.
const LEAST_TIMERS: usize = 4;

/// The settings of a shard.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: Arc<ServerConfig>,
    /// Makes what depends on the interface. The argument is its largest UDP payload in bytes, if
    /// known.
    pub(crate) transport: MakeTransportConfig,
    pub(crate) admission: AdmissionLimits,
    pub(crate) handshake_timeout: Duration,
    pub(crate) id_quota: IdQuota,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) keep_alive_interval: Option<Duration>,
    pub(crate) linger_timeout: Duration,
    pub(crate) mtu_discovery: bool,
    pub(crate) offload: Offload,
    pub(crate) pending: PendingLimits,
    /// The same as in the server's and the clients' configurations.
    pub(crate) stream_limits: StreamLimits,
}

impl Settings {
    /// Largest datagram that we permit peers to send, in bytes of UDP payload.
    pub(crate) fn max_datagram_bytes(&self) -> usize {
        let bytes = self.endpoint.get_max_udp_payload_size();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// Makes the part of a configuration that depends on the interface.
pub(crate) type MakeTransportConfig =
    Arc<dyn Fn(Option<u16>) -> Arc<TransportConfig> + Send + Sync>;

/// One quinn-proto endpoint with its connections.
///
/// Its user passes it datagrams ([`handle`](Self::handle)), time
/// ([`begin_turns`](Self::begin_turns)) and requests of the application, and then gives turns to
/// connections ([`serve`](Self::serve)) until none needs one.
pub(crate) struct Shard<S> {
    id: ShardId,
    endpoint: Endpoint,
    transport: MakeTransportConfig,
    servers: PerInterface<ServerConfig>,
    handshake_timeout: Duration,
    id_quota: IdQuota,
    idle_timeout: Option<Duration>,
    keep_alive_interval: Option<Duration>,
    linger_timeout: Duration,
    offload: Offload,
    stream_limits: StreamLimits,
    /// Indexed by quinn-proto's connection handles, which are dense.
    slots: Vec<Option<Slot<S>>>,
    live: usize,
    /// Connections that have ended.
    closing: ClosingConnections<S>,
    lingering: LingeringConnections,
    untaken: UntakenStreams,
    doubtful_hosts: DoubtfulHosts,
    reception: Reception<S>,
    unanswered: UnansweredDials,
    ready: TurnQueue,
    /// Connections that need a turn as soon as their socket is writable.
    blocked: Vec<ConnectionHandle>,
    /// Connections that wait for their next turn because they are in debt.
    debtors: Debtors,
    deadlines: Deadlines,
    punches: Punches<S>,
    inbox_bytes: InboxBytes,
    handshake_bytes: AllHandshakeBytes,
    issued: IssuedIds,
    rng: StdRng,
    totals: Totals,
    registry: Arc<Mutex<Registry>>,
    budget: Budget,
    buf: Vec<u8>,
}

impl<S: SocketHandle> Shard<S> {
    /// `seed` is the only source of randomness, except in TLS.
    pub(crate) fn new(
        id: ShardId,
        shards: Shards,
        settings: Settings,
        seed: ShardSeed,
        registry: Arc<Mutex<Registry>>,
        budget: Budget,
    ) -> Self {
        let issued = IssuedIds::default();
        let mut config = settings.endpoint;
        config
            .cid_generator({
                let issued = issued.clone();
                move || {
                    Box::new(ShardConnectionIdGenerator::new(
                        id,
                        shards,
                        seed.connection_ids,
                        issued.clone(),
                    ))
                }
            })
            .rng_seed(Some(seed.endpoint));
        Self {
            id,
            endpoint: Endpoint::new(
                Arc::new(config),
                Some(Arc::clone(&settings.server)),
                settings.mtu_discovery,
                None,
            ),
            transport: settings.transport,
            servers: PerInterface::default(),
            handshake_timeout: settings.handshake_timeout,
            id_quota: settings.id_quota,
            idle_timeout: settings.idle_timeout,
            keep_alive_interval: settings.keep_alive_interval,
            linger_timeout: settings.linger_timeout,
            offload: settings.offload,
            stream_limits: settings.stream_limits,
            slots: Vec::new(),
            live: 0,
            closing: ClosingConnections::new(),
            lingering: LingeringConnections::default(),
            untaken: UntakenStreams::default(),
            doubtful_hosts: DoubtfulHosts::default(),
            reception: Reception::new(settings.server, settings.admission, settings.pending),
            unanswered: UnansweredDials::default(),
            ready: TurnQueue::default(),
            blocked: Vec::new(),
            debtors: Debtors::default(),
            deadlines: Deadlines::default(),
            punches: Punches::default(),
            inbox_bytes: InboxBytes::default(),
            handshake_bytes: AllHandshakeBytes::default(),
            issued,
            rng: StdRng::from_seed(seed.initial_ids),
            totals: Totals::default(),
            registry,
            budget,
            buf: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Totals, which are posted at the end of the round.
    pub(crate) fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    /// Bytes of datagrams that wait for their connections' turns, without those of connections in
    /// debt.
    pub(crate) fn inbox_bytes(&self) -> usize {
        self.inbox_bytes.ready()
    }

    /// Whether a connection needs a turn that is expected to have little to do.
    pub(crate) fn has_light(&self) -> bool {
        self.ready.has_light()
    }

    /// Whether there are connections that are not closed.
    pub(crate) fn has_connections(&self) -> bool {
        self.live > 0
    }

    /// Whether nothing is left to drive.
    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
            && self.closing.is_empty()
            && self.untaken.is_empty()
            && self.reception.waiting() == 0
            && self.punches.is_empty()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether there are no connection IDs left for another connection.
    fn has_no_ids(&self) -> bool {
        self.live + self.closing.len() + self.reception.waiting() >= self.id_quota.connections
    }

    /// Queues the connection for a turn.
    pub(crate) fn want_turn(&mut self, handle: ConnectionHandle) {
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        if slot.waits_until.is_some() && lock(&slot.connection).has_no_future() {
            // A closed connection need not pay its debt.
            slot.waits_until = None;
            slot.inbox.clear(&mut self.inbox_bytes);
            slot.inbox.set_in_debt(false, &mut self.inbox_bytes);
            slot.queued = false;
        }
        if !slot.queued {
            slot.queued = true;
            if slot.waits_until.is_none() {
                self.ready.push(handle, slot.load);
            }
        }
    }

    /// Gives turns again to connections whose sockets were not writable.
    pub(crate) fn unblock(&mut self) {
        for handle in mem::take(&mut self.blocked) {
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.blocked = false;
            }
            self.want_turn(handle);
        }
    }

    /// Gives turns to connections whose sockets have got a [successor](SocketHandle::successor). In
    /// its turn a connection moves if it may.
    pub(crate) fn follow_sockets(&mut self) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if slot(&mut self.slots, handle).is_some_and(|slot| slot.socket.successor().is_some()) {
                self.want_turn(handle);
            }
        }
    }

    /// When [`begin_turns`](Self::begin_turns) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.deadlines.first(),
            self.reception.first_deadline(),
            self.punches.next_timeout(),
            self.debtors.first(),
            self.closing.next_timeout(),
            self.untaken.next_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Does what comes before turns: counts strangers anew, sends hole punches, queues connections
    /// whose timers are due, and discards what has waited for too long. Adds the wakers that are
    /// due to `wakers`.
    pub(crate) fn begin_turns(
        &mut self,
        now: Instant,
        out: &mut impl Outbound<S>,
        wakers: &mut Vec<Waker>,
    ) {
        self.reception.begin_round();
        self.send_punches(now, out);
        self.queue_expired(now);
        self.release_debtors(now);
        self.untaken.expire(now, wakers);
        while let Some(handle) = self.closing.pop_due(now) {
            self.forget(handle);
        }
        while let Some(pending) = self.reception.take_expired(now) {
            self.totals.transport.incoming_refused += 1;
            self.endpoint.ignore(pending.incoming);
            self.release(pending.admission);
        }
    }

    /// Sends the datagrams of hole punches that are due.
    fn send_punches(&mut self, now: Instant, out: &mut impl Outbound<S>) {
        while let Some((socket, transmit)) =
            self.punches
                .poll_transmit(now, &mut self.rng, &mut self.buf)
        {
            self.count_sent(&transmit);
            // If it is blocked, it is dropped: the next one is enough.
            let _ = out.send(&socket, transmit, &self.buf);
        }
    }

    /// Queues connections whose timers are due.
    fn queue_expired(&mut self, now: Instant) {
        for count in 0.. {
            if count >= LEAST_TIMERS && self.ready.len() >= READY_BESIDE_TIMERS {
                break;
            }
            let Some(handle) = self.deadlines.pop_due(now) else {
                break;
            };
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.armed = Armed::default();
                slot.expired = true;
            }
            self.want_turn(handle);
        }
    }

    /// Gives one connection its turn.
    ///
    /// Returns how much work it had, or `None` if no connection needs a turn. Adds the wakers that
    /// are due to `wakers`; the connection is unlocked when this returns.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        meter: &impl Meter,
        out: &mut impl Outbound<S>,
        wakers: &mut Vec<Waker>,
    ) -> Option<Load> {
        let handle = self.ready.pop()?;
        let Some(slot) = slot(&mut self.slots, handle) else {
            return Some(Load::default());
        };
        let due_before = wakers.len();
        slot.queued = false;
        let unanswered = slot.unanswered_dial;
        let shared = Arc::clone(&slot.connection);
        let mut connection = lock(&shared);
        if connection.is_released() {
            // A thread has panicked while it used the connection. Further packets of the peer are
            // answered with a stateless reset.
            connection.take_due(wakers);
            drop(connection);
            self.remove(handle);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            return Some(Load::default());
        }
        let mut turn = Turn {
            now,
            handle,
            slot,
            connection: &mut connection,
            endpoint: &mut self.endpoint,
            id_quota: self.id_quota,
            connections: self.live,
            idle_timeout: self.idle_timeout,
            keep_alive_interval: self.keep_alive_interval,
            offload: self.offload,
            doubtful_hosts: &mut self.doubtful_hosts,
            issued: &self.issued,
            inbox_bytes: &mut self.inbox_bytes,
            totals: &mut self.totals,
            registry: &self.registry,
            budget: &self.budget,
            moved: 0,
        };

        // In the order of their occurrence: datagrams have arrived before `now`.
        let debt = turn.receive(meter);
        let mut forget = turn.begin();
        let mut drained = turn.exchange();
        turn.handle_application_events();
        turn.follow_socket(&*out);
        // The application does not hold it, and the peer has closed it, so it need not drain.
        forget |= turn.connection.was_turned_away();
        let sending = turn.send(out, &mut self.buf);
        drained |= turn.exchange();
        turn.handle_application_events();

        let is_finished = turn.is_finished(sending);
        let since = &mut turn.slot.lingers_since;
        let evicted = if turn.connection.lingers() {
            self.lingering.insert(now, handle, since)
        } else {
            self.lingering.remove(handle, since);
            None
        };
        let more = sending == Sending::Unfinished
            || !turn.slot.inbox.is_empty()
            || (turn.slot.expired && !turn.slot.untried_path)
            || turn.connection.announce_turn();
        let deadline = turn.next_deadline();
        // If the anti-amplification limit has held back the CONNECTION_CLOSE, the connection waits
        // for more credit.
        let is_told = turn.slot.close_packet.is_some() || turn.connection.was_ended_by_peer();
        if forget && is_told && !drained {
            turn.endpoint.handle_event(handle, EndpointEvent::drained());
            drained = true;
        }
        if drained || is_finished {
            turn.connection.release();
            let given_up = turn.connection.gave_up_lingering();
            turn.totals.transport.lingers_given_up += u64::from(given_up);
        }
        let leaves_streams = (drained || is_finished) && turn.connection.has_untaken();
        let rtt = turn.connection.rtt();
        let is_confirmed = !turn.slot.is_confirmed && turn.connection.is_confirmed();
        let is_established = turn.connection.authenticated().is_some();
        turn.connection.take_due(wakers);
        let is_light =
            is_established && !more && turn.moved <= LIGHT_BYTES && wakers.len() - due_before <= 1;
        let load = if is_light { Load::Light } else { Load::Heavy };
        turn.share_memory();
        let slot = turn.slot;
        slot.load = load;
        slot.is_confirmed |= is_confirmed;
        if let Some(initial_id) = unanswered
            && slot.unanswered_dial.is_none()
        {
            self.unanswered.remove(&initial_id);
        }
        if is_established {
            // TLS and quinn-proto have released them.
            slot.handshake_bytes.clear(&mut self.handshake_bytes);
        }
        let admission = if is_established {
            slot.admission.take()
        } else {
            None
        };
        self.deadlines.arm(now, handle, &mut slot.armed, deadline);
        if sending == Sending::Blocked && !mem::replace(&mut slot.blocked, true) {
            self.blocked.push(handle);
        }
        drop(connection);

        if leaves_streams {
            self.untaken.push(now, &shared);
        }
        if let Some(evicted) = evicted {
            self.give_up_lingering(evicted);
        }
        if let Some(admission) = admission {
            self.release(admission);
        }
        if drained {
            self.remove(handle);
            return Some(load);
        }
        if is_finished {
            self.close(now, handle, rtt);
            return Some(load);
        }
        if let Some(debt) = debt {
            self.have_wait(now, handle, debt);
        }
        if more {
            self.want_turn(handle);
        }
        Some(load)
    }

    /// Makes a connection stop delivering streams, and close.
    fn give_up_lingering(&mut self, handle: ConnectionHandle) {
        if let Some(slot) = slot(&mut self.slots, handle) {
            lock(&slot.connection).give_up_lingering();
            self.want_turn(handle);
        }
    }

    /// Makes a connection in debt wait for its next turn.
    fn have_wait(&mut self, now: Instant, handle: ConnectionHandle, debt: Duration) {
        let Some(slot) = slot(&mut self.slots, handle) else {
            return;
        };
        self.totals.transport.debts += 1;
        slot.waits_until = Some(self.debtors.add(now, handle, debt));
        self.totals.registry.dropped_inbox_full +=
            slot.inbox.set_in_debt(true, &mut self.inbox_bytes);
    }

    /// Lets connections have turns whose debts are paid.
    fn release_debtors(&mut self, now: Instant) {
        while let Some((until, handle)) = self.debtors.pop_due(now) {
            let Some(slot) = slot(&mut self.slots, handle) else {
                continue;
            };
            // Another connection may have got the same handle.
            if slot.waits_until != Some(until) {
                continue;
            }
            slot.waits_until = None;
            slot.inbox.set_in_debt(false, &mut self.inbox_bytes);
            if slot.queued {
                self.ready.push(handle, slot.load);
            }
        }
    }

    /// Adds the counts since the last call to the registry.
    pub(crate) fn post_totals(&mut self) {
        let totals = mem::take(&mut self.totals);
        registry::lock(&self.registry).post(&totals);
    }

    /// Closes every connection because its driver stops. Their next turns send the
    /// CONNECTION_CLOSE.
    pub(crate) fn close_all(&mut self) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot(&mut self.slots, handle) {
                lock(&slot.connection).close_with_driver();
                self.want_turn(handle);
            }
        }
    }

    /// Closes every connection at the application's request. Handshakes are abandoned.
    pub(crate) fn close_connections(&mut self, code: VarInt, reason: &Bytes, at_once: bool) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot(&mut self.slots, handle) {
                let mut connection = lock(&slot.connection);
                if connection.authenticated().is_none() {
                    connection.abandon(HandshakeError::Stale);
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

    /// Ends every connection because its driver has stopped.
    pub(crate) fn orphan_all(&mut self, wakers: &mut Vec<Waker>) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot(&mut self.slots, handle) {
                let mut connection = lock(&slot.connection);
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
        // Without an answer, because the runtime is shutting down and its sockets close.
        while let Some(pending) = self.reception.take_any() {
            self.endpoint.ignore(pending.incoming);
            self.release(pending.admission);
        }
        // This includes a connection whose acceptance was interrupted by a panic.
        registry::lock(&self.registry).set_unfinished(Unfinished::default());
        self.post_totals();
    }

    fn connection(&self, quic: quinn_proto::Connection, direction: Direction) -> Connection {
        Connection::new(quic, direction, self.stream_limits, self.linger_timeout)
    }

    fn insert(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        connection: Connection,
        socket: S,
        begun: Begun,
    ) -> SharedConnection {
        let direction = connection.direction();
        let remote_addr = connection.remote_addr();
        let shared = Arc::new(Mutex::new(connection));
        registry::lock(&self.registry).insert(
            handle,
            Arc::clone(&shared),
            local_addr(&socket, begun.source),
            remote_addr,
            direction == Direction::Inbound,
        );
        let known = self.doubtful_hosts.get(Host::of(remote_addr.ip()));
        let mut handshake_bytes = HandshakeBytes::default();
        handshake_bytes.add(begun.received_bytes, &mut self.handshake_bytes);
        if self.slots.len() <= handle.0 {
            self.slots.resize_with(handle.0 + 1, || None);
        }
        self.slots[handle.0] = Some(Slot {
            connection: Arc::clone(&shared),
            socket,
            source: begun.source,
            left: None,
            arrivals: Arrivals::default(),
            addresses: begun.addresses,
            budget: BudgetShare::default(),
            refuses_data: false,
            admission: begun.admission,
            inbox: Inbox::new(),
            account: Account::new(),
            waits_until: None,
            armed: Armed::default(),
            expired: false,
            untried_path: false,
            silent_turns: 0,
            load: Load::default(),
            handshake_deadline: Some(begun.deadline),
            silent_until: begun.silent_until,
            is_confirmed: false,
            handshake_bytes,
            silence: Silence::default(),
            doubter: Doubter::new(known.copied().unwrap_or(PathDoubts::NONE)),
            probes: false,
            lingers_since: None,
            close_deadline: None,
            idle_since: now,
            was_silent_since: false,
            close_packet: None,
            unanswered_dial: begun.unanswered_dial,
            was_forbidden: false,
            heard_marked: begun.heard_marked,
            ids_issued: 0,
            datagrams_received: 0,
            queued: false,
            blocked: false,
        });
        self.live += 1;
        self.want_turn(handle);
        shared
    }

    /// Removes the state of a connection that has ended, except what its closing or draining state
    /// needs.
    fn close(&mut self, now: Instant, handle: ConnectionHandle, rtt: Duration) {
        let close_packet = self.vacate(handle);
        registry::lock(&self.registry).end(handle);
        let until = ClosingConnections::<S>::deadline(now, rtt);
        if let Some(evicted) = self.closing.insert(handle, until, close_packet) {
            self.forget(evicted);
        }
    }

    /// Discards a connection after its closing or draining state.
    fn forget(&mut self, handle: ConnectionHandle) {
        self.endpoint.handle_event(handle, EndpointEvent::drained());
        registry::lock(&self.registry).remove(handle);
    }

    /// Removes a connection that the endpoint has already discarded.
    fn remove(&mut self, handle: ConnectionHandle) {
        self.vacate(handle);
        registry::lock(&self.registry).remove(handle);
    }

    /// Removes a connection's slot. Returns the packet that has closed it, if there is one.
    fn vacate(&mut self, handle: ConnectionHandle) -> Option<ClosePacket<S>> {
        let mut slot = self.slots.get_mut(handle.0).and_then(Option::take)?;
        self.live -= 1;
        if let Some(admission) = slot.admission.take() {
            self.release(admission);
        }
        if let Some(initial_id) = slot.unanswered_dial {
            self.unanswered.remove(&initial_id);
        }
        slot.inbox.clear(&mut self.inbox_bytes);
        slot.handshake_bytes.clear(&mut self.handshake_bytes);
        slot.budget.set(0, &self.budget);
        (self.lingering).remove(handle, &mut slot.lingers_since);
        self.deadlines.disarm(handle, &mut slot.armed);
        while self.slots.pop_if(|slot| slot.is_none()).is_some() {}
        if let Some(room) = spare::room_for(self.slots.len(), self.slots.capacity()) {
            self.slots.shrink_to(room);
        }
        slot.close_packet
    }

    /// The number of connections for which memory is allocated.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.slots.capacity() + self.unanswered.room() + registry::lock(&self.registry).room()
    }

    /// Releases the admission of a handshake that has ended.
    fn release(&mut self, admission: Admission) {
        self.reception.release(admission);
        self.note_unfinished();
    }

    fn note_unfinished(&self) {
        registry::lock(&self.registry).set_unfinished(self.reception.unfinished());
    }

    fn count_sent(&mut self, transmit: &Transmit) {
        self.totals.transport.bytes_sent += transmit.size as u64;
        self.totals.transport.datagrams_sent += datagrams(transmit);
    }
}

/// The initial state of a connection.
struct Begun {
    /// Of an incoming connection: the local address of its first datagram.
    source: Option<IpAddr>,
    addresses: AddressLimits,
    deadline: Instant,
    /// When a dial is given up that has received nothing.
    silent_until: Option<Instant>,
    /// Only for incoming connections.
    admission: Option<Admission>,
    /// Bytes of its datagrams received so far.
    received_bytes: usize,
    /// The initial ID; only for dials.
    unanswered_dial: Option<ConnectionId>,
    /// Whether the last datagram was marked for ECN; `None` if none has arrived.
    heard_marked: Option<bool>,
}

/// The seeds of all randomness in a shard.
#[derive(Clone, Copy)]
pub(crate) struct ShardSeed {
    pub(crate) connection_ids: [u8; 32],
    pub(crate) endpoint: [u8; 32],
    pub(crate) initial_ids: [u8; 32],
}

fn slot<S>(slots: &mut [Option<Slot<S>>], handle: ConnectionHandle) -> Option<&mut Slot<S>> {
    slots.get_mut(handle.0)?.as_mut()
}
