//! Our own certificate.

use libp2p_identity::Keypair;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{
    error::GenerateError,
    signed_key::{self, SignedKey},
};

/// A self-signed certificate that proves a host key, and the private key of the certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Generates the key of a certificate: ECDSA P-256, which every peer supports and TLS handles
/// fastest.
pub(super) fn generate_key() -> Result<KeyPair, GenerateError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(GenerateError::certificate)
}

/// Creates a certificate in which the host key signs `key`.
pub(super) fn generate(host: &Keypair, key: &KeyPair) -> Result<Certificate, GenerateError> {
    let message = signed_key::message(&key.subject_public_key_info());
    let value = SignedKey {
        public_key: &host.public().encode_protobuf(),
        signature: &host.sign(&message).map_err(GenerateError::HostSignature)?,
    }
    .encode()
    .expect("two byte strings in memory can be encoded");

    let mut parameters = CertificateParams::default();
    // The extension identifies us. The libp2p specification lets it be critical or not; it is not,
    // so that software that only inspects certificates does not fail on it.
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .custom_extensions
        .push(CustomExtension::from_oid_content(
            &signed_key::OBJECT_IDENTIFIER,
            value,
        ));
    // Fixed dates: the key is discarded with the process, so an expiry would protect nothing. A
    // period around our clock would fail with peers whose clock is wrong, and would reveal our
    // clock.
    let (year, month, day) = NOT_BEFORE;
    parameters.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = NOT_AFTER;
    parameters.not_after = rcgen::date_time_ymd(year, month, day);

    let certificate = parameters
        .self_signed(key)
        .map_err(GenerateError::certificate)?;
    Ok(Certificate {
        der: certificate.into(),
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    })
}

/// The dates of the example certificates in the libp2p TLS specification, with which every
/// implementation is tested.
const NOT_BEFORE: (i32, u8, u8) = (1975, 1, 1);
const NOT_AFTER: (i32, u8, u8) = (4096, 1, 1);

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::authenticator::peer::verify_certificate;

    #[test]
    fn every_certificate_of_ours_is_one_that_we_accept() {
        // 300 certificates, because serial number and signature vary in length.
        let host = Keypair::generate_ed25519();
        for _ in 0..300 {
            let certificate = generate(&host, &generate_key().unwrap()).unwrap();
            let peer = verify_certificate(
                &certificate.der,
                None,
                UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            );
            assert_eq!(peer.unwrap().peer_id(), host.public().to_peer_id());
        }
    }

    #[test]
    fn certificate_is_valid_whatever_the_clock_of_the_peer_says() {
        let host = Keypair::generate_ed25519();
        let certificate = generate(&host, &generate_key().unwrap()).unwrap();
        for year in [6, 30, 130, 1000] {
            let now = UNIX_EPOCH + Duration::from_secs(year * 365 * 24 * 60 * 60);
            assert!(verify_certificate(&certificate.der, None, now).is_ok());
        }
    }

    #[test]
    fn certificate_of_a_deterministic_key_is_deterministic() {
        let host = Keypair::generate_ed25519();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let [one, two] = [(); 2].map(|()| generate(&host, &key).unwrap().der);
        assert_eq!(one, two);
    }
}
