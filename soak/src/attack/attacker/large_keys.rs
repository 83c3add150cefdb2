//! Certificates with keys that are slow to verify with.
//!
//! Their modulus is a product of many small primes. With these primes a signature takes
//! microseconds, and a verifier cannot see that.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result};
use num_bigint::BigUint;
use rand::RngExt;
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    pki_types::CertificateDer,
    sign::{CertifiedKey, Signer, SigningKey},
};

use super::certificate::{PREFIX, tlv};

/// A different certificate for each handshake, so that none is in a cache.
#[derive(Debug)]
pub struct LargeKeys {
    key: Key,
    serial: AtomicU64,
}

impl LargeKeys {
    pub fn new() -> Result<Self> {
        Ok(Self {
            key: Key::generate()?,
            serial: AtomicU64::new(1),
        })
    }

    /// Signed by its own key, which is also the host key.
    fn certificate(&self, serial: u64) -> Option<Vec<u8>> {
        let spki = self.key.spki();
        let host = {
            // A libp2p PublicKey in protobuf: its type is RSA, and this is its data.
            let length = spki.len();
            let mut host = vec![0x08, 0, 0x12, 0x80 | length as u8, (length >> 7) as u8];
            host.extend(&spki);
            host
        };
        let vouched = self.key.sign(&[PREFIX, &spki].concat())?;
        let signed_key = tlv(0x30, &[tlv(0x04, &host), tlv(0x04, &vouched)].concat());
        let extension = tlv(0x30, &[&SIGNED_KEY[..], &tlv(0x04, &signed_key)].concat());
        let dates = [&b"19750101000000Z"[..], b"40960101000000Z"].map(|date| tlv(0x18, date));
        let mut number = vec![0x01];
        number.extend(serial.to_be_bytes());
        let nobody = tlv(0x30, &[]);
        let contents = [
            // Version 3.
            vec![0xa0, 3, 2, 1, 2],
            tlv(0x02, &number),
            SHA256_WITH_RSA.to_vec(),
            nobody.clone(),
            tlv(0x30, &dates.concat()),
            nobody,
            spki,
            tlv(0xa3, &tlv(0x30, &extension)),
        ];
        let contents = tlv(0x30, &contents.concat());
        let signature = [&[0][..], &self.key.sign(&contents)?].concat();
        let parts = [contents, SHA256_WITH_RSA.to_vec(), tlv(0x03, &signature)];
        Some(tlv(0x30, &parts.concat()))
    }
}

impl ResolvesClientCert for LargeKeys {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certificate = self.certificate(self.serial.fetch_add(1, Relaxed))?;
        let chain = vec![CertificateDer::from(certificate)];
        Some(Arc::new(CertifiedKey::new(chain, Arc::new(Nonsense))))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Signs the handshake with an arbitrary value: detecting that takes as long.
#[derive(Debug)]
struct Nonsense;

impl SigningKey for Nonsense {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Self))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl Signer for Nonsense {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        // Less than any modulus.
        Ok(vec![0x11; BYTES])
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::RSA_PSS_SHA256
    }
}

#[derive(Debug)]
struct Key {
    modulus: BigUint,
    /// The primes, each with the private exponent for it and its factor in the Chinese remainder
    /// theorem.
    primes: Vec<(u64, u64, BigUint)>,
}

impl Key {
    fn generate() -> Result<Self> {
        let mut rng = rand::rng();
        let mut primes = Vec::new();
        while primes.len() < BYTES / 8 {
            // Large primes, so that the modulus has all its bits.
            let candidate = (u64::MAX - (rng.random::<u64>() >> 12)) | 1;
            if !primes.contains(&candidate) && is_prime(candidate)
                // The exponent must have an inverse.
                && gcd(EXPONENT, candidate - 1) == 1
            {
                primes.push(candidate);
            }
        }
        let modulus: BigUint = primes.iter().map(|&prime| BigUint::from(prime)).product();
        let primes: Option<Vec<_>> = primes
            .into_iter()
            .map(|prime| {
                let others = &modulus / prime;
                let remainder = u64::try_from(&others % prime).ok()?;
                let unit = others * inverse(remainder, prime)?;
                Some((prime, inverse(EXPONENT % (prime - 1), prime - 1)?, unit))
            })
            .collect();
        Ok(Self {
            primes: primes.context("a prime that is none")?,
            modulus,
        })
    }

    /// SubjectPublicKeyInfo.
    fn spki(&self) -> Vec<u8> {
        let modulus = [&[0][..], &self.modulus.to_bytes_be()].concat();
        let exponent = [&[0][..], &BigUint::from(EXPONENT).to_bytes_be()].concat();
        // The exponent has 33 bits, so its first byte is 1, and no zero is needed before it.
        let exponent = exponent.strip_prefix(&[0]).unwrap_or(&exponent).to_vec();
        let key = tlv(0x30, &[tlv(0x02, &modulus), tlv(0x02, &exponent)].concat());
        let key = tlv(0x03, &[&[0][..], &key].concat());
        tlv(0x30, &[&RSA[..], &key].concat())
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 §8.2).
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13()?;
        let hash = suite.common.hash_provider.hash(message);
        let digest = [&DIGEST_INFO[..], hash.as_ref()].concat();
        let mut encoded = vec![0x00, 0x01];
        encoded.resize(BYTES - digest.len() - 1, 0xff);
        encoded.push(0);
        encoded.extend(digest);
        let message = BigUint::from_bytes_be(&encoded);
        let mut signature = BigUint::ZERO;
        for (prime, exponent, unit) in &self.primes {
            let remainder = u64::try_from(&message % *prime).ok()?;
            signature += unit * power(remainder, *exponent, *prime);
        }
        let signature = (signature % &self.modulus).to_bytes_be();
        let mut padded = vec![0; BYTES - signature.len()];
        padded.extend(signature);
        Some(padded)
    }
}

fn multiply(left: u64, right: u64, modulus: u64) -> u64 {
    (u128::from(left) * u128::from(right) % u128::from(modulus)) as u64
}

fn power(mut base: u64, mut exponent: u64, modulus: u64) -> u64 {
    let mut result = 1;
    base %= modulus;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base, modulus);
        }
        base = multiply(base, base, modulus);
        exponent >>= 1;
    }
    result
}

fn gcd(mut left: u64, mut right: u64) -> u64 {
    while right > 0 {
        (left, right) = (right, left % right);
    }
    left
}

fn inverse(value: u64, modulus: u64) -> Option<u64> {
    let (mut old, mut new) = ((i128::from(value), 1), (i128::from(modulus), 0));
    while new.0 != 0 {
        let quotient = old.0 / new.0;
        (old, new) = (new, (old.0 - quotient * new.0, old.1 - quotient * new.1));
    }
    (old.0 == 1).then(|| old.1.rem_euclid(i128::from(modulus)) as u64)
}

/// The Miller–Rabin test, with bases that are sufficient for 64 bits.
fn is_prime(candidate: u64) -> bool {
    let twos = (candidate - 1).trailing_zeros();
    let odd = (candidate - 1) >> twos;
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]
        .iter()
        .all(|&base| {
            let mut value = power(base, odd, candidate);
            value == 1
                || (0..twos).any(|_| {
                    let is_minus_one = value == candidate - 1;
                    value = multiply(value, value, candidate);
                    is_minus_one
                })
        })
}

/// Bytes of the modulus: 8192 bits.
const BYTES: usize = 1024;

/// The largest exponent that verifiers accept.
const EXPONENT: u64 = (1 << 33) - 1;

/// AlgorithmIdentifiers of keys and of signatures with SHA-256 (RFC 8017 §A.2).
const RSA: [u8; 15] = *b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const SHA256_WITH_RSA: [u8; 15] = *b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";

/// The prefix of a SHA-256 digest (RFC 8017 §9.2).
const DIGEST_INFO: [u8; 19] =
    *b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

/// The OBJECT IDENTIFIER of libp2p's extension, in DER.
const SIGNED_KEY: [u8; 12] = *b"\x06\x0a\x2b\x06\x01\x04\x01\x83\xa2\x5a\x01\x01";

#[cfg(test)]
mod tests {
    use libp2p_quinn::verify_certificate;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let primes = [u64::MAX - 58, 3_215_031_751 + 2];
        assert!(is_prime(primes[0]));
        for composite in [u64::MAX, 3_215_031_751, 561 * 1105] {
            assert!(!is_prime(composite), "{composite}");
        }
    }

    #[test]
    fn signatures_are_those_of_the_key() {
        let key = Key::generate().unwrap();
        assert_eq!(key.modulus.bits(), 8192);
        let signature = BigUint::from_bytes_be(&key.sign(b"something").unwrap());
        let opened = signature.modpow(&BigUint::from(EXPONENT), &key.modulus);
        let opened = opened.to_bytes_be();
        assert_eq!(opened.len(), BYTES - 1);
        assert!(opened.starts_with(&[1, 0xff, 0xff]));
    }

    /// A verifier that accepts such keys finds the certificate valid.
    #[test]
    fn nothing_is_wrong_with_a_certificate_but_its_keys() {
        let keys = LargeKeys::new().unwrap();
        let certificate = keys.certificate(1).unwrap();
        let verdict = verify_certificate(&certificate, None, SystemTime::now());
        if let Err(error) = verdict {
            let error = error.to_string();
            assert!(
                error.contains("RSA") || error.contains("algorithm"),
                "{error}"
            );
        }
    }
}
