//! The two peers: one waits at the relay, and the other reaches it there, and then directly.

use futures::StreamExt;
use interop_suites::{
    error::Error,
    latency::{Latency, millis},
    node,
    program::{self, within},
};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, dcutr, identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    yamux,
};
use libp2p_quinn::{Config, Transport};
use serde_json::json;
use tokio::time::Instant;

use crate::settings::{Contract, Meeting, Settings, TIMEOUT};

#[derive(NetworkBehaviour)]
struct Behaviour {
    dcutr: dcutr::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay: relay::client::Behaviour,
}

/// Reserves a slot at the relay, and waits until the suite ends it.
pub async fn listen(settings: &Settings) -> Result<(), Error> {
    let mut meeting = settings.meeting().await?;
    let mut swarm = swarm(Keypair::generate_ed25519())?;
    let relay = join(settings, &mut meeting, &mut swarm).await?;
    let peer_id = *swarm.local_peer_id();
    swarm.listen_on(relay.with(Protocol::P2pCircuit))?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { renewal: false, .. },
            )) => meeting.publish_listener(peer_id).await?,
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event)) => {
                // The dialer decides whether the test has passed.
                tracing::info!(?event, "hole punch");
            }
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => return Err(Error::ListenerClosed(error)),
            event => tracing::debug!(?event, "waiting for the dialer"),
        }
    }
}

/// Reaches the listener through the relay, then directly, and pings it there.
pub async fn dial(settings: &Settings) -> Result<(), Error> {
    let latency = within(TIMEOUT, async {
        let mut meeting = settings.meeting().await?;
        let mut swarm = swarm(Keypair::generate_ed25519())?;
        let relay = join(settings, &mut meeting, &mut swarm).await?;
        let listener = meeting.listener().await?;
        let latency = punch(&mut swarm, relay, listener).await?;
        node::close(&mut swarm, listener).await;
        Ok(latency)
    })
    .await?;
    program::print(&match settings.contract {
        Contract::Unified { .. } => latency.yaml(),
        Contract::TestPlans => {
            json!({ "rtt_to_holepunched_peer_millis": millis(latency.ping_rtt) }).to_string()
        }
    })
}

/// Listens, connects to the relay, and learns its external address from it.
async fn join(
    settings: &Settings,
    meeting: &mut Meeting,
    swarm: &mut Swarm<Behaviour>,
) -> Result<Multiaddr, Error> {
    node::listen(swarm, settings.ip, 0).await?;
    within(TIMEOUT, async {
        let addr = meeting.relay().await?;
        let (relay, connection) = node::dial(swarm, addr.clone()).await?;
        // Each side needs the other's information: we need our candidate addresses, and the relay
        // needs our protocols.
        let (mut received, mut sent) = (false, false);
        while !(received && sent) {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => match event {
                    identify::Event::Received { peer_id, info, .. } if peer_id == relay => {
                        tracing::info!(observed_addr = %info.observed_addr, "seen by the relay");
                        received = true;
                    }
                    identify::Event::Sent { peer_id, .. } if peer_id == relay => sent = true,
                    event => tracing::debug!(?event, "joining the relay"),
                },
                SwarmEvent::ConnectionClosed { connection_id, .. }
                    if connection_id == connection =>
                {
                    return Err(Error::Disconnected);
                }
                event => tracing::debug!(?event, "joining the relay"),
            }
        }
        Ok(addr)
    })
    .await
}

async fn punch(
    swarm: &mut Swarm<Behaviour>,
    relay: Multiaddr,
    listener: PeerId,
) -> Result<Latency, Error> {
    let start = Instant::now();
    let circuit = relay
        .with(Protocol::P2pCircuit)
        .with(Protocol::P2p(listener));
    node::dial(swarm, circuit).await?;
    tracing::info!("connected through the relay");
    let mut punched = None;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event))
                if event.remote_peer_id == listener =>
            {
                punched = Some((event.result?, start.elapsed()));
                tracing::info!("connected directly");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                if let Some((connection, took)) = punched
                    && event.connection == connection
                {
                    let ping_rtt = event.result?;
                    return Ok(Latency {
                        handshake_plus_one_rtt: took + ping_rtt,
                        ping_rtt,
                    });
                }
            }
            event => tracing::debug!(?event, "punching"),
        }
    }
}

fn swarm(keypair: Keypair) -> Result<Swarm<Behaviour>, Error> {
    let Ok(builder) = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)));
    let Ok(builder) = builder
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key, relay| Behaviour {
            dcutr: dcutr::Behaviour::new(key.public().to_peer_id()),
            identify: identify::Behaviour::new(identify_config(key)),
            ping: ping::Behaviour::default(),
            relay,
        });
    Ok(builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(node::IDLE))
        .build())
}

pub fn identify_config(keypair: &Keypair) -> identify::Config {
    identify::Config::new("/hole-punch-tests/1".to_owned(), keypair.public())
}
