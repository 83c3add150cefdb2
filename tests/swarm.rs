//! libp2p's Swarm on our transport.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::collections::BTreeSet;

use futures::StreamExt;
use libp2p::{
    Swarm, TransportError,
    connection_limits::{self, ConnectionLimits},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, FromSwarm, ListenError, NetworkBehaviour,
        SwarmEvent, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use libp2p_core::{Endpoint, transport::PortUse};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{Config, ConnectionError, Handle, HandshakeError, Transport};
use multiaddr::Multiaddr;
use support::{
    node::{bounded, socket_addr, until},
    swarm::{listen, meet, ours, ours_with},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_swarms_ping_and_identify_each_other() {
    bounded(async {
        meet(&mut ours(), &mut ours()).await;
    })
    .await;
}

/// Refuses every connection, and records the listen addresses.
#[derive(Default)]
struct Bouncer {
    doors: BTreeSet<Multiaddr>,
    walled_up: BTreeSet<Multiaddr>,
}

impl NetworkBehaviour for Bouncer {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        Err(ConnectionDenied::new("nobody"))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::NewListenAddr(new) => {
                self.doors.insert(new.addr.clone());
            }
            FromSwarm::ExpiredListenAddr(expired) => {
                assert!(self.doors.remove(expired.addr));
                self.walled_up.insert(expired.addr.clone());
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        std::task::Poll::Pending
    }
}

/// A Swarm and the handle of its transport.
fn watched<B: NetworkBehaviour>(behaviour: B) -> (Swarm<B>, Handle) {
    let keypair = Keypair::generate_ed25519();
    let transport = Transport::new(Config::new(&keypair));
    let handle = transport.handle();
    let swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|_| transport)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .build();
    (swarm, handle)
}

#[tokio::test]
async fn a_connection_that_a_behaviour_denies_is_refused_without_tls_work() {
    turned_away_by(Bouncer::default()).await;
}

/// The behaviour that users use for that.
#[tokio::test]
async fn a_connection_over_the_limit_of_a_swarm_is_refused_without_tls_work() {
    let limits = ConnectionLimits::default().with_max_pending_incoming(Some(0));
    turned_away_by(connection_limits::Behaviour::new(limits)).await;
}

/// Asserts that a host with this behaviour refuses guests within a round trip and with one packet
/// each.
async fn turned_away_by<B: NetworkBehaviour>(behaviour: B) {
    const GUESTS: u64 = 10;
    bounded(async {
        let (mut host, handle) = watched(behaviour);
        let mut guest = ours_with(|_| dummy::Behaviour);
        let addr = listen(&mut host).await;
        for number in 1..=GUESTS {
            guest.dial(addr.clone()).unwrap();
            let (mut turned_away, mut denied) = (false, false);
            while !(turned_away && denied) {
                tokio::select! {
                    event = guest.select_next_some() => match event {
                        SwarmEvent::OutgoingConnectionError { error: DialError::Transport(errors), .. } => {
                            let [(_, error)] = &errors[..] else { panic!("{errors:?}") };
                            // And not with a timeout.
                            let refused = HandshakeError::Refused.to_string();
                            assert!(full_text(error).contains(&refused), "{}", full_text(error));
                            turned_away = true;
                        }
                        SwarmEvent::ConnectionEstablished { .. } => panic!("let in"),
                        _ => {}
                    },
                    event = host.select_next_some() => match event {
                        SwarmEvent::IncomingConnectionError { error, .. } => {
                            assert!(matches!(error, ListenError::Denied { .. }), "{error:?}");
                            denied = true;
                        }
                        SwarmEvent::ListenerError { error, .. } => panic!("{error}"),
                        _ => {}
                    },
                }
            }
            until(|| handle.stats().transport.incoming_refused == number).await;
        }
        let stats = handle.stats();
        // TLS work begins with a connection, which would have been issued an ID.
        assert_eq!(stats.registry.issued_ids, 0);
        assert_eq!(stats.transport.handshakes_failed, 0);
        // Only the refusals.
        assert_eq!(stats.transport.datagrams_sent, GUESTS);
        assert_eq!(stats.registry.pending_incoming_bytes, 0);
        assert_eq!(stats.registry.handshake_sources, 0);
    })
    .await;
}

/// An error and all its causes.
fn full_text(error: &TransportError<std::io::Error>) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn addresses_come_and_go_with_their_listener() {
    bounded(async {
        let (mut swarm, handle) = watched(Bouncer::default());
        let wildcard = "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap();
        let id = swarm.listen_on(wildcard).unwrap();
        let mut announced = BTreeSet::new();
        while !announced.iter().any(is_loopback) {
            let event = swarm.select_next_some().await;
            let SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } = event
            else {
                panic!("{event:?}");
            };
            assert_eq!(listener_id, id);
            announced.insert(address);
        }
        assert_eq!(
            swarm.listeners().cloned().collect::<BTreeSet<_>>(),
            announced
        );
        assert_eq!(swarm.behaviour().doors, announced);

        assert!(swarm.remove_listener(id));
        let event = swarm.select_next_some().await;
        let SwarmEvent::ListenerClosed {
            listener_id,
            addresses,
            reason: Ok(()),
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(listener_id, id);
        assert_eq!(addresses.into_iter().collect::<BTreeSet<_>>(), announced);
        assert_eq!(swarm.listeners().count(), 0);
        assert!(swarm.behaviour().doors.is_empty());
        assert_eq!(swarm.behaviour().walled_up, announced);
        until(|| handle.stats().transport.sockets == 0).await;
    })
    .await;
}

fn is_loopback(addr: &Multiaddr) -> bool {
    socket_addr(addr).ip().is_loopback()
}

#[tokio::test]
async fn a_dial_with_the_wrong_peer_id_names_the_right_one() {
    bounded(async {
        let (mut dialer, mut listener) = (ours(), ours());
        let addr = listen(&mut listener).await;
        let expected = PeerId::random();
        let dial = libp2p::swarm::dial_opts::DialOpts::peer_id(expected)
            .addresses(vec![addr])
            .build();
        dialer.dial(dial).unwrap();
        let actual = *listener.local_peer_id();
        loop {
            tokio::select! {
                event = dialer.select_next_some() => {
                    if let SwarmEvent::OutgoingConnectionError { error, .. } = event {
                        assert!(
                            matches!(error, DialError::WrongPeerId { obtained, .. } if obtained == actual),
                            "{error:?}"
                        );
                        break;
                    }
                }
                event = listener.select_next_some() => {
                    let established = matches!(event, SwarmEvent::ConnectionEstablished { .. });
                    assert!(!established);
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_ordinary_goodbye_reads_like_one_and_a_code_can_be_had() {
    bounded(async {
        let (mut leaver, mut told) = (ours(), ours());
        let addr = listen(&mut told).await;
        leaver.dial(addr).unwrap();
        let closed = loop {
            tokio::select! {
                event = leaver.select_next_some() => {
                    if let SwarmEvent::ConnectionEstablished { peer_id, .. } = event {
                        leaver.disconnect_peer_id(peer_id).unwrap();
                    }
                }
                event = told.select_next_some() => {
                    if let SwarmEvent::ConnectionClosed { cause, .. } = event {
                        break cause.unwrap();
                    }
                }
            }
        };
        let libp2p::swarm::ConnectionError::IO(error) = closed else {
            panic!("{closed:?}");
        };
        assert_eq!(error.to_string(), "closed by the peer");
        let cause = error.get_ref().unwrap();
        assert_eq!(
            cause.downcast_ref::<ConnectionError>(),
            Some(&ConnectionError::ClosedByPeer {
                code: 0,
                reason: String::new()
            })
        );
    })
    .await;
}
