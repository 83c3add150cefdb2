//! One shard: a quinn-proto endpoint, its connections, and whose turn it is.

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionHandle, ConnectionId, DatagramEvent, Endpoint,
    EndpointConfig, EndpointEvent, ServerConfig, Transmit, TransportConfig,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    admission::{Admission, AdmissionLimits, Rejection},
    connection::{Connection, Direction, SharedConnection, lock},
    connection_id::{IdQuota, IssuedIds, ShardConnectionIdGenerator, ShardId, Shards},
    datagram::{Datagram, Incoming, Outbound, Socket, charge_of},
    deadlines::{Armed, Deadlines},
    hole_punch::{HolePunches, PunchKey},
    pending::{IncomingKey, PendingLimits},
    reception::{Reception, Unwelcome},
    registry::{self, Registry, Totals, Unfinished},
    router::{HeaderForm, long_header_id},
    slot::{Received, Sending, Slot, Turn, datagrams},
    unanswered::UnansweredDials,
};
use crate::{
    address,
    error::{ConnectionError, HandshakeError},
    sync::Mutex,
};

/// Length of the ID that a client chooses for the server until it learns a real one, in bytes; it must be
/// unpredictable and 8 at least (RFC 9000 §7.2).
const INITIAL_ID_LEN: usize = 8;

/// Longest connection ID in version 1 (RFC 9000 §17.2), in bytes.
const MAX_ID_LEN: usize = 20;

/// quinn-proto wants a name for TLS's SNI, which libp2p does not send.
const SERVER_NAME: &str = "libp2p";

/// What a shard needs to know.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: Arc<ServerConfig>,
    /// What depends on the interface: the argument is the largest UDP payload that it takes, if it tells.
    pub(crate) transport: MakeTransportConfig,
    pub(crate) admission: AdmissionLimits,
    pub(crate) handshake_timeout: Duration,
    pub(crate) id_quota: IdQuota,
    /// Streams that a peer may have open in the end; the server's and the clients' configurations begin with
    /// [`FIRST_PEER_STREAMS`](super::FIRST_PEER_STREAMS).
    pub(crate) max_peer_streams: u64,
    pub(crate) mtu_discovery: bool,
    pub(crate) pending: PendingLimits,
}

/// Makes the part of a configuration that depends on the interface.
pub(crate) type MakeTransportConfig =
    Arc<dyn Fn(Option<u16>) -> Arc<TransportConfig> + Send + Sync>;

/// One quinn-proto endpoint with its connections.
///
/// Its user feeds it datagrams ([`handle`](Self::handle)), time
/// ([`handle_timeouts`](Self::handle_timeouts)) and the wishes of the application, and then gives turns
/// to connections ([`serve`](Self::serve)) until none wants any.
pub(crate) struct Shard<S> {
    id: ShardId,
    endpoint: Endpoint,
    transport: MakeTransportConfig,
    handshake_timeout: Duration,
    id_quota: IdQuota,
    max_peer_streams: u64,
    /// Indexed by quinn-proto's handles, which are dense.
    slots: Vec<Option<Slot<S>>>,
    live: usize,
    reception: Reception<S>,
    unanswered: UnansweredDials,
    /// Connections that want a turn, each at most once.
    ready: VecDeque<ConnectionHandle>,
    /// Connections that want a turn as soon as their socket takes more.
    blocked: Vec<ConnectionHandle>,
    deadlines: Deadlines,
    punches: HolePunches<S>,
    inbox_bytes: usize,
    issued: IssuedIds,
    rng: StdRng,
    totals: Totals,
    registry: Arc<Mutex<Registry>>,
    buf: Vec<u8>,
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
                Some(Arc::clone(&settings.server)),
                settings.mtu_discovery,
                None,
            ),
            transport: settings.transport,
            handshake_timeout: settings.handshake_timeout,
            id_quota: settings.id_quota,
            max_peer_streams: settings.max_peer_streams,
            slots: Vec::new(),
            live: 0,
            reception: Reception::new(settings.server, settings.admission, settings.pending),
            unanswered: UnansweredDials::default(),
            ready: VecDeque::new(),
            blocked: Vec::new(),
            deadlines: Deadlines::default(),
            punches: HolePunches::default(),
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
        self.live == 0 && self.reception.waiting() == 0 && self.punches.is_empty()
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
            mut contents,
        } = datagram;
        if !address::is_unicast(remote_addr) || local_ip.is_some_and(address::is_group) {
            self.totals.registry.martian += 1;
            return;
        }
        if shard != self.id {
            // Not ours, whatever it says: no reset, no answer, and no connection that begins with it.
            self.totals.registry.foreign += 1;
            return;
        }
        let len = contents.len();
        let charge = charge_of(len);
        let mut initial_id = None;
        let mut waiting = None;
        if header == HeaderForm::Long {
            initial_id = long_header_id(&contents).and_then(connection_id);
            waiting = initial_id.and_then(|id| self.reception.find(&id));
            if let Some(key) = waiting
                && let Err(unwelcome) = self.reception.expect_more(key, len)
            {
                let totals = &mut self.totals.registry;
                match unwelcome {
                    Unwelcome::Overload => totals.dropped_overload += 1,
                    Unwelcome::SourceFull => totals.dropped_source_full += 1,
                    Unwelcome::TooShort => totals.malformed += 1,
                }
                return;
            }
            // What waits must not keep the memory of a whole batch.
            contents = BytesMut::from(&contents[..]);
            let has_ids = !self.has_no_ids();
            self.reception.open_or_close(&mut self.endpoint, has_ids);
        }
        let held = self.endpoint.incoming_buffer_bytes();
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
                self.inbox_bytes += charge;
                slot.inbox.push_back(Received {
                    event,
                    charge,
                    socket,
                });
                self.want_turn(handle);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.reception.note_stranger();
                let Some(initial_id) = initial_id.filter(|_| socket.is_listening()) else {
                    totals.unknown += 1;
                    self.endpoint.ignore(incoming);
                    return;
                };
                totals.routed_initial += 1;
                self.admit(now, incoming, initial_id, len, socket, out);
            }
            Some(DatagramEvent::Response(transmit)) => {
                totals.unknown += 1;
                if socket.is_listening()
                    && !self.reception.is_busy()
                    && out.is_ready(&socket, remote_addr)
                {
                    self.reception.note_stranger();
                    totals.responses_sent += 1;
                    self.count_sent(&transmit);
                    // Blocked or not: these are answers to strangers.
                    let _ = out.send(&socket, transmit, &self.buf);
                }
                self.note_noise(remote_addr);
            }
            None => {
                let grown = self.endpoint.incoming_buffer_bytes() - held;
                match waiting {
                    // More of an incoming connection that waits for its answer.
                    Some(key) if grown > 0 => {
                        totals.routed_initial += 1;
                        self.reception.grow(key, len);
                        self.note_unfinished();
                    }
                    // It was dropped before any key was derived.
                    None if header == HeaderForm::Long && self.reception.is_closed() => {
                        totals.dropped_overload += 1;
                    }
                    _ => {
                        totals.unknown += 1;
                        self.note_noise(remote_addr);
                    }
                }
            }
        }
    }

    /// Whether the quota of connection IDs has none left for another connection.
    fn has_no_ids(&self) -> bool {
        self.live + self.reception.waiting() >= self.id_quota.connections
    }

    /// Decides about a first packet. What is over a limit is dropped without a word: its sender comes again by itself
    /// in a second, and finds a place if it is honest.
    fn admit(
        &mut self,
        now: Instant,
        incoming: quinn_proto::Incoming,
        initial_id: ConnectionId,
        len: usize,
        socket: S,
        out: &mut impl Outbound<S>,
    ) {
        let rejected = self
            .reception
            .admit(now, incoming, initial_id, len, socket.clone());
        let Err((incoming, rejection)) = rejected else {
            self.note_unfinished();
            return;
        };
        let totals = &mut self.totals;
        match rejection {
            Rejection::Unproven if self.reception.owes_retry(now, initial_id) => {
                return self.retry(*incoming, &socket, out);
            }
            Rejection::Unproven => totals.transport.retries_withheld += 1,
            Rejection::Full => totals.registry.dropped_overload += 1,
            Rejection::SourceFull => totals.registry.dropped_source_full += 1,
        }
        self.endpoint.ignore(*incoming);
    }

    /// Has the sender of a first packet come back with a token (RFC 9000 §8.1.2); until then nothing of it is kept.
    fn retry(&mut self, incoming: quinn_proto::Incoming, socket: &S, out: &mut impl Outbound<S>) {
        self.buf.clear();
        match self.endpoint.retry(incoming, &mut self.buf) {
            Ok(transmit) => {
                self.totals.transport.retries_sent += 1;
                self.count_sent(&transmit);
                // Blocked or not: it is an answer to a stranger.
                let _ = out.send(socket, transmit, &self.buf);
            }
            // Whoever has come back already is validated, and never gets here.
            Err(error) => self.endpoint.ignore(error.into_incoming()),
        }
    }

    /// The next incoming connection that the application should hear of.
    pub(crate) fn poll_incoming(&mut self) -> Option<Incoming<S>> {
        let (key, pending) = self.reception.next_unreported()?;
        self.totals.transport.incoming += 1;
        Some(Incoming {
            key,
            socket: pending.socket.clone(),
            remote_addr: pending.incoming.remote_address(),
            local_ip: pending.incoming.local_ip(),
        })
    }

    /// Begins the handshake of an incoming connection; this is where TLS work starts.
    ///
    /// `max_payload` is what the interface takes, in bytes of UDP payload, if it tells.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        key: IncomingKey,
        max_payload: Option<u16>,
        out: &mut impl Outbound<S>,
    ) -> Result<(ConnectionHandle, SharedConnection), HandshakeError> {
        let Some(pending) = self.reception.take(key) else {
            return Err(HandshakeError::Stale);
        };
        let mut server = self.reception.server().clone();
        server.transport_config((self.transport)(max_payload));
        self.buf.clear();
        match self
            .endpoint
            .accept(pending.incoming, now, &mut self.buf, Some(Arc::new(server)))
        {
            Ok((handle, connection)) => {
                let connection =
                    Connection::new(connection, Direction::Inbound, self.max_peer_streams);
                let begun = Begun {
                    deadline: pending.deadline,
                    admission: Some(pending.admission),
                    unanswered_dial: None,
                };
                let connection = self.insert(handle, connection, pending.socket, begun);
                self.note_unfinished();
                Ok((handle, connection))
            }
            Err(error) => {
                self.release(pending.admission);
                self.totals.transport.handshakes_failed += 1;
                if let Some(transmit) = error.response {
                    self.count_sent(&transmit);
                    let _ = out.send(&pending.socket, transmit, &self.buf);
                }
                Err(ConnectionError::from(error.cause).into())
            }
        }
    }

    /// Turns an incoming connection away (CONNECTION_REFUSED, RFC 9000 §20.1).
    pub(crate) fn refuse(&mut self, key: IncomingKey, out: &mut impl Outbound<S>) {
        let Some(pending) = self.reception.take(key) else {
            return;
        };
        self.release(pending.admission);
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
        let connection = Connection::new(connection, Direction::Outbound, self.max_peer_streams);
        let may_punch = socket.is_listening();
        self.unanswered
            .insert(now, initial_id, handle, remote_addr, may_punch);
        let begun = Begun {
            deadline: now + self.handshake_timeout,
            admission: None,
            unanswered_dial: Some(initial_id),
        };
        let connection = self.insert(handle, connection, socket, begun);
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

    /// Sockets have got a [successor](Socket::successor): the connections on them get a turn, in which those that may
    /// move do so.
    pub(crate) fn follow_sockets(&mut self) {
        for index in 0..self.slots.len() {
            let handle = ConnectionHandle(index);
            if slot(&mut self.slots, handle).is_some_and(|slot| slot.socket.successor().is_some()) {
                self.want_turn(handle);
            }
        }
    }

    /// Nobody listens at `remote_addr`, says its host about a dial's first packet, which it quotes: a dial
    /// that has heard nothing need not wait for its timeout.
    ///
    /// `initial_id` is the random ID of that packet; whoever knows it has seen the packet, and could as well
    /// have answered it.
    pub(crate) fn unreachable(&mut self, now: Instant, remote_addr: SocketAddr, initial_id: &[u8]) {
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
        lock(&slot.connection).abandon(HandshakeError::Unreachable);
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
        lock(&slot.connection).probe();
        self.want_turn(handle);
    }

    /// When [`handle_timeouts`](Self::handle_timeouts) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let pending = self.reception.first_deadline();
        let punch = self.punches.next_timeout();
        self.deadlines
            .first()
            .into_iter()
            .chain(pending)
            .chain(punch)
            .min()
    }

    /// Gives a turn to each connection with a timer that is due, forgets incoming connections that have
    /// waited for too long, and sends what punches holes. A new round begins for strangers.
    pub(crate) fn handle_timeouts(&mut self, now: Instant, out: &mut impl Outbound<S>) {
        self.reception.begin_round();
        while let Some((socket, transmit)) =
            self.punches
                .poll_transmit(now, &mut self.rng, &mut self.buf)
        {
            self.count_sent(&transmit);
            // Blocked or not: the next one will do.
            let _ = out.send(&socket, transmit, &self.buf);
        }
        while let Some(handle) = self.deadlines.pop_due(now) {
            if let Some(slot) = slot(&mut self.slots, handle) {
                slot.armed = Armed::default();
                slot.expired = true;
            }
            self.want_turn(handle);
        }
        while let Some(pending) = self.reception.take_expired(now) {
            self.totals.transport.incoming_refused += 1;
            self.endpoint.ignore(pending.incoming);
            self.release(pending.admission);
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
        let unanswered = slot.unanswered_dial;
        let shared = Arc::clone(&slot.connection);
        let mut connection = lock(&shared);
        if connection.is_drained() {
            // Somebody has panicked in the middle of using it. Whatever the peer sends from now on is answered with a
            // stateless reset.
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            connection.take_due(wakers);
            drop(connection);
            self.remove(handle);
            return true;
        }
        let mut turn = Turn {
            now,
            handle,
            slot,
            connection: &mut connection,
            endpoint: &mut self.endpoint,
            id_quota: self.id_quota,
            issued: &self.issued,
            inbox_bytes: &mut self.inbox_bytes,
            totals: &mut self.totals,
            registry: &self.registry,
        };

        // In the order in which they have happened: datagrams have arrived before now.
        turn.receive();
        let mut forget = turn.begin();
        let mut drained = turn.exchange();
        turn.handle_application_events();
        turn.follow_socket();
        // Nobody holds it, and the peer has closed it: there is nothing to drain for.
        forget |= turn.connection.was_turned_away();
        let sending = turn.send(out, &mut self.buf);
        drained |= turn.exchange();
        turn.handle_application_events();

        let more = sending == Sending::Unfinished
            || !turn.slot.inbox.is_empty()
            || (turn.slot.expired && !turn.slot.untried_path)
            || turn.connection.announce_turn();
        let deadline = turn.next_deadline();
        if forget && !drained {
            turn.endpoint.handle_event(handle, EndpointEvent::drained());
            drained = true;
        }
        if drained {
            turn.connection.on_drained();
        }
        let is_established = turn.connection.authenticated().is_some();
        let slot = turn.slot;
        if let Some(initial_id) = unanswered
            && slot.unanswered_dial.is_none()
        {
            self.unanswered.remove(&initial_id);
        }
        // One that has failed keeps its place until it is drained.
        let admission = if is_established {
            slot.admission.take()
        } else {
            None
        };
        self.deadlines.arm(now, handle, &mut slot.armed, deadline);
        if sending == Sending::Blocked && !mem::replace(&mut slot.blocked, true) {
            self.blocked.push(handle);
        }
        connection.take_due(wakers);
        drop(connection);

        if let Some(admission) = admission {
            self.release(admission);
        }
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
        registry::lock(&self.registry).post(&totals);
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
        while let Some(pending) = self.reception.take_any() {
            self.endpoint.ignore(pending.incoming);
            self.release(pending.admission);
        }
        // Also what a panic has cut short in the middle of being accepted.
        registry::lock(&self.registry).set_unfinished(Unfinished::default());
        self.post_totals();
    }

    fn insert(
        &mut self,
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
            admission: begun.admission,
            inbox: VecDeque::new(),
            armed: Armed::default(),
            expired: false,
            untried_path: false,
            silent_turns: 0,
            handshake_deadline: Some(begun.deadline),
            unanswered_dial: begun.unanswered_dial,
            ids_issued: 0,
            datagrams_received: 0,
            queued: false,
            blocked: false,
        });
        self.live += 1;
        self.want_turn(handle);
        shared
    }

    fn remove(&mut self, handle: ConnectionHandle) {
        let Some(mut slot) = self.slots.get_mut(handle.0).and_then(Option::take) else {
            return;
        };
        self.live -= 1;
        if let Some(admission) = slot.admission.take() {
            self.release(admission);
        }
        if let Some(initial_id) = slot.unanswered_dial {
            self.unanswered.remove(&initial_id);
        }
        self.inbox_bytes -= slot
            .inbox
            .iter()
            .map(|received| received.charge)
            .sum::<usize>();
        self.deadlines.disarm(handle, &mut slot.armed);
        registry::lock(&self.registry).remove(handle);
    }

    /// An unfinished handshake is over.
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

/// A handshake as it begins.
struct Begun {
    deadline: Instant,
    /// Of an incoming connection.
    admission: Option<Admission>,
    /// Of a dial.
    unanswered_dial: Option<ConnectionId>,
}

/// The seeds of everything random in a shard.
#[derive(Clone, Copy)]
pub(crate) struct ShardSeed {
    pub(crate) connection_ids: [u8; 32],
    pub(crate) endpoint: [u8; 32],
    pub(crate) initial_ids: [u8; 32],
}

fn slot<S>(slots: &mut [Option<Slot<S>>], handle: ConnectionHandle) -> Option<&mut Slot<S>> {
    slots.get_mut(handle.0)?.as_mut()
}

/// `None` if it is longer than any in version 1.
fn connection_id(bytes: &[u8]) -> Option<ConnectionId> {
    (bytes.len() <= MAX_ID_LEN).then(|| ConnectionId::new(bytes))
}
