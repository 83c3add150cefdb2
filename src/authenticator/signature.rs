//! The key of a certificate, and the signatures that it must make.

use rustls::{
    SignatureScheme,
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id},
};

use super::{
    der::{Layout, Malformed},
    error::CertificateError,
    rsa,
};

/// The public key of a certificate.
#[derive(Clone, Debug)]
pub(super) struct CertificateKey {
    algorithm: AlgorithmIdentifier,
    key: Box<[u8]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CertificateKey {
    /// Extracts the key of a certificate, and prepares to verify the certificate's self-signature.
    ///
    /// # Errors
    ///
    /// [`CertificateError::AlgorithmUnsupported`], and [`CertificateError::BadEncoding`] for an RSA
    /// key that is not DER.
    pub(super) fn new<'a>(
        layout: &Layout<'a>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(Self, SelfSignature<'a>), CertificateError> {
        // Identifiers are compared byte by byte, including their parameters. So an explicit curve,
        // or the SHA-1 that RSA-PSS defaults to, matches none.
        let (algorithm, implementation) = SIGNATURES
            .iter()
            .find(|signature| {
                *signature.key == *layout.key_algorithm
                    && *signature.algorithm == *layout.outer_algorithm
            })
            .and_then(|signature| {
                let implementation = implementation(algorithms, signature)?;
                Some((signature.key, implementation))
            })
            .ok_or(CertificateError::AlgorithmUnsupported)?;
        // Checked here, so that the error differs from that of a bad signature, and before spending
        // time on one.
        if algorithm == alg_id::RSA_ENCRYPTION {
            rsa::check(layout.key).map_err(|refusal| match refusal {
                rsa::Refusal::Malformed(reason) => Malformed(reason).into(),
                rsa::Refusal::Bits(_) | rsa::Refusal::Exponent => {
                    CertificateError::AlgorithmUnsupported
                }
            })?;
        }
        let key = Self {
            algorithm,
            key: layout.key.into(),
            algorithms: *algorithms,
        };
        let signature = SelfSignature {
            implementation,
            key: layout.key,
            message: layout.signed,
            signature: layout.signature,
        };
        Ok((key, signature))
    }

    /// Verifies a CertificateVerify message of TLS 1.3 ([RFC 8446 §4.4.3]).
    ///
    /// The scheme must fit the type of the key, but may differ from that of the certificate's own
    /// signature: an RSA key signs certificates with PKCS#1 v1.5 and handshakes with PSS.
    ///
    /// [RFC 8446 §4.4.3]: https://www.rfc-editor.org/rfc/rfc8446#section-4.4.3
    pub(super) fn verify_handshake(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        SIGNATURES
            .iter()
            .find(|candidate| {
                candidate.in_handshake
                    && candidate.scheme == scheme
                    && candidate.key == self.algorithm
            })
            .and_then(|candidate| implementation(&self.algorithms, candidate))
            .and_then(|implementation| {
                implementation
                    .verify_signature(&self.key, message, signature)
                    .ok()
            })
            .ok_or(CertificateError::HandshakeSignature)
    }
}

/// The self-signature of a certificate, not verified yet.
#[derive(Debug)]
pub(super) struct SelfSignature<'a> {
    implementation: &'static dyn SignatureVerificationAlgorithm,
    key: &'a [u8],
    message: &'a [u8],
    signature: &'a [u8],
}

impl SelfSignature<'_> {
    pub(super) fn verify(&self) -> Result<(), CertificateError> {
        self.implementation
            .verify_signature(self.key, self.message, self.signature)
            .map_err(|_| CertificateError::SelfSignature)
    }
}

/// The signature schemes that we announce, for certificates and for the handshake.
pub(super) fn schemes() -> Vec<SignatureScheme> {
    SIGNATURES
        .iter()
        .map(|signature| signature.scheme)
        .collect()
}

fn implementation(
    algorithms: &WebPkiSupportedAlgorithms,
    signature: &Signature,
) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    algorithms.all.iter().copied().find(|algorithm| {
        algorithm.public_key_alg_id() == signature.key
            && algorithm.signature_alg_id() == signature.algorithm
    })
}

/// A signature algorithm, as X.509 and TLS identify it.
struct Signature {
    key: AlgorithmIdentifier,
    algorithm: AlgorithmIdentifier,
    scheme: SignatureScheme,
    /// TLS 1.3 permits PKCS#1 v1.5 in certificates only ([RFC 8446 §4.2.3]).
    ///
    /// [RFC 8446 §4.2.3]: https://www.rfc-editor.org/rfc/rfc8446#section-4.2.3
    in_handshake: bool,
}

impl Signature {
    const fn new(
        key: AlgorithmIdentifier,
        algorithm: AlgorithmIdentifier,
        scheme: SignatureScheme,
    ) -> Self {
        Self {
            key,
            algorithm,
            scheme,
            in_handshake: true,
        }
    }

    const fn in_certificates_only(mut self) -> Self {
        self.in_handshake = false;
        self
    }
}

/// In order of preference. TLS 1.3 ties each curve to one hash, and libp2p requires hashes of at
/// least 256 bits. P-521 and Ed448 are left out because many peers do not support them.
const SIGNATURES: [Signature; 9] = [
    Signature::new(
        alg_id::ECDSA_P256,
        alg_id::ECDSA_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ),
    Signature::new(alg_id::ED25519, alg_id::ED25519, SignatureScheme::ED25519),
    Signature::new(
        alg_id::ECDSA_P384,
        alg_id::ECDSA_SHA384,
        SignatureScheme::ECDSA_NISTP384_SHA384,
    ),
    Signature::new(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA256,
        SignatureScheme::RSA_PSS_SHA256,
    ),
    Signature::new(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA384,
    ),
    Signature::new(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA512,
        SignatureScheme::RSA_PSS_SHA512,
    ),
    Signature::new(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
    )
    .in_certificates_only(),
    Signature::new(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA384,
    )
    .in_certificates_only(),
    Signature::new(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA512,
        SignatureScheme::RSA_PKCS1_SHA512,
    )
    .in_certificates_only(),
];
