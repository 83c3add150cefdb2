//! A node: the shards of one transport, with values instead of sockets.

use std::{
    cell::{Cell, RefCell},
    collections::{HashSet, VecDeque},
    mem,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{ClientConfig, ConnectError, ConnectionIdGenerator, EcnCodepoint, Transmit};
use rand::{Rng, RngExt, rngs::StdRng};

use super::{
    peer::{Peer, SimDoorbell, Stirred},
    rewrite::{self, Changes},
    wall_clock::WallClock,
};
use crate::{
    authenticator::{Authenticator, Protection, deterministic},
    config::{Config, ConfigBuilder},
    error::HandshakeError,
    proto::{
        Budget, Datagram, DialDeadlines, IdQuota, Incoming, IncomingKey, Meter, Outbound, PunchKey,
        Registry, Route, Sent, Shard, ShardSeed, Shards, SocketHandle,
        connection_id::{IssuedIds, ShardConnectionIdGenerator},
        route,
    },
    stats::{RegistryStats, TransportStats},
    sync::Mutex,
};

/// The receive buffer that kernels usually grant.
const RECEIVE_BUFFER: usize = 208 * 1024;

/// The configuration of a node.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) answer: Answer,
    /// Replaces the default configuration.
    pub(crate) config: Option<Config>,
    /// Changes settings from their defaults.
    pub(crate) configure: fn(ConfigBuilder) -> ConfigBuilder,
    pub(crate) id_quota: IdQuota,
    /// The secret key; random if `None`.
    pub(crate) identity: Option<[u8; 32]>,
    pub(crate) listening: bool,
    pub(crate) outbox: Outbox,
    pub(crate) protection: Protection,
    pub(crate) reader: Reader,
    /// The changes that this node makes to the payloads of packets that it sends and receives.
    pub(crate) changes: Changes,
    pub(crate) shards: u8,
    /// Supported versions of QUIC.
    pub(crate) versions: Vec<u32>,
}

/// What happens to incoming connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accept,
    /// They wait for [`Node::answer_held`].
    Hold,
    Refuse,
}

/// The shard whose task reads the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The shard that owns the datagram, as with a kernel that steers.
    Owner,
    /// The next shard; the same one if there is only one.
    NeverTheOwner,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            answer: Answer::Accept,
            config: None,
            configure: |builder| builder,
            id_quota: IdQuota::default(),
            identity: None,
            listening: true,
            outbox: Outbox::default(),
            protection: Protection::Usual,
            reader: Reader::Owner,
            changes: Changes::default(),
            shards: 1,
            versions: vec![1],
        }
    }
}

/// A socket that is only an address.
#[derive(Clone)]
pub(crate) struct SimSocket(Rc<SocketState>);

struct SocketState {
    addr: SocketAddr,
    listening: Cell<bool>,
    successor: RefCell<Option<SimSocket>>,
}

impl SimSocket {
    fn new(addr: SocketAddr, listening: bool) -> Self {
        Self(Rc::new(SocketState {
            addr,
            listening: Cell::new(listening),
            successor: RefCell::default(),
        }))
    }
}

impl SocketHandle for SimSocket {
    fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }

    fn is_listening(&self) -> bool {
        self.0.listening.get()
    }

    fn successor(&self) -> Option<Self> {
        self.0.successor.borrow().clone()
    }
}

/// In virtual time, turns take no time.
struct NoWork(Instant);

impl Meter for NoWork {
    fn now(&self) -> Instant {
        self.0
    }

    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Collects a node's datagrams until the network takes them.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(crate) sent: Vec<Outgoing>,
    pub(crate) max_segments: usize,
    /// Whether batches, which would be cut into datagrams, are dropped.
    pub(crate) swallows_batches: bool,
    /// The number of batches after which the socket blocks until the network has taken them.
    pub(crate) room: usize,
    pub(crate) batches: usize,
    /// The addresses of the host, if the node's socket has all of them; the kernel chooses the
    /// first one.
    pub(crate) ips: Option<Vec<IpAddr>>,
}

#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) contents: Vec<u8>,
    pub(crate) ecn: Option<EcnCodepoint>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            max_segments: 8,
            swallows_batches: false,
            room: usize::MAX,
            batches: 0,
            ips: None,
        }
    }
}

impl Outbox {
    /// The source address of a datagram; `None` if the host does not have it.
    fn source(&self, socket: &SimSocket, transmit: &Transmit) -> Option<SocketAddr> {
        let mut from = socket.local_addr();
        if let Some(ips) = &self.ips {
            let chosen = transmit.src_ip.or_else(|| ips.first().copied());
            from.set_ip(chosen.filter(|ip| ips.contains(ip))?);
        }
        Some(from)
    }

    fn take(&mut self) -> Vec<Outgoing> {
        self.batches = 0;
        mem::take(&mut self.sent)
    }
}

impl Outbound<SimSocket> for Outbox {
    fn is_ready(&self, _: &SimSocket, _: SocketAddr) -> bool {
        self.batches < self.room
    }

    fn max_segments(&self, _: &SimSocket, _: SocketAddr) -> usize {
        self.max_segments
    }

    fn source_ip(&self, socket: &SimSocket, _: SocketAddr) -> Option<IpAddr> {
        match &self.ips {
            Some(ips) => ips.first().copied(),
            None => Some(socket.local_addr().ip()),
        }
    }

    fn send(&mut self, socket: &SimSocket, transmit: Transmit, contents: &[u8]) -> Sent {
        assert_eq!(transmit.size, contents.len());
        let Some(from) = self.source(socket, &transmit) else {
            return Sent::SourceGone;
        };
        let segment = transmit.segment_size.unwrap_or(contents.len());
        assert!(contents.len() <= segment * self.max_segments);
        if !(self.swallows_batches && contents.len() > segment) {
            self.sent
                .extend(contents.chunks(segment).map(|contents| Outgoing {
                    from,
                    to: transmit.destination,
                    contents: contents.to_vec(),
                    ecn: transmit.ecn,
                }));
        }
        self.batches += 1;
        if self.is_ready(socket, transmit.destination) {
            Sent::Ready
        } else {
            Sent::Blocked
        }
    }
}

/// An incoming connection that waits for its answer.
pub(crate) struct Held {
    pub(crate) shard: usize,
    pub(crate) key: IncomingKey,
}

/// What a node needs in order to change payloads.
struct Hostile {
    authenticator: Authenticator,
    changes: Changes,
}

impl Hostile {
    fn client(&self, expected: Option<PeerId>) -> ClientConfig {
        ClientConfig::new(rewrite::client(
            self.authenticator.client(expected),
            self.changes.clone(),
        ))
    }
}

/// The shards of one transport, and the state of a driver.
pub(crate) struct Node {
    config: Config,
    pub(crate) budget: Budget,
    hostile: Option<Hostile>,
    peer_id: PeerId,
    shards: Shards,
    seeds: Vec<ShardSeed>,
    pub(crate) cores: Vec<Shard<SimSocket>>,
    registries: Vec<Arc<Mutex<Registry>>>,
    doorbells: Vec<Rc<SimDoorbell>>,
    pub(crate) wall_clock: WallClock,
    socket: SimSocket,
    /// Its earlier sockets.
    former: Vec<SimSocket>,
    reader: Reader,
    pub(crate) answer: Answer,
    pub(crate) outbox: Outbox,
    pub(crate) held: VecDeque<Held>,
    /// Accepted connections that the test has not taken yet.
    pub(crate) accepted: VecDeque<Peer>,
    #[cfg(feature = "nat")]
    pub(crate) stun: Option<crate::proto::StunClient>,
    next_shard: usize,
}

impl Node {
    /// `stirred` has the number of the node, and the set to which it adds that number when a
    /// connection needs a turn.
    pub(crate) fn new(
        addr: SocketAddr,
        setup: Setup,
        random: &mut StdRng,
        stirred: (usize, Stirred),
    ) -> Self {
        let wall_clock = WallClock::new();
        let host = random.random::<[u8; 32]>();
        let host = Keypair::ed25519_from_bytes(setup.identity.unwrap_or(host)).unwrap();
        let shards = Shards::new(setup.shards).unwrap();
        let clock = Arc::new(wall_clock.clone());
        let authenticator = deterministic(&host, random.next_u64(), clock, setup.protection);
        let config = setup
            .config
            .unwrap_or_else(|| {
                let builder = (setup.configure)(Config::builder(&host));
                builder.shards(setup.shards).unwrap().build().unwrap()
            })
            .with_authenticator(authenticator.clone());
        let seeds: Vec<_> = shards
            .iter()
            .map(|_| ShardSeed {
                connection_ids: random.random(),
                endpoint: random.random(),
                initial_ids: random.random(),
            })
            .collect();
        let registries: Vec<Arc<Mutex<Registry>>> = shards.iter().map(|_| Arc::default()).collect();
        let budget = config.budget();
        let cores = shards
            .iter()
            .zip(&seeds)
            .zip(&registries)
            .map(|((id, seed), registry)| {
                let mut settings = config
                    .settings(
                        true,
                        RECEIVE_BUFFER,
                        random.random(),
                        config.reset_secret(addr, id.index()),
                    )
                    .unwrap();
                settings.id_quota = setup.id_quota;
                settings.endpoint.supported_versions(setup.versions.clone());
                let server = Arc::make_mut(&mut settings.server);
                server.time_source(Arc::new(wall_clock.clone()));
                if !setup.changes.are_none() {
                    server.crypto = rewrite::server(authenticator.server(), setup.changes.clone());
                }
                let registry = Arc::clone(registry);
                Shard::new(id, shards, settings, *seed, registry, budget.clone())
            })
            .collect();
        Self {
            hostile: (!setup.changes.are_none()).then_some(Hostile {
                authenticator,
                changes: setup.changes,
            }),
            config,
            budget,
            peer_id: host.public().to_peer_id(),
            shards,
            seeds,
            cores,
            registries,
            doorbells: shards
                .iter()
                .map(|_| Rc::new(SimDoorbell::new(stirred.clone())))
                .collect(),
            wall_clock,
            socket: SimSocket::new(addr, setup.listening),
            former: Vec::new(),
            reader: setup.reader,
            answer: setup.answer,
            outbox: setup.outbox,
            held: VecDeque::new(),
            accepted: VecDeque::new(),
            #[cfg(feature = "nat")]
            stun: None,
            next_shard: 0,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Moves to a socket at another address.
    pub(crate) fn move_to(&mut self, addr: SocketAddr) {
        let successor = SimSocket::new(addr, self.socket.is_listening());
        self.former
            .push(mem::replace(&mut self.socket, successor.clone()));
        for former in &self.former {
            former.0.successor.replace(Some(successor.clone()));
        }
        for core in &mut self.cores {
            core.follow_sockets();
        }
    }

    /// Begins a dial, on each shard in turn.
    pub(crate) fn dial(
        &mut self,
        now: Instant,
        remote_addr: SocketAddr,
        expected: Option<PeerId>,
    ) -> Peer {
        self.try_dial(now, remote_addr, expected).unwrap()
    }

    pub(crate) fn try_dial(
        &mut self,
        now: Instant,
        remote_addr: SocketAddr,
        expected: Option<PeerId>,
    ) -> Result<Peer, ConnectError> {
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % self.shards.count();
        let config = match &self.hostile {
            None => self.config.client(expected, None).unwrap(),
            Some(hostile) => hostile.client(expected),
        };
        let deadlines = DialDeadlines {
            handshake: now + self.config.handshake_timeout(),
            silent: None,
        };
        let (handle, connection) =
            self.cores[shard].connect(now, deadlines, config, remote_addr, self.socket.clone())?;
        Ok(self.peer(shard, handle, connection))
    }

    /// Punches a hole for a peer at `remote_addr`.
    pub(crate) fn punch(&mut self, now: Instant, remote_addr: SocketAddr) -> PunchKey {
        self.cores[0].punch(now, remote_addr, self.socket.clone())
    }

    pub(crate) fn end_punch(&mut self, key: PunchKey) {
        self.cores[0].end_punch(key);
    }

    /// Answers the incoming connection that has waited longest.
    pub(crate) fn answer_held(&mut self, now: Instant, accept: bool) -> Option<HandshakeError> {
        let Held { shard, key } = self.held.pop_front()?;
        if !accept {
            self.cores[shard].refuse(key, &mut self.outbox);
            return None;
        }
        match self.cores[shard].accept(now, key, None, &mut self.outbox) {
            Ok((handle, connection)) => {
                let peer = self.peer(shard, handle, connection);
                self.accepted.push_back(peer);
                None
            }
            Err(error) => Some(error),
        }
    }

    /// Reads a datagram from the socket, and passes it to its owner as the driver does.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, contents: &[u8]) {
        self.receive_marked(now, from, contents, None);
    }

    /// Like [`receive`](Self::receive), with ECN bits.
    pub(crate) fn receive_marked(
        &mut self,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
        ecn: Option<EcnCodepoint>,
    ) {
        let Some(datagram) = self.routed(from, contents) else {
            self.cores[0].note_unmatched_datagram(from);
            #[cfg(feature = "nat")]
            if let Some(stun) = &mut self.stun {
                stun.handle(now, self.socket.local_addr(), from, contents);
            }
            return;
        };
        let datagram = Datagram { ecn, ..datagram };
        let owner = datagram.shard.index();
        let reader = match self.reader {
            Reader::Owner => owner,
            Reader::NeverTheOwner => (owner + 1) % self.shards.count(),
        };
        let totals = self.cores[reader].totals();
        totals.transport.datagrams_received += 1;
        totals.transport.bytes_received += contents.len() as u64;
        if reader != owner {
            totals.registry.forwarded += 1;
        }
        self.cores[owner].handle(now, datagram, &mut self.outbox);
    }

    /// Reads a datagram that keeps `held` bytes of memory.
    pub(crate) fn receive_holding(
        &mut self,
        held: usize,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            let datagram = Datagram { held, ..datagram };
            self.cores[datagram.shard.index()].handle(now, datagram, &mut self.outbox);
        }
    }

    /// Reads a datagram that was sent to this local address.
    pub(crate) fn receive_at(
        &mut self,
        local_ip: IpAddr,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            let datagram = Datagram {
                local_ip: Some(local_ip),
                ..datagram
            };
            self.cores[datagram.shard.index()].handle(now, datagram, &mut self.outbox);
        }
    }

    /// Passes a datagram to this shard, regardless of its owner.
    pub(crate) fn receive_on(
        &mut self,
        shard: usize,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            self.cores[shard].handle(now, datagram, &mut self.outbox);
        }
    }

    /// Reads a datagram from this socket, and passes it to this shard, regardless of its owner.
    pub(crate) fn receive_at_socket(
        &mut self,
        socket: &SimSocket,
        shard: usize,
        now: Instant,
        from: SocketAddr,
        contents: &[u8],
    ) {
        if let Some(datagram) = self.routed(from, contents) {
            let socket = socket.clone();
            let datagram = Datagram { socket, ..datagram };
            self.cores[shard].handle(now, datagram, &mut self.outbox);
        }
    }

    pub(crate) fn socket(&self) -> SimSocket {
        self.socket.clone()
    }

    /// Another socket.
    pub(crate) fn other_socket(&self, addr: SocketAddr, listening: bool) -> SimSocket {
        SimSocket::new(addr, listening)
    }

    /// The shard that owns a datagram.
    pub(crate) fn owner(&self, contents: &[u8]) -> usize {
        match route(contents, self.shards) {
            Route::Quic { shard, .. } => shard.index(),
            other => panic!("no datagram of QUIC: {other:?}"),
        }
    }

    /// Handles everything that the application and time require now.
    ///
    /// Returns `false` if there was nothing.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        let mut progress = false;
        #[cfg(feature = "nat")]
        self.ask(now);
        for shard in 0..self.cores.len() {
            self.take_turns(shard);
            let mut due = Vec::new();
            self.cores[shard].begin_turns(now, &mut self.outbox, &mut due);
            progress |= !due.is_empty();
            for waker in due {
                waker.wake();
            }
            while self.serve(shard, now) {
                progress = true;
            }
            while let Some(Incoming { key, .. }) = self.cores[shard].poll_incoming() {
                progress = true;
                self.held.push_back(Held { shard, key });
                match self.answer {
                    Answer::Accept => drop(self.answer_held(now, true)),
                    Answer::Hold => {}
                    Answer::Refuse => drop(self.answer_held(now, false)),
                }
            }
            self.cores[shard].post_totals();
        }
        progress
    }

    /// Sends the STUN requests that are due.
    #[cfg(feature = "nat")]
    fn ask(&mut self, now: Instant) {
        let Some(stun) = &mut self.stun else {
            return;
        };
        while let Some(request) = stun.poll_transmit(now) {
            assert_eq!(request.from, self.socket.local_addr());
            let transmit = Transmit {
                destination: request.to,
                ecn: None,
                size: request.contents.len(),
                segment_size: None,
                src_ip: None,
            };
            let _ = self.outbox.send(&self.socket, transmit, &request.contents);
        }
    }

    /// Queues the connections that need a turn.
    pub(crate) fn take_turns(&mut self, shard: usize) {
        for handle in self.doorbells[shard].take() {
            self.cores[shard].want_turn(handle);
        }
    }

    /// Gives one connection a turn.
    pub(crate) fn serve(&mut self, shard: usize, now: Instant) -> bool {
        self.serve_measured(shard, now, &NoWork(now))
    }

    /// Like [`serve`](Self::serve); the meter determines the cost of the turn.
    pub(crate) fn serve_measured(
        &mut self,
        shard: usize,
        now: Instant,
        meter: &impl Meter,
    ) -> bool {
        let mut due = Vec::new();
        let served = self.cores[shard].serve(now, meter, &mut self.outbox, &mut due);
        due.into_iter().for_each(Waker::wake);
        served.is_some()
    }

    /// Takes the datagrams to send. The socket then has room again.
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        for core in &mut self.cores {
            core.unblock();
        }
        self.outbox.take()
    }

    /// Whether a connection needs a turn.
    pub(crate) fn has_ready(&self) -> bool {
        self.cores.iter().any(Shard::has_ready)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timeouts = self.cores.iter().filter_map(Shard::next_timeout);
        #[cfg(feature = "nat")]
        let timeouts = timeouts.chain(self.stun.iter().filter_map(|stun| stun.next_timeout()));
        timeouts.min()
    }

    /// Stops the driver, which closes all connections.
    pub(crate) fn stop(&mut self, now: Instant) {
        for shard in 0..self.cores.len() {
            self.cores[shard].close_all();
            while self.serve(shard, now) {}
        }
        self.orphan_all();
    }

    /// Ends all connections as if the driver had panicked.
    pub(crate) fn orphan_all(&mut self) {
        let mut due = Vec::new();
        for core in &mut self.cores {
            core.orphan_all(&mut due);
        }
        due.into_iter().for_each(Waker::wake);
    }

    /// The statistics of all shards.
    pub(crate) fn books(&self) -> (RegistryStats, TransportStats) {
        let mut registry = RegistryStats::default();
        let mut transport = TransportStats::default();
        let mut peers = HashSet::new();
        let mut remote_addrs = HashSet::new();
        for books in &self.registries {
            let books = books.lock().unwrap();
            books.add_to(&mut registry, &mut transport);
            peers.extend(books.peers().copied());
            remote_addrs.extend(books.remote_addrs().copied());
        }
        registry.peers = peers.len();
        registry.remote_addresses = remote_addrs.len();
        transport.dropped_crypto = self.config.dropped_crypto();
        (registry, transport)
    }

    pub(crate) fn reset_books(&self) {
        for books in &self.registries {
            books.lock().unwrap().reset();
        }
        self.config.reset_dropped_crypto();
    }

    pub(crate) fn remote_addrs(&self) -> HashSet<SocketAddr> {
        let books = self.registries.iter().map(|books| books.lock().unwrap());
        books
            .flat_map(|books| books.remote_addrs().copied().collect::<Vec<_>>())
            .collect()
    }

    /// The number of issued IDs that still lead to a connection, determined by sending a datagram
    /// to each.
    ///
    /// Changes the totals of the statistics, and nothing else.
    pub(crate) fn routable_ids(&mut self, now: Instant) -> u64 {
        /// Of no node, so that no connection takes the datagram as a sign of life of its peer.
        const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 1], 9);

        let routed = |node: &Self| node.books().0.routed_established;
        let before = routed(self);
        for id in self.issued_ids() {
            // Too short to be valid, and to be answered with a stateless reset.
            let probe = [&[0x40], &id[..], &[0; 4]].concat();
            self.receive(now, STRANGER.into(), &probe);
        }
        self.turn(now);
        routed(self) - before
    }

    /// Every connection ID issued so far, and some that will be issued next.
    pub(crate) fn issued_ids(&self) -> Vec<Vec<u8>> {
        /// IDs of handshakes that failed while they were accepted, which are not in the statistics.
        const MOST_UNBOOKED: u64 = 32;

        let (registry, transport) = self.books();
        // Retries and refusals have IDs, too.
        let unbooked = MOST_UNBOOKED + transport.retries_sent + transport.incoming_refused;
        let issued = registry.issued_ids + unbooked;
        let shards = self.shards.iter().zip(&self.seeds);
        let ids = shards.flat_map(|(id, seed)| {
            let seed = seed.connection_ids;
            let mut generator =
                ShardConnectionIdGenerator::new(id, self.shards, seed, IssuedIds::default());
            (0..issued)
                .map(move |_| generator.generate_cid().to_vec())
                .collect::<Vec<_>>()
        });
        ids.collect()
    }

    /// Asserts that nothing is left of any connection.
    pub(crate) fn assert_empty(&self) {
        let (books, _) = self.books();
        let now = RegistryStats {
            active_ids: books.active_ids,
            closing: books.closing,
            connections: books.connections,
            handshake_sources: books.handshake_sources,
            handshaking: books.handshaking,
            initial_ids: books.initial_ids,
            peers: books.peers,
            pending_incoming: books.pending_incoming,
            pending_incoming_bytes: books.pending_incoming_bytes,
            remote_addresses: books.remote_addresses,
            ..RegistryStats::default()
        };
        assert_eq!(now, RegistryStats::default());
        assert_eq!(self.next_timeout(), None);
        for core in &self.cores {
            assert!(core.is_empty());
            assert!(!core.has_ready());
            assert_eq!(core.inbox_bytes(), 0);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cores.iter().all(Shard::is_empty)
    }

    fn peer(
        &self,
        shard: usize,
        handle: quinn_proto::ConnectionHandle,
        connection: crate::proto::SharedConnection,
    ) -> Peer {
        Peer {
            connection,
            handle,
            shard,
            doorbell: Rc::clone(&self.doorbells[shard]),
        }
    }

    fn routed(&self, from: SocketAddr, contents: &[u8]) -> Option<Datagram<SimSocket>> {
        match route(contents, self.shards) {
            Route::Quic { shard, header } => Some(Datagram {
                socket: self.socket.clone(),
                shard,
                header,
                remote_addr: from,
                local_ip: None,
                ecn: None,
                contents: BytesMut::from(contents),
                held: contents.len(),
            }),
            Route::NonQuic | Route::Drop(_) => None,
        }
    }
}
