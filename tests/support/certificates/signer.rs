//! Keys of certificates.

use std::sync::OnceLock;

use aws_lc_rs::{
    digest::{SHA256, digest},
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair, RsaSignatureEncoding,
    },
};

use p384::{ecdsa::signature::hazmat::PrehashSigner as _, pkcs8::DecodePrivateKey as _};

use super::der::{
    EC_KEY, NULL, P256, PKCS1, bit_string, element, integer, object_identifier, sequence,
};

/// The key of a certificate, and its signature algorithm.
pub(crate) struct Signer {
    pub(crate) spki: Vec<u8>,
    /// The AlgorithmIdentifier of its signatures.
    pub(crate) algorithm: Vec<u8>,
    pub(crate) pkcs8: Vec<u8>,
    pub(crate) sign: Box<Sign>,
}

impl Signer {
    pub(crate) fn p256() -> Self {
        Self::ecdsa(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            P256,
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
        )
    }

    pub(crate) fn p384() -> Self {
        Self::ecdsa(
            &ECDSA_P384_SHA384_ASN1_SIGNING,
            &[0x2b, 0x81, 0x04, 0x00, 0x22],
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
        )
    }

    pub(crate) fn p521() -> Self {
        Self::ecdsa(
            &ECDSA_P521_SHA512_ASN1_SIGNING,
            &[0x2b, 0x81, 0x04, 0x00, 0x23],
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4],
        )
    }

    /// P-384 with a hash that is too short for it.
    pub(crate) fn p384_sha256() -> Self {
        let signer = Self::p384();
        let key = p384::ecdsa::SigningKey::from_pkcs8_der(&signer.pkcs8).unwrap();
        Self {
            algorithm: sequence(&[&object_identifier(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]),
            sign: Box::new(move |message| {
                let hash = digest(&SHA256, message);
                let signature: p384::ecdsa::DerSignature = key.sign_prehash(hash.as_ref()).unwrap();
                signature.as_bytes().to_vec()
            }),
            ..signer
        }
    }

    fn ecdsa(kind: &'static EcdsaSigningAlgorithm, curve: &[u8], algorithm: &[u8]) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref()).unwrap();
        let key_algorithm = sequence(&[&object_identifier(EC_KEY), &object_identifier(curve)]);
        Self {
            spki: sequence(&[&key_algorithm, &bit_string(key.public_key().as_ref())]),
            algorithm: sequence(&[&object_identifier(algorithm)]),
            pkcs8: pkcs8.as_ref().to_vec(),
            sign: Box::new(move |message| key.sign(&random, message).unwrap().as_ref().to_vec()),
        }
    }

    pub(crate) fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let algorithm = sequence(&[&object_identifier(&[0x2b, 0x65, 0x70])]);
        Self {
            spki: sequence(&[&algorithm, &bit_string(key.public_key().as_ref())]),
            algorithm,
            pkcs8: pkcs8.as_ref().to_vec(),
            sign: Box::new(move |message| key.sign(message).as_ref().to_vec()),
        }
    }

    /// A key of 2048 bits with this signature algorithm.
    fn rsa(algorithm: Vec<u8>, encoding: &'static RsaSignatureEncoding) -> Self {
        let pkcs8 = rsa_pkcs8();
        let key = RsaKeyPair::from_pkcs8(pkcs8).unwrap();
        Self {
            spki: rsa_spki(key.public_key().as_ref()),
            algorithm,
            pkcs8: pkcs8.to_vec(),
            sign: Box::new(move |message| {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &SystemRandom::new(), message, &mut signature)
                    .unwrap();
                signature
            }),
        }
    }

    pub(crate) fn rsa_pkcs1(hash: Hash) -> Self {
        match hash {
            Hash::Sha256 => Self::rsa(rsa_algorithm(11), &RSA_PKCS1_SHA256),
            Hash::Sha384 => Self::rsa(rsa_algorithm(12), &RSA_PKCS1_SHA384),
            Hash::Sha512 => Self::rsa(rsa_algorithm(13), &RSA_PKCS1_SHA512),
        }
    }

    pub(crate) fn rsa_pss(hash: Hash) -> Self {
        match hash {
            Hash::Sha256 => Self::rsa(pss_algorithm(1, 32), &RSA_PSS_SHA256),
            Hash::Sha384 => Self::rsa(pss_algorithm(2, 48), &RSA_PSS_SHA384),
            Hash::Sha512 => Self::rsa(pss_algorithm(3, 64), &RSA_PSS_SHA512),
        }
    }
}

pub(crate) type Sign = dyn Fn(&[u8]) -> Vec<u8>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

pub(crate) fn rsa_pkcs8() -> &'static [u8] {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        pkcs8.as_ref().to_vec()
    })
}

pub(crate) fn rsa_spki(key: &[u8]) -> Vec<u8> {
    sequence(&[&rsa_algorithm(1), &bit_string(key)])
}

/// An algorithm of PKCS#1, by its number.
pub(crate) fn rsa_algorithm(number: u8) -> Vec<u8> {
    sequence(&[&object_identifier(&[PKCS1, &[number]].concat()), NULL])
}

pub(crate) fn pss_algorithm(hash: u8, salt: u8) -> Vec<u8> {
    let hash = sequence(&[
        &object_identifier(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash]),
        NULL,
    ]);
    let mask = sequence(&[&object_identifier(&[PKCS1, &[8]].concat()), &hash]);
    sequence(&[
        &object_identifier(&[PKCS1, &[10]].concat()),
        &sequence(&[
            &element(0xa0, &hash),
            &element(0xa1, &mask),
            &element(0xa2, &integer(&[salt])),
        ]),
    ])
}
