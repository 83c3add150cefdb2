//! A node: a Swarm over our transport, and a handle to its statistics.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    multiaddr::Protocol,
    ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_quinn::{Config, Handle, Transport};

use crate::{args::Logs, failure::Failure, transfer};

/// Longest wait for peers to acknowledge the data sent to them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) transfer: transfer::Behaviour,
}

/// One libp2p node.
pub(crate) struct Node {
    pub(crate) swarm: Swarm<Behaviour>,
    /// Taken before the Swarm takes the transport.
    pub(crate) handle: Handle,
}

impl Node {
    /// Creates a node with a new identity. It does nothing yet.
    pub(crate) fn new(logs: &Logs) -> Result<Self, Failure> {
        let key = Keypair::generate_ed25519();
        let builder = Config::builder(&key).key_log_file(logs.secrets.clone());
        #[cfg(feature = "qlog")]
        let builder = builder.qlog_dir(logs.qlog.clone());
        let config = builder
            .build()
            .map_err(|error| Failure::new("cannot configure the transport", &error))?;
        let transport = Transport::new(config);
        let handle = transport.handle();
        // If you need no statistics and no settings, replace `.with_quic()` simply by
        // `.with_other_transport(|key| Transport::new(Config::new(key)))`.
        let Ok(builder) = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_other_transport(|_| transport);
        let swarm = builder
            .with_behaviour(|key| Behaviour {
                identify: identify::Behaviour::new(
                    identify::Config::new("/libp2p-quinn/node/1.0.0".to_owned(), key.public())
                        .with_agent_version(
                            concat!("libp2p-quinn/", env!("CARGO_PKG_VERSION")).to_owned(),
                        ),
                ),
                ping: ping::Behaviour::default(),
                transfer: transfer::Behaviour::default(),
            })
            .map_err(|error| Failure::new("cannot build the Swarm", &error))?
            .build();
        Ok(Self { swarm, handle })
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Listens, and returns the first address to dial.
    pub(crate) async fn listen(&mut self, addr: Multiaddr) -> Result<Multiaddr, Failure> {
        self.swarm
            .listen_on(addr)
            .map_err(|error| Failure::listen(&error))?;
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => return Ok(self.dialable(address)),
                SwarmEvent::ListenerClosed {
                    reason: Err(error), ..
                }
                | SwarmEvent::ListenerError { error, .. } => {
                    return Err(Failure::new("cannot listen", &error));
                }
                _ => {}
            }
        }
    }

    /// The address at which another node reaches this node and no other.
    pub(crate) fn dialable(&self, addr: Multiaddr) -> Multiaddr {
        addr.with(Protocol::P2p(self.peer_id()))
    }

    /// Closes all connections after their data is delivered, so that peers are told.
    pub(crate) async fn close(&mut self) {
        if !self.handle.shutdown(0, "", CLOSE_TIMEOUT).await {
            eprintln!("node: some peers have not acknowledged everything in time");
        }
    }
}

/// Resolves at Ctrl-C.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // This system has no such signal.
        std::future::pending::<()>().await;
    }
}
