//! Handshakes that can be replayed: whatever is random in them is a function of a seed.

use std::sync::{Arc, Mutex, PoisonError};

use libp2p_identity::Keypair;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustls::{
    Error, NamedGroup,
    crypto::{
        ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
        SupportedKxGroup,
    },
    pki_types::PrivatePkcs8KeyDer,
    time_provider::TimeProvider,
};

use crate::authenticator::{Authenticator, crypto_provider};

/// An authenticator whose handshakes are a function of `host`, `seed`, the time that `clock` tells, and what the
/// peer says.
///
/// Everyone knows the secrets of its connections.
pub(crate) fn deterministic(
    host: &Keypair,
    seed: u64,
    clock: Arc<dyn TimeProvider>,
) -> Authenticator {
    // rustls wants its randomness to live for ever; a test process is short enough.
    let random: &'static SeededRandom = Box::leak(Box::new(SeededRandom(Mutex::new(
        StdRng::seed_from_u64(seed),
    ))));
    let provider = CryptoProvider {
        kx_groups: vec![&LargePublicSecret],
        secure_random: random,
        ..crypto_provider()
    };
    Authenticator::with_parts(
        host,
        &certificate_key(seed),
        Arc::new(provider),
        clock,
        None,
    )
    .unwrap()
}

/// An Ed25519 key, because its signatures are deterministic.
fn certificate_key(seed: u64) -> rcgen::KeyPair {
    /// All of a PKCS#8 v1 document but the 32 bytes of the key (RFC 8410 §7).
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];

    let mut document = HEAD.to_vec();
    document.extend(seed.to_be_bytes().repeat(4));
    rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(document),
        &rcgen::PKCS_ED25519,
    )
    .unwrap()
}

/// A key exchange whose secret everyone knows, with keys of X25519MLKEM768's size: the ClientHello takes
/// two datagrams, as it does by default.
#[derive(Debug)]
struct LargePublicSecret;

impl SupportedKxGroup for LargePublicSecret {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

impl ActiveKeyExchange for LargePublicSecret {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[1; 64][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[2; 1184 + 32]
    }

    fn group(&self) -> NamedGroup {
        self.name()
    }
}

#[derive(Debug)]
struct SeededRandom(Mutex<StdRng>);

impl SecureRandom for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        random.fill_bytes(bytes);
        Ok(())
    }
}
