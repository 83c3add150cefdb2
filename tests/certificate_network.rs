//! Presents every certificate of the forger over real sockets, as client and as server.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures::future::join;
use libp2p_identity::PeerId;
use libp2p_quinn::{CertificateError, Connection, Error, HandshakeError};
use multiaddr::Protocol;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use support::{
    certificates::{Case, Expected, cases},
    hostile_tls,
    node::{Node, bounded, quic_addr, socket_addr, until},
};

async fn dial(case: &Case, addr: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
    let config = QuicClientConfig::try_from(hostile_tls::client(case)).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint
        .connect_with(config, addr, "localhost")
        .unwrap()
        .await
}

fn listen(case: &Case) -> quinn::Endpoint {
    let config = QuicServerConfig::try_from(hostile_tls::server(case)).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

/// Our side's verdict on the case.
fn verdict(
    case: &Case,
    ended: &Result<(PeerId, Connection), Error>,
) -> Result<PeerId, CertificateError> {
    match ended {
        // A dial resolves to the peer that it reached.
        Ok((peer_id, _))
            if case
                .expected_peer
                .is_some_and(|expected| expected != *peer_id) =>
        {
            Err(CertificateError::PeerMismatch {
                expected: Box::new(case.expected_peer.unwrap()),
                actual: Box::new(*peer_id),
            })
        }
        Ok((peer_id, _)) => Ok(*peer_id),
        Err(Error::Handshake(HandshakeError::Certificate(error))) => Err(error.clone()),
        Err(error) => panic!("{case}: {error:?}"),
    }
}

/// Asserts that the peer got a TLS alert (RFC 9001 §4.8).
fn assert_alert(case: &Case, error: &quinn::ConnectionError) {
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        panic!("{case}: {error:?}");
    };
    let code = u64::from(close.error_code);
    assert_eq!(code & !0xff, 0x100, "{case}: {close:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_ends_as_it_must_when_it_is_served() {
    bounded(async {
        let mut node = Node::new();
        let (mut accepted, mut refused) = (0, 0);
        for case in cases() {
            let peer = listen(&case);
            let mut addr = quic_addr(peer.local_addr().unwrap());
            if let Some(expected) = case.expected_peer {
                addr.push(Protocol::P2p(expected));
            }
            let serve = async { peer.accept().await.unwrap().await };
            let (ended, served) = join(node.dial(&addr), serve).await;
            case.check(&verdict(&case, &ended));
            match case.expected {
                Expected::Accept => accepted += 1,
                Expected::Refuse(..) => {
                    refused += 1;
                    assert_alert(&case, &served.unwrap_err());
                }
            }
            assert_eq!(node.stats().transport.handshakes_completed, accepted);
        }
        // A connection is counted as it is forgotten.
        until(|| node.stats().registry.handshaking == 0).await;
        assert_eq!(node.stats().transport.handshakes_failed, refused);
        assert!(refused > 50, "{refused}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_ends_as_it_must_when_it_is_presented() {
    bounded(async {
        let mut node = Node::new();
        let addr = socket_addr(&node.listen().await);
        let (mut accepted, mut refused) = (0, 0);
        for case in cases() {
            if case.expected_peer.is_some() {
                continue; // A server expects no particular peer.
            }
            let present = async {
                match dial(&case, addr).await {
                    // The client's handshake is complete before its certificate is checked.
                    Ok(connection) => connection.closed().await,
                    Err(error) => error,
                }
            };
            let answer = async {
                let ended = node.knock().await.upgrade.await;
                verdict(&case, &ended)
            };
            let (seen, verdict) = join(present, answer).await;
            case.check(&verdict);
            match case.expected {
                Expected::Accept => accepted += 1,
                Expected::Refuse(..) => {
                    refused += 1;
                    assert_alert(&case, &seen);
                }
            }
            assert_eq!(node.stats().transport.handshakes_completed, accepted);
        }
        // A connection is counted as it is forgotten.
        until(|| node.stats().registry.handshaking == 0).await;
        assert_eq!(node.stats().transport.handshakes_failed, refused);
        assert!(refused > 50, "{refused}");
    })
    .await;
}
