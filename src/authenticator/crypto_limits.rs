//! How much CRYPTO a peer may send.
//!
//! quinn-proto keeps CRYPTO data that came too early, in pieces, and puts the pieces in order. What
//! that costs grows with their number, and with the size of the packets that they came in; a
//! handshake needs few of either. So they are counted as soon as a packet is decrypted, and what is
//! over a limit fails to decrypt.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use bytes::{BufMut, BytesMut};
use quinn_proto::crypto::{CryptoError, PacketKey};

use super::payload::{self, Survey};

/// The CRYPTO that a peer has sent over one connection. The session and the keys share it.
#[derive(Debug)]
pub(crate) struct CryptoBudget {
    handshake: Spent,
    established: Spent,
    exceeded: AtomicBool,
    dropped: Arc<DroppedPackets>,
}

impl CryptoBudget {
    pub(super) fn new(dropped: &Arc<DroppedPackets>) -> Arc<Self> {
        Arc::new(Self {
            handshake: Spent::default(),
            established: Spent::default(),
            exceeded: AtomicBool::new(false),
            dropped: Arc::clone(dropped),
        })
    }

    /// Whether the peer has sent more than a connection takes. None of its packets is decrypted any
    /// more.
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

/// How far a connection is that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Initial and Handshake packets. They have one budget: honest peers send little in both, and
    /// two budgets would permit twice as much.
    Handshake,
    /// 1-RTT packets, whatever their key phase.
    Established,
}

/// What was admitted. Only the driver of a connection decrypts, so that a sum of two halves is right.
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

/// Packets that all connections of a transport have dropped for their CRYPTO.
#[derive(Debug, Default)]
pub(super) struct DroppedPackets(AtomicU64);

impl DroppedPackets {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Decrypts the packets of a peer, but for those with too much CRYPTO.
pub(super) struct LimitedKey<K> {
    key: K,
    phase: Phase,
    budget: Arc<CryptoBudget>,
}

impl<K: PacketKey> LimitedKey<K> {
    pub(super) fn new(key: K, phase: Phase, budget: &Arc<CryptoBudget>) -> Self {
        Self {
            key,
            phase,
            budget: Arc::clone(budget),
        }
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
        if crypto > 0 && !self.budget.admits(self.phase, crypto, len) {
            self.budget.dropped.add();
            return Err(CryptoError);
        }
        // quinn-proto may keep a part of it, and takes the size of the payload for what that holds.
        // Until now it was a part of its datagram, if not of a whole batch.
        if crypto > 0 || padding > MUCH_PADDING {
            *payload = payload::without_padding(payload, padding);
            if payload.is_empty() {
                // It was nothing but PADDING, which is something (RFC 9000 §12.4).
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

/// Frames count, and for each of them all bytes of its packet's payload, but for PADDING: until
/// quinn-proto has copied a piece, it holds the payload that it is a part of.
struct Limits {
    frames_in_packet: usize,
    bytes_in_packet: usize,
    frames: u32,
    bytes: u32,
}

/// Most peers cut their ClientHello, which takes a datagram or two, into one to four frames, and
/// browsers into ten or twenty for each datagram. If such a one sends all of it four times more, and
/// the network delivers everything twice, these are 400 frames, and 560 KiB.
///
/// The worst packet that is admitted has cost 90 µs, and the worst handshake 1 ms.
const HANDSHAKE: Limits = Limits {
    frames_in_packet: 32,
    // As many as that in a datagram for Ethernet.
    bytes_in_packet: 48 * 1024,
    frames: 640,
    bytes: 1024 * 1024,
};

/// After the handshake there are session tickets, one to four of them. Sent and delivered as often
/// as above, each in two frames, these are 80. Packets may be as large as datagrams by then, so
/// their bytes limit nothing beyond that.
const ESTABLISHED: Limits = Limits {
    frames_in_packet: 16,
    bytes_in_packet: 16 * LARGEST_DATAGRAM,
    frames: 128,
    bytes: 128 * LARGEST_DATAGRAM as u32,
};

const LARGEST_DATAGRAM: usize = 65_535;

/// Enough to tell that it is too many.
const MOST_COUNTED: usize = HANDSHAKE.frames_in_packet + 1;

/// Bytes of PADDING that take quinn-proto, which reads them one by one, longer than a copy of the
/// payload without them takes us.
const MUCH_PADDING: usize = 128;
