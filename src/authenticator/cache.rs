//! A cache of verified certificates.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use lru::LruCache;
use rustls::crypto::WebPkiSupportedAlgorithms;

use super::{
    error::CertificateError,
    peer::{Examined, VerifiedPeer},
    signature::CertificateKey,
};

/// The certificates verified last.
///
/// If a peer presents exactly the same certificate again, its two signatures are not verified
/// again. Its validity period is checked each time, and the peer has to sign each handshake in any
/// case.
pub(super) struct VerifiedCertificates(Mutex<LruCache<Digest, Examined>>);

type Digest = [u8; SHA256_OUTPUT_LEN];

impl VerifiedCertificates {
    /// Does what [`Examined::examine`] and [`Examined::check`] do together.
    pub(super) fn examine(
        &self,
        der: &[u8],
        now: i64,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(VerifiedPeer, CertificateKey), CertificateError> {
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, der).as_ref());
        let known = self.lock().get(&key).cloned();
        if let Some(examined) = known {
            return examined.check(now);
        }
        let examined = Examined::examine(der, now, algorithms)?;
        self.lock().put(key, examined.clone());
        examined.check(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Digest, Examined>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for VerifiedCertificates {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl fmt::Debug for VerifiedCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedCertificates")
            .field("len", &self.lock().len())
            .finish()
    }
}

/// More peers than most nodes are connected to; each entry takes half a kilobyte.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");
