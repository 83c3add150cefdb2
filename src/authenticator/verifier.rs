//! Verification of the peer inside the TLS handshake.

use std::sync::{Arc, OnceLock};

use libp2p_identity::PeerId;
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    cache::VerifiedCertificates,
    error::CertificateError,
    peer::VerifiedPeer,
    signature::{self, CertificateKey},
};

/// The result of authenticating the peer.
pub(crate) type Verdict = Result<VerifiedPeer, CertificateError>;

/// The verifier of one handshake, in either role.
///
/// It parses and verifies the certificate at most once, and not at all if it is in the cache. It
/// keeps the certificate's key to verify the signature of the handshake, and the peer for later
/// queries, so nothing depends on parsing the certificate a second time.
#[derive(Debug)]
pub(super) struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    known: Arc<VerifiedCertificates>,
    expected: Option<PeerId>,
    record: Arc<Record>,
}

impl Verifier {
    pub(super) fn new(
        algorithms: WebPkiSupportedAlgorithms,
        known: Arc<VerifiedCertificates>,
        expected: Option<PeerId>,
        record: Arc<Record>,
    ) -> Self {
        Self {
            algorithms,
            known,
            expected,
            record,
        }
    }

    fn verify_certificate(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let examined = if others.is_empty() {
            self.known.examine(certificate, now, &self.algorithms)
        } else {
            Err(CertificateError::Chain {
                length: 1 + others.len(),
            })
        };
        match examined {
            Ok(examined) => {
                // TLS 1.3 authenticates once, so no earlier value is lost.
                let _ = self.record.examined.set(examined);
                Ok(())
            }
            Err(error) => Err(self.refuse(error)),
        }
    }

    fn verify_handshake(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some((peer, key)) = self.record.examined.get() else {
            return Err(self.refuse(CertificateError::Chain { length: 0 }));
        };
        // The expected peer is compared last: anyone can copy a certificate, so the signature must
        // first prove that the named peer was there.
        key.verify_handshake(signed.scheme, message, signed.signature())
            .and_then(|()| peer.expect(self.expected.as_ref()))
            .map_err(|error| self.refuse(error))?;
        self.record.conclude(Ok(peer.clone()));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn refuse(&self, error: CertificateError) -> Error {
        let alert = alert(&error);
        self.record.conclude(Err(error));
        Error::InvalidCertificate(alert)
    }
}

/// The results that the verifier of one handshake passes to its session.
#[derive(Debug, Default)]
pub(super) struct Record {
    examined: OnceLock<(VerifiedPeer, CertificateKey)>,
    verdict: OnceLock<Verdict>,
}

impl Record {
    /// The verdict; `None` until the peer has failed or has proven that it holds the certificate's
    /// key.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.get()
    }

    /// Sets the verdict. Later calls have no effect.
    pub(super) fn conclude(&self, verdict: Verdict) {
        let _ = self.verdict.set(verdict);
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_certificate(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls_1_2())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_certificate(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls_1_2())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature::schemes()
    }
}

/// The rustls error whose alert describes our error to the peer ([RFC 8446 §6.2]).
///
/// [RFC 8446 §6.2]: https://www.rfc-editor.org/rfc/rfc8446#section-6.2
fn alert(error: &CertificateError) -> TlsCertificateError {
    match error {
        // unsupported_certificate
        CertificateError::AlgorithmUnsupported => TlsCertificateError::InvalidPurpose,
        // certificate_expired, which also stands for "not currently valid"
        CertificateError::Expired
        | CertificateError::NotYetValid
        | CertificateError::ValidityReversed => TlsCertificateError::Expired,
        // decrypt_error
        CertificateError::HandshakeSignature => TlsCertificateError::BadSignature,
        // access_denied: a valid certificate, but not that of the expected peer
        CertificateError::PeerMismatch { .. } => {
            TlsCertificateError::ApplicationVerificationFailure
        }
        // bad_certificate
        _ => TlsCertificateError::BadEncoding,
    }
}

fn no_tls_1_2() -> Error {
    Error::General("QUIC has no TLS 1.2".into())
}
