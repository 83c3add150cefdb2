//! Finds the shard of a datagram from its version-independent bytes (RFC 8999).

use quinn_proto::{VarInt, coding::Codec};

use super::connection_id::{CONNECTION_ID_LEN, ShardCount, ShardId};

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Not QUIC: the first two bits are zero, as in STUN (RFC 9443 §3).
    NonQuic,
    /// QUIC; `shard` owns it.
    Quic {
        /// The shard to which the destination connection ID belongs.
        shard: ShardId,
        /// The header form of the first packet (RFC 8999 §5).
        header: HeaderForm,
    },
    /// The datagram is malformed.
    Drop(Malformed),
}

/// Header form (RFC 8999 §5.1, §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderForm {
    /// Initial, 0-RTT, Handshake and Retry packets, and packets of other versions.
    Long,
    /// 1-RTT packets and stateless resets.
    Short,
}

/// The reason why a datagram is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The datagram is empty.
    Empty,
    /// It has no connection ID: we never issue an empty ID, and a client must choose at least 8
    /// bytes (RFC 9000 §7.2).
    NoConnectionId,
    /// It ends before the end of its destination connection ID.
    Truncated,
}

/// Routes a datagram by `dcid[0] mod N`, independent of the socket on which it arrived.
///
/// This is arithmetic over the invariant bytes of RFC 8999: there is no table to look up or to
/// lock, and nothing that a forged datagram could change.
pub(crate) fn route(datagram: &[u8], shards: ShardCount) -> Route {
    let Some(&first) = datagram.first() else {
        return Route::Drop(Malformed::Empty);
    };
    let (id, header) = if first & LONG_HEADER != 0 {
        let Some(id) = long_header_id(datagram) else {
            return Route::Drop(Malformed::Truncated);
        };
        (id, HeaderForm::Long)
    } else if first & FIXED_BIT != 0 {
        let Some(id) = datagram.get(1..1 + CONNECTION_ID_LEN) else {
            return Route::Drop(Malformed::Truncated);
        };
        (id, HeaderForm::Short)
    } else {
        return Route::NonQuic;
    };
    match id.first() {
        Some(&first) => Route::Quic {
            shard: shards.of(first),
            header,
        },
        None => Route::Drop(Malformed::NoConnectionId),
    }
}

/// The destination connection ID of a packet with a long header (RFC 8999 §5.1).
pub(crate) fn long_header_id(datagram: &[u8]) -> Option<&[u8]> {
    let (&first, _) = datagram.split_first()?;
    if first & LONG_HEADER == 0 {
        return None;
    }
    let (&id_len, rest) = datagram.get(LONG_ID_LEN_OFFSET..)?.split_first()?;
    rest.get(..usize::from(id_len))
}

/// The offset of the packet with a short header in a datagram that begins with long headers (RFC
/// 9000 §12.2), if there is one.
pub(super) fn short_packet_offset(datagram: &[u8]) -> Option<usize> {
    let mut offset = 0;
    loop {
        let packet = datagram.get(offset..)?;
        let first = packet.first()?;
        if first & LONG_HEADER == 0 {
            // Some implementations fill a datagram with zeros, which are no packet.
            return (first & FIXED_BIT != 0).then_some(offset);
        }
        offset += long_packet_len(packet)?;
    }
}

/// Length of a packet with a long header of version 1 that has a length field (RFC 9000 §17.2).
fn long_packet_len(packet: &[u8]) -> Option<usize> {
    let mut rest = packet.get(LONG_ID_LEN_OFFSET..)?;
    if packet.get(1..LONG_ID_LEN_OFFSET)? != VERSION_1 {
        return None;
    }
    for _ in 0..2 {
        let (&id_len, after) = rest.split_first()?;
        rest = after.get(usize::from(id_len)..)?;
    }
    match packet.first()? & LONG_TYPE {
        INITIAL => {
            let token_len = take_len(&mut rest)?;
            rest = rest.get(token_len..)?;
        }
        RETRY => return None,
        _ => {}
    }
    let len = take_len(&mut rest)?;
    let header_len = packet.len() - rest.len();
    rest.get(..len).map(|_| header_len + len)
}

fn take_len(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(VarInt::decode(bytes).ok()?.into_inner()).ok()
}

/// QUIC version 1.
const VERSION_1: [u8; 4] = [0, 0, 0, 1];

/// The bits of the first byte that encode the type of a long packet (RFC 9000 §17.2), and two of
/// the types.
const LONG_TYPE: u8 = 0x30;
const INITIAL: u8 = 0x00;
const RETRY: u8 = 0x30;

/// Header form bit (RFC 8999 §5).
const LONG_HEADER: u8 = 0x80;

/// Fixed bit (RFC 9000 §17.2). Our packets always set it, because we do not use RFC 9287.
const FIXED_BIT: u8 = 0x40;

/// Offset of the length of the destination connection ID: after the first byte and the version.
const LONG_ID_LEN_OFFSET: usize = 5;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use quinn_proto::{FixedLengthConnectionIdParser, PartialDecode};

    use super::*;

    /// A datagram with a long header, from its parts.
    fn long(first: u8, version: u32, dcid: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut datagram = vec![first | 0x80];
        datagram.extend(version.to_be_bytes());
        datagram.push(dcid.len() as u8);
        datagram.extend(dcid);
        datagram.extend(rest);
        datagram
    }

    /// The bytes after the destination connection ID: a source ID, and a payload of `len` bytes.
    fn payload(token: Option<&[u8]>, len: usize) -> Vec<u8> {
        let mut rest = vec![4, 1, 2, 3, 4];
        if let Some(token) = token {
            rest.push(token.len() as u8);
            rest.extend(token);
        }
        rest.extend((0x4000 | len as u16).to_be_bytes());
        rest.resize(rest.len() + len, 7);
        rest
    }

    #[test]
    fn packet_with_a_short_header_is_found_behind_long_ones() {
        let initial = long(0x40, 1, &[9; 8], &payload(Some(&[5; 30]), 100));
        let handshake = long(0x60, 1, &[9; 8], &payload(None, 300));
        let retry = long(0x70, 1, &[9; 8], &payload(None, 30));
        let other = long(0x60, 2, &[9; 8], &payload(None, 30));
        let short = [&[0x41], &[9; 40][..]].concat();
        for long in [
            initial.clone(),
            handshake.clone(),
            [&initial[..], &handshake].concat(),
        ] {
            assert_eq!(short_packet_offset(&long), None);
            let datagram = [&long[..], &short].concat();
            assert_eq!(short_packet_offset(&datagram), Some(long.len()));
        }
        // These packets have no length field.
        for long in [retry, other] {
            assert_eq!(short_packet_offset(&[&long[..], &short].concat()), None);
        }
        // aioquic pads first datagrams like this.
        assert_eq!(
            short_packet_offset(&[&initial[..], &[0; 900]].concat()),
            None
        );
        assert_eq!(short_packet_offset(&short), Some(0));
        assert_eq!(short_packet_offset(&[]), None);
        let datagram = [&handshake[..], &short].concat();
        for end in 0..=handshake.len() {
            assert_eq!(short_packet_offset(&datagram[..end]), None, "{end}");
        }
    }

    #[test]
    fn truncated_headers_are_told_from_empty_ones() {
        let shards = ShardCount::new(4).unwrap();
        assert_eq!(route(&[], shards), Route::Drop(Malformed::Empty));
        assert_eq!(route(&[0xc0; 5], shards), Route::Drop(Malformed::Truncated));
        assert_eq!(
            route(&long(0xc0, 1, &[], &[0; 40]), shards),
            Route::Drop(Malformed::NoConnectionId)
        );
        let whole = long(0xc0, 1, &[9; 8], &[]);
        assert_eq!(
            route(&whole[..whole.len() - 1], shards),
            Route::Drop(Malformed::Truncated)
        );
        assert_eq!(route(&[0x40; 8], shards), Route::Drop(Malformed::Truncated));
        assert!(matches!(route(&[0x40; 9], shards), Route::Quic { .. }));
    }

    #[test]
    fn stun_is_not_quic() {
        // A Binding request: type 0x0001, magic cookie 0x2112a442 (RFC 8489 §5).
        let request = [
            0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
        ];
        assert_eq!(route(&request, ShardCount::new(2).unwrap()), Route::NonQuic);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 2_000 }))]

        /// If quinn-proto finds a destination connection ID, the datagram is routed to that ID's
        /// shard.
        #[test]
        fn agrees_with_the_parser_of_quinn_proto(
            first in any::<u8>(),
            version in prop_oneof![Just(1_u32), Just(0), any::<u32>()],
            dcid in proptest::collection::vec(any::<u8>(), 0..24),
            rest in proptest::collection::vec(any::<u8>(), 0..64),
            short in any::<bool>(),
            count in 1..=super::super::connection_id::MAX_SHARDS,
        ) {
            let datagram = if short {
                [&[first & 0x7f][..], &dcid, &rest].concat()
            } else {
                long(first, version, &dcid, &rest)
            };
            let shards = ShardCount::new(count).unwrap();
            let decoded = PartialDecode::new(
                BytesMut::from(&datagram[..]),
                &FixedLengthConnectionIdParser::new(CONNECTION_ID_LEN),
                &[1],
                false,
            );
            match (decoded, route(&datagram, shards)) {
                (Ok((packet, _)), Route::Quic { shard, header }) => {
                    prop_assert_eq!(shard, shards.of(packet.dst_cid()[0]));
                    prop_assert_eq!(header == HeaderForm::Long, datagram[0] & 0x80 != 0);
                }
                (Ok((packet, _)), other) => {
                    prop_assert!(packet.dst_cid().is_empty(), "{:?}", other);
                }
                // A datagram that quinn-proto does not parse may go to any shard, or to none.
                (Err(_), _) => {}
            }
        }

        #[test]
        fn short_packets_are_looked_for_in_any_bytes(
            datagram in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let offset = short_packet_offset(&datagram);
            prop_assert!(offset.is_none_or(|offset| datagram[offset] & 0x80 == 0));
        }

        /// No input causes a panic, and the route is always an existing shard.
        #[test]
        fn takes_any_bytes(
            datagram in proptest::collection::vec(any::<u8>(), 0..80),
            count in 1..=super::super::connection_id::MAX_SHARDS,
        ) {
            if let Route::Quic { shard, .. } = route(&datagram, ShardCount::new(count).unwrap()) {
                prop_assert!(shard.index() < usize::from(count));
            }
        }
    }
}
