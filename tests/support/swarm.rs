//! Whole libp2p nodes: Swarms over our transport and over the official one.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Swarm, SwarmBuilder, identify, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{Config, Transport};
use multiaddr::Multiaddr;

use super::node::LOOPBACK_V4;

/// Ping and identify.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

impl Behaviour {
    fn new(keypair: &Keypair) -> Self {
        let protocol = "/libp2p-quinn-test/1".to_owned();
        Self {
            identify: identify::Behaviour::new(identify::Config::new(protocol, keypair.public())),
            ping: ping::Behaviour::default(),
        }
    }
}

pub(crate) fn ours() -> Swarm<Behaviour> {
    ours_with(Behaviour::new)
}

pub(crate) fn ours_with<B: NetworkBehaviour>(behaviour: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)))
        .unwrap()
        .with_behaviour(|key| behaviour(key))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(NEVER))
        .build()
}

pub(crate) fn official() -> Swarm<Behaviour> {
    SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_quic()
        .with_behaviour(Behaviour::new)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(NEVER))
        .build()
}

/// Listens on loopback, and returns the address.
pub(crate) async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on(LOOPBACK_V4.parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// Makes one node dial the other, and waits until each has pinged and identified the other.
pub(crate) async fn meet(dialer: &mut Swarm<Behaviour>, listener: &mut Swarm<Behaviour>) {
    let (dialer_id, listener_id) = (*dialer.local_peer_id(), *listener.local_peer_id());
    let addr = listen(listener).await;
    dialer.dial(addr.clone()).unwrap();
    let (mut here, mut there) = (Met::default(), Met::default());
    while !(here.is_complete() && there.is_complete()) {
        tokio::select! {
            event = dialer.select_next_some() => here.note(event, listener_id),
            event = listener.select_next_some() => there.note(event, dialer_id),
        }
    }
    assert!(here.observed.is_some());
    assert!(there.observed.is_some_and(|observed| observed == addr));
}

/// What a node has learned of the other.
#[derive(Default)]
struct Met {
    pinged: bool,
    /// Our address as the other node observed it.
    observed: Option<Multiaddr>,
}

impl Met {
    fn is_complete(&self) -> bool {
        self.pinged && self.observed.is_some()
    }

    fn note(&mut self, event: SwarmEvent<BehaviourEvent>, other: PeerId) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                assert_eq!(event.peer, other);
                event.result.unwrap();
                self.pinged = true;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                assert_eq!(peer_id, other);
                assert_eq!(info.public_key.to_peer_id(), other);
                self.observed = Some(info.observed_addr);
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            SwarmEvent::IncomingConnectionError { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
}

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);
