//! Verification of a peer's certificate.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use asn1_rs::Oid;
use libp2p_identity::{PeerId, PublicKey};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use x509_parser::{
    certificate::{TbsCertificate, Validity, X509CertificateParser},
    nom::Parser,
};

use super::{
    der::{Layout, Malformed},
    error::CertificateError,
    host_key,
    signature::CertificateKey,
    signed_key::{self, SignedKey},
};

/// Verifies one certificate in DER according to the [libp2p TLS specification], and that it proves
/// `expected` if that is given.
///
/// Connections do the same inside their handshake. Use this if you have a certificate from
/// elsewhere, or in a tool.
///
/// `now` is the wall-clock time, normally `SystemTime::now()`; the validity period is compared with
/// it.
///
/// A certificate alone does not prove who presents it, because anyone can copy it. The presenter
/// must also prove that it holds the certificate's key, as the TLS handshake requires.
///
/// # Errors
///
/// A [`CertificateError`] for the first rule that is violated. The order is: size and encoding,
/// version and algorithms, extensions, validity, the two signatures, and last the expected peer.
/// Hence [`CertificateError::PeerMismatch`] names a peer that the certificate proves.
///
/// # Example
///
/// ```
/// use std::time::SystemTime;
///
/// use libp2p_quinn::verify_certificate;
///
/// let verdict = verify_certificate(b"not a certificate", None, SystemTime::now());
/// assert!(verdict.is_err());
/// ```
///
/// [libp2p TLS specification]: https://github.com/libp2p/specs/blob/master/tls/tls.md
pub fn verify_certificate(
    der: &[u8],
    expected: Option<&PeerId>,
    now: SystemTime,
) -> Result<VerifiedPeer, CertificateError> {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);

    let now = unix_seconds(now);
    let (peer, _) = Examined::examine(der, now, &ALGORITHMS)?.check(now)?;
    peer.expect(expected)?;
    Ok(peer)
}

/// The peer that a certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    peer_id: PeerId,
    public_key: PublicKey,
}

impl VerifiedPeer {
    /// The peer's id, derived from its [`public_key`](Self::public_key).
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The peer's host key, which signed the certificate's key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Returns an error unless this is the `expected` peer.
    pub(super) fn expect(&self, expected: Option<&PeerId>) -> Result<(), CertificateError> {
        match expected {
            Some(expected) if *expected != self.peer_id => Err(CertificateError::PeerMismatch {
                expected: Box::new(*expected),
                actual: Box::new(self.peer_id),
            }),
            _ => Ok(()),
        }
    }
}

/// What remains of a certificate that has passed every check except that of the expected peer. Its
/// validity is checked again whenever it is used.
#[derive(Clone, Debug)]
pub(super) struct Examined {
    peer: VerifiedPeer,
    key: CertificateKey,
    validity: Period,
}

impl Examined {
    /// Verifies a certificate at `now`, in seconds since 1970.
    pub(super) fn examine(
        der: &[u8],
        now: i64,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Self, CertificateError> {
        let layout = Layout::parse(der)?;
        if layout.version != Some(&VERSION_3) {
            return Err(CertificateError::Version);
        }
        if layout.has_unique_id {
            return Err(CertificateError::UniqueId);
        }
        if layout.inner_algorithm != layout.outer_algorithm {
            return Err(CertificateError::AlgorithmMismatch);
        }
        let (key, self_signature) = CertificateKey::new(&layout, algorithms)?;

        let (_, certificate) = X509CertificateParser::new()
            .with_deep_parse_extensions(false)
            .parse(der)
            .map_err(|_| Malformed("a field has an impossible value"))?;
        let signed_key = SignedKey::decode(libp2p_extension(&certificate.tbs_certificate)?)?;
        let public_key = host_key::decode(signed_key.public_key)?;
        let validity = Period::new(certificate.validity())?;
        validity.check(now)?;

        // The costly checks come last.
        self_signature.verify()?;
        if !public_key.verify(&signed_key::message(layout.spki), signed_key.signature) {
            return Err(CertificateError::HostSignature);
        }
        let peer = VerifiedPeer {
            peer_id: public_key.to_peer_id(),
            public_key,
        };
        Ok(Self {
            peer,
            key,
            validity,
        })
    }

    /// The peer and the key for the handshake, if the certificate is valid at `now`.
    pub(super) fn check(
        self,
        now: i64,
    ) -> Result<(VerifiedPeer, CertificateKey), CertificateError> {
        self.validity.check(now)?;
        Ok((self.peer, self.key))
    }
}

/// The value of the one libp2p extension.
///
/// Unknown extensions are ignored unless they are critical: a verifier that does not understand a
/// critical extension must refuse the certificate.
fn libp2p_extension<'a>(certificate: &'a TbsCertificate<'_>) -> Result<&'a [u8], CertificateError> {
    static LIBP2P: LazyLock<Oid<'static>> = LazyLock::new(|| {
        Oid::from(&signed_key::OBJECT_IDENTIFIER).expect("the constant is an object identifier")
    });

    let extensions = certificate.extensions();
    let mut libp2p = None;
    for (index, extension) in extensions.iter().enumerate() {
        // Quadratic, but there are at most 32 extensions.
        if extensions[..index]
            .iter()
            .any(|earlier| earlier.oid == extension.oid)
        {
            return Err(CertificateError::ExtensionDuplicate);
        }
        if extension.oid == *LIBP2P {
            libp2p = Some(extension.value);
        } else if extension.critical {
            return Err(CertificateError::ExtensionCritical);
        }
    }
    libp2p.ok_or(CertificateError::ExtensionMissing)
}

/// The validity period of a certificate in seconds since 1970, both ends included ([RFC 5280
/// §4.1.2.5]).
///
/// The dates are only compared, so the year 9999, which means "no end" and is the last in X.509,
/// needs no special case.
///
/// [RFC 5280 §4.1.2.5]: https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.5
#[derive(Clone, Copy, Debug)]
struct Period {
    not_before: i64,
    not_after: i64,
}

impl Period {
    fn new(validity: &Validity) -> Result<Self, CertificateError> {
        let not_before = validity.not_before.timestamp();
        let not_after = validity.not_after.timestamp();
        if not_after < not_before {
            return Err(CertificateError::ValidityReversed);
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }

    fn check(self, now: i64) -> Result<(), CertificateError> {
        if now < self.not_before {
            Err(CertificateError::NotYetValid)
        } else if now > self.not_after {
            Err(CertificateError::Expired)
        } else {
            Ok(())
        }
    }
}

/// Whole seconds since 1970, rounded down; negative before 1970.
fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            (-seconds).saturating_sub(i64::from(before.subsec_nanos() > 0))
        }
    }
}

/// Version numbers count from 0.
const VERSION_3: [u8; 1] = [2];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_are_rounded_down_on_both_sides_of_1970() {
        let half = Duration::from_millis(500);
        assert_eq!(unix_seconds(UNIX_EPOCH), 0);
        assert_eq!(unix_seconds(UNIX_EPOCH + half), 0);
        assert_eq!(unix_seconds(UNIX_EPOCH - half), -1);
        assert_eq!(unix_seconds(UNIX_EPOCH - 2 * half), -1);
    }
}
