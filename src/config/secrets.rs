//! Our keys for stateless resets and for Retry tokens.
//!
//! quinn-proto implements its key traits for the types of one crypto library, which it selects by
//! features that other crates in the same build may change. So this module implements the traits
//! for the library that we use.

use std::{fmt, net::SocketAddr};

use aws_lc_rs::{aead, constant_time, hkdf, hmac};
use libp2p_identity::Keypair;
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};

/// The secret from which the keys for stateless resets of one identity are derived; the same after
/// a restart.
#[derive(Clone)]
pub(super) struct ResetSecret(Option<[u8; 32]>);

impl ResetSecret {
    pub(super) fn new(keypair: &Keypair) -> Self {
        Self(keypair.derive_secret(b"libp2p-quinn stateless reset"))
    }

    /// The secret of one endpoint, or `None` if the identity's key type has no secret to derive
    /// from.
    ///
    /// `first_addr` is the address to which the transport has bound its first socket. Another
    /// transport with the same identity has another first address. So its key differs, and it
    /// computes no valid reset tokens for the IDs of this transport.
    pub(super) fn of_endpoint(&self, first_addr: SocketAddr, shard: usize) -> Option<[u8; 32]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0?);
        let info = format!("{first_addr} {shard}");
        hmac::sign(&key, info.as_bytes()).as_ref().try_into().ok()
    }
}

impl fmt::Debug for ResetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetSecret")
    }
}

/// Computes stateless reset tokens: the signature of a connection ID is its token (RFC 9000
/// §10.3.2).
pub(super) struct ResetKey(hmac::Key);

impl ResetKey {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        hmac::HMAC_SHA256.tag_len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = hmac::sign(&self.0, data);
        constant_time::verify_slices_are_equal(expected.as_ref(), signature)
            .map_err(|_| CryptoError)
    }
}

/// Encrypts Retry tokens, each with its own key (RFC 9000 §8.1.4).
pub(super) struct TokenKey(hkdf::Prk);

impl TokenKey {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"retry token").extract(secret))
    }
}

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        let info = [random_bytes];
        let key = self
            .0
            .expand(&info, &aead::AES_256_GCM)
            .expect("an AEAD key is shorter than HKDF's longest output");
        Box::new(SealingKey(aead::LessSafeKey::new(aead::UnboundKey::from(
            key,
        ))))
    }
}

struct SealingKey(aead::LessSafeKey);

impl SealingKey {
    /// Each key encrypts one token, so a constant nonce is safe.
    fn nonce() -> aead::Nonce {
        aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
    }
}

impl AeadKey for SealingKey {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        self.0
            .seal_in_place_append_tag(Self::nonce(), aead::Aad::from(additional_data), data)
            .map_err(|_| CryptoError)
    }

    fn open<'a>(
        &self,
        data: &'a mut [u8],
        additional_data: &[u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        self.0
            .open_in_place(Self::nonce(), aead::Aad::from(additional_data), data)
            .map_err(|_| CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_with_its_own_key_and_context() {
        let key = TokenKey::new(&[1; 32]);
        let mut token = b"address".to_vec();
        key.aead_from_hkdf(b"random")
            .seal(&mut token, b"context")
            .unwrap();
        assert_ne!(&token[..7], b"address");
        for (secret, random, context) in [
            ([2; 32], &b"random"[..], &b"context"[..]),
            ([1; 32], b"others", b"context"),
            ([1; 32], b"random", b"other"),
        ] {
            let opening = TokenKey::new(&secret).aead_from_hkdf(random);
            assert!(opening.open(&mut token.clone(), context).is_err());
        }
        let opening = key.aead_from_hkdf(b"random");
        assert_eq!(opening.open(&mut token, b"context").unwrap(), b"address");
    }

    #[test]
    fn a_reset_secret_is_that_of_one_identity_address_and_shard() {
        let identity = Keypair::generate_ed25519();
        let addr = SocketAddr::from(([192, 0, 2, 1], 4001));
        let secret = ResetSecret::new(&identity).of_endpoint(addr, 0);
        assert!(secret.is_some());
        let again = ResetSecret::new(&identity).of_endpoint(addr, 0);
        assert_eq!(secret, again, "after a restart");
        let other = ResetSecret::new(&Keypair::generate_ed25519()).of_endpoint(addr, 0);
        assert_ne!(secret, other);
        let of_identity = ResetSecret::new(&identity);
        let other_addr = SocketAddr::from(([192, 0, 2, 1], 4002));
        assert_ne!(secret, of_identity.of_endpoint(other_addr, 0));
        assert_ne!(secret, of_identity.of_endpoint(addr, 1));
        assert_eq!(format!("{of_identity:?}"), "ResetSecret");
    }

    #[test]
    fn a_reset_key_knows_its_own_signatures() {
        let key = ResetKey::new(&[1; 32]);
        let mut signature = vec![0; key.signature_len()];
        key.sign(b"id", &mut signature);
        assert!(key.verify(b"id", &signature).is_ok());
        assert!(key.verify(b"di", &signature).is_err());
        assert!(ResetKey::new(&[2; 32]).verify(b"id", &signature).is_err());
    }
}
