//! Every certificate that the forger knows, presented and served over real sockets.

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
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use support::{
    certificates::{Case, Expected, cases},
    node::{Node, bounded, quic_addr, socket_addr, until},
};

/// A peer that presents what it is told to, and believes everything.
struct RawPeer(Arc<SingleCertAndKey>);

impl RawPeer {
    fn new(case: &Case) -> Self {
        let key = PrivatePkcs8KeyDer::from(case.private_key.clone()).into();
        let key = default_provider().key_provider.load_private_key(key);
        let chain = case.chain.iter().cloned().map(CertificateDer::from);
        let certified = CertifiedKey::new(chain.collect(), key.unwrap());
        Self(Arc::new(certified.into()))
    }

    async fn dial(&self, addr: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
        let mut config = rustls::ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_client_cert_resolver(self.0.clone());
        config.alpn_protocols = vec![b"libp2p".to_vec()];
        let config = QuicClientConfig::try_from(config).unwrap();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        endpoint
            .connect_with(config, addr, "localhost")
            .unwrap()
            .await
    }

    fn listen(&self) -> quinn::Endpoint {
        let mut config = rustls::ServerConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Credulous))
            .with_cert_resolver(self.0.clone());
        config.alpn_protocols = vec![b"libp2p".to_vec()];
        let config = QuicServerConfig::try_from(config).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(config));
        quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
    }
}

/// Believes every certificate, whoever presents it.
#[derive(Debug)]
struct Credulous;

impl Credulous {
    fn schemes() -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

/// What our side made of the case.
fn verdict(
    case: &Case,
    ended: &Result<(PeerId, Connection), Error>,
) -> Result<PeerId, CertificateError> {
    match ended {
        Ok((peer_id, _)) => Ok(*peer_id),
        Err(Error::Handshake(HandshakeError::Certificate(error))) => Err(error.clone()),
        Err(error) => panic!("{case}: {error:?}"),
    }
}

/// What the peer must see of a refusal: a TLS alert (RFC 9001 §4.8).
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
            let peer = RawPeer::new(&case).listen();
            let mut addr = quic_addr(peer.local_addr().unwrap());
            if let Some(expected) = case.expected_peer {
                addr.push(Protocol::P2p(expected));
            }
            let serve = async { peer.accept().await.unwrap().await };
            let (ended, served) = join(node.dial(&addr), serve).await;
            case.check(&verdict(&case, &ended));
            match case.expected {
                Expected::Accept(_) => accepted += 1,
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
                continue; // A server expects nobody in particular.
            }
            let peer = RawPeer::new(&case);
            let dial = async {
                match peer.dial(addr).await {
                    // The client is through before its certificate was looked at.
                    Ok(connection) => connection.closed().await,
                    Err(error) => error,
                }
            };
            let answer = async {
                let ended = node.knock().await.upgrade.await;
                verdict(&case, &ended)
            };
            let (seen, verdict) = join(dial, answer).await;
            case.check(&verdict);
            match case.expected {
                Expected::Accept(_) => accepted += 1,
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
