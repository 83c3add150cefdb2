//! Nodes that join, lose and find each other again, over several transports.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::{
    convert::Infallible,
    io::Read,
    net::TcpListener,
    num::NonZeroU8,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    identity::Keypair,
    swarm::{
        ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, SwarmEvent,
        ToSwarm, dial_opts::DialOpts, dummy,
    },
};
use libp2p_rejoin::{Behaviour, Config, Event, Snapshot};
use support::*;

async fn dials_are_remembered_and_rejoined(over: Over) {
    let (first, second) = (live(over).await, live(over).await);
    let mut node = node(over, Config::default().with_target(0));
    for live in [&first, &second] {
        let opts = DialOpts::peer_id(live.peer)
            .addresses(vec![live.address.clone()])
            .build();
        node.dial(opts).unwrap();
        connected(&mut node, live.peer).await;
    }
    let text = node.behaviour().snapshot().to_json();
    drop(node);

    let snapshot = Snapshot::from_json(&text).unwrap();
    let mut remembered: Vec<_> = snapshot
        .peers()
        .iter()
        .map(|peer| (*peer.peer_id(), peer.addresses().to_vec()))
        .collect();
    remembered.sort();
    let mut expected = [
        (first.peer, vec![first.address]),
        (second.peer, vec![second.address]),
    ];
    expected.sort();
    assert_eq!(remembered, expected);

    let mut again = support::node(over, config(2));
    again.behaviour_mut().restore(&snapshot);
    assert_eq!(target_reached(&mut again).await, 2);
    assert!(again.is_connected(&first.peer) && again.is_connected(&second.peer));
}

#[tokio::test]
async fn dials_are_remembered_and_rejoined_over_memory() {
    dials_are_remembered_and_rejoined(Over::Memory).await;
}

#[tokio::test]
async fn dials_are_remembered_and_rejoined_over_quinn() {
    dials_are_remembered_and_rejoined(Over::Quinn).await;
}

#[tokio::test]
async fn dials_are_remembered_and_rejoined_over_tcp() {
    dials_are_remembered_and_rejoined(Over::Tcp).await;
}

#[tokio::test]
async fn peers_that_only_dialled_us_are_not_remembered() {
    for over in [Over::Memory, Over::Quinn, Over::Tcp] {
        let mut node = passive(over);
        let address = listen(&mut node, over).await;
        let dialer = run(
            support::node(over, config(1).with_bootstrap([address])),
            over,
        )
        .await;
        connected(&mut node, dialer.peer).await;
        assert_eq!(peers_of(&node), [], "{over:?}");
    }
}

/// Cached peers whose handshakes hang until their timeout of 10 s: this test would see the failures
/// if the bootstrap peer had to wait for them.
#[tokio::test]
async fn a_stale_list_does_not_delay_the_bootstrap_peer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let dead: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let bootstrap = live(Over::Tcp).await;

    let mut node = node(Over::Tcp, config(1).with_bootstrap([bootstrap.address]));
    let stale = snapshot_of((0..200).map(|_| (PeerId::random(), dead.clone())));
    node.behaviour_mut().restore(&stale);
    let mut events = Vec::new();
    until(&mut node, |event| match event {
        SwarmEvent::Behaviour(Event::TargetReached { .. }) => Some(()),
        SwarmEvent::Behaviour(Event::Bootstrapping) => {
            events.push("bootstrapping");
            None
        }
        SwarmEvent::OutgoingConnectionError { .. } => {
            events.push("failure");
            None
        }
        _ => None,
    })
    .await;
    assert_eq!(events, ["bootstrapping"]);
    assert!(node.is_connected(&bootstrap.peer));
}

#[tokio::test]
async fn dead_peers_are_forgotten_once_others_answer() {
    let bootstrap = live(Over::Memory).await;
    let mut node = node(Over::Memory, config(2).with_bootstrap([bootstrap.address]));
    let dead = (0..8).map(|port| (PeerId::random(), dead_address(port)));
    node.behaviour_mut().restore(&snapshot_of(dead));
    // Each round dials four of eight. The node is never satisfied.
    let mut polls = 0;
    while peers_of(&node) != [bootstrap.peer] {
        events(&mut node, QUICK).await;
        polls += 1;
        assert!(polls < 400, "{:?}", peers_of(&node));
    }
}

#[tokio::test]
async fn being_offline_does_not_empty_the_list() {
    let mut node = node(Over::Memory, config(1));
    let peer = PeerId::random();
    node.behaviour_mut()
        .restore(&snapshot_of([(peer, dead_address(1))]));
    let mut failures = 0;
    until(&mut node, |event| {
        failures += usize::from(matches!(event, SwarmEvent::OutgoingConnectionError { .. }));
        (failures == 8).then_some(())
    })
    .await;
    assert_eq!(peers_of(&node), [peer]);
}

#[tokio::test]
async fn another_peer_at_the_address_makes_it_forgotten() {
    let other = live(Over::Tcp).await;
    let mut node = node(Over::Tcp, config(1));
    let moved = PeerId::random();
    node.behaviour_mut()
        .restore(&snapshot_of([(moved, other.address)]));
    until(&mut node, |event| match event {
        SwarmEvent::OutgoingConnectionError {
            peer_id,
            error: DialError::WrongPeerId { .. },
            ..
        } => {
            assert_eq!(peer_id, Some(moved));
            Some(())
        }
        _ => None,
    })
    .await;
    assert_eq!(peers_of(&node), [], "neither the one nor the other");
}

#[tokio::test]
async fn our_own_peer_id_and_address_are_not_dialled_twice() {
    let key = Keypair::generate_ed25519();
    let own = key.public().to_peer_id();
    let mut swarm = node_with(Over::Tcp, key.clone(), |peer| {
        Behaviour::new(peer, config(0))
    });
    swarm
        .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .unwrap();
    let port = until(&mut swarm, |event| match event {
        SwarmEvent::NewListenAddr { address, .. } => Some(address),
        _ => None,
    })
    .await;
    tokio::spawn(async move { events(&mut swarm, DEADLINE).await.len() });

    // The same identity, in a Swarm that does not know the address as its own.
    let config = config(1).with_bootstrap([port.clone(), port.clone().with_p2p(own).unwrap()]);
    let mut node = node_with(Over::Tcp, key, |peer| Behaviour::new(peer, config));
    node.behaviour_mut().restore(&snapshot_of([(own, port)]));
    assert_eq!(peers_of(&node), []);
    let events = events(&mut node, QUICK * 20).await;
    let failures = events.iter().filter(|event| match event {
        SwarmEvent::OutgoingConnectionError { error, .. } => {
            assert!(matches!(error, DialError::LocalPeerId { .. }), "{error:?}");
            true
        }
        _ => false,
    });
    assert_eq!(failures.count(), 1);
}

#[tokio::test]
async fn dials_to_nobody_become_rarer() {
    let initial = Duration::from_millis(20);
    let config = Config::default()
        .with_backoff(initial, DEADLINE)
        .with_bootstrap([dead_address(1)]);
    let mut node = node(Over::Memory, config);
    let events = events(&mut node, initial * 50).await;
    let dials = events
        .iter()
        .filter(|event| matches!(event, SwarmEvent::Dialing { .. }))
        .count();
    let failures = events
        .iter()
        .filter(|event| matches!(event, SwarmEvent::OutgoingConnectionError { .. }))
        .count();
    // After 0, 1, 3, 7, 15 and 31 times the initial backoff, varied by a quarter.
    assert!(
        (2..=7).contains(&failures),
        "{failures} failures, {dials} dials"
    );
}

#[tokio::test]
async fn nobody_is_dialled_while_enough_are_connected() {
    let mut lives = Vec::new();
    for _ in 0..3 {
        lives.push(live(Over::Quinn).await);
    }
    let mut node = node(Over::Quinn, config(1).with_batch(at_most(1)));
    let snapshot = snapshot_of(lives.iter().map(|live| (live.peer, live.address.clone())));
    node.behaviour_mut().restore(&snapshot);
    target_reached(&mut node).await;
    let events = events(&mut node, QUICK * 10).await;
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(node.connected_peers().count(), 1);
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    let lives = [live(Over::Quinn).await, live(Over::Quinn).await];
    let mut node = node(Over::Quinn, config(1).with_batch(at_most(1)));
    let snapshot = snapshot_of(lives.iter().map(|live| (live.peer, live.address.clone())));
    node.behaviour_mut().restore(&snapshot);
    target_reached(&mut node).await;
    let lost = end_one(&node, &lives);
    target_reached(&mut node).await;
    assert!(!node.is_connected(&lost));
    assert_eq!(node.connected_peers().count(), 1);
}

#[tokio::test]
async fn our_side_of_a_connection_that_we_want_stays_open() {
    let (wanted, other) = (live(Over::Memory).await, live(Over::Memory).await);
    let config = config(1).with_bootstrap([wanted.address]);
    let key = Keypair::generate_ed25519();
    let mut node = build(Over::Memory, key, QUICK, |peer| {
        Behaviour::new(peer, config)
    });
    target_reached(&mut node).await;
    node.dial(other.address).unwrap();
    until(&mut node, |event| match event {
        SwarmEvent::ConnectionClosed { peer_id, .. } => {
            assert_eq!(peer_id, other.peer);
            Some(())
        }
        _ => None,
    })
    .await;
    assert!(events(&mut node, QUICK * 10).await.is_empty());
    assert!(node.is_connected(&wanted.peer));
}

#[derive(NetworkBehaviour)]
struct Denying {
    rejoin: Behaviour,
    denier: Denier,
}

/// Denies all dials, and counts them.
struct Denier {
    denied: Arc<AtomicUsize>,
}

impl NetworkBehaviour for Denier {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.denied.fetch_add(1, Ordering::Relaxed);
        Err(ConnectionDenied::new("blocked"))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn a_peer_that_another_behaviour_denies_is_left_alone_and_stays() {
    let live = live(Over::Memory).await;
    let config = Config::default().with_backoff(QUICK, DEADLINE);
    let denied = Arc::new(AtomicUsize::new(0));
    let key = Keypair::generate_ed25519();
    let mut node = node_with(Over::Memory, key, |peer| Denying {
        rejoin: Behaviour::new(peer, config),
        denier: Denier {
            denied: denied.clone(),
        },
    });
    let snapshot = snapshot_of([(live.peer, live.address)]);
    node.behaviour_mut().rejoin.restore(&snapshot);
    events(&mut node, QUICK * 20).await;
    assert_eq!(denied.load(Ordering::Relaxed), 1);
    let rejoin = &mut node.behaviour_mut().rejoin;
    assert_eq!(rejoin.snapshot(), snapshot);
    assert!(rejoin.forget(&live.peer));
    assert_eq!(rejoin.snapshot().peers().len(), 0);
    assert!(!rejoin.forget(&live.peer));
}

/// A listener that accepts each connection and closes it, before and after the handshake.
#[tokio::test]
async fn listeners_that_close_at_once_are_not_dialled_in_a_loop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0]);
        }
    });
    let mut closer = passive(Over::Tcp);
    let address = listen(&mut closer, Over::Tcp).await;
    let peer = *closer.local_peer_id();
    tokio::spawn(async move {
        loop {
            let dialer = until(&mut closer, |event| match event {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => Some(peer_id),
                _ => None,
            })
            .await;
            let _ = closer.disconnect_peer_id(dialer);
        }
    });

    let config = Config::default()
        .with_target(1)
        .with_backoff(QUICK, DEADLINE);
    let mut node = node(Over::Tcp, config);
    let dead = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    node.behaviour_mut().restore(&snapshot_of([
        (PeerId::random(), dead),
        (peer, address.clone()),
    ]));
    let seen = events(&mut node, QUICK * 20).await;
    let closed = seen
        .iter()
        .filter(|event| matches!(event, SwarmEvent::ConnectionClosed { .. }));
    let failed = seen
        .iter()
        .filter(|event| matches!(event, SwarmEvent::OutgoingConnectionError { .. }));
    assert_eq!((closed.count(), failed.count()), (1, 1), "{seen:?}");

    // Nor is it remembered when the application dials it.
    let mut node = passive(Over::Tcp);
    node.dial(address).unwrap();
    until(&mut node, |event| {
        matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())
    })
    .await;
    assert_eq!(peers_of(&node), []);
}

#[tokio::test]
async fn a_peer_is_dialled_at_all_its_addresses_and_those_that_fail_go() {
    let live = live(Over::Tcp).await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let peer = live.peer;
    let text = format!(
        r#"{{"version":1,"peers":[{{"id":"{peer}",
        "addresses":["/ip4/127.0.0.1/tcp/{closed}","{}"]}}]}}"#,
        live.address
    );
    let mut node = node(Over::Tcp, config(1).with_max_failures(NonZeroU8::MIN));
    node.behaviour_mut()
        .restore(&Snapshot::from_json(text.as_bytes()).unwrap());
    target_reached(&mut node).await;
    let snapshot = node.behaviour().snapshot();
    assert_eq!(snapshot.peers()[0].peer_id(), &peer);
    assert_eq!(snapshot.peers()[0].addresses()[0], live.address);
}

/// Nobody listens on such a port of this process.
fn dead_address(port: u64) -> Multiaddr {
    format!("/memory/{}", 0xdead_0000_0000 + port)
        .parse()
        .unwrap()
}
