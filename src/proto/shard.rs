//! One shard: a quinn-proto endpoint, its connections, and whose turn it is.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionEvent, ConnectionHandle, ConnectionId, DatagramEvent,
    EcnCodepoint, Endpoint, EndpointConfig, EndpointEvent, ServerConfig, Transmit,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    connection::{Connection, Direction},
    connection_id::{IssuedIds, ShardConnectionIdGenerator, ShardId, Shards},
    registry::{Registry, Totals},
    router::HeaderForm,
};
use crate::error::{ConnectionError, HandshakeError};

/// Most datagrams that one connection handles in one turn, about 30 µs of work.
///
/// Small turns are what keeps one connection's ping alive beside another one's bulk transfer.
const DATAGRAMS_PER_TURN: usize = 64;

/// Most batches of datagrams that one connection sends in one turn.
const BATCHES_PER_TURN: usize = 2;

/// Most datagrams in a batch for segmentation offload (of the 64 that Linux takes).
const MAX_SEGMENTS: usize = 44;

/// Largest UDP payload that IPv4 carries, in bytes; a batch must not be larger.
const MAX_BATCH: usize = 65_507;

/// Length of the ID that a client chooses for the server until it learns a real one, in bytes; it must be
/// unpredictable and 8 at least (RFC 9000 §7.2).
const INITIAL_ID_LEN: usize = 8;

/// quinn-proto wants a name for TLS's SNI, which libp2p does not send.
const SERVER_NAME: &str = "libp2p";

/// A connection, shared by its shard and the application.
pub(crate) type SharedConnection = Arc<Mutex<Connection>>;

/// What a socket has to tell the core.
pub(crate) trait Socket: Clone {
    fn local_addr(&self) -> SocketAddr;

    /// Whether connections are accepted here. A socket that only dials answers no strangers.
    fn is_listening(&self) -> bool;
}

/// Where datagrams leave.
pub(crate) trait Outbound<S> {
    /// Whether the socket would take a batch now.
    fn is_ready(&self, socket: &S) -> bool;

    /// How many datagrams the socket takes at once.
    fn max_segments(&self, socket: &S) -> usize;

    /// Sends `contents`, or keeps a copy of them until the socket takes them.
    fn send(&mut self, socket: &S, transmit: Transmit, contents: &[u8]) -> Sent;
}

/// Whether a socket takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Ready,
    /// Not before [`Shard::unblock`].
    Blocked,
}

/// A datagram that was routed to this shard.
pub(crate) struct Datagram<S> {
    pub(crate) socket: S,
    /// As routed.
    pub(crate) shard: ShardId,
    pub(crate) header: HeaderForm,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) contents: BytesMut,
}

/// An incoming connection that waits for the application's answer.
///
/// No TLS work has been done for it yet.
pub(crate) struct Incoming<S> {
    pub(crate) key: IncomingKey,
    pub(crate) socket: S,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
}

/// Names an [`Incoming`] within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IncomingKey(u64);

/// What a shard needs to know.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_pending_incoming: usize,
    pub(crate) mtu_discovery: bool,
}

/// One quinn-proto endpoint with its connections.
///
/// Its user feeds it datagrams ([`handle`](Self::handle)), time
/// ([`handle_timeouts`](Self::handle_timeouts)) and the wishes of the application, and then gives turns
/// to connections ([`serve`](Self::serve)) until none wants any.
pub(crate) struct Shard<S> {
    id: ShardId,
    endpoint: Endpoint,
    handshake_timeout: Duration,
    max_pending_incoming: usize,
    /// Indexed by quinn-proto's handles, which are dense.
    slots: Vec<Option<Slot<S>>>,
    live: usize,
    /// Connections that want a turn, each at most once.
    ready: VecDeque<ConnectionHandle>,
    /// Connections that want a turn as soon as their socket takes more.
    blocked: Vec<ConnectionHandle>,
    /// One entry at most for each connection.
    deadlines: BTreeSet<(Instant, usize)>,
    /// Oldest first.
    pending: BTreeMap<IncomingKey, Pending<S>>,
    next_incoming: u64,
    /// Incoming connections that the application has not heard of.
    unreported: VecDeque<IncomingKey>,
    inbox_bytes: usize,
    issued: IssuedIds,
    rng: StdRng,
    totals: Totals,
    registry: Arc<Mutex<Registry>>,
    buf: Vec<u8>,
}

struct Slot<S> {
    connection: SharedConnection,
    /// Where its datagrams leave; it follows the peer's authenticated packets.
    socket: S,
    inbox: VecDeque<Received<S>>,
    /// The time that is in [`Shard::deadlines`], which may be earlier than needed.
    armed: Option<Instant>,
    expired: bool,
    handshake_deadline: Option<Instant>,
    /// Whether any datagram has arrived for it.
    heard: bool,
    queued: bool,
    blocked: bool,
}

struct Received<S> {
    event: ConnectionEvent,
    len: usize,
    socket: S,
}

struct Pending<S> {
    incoming: quinn_proto::Incoming,
    socket: S,
    deadline: Instant,
}

impl<S: Socket> Shard<S> {
    /// `seed` is the only source of randomness, but for the one in TLS.
    pub(crate) fn new(
        id: ShardId,
        shards: Shards,
        settings: Settings,
        seed: ShardSeed,
        registry: Arc<Mutex<Registry>>,
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
                Some(settings.server),
                settings.mtu_discovery,
                None,
            ),
            handshake_timeout: settings.handshake_timeout,
            max_pending_incoming: settings.max_pending_incoming,
            slots: Vec::new(),
            live: 0,
            ready: VecDeque::new(),
            blocked: Vec::new(),
            deadlines: BTreeSet::new(),
            pending: BTreeMap::new(),
            next_incoming: 0,
            unreported: VecDeque::new(),
            inbox_bytes: 0,
            issued,
            rng: StdRng::from_seed(seed.initial_ids),
            totals: Totals::default(),
            registry,
            buf: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Totals to be posted at the end of the turn.
    pub(crate) fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    /// Bytes of datagrams that wait for their connection's turn.
    pub(crate) fn inbox_bytes(&self) -> usize {
        self.inbox_bytes
    }

    /// Whether nothing is left to be driven.
    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0 && self.pending.is_empty()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes a datagram: into the inbox of its connection, or as the beginning of a new one.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        datagram: Datagram<S>,
        out: &mut impl Outbound<S>,
    ) {
        let Datagram {
            socket,
            shard,
            header,
            remote_addr,
            local_ip,
            ecn,
            contents,
        } = datagram;
        if shard != self.id {
            // Not ours, whatever it says; the ID generator refuses it too, before any reset is sent.
            self.totals.registry.foreign += 1;
        }
        let len = contents.len();
        self.buf.clear();
        let event = self
            .endpoint
            .handle(now, remote_addr, local_ip, ecn, contents, &mut self.buf);
        let totals = &mut self.totals.registry;
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                match header {
                    HeaderForm::Long => totals.routed_initial += 1,
                    HeaderForm::Short => totals.routed_established += 1,
                }
                let Some(slot) = slot(&mut self.slots, handle) else {
                    return;
                };
                self.inbox_bytes += len;
                slot.inbox.push_back(Received { event, len, socket });
                self.want_turn(handle);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                if !socket.is_listening() {
                    totals.unknown += 1;
                    self.endpoint.ignore(incoming);
                } else if self.pending.len() >= self.max_pending_incoming {
                    totals.dropped_overload += 1;
                    self.endpoint.ignore(incoming);
                } else {
                    totals.routed_initial += 1;
                    let key = IncomingKey(self.next_incoming);
                    self.next_incoming += 1;
                    self.pending.insert(
                        key,
                        Pending {
                            incoming,
                            socket,
                            deadline: now + self.handshake_timeout,
                        },
                    );
                    self.unreported.push_back(key);
                    self.note_pending();
                }
            }
            Some(DatagramEvent::Response(transmit)) => {
                totals.unknown += 1;
                if socket.is_listening() && out.is_ready(&socket) {
                    totals.responses_sent += 1;
                    self.count_sent(&transmit);
                    // Blocked or not: these are answers to strangers.
                    let _ = out.send(&socket, transmit, &self.buf);
                }
            }
            None => totals.unknown += 1,
        }
    }

    /// The next incoming connection that the application should hear of.
    pub(crate) fn poll_incoming(&mut self) -> Option<Incoming<S>> {
        while let Some(key) = self.unreported.pop_front() {
            if let Some(pending) = self.pending.get(&key) {
                self.totals.transport.incoming += 1;
                return Some(Incoming {
                    key,
                    socket: pending.socket.clone(),
                    remote_addr: pending.incoming.remote_address(),
                    local_ip: pending.incoming.local_ip(),
                });
            }
        }
        None
    }

    /// Begins the handshake of an incoming connection; this is where TLS work starts.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        key: IncomingKey,
        out: &mut impl Outbound<S>,
    ) -> Result<(ConnectionHandle, SharedConnection), HandshakeError> {
        let Some(Pending {
            incoming, socket, ..
        }) = self.pending.remove(&key)
        else {
            return Err(HandshakeError::Stale);
        };
        self.note_pending();
        self.buf.clear();
        match self.endpoint.accept(incoming, now, &mut self.buf, None) {
            Ok((handle, connection)) => {
                let connection = Connection::new(connection, Direction::Inbound);
                Ok((handle, self.insert(now, handle, connection, socket)))
            }
            Err(error) => {
                self.totals.transport.handshakes_failed += 1;
                if let Some(transmit) = error.response {
                    self.count_sent(&transmit);
                    let _ = out.send(&socket, transmit, &self.buf);
                }
                Err(ConnectionError::from(error.cause).into())
            }
        }
    }

    /// Turns an incoming connection away (CONNECTION_REFUSED, RFC 9000 §20.1).
    pub(crate) fn refuse(&mut self, key: IncomingKey, out: &mut impl Outbound<S>) {
        let Some(pending) = self.pending.remove(&key) else {
            return;
        };
        self.note_pending();
        self.totals.transport.incoming_refused += 1;
        self.buf.clear();
        let transmit = self.endpoint.refuse(pending.incoming, &mut self.buf);
        self.count_sent(&transmit);
        let _ = out.send(&pending.socket, transmit, &self.buf);
    }

    /// Begins a connection to `remote_addr`, from `socket`.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        mut config: ClientConfig,
        remote_addr: SocketAddr,
        socket: S,
    ) -> Result<(ConnectionHandle, SharedConnection), ConnectError> {
        let mut initial_id = [0; INITIAL_ID_LEN];
        self.rng.fill_bytes(&mut initial_id);
        let initial_id = ConnectionId::new(&initial_id);
        config.initial_dst_cid_provider(Arc::new(move || initial_id));
        let (handle, connection) = self
            .endpoint
            .connect(now, config, remote_addr, SERVER_NAME)?;
        self.totals.transport.dials += 1;
        let connection = Connection::new(connection, Direction::Outbound);
        Ok((handle, self.insert(now, handle, connection, socket)))
    }

    /// The application did something to this connection.
    pub(crate) fn want_turn(&mut self, handle: ConnectionHandle) {
        if let Some(slot) = slot(&mut self.slots, handle)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(handle);
        }
    }

    /// Sockets take datagrams again.
    pub(crate) fn unblock(&mut self) {
        for handle in mem::take(&mut self.blocked) {
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.blocked = false;
            }
            self.want_turn(handle);
        }
    }

    /// The host at `remote_addr` says that nobody listens there: dials that have not heard of it otherwise
    /// need not wait for their timeout.
    pub(crate) fn unreachable(&mut self, remote_addr: SocketAddr) {
        let mut handles = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            if slot.heard || slot.handshake_deadline.is_none() {
                continue;
            }
            let mut connection = lock(&slot.connection);
            if connection.direction() == Direction::Outbound
                && connection.remote_addr() == remote_addr
            {
                connection.abandon(HandshakeError::Unreachable);
                handles.push(ConnectionHandle(index));
            }
        }
        for handle in handles {
            self.want_turn(handle);
        }
    }

    /// When [`handle_timeouts`](Self::handle_timeouts) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let connections = self.deadlines.first().map(|&(deadline, _)| deadline);
        let pending = self.pending.values().next().map(|pending| pending.deadline);
        connections.into_iter().chain(pending).min()
    }

    /// Gives a turn to each connection with a timer that is due, and forgets incoming connections that
    /// have waited for too long.
    pub(crate) fn handle_timeouts(&mut self, now: Instant) {
        while let Some(&(deadline, index)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let handle = ConnectionHandle(index);
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.armed = None;
                slot.expired = true;
            }
            self.want_turn(handle);
        }
        while let Some(entry) = self.pending.first_entry() {
            if entry.get().deadline > now {
                break;
            }
            let pending = entry.remove();
            self.totals.transport.incoming_refused += 1;
            self.endpoint.ignore(pending.incoming);
            self.note_pending();
        }
    }

    /// Gives one connection its turn.
    ///
    /// Returns `false` if none wants one. The wakers that are due are added to `wakers`; the connection
    /// is unlocked by then.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        out: &mut impl Outbound<S>,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let Some(handle) = self.ready.pop_front() else {
            return false;
        };
        let Some(slot) = slot(&mut self.slots, handle) else {
            return true;
        };
        slot.queued = false;
        let shared = Arc::clone(&slot.connection);
        let mut connection = lock(&shared);

        if slot
            .handshake_deadline
            .is_some_and(|deadline| deadline <= now)
        {
            slot.handshake_deadline = None;
            self.totals.transport.handshakes_timed_out += 1;
            connection.abandon(HandshakeError::TimedOut);
        }
        let forget = connection.begin_turn(now);
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(received) = slot.inbox.pop_front() else {
                break;
            };
            self.inbox_bytes -= received.len;
            slot.heard = true;
            connection.handle_event(received.event);
            if connection.note_migration() {
                slot.socket = received.socket;
                lock_registry(&self.registry).migrated(
                    handle,
                    slot.socket.local_addr(),
                    connection.remote_addr(),
                );
            }
        }
        if mem::take(&mut slot.expired) {
            connection.handle_timeout(now);
        }

        let mut exchange = Exchange {
            endpoint: &mut self.endpoint,
            issued: &self.issued,
            registry: &self.registry,
            handle,
        };
        let mut drained = exchange.run(&mut connection);
        let authenticated = connection.handle_application_events();
        if authenticated {
            slot.handshake_deadline = None;
            if let Some(authenticated) = connection.authenticated() {
                lock_registry(&self.registry).authenticated(handle, authenticated.peer_id);
            }
        } else if connection.loss().is_some() {
            slot.handshake_deadline = None;
        }

        let mut more = !slot.inbox.is_empty();
        let mut blocked = !out.is_ready(&slot.socket);
        let mut batches = 0;
        while !blocked && batches < BATCHES_PER_TURN {
            let mtu = usize::from(connection.current_mtu());
            let max_segments = out
                .max_segments(&slot.socket)
                .min(MAX_SEGMENTS)
                .min(MAX_BATCH / mtu.max(1))
                .max(1);
            self.buf.clear();
            let Some(transmit) = connection.poll_transmit(now, max_segments, &mut self.buf) else {
                break;
            };
            let totals = &mut self.totals.transport;
            totals.bytes_sent += transmit.size as u64;
            totals.datagrams_sent += datagrams(&transmit);
            blocked = out.send(&slot.socket, transmit, &self.buf) == Sent::Blocked;
            batches += 1;
        }
        more |= batches == BATCHES_PER_TURN && !blocked;
        drained |= exchange.run(&mut connection);
        connection.handle_application_events();
        more |= connection.announce_turn();

        let deadline = connection
            .poll_timeout()
            .into_iter()
            .chain(slot.handshake_deadline)
            .min();
        rearm(&mut self.deadlines, handle, &mut slot.armed, deadline);
        if blocked && !slot.blocked {
            slot.blocked = true;
            self.blocked.push(handle);
        }
        if forget && !drained {
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            drained = true;
        }
        if drained {
            connection.on_drained();
        }
        connection.take_due(wakers);
        drop(connection);

        if drained {
            self.remove(handle);
        } else if more {
            self.want_turn(handle);
        }
        true
    }

    /// Adds what was counted since the last time to the registry.
    pub(crate) fn post_totals(&mut self) {
        let totals = mem::take(&mut self.totals);
        lock_registry(&self.registry).post(&totals);
    }

    /// Tells every connection that nobody drives it any more.
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
        // Not answered: the runtime is going away, and so is the socket.
        for (_, pending) in mem::take(&mut self.pending) {
            self.endpoint.ignore(pending.incoming);
        }
        self.note_pending();
        self.post_totals();
    }

    fn insert(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        connection: Connection,
        socket: S,
    ) -> SharedConnection {
        let direction = connection.direction();
        let remote_addr = connection.remote_addr();
        let shared = Arc::new(Mutex::new(connection));
        lock_registry(&self.registry).insert(
            handle,
            Arc::clone(&shared),
            socket.local_addr(),
            remote_addr,
            direction == Direction::Inbound,
        );
        if self.slots.len() <= handle.0 {
            self.slots.resize_with(handle.0 + 1, || None);
        }
        self.slots[handle.0] = Some(Slot {
            connection: Arc::clone(&shared),
            socket,
            inbox: VecDeque::new(),
            armed: None,
            expired: false,
            handshake_deadline: Some(now + self.handshake_timeout),
            heard: direction == Direction::Inbound,
            queued: false,
            blocked: false,
        });
        self.live += 1;
        self.want_turn(handle);
        shared
    }

    fn remove(&mut self, handle: ConnectionHandle) {
        let Some(slot) = self.slots.get_mut(handle.0).and_then(Option::take) else {
            return;
        };
        self.live -= 1;
        self.inbox_bytes -= slot
            .inbox
            .iter()
            .map(|received| received.len)
            .sum::<usize>();
        if let Some(armed) = slot.armed {
            self.deadlines.remove(&(armed, handle.0));
        }
        lock_registry(&self.registry).remove(handle);
    }

    fn note_pending(&self) {
        lock_registry(&self.registry).set_pending_incoming(self.pending.len());
    }

    fn count_sent(&mut self, transmit: &Transmit) {
        self.totals.transport.bytes_sent += transmit.size as u64;
        self.totals.transport.datagrams_sent += datagrams(transmit);
    }
}

/// The seeds of everything random in a shard.
#[derive(Clone, Copy)]
pub(crate) struct ShardSeed {
    pub(crate) connection_ids: [u8; 32],
    pub(crate) endpoint: [u8; 32],
    pub(crate) initial_ids: [u8; 32],
}

/// What an endpoint and one of its connections have to tell each other.
struct Exchange<'a> {
    endpoint: &'a mut Endpoint,
    issued: &'a IssuedIds,
    registry: &'a Mutex<Registry>,
    handle: ConnectionHandle,
}

impl Exchange<'_> {
    /// Returns `true` if the connection is drained.
    fn run(&mut self, connection: &mut Connection) -> bool {
        let mut drained = false;
        while let Some(event) = connection.poll_endpoint_event() {
            drained |= event.is_drained();
            let before = self.issued.count();
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                connection.handle_event(event);
            }
            let issued = self.issued.count() - before;
            if issued > 0 {
                lock_registry(self.registry).issued(self.handle, issued);
            }
        }
        drained
    }
}

/// Locks a connection.
///
/// After a panic under this lock the connection is as likely to be usable as not; its driver is gone by
/// then, and says so to everyone who waits.
pub(crate) fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_registry(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot<S>(slots: &mut [Option<Slot<S>>], handle: ConnectionHandle) -> Option<&mut Slot<S>> {
    slots.get_mut(handle.0)?.as_mut()
}

/// Arms a connection's timer, lazily: an earlier time than needed costs one turn for nothing, and saves
/// a change of the tree for every packet.
fn rearm(
    deadlines: &mut BTreeSet<(Instant, usize)>,
    handle: ConnectionHandle,
    armed: &mut Option<Instant>,
    deadline: Option<Instant>,
) {
    let keep = match (*armed, deadline) {
        (Some(armed), Some(deadline)) => armed <= deadline,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if keep {
        return;
    }
    if let Some(armed) = *armed {
        deadlines.remove(&(armed, handle.0));
    }
    if let Some(deadline) = deadline {
        deadlines.insert((deadline, handle.0));
    }
    *armed = deadline;
}

/// How many datagrams a transmit is cut into.
fn datagrams(transmit: &Transmit) -> u64 {
    match transmit.segment_size {
        Some(size) => transmit.size.div_ceil(size) as u64,
        None => 1,
    }
}
