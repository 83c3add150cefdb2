//! The attacker's certificates: a libp2p certificate, or another one.

use anyhow::Result;
use libp2p_identity::Keypair;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate and its key.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// The certificate of a new peer.
    pub fn of_a_peer() -> Result<Self> {
        let host = Keypair::generate_ed25519();
        let key = KeyPair::generate()?;
        let message = [PREFIX, &key.subject_public_key_info()].concat();
        let signature = host.sign(&message)?;
        let fields = [host.public().encode_protobuf(), signature].map(|field| tlv(0x04, &field));
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        let extension = CustomExtension::from_oid_content(&SIGNED_KEY, tlv(0x30, &fields.concat()));
        parameters.custom_extensions.push(extension);
        Self::sign(&parameters, &key)
    }

    /// A certificate without the libp2p extension.
    pub fn of_nobody() -> Result<Self> {
        Self::sign(&CertificateParams::default(), &KeyPair::generate()?)
    }

    fn sign(parameters: &CertificateParams, key: &KeyPair) -> Result<Self> {
        Ok(Self {
            der: parameters.self_signed(key)?.into(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

/// An element of DER.
pub fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut element = vec![tag];
    match length {
        0..=0x7f => element.push(length as u8),
        0x80..=0xff => element.extend([0x81, length as u8]),
        _ => {
            element.push(0x82);
            element.extend((length as u16).to_be_bytes());
        }
    }
    element.extend(contents);
    element
}

/// 1.3.6.1.4.1.53594.1.1, the extension of libp2p.
pub const SIGNED_KEY: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// The prefix of the message that a host key signs.
pub const PREFIX: &[u8] = b"libp2p-tls-handshake:";

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use libp2p_quinn::verify_certificate;

    use super::*;

    #[test]
    fn a_peer_is_one_and_nobody_is_none() {
        let verify = |certificate: Certificate| {
            verify_certificate(&certificate.der, None, SystemTime::now())
        };
        assert!(verify(Certificate::of_a_peer().unwrap()).is_ok());
        assert!(verify(Certificate::of_nobody().unwrap()).is_err());
    }
}
