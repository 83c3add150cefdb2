//! The value of the libp2p extension: a host key and its signature over the certificate's key.
//!
//! ```text
//! SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }
//! ```

use std::borrow::Cow;

use asn1_rs::{OctetString, Sequence, SerializeResult, ToDer};

use super::{
    der::{Malformed, OCTET_STRING, Reader, SEQUENCE},
    error::CertificateError,
};

/// A host key, in its protobuf encoding, and its signature over [`message`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SignedKey<'a> {
    pub(super) public_key: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> SignedKey<'a> {
    /// Reads the value of the extension, which must be DER to the last byte.
    pub(super) fn decode(value: &'a [u8]) -> Result<Self, CertificateError> {
        Self::read(value)
            .map_err(|Malformed(reason)| CertificateError::ExtensionEncoding { reason })
    }

    fn read(value: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(value);
        let mut fields = input.enter(SEQUENCE)?;
        input.finish()?;
        let public_key = fields.read(OCTET_STRING)?.contents;
        let signature = fields.read(OCTET_STRING)?.contents;
        fields.finish()?;
        Ok(Self {
            public_key,
            signature,
        })
    }

    pub(super) fn encode(&self) -> SerializeResult<Vec<u8>> {
        let mut fields = OctetString::new(self.public_key).to_der_vec()?;
        OctetString::new(self.signature).write_der(&mut fields)?;
        Sequence::new(Cow::Owned(fields)).to_der_vec()
    }
}

/// The message that the host key signs: a fixed prefix and the certificate's SubjectPublicKeyInfo.
pub(super) fn message(spki: &[u8]) -> Vec<u8> {
    [PREFIX, spki].concat()
}

/// 1.3.6.1.4.1.53594.1.1, assigned to libp2p by IANA.
pub(super) const OBJECT_IDENTIFIER: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];

const PREFIX: &[u8] = b"libp2p-tls-handshake:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for length in [0, 1, 127, 128, 255, 256, 4096] {
            let signed_key = SignedKey {
                public_key: &vec![1; length],
                signature: &vec![2; length],
            };
            let value = signed_key.encode().unwrap();
            assert_eq!(SignedKey::decode(&value), Ok(signed_key));
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let value = SignedKey {
            public_key: &[1; 36],
            signature: &[2; 64],
        }
        .encode()
        .unwrap();
        for end in 0..value.len() {
            assert!(matches!(
                SignedKey::decode(&value[..end]),
                Err(CertificateError::ExtensionEncoding { .. })
            ));
        }
    }
}
