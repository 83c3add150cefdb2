//! Who is there: our certificate, the peer's, and TLS around both.
//!
//! libp2p authenticates with TLS 1.3 in both directions. Each side has an ephemeral key in a
//! self-signed certificate, with an extension in which its host key vouches for the ephemeral
//! key ([libp2p TLS specification]).
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
#[cfg(test)]
pub(crate) use self::payload::Survey;
pub(crate) use self::{
    crypto_limits::CryptoBudget,
    packet_watch::{Challenge, PacketWatch},
    provider::crypto_provider,
    session::{Negotiated, Peer},
};
use self::{crypto_limits::DroppedPackets, session::Sessions, tls::Tls};
pub use self::{
    error::{CertificateError, GenerateError},
    peer::{PeerAuthenticator, VerifiedPeer},
};

mod cache;
mod certificate;
mod crypto_limits;
mod der;
#[cfg(any(test, fuzzing))]
mod deterministic;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod host_key;
mod packet_watch;
mod payload;
mod peer;
#[cfg(test)]
mod plain;
mod post_handshake;
mod provider;
mod rsa;
mod session;
mod signature;
mod signed_key;
mod stream_credit;
#[cfg(test)]
mod tests;
mod tls;
mod verifier;

/// The certificate of one transport, and TLS with it in both roles.
#[derive(Clone, Debug)]
pub(crate) struct Authenticator {
    sessions: Arc<Sessions>,
    dropped: Arc<DroppedPackets>,
    withheld_credit: u64,
}

impl Authenticator {
    /// Create a certificate with a fresh key, vouched for by `host`.
    pub(crate) fn new(host: &Keypair) -> Result<Self, GenerateError> {
        Self::with_parts(
            host,
            &certificate::generate_key()?,
            Arc::new(crypto_provider()),
            Arc::new(DefaultTimeProvider),
            None,
        )
    }

    /// As [`new`](Self::new), with everything that is not a function of its input given: the
    /// certificate's key, randomness (in `provider`) and time. With a key whose signatures are
    /// deterministic, such as Ed25519, the same parts make the same handshakes.
    ///
    /// `key_log` receives the secrets of every connection and makes its traffic readable.
    pub(crate) fn with_parts(
        host: &Keypair,
        certificate_key: &rcgen::KeyPair,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn TimeProvider>,
        key_log: Option<Arc<dyn KeyLog>>,
    ) -> Result<Self, GenerateError> {
        let certificate = certificate::generate(host, certificate_key)?;
        let tls = Tls::new(certificate, provider, clock, key_log).map_err(GenerateError::Tls)?;
        Ok(Self {
            sessions: Arc::new(Sessions::new(tls)?),
            dropped: Arc::default(),
            withheld_credit: 0,
        })
    }

    /// The same, with a count of dropped packets of its own.
    pub(crate) fn counting_for_itself(self) -> Self {
        Self {
            dropped: Arc::default(),
            ..self
        }
    }

    /// The same, with connections that begin with so much less credit for each stream than
    /// quinn-proto has in mind.
    pub(crate) fn withholding(&self, withheld_credit: u64) -> Self {
        Self {
            withheld_credit,
            ..self.clone()
        }
    }

    /// Packets dropped for their CRYPTO.
    pub(crate) fn dropped_crypto(&self) -> u64 {
        self.dropped.count()
    }

    pub(crate) fn reset_dropped_crypto(&self) {
        self.dropped.reset();
    }

    /// The TLS client of one dial. The handshake fails unless the peer proves to be `expected`,
    /// where that is given.
    pub(crate) fn client(&self, expected: Option<PeerId>) -> Arc<dyn crypto::ClientConfig> {
        Arc::new(session::ClientConfig {
            sessions: self.sessions.clone(),
            dropped: self.dropped.clone(),
            expected,
            withheld_credit: self.withheld_credit,
        })
    }

    /// The TLS server of all listeners.
    pub(crate) fn server(&self) -> Arc<dyn crypto::ServerConfig> {
        Arc::new(session::ServerConfig {
            sessions: self.sessions.clone(),
            dropped: self.dropped.clone(),
            withheld_credit: self.withheld_credit,
        })
    }
}
