//! The relay: peers reserve a slot at it and reach each other through it.

use interop_suites::{error::Error, node};
use libp2p::{identify, identity::Keypair, ping, relay, swarm::NetworkBehaviour};

use crate::{peer::identify_config, settings::Settings};

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay: relay::Behaviour,
}

pub async fn run(settings: &Settings) -> Result<(), Error> {
    let mut meeting = settings.meeting().await?;
    let mut swarm = node::swarm(Keypair::generate_ed25519(), |key| Behaviour {
        identify: identify::Behaviour::new(identify_config(key)),
        ping: ping::Behaviour::default(),
        relay: relay::Behaviour::new(key.public().to_peer_id(), relay::Config::default()),
    });
    let addr = node::listen(&mut swarm, settings.ip, 0).await?;
    // A reservation contains the external addresses.
    swarm.add_external_address(addr.clone());
    meeting.publish_relay(&addr).await?;
    node::serve(&mut swarm).await
}
