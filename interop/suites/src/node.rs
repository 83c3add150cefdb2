//! A Swarm with our transport, and its use in every test program.

use std::{fmt::Debug, net::IpAddr, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
};
use libp2p_quinn::{Config, Transport};
use tokio::time::{sleep, timeout};

use crate::error::Error;

/// How long a connection without streams is kept: longer than any test.
pub const IDLE: Duration = Duration::from_secs(600);

/// A Swarm with the behaviour that `behaviour` creates.
pub fn swarm<B: NetworkBehaviour>(
    keypair: Keypair,
    behaviour: impl FnOnce(&Keypair) -> B,
) -> Swarm<B> {
    let Ok(builder) = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)));
    let Ok(builder) = builder.with_behaviour(behaviour);
    builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build()
}

/// Listens at `ip` and returns the address to publish, with the peer ID.
///
/// If `ip` is the unspecified address, returns an address that others can reach, or loopback if
/// there is none.
pub async fn listen<B: NetworkBehaviour<ToSwarm: Debug>>(
    swarm: &mut Swarm<B>,
    ip: IpAddr,
    port: u16,
) -> Result<Multiaddr, Error> {
    let listener = swarm.listen_on(quic_addr(ip, port))?;
    let peer_id = *swarm.local_peer_id();
    let mut loopback = None;
    loop {
        // The addresses of all interfaces are announced one after another.
        let limit = if loopback.is_some() { SETTLE } else { BIND };
        let Ok(event) = timeout(limit, swarm.select_next_some()).await else {
            return loopback.ok_or(Error::TimedOut(BIND));
        };
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } if listener_id == listener => {
                let scope = scope(&address);
                let address = address.with(Protocol::P2p(peer_id));
                match scope {
                    Scope::Reachable => return Ok(address),
                    Scope::Loopback if ip.is_unspecified() => loopback = Some(address),
                    Scope::Loopback => return Ok(address),
                    Scope::Link => {}
                }
            }
            SwarmEvent::ListenerError { error, .. }
            | SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => return Err(Error::ListenerClosed(error)),
            event => tracing::debug!(?event, "about to listen"),
        }
    }
}

/// Dials, and returns the connection once it is established.
pub async fn dial<B: NetworkBehaviour<ToSwarm: Debug>>(
    swarm: &mut Swarm<B>,
    addr: Multiaddr,
) -> Result<(PeerId, ConnectionId), Error> {
    let opts = DialOpts::from(addr);
    let dialled = opts.connection_id();
    swarm.dial(opts)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } if connection_id == dialled => return Ok((peer_id, connection_id)),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } if connection_id == dialled => return Err(error.into()),
            event => tracing::debug!(?event, "while dialling"),
        }
    }
}

/// Runs the Swarm for ever.
pub async fn serve<B: NetworkBehaviour<ToSwarm: Debug>>(swarm: &mut Swarm<B>) -> Result<(), Error> {
    loop {
        let event = swarm.select_next_some().await;
        tracing::debug!(?event, "serving");
        if let SwarmEvent::ListenerClosed {
            reason: Err(error), ..
        } = event
        {
            return Err(Error::ListenerClosed(error));
        }
    }
}

/// Closes the connections to `peer_id`, so that it need not wait for a timeout.
pub async fn close<B: NetworkBehaviour<ToSwarm: Debug>>(swarm: &mut Swarm<B>, peer_id: PeerId) {
    // An error means that there is none.
    if swarm.disconnect_peer_id(peer_id).is_err() {
        return;
    }
    let goodbye = sleep(GOODBYE);
    tokio::pin!(goodbye);
    while swarm.is_connected(&peer_id) {
        tokio::select! {
            () = &mut goodbye => return,
            event = swarm.select_next_some() => tracing::debug!(?event, "closing"),
        }
    }
}

pub fn quic_addr(ip: IpAddr, port: u16) -> Multiaddr {
    Multiaddr::from(ip)
        .with(Protocol::Udp(port))
        .with(Protocol::QuicV1)
}

/// The hosts that can reach an address.
enum Scope {
    Loopback,
    /// Hosts on the same link that have the interface for the zone.
    Link,
    Reachable,
}

fn scope(addr: &Multiaddr) -> Scope {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => Scope::Loopback,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => Scope::Loopback,
        Some(Protocol::Ip4(ip)) if ip.is_link_local() => Scope::Link,
        Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local() => Scope::Link,
        Some(Protocol::Ip6zone(_)) => Scope::Link,
        _ => Scope::Reachable,
    }
}

/// How long the first address may take.
const BIND: Duration = Duration::from_secs(10);

/// How long to wait for another address when there is only loopback.
const SETTLE: Duration = Duration::from_millis(500);

/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);
