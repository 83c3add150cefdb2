//! The relay: peers reserve a slot at it, reach each other through it, and learn their observed
//! addresses from it.

use futures::StreamExt;
use libp2p::{
    Multiaddr, SwarmBuilder,
    autonat::v2 as autonat,
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
};

use crate::{
    args::Args,
    event::Event,
    peer::{IDLE, identify_config},
    program::{AnyTransport, End, Failure},
};

#[derive(NetworkBehaviour)]
struct Behaviour {
    autonat: autonat::server::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay: relay::Behaviour,
}

pub(crate) async fn run(
    key: Keypair,
    transport: AnyTransport,
    addr: Multiaddr,
    args: &Args,
) -> Result<End, Failure> {
    let Ok(builder) = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|_| transport);
    let Ok(builder) = builder.with_behaviour(|key| Behaviour {
        autonat: autonat::server::Behaviour::default(),
        identify: identify::Behaviour::new(identify_config(key)),
        ping: ping::Behaviour::default(),
        relay: relay::Behaviour::new(key.public().to_peer_id(), relay::Config::default()),
    });
    let mut swarm = builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    swarm.listen_on(addr)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                // A reservation contains the external addresses.
                swarm.add_external_address(address.clone());
                let addr = address.with(Protocol::P2p(*swarm.local_peer_id()));
                Event::Listening { addr }.print(args.json);
            }
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => return Err(error.into()),
            _ => {}
        }
    }
}
