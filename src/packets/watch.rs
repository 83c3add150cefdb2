//! Inspects 1-RTT packets: for what quinn-proto does not report, and for what it must not process.

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
    final_sizes::FinalSizes,
    frames::{
        PathToken, Survey, extents, has_stream_data, make_transport_close, path_tokens,
        without_padding,
    },
    repeats::Numbers,
    stream_credit::{StreamCredit, StreamWindows},
    stream_ends::{EndedStream, EndedStreams},
    stream_fill::{Fill, LastFill},
};
use crate::sync::lock_unmodelled;

/// Inspects the 1-RTT packets of one connection: for the data of path validation frames (RFC 9000
/// §8.2), for stream data for which there is no memory, for the credit of streams, and for their
/// ends. The session and its keys share it.
#[derive(Debug, Default)]
pub(crate) struct PacketWatch {
    /// Whether payloads are searched for path validation frames. It is rarely needed.
    is_watched: AtomicBool,
    drops_data: AtomicBool,
    dropped: AtomicU64,
    /// Whether the connection ends with a transport error.
    ends_with_error: AtomicBool,
    /// One more than the largest packet number received from the peer.
    received: AtomicU64,
    jumps: AtomicU64,
    /// Of the packets that were passed to quinn-proto.
    numbers: Mutex<Numbers>,
    /// If the windows of streams may grow.
    credit: Option<Arc<StreamCredit>>,
    ended_streams: EndedStreams,
    final_sizes: Arc<FinalSizes>,
    last_fill: LastFill,
    seen: Mutex<Seen>,
    header_key: OnceLock<SharedHeaderKey>,
}

#[derive(Debug, Default)]
struct Seen {
    challenge: Option<Challenge>,
    response: Option<u64>,
}

/// A packet with PATH_CHALLENGE that was sent.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub(crate) token: u64,
    /// The same packet without PADDING, to be sent *instead of* the original: both have the same
    /// packet number, so only one of them may be sent (RFC 9001 §5.3).
    pub(crate) unpadded: Vec<u8>,
}

impl PacketWatch {
    pub(crate) fn new(windows: StreamWindows) -> Self {
        Self {
            credit: windows
                .may_grow()
                .then(|| Arc::new(StreamCredit::new(windows))),
            ..Self::default()
        }
    }

    /// The credit of the connection's streams, if their windows may grow.
    pub(crate) fn stream_credit(&self) -> Option<Arc<StreamCredit>> {
        self.credit.clone()
    }

    /// Up to where the connection's streams have data.
    pub(crate) fn final_sizes(&self) -> Arc<FinalSizes> {
        Arc::clone(&self.final_sizes)
    }

    /// Whether the peer has ended a stream before data that it had sent.
    pub(crate) fn violates_final_size(&self) -> bool {
        self.final_sizes.is_violated()
    }

    /// The streams that the peer has ended since the last call.
    pub(crate) fn take_ended_streams(&self) -> Vec<EndedStream> {
        self.ended_streams.take()
    }

    /// The STREAM frame that fills the last packet, if one does.
    pub(crate) fn last_fill(&self) -> Option<Fill> {
        self.last_fill.get()
    }

    /// Sets whether packets with stream data are dropped; the peer retransmits them.
    pub(crate) fn drop_data(&self, drops: bool) {
        self.drops_data.store(drops, Ordering::Relaxed);
    }

    /// The number of packets dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Increases with each packet that is newer than all before. An attacker on the path can replay
    /// the peer's packets, and can forge packets that fail authentication; neither increases it.
    pub(crate) fn newest(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How often a packet number was larger than the next expected one: because of loss,
    /// reordering, or a packet that was dropped.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    /// Turns the application's error with which quinn-proto closes the connection into a transport
    /// error. The first byte of its reason is left out.
    pub(crate) fn end_with_error(&self) {
        self.ends_with_error.store(true, Ordering::Relaxed);
    }

    /// Whether quinn-proto drops a packet with this number, because it may have come before.
    pub(super) fn is_repeated(&self, number: u64) -> bool {
        lock_unmodelled(&self.numbers).has(number)
    }

    fn note_number(&self, number: u64) {
        // Only the driver decrypts, so that nobody writes between the two.
        let next = self.received.load(Ordering::Relaxed);
        if number >= next {
            self.received
                .store(number.saturating_add(1), Ordering::Relaxed);
        }
        if number > next {
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn drops(&self, payload: &[u8]) -> bool {
        let drops = self.drops_data.load(Ordering::Relaxed) && has_stream_data(payload);
        if drops {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
        drops
    }

    /// Starts or stops looking for path validation frames.
    pub(crate) fn watch(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
        if !is_watched {
            *lock_unmodelled(&self.seen) = Seen::default();
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// The last PATH_CHALLENGE sent since the last call.
    pub(crate) fn take_challenge(&self) -> Option<Challenge> {
        lock_unmodelled(&self.seen).challenge.take()
    }

    /// Shares the key for headers of 1-RTT packets. It stays the same for the whole connection.
    pub(crate) fn share_header_key(&self, key: Box<dyn HeaderKey>) -> SharedHeaderKey {
        let key = SharedHeaderKey(Arc::from(key));
        self.header_key.get_or_init(|| key.clone());
        key
    }

    /// The data of the last PATH_RESPONSE received since the last call.
    pub(crate) fn take_response(&self) -> Option<u64> {
        lock_unmodelled(&self.seen).response.take()
    }

    fn note_received(&self, payload: &[u8]) {
        for token in path_tokens(payload) {
            if let PathToken::Response(token) = token {
                lock_unmodelled(&self.seen).response = Some(token);
            }
        }
    }

    /// Notes the frames of a packet. `false` if quinn-proto must not process it.
    fn note_streams(&self, payload: &[u8], is_dropped: bool) -> bool {
        self.last_fill.clear();
        for extent in extents(payload) {
            if !is_dropped && !self.final_sizes.allows(extent) {
                return false;
            }
            if let Some(credit) = &self.credit {
                credit.check(extent);
            }
            self.last_fill.note(extent, payload.len());
            if !is_dropped {
                self.ended_streams.note(extent);
            }
        }
        true
    }

    /// Notes a packet that is about to be encrypted.
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
        lock_unmodelled(&self.seen).challenge = Some(Challenge { token, unpadded });
    }
}

/// A header protection key that is used in two places.
#[derive(Clone)]
pub(crate) struct SharedHeaderKey(Arc<dyn HeaderKey>);

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

/// A key of 1-RTT packets that inspects their payloads.
pub(crate) struct WatchedKey<K> {
    key: K,
    watch: Arc<PacketWatch>,
}

impl<K> WatchedKey<K> {
    pub(crate) fn new(key: K, watch: &Arc<PacketWatch>) -> Self {
        Self {
            key,
            watch: Arc::clone(watch),
        }
    }
}

impl<K: PacketKey> PacketKey for WatchedKey<K> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len().saturating_sub(self.key.tag_len());
        if let Some(credit) = &self.watch.credit
            && let Some(payload) = buf.get_mut(header_len..end)
        {
            credit.lower(payload);
        }
        if self.watch.ends_with_error.load(Ordering::Relaxed)
            && let Some(payload) = buf.get_mut(header_len..end)
        {
            make_transport_close(payload);
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
        if self.watch.drops(payload) {
            return Err(CryptoError);
        }
        if self.watch.is_watched() {
            self.watch.note_received(payload);
        }
        let is_dropped = lock_unmodelled(&self.watch.numbers).note(packet);
        if self.watch.note_streams(payload, is_dropped) {
            Ok(())
        } else {
            Err(CryptoError)
        }
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

/// The bits of the first byte that hold the length of the packet number, less one (RFC 9000
/// §17.3.1).
const NUMBER_LEN: u8 = 0x03;
