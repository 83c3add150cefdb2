//! What quinn-proto does not tell of 1-RTT packets, and what it should not see of them.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::BytesMut;
use quinn_proto::crypto::{CryptoError, HeaderKey, PacketKey};

use super::{
    payload::{PathToken, Survey, has_stream_data, path_tokens, without_padding},
    stream_credit::lower_stream_limits,
};
use crate::sync::lock_alone;

/// Looks into the 1-RTT packets of one connection: for the data of path validation frames (RFC 9000
/// §8.2), and for stream data that there is no memory for. The session and the keys share it.
#[derive(Debug, Default)]
pub(crate) struct PacketWatch {
    /// Credit for each stream that quinn-proto gives and the peer does not get, at first and now.
    first_withheld: u64,
    withheld: AtomicU64,
    /// Almost always nobody looks for path validation, and no payload is searched for it.
    is_watched: AtomicBool,
    refuses_data: AtomicBool,
    refused: AtomicU64,
    /// One more than the largest number of a packet that the peer has made.
    received: AtomicU64,
    jumps: AtomicU64,
    seen: Mutex<Seen>,
    header_key: OnceLock<SharedHeaderKey>,
}

#[derive(Debug, Default)]
struct Seen {
    challenge: Option<Challenge>,
    response: Option<u64>,
}

/// A packet with PATH_CHALLENGE that was made.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub(crate) token: u64,
    /// The same packet without PADDING, to be sent *in place of* the one that was made: both have the
    /// same number, so that never both may be sent (RFC 9001 §5.3).
    pub(crate) unpadded: Vec<u8>,
}

impl PacketWatch {
    /// Of a connection that begins with so much less credit for each stream than quinn-proto gives.
    pub(super) fn new(withheld_credit: u64) -> Self {
        Self {
            first_withheld: withheld_credit,
            withheld: AtomicU64::new(withheld_credit),
            ..Self::default()
        }
    }

    /// Streams get so much more credit from now on than they began with. What they have got they
    /// keep (RFC 9000 §4.1).
    pub(crate) fn give_more_credit(&self, bytes: u64) {
        let withheld = self.first_withheld.saturating_sub(bytes);
        self.withheld.store(withheld, Ordering::Relaxed);
    }

    /// Packets with stream data are dropped from now on, or no more; the peer will send them again.
    pub(crate) fn refuse_data(&self, refuses: bool) {
        self.refuses_data.store(refuses, Ordering::Relaxed);
    }

    /// How many were dropped since the last call.
    pub(crate) fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// Grows with each packet that is newer than all before. Whoever looks on can send others
    /// again, and make up any that do not pass for the peer's.
    pub(crate) fn newest(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How often a packet number did not follow the largest one before it, by loss, because packets
    /// have overtaken others, or because one was refused.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    fn note_number(&self, number: u64) {
        let next = (self.received).fetch_max(number.saturating_add(1), Ordering::Relaxed);
        if number > next {
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn refuses(&self, payload: &[u8]) -> bool {
        let refuses = self.refuses_data.load(Ordering::Relaxed) && has_stream_data(payload);
        if refuses {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
        refuses
    }

    /// Looks for path validation from now on, or no more.
    pub(crate) fn watch(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
        if !is_watched {
            *lock_alone(&self.seen) = Seen::default();
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// The last PATH_CHALLENGE that was made since the last call.
    pub(crate) fn take_challenge(&self) -> Option<Challenge> {
        lock_alone(&self.seen).challenge.take()
    }

    /// The key for headers of 1-RTT packets, of which there is one for as long as the connection lasts.
    pub(super) fn share_header_key(&self, key: Box<dyn HeaderKey>) -> SharedHeaderKey {
        let key = SharedHeaderKey(Arc::from(key));
        self.header_key.get_or_init(|| key.clone());
        key
    }

    /// The data of the last PATH_RESPONSE that was received since the last call.
    pub(crate) fn take_response(&self) -> Option<u64> {
        lock_alone(&self.seen).response.take()
    }

    fn note_received(&self, payload: &[u8]) {
        for token in path_tokens(payload) {
            if let PathToken::Response(token) = token {
                lock_alone(&self.seen).response = Some(token);
            }
        }
    }

    /// A packet that will be encrypted.
    fn note_sent(&self, number: u64, header: &[u8], payload: &[u8], key: &impl PacketKey) {
        let challenge = path_tokens(payload).find_map(|token| match token {
            PathToken::Challenge(token) => Some(token),
            PathToken::Response(_) => None,
        });
        let (Some(token), Some(header_key)) = (challenge, self.header_key.get()) else {
            return;
        };
        let Survey { padding, .. } = Survey::of(payload, usize::MAX);
        let mut unpadded = [header, &without_padding(payload, padding)].concat();
        unpadded.resize(unpadded.len() + key.tag_len(), 0);
        key.encrypt(number, &mut unpadded, header.len());
        let number_len = header.first().map_or(1, |first| (first & NUMBER_LEN) + 1);
        header_key.encrypt(header.len() - usize::from(number_len), &mut unpadded);
        lock_alone(&self.seen).challenge = Some(Challenge { token, unpadded });
    }
}

/// A key for headers that is in use in two places.
#[derive(Clone)]
pub(super) struct SharedHeaderKey(Arc<dyn HeaderKey>);

impl HeaderKey for SharedHeaderKey {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.decrypt(pn_offset, packet);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.encrypt(pn_offset, packet);
    }

    fn sample_size(&self) -> usize {
        self.0.sample_size()
    }
}

impl fmt::Debug for SharedHeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedHeaderKey")
    }
}

/// The key of 1-RTT packets, which sees what is in them.
pub(super) struct WatchedKey<K> {
    key: K,
    watch: Arc<PacketWatch>,
}

impl<K> WatchedKey<K> {
    pub(super) fn new(key: K, watch: &Arc<PacketWatch>) -> Self {
        Self {
            key,
            watch: Arc::clone(watch),
        }
    }
}

impl<K: PacketKey> PacketKey for WatchedKey<K> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len().saturating_sub(self.key.tag_len());
        let withheld = self.watch.withheld.load(Ordering::Relaxed);
        if withheld > 0
            && let Some(payload) = buf.get_mut(header_len..end)
        {
            lower_stream_limits(payload, withheld);
        }
        if self.watch.is_watched()
            && let (Some(header), Some(payload)) = (buf.get(..header_len), buf.get(header_len..end))
        {
            self.watch.note_sent(packet, header, payload, &self.key);
        }
        self.key.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.key.decrypt(packet, header, payload)?;
        self.watch.note_number(packet);
        if self.watch.refuses(payload) {
            return Err(CryptoError);
        }
        if self.watch.is_watched() {
            self.watch.note_received(payload);
        }
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

/// Bits of the first byte with the length of the packet number less one (RFC 9000 §17.3.1).
const NUMBER_LEN: u8 = 0x03;
