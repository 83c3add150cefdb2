//! A node behind a NAT, and how it joins a relay.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder,
    autonat::v2 as autonat,
    dcutr, identify,
    identity::Keypair,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts},
    upnp, yamux,
};
use tokio::time::timeout;

use crate::{
    args::Args,
    event::Event,
    program::{AnyTransport, Failure},
};

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) autonat: autonat::client::Behaviour,
    pub(crate) dcutr: dcutr::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) relay: relay::client::Behaviour,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
}

/// A node that listens and is connected to a relay.
pub(crate) struct Peer {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) relay: Multiaddr,
    json: bool,
}

impl Peer {
    /// Listens, connects to the relay, and learns from it the address at which others see this
    /// node.
    pub(crate) async fn join(
        key: Keypair,
        transport: AnyTransport,
        relay: Multiaddr,
        args: &Args,
    ) -> Result<Self, Failure> {
        let mut peer = Self {
            swarm: swarm(key, transport, args.upnp)?,
            relay,
            json: args.json,
        };
        timeout(JOIN_TIMEOUT, peer.connect())
            .await
            .map_err(|_| "the relay does not answer")??;
        Ok(peer)
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let listener = self
            .swarm
            .listen_on("/ip4/0.0.0.0/udp/0/quic-v1".parse()?)?;
        // Dials must leave from the port on which we listen, because the hole is for that port.
        while !matches!(
            self.next().await,
            SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == listener
        ) {}
        let opts = DialOpts::from(self.relay.clone());
        let dialled = opts.connection_id();
        self.swarm.dial(opts)?;
        let mut relay = None;
        // Each side needs the other's identify information: we need our observed address, and the
        // relay needs our protocols.
        let (mut received, mut sent) = (false, false);
        while !(received && sent) {
            match self.next().await {
                SwarmEvent::ConnectionEstablished {
                    peer_id,
                    connection_id,
                    ..
                } if connection_id == dialled => relay = Some(peer_id),
                SwarmEvent::OutgoingConnectionError {
                    connection_id,
                    error,
                    ..
                } if connection_id == dialled => return Err(error.into()),
                SwarmEvent::ConnectionClosed {
                    connection_id,
                    cause,
                    ..
                } if connection_id == dialled => {
                    return Err(match cause {
                        Some(cause) => cause.into(),
                        None => "the relay has closed the connection".into(),
                    });
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => match event {
                    identify::Event::Received { peer_id, info, .. } if Some(peer_id) == relay => {
                        let addr = info.observed_addr;
                        Event::Observed { addr }.print(self.json);
                        received = true;
                    }
                    identify::Event::Sent { peer_id, .. } if Some(peer_id) == relay => sent = true,
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the next event of the Swarm, and prints those that are only informative.
    pub(crate) async fn next(&mut self) -> SwarmEvent<BehaviourEvent> {
        let event = self.swarm.select_next_some().await;
        if let SwarmEvent::Behaviour(event) = &event
            && let Some(event) = told(event)
        {
            event.print(self.json);
        }
        event
    }
}

fn swarm(key: Keypair, transport: AnyTransport, upnp: bool) -> Result<Swarm<Behaviour>, Failure> {
    let Ok(builder) = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|_| transport);
    let Ok(builder) = builder
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key, relay| Behaviour {
            autonat: autonat::client::Behaviour::new(
                rand::make_rng(),
                autonat::client::Config::default().with_probe_interval(PROBE_INTERVAL),
            ),
            dcutr: dcutr::Behaviour::new(key.public().to_peer_id()),
            identify: identify::Behaviour::new(identify_config(key)),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
            relay,
            upnp: upnp.then(upnp::tokio::Behaviour::default).into(),
        });
    Ok(builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build())
}

pub(crate) fn identify_config(key: &Keypair) -> identify::Config {
    identify::Config::new("/libp2p-quinn/hole-punch/1.0.0".to_owned(), key.public())
}

fn told(event: &BehaviourEvent) -> Option<Event> {
    Some(match event {
        BehaviourEvent::Autonat(event) => Event::Tested {
            addr: event.tested_addr.clone(),
            error: event.result.as_ref().err().map(ToString::to_string),
        },
        BehaviourEvent::Upnp(event) => match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => Event::Mapped {
                addr: external_addr.clone(),
            },
            upnp::Event::ExpiredExternalAddr { .. } => Event::NotMapped {
                reason: "the router does not renew the mapping",
            },
            upnp::Event::GatewayNotFound => Event::NotMapped {
                reason: "no router answers",
            },
            upnp::Event::NonRoutableGateway => Event::NotMapped {
                reason: "the router itself is behind a NAT",
            },
        },
        _ => return None,
    })
}

/// How long a connection without streams is kept: longer than the program runs.
pub(crate) const IDLE: Duration = Duration::from_secs(24 * 3600);

/// How long joining the relay may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How often untested addresses are sent to a server to test.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Short, so that the proof that a connection works comes soon.
const PING_INTERVAL: Duration = Duration::from_millis(500);
