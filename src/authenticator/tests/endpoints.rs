//! Connections between two quinn-proto endpoints.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{
    DatagramEvent, Endpoint, EndpointConfig, Event,
    crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey},
};

use super::verdict;
use crate::authenticator::{Authenticator, verifier::Verdict};

#[test]
fn endpoints_of_quinn_proto_connect_with_it() {
    let host = Keypair::generate_ed25519();
    let peer_id = host.public().to_peer_id();
    let other = Keypair::generate_ed25519().public().to_peer_id();

    let (client, server) = connect(&host, peer_id);
    assert!(client.events.contains("HandshakeDataReady"));
    assert!(client.events.contains("Connected"));
    assert_eq!(client.verdict.unwrap().unwrap().peer_id(), peer_id);
    assert!(server.events.contains("Connected"));
    assert!(server.verdict.unwrap().is_ok());

    let (client, server) = connect(&host, other);
    let mismatch = client.verdict.unwrap().unwrap_err();
    assert!(client.events.contains(&mismatch.to_string()));
    assert!(!client.events.contains("Connected"));
    // The server learns the reason from the alert and from the reason phrase.
    assert!(server.events.contains(&mismatch.to_string()));
    assert!(server.events.contains("error 49"));
    assert_eq!(server.verdict, None);
}

/// How a connection looked from one side.
struct Outcome {
    events: String,
    verdict: Option<Verdict>,
}

/// Connects two endpoints in memory.
fn connect(host: &Keypair, expected: PeerId) -> (Outcome, Outcome) {
    let addresses: [SocketAddr; 2] = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
    #[allow(
        clippy::disallowed_methods,
        reason = "time stands still, but has to begin somewhere"
    )]
    let now = Instant::now();
    let client_tls = Authenticator::new(&Keypair::generate_ed25519(), None)
        .unwrap()
        .client(Some(expected));
    let server_tls = Authenticator::new(host, None).unwrap().server();
    let server_config = quinn_proto::ServerConfig::new(server_tls, Arc::new(NoKey));
    let mut endpoints = [None, Some(Arc::new(server_config))].map(|server_config| {
        let config = Arc::new(EndpointConfig::new(Arc::new(NoKey)));
        Endpoint::new(config, server_config, true, None)
    });
    let client_config = quinn_proto::ClientConfig::new(client_tls);
    let (handle, connection) = endpoints[0]
        .connect(now, client_config, addresses[1], "name")
        .unwrap();
    let mut connections = [Some((handle, connection)), None];
    let mut events = [String::new(), String::new()];

    for _ in 0..20 {
        for side in 0..2 {
            let Some((handle, connection)) = &mut connections[side] else {
                continue;
            };
            let mut datagrams = Vec::new();
            let mut buffer = Vec::new();
            while let Some(transmit) = connection.poll_transmit(now, 1, &mut buffer) {
                datagrams.push(buffer[..transmit.size].to_vec());
                buffer.clear();
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = endpoints[side].handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
            while let Some(event) = connection.poll() {
                events[side] += &match event {
                    Event::ConnectionLost { reason } => format!("{reason:?} {reason}\n"),
                    event => format!("{event:?}\n"),
                };
            }
            let other = 1 - side;
            for datagram in datagrams {
                let event = endpoints[other].handle(
                    now,
                    addresses[side],
                    None,
                    None,
                    datagram[..].into(),
                    &mut buffer,
                );
                match event {
                    Some(DatagramEvent::NewConnection(incoming)) => {
                        let accepted = endpoints[other].accept(incoming, now, &mut buffer, None);
                        connections[other] = accepted.ok();
                    }
                    Some(DatagramEvent::ConnectionEvent(_, event)) => {
                        connections[other].as_mut().unwrap().1.handle_event(event);
                    }
                    _ => {}
                }
                buffer.clear();
            }
        }
    }
    let mut outcomes = connections
        .into_iter()
        .zip(events)
        .map(|(connection, events)| {
            let (_, connection) = connection.unwrap();
            Outcome {
                events,
                verdict: verdict(connection.crypto_session()),
            }
        });
    (outcomes.next().unwrap(), outcomes.next().unwrap())
}

/// Replaces the keys of tokens and stateless resets, which these tests do not use.
struct NoKey;

impl HandshakeTokenKey for NoKey {
    fn aead_from_hkdf(&self, _: &[u8]) -> Box<dyn AeadKey> {
        Box::new(Self)
    }
}

impl AeadKey for NoKey {
    fn seal(&self, _: &mut Vec<u8>, _: &[u8]) -> Result<(), CryptoError> {
        Ok(())
    }

    fn open<'a>(&self, _: &'a mut [u8], _: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        Err(CryptoError)
    }
}

impl HmacKey for NoKey {
    fn sign(&self, _: &[u8], signature: &mut [u8]) {
        signature.fill(0);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, _: &[u8], _: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }
}
