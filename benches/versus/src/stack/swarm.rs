//! Whole nodes: a Swarm over either of libp2p's transports, and nothing else that differs.

mod exchange;

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use libp2p_core::{Transport, muxing::StreamMuxerBox, transport::Boxed};
use libp2p_identify as identify;
use libp2p_identity::{Keypair, PeerId};
use libp2p_request_response::{self as request_response, ProtocolSupport};
use libp2p_swarm::{
    Config, NetworkBehaviour, StreamProtocol, Swarm, SwarmEvent, behaviour::toggle::Toggle,
    dial_opts::DialOpts,
};

pub use exchange::{Exchange, QUESTION, REPLY};

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
}

/// What is known of a node's transport, with a connection of it established.
pub type FactsOf = Box<dyn Fn() -> Facts + Send>;

/// The protocols of a node; those that a workload does not use cost what they cost every node.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p_swarm::derive_prelude")]
pub struct Behaviour {
    pub identify: Toggle<identify::Behaviour>,
    pub requests: request_response::Behaviour<Exchange>,
    pub streams: libp2p_stream::Behaviour,
}

impl Node {
    /// Binds to a free port, over the transport of `F`.
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
        let config = Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
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
        })
    }

    /// Begins to dial, also if it is connected already.
    pub fn dial(&mut self, to: &Address) -> Result<()> {
        // Without a peer there are no conditions; the address names it all the same.
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
            requests: request_response::Behaviour::new(requests, Default::default()),
            streams: libp2p_stream::Behaviour::new(),
        }
    }
}

/// Begins with a request, as the streams of the other workloads do.
pub const STREAM: StreamProtocol = StreamProtocol::new("/versus/stream/1");

/// A question and a reply.
const EXCHANGE: StreamProtocol = StreamProtocol::new("/versus/exchange/1");

/// Longer than any connection is without streams before its node closes it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
