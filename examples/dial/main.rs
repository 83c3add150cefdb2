//! Connects to one peer at any of its addresses: QUIC first, TCP a little later, and again with
//! backoff if none answers.
//!
//! ```text
//! cargo run --example dial -- ADDRESS ADDRESS…
//! ```
//!
//! Each address ends with `/p2p/…` of the same peer. docs/dialing.md says more.

mod connect;

use std::{collections::BTreeSet, env, error::Error, io};

use backon::ExponentialBuilder;
use libp2p::{
    Multiaddr, PeerId, Swarm, TransportError,
    multiaddr::Protocol,
    noise, ping,
    swarm::{DialError, SwarmEvent},
    tcp, yamux,
};
use libp2p_quinn::{Config, Transport};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addresses = env::args().skip(1).map(|address| address.parse());
    let addresses: Vec<Multiaddr> = addresses.collect::<Result<_, _>>()?;
    let peer = one_peer(&addresses).ok_or("give addresses of one peer, each with /p2p/…")?;

    let backoff = ExponentialBuilder::default().with_jitter();
    let mut swarm = swarm()?;
    let connected = connect::connect(&mut swarm, peer, &addresses, backoff, print).await;
    connected.map_err(|_| "no address has answered".into())
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
            print_failures(concurrent_dial_errors.iter().flatten());
            println!("connected at {}", endpoint.get_remote_address());
        }
        SwarmEvent::OutgoingConnectionError { error, .. } => match error {
            DialError::Transport(errors) => print_failures(errors),
            error => println!("{error}"),
        },
        _ => {}
    }
}

fn print_failures<'a>(
    failures: impl IntoIterator<Item = &'a (Multiaddr, TransportError<io::Error>)>,
) {
    for (address, error) in failures {
        let mut cause: &dyn Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        println!("failed at {address}: {cause}");
    }
}
