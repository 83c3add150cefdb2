//! Authentication: our certificate, the peer's certificate, and TLS.
//!
//! libp2p authenticates both sides with TLS 1.3. Each side has an ephemeral key in a self-signed
//! certificate. An extension has the host key and its signature of the ephemeral key ([libp2p TLS
//! specification]).
//!
//! [libp2p TLS specification]: https://github.com/libp2p/specs/blob/master/tls/tls.md

use std::sync::Arc;

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::crypto;
use rustls::{
    KeyLog,
    crypto::CryptoProvider,
    time_provider::{DefaultTimeProvider, TimeProvider},
};

#[cfg(any(test, fuzzing))]
pub(crate) use self::deterministic::{Protection, deterministic};
pub use self::{
    error::{CertificateError, GenerateError},
    peer::{VerifiedPeer, verify_certificate},
};
pub(crate) use self::{
    provider::crypto_provider,
    session::{Negotiated, Peer},
};
use self::{session::Sessions, tls::Tls};
use crate::packets::{DroppedPackets, StreamWindows};

mod cache;
mod certificate;
mod der;
#[cfg(any(test, fuzzing))]
mod deterministic;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod host_key;
mod peer;
#[cfg(test)]
mod plain;
mod post_handshake;
mod provider;
mod rsa;
mod session;
mod signature;
mod signed_key;
#[cfg(test)]
mod tests;
mod tls;
mod verifier;

/// The certificate of one configuration, and TLS with it in both roles.
#[derive(Clone, Debug)]
pub(crate) struct Authenticator {
    sessions: Arc<Sessions>,
    dropped: Arc<DroppedPackets>,
    /// Of the streams of its connections.
    windows: StreamWindows,
}

impl Authenticator {
    /// Creates a certificate with a fresh key, which `host` signs.
    ///
    /// `key_log` receives the secrets of every connection, with which its traffic can be decrypted.
    pub(crate) fn new(
        host: &Keypair,
        key_log: Option<Arc<dyn KeyLog>>,
    ) -> Result<Self, GenerateError> {
        Self::with_parts(
            host,
            &certificate::generate_key()?,
            Arc::new(crypto_provider()),
            Arc::new(DefaultTimeProvider),
            key_log,
        )
    }

    /// Like [`new`](Self::new), with the sources of all that differs from run to run: the
    /// certificate's key, randomness (in `provider`) and time. With a key whose signatures are
    /// deterministic, such as Ed25519, the same arguments give the same handshakes.
    pub(crate) fn with_parts(
        host: &Keypair,
        certificate_key: &rcgen::KeyPair,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn TimeProvider>,
        key_log: Option<Arc<dyn KeyLog>>,
    ) -> Result<Self, GenerateError> {
        let certificate = certificate::generate(host, certificate_key)?;
        let tls = Tls::new(certificate, provider, clock, key_log).map_err(GenerateError::tls)?;
        Ok(Self {
            sessions: Arc::new(Sessions::new(tls)?),
            dropped: Arc::default(),
            windows: StreamWindows::default(),
        })
    }

    /// A copy with its own count of dropped packets.
    pub(crate) fn counting_for_itself(self) -> Self {
        Self {
            dropped: Arc::default(),
            ..self
        }
    }

    /// A copy for connections whose streams have these windows. quinn-proto must be configured with
    /// the largest one.
    pub(crate) fn with_windows(&self, windows: StreamWindows) -> Self {
        Self {
            windows,
            ..self.clone()
        }
    }

    /// The number of packets dropped because of their CRYPTO frames.
    pub(crate) fn dropped_crypto(&self) -> u64 {
        self.dropped.count()
    }

    pub(crate) fn reset_dropped_crypto(&self) {
        self.dropped.reset();
    }

    /// The TLS client of one dial. The handshake fails unless the peer proves to be `expected`, if
    /// that is given.
    pub(crate) fn client(&self, expected: Option<PeerId>) -> Arc<dyn crypto::ClientConfig> {
        Arc::new(session::ClientConfig {
            sessions: self.sessions.clone(),
            dropped: self.dropped.clone(),
            expected,
            windows: self.windows,
        })
    }

    /// The TLS server of all listeners.
    pub(crate) fn server(&self) -> Arc<dyn crypto::ServerConfig> {
        Arc::new(session::ServerConfig {
            sessions: self.sessions.clone(),
            dropped: self.dropped.clone(),
            windows: self.windows,
        })
    }
}
