//! Swarms of libp2p 0.56 with this transport, against Swarms with the official libp2p-quic 0.13.

use std::{collections::HashMap, error::Error, slice, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    core::ConnectedPoint,
    identify,
    multiaddr::Protocol,
    noise, ping,
    swarm::{DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use libp2p_quinn_056::{
    Transport,
    libp2p_quinn::{Config, Handle},
    newer, older,
};

const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::test]
async fn we_dial_official_nodes() -> Outcome {
    let (ours, handle) = ours()?;
    meet(ours, official()?, QUIC).await?;
    assert_eq!(handle.transport_stats().dials, 1);
    Ok(())
}

#[tokio::test]
async fn official_nodes_dial_us() -> Outcome {
    let (ours, handle) = ours()?;
    meet(official()?, ours, QUIC).await?;
    assert_eq!(handle.transport_stats().dials, 0);
    Ok(())
}

#[tokio::test]
async fn we_dial_each_other() -> Outcome {
    let (dialer, _) = ours()?;
    let (listener, _) = ours()?;
    meet(dialer, listener, QUIC).await
}

#[tokio::test]
async fn tcp_works_beside_it() -> Outcome {
    let (dialer, handle) = ours()?;
    meet(dialer, official()?, TCP).await?;
    let (listener, _) = ours()?;
    meet(official()?, listener, TCP).await?;
    assert_eq!(handle.transport_stats().dials, 0);
    Ok(())
}

#[tokio::test]
async fn a_handle_finds_the_connection_of_a_swarm() -> Outcome {
    within(async {
        let (mut ours, handle) = ours()?;
        let mut official = official()?;
        let addr = listen(&mut official, QUIC).await?;
        let peer_id = *official.local_peer_id();
        ours.dial(addr.clone())?;
        connected(&mut ours, &mut official).await;

        let found = handle.connections_at(&newer::multiaddr(&addr)?);
        assert_eq!(found.len(), 1);
        assert_eq!(older::peer_id(&found[0].peer_id()), peer_id);
        assert!(
            addr.to_string()
                .starts_with(&found[0].remote_address().to_string())
        );
        found[0].close(7, "no more of it");
        loop {
            tokio::select! {
                _ = ours.select_next_some() => {}
                event = official.select_next_some() => {
                    if let SwarmEvent::ConnectionClosed { cause, .. } = event {
                        let cause = format!("{cause:?}");
                        assert!(cause.contains("no more of it"), "{cause}");
                        return Ok(());
                    }
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_swarm_is_told_which_other_peer_it_has_reached() -> Outcome {
    within(async {
        let (mut ours, _) = ours()?;
        let mut official = official()?;
        let mut addr = listen(&mut official, QUIC).await?;
        addr.pop();
        let expected = PeerId::random();
        ours.dial(DialOpts::peer_id(expected).addresses(vec![addr]).build())?;
        loop {
            tokio::select! {
                _ = official.select_next_some() => {}
                event = ours.select_next_some() => {
                    let SwarmEvent::OutgoingConnectionError { error, .. } = event else {
                        continue;
                    };
                    let DialError::WrongPeerId { obtained, .. } = error else {
                        panic!("{error:?}");
                    };
                    assert_eq!(obtained, *official.local_peer_id());
                    return Ok(());
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_swarm_removes_the_listener_that_it_means() -> Outcome {
    within(async {
        let (mut ours, _) = ours()?;
        let mut addresses = HashMap::new();
        for _ in 0..2 {
            let id = ours.listen_on(QUIC.parse()?)?;
            addresses.insert(id, new_address(&mut ours).await);
        }
        let (id, kept) = addresses.iter().next().ok_or("no listener")?;
        let removed = addresses.iter().find(|(other, _)| *other != id);
        let (removed, gone) = removed.ok_or("one listener")?;
        assert!(ours.remove_listener(*removed));
        loop {
            if let SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } = ours.select_next_some().await
            {
                assert_eq!(listener_id, *removed);
                assert_eq!(addresses, slice::from_ref(gone));
                reason?;
                break;
            }
        }
        assert!(!ours.remove_listener(*removed));
        assert_eq!(ours.listeners().collect::<Vec<_>>(), [kept]);
        Ok(())
    })
    .await
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

impl Behaviour {
    fn new(keypair: &libp2p::identity::Keypair) -> Self {
        Self {
            ping: ping::Behaviour::default(),
            identify: identify::Behaviour::new(identify::Config::new(
                "/test/1".to_owned(),
                keypair.public(),
            )),
        }
    }
}

fn ours() -> Result<(Swarm<Behaviour>, Handle), Box<dyn Error>> {
    let mut handle = None;
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_other_transport(|key| {
            let transport = Transport::new(Config::new(&newer::keypair(key)?));
            handle = Some(transport.handle());
            Ok(transport)
        })?
        .with_behaviour(Behaviour::new)?
        .build();
    Ok((swarm, handle.ok_or("no transport")?))
}

fn official() -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_quic()
        .with_behaviour(Behaviour::new)?
        .build();
    Ok(swarm)
}

/// Connects both at an address of this kind, and waits until each has pinged and identified the
/// other.
async fn meet(mut dialer: Swarm<Behaviour>, mut listener: Swarm<Behaviour>, addr: &str) -> Outcome {
    within(async {
        let addr = listen(&mut listener, addr).await?;
        dialer.dial(addr.clone())?;
        let mut dialers = Met::new(*listener.local_peer_id());
        let mut listeners = Met::new(*dialer.local_peer_id());
        while !(dialers.is_complete() && listeners.is_complete()) {
            tokio::select! {
                event = dialer.select_next_some() => dialers.note(event),
                event = listener.select_next_some() => listeners.note(event),
            }
        }
        match (dialers.endpoint, listeners.endpoint) {
            (
                Some(ConnectedPoint::Dialer { address, .. }),
                Some(ConnectedPoint::Listener { local_addr, .. }),
            ) => {
                assert_eq!(address, addr);
                assert_eq!(local_addr.with_p2p(*listener.local_peer_id()), Ok(addr));
            }
            endpoints => panic!("{endpoints:?}"),
        }
        Ok(())
    })
    .await
}

/// What a Swarm has seen of its peer.
struct Met {
    peer_id: PeerId,
    endpoint: Option<ConnectedPoint>,
    is_pinged: bool,
    is_identified: bool,
}

impl Met {
    fn new(peer_id: PeerId) -> Self {
        Self {
            peer_id,
            endpoint: None,
            is_pinged: false,
            is_identified: false,
        }
    }

    fn note(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } => {
                assert_eq!(peer_id, self.peer_id);
                self.endpoint = Some(endpoint);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result, .. })) => {
                assert_eq!(peer, self.peer_id);
                result.expect("a ping");
                self.is_pinged = true;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                info,
                ..
            })) => {
                assert_eq!(info.public_key.to_peer_id(), self.peer_id);
                self.is_identified = true;
            }
            SwarmEvent::ConnectionClosed { cause, .. } => panic!("closed: {cause:?}"),
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            SwarmEvent::IncomingConnectionError { error, .. } => panic!("{error}"),
            _ => {}
        }
    }

    fn is_complete(&self) -> bool {
        self.endpoint.is_some() && self.is_pinged && self.is_identified
    }
}

/// Listens, and returns the address with the peer ID.
async fn listen(swarm: &mut Swarm<Behaviour>, addr: &str) -> Result<Multiaddr, Box<dyn Error>> {
    swarm.listen_on(addr.parse()?)?;
    let addr = new_address(swarm).await;
    Ok(addr.with(Protocol::P2p(*swarm.local_peer_id())))
}

async fn new_address(swarm: &mut Swarm<Behaviour>) -> Multiaddr {
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// Drives both until both are connected.
async fn connected(one: &mut Swarm<Behaviour>, other: &mut Swarm<Behaviour>) {
    while one.network_info().num_peers() == 0 || other.network_info().num_peers() == 0 {
        tokio::select! {
            _ = one.select_next_some() => {}
            _ = other.select_next_some() => {}
        }
    }
}

/// Fails instead of waiting forever.
async fn within(test: impl Future<Output = Outcome>) -> Outcome {
    tokio::time::timeout(Duration::from_secs(30), test).await?
}
