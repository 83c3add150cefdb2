//! Fuzz target: the registry and the connection ID generator, compared with a simple model.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::LazyLock,
};

use arbitrary::{Arbitrary, Unstructured};
use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{ConnectionHandle, ConnectionId, ConnectionIdGenerator};

use super::all;
use crate::{
    proto::{
        CONNECTION_ID_LEN, IssuedIds, MAX_SHARDS, Registry, ShardConnectionIdGenerator, ShardCount,
        ShardId, SharedConnection, Unfinished, lock_connection,
    },
    simulation::{network::Network, node::Setup},
    stats::{RegistryStats, TransportStats},
};

/// Connections begin, are issued IDs, authenticate their peers, migrate and end.
pub fn registry(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(plan) = Plan::arbitrary(&mut input) else {
        return;
    };
    let mut history = History::new(plan.shards, plan.seed);
    for acts in plan.acts.chunks(ACTS_BETWEEN_CHECKS) {
        acts.iter().for_each(|&act| history.act(act));
        history.check();
    }
    history.end();
}

/// A check costs as much as this many acts.
const ACTS_BETWEEN_CHECKS: usize = 16;

#[derive(Debug, Arbitrary)]
struct Plan {
    shards: u8,
    seed: [u8; 32],
    #[arbitrary(with = all)]
    acts: Vec<Act>,
}

/// Handles and addresses are few, so that they collide.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Act {
    Authenticate { handle: u8, peer: u8 },
    Foreign(ForeignId),
    Insert { handle: u8, addr: u8, inbound: bool },
    Issue { handle: u8, count: u8 },
    Migrate { handle: u8, addr: u8 },
    Pending(u8),
    Remove(u8),
    Reset,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct ForeignId {
    bytes: [u8; 20],
    len: u8,
}

struct History {
    shards: ShardCount,
    shard: ShardId,
    generator: ShardConnectionIdGenerator,
    issued: IssuedIds,
    ids: HashSet<ConnectionId>,
    registry: Registry,
    model: BTreeMap<u8, Model>,
    pending: usize,
    /// Totals since the last reset.
    total_issued: u64,
    total_retired: u64,
}

struct Model {
    addr: SocketAddr,
    inbound: bool,
    peer: Option<PeerId>,
    issued: u64,
    active: u64,
    /// After the batch that follows the handshake, an ID is issued for each retired one.
    has_batch: bool,
}

impl History {
    fn new(shards: u8, seed: [u8; 32]) -> Self {
        let shards = ShardCount::new(shards % MAX_SHARDS + 1).expect("in range");
        let shard = shards.of(seed[0]);
        let issued = IssuedIds::default();
        Self {
            shards,
            shard,
            generator: ShardConnectionIdGenerator::new(shard, shards, seed, issued.clone()),
            issued,
            ids: HashSet::new(),
            registry: Registry::default(),
            model: BTreeMap::new(),
            pending: 0,
            total_issued: 0,
            total_retired: 0,
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Authenticate { handle, peer } => {
                // Once for each connection, as a shard does it.
                if let Some(model) = self.model.get_mut(&handle)
                    && model.peer.is_none()
                {
                    let peer = peer_id(peer);
                    model.peer = Some(peer);
                    self.registry.authenticated(to_handle(handle), peer);
                }
            }
            Act::Foreign(ForeignId { bytes, len }) => {
                let id = &bytes[..usize::from(len % 21)];
                let ours = id.len() == CONNECTION_ID_LEN && self.shards.of(id[0]) == self.shard;
                let valid = self.generator.validate(&ConnectionId::new(id));
                assert_eq!(valid.is_ok(), ours);
            }
            Act::Insert {
                handle,
                addr,
                inbound,
            } => self.insert(handle, to_addr(addr), inbound),
            Act::Issue { handle, count } => self.issue(handle, (count % MOST_ISSUED).into()),
            Act::Migrate { handle, addr } => {
                let addr = to_addr(addr);
                self.registry
                    .migrated(to_handle(handle), LOCAL.into(), addr);
                if let Some(model) = self.model.get_mut(&handle) {
                    model.addr = addr;
                }
            }
            Act::Pending(count) => {
                self.pending = count.into();
                self.note_pending();
            }
            Act::Remove(handle) => self.remove(handle),
            Act::Reset => {
                self.registry.reset();
                self.total_issued = 0;
                self.total_retired = 0;
            }
        }
    }

    fn insert(&mut self, handle: u8, addr: SocketAddr, inbound: bool) {
        if self.model.contains_key(&handle) {
            return;
        }
        self.generate(1);
        let connection = connection();
        let number = self.registry.next_number();
        let local_addr = LOCAL.into();
        self.registry.insert(
            to_handle(handle),
            number,
            connection,
            local_addr,
            addr,
            inbound,
        );
        self.total_issued += 1;
        self.model.insert(
            handle,
            Model {
                addr,
                inbound,
                peer: None,
                issued: 1,
                active: 1,
                has_batch: false,
            },
        );
    }

    fn issue(&mut self, handle: u8, count: u64) {
        self.registry.issued(to_handle(handle), count);
        let Some(model) = self.model.get_mut(&handle) else {
            return;
        };
        if count == 0 {
            return;
        }
        model.issued += count;
        if model.has_batch {
            self.total_retired += count;
        } else {
            model.active += count;
            model.has_batch = true;
        }
        self.total_issued += count;
        self.generate(count);
    }

    fn remove(&mut self, handle: u8) {
        let (connection, of) = (connection(), to_handle(handle));
        self.registry.end(of, &lock_connection(&connection));
        self.registry.remove(of);
        if let Some(model) = self.model.remove(&handle) {
            self.total_retired += model.active;
        }
    }

    fn note_pending(&mut self) {
        self.registry.set_unfinished(Unfinished {
            pending: self.pending,
            ..Unfinished::default()
        });
    }

    /// Checks that each ID is new, and leads to its shard.
    fn generate(&mut self, count: u64) {
        for _ in 0..count {
            let id = self.generator.generate_cid();
            assert_eq!(id.len(), CONNECTION_ID_LEN);
            assert_eq!(self.shards.of(id[0]), self.shard);
            assert!(self.generator.validate(&id).is_ok());
            assert!(self.ids.insert(id));
        }
        assert_eq!(self.issued.count(), self.ids.len() as u64);
    }

    fn check(&self) {
        let mut registry = RegistryStats::default();
        let mut transport = TransportStats::default();
        self.registry.add_to(&mut registry, &mut transport);
        let models = || self.model.values();
        let active: u64 = models().map(|model| model.active).sum();
        assert_eq!(registry.active_ids, active);
        assert_eq!(registry.connections, self.model.len());
        let handshaking = models().filter(|model| model.peer.is_none()).count();
        assert_eq!(registry.handshaking, handshaking);
        let inbound = models().filter(|model| model.inbound).count();
        assert_eq!(registry.initial_ids, self.pending + inbound);
        assert_eq!(registry.pending_incoming, self.pending);
        assert_eq!(registry.issued_ids, self.total_issued);
        assert_eq!(registry.retired_ids, self.total_retired);
        let sequences: u64 = registry.issued_sequence_numbers.iter().sum();
        assert_eq!(sequences, self.total_issued);
        assert_eq!(self.registry.connections().count(), self.model.len());
        let known = models().filter(|model| model.peer.is_some()).count();
        assert_eq!(self.registry.established().count(), known);
        let peers: HashSet<_> = models().filter_map(|model| model.peer).collect();
        assert_eq!(
            self.registry.peers().copied().collect::<HashSet<_>>(),
            peers
        );
        let addrs: HashSet<_> = models().map(|model| model.addr).collect();
        let remote: HashSet<_> = self.registry.remote_addrs().copied().collect();
        assert_eq!(remote, addrs);
    }

    fn end(mut self) {
        for handle in self.model.keys().copied().collect::<Vec<_>>() {
            self.remove(handle);
        }
        self.pending = 0;
        self.note_pending();
        self.check();
    }
}

fn to_handle(handle: u8) -> ConnectionHandle {
    ConnectionHandle(usize::from(handle))
}

fn to_addr(addr: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, addr % 8], 4001))
}

fn peer_id(peer: u8) -> PeerId {
    static PEERS: LazyLock<[PeerId; 4]> =
        LazyLock::new(|| [(); 4].map(|()| Keypair::generate_ed25519().public().to_peer_id()));
    PEERS[usize::from(peer) % PEERS.len()]
}

/// An arbitrary connection, because the registry only stores it.
fn connection() -> SharedConnection {
    thread_local! {
        static CONNECTION: OnceCell<SharedConnection> = const { OnceCell::new() };
    }
    CONNECTION.with(|connection| {
        let made = connection.get_or_init(|| {
            let mut network = Network::pair(1, Setup::default(), Setup::default());
            network.dial(0, 1).connection
        });
        SharedConnection::clone(made)
    })
}

/// More than quinn-proto issues at a time.
const MOST_ISSUED: u8 = 16;

const LOCAL: ([u8; 4], u16) = ([192, 0, 2, 100], 4001);
