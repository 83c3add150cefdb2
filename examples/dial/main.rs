//! Connects to one peer at any of its addresses: QUIC first, TCP a little later, and again with
//! backoff if none answers.
//!
//! ```text
//! cargo run --example dial -- ADDRESS ADDRESS…
//! ```
//!
//! Each address ends with `/p2p/…` of the same peer. docs/dialing.md says more.

mod connect;

use std::{collections::BTreeSet, env, error::Error};

use backon::ExponentialBuilder;
use libp2p::{
    Multiaddr, PeerId, Swarm, multiaddr::Protocol, noise, ping, swarm::SwarmEvent, tcp, yamux,
};
use libp2p_quinn::{Config, Transport};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addresses = env::args().skip(1).map(|address| address.parse());
    let addresses: Vec<Multiaddr> = addresses.collect::<Result<_, _>>()?;
    let peer = one_peer(&addresses).ok_or("give addresses of one peer, each with /p2p/…")?;

    let backoff = ExponentialBuilder::default().with_jitter();
    let mut swarm = swarm()?;
    connect::connect(&mut swarm, peer, &addresses, backoff, print).await?;
    Ok(())
}

fn swarm() -> Result<Swarm<ping::Behaviour>, Box<dyn Error>> {
    Ok(libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_other_transport(|key| Transport::new(Config::new(key)))?
        .with_dns()?
        .with_behaviour(|_| ping::Behaviour::default())?
        .with_swarm_config(|config| config.with_smart_dial())
        .build())
}

fn one_peer(addresses: &[Multiaddr]) -> Option<PeerId> {
    let peer = |address: &Multiaddr| match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    };
    let peers: Option<BTreeSet<_>> = addresses.iter().map(peer).collect();
    let mut peers = peers?.into_iter();
    peers.next().filter(|_| peers.next().is_none())
}

fn print(event: &SwarmEvent<ping::Event>) {
    match event {
        SwarmEvent::ConnectionEstablished {
            endpoint,
            concurrent_dial_errors,
            ..
        } => {
            println!("connected at {}", endpoint.get_remote_address());
            for (address, error) in concurrent_dial_errors.iter().flatten() {
                println!("failed before: {address}: {error}");
            }
        }
        SwarmEvent::OutgoingConnectionError { error, .. } => println!("no answer: {error}"),
        _ => {}
    }
}
