//! Limits on the CRYPTO frames of a peer.
//!
//! quinn-proto keeps CRYPTO data that arrives out of order, in pieces, and sorts the pieces. The
//! cost grows with the number of pieces and with the size of the packets that contain them; a
//! handshake needs few of either. So frames and bytes are counted as soon as a packet is decrypted,
//! and a packet over a limit fails to decrypt.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use bytes::{BufMut, BytesMut};
use quinn_proto::crypto::{CryptoError, PacketKey};

use super::{
    frames::{self, Survey},
    watch::PacketWatch,
};

/// How much CRYPTO data a peer has sent over one connection. The session and its keys share it.
#[derive(Debug)]
pub(crate) struct CryptoBudget {
    handshake: Spent,
    established: Spent,
    exceeded: AtomicBool,
    dropped: Arc<DroppedPackets>,
}

impl CryptoBudget {
    pub(crate) fn new(dropped: &Arc<DroppedPackets>) -> Arc<Self> {
        Arc::new(Self {
            handshake: Spent::default(),
            established: Spent::default(),
            exceeded: AtomicBool::new(false),
            dropped: Arc::clone(dropped),
        })
    }

    /// Whether the peer has exceeded the limits of the connection. If so, all further packets fail
    /// to decrypt.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn admits(&self, phase: Phase, frames: usize, payload: usize) -> bool {
        let (limits, spent) = match phase {
            Phase::Handshake => (&HANDSHAKE, &self.handshake),
            Phase::Established => (&ESTABLISHED, &self.established),
        };
        let bytes = frames.saturating_mul(payload);
        if frames > limits.frames_in_packet || bytes > limits.bytes_in_packet {
            return false;
        }
        let fits = spent.add(frames, bytes, limits);
        if !fits {
            self.exceeded.store(true, Ordering::Relaxed);
        }
        fits
    }
}

/// The phase of the connection to which a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Initial and Handshake packets. They have one budget: honest peers send little in both, and
    /// two budgets would permit twice as much.
    Handshake,
    /// 1-RTT packets, whatever their key phase.
    Established,
}

/// The sums that were admitted. Only the connection's driver decrypts, so load and store need not
/// be one atomic operation.
#[derive(Debug, Default)]
struct Spent {
    frames: AtomicU32,
    bytes: AtomicU32,
}

impl Spent {
    fn add(&self, frames: usize, bytes: usize, limits: &Limits) -> bool {
        let add = |to: &AtomicU32, more: usize, limit: u32| {
            let sum = u32::try_from(more)
                .ok()
                .and_then(|more| to.load(Ordering::Relaxed).checked_add(more))
                .filter(|sum| *sum <= limit);
            if let Some(sum) = sum {
                to.store(sum, Ordering::Relaxed);
            }
            sum.is_some()
        };
        add(&self.frames, frames, limits.frames) && add(&self.bytes, bytes, limits.bytes)
    }
}

/// The number of packets that all connections of a transport dropped because of CRYPTO frames.
#[derive(Debug, Default)]
pub(crate) struct DroppedPackets(AtomicU64);

impl DroppedPackets {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        tracing::trace!(reason = "dropped_crypto", "dropped a packet");
    }
}

/// Decrypts a peer's packets, except those with too much CRYPTO data.
pub(crate) struct LimitedKey<K> {
    key: K,
    budget: Arc<CryptoBudget>,
    /// Of 1-RTT packets only: tells which have come before.
    watch: Option<Arc<PacketWatch>>,
}

impl<K: PacketKey> LimitedKey<K> {
    /// A key of Initial or Handshake packets.
    pub(crate) fn of_handshake(key: K, budget: &Arc<CryptoBudget>) -> Self {
        Self {
            key,
            budget: Arc::clone(budget),
            watch: None,
        }
    }

    /// A key of 1-RTT packets.
    pub(crate) fn established(
        key: K,
        budget: &Arc<CryptoBudget>,
        watch: &Arc<PacketWatch>,
    ) -> Self {
        Self {
            key,
            budget: Arc::clone(budget),
            watch: Some(Arc::clone(watch)),
        }
    }

    fn phase(&self) -> Phase {
        match self.watch {
            Some(_) => Phase::Established,
            None => Phase::Handshake,
        }
    }

    /// Whether quinn-proto will drop the packet because it has come before. Anybody on the path can
    /// send it again, so it must not count.
    ///
    /// Packets of the handshake always count: an attacker who can replay them can end the handshake
    /// anyway (RFC 9000 §21.1.3), and the bytes of a handshake are limited.
    fn is_repeated(&self, packet: u64) -> bool {
        (self.watch.as_ref()).is_some_and(|watch| watch.is_repeated(packet))
    }
}

impl<K: PacketKey> PacketKey for LimitedKey<K> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.key.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        if self.budget.is_exceeded() {
            self.budget.dropped.add();
            return Err(CryptoError);
        }
        self.key.decrypt(packet, header, payload)?;
        let Survey { crypto, padding } = Survey::of(payload, MOST_COUNTED);
        let len = payload.len() - padding;
        if crypto > 0 && !self.is_repeated(packet) && !self.budget.admits(self.phase(), crypto, len)
        {
            self.budget.dropped.add();
            return Err(CryptoError);
        }
        // quinn-proto may keep a part of the payload, and assumes that this part holds as much
        // memory as the payload has bytes. Until here the payload is a part of its datagram, or
        // even of a whole batch, so it is copied.
        if crypto > 0 || padding > MUCH_PADDING {
            *payload = frames::without_padding(payload, padding);
            if payload.is_empty() {
                // The payload had only PADDING. A packet without any frame would be an error (RFC
                // 9000 §12.4).
                payload.put_u8(0);
            }
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

/// Limits on frames, and on bytes. For each frame, all bytes of its packet's payload count, without
/// PADDING: until quinn-proto copies a piece, the piece holds the whole payload.
struct Limits {
    frames_in_packet: usize,
    bytes_in_packet: usize,
    frames: u32,
    bytes: u32,
}

/// Most peers split their ClientHello, which takes one or two datagrams, into one to four frames,
/// and browsers into ten or twenty for each datagram. If such a client sends all of it four more
/// times and the network delivers everything twice, that makes 400 frames and 560 KiB.
///
/// The worst packet within these limits took 90 µs, and the worst handshake 1 ms.
const HANDSHAKE: Limits = Limits {
    frames_in_packet: 32,
    // 32 frames in a datagram of Ethernet's size.
    bytes_in_packet: 48 * 1024,
    frames: 640,
    bytes: 1024 * 1024,
};

/// After the handshake there are one to four session tickets. Retransmitted and delivered as often
/// as above, each in two frames, they make 80 frames. Packets may then be as large as datagrams, so
/// the limits on bytes add nothing to those on frames.
const ESTABLISHED: Limits = Limits {
    frames_in_packet: 16,
    bytes_in_packet: 16 * LARGEST_DATAGRAM,
    frames: 128,
    bytes: 128 * LARGEST_DATAGRAM as u32,
};

const LARGEST_DATAGRAM: usize = 65_535;

/// Frames beyond this need not be counted: the packet is over the limit anyway.
const MOST_COUNTED: usize = HANDSHAKE.frames_in_packet + 1;

/// From this many bytes of PADDING on, copying the payload without them is faster than quinn-proto,
/// which reads PADDING byte by byte.
const MUCH_PADDING: usize = 128;
