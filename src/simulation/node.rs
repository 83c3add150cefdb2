//! A node: the shards of one transport, with values instead of sockets.

mod inspection;
mod receiving;
mod setup;
mod socket;

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{ClientConfig, ConnectError, Transmit};
use rand::{Rng, RngExt, rngs::StdRng};

pub(crate) use self::{
    setup::{Answer, Reader, Setup},
    socket::{Outbox, Outgoing, SimSocket},
};
use super::{
    peer::{Peer, SimDoorbell, Stirred},
    rewrite::{self, Changes},
    stun::StunClient,
    wall_clock::WallClock,
};
use crate::{
    authenticator::{Authenticator, deterministic},
    config::Config,
    error::HandshakeError,
    proto::{
        Budget, DialDeadlines, Incoming, IncomingKey, Meter, Output, PunchKey, Registry, Shard,
        ShardCount, ShardSeed, SocketHandle,
    },
    sync::Mutex,
};

/// The shards of one transport, and the state of a driver.
pub(crate) struct Node {
    config: Config,
    pub(crate) budget: Budget,
    hostile: Option<Hostile>,
    peer_id: PeerId,
    count: ShardCount,
    seeds: Vec<ShardSeed>,
    pub(crate) shards: Vec<Shard<SimSocket>>,
    registries: Vec<Arc<Mutex<Registry>>>,
    doorbells: Vec<Rc<SimDoorbell>>,
    pub(crate) wall_clock: WallClock,
    socket: SimSocket,
    /// Its earlier sockets.
    former: Vec<SimSocket>,
    reader: Reader,
    pub(crate) answer: Answer,
    pub(crate) outbox: Outbox,
    pub(crate) unanswered_incoming: VecDeque<UnansweredIncoming>,
    /// Accepted connections that the test has not taken yet.
    pub(crate) accepted: VecDeque<Peer>,
    pub(crate) stun: Option<StunClient>,
    max_payload: Option<u16>,
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
        let count = ShardCount::new(setup.shards).unwrap();
        let clock = Arc::new(wall_clock.clone());
        let authenticator = deterministic(&host, random.next_u64(), clock, setup.protection);
        let config = setup
            .config
            .unwrap_or_else(|| {
                let builder = (setup.configure)(Config::builder(&host));
                builder.shards(setup.shards).unwrap().build().unwrap()
            })
            .with_authenticator(authenticator.clone())
            .counting_for_itself();
        let seeds: Vec<_> = count
            .iter()
            .map(|_| ShardSeed {
                connection_ids: random.random(),
                endpoint: random.random(),
                initial_ids: random.random(),
            })
            .collect();
        let registries: Vec<Arc<Mutex<Registry>>> = count.iter().map(|_| Arc::default()).collect();
        let budget = config.budget();
        let shards = count
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
                Shard::new(id, count, settings, *seed, registry, budget.clone())
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
            count,
            seeds,
            shards,
            registries,
            doorbells: count
                .iter()
                .map(|_| Rc::new(SimDoorbell::new(stirred.clone())))
                .collect(),
            wall_clock,
            socket: SimSocket::new(addr, setup.listening),
            former: Vec::new(),
            reader: setup.reader,
            answer: setup.answer,
            outbox: setup.outbox,
            unanswered_incoming: VecDeque::new(),
            accepted: VecDeque::new(),
            stun: None,
            max_payload: setup.max_payload,
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
            former.give_up_for(&successor);
        }
        for shard in &mut self.shards {
            shard.follow_sockets();
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
        self.next_shard = (shard + 1) % self.count.count();
        let config = match &self.hostile {
            None => self.config.client(expected, self.max_payload).unwrap(),
            Some(hostile) => hostile.client(expected),
        };
        let deadlines = DialDeadlines {
            handshake: now + self.config.handshake_timeout(),
            silent: None,
        };
        let (handle, connection) = self.shards[shard].connect(
            now,
            deadlines,
            config,
            self.max_payload,
            remote_addr,
            self.socket.clone(),
        )?;
        Ok(self.peer(shard, handle, connection))
    }

    /// Punches a hole for a peer at `remote_addr`.
    pub(crate) fn punch(&mut self, now: Instant, remote_addr: SocketAddr) -> PunchKey {
        self.shards[0].punch(now, remote_addr, self.socket.clone())
    }

    pub(crate) fn end_punch(&mut self, key: PunchKey) {
        self.shards[0].end_punch(key);
    }

    /// Answers the incoming connection that has waited longest.
    pub(crate) fn answer_incoming(&mut self, now: Instant, accept: bool) -> Option<HandshakeError> {
        let UnansweredIncoming { shard, key } = self.unanswered_incoming.pop_front()?;
        if !accept {
            self.shards[shard].refuse(key, &mut self.outbox);
            return None;
        }
        match self.shards[shard].accept(now, key, self.max_payload, &mut self.outbox) {
            Ok((handle, connection)) => {
                let peer = self.peer(shard, handle, connection);
                self.accepted.push_back(peer);
                None
            }
            Err(error) => Some(error),
        }
    }

    pub(crate) fn socket(&self) -> SimSocket {
        self.socket.clone()
    }

    /// Another socket.
    pub(crate) fn other_socket(&self, addr: SocketAddr, listening: bool) -> SimSocket {
        SimSocket::new(addr, listening)
    }

    /// Handles everything that the application and time require now.
    ///
    /// Returns `false` if there was nothing.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        let mut progress = false;
        self.ask(now);
        for shard in 0..self.shards.len() {
            self.take_turns(shard);
            let mut due = Vec::new();
            self.shards[shard].prepare_turns(now, &mut self.outbox, &mut due);
            progress |= !due.is_empty();
            for waker in due {
                waker.wake();
            }
            while self.give_turn(shard, now) {
                progress = true;
            }
            while let Some(Incoming { key, .. }) = self.shards[shard].poll_incoming() {
                progress = true;
                self.unanswered_incoming
                    .push_back(UnansweredIncoming { shard, key });
                match self.answer {
                    Answer::Accept => drop(self.answer_incoming(now, true)),
                    Answer::Hold => {}
                    Answer::Refuse => drop(self.answer_incoming(now, false)),
                }
            }
            self.shards[shard].post_totals();
        }
        progress
    }

    /// Sends the STUN requests that are due.
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
            self.shards[shard].want_turn(handle);
        }
    }

    /// Gives one connection a turn.
    pub(crate) fn give_turn(&mut self, shard: usize, now: Instant) -> bool {
        self.give_measured_turn(shard, now, &NoWork(now))
    }

    /// Like [`give_turn`](Self::give_turn); the meter determines the cost of the turn.
    pub(crate) fn give_measured_turn(
        &mut self,
        shard: usize,
        now: Instant,
        meter: &impl Meter,
    ) -> bool {
        let mut due = Vec::new();
        let served = self.shards[shard].give_turn(now, meter, &mut self.outbox, &mut due);
        due.into_iter().for_each(Waker::wake);
        served.is_some()
    }

    /// Takes the datagrams to send. The socket then has room again.
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        for shard in &mut self.shards {
            shard.unblock();
        }
        self.outbox.take()
    }

    /// Whether a connection needs a turn.
    pub(crate) fn has_ready(&self) -> bool {
        self.shards.iter().any(Shard::has_ready)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timeouts = self.shards.iter().filter_map(Shard::next_timeout);
        let timeouts = timeouts.chain(self.stun.iter().filter_map(|stun| stun.next_timeout()));
        timeouts.min()
    }

    /// Stops the driver, which closes all connections.
    pub(crate) fn stop(&mut self, now: Instant) {
        for shard in 0..self.shards.len() {
            self.shards[shard].close_all();
            while self.give_turn(shard, now) {}
        }
        self.orphan_all();
    }

    /// Ends all connections as if the driver had panicked.
    pub(crate) fn orphan_all(&mut self) {
        let mut due = Vec::new();
        for shard in &mut self.shards {
            shard.orphan_all(&mut due);
        }
        due.into_iter().for_each(Waker::wake);
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
}

/// An incoming connection that waits for its answer.
pub(crate) struct UnansweredIncoming {
    pub(crate) shard: usize,
    pub(crate) key: IncomingKey,
}

/// The receive buffer that kernels usually grant.
const RECEIVE_BUFFER: usize = 208 * 1024;

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
