//! Guests: peers that connect, speak no protocol, and stay until they are asked to leave.

use futures::StreamExt;
use libp2p::{
    Multiaddr, SwarmBuilder,
    identity::Keypair,
    swarm::{SwarmEvent, dummy},
};
use libp2p_quinn::{Config, Transport};
use tokio::task::JoinSet;

use crate::{failure::Failure, three::LIMIT};

/// Lets that many guests visit a node, each with an identity of its own. Returns when all are gone.
pub(crate) async fn visit(addr: Multiaddr, guests: usize) {
    let mut visits = JoinSet::new();
    for _ in 0..guests {
        visits.spawn(guest(addr.clone()));
    }
    visits.join_all().await;
}

async fn guest(addr: Multiaddr) -> Result<(), Failure> {
    let key = Keypair::generate_ed25519();
    let transport = Transport::new(Config::new(&key));
    let Ok(builder) = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|_| transport);
    let Ok(builder) = builder.with_behaviour(|_| dummy::Behaviour);
    let mut swarm = builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(LIMIT))
        .build();
    swarm.dial(addr).map_err(|error| Failure::dial(&error))?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionClosed { .. } => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(Failure::dial(&error)),
            _ => {}
        }
    }
}
