//! What an observer sees of handshakes: the headers of long packets, which are not encrypted (RFC
//! 8999 §5.1).

use crate::proto::CONNECTION_ID_LEN;
use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

/// All observed handshakes.
#[derive(Default)]
pub(crate) struct Handshakes {
    /// By the dialer's source connection ID.
    seen: BTreeMap<Id, Seen>,
    /// The dialer's ID, by the listener's.
    by_listener: BTreeMap<Id, Id>,
    zero_rtt_packets: usize,
}

type Id = Vec<u8>;

/// One handshake.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Time and source of its first packet.
    began: Instant,
    dialer: SocketAddr,
    dialer_has_moved: bool,
    /// Whether the dialer has Handshake keys, so that it has received the whole ServerHello.
    dialer_has_handshake_keys: bool,
    /// Bytes of the listener's Handshake packets that the dialer cannot acknowledge, because it
    /// lacks those keys.
    handshake_bytes: usize,
    /// Handshake packets that the listener has sent since its last Initial packet.
    handshakes_since_initial: usize,
    /// Unmodified Initial packets that the listener has received since then.
    initials_unanswered: usize,
    /// Datagrams of the dialer since its last one with a handshake packet.
    data_since_handshake: usize,
    /// Packets of the dialer's last flight, including retransmissions.
    dialer_finishes: usize,
    /// Datagrams with a part of the ClientHello or the ServerHello that have arrived.
    hellos_arrived: [usize; 2],
    /// Whether a flipped bit has changed a packet into one of a type without authentication.
    is_misread: bool,
    /// Whether the first Retry that arrived was corrupted.
    first_retry_was_spoiled: Option<bool>,
}

const DIALER: usize = 0;
const LISTENER: usize = 1;

/// The reason why a handshake does not complete although packets get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stuck {
    /// A flipped bit has changed a packet to the listener into a Retry, for which quinn-proto
    /// 0.11.19 ends the connection, or a packet to the dialer into a Version Negotiation packet,
    /// for which it has to end it (RFC 9000 §6.2). Neither is authenticated.
    Misread,
    /// The NAT has assigned another address to the dialer before the dialer knew that the handshake
    /// was confirmed. A peer must not migrate before that (RFC 9000 §9). The connection may also
    /// fall silent after the handshake.
    Moved,
    /// A Retry was corrupted on its path. quinn-proto 0.11.19 takes any Retry as a sign of life of
    /// the peer, even with a wrong integrity tag, and accepts no Retry after such a sign.
    SpoiledRetry,
    /// The dialer's quinn-proto 0.11.19 does not proceed. The reason is that of
    /// [`StarvedListener`](Self::StarvedListener), except that the end of the handshake waits for
    /// room, and application data fills the window.
    StarvedDialer,
    /// The listener's quinn-proto 0.11.19 does not proceed.
    ///
    /// A part of the ServerHello was declared lost, and waits for room in the congestion window.
    /// There is none: packets of the Handshake space fill the window, and the dialer does not have
    /// the keys yet to acknowledge them. Probes, which may exceed the window, are only sent in a
    /// space with packets in flight, and the Initial space has none. It does not even send
    /// acknowledgements there, because these would have to carry the ServerHello. (Other
    /// implementations have had the same problem: nginx #1616.)
    StarvedListener,
    /// Too few of the important packets have arrived, because each loss doubles the time to the
    /// next attempt: both halves of a Hello have to arrive, and the dialer's last flight begins
    /// again with a short time.
    Unlucky,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketType {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

/// A packet with a long header within its datagram.
#[derive(Debug)]
pub(crate) struct LongPacket<'a> {
    pub(crate) packet_type: PacketType,
    destination_id: &'a [u8],
    source_id: &'a [u8],
    len: usize,
}

impl Handshakes {
    pub(crate) fn sent(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        if let Some(listener) = short_header_id(datagram)
            && let Some(dialer) = self.by_listener.get(listener)
            && let Some(seen) = self.seen.get_mut(dialer)
        {
            seen.data_since_handshake += 1;
        }
        for packet in long_packets(datagram) {
            self.zero_rtt_packets += usize::from(packet.packet_type == PacketType::ZeroRtt);
            if let Some(seen) = self.seen.get_mut(packet.destination_id) {
                seen.listener_sent(&packet);
                let [dialer, listener] = [packet.destination_id, packet.source_id];
                self.by_listener.insert(listener.to_vec(), dialer.to_vec());
            } else if let Some(seen) = self.seen.get_mut(packet.source_id) {
                seen.dialer_sent(&packet, from);
            } else if packet.packet_type == PacketType::Initial {
                let id = packet.source_id.to_vec();
                self.seen.insert(id, Seen::new(now, from));
            }
        }
    }

    pub(crate) fn arrived(&mut self, datagram: &[u8], is_intact: bool) {
        if let Some(id) = version_negotiation_id(datagram)
            && let Some(seen) = self.seen.get_mut(id)
        {
            seen.is_misread |= !is_intact;
        }
        for packet in long_packets(datagram) {
            let is_initial = packet.packet_type == PacketType::Initial && is_intact;
            let has_hello = is_initial && packet.len > MERE_ACKNOWLEDGEMENT;
            if let Some(seen) = self.seen.get_mut(packet.source_id) {
                seen.initials_unanswered += usize::from(is_initial);
                seen.hellos_arrived[LISTENER] += usize::from(has_hello);
                seen.is_misread |= packet.packet_type == PacketType::Retry;
            }
            if let Some(seen) = self.seen.get_mut(packet.destination_id) {
                seen.hellos_arrived[DIALER] += usize::from(has_hello);
                if packet.packet_type == PacketType::Retry {
                    seen.first_retry_was_spoiled.get_or_insert(!is_intact);
                }
            }
        }
    }

    pub(crate) fn zero_rtt_packets(&self) -> usize {
        self.zero_rtt_packets
    }

    /// The reason why the handshake that `dialer` began at `began` does not complete, if there is
    /// one.
    ///
    /// The result is meaningless for a handshake that has completed.
    pub(crate) fn stuck(&self, began: Instant, dialer: SocketAddr) -> Option<Stuck> {
        self.seen
            .values()
            .find(|seen| (seen.began, seen.dialer) == (began, dialer))?
            .stuck()
    }
}

impl Seen {
    fn new(began: Instant, dialer: SocketAddr) -> Self {
        Self {
            began,
            dialer,
            dialer_has_moved: false,
            dialer_has_handshake_keys: false,
            handshake_bytes: 0,
            handshakes_since_initial: 0,
            initials_unanswered: 0,
            data_since_handshake: 0,
            dialer_finishes: 0,
            hellos_arrived: [0; 2],
            is_misread: false,
            first_retry_was_spoiled: None,
        }
    }

    fn dialer_sent(&mut self, packet: &LongPacket<'_>, from: SocketAddr) {
        self.dialer_has_moved |= from != self.dialer;
        if packet.packet_type == PacketType::Handshake {
            self.dialer_has_handshake_keys = true;
            self.dialer_finishes += usize::from(packet.len > MERE_ACKNOWLEDGEMENT);
            self.data_since_handshake = 0;
        }
    }

    fn listener_sent(&mut self, packet: &LongPacket<'_>) {
        match packet.packet_type {
            PacketType::Initial => {
                self.handshakes_since_initial = 0;
                self.initials_unanswered = 0;
            }
            PacketType::Handshake => {
                self.handshakes_since_initial += 1;
                self.handshake_bytes += packet.len;
            }
            PacketType::ZeroRtt | PacketType::Retry => {}
        }
    }

    fn stuck(&self) -> Option<Stuck> {
        /// Some of the packets that arrive may be pure acknowledgements, which need no answer.
        const ENOUGH: usize = 3;
        /// quinn-proto's initial window; without an acknowledgement it only shrinks.
        const CONGESTION_WINDOW: usize = 12_000;
        const DATAGRAM: usize = 1200;
        /// Among thousands of handshakes, it is not rare that the same half of a Hello is lost this
        /// many times.
        const FEW: usize = 5;

        if self.is_misread {
            return Some(Stuck::Misread);
        }
        if self.dialer_has_moved {
            return Some(Stuck::Moved);
        }
        if self.first_retry_was_spoiled == Some(true) && self.handshake_bytes == 0 {
            return Some(Stuck::SpoiledRetry);
        }
        if self.dialer_has_handshake_keys {
            if self.data_since_handshake >= ENOUGH {
                return Some(Stuck::StarvedDialer);
            }
            return (self.dialer_finishes <= FEW).then_some(Stuck::Unlucky);
        }
        let is_starved = self.initials_unanswered >= ENOUGH
            && self.handshakes_since_initial >= ENOUGH
            && self.handshake_bytes + DATAGRAM >= CONGESTION_WINDOW;
        if is_starved {
            return Some(Stuck::StarvedListener);
        }
        let is_unlucky = self.hellos_arrived.iter().any(|&arrived| arrived <= FEW);
        is_unlucky.then_some(Stuck::Unlucky)
    }
}

/// Handshake packets up to this size only acknowledge.
const MERE_ACKNOWLEDGEMENT: usize = 300;

/// The packets of a datagram, up to the first one with a short header.
pub(crate) fn long_packets(datagram: &[u8]) -> impl Iterator<Item = LongPacket<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (packet, behind) = long_packet(rest)?;
        rest = behind;
        Some(packet)
    })
}

fn short_header_id(datagram: &[u8]) -> Option<&[u8]> {
    let first = *datagram.first()?;
    (first & 0x80 == 0).then_some(datagram.get(1..1 + CONNECTION_ID_LEN)?)
}

fn version_negotiation_id(datagram: &[u8]) -> Option<&[u8]> {
    let [first, 0, 0, 0, 0, len, rest @ ..] = datagram else {
        return None;
    };
    (first & 0x80 != 0).then_some(rest.get(..usize::from(*len))?)
}

/// Parses a long packet of version 1 (RFC 9000 §17.2).
fn long_packet(datagram: &[u8]) -> Option<(LongPacket<'_>, &[u8])> {
    let rest = &mut &datagram[..];
    let first = take(rest, 1)?[0];
    if first & 0x80 == 0 || take(rest, 4)? != [0, 0, 0, 1] {
        return None;
    }
    let packet_type = match first >> 4 & 3 {
        0 => PacketType::Initial,
        1 => PacketType::ZeroRtt,
        2 => PacketType::Handshake,
        _ => PacketType::Retry,
    };
    let len = usize::from(take(rest, 1)?[0]);
    let destination_id = take(rest, len)?;
    let len = usize::from(take(rest, 1)?[0]);
    let source_id = take(rest, len)?;
    if packet_type == PacketType::Initial {
        let len = take_varint(rest)?;
        take(rest, len)?;
    }
    if packet_type == PacketType::Retry {
        *rest = &[];
    } else {
        let len = take_varint(rest)?;
        take(rest, len)?;
    }
    let len = datagram.len() - rest.len();
    let packet = LongPacket {
        packet_type,
        destination_id,
        source_id,
        len,
    };
    Some((packet, rest))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(taken)
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let first = *rest.first()?;
    let bytes = take(rest, 1 << (first >> 6))?;
    let value = bytes[1..]
        .iter()
        .fold(usize::from(first & 0x3f), |value, &byte| {
            value << 8 | usize::from(byte)
        });
    Some(value)
}
