//! Nodes of the tests, which are Swarms with nothing but the behaviour.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_rejoin::{Behaviour, Config, Event, Snapshot};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// Rounds that follow each other quickly.
pub const QUICK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Memory,
    Quinn,
    Tcp,
}

impl Over {
    pub fn any_address(self) -> Multiaddr {
        let text = match self {
            Self::Memory => "/memory/0",
            Self::Quinn => "/ip4/127.0.0.1/udp/0/quic-v1",
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
        };
        text.parse().unwrap()
    }
}

pub fn config(target: usize) -> Config {
    Config::default()
        .with_target(target)
        .with_backoff(QUICK, QUICK * 4)
}

/// A node that is asked to dial nobody.
pub fn passive(over: Over) -> Swarm<Behaviour> {
    node(over, Config::default().with_target(0))
}

pub fn node(over: Over, config: Config) -> Swarm<Behaviour> {
    node_with(over, Keypair::generate_ed25519(), move |peer| {
        Behaviour::new(peer, config)
    })
}

pub fn node_with<B: NetworkBehaviour>(
    over: Over,
    key: Keypair,
    behaviour: impl FnOnce(PeerId) -> B,
) -> Swarm<B> {
    build(over, key, DEADLINE, behaviour)
}

/// A node that closes connections that nothing keeps open, after `idle`.
pub fn build<B: NetworkBehaviour>(
    over: Over,
    key: Keypair,
    idle: Duration,
    behaviour: impl FnOnce(PeerId) -> B,
) -> Swarm<B> {
    let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
    let behaviour = |key: &Keypair| behaviour(key.public().to_peer_id());
    let config = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(idle);
    match over {
        Over::Memory => builder
            .with_other_transport(|key| {
                MemoryTransport::default()
                    .upgrade(Version::V1)
                    .authenticate(noise::Config::new(key).unwrap())
                    .multiplex(yamux::Config::default())
            })
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(config)
            .build(),
        Over::Quinn => builder
            .with_other_transport(|key| {
                libp2p_quinn::Transport::new(libp2p_quinn::Config::new(key))
            })
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(config)
            .build(),
        Over::Tcp => builder
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(config)
            .build(),
    }
}

/// Listens, and returns the address without the peer.
pub async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>, over: Over) -> Multiaddr {
    swarm.listen_on(over.any_address()).unwrap();
    until(swarm, |event| match event {
        SwarmEvent::NewListenAddr { address, .. } => Some(address),
        _ => None,
    })
    .await
}

/// A live node, running on its own until the test ends.
pub struct Live {
    pub peer: PeerId,
    pub address: Multiaddr,
    pub task: tokio::task::JoinHandle<()>,
}

/// Ends one of the peers that `node` is connected to, and tells which.
pub fn end_one(node: &Swarm<Behaviour>, lives: &[Live]) -> PeerId {
    let peer = *node.connected_peers().next().unwrap();
    let live = lives.iter().find(|live| live.peer == peer);
    live.unwrap().task.abort();
    peer
}

pub async fn live(over: Over) -> Live {
    run(passive(over), over).await
}

pub async fn run<B>(mut swarm: Swarm<B>, over: Over) -> Live
where
    B: NetworkBehaviour<ToSwarm: Send> + Send,
{
    let address = listen(&mut swarm, over).await;
    let peer = *swarm.local_peer_id();
    let task = tokio::spawn(async move {
        loop {
            swarm.next().await;
        }
    });
    Live {
        peer,
        address,
        task,
    }
}

/// Polls `swarm` until `wanted` picks something of an event.
pub async fn until<B: NetworkBehaviour, T>(
    swarm: &mut Swarm<B>,
    mut wanted: impl FnMut(SwarmEvent<B::ToSwarm>) -> Option<T>,
) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(swarm.select_next_some().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found)
        .await
        .expect("the event comes")
}

pub async fn target_reached(swarm: &mut Swarm<Behaviour>) -> usize {
    until(swarm, |event| match event {
        SwarmEvent::Behaviour(Event::TargetReached { connected }) => Some(connected),
        _ => None,
    })
    .await
}

pub async fn connected(swarm: &mut Swarm<Behaviour>, peer: PeerId) {
    until(swarm, |event| match event {
        SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => Some(()),
        _ => None,
    })
    .await;
}

/// Polls `swarm` for some time, and returns its events.
pub async fn events<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    time: Duration,
) -> Vec<SwarmEvent<B::ToSwarm>> {
    let mut events = Vec::new();
    let all = async {
        loop {
            events.push(swarm.select_next_some().await);
        }
    };
    let _: Result<(), _> = tokio::time::timeout(time, all).await;
    events
}

/// A snapshot of peers at addresses.
pub fn snapshot_of(peers: impl IntoIterator<Item = (PeerId, Multiaddr)>) -> Snapshot {
    let peers: Vec<_> = peers
        .into_iter()
        .map(|(peer, address)| format!(r#"{{"id":"{peer}","addresses":["{address}"]}}"#))
        .collect();
    let text = format!(r#"{{"version":1,"peers":[{}]}}"#, peers.join(","));
    Snapshot::from_json(text.as_bytes()).unwrap()
}

pub fn peers_of(swarm: &Swarm<Behaviour>) -> Vec<PeerId> {
    swarm
        .behaviour()
        .snapshot()
        .peers()
        .iter()
        .map(|peer| *peer.peer_id())
        .collect()
}

pub fn at_most(peers: usize) -> NonZeroUsize {
    NonZeroUsize::new(peers).unwrap()
}

/// A path in a directory that is removed at the end.
pub fn path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers.json");
    (directory, path)
}
