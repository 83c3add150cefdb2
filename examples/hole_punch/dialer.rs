//! The dialer: reaches the listener through the relay, then directly.

#![allow(
    clippy::disallowed_methods,
    reason = "the program reads the clock for itself, not for the transport"
)]

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{ConnectionId, SwarmEvent, dial_opts::DialOpts},
};
use tokio::time::timeout;

use crate::{
    args::Args,
    event::{ByDialer, Event, Relayed},
    peer::{BehaviourEvent, Peer},
    program::{AnyTransport, End, Failure, chain},
};

pub(crate) async fn run(
    key: Keypair,
    transport: AnyTransport,
    relay: Multiaddr,
    listener: PeerId,
    args: &Args,
) -> Result<End, Failure> {
    let peer = Peer::join(key, transport, relay, args).await?;
    let mut dialer = Dialer::connect(peer, listener, args.json).await?;
    let punched = timeout(PUNCH_TIMEOUT, dialer.punched())
        .await
        .unwrap_or_else(|_| Err("it has taken too long".to_owned()));
    let since = Instant::now();
    let event = match punched {
        Ok((direct, addr, took)) => {
            let pings = dialer.pings(since, &[direct, dialer.relayed]).await;
            let ping = pings[0].ok_or("the direct connection does not work")?;
            Event::Direct {
                peer_id: listener,
                addr,
                by_dialer: Some(ByDialer {
                    took,
                    attempts: dialer.missed + 1,
                    connections: dialer.direct.len(),
                    ping,
                    relayed: Relayed { ping: pings[1] },
                }),
            }
        }
        Err(error) => {
            let ping = dialer.pings(since, &[dialer.relayed]).await[0];
            Event::Failed {
                peer_id: listener,
                error,
                by_dialer: Some(Relayed { ping }),
            }
        }
    };
    event.print(args.json);
    dialer.leave().await;
    match event {
        Event::Failed {
            by_dialer: Some(Relayed { ping: None }),
            ..
        } => Err("the relayed connection is gone".into()),
        Event::Failed { .. } => Ok(End::Relayed),
        _ => Ok(End::Well),
    }
}

/// A peer that is connected to the listener through the relay.
struct Dialer {
    peer: Peer,
    listener: PeerId,
    /// When the relayed connection was established.
    start: Instant,
    relayed: ConnectionId,
    /// The number of failed attempts.
    missed: usize,
    /// Direct connections with the listener, oldest first.
    direct: Vec<(ConnectionId, Multiaddr)>,
    /// The latest ping of each connection.
    pings: HashMap<ConnectionId, (Instant, Duration)>,
    json: bool,
}

impl Dialer {
    async fn connect(mut peer: Peer, listener: PeerId, json: bool) -> Result<Self, Failure> {
        let circuit = peer
            .relay
            .clone()
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(listener));
        let opts = DialOpts::from(circuit);
        let dialled = opts.connection_id();
        let begun = Instant::now();
        peer.swarm.dial(opts)?;
        loop {
            match peer.next().await {
                SwarmEvent::ConnectionEstablished { connection_id, .. }
                    if connection_id == dialled =>
                {
                    break;
                }
                SwarmEvent::OutgoingConnectionError {
                    connection_id,
                    error,
                    ..
                } if connection_id == dialled => return Err(error.into()),
                _ => {}
            }
        }
        Event::Relayed {
            peer_id: listener,
            took: begun.elapsed(),
        }
        .print(json);
        Ok(Self {
            peer,
            listener,
            start: Instant::now(),
            relayed: dialled,
            missed: 0,
            direct: Vec::new(),
            pings: HashMap::new(),
            json,
        })
    }

    /// Waits for a direct connection. The listener starts the attempts, at most [`ATTEMPTS`].
    async fn punched(&mut self) -> Result<(ConnectionId, Multiaddr, Duration), String> {
        loop {
            let missed = self.next().await;
            if let Some((connection_id, addr)) = self.direct.first() {
                return Ok((*connection_id, addr.clone(), self.start.elapsed()));
            }
            if let Some(error) = missed
                && self.missed == ATTEMPTS
            {
                return Err(error);
            }
        }
    }

    /// The first ping of each of these connections after `since`, if it arrives within
    /// [`PING_TIMEOUT`].
    async fn pings(&mut self, since: Instant, of: &[ConnectionId]) -> Vec<Option<Duration>> {
        let is_fresh = |(at, _): &&(Instant, Duration)| *at > since;
        let all = async {
            let mut missing: HashSet<_> = of.iter().collect();
            while !missing.is_empty() {
                self.next().await;
                missing.retain(|id| self.pings.get(id).filter(is_fresh).is_none());
            }
        };
        // A connection without a ping by then counts as not working.
        let _ = timeout(PING_TIMEOUT, all).await;
        of.iter()
            .map(|id| self.pings.get(id).filter(is_fresh).map(|(_, ping)| *ping))
            .collect()
    }

    /// Handles one event. Returns the error of a failed attempt.
    async fn next(&mut self) -> Option<String> {
        match self.peer.next().await {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } if peer_id == self.listener && !endpoint.is_relayed() => {
                let addr = endpoint.get_remote_address().clone();
                self.direct.push((connection_id, addr));
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.direct.retain(|(id, _)| *id != connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer_id),
                error,
                ..
            } if peer_id == self.listener => {
                self.missed += 1;
                let error = chain(&error);
                Event::Missed {
                    error: error.clone(),
                }
                .print(self.json);
                return Some(error);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                if let Ok(ping) = event.result {
                    self.pings.insert(event.connection, (Instant::now(), ping));
                }
            }
            _ => {}
        }
        None
    }

    /// Closes the connections to the listener, so that it need not wait for a timeout.
    async fn leave(&mut self) {
        // An error means that there is no connection.
        if self.peer.swarm.disconnect_peer_id(self.listener).is_err() {
            return;
        }
        let closed = async {
            while self.peer.swarm.is_connected(&self.listener) {
                self.peer.next().await;
            }
        };
        // Otherwise it notices by itself.
        let _ = timeout(GOODBYE, closed).await;
    }
}

/// The number of attempts of DCUtR.
const ATTEMPTS: usize = 3;

/// Longer than all the attempts take.
const PUNCH_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a ping may take, and the pause before it.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);
