//! Complete nodes: a Swarm over one of the two libp2p transports. Everything else is the same.

mod exchange;

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use libp2p_core::{Transport, muxing::StreamMuxerBox, transport::Boxed, upgrade::Version};
use libp2p_identify as identify;
use libp2p_identity::{Keypair, PeerId};
use libp2p_request_response::{self as request_response, ProtocolSupport};
use libp2p_swarm::{
    Config, NetworkBehaviour, StreamProtocol, Swarm, SwarmEvent, behaviour::toggle::Toggle,
    dial_opts::DialOpts,
};

pub use exchange::Exchange;

use super::{
    Address, Facts, Setup,
    libp2p::{Flavour, free_port, multiaddr, socket_addr},
};
use crate::catalogue::NodeWork;

/// A node that listens.
pub struct Node {
    pub swarm: Swarm<Behaviour>,
    pub address: Address,
    pub facts: FactsOf,
    /// Makes the requests and replies of this node.
    pub exchange: Exchange,
}

/// Returns the facts about a node's transport, once it has a connection.
pub type FactsOf = Box<dyn Fn() -> Facts + Send>;

/// The protocols of a node. Those that a workload does not use cost both transports the same.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p_swarm::derive_prelude")]
pub struct Behaviour {
    pub identify: Toggle<identify::Behaviour>,
    pub requests: request_response::Behaviour<Exchange>,
    pub streams: libp2p_stream::Behaviour,
}

impl Node {
    /// Binds to a free port, with the transport of `F`.
    pub async fn bind<F: Flavour>(
        identity: &Keypair,
        setup: Setup,
        work: NodeWork,
    ) -> Result<Self> {
        let (transport, probe) = F::transport(identity, setup.profile)?;
        let transport = transport
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        Self::listen(
            transport,
            Box::new(move || F::facts(&probe)),
            identity,
            setup,
            work,
        )
        .await
    }

    async fn listen(
        transport: Boxed<(PeerId, StreamMuxerBox)>,
        facts: FactsOf,
        identity: &Keypair,
        setup: Setup,
        work: NodeWork,
    ) -> Result<Self> {
        let peer = identity.public().to_peer_id();
        let mut config = Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
        if work.is_lazy() {
            config = config.with_substream_upgrade_protocol_override(Version::V1Lazy);
        }
        let behaviour = Behaviour::new(identity, work);
        let mut swarm = Swarm::new(transport, behaviour, peer, config);
        swarm.listen_on(free_port(setup.ip))?;
        let socket = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break socket_addr(&address).context("no socket in the listener's address")?;
            }
        };
        Ok(Self {
            swarm,
            address: Address { socket, peer },
            facts,
            exchange: Exchange::of(work),
        })
    }

    /// Dials, even if the node is already connected to this peer.
    pub fn dial(&mut self, to: &Address) -> Result<()> {
        // Options made from an address have no condition, such as "not connected yet". The address
        // contains the peer ID.
        Ok(self.swarm.dial(DialOpts::from(multiaddr(to)))?)
    }
}

impl Behaviour {
    fn new(identity: &Keypair, work: NodeWork) -> Self {
        let identify = || {
            let config = identify::Config::new("/versus/1".to_owned(), identity.public());
            identify::Behaviour::new(config)
        };
        let requests = [(EXCHANGE, ProtocolSupport::Full)];
        Self {
            identify: work.identifies().then(identify).into(),
            requests: request_response::Behaviour::with_codec(
                Exchange::of(work),
                requests,
                request_response::Config::default().with_max_concurrent_streams(EXCHANGES),
            ),
            streams: libp2p_stream::Behaviour::new(),
        }
    }
}

/// A stream that begins with a request, as in the other workloads.
pub const STREAM: StreamProtocol = StreamProtocol::new("/versus/stream/1");

/// A stream with a question and a reply.
const EXCHANGE: StreamProtocol = StreamProtocol::new("/versus/exchange/1");

/// More than a workload has at once on a connection.
const EXCHANGES: usize = 1000;

/// Longer than any connection of a workload has no streams.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
