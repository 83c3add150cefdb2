//! The protocols of a node, each with the settings that matter here.

use std::{path::PathBuf, time::Duration};

use libp2p::{
    Multiaddr, StreamProtocol,
    connection_limits::{self, ConnectionLimits},
    gossipsub, identify,
    identity::Keypair,
    kad, mdns, ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use libp2p_rejoin as rejoin;

use crate::{failure::Failure, messages};

/// Most connections, and so most peers. Unfinished handshakes are limited by the transport itself.
pub(crate) const MAX_CONNECTIONS: u32 = 100;

/// Two peers may dial each other at the same moment. More would let one peer take the room of
/// others.
const MAX_CONNECTIONS_PER_PEER: u32 = 2;

/// How often a node asks its neighbours for others. libp2p's default, 5 minutes, suits networks of
/// thousands.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) const KAD_PROTOCOL: StreamProtocol =
    StreamProtocol::new("/libp2p-quinn/cluster/kad/1.0.0");

/// What differs from node to node.
#[derive(Clone)]
pub(crate) struct Settings {
    /// What it calls itself, which others learn by identify.
    pub(crate) name: String,
    pub(crate) key: Keypair,
    /// Addresses of nodes that let it into the cluster.
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Of what is sent, and of what is received, in bytes per second.
    pub(crate) limit: Option<u64>,
    /// Where peers are remembered.
    pub(crate) file: Option<PathBuf>,
    /// Whether it looks for nodes in the local network.
    pub(crate) mdns: bool,
    /// A connection that no protocol needs is closed after this time.
    pub(crate) idle: Duration,
}

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    // The first is asked first, so the others never see a connection above the limit.
    limits: connection_limits::Behaviour,
    pub(crate) gossipsub: gossipsub::Behaviour,
    identify: identify::Behaviour,
    pub(crate) kad: kad::Behaviour<kad::store::MemoryStore>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) messages: messages::Behaviour,
    ping: ping::Behaviour,
    pub(crate) rejoin: rejoin::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let key = &settings.key;
        let peer_id = key.public().to_peer_id();

        let limits = ConnectionLimits::default()
            .with_max_established(Some(MAX_CONNECTIONS))
            .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));

        // A peer that passes a message on cannot change it or its author.
        let signed = gossipsub::MessageAuthenticity::Signed(key.clone());
        let mut gossipsub = gossipsub::Behaviour::new(signed, gossipsub::Config::default())
            .map_err(|error| Failure::Other(format!("gossipsub: {error}")))?;
        gossipsub
            .subscribe(&topic())
            .map_err(|error| Failure::new("cannot subscribe", &error))?;

        let identify = identify::Config::new("/libp2p-quinn/cluster/1.0.0".into(), key.public())
            .with_agent_version(settings.name.clone());

        let mut config = kad::Config::new(KAD_PROTOCOL);
        config.set_periodic_bootstrap_interval(Some(LOOKUP_INTERVAL));
        // The store in memory has limits of its own: 1024 records of 65 KiB.
        let store = kad::store::MemoryStore::new(peer_id);
        let mut kad = kad::Behaviour::with_config(peer_id, store, config);
        // By default a node serves others only once it is known to be reachable from everywhere.
        kad.set_mode(Some(kad::Mode::Server));

        let mdns = if settings.mdns {
            let mdns = mdns::tokio::Behaviour::new(mdns::Config::default(), peer_id)
                .map_err(|error| Failure::new("mDNS (leave it out with --no-mdns)", &error))?;
            Some(mdns)
        } else {
            None
        };

        let mut rejoin = rejoin::Config::default().with_bootstrap(settings.bootstrap.clone());
        if let Some(file) = &settings.file {
            rejoin = rejoin.with_file(file);
        }

        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            gossipsub,
            identify: identify::Behaviour::new(identify),
            kad,
            mdns: mdns.into(),
            messages: messages::behaviour(),
            ping: ping::Behaviour::default(),
            rejoin: rejoin::Behaviour::new(peer_id, rejoin),
        })
    }
}

/// The topic of all broadcasts.
pub(crate) fn topic() -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new("libp2p-quinn/cluster")
}
