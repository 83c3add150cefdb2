//! Templates of certificates.

use libp2p_identity::Keypair;

use super::{
    der::{
        OCTET_STRING, SEQUENCE, bit_string, element, generalized_time, integer, object_identifier,
        sequence, utc_time, validity,
    },
    signer::Signer,
};

/// A template of a certificate. Every field is a complete DER element, or empty.
#[derive(Clone)]
pub(crate) struct Template {
    pub(crate) version: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) inner_algorithm: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) validity: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    pub(crate) unique_ids: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
    /// Bytes after the last field of the signed part.
    pub(crate) trailer: Vec<u8>,
    pub(crate) outer_algorithm: Vec<u8>,
}

impl Template {
    /// A valid certificate for the signer's key, signed by `host`.
    pub(crate) fn new(host: &Keypair, signer: &Signer) -> Self {
        Self::with_signed_key(&signed_key(host, &signer.spki), signer)
    }

    /// The same with an arbitrary value in the libp2p extension.
    pub(crate) fn with_signed_key(value: &[u8], signer: &Signer) -> Self {
        Self {
            version: element(0xa0, &integer(&[2])),
            serial: integer(&[0x12, 0x34, 0x56]),
            inner_algorithm: signer.algorithm.clone(),
            issuer: sequence(&[]),
            validity: validity(
                &utc_time("200101000000Z"),
                &generalized_time(b"21200101000000Z"),
            ),
            subject: sequence(&[]),
            spki: signer.spki.clone(),
            unique_ids: Vec::new(),
            extensions: vec![extension(LIBP2P, false, value)],
            trailer: Vec::new(),
            outer_algorithm: signer.algorithm.clone(),
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    pub(crate) fn signed_part(&self) -> Vec<u8> {
        let extensions = match &self.extensions[..] {
            [] => Vec::new(),
            extensions => element(0xa3, &element(SEQUENCE, &extensions.concat())),
        };
        sequence(&[
            &self.version,
            &self.serial,
            &self.inner_algorithm,
            &self.issuer,
            &self.validity,
            &self.subject,
            &self.spki,
            &self.unique_ids,
            &extensions,
            &self.trailer,
        ])
    }

    pub(crate) fn sign(&self, signer: &Signer) -> Vec<u8> {
        let signed_part = self.signed_part();
        self.assemble(&(signer.sign)(&signed_part))
    }

    pub(crate) fn assemble(&self, signature: &[u8]) -> Vec<u8> {
        assemble(&self.signed_part(), &self.outer_algorithm, signature)
    }
}

/// Signs any bytes as if they were the signed part of a certificate.
pub(crate) fn sign(signed_part: &[u8], signer: &Signer) -> Vec<u8> {
    assemble(signed_part, &signer.algorithm, &(signer.sign)(signed_part))
}

fn assemble(signed_part: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    sequence(&[signed_part, algorithm, &bit_string(signature)])
}

/// The value of the libp2p extension.
pub(crate) fn signed_key(host: &Keypair, spki: &[u8]) -> Vec<u8> {
    let signature = host.sign(&message(spki)).unwrap();
    signed_key_of(&host.public().encode_protobuf(), &signature)
}

pub(crate) fn signed_key_of(key: &[u8], signature: &[u8]) -> Vec<u8> {
    sequence(&[
        &element(OCTET_STRING, key),
        &element(OCTET_STRING, signature),
    ])
}

pub(crate) fn message(spki: &[u8]) -> Vec<u8> {
    [b"libp2p-tls-handshake:", spki].concat()
}

pub(crate) fn extension(identifier: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[
        &object_identifier(identifier),
        critical,
        &element(OCTET_STRING, value),
    ])
}

/// 1.3.6.1.4.1.53594.1.1
pub(crate) const LIBP2P: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1];
