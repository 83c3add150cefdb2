//! What peers answer to PATH_CHALLENGE, which quinn-proto does not tell.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::BytesMut;
use quinn_proto::crypto::{CryptoError, PacketKey};

use super::payload::{PathToken, path_tokens};
use crate::sync::{Mutex, lock};

/// The data of path validation frames (RFC 9000 §8.2) that one connection has sent and received. The
/// session and the keys share it.
#[derive(Debug, Default)]
pub(crate) struct PathTokens {
    /// Almost always nobody looks for them, and no payload is searched.
    is_watched: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    challenge: Option<u64>,
    response: Option<u64>,
}

impl PathTokens {
    /// Looks for them from now on, or no more.
    pub(crate) fn watch(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
        if !is_watched {
            *lock(&self.seen) = Seen::default();
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// The data of the last PATH_CHALLENGE that was sent since the last call.
    pub(crate) fn take_challenge(&self) -> Option<u64> {
        lock(&self.seen).challenge.take()
    }

    /// The data of the last PATH_RESPONSE that was received since the last call.
    pub(crate) fn take_response(&self) -> Option<u64> {
        lock(&self.seen).response.take()
    }

    fn note(&self, payload: &[u8], is_sent: bool) {
        if !self.is_watched() {
            return;
        }
        for token in path_tokens(payload) {
            match (token, is_sent) {
                (PathToken::Challenge(token), true) => lock(&self.seen).challenge = Some(token),
                (PathToken::Response(token), false) => lock(&self.seen).response = Some(token),
                _ => {}
            }
        }
    }
}

/// The key of 1-RTT packets, which sees what is in them.
pub(super) struct WatchedKey<K> {
    key: K,
    tokens: Arc<PathTokens>,
}

impl<K> WatchedKey<K> {
    pub(super) fn new(key: K, tokens: &Arc<PathTokens>) -> Self {
        Self {
            key,
            tokens: Arc::clone(tokens),
        }
    }
}

impl<K: PacketKey> PacketKey for WatchedKey<K> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len().saturating_sub(self.key.tag_len());
        self.tokens
            .note(buf.get(header_len..end).unwrap_or_default(), true);
        self.key.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.key.decrypt(packet, header, payload)?;
        self.tokens.note(payload, false);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}
