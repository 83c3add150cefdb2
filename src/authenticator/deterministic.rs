//! Handshakes that can be replayed: a seed determines everything random in them.

#![allow(
    clippy::unwrap_used,
    reason = "what goes wrong here, goes wrong in a test"
)]

use std::{cell::RefCell, sync::Arc};

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

#[cfg(test)]
use super::plain;
use super::{Authenticator, crypto_provider};

/// An authenticator whose handshakes are a function of `host`, `seed`, the time of `clock`, and the
/// handshakes made before on this thread.
///
/// The secrets of its connections are public.
pub(crate) fn deterministic(
    host: &Keypair,
    seed: u64,
    clock: Arc<dyn TimeProvider>,
    protection: Protection,
) -> Authenticator {
    RANDOM.set(Some(StdRng::seed_from_u64(seed)));
    let usual = crypto_provider();
    let provider = CryptoProvider {
        cipher_suites: match protection {
            Protection::Usual => usual.cipher_suites,
            #[cfg(test)]
            Protection::None => plain::cipher_suites(),
        },
        kx_groups: vec![&LargePublicSecret],
        secure_random: &ThreadRandom,
        ..usual
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

/// The protection of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protection {
    #[default]
    Usual,
    /// None, which costs less time. Both sides have to agree.
    #[cfg(test)]
    None,
}

thread_local! {
    /// rustls requires `'static` randomness, so it cannot belong to one authenticator.
    static RANDOM: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// An Ed25519 key, because its signatures are deterministic.
pub(super) fn certificate_key(seed: u64) -> rcgen::KeyPair {
    /// A PKCS#8 v1 document without the 32 bytes of the key (RFC 8410 §7).
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];

    let mut document = HEAD.to_vec();
    document.extend(certificate_seed(seed));
    rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(document),
        &rcgen::PKCS_ED25519,
    )
    .unwrap()
}

/// The 32 bytes of the private key.
pub(super) fn certificate_seed(seed: u64) -> [u8; 32] {
    [seed.to_be_bytes(); 4].concat().try_into().unwrap()
}

/// A key exchange with a public secret and keys of X25519MLKEM768's size, so that the ClientHello
/// takes two datagrams as it does by default.
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

/// Random bytes from the seed of this thread's newest authenticator.
#[derive(Debug)]
struct ThreadRandom;

impl SecureRandom for ThreadRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        RANDOM.with_borrow_mut(|random| {
            random.as_mut().ok_or(GetRandomFailed)?.fill_bytes(bytes);
            Ok(())
        })
    }
}
