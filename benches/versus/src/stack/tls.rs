//! TLS for the stacks that are not libp2p transports: our settings, made from the parts of rustls.
//!
//! Both sides have libp2p certificates, which [`verify_certificate`] verifies once each. The key
//! exchange groups are the same, and there is no session resumption.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Result;
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::verify_certificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The preferred cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Aes,
    Chacha,
}

/// A certificate with its key, from which TLS configurations are made.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    certificate: Arc<SingleCertAndKey>,
}

impl Tls {
    pub fn new(identity: &Keypair, first: First) -> Result<Self> {
        let (certificate, key) = libp2p_tls::certificate::generate(identity)?;
        let mut cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        if first == First::Chacha {
            cipher_suites.reverse();
        }
        let provider = CryptoProvider {
            cipher_suites,
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        };
        let key = provider.key_provider.load_private_key(key)?;
        let certificate = CertifiedKey::new(vec![certificate], key);
        Ok(Self {
            provider: Arc::new(provider),
            certificate: Arc::new(certificate.into()),
        })
    }

    pub fn client(&self, expected: PeerId) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(Some(expected)))
            .with_client_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    pub fn server(&self) -> Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.verifier(None))
            .with_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    fn verifier(&self, expected: Option<PeerId>) -> Arc<Verifier> {
        Arc::new(Verifier {
            provider: Arc::clone(&self.provider),
            expected,
        })
    }
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    expected: Option<PeerId>,
}

impl Verifier {
    fn verify(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        verify_certificate(certificate, self.expected.as_ref(), now)
            .map(drop)
            .map_err(|_| CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_handshake(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        // webpki would refuse libp2p's critical extension.
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = SubjectPublicKeyInfoDer::from(certificate.subject_pki.raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls_1_2())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls_1_2())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

fn no_tls_1_2() -> Error {
    Error::General("QUIC has no TLS 1.2".into())
}

const ALPN: &[u8] = b"libp2p";
