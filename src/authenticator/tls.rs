//! The rustls configurations of both roles.

use std::sync::Arc;

use libp2p_identity::PeerId;
use quinn_proto::crypto::rustls::QuicServerConfig;
use rustls::{
    CipherSuite, ClientConfig, KeyLog, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    quic::Suite,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};

use super::{
    cache::VerifiedCertificates,
    certificate::Certificate,
    error::GenerateError,
    verifier::{Record, Verifier},
};

/// What all handshakes share. Only the verifier differs from handshake to handshake.
#[derive(Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn TimeProvider>,
    key_log: Option<Arc<dyn KeyLog>>,
    certified_key: Arc<SingleCertAndKey>,
    known: Arc<VerifiedCertificates>,
}

impl Tls {
    pub(super) fn new(
        certificate: Certificate,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn TimeProvider>,
        key_log: Option<Arc<dyn KeyLog>>,
    ) -> Result<Self, rustls::Error> {
        let key = provider.key_provider.load_private_key(certificate.key)?;
        let certified_key = CertifiedKey::new(vec![certificate.der], key);
        Ok(Self {
            provider,
            clock,
            key_log,
            certified_key: Arc::new(SingleCertAndKey::from(certified_key)),
            known: Arc::default(),
        })
    }

    /// The verifier of one handshake.
    pub(super) fn verifier(&self, expected: Option<PeerId>, record: &Arc<Record>) -> Verifier {
        Verifier::new(
            self.provider.signature_verification_algorithms,
            Arc::clone(&self.known),
            expected,
            Arc::clone(record),
        )
    }

    pub(super) fn client(&self, verifier: Verifier) -> Result<ClientConfig, rustls::Error> {
        let mut config =
            ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(self.certified_key.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        // A resumed session would authenticate the peer without calling the verifier.
        config.resumption = Resumption::disabled();
        if let Some(key_log) = &self.key_log {
            config.key_log = key_log.clone();
        }
        Ok(config)
    }

    pub(super) fn server(&self, verifier: Verifier) -> Result<ServerConfig, rustls::Error> {
        let mut config =
            ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(self.certified_key.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Our order depends on whether our CPU has AES instructions, and a server's CPU is the
        // busier one.
        config.ignore_client_order = true;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(key_log) = &self.key_log {
            config.key_log = key_log.clone();
        }
        Ok(config)
    }

    /// The keys of Initial and Retry packets, which anyone can derive from the packets.
    pub(super) fn initial(&self) -> Result<Initial, GenerateError> {
        let suite = self
            .provider
            .cipher_suites
            .iter()
            .find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
            .and_then(|suite| suite.tls13()?.quic_suite())
            .ok_or(GenerateError::InitialSuite)?;
        let unused = self.verifier(None, &Arc::new(Record::default()));
        let server = self.server(unused).map_err(GenerateError::tls)?;
        let server = QuicServerConfig::with_initial(Arc::new(server), suite)
            .map_err(|_| GenerateError::InitialSuite)?;
        Ok(Initial { suite, server })
    }
}

/// See [`Tls::initial`].
pub(super) struct Initial {
    pub(super) suite: Suite,
    pub(super) server: QuicServerConfig,
}

/// The only application protocol that libp2p negotiates in TLS over QUIC.
pub(super) const ALPN: &[u8] = b"libp2p";
