//! Errors of verifying a peer's certificate and of generating ours.

use libp2p_identity::{PeerId, SigningError};

/// The reason why a peer's certificate, or its proof of owning one, is refused.
///
/// Every rule comes from the [libp2p TLS specification], or from the standards it builds on: X.509
/// ([RFC 5280]), its encoding rules DER (ITU-T X.690) and TLS 1.3 ([RFC 8446]).
///
/// [libp2p TLS specification]: https://github.com/libp2p/specs/blob/master/tls/tls.md
/// [RFC 5280]: https://www.rfc-editor.org/rfc/rfc5280
/// [RFC 8446]: https://www.rfc-editor.org/rfc/rfc8446
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The signature algorithm in the signed part differs from the one outside it ([RFC 5280
    /// §4.1.1.2](https://www.rfc-editor.org/rfc/rfc5280#section-4.1.1.2)).
    #[error("signature algorithm inside the certificate differs from the one outside")]
    AlgorithmMismatch,

    /// The certificate's key or signature algorithm is not supported.
    ///
    /// Supported are ECDSA P-256 with SHA-256, ECDSA P-384 with SHA-384, Ed25519, and RSA of 2048
    /// to 4096 bits with the exponent 65537, PKCS#1 v1.5 or PSS, with SHA-256, SHA-384 or SHA-512.
    #[error("key or signature algorithm of the certificate is not supported")]
    AlgorithmUnsupported,

    /// The bytes are not one certificate in DER.
    #[error("certificate is not valid DER: {reason}")]
    BadEncoding {
        /// The rule that is broken.
        reason: &'static str,
    },

    /// The peer presented no certificate, or more than one.
    #[error("expected exactly one certificate, got {length}")]
    Chain {
        /// How many certificates were presented.
        length: usize,
    },

    /// The validity period has ended.
    #[error("certificate has expired")]
    Expired,

    /// A critical extension other than libp2p's; we understand only that one.
    #[error("certificate has an unknown critical extension")]
    ExtensionCritical,

    /// The same extension occurs twice
    /// ([RFC 5280 §4.2](https://www.rfc-editor.org/rfc/rfc5280#section-4.2)).
    #[error("certificate has the same extension twice")]
    ExtensionDuplicate,

    /// The value of the libp2p extension is not a `SignedKey` in DER.
    #[error("libp2p extension is not a valid signed key: {reason}")]
    ExtensionEncoding {
        /// The rule that is broken.
        reason: &'static str,
    },

    /// The certificate has no libp2p extension.
    #[error("certificate has no libp2p extension")]
    ExtensionMissing,

    /// The certificate's key did not sign the handshake: the certificate was copied from its owner.
    #[error("handshake is not signed by the certificate's key")]
    HandshakeSignature,

    /// The host key in the libp2p extension is malformed, weak or of an unknown type.
    #[error("host key is refused: {reason}")]
    HostKey {
        /// The reason.
        reason: String,
    },

    /// The host key did not sign the certificate's key.
    #[error("host key has not signed the certificate's key")]
    HostSignature,

    /// The validity period has not begun.
    #[error("certificate is not yet valid")]
    NotYetValid,

    /// The certificate is valid but proves another peer than the expected one. In a handshake, that
    /// peer has also proven that it holds the certificate's key.
    #[error("expected peer {expected}, but the certificate proves {actual}")]
    PeerMismatch {
        /// The expected peer.
        expected: Box<PeerId>,
        /// The peer that the certificate proves.
        actual: Box<PeerId>,
    },

    /// The certificate is not signed by its own key.
    #[error("certificate is not signed by its own key")]
    SelfSignature,

    /// The certificate exceeds one of our limits.
    #[error("certificate exceeds the limit of {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The unit of the limit.
        unit: &'static str,
    },

    /// The certificate carries an issuer or subject unique identifier, which libp2p forbids.
    #[error("certificate has a unique identifier")]
    UniqueId,

    /// The validity period ends before it begins.
    #[error("validity period of the certificate ends before it begins")]
    ValidityReversed,

    /// The certificate is not of X.509 version 3, the only version with extensions.
    #[error("certificate is not of version 3")]
    Version,
}

/// The reason why our own certificate, or TLS with it, could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The certificate could not be created.
    #[error("failed to create the certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// The host key could not sign the certificate's key.
    #[error("host key failed to sign the certificate's key")]
    HostSignature(#[source] SigningError),

    /// The cryptography provider lacks AES-128-GCM, which protects the first packets of every QUIC
    /// connection ([RFC 9001 §5.2](https://www.rfc-editor.org/rfc/rfc9001#section-5.2)).
    #[error("cryptography provider lacks the initial cipher suite of QUIC")]
    InitialSuite,

    /// The cryptography provider does not support TLS 1.3 over QUIC with our key.
    #[error("failed to configure TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl GenerateError {
    pub(super) fn certificate(error: rcgen::Error) -> Self {
        Self::Certificate(error.into())
    }

    pub(super) fn tls(error: rustls::Error) -> Self {
        Self::Tls(error.into())
    }
}
