//! Unprotected packets, for simulations: encryption would take most of their time.

use std::sync::LazyLock;

use rustls::{
    CipherSuite, Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        cipher::{AeadKey, Iv},
    },
    quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag},
};

use super::crypto_provider;

/// TLS_AES_128_GCM_SHA256 with packets of the usual length but without protection. TLS itself is
/// unchanged.
pub(super) fn cipher_suites() -> Vec<SupportedCipherSuite> {
    SUITE
        .iter()
        .map(|&suite| SupportedCipherSuite::Tls13(suite))
        .collect()
}

/// rustls requires `'static` suites.
static SUITE: LazyLock<Option<&'static Tls13CipherSuite>> = LazyLock::new(|| {
    let suites = crypto_provider().cipher_suites;
    let usual = suites
        .iter()
        .filter_map(SupportedCipherSuite::tls13)
        .find(|suite| suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256)?;
    let suite: &Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: usual.common.suite,
            hash_provider: usual.common.hash_provider,
            confidentiality_limit: u64::MAX,
        },
        hkdf_provider: usual.hkdf_provider,
        aead_alg: usual.aead_alg,
        quic: Some(&Plain),
    }));
    Some(suite)
});

/// Protects nothing.
struct Plain;

/// The length of the tag in all ciphers of QUIC (RFC 9001 §5.3).
const TAG: [u8; 16] = [0; 16];

impl Algorithm for Plain {
    fn packet_key(&self, _: AeadKey, _: Iv) -> Box<dyn PacketKey> {
        Box::new(Self)
    }

    fn header_protection_key(&self, _: AeadKey) -> Box<dyn HeaderProtectionKey> {
        Box::new(Self)
    }

    fn aead_key_len(&self) -> usize {
        16
    }
}

impl PacketKey for Plain {
    fn encrypt_in_place(&self, _: u64, _: &[u8], _: &mut [u8]) -> Result<Tag, Error> {
        Ok(Tag::from(&TAG[..]))
    }

    fn decrypt_in_place<'a>(
        &self,
        _: u64,
        _: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        match payload.split_last_chunk::<{ TAG.len() }>() {
            Some((contents, _)) => Ok(contents),
            None => Err(Error::DecryptError),
        }
    }

    fn tag_len(&self) -> usize {
        TAG.len()
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

impl HeaderProtectionKey for Plain {
    fn encrypt_in_place(&self, _: &[u8], _: &mut u8, _: &mut [u8]) -> Result<(), Error> {
        Ok(())
    }

    fn decrypt_in_place(&self, _: &[u8], _: &mut u8, _: &mut [u8]) -> Result<(), Error> {
        Ok(())
    }

    fn sample_len(&self) -> usize {
        TAG.len()
    }
}
