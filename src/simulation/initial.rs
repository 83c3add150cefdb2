//! Packets that anyone can forge who has seen a dialer's first packet.

use std::sync::LazyLock;

use libp2p_identity::Keypair;
use quinn_proto::{ConnectionId, Side};

use crate::{authenticator::Authenticator, proto::long_header_id};

/// The connection IDs of a dialer's first packet, which are not encrypted.
#[derive(Clone, Debug)]
pub(crate) struct Addressed {
    pub(crate) destination: Vec<u8>,
    pub(crate) source: Vec<u8>,
}

impl Addressed {
    /// The IDs of this first packet.
    pub(crate) fn of(first: &[u8]) -> Self {
        let destination = long_header_id(first).unwrap().to_vec();
        let rest = &first[6 + destination.len()..];
        Self {
            source: rest[1..1 + usize::from(rest[0])].to_vec(),
            destination,
        }
    }

    /// An Initial packet with the keys derived from the destination ID (RFC 9001 §5.2). Header
    /// protection requires a payload of at least four bytes.
    pub(crate) fn initial(&self, from: Side, payload: &[u8]) -> Vec<u8> {
        /// Higher than all numbers so far.
        const NUMBER: u32 = 77;

        self.numbered_initial(from, NUMBER, payload)
    }

    /// Like [`initial`](Self::initial), with this packet number.
    pub(crate) fn numbered_initial(&self, from: Side, number: u32, payload: &[u8]) -> Vec<u8> {
        self.initial_with(0, from, number, payload)
    }

    /// A client's Initial packet whose reserved bits are not zero (RFC 9000 §17.2).
    pub(crate) fn invalid_initial(&self, payload: &[u8]) -> Vec<u8> {
        self.initial_with(0x0c, Side::Client, 0, payload)
    }

    fn initial_with(&self, bits: u8, from: Side, number: u32, payload: &[u8]) -> Vec<u8> {
        const NUMBER_LEN: usize = 4;

        let keys = ANYBODY
            .server()
            .initial_keys(1, &ConnectionId::new(&self.destination))
            .ok()
            .unwrap();
        let (to, own, header_key, key) = match from {
            Side::Server => (
                &self.source,
                &self.destination,
                keys.header.local,
                keys.packet.local,
            ),
            Side::Client => (
                &self.destination,
                &self.source,
                keys.header.remote,
                keys.packet.remote,
            ),
        };
        let mut packet = header(0xc0 | bits | (NUMBER_LEN as u8 - 1), 1, to, own);
        // No token.
        packet.push(0);
        let len = NUMBER_LEN + payload.len() + key.tag_len();
        packet.extend((0x4000 | len as u16).to_be_bytes());
        let number_offset = packet.len();
        packet.extend(number.to_be_bytes());
        let header_len = packet.len();
        packet.extend(payload);
        packet.resize(packet.len() + key.tag_len(), 0);
        key.encrypt(number.into(), &mut packet, header_len);
        header_key.encrypt(number_offset, &mut packet);
        packet
    }

    /// The integrity tag of a Retry packet (RFC 9001 §5.8).
    pub(crate) fn retry_tag(&self, packet: &[u8]) -> [u8; 16] {
        let original = ConnectionId::new(&self.destination);
        ANYBODY.server().retry_tag(1, &original, packet)
    }
}

/// A long header up to the source connection ID (RFC 9000 §17.2).
pub(crate) fn header(first_byte: u8, version: u32, to: &[u8], from: &[u8]) -> Vec<u8> {
    let mut header = vec![first_byte];
    header.extend(version.to_be_bytes());
    for id in [to, from] {
        header.push(id.len() as u8);
        header.extend(id);
    }
    header
}

/// Any authenticator will do, because the keys of Initial packets do not depend on it.
static ANYBODY: LazyLock<Authenticator> =
    LazyLock::new(|| Authenticator::new(&Keypair::generate_ed25519(), None).unwrap());
