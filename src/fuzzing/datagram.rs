//! Fuzz target: datagrams of strangers.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use bytes::BytesMut;
use quinn_proto::{FixedLengthConnectionIdParser, PartialDecode, Side};

use super::all;
use crate::{
    proto::{CONNECTION_ID_LEN, HeaderForm, MAX_SHARDS, Route, ShardCount, route},
    simulation::{
        frame::{self, Frame, some, some_bytes},
        initial::Addressed,
        network::Network,
        node::Setup,
    },
};

/// Checks that datagrams are routed as quinn-proto parses them. Then passes them to a node: its
/// connection continues, and it keeps no state for them.
pub fn datagram(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(shards) = input.int_in_range(1..=MAX_SHARDS) else {
        return;
    };
    let Ok(strangers) = all::<Stranger>(&mut input) else {
        return;
    };
    let datagrams: Vec<_> = strangers.iter().map(Stranger::datagram).collect();
    for datagram in &datagrams {
        check_route(datagram, ShardCount::new(shards).expect("in range"));
    }
    check_node(&datagrams);
}

/// A datagram from a sender without keys.
#[derive(Arbitrary, Debug)]
enum Stranger {
    Anything(#[arbitrary(with = some_bytes)] Vec<u8>),
    /// The first packet of a client.
    Initial {
        destination: [u8; 8],
        source: [u8; 8],
        #[arbitrary(with = some)]
        frames: Vec<Frame>,
        padded: bool,
    },
    LongHeader {
        first_byte: u8,
        version: Version,
        #[arbitrary(with = some_bytes)]
        destination: Vec<u8>,
        #[arbitrary(with = some_bytes)]
        rest: Vec<u8>,
        padded: bool,
    },
    ShortHeader {
        id: [u8; CONNECTION_ID_LEN],
        #[arbitrary(with = some_bytes)]
        rest: Vec<u8>,
    },
}

#[derive(Arbitrary, Debug)]
enum Version {
    Any(u32),
    Negotiation,
    One,
}

/// Smallest datagram that may begin a connection (RFC 9000 §14.1).
const SMALLEST_FIRST: usize = 1200;

/// Largest UDP payload.
const LARGEST: usize = 65_507;

impl Stranger {
    fn datagram(&self) -> Vec<u8> {
        match self {
            Self::Anything(bytes) => bytes.clone(),
            Self::Initial {
                destination,
                source,
                frames,
                padded,
            } => {
                let mut payload = frame::encode(frames);
                let smallest = if *padded { SMALLEST_FIRST } else { 4 };
                payload.resize(payload.len().clamp(smallest, 16_000), 0);
                let addressed = Addressed {
                    destination: destination.to_vec(),
                    source: source.to_vec(),
                };
                addressed.initial(Side::Client, &payload)
            }
            Self::LongHeader {
                first_byte,
                version,
                destination,
                rest,
                padded,
            } => {
                let version = match version {
                    Version::Any(version) => *version,
                    Version::Negotiation => 0,
                    Version::One => 1,
                };
                let destination = &destination[..destination.len().min(255)];
                let mut datagram = vec![0x80 | first_byte];
                datagram.extend(version.to_be_bytes());
                datagram.push(destination.len() as u8);
                datagram.extend(destination);
                datagram.extend(rest);
                if *padded {
                    datagram.resize(datagram.len().max(SMALLEST_FIRST), 0);
                }
                datagram
            }
            Self::ShortHeader { id, rest } => [&[0x40], &id[..], rest].concat(),
        }
    }
}

/// If quinn-proto finds a destination connection ID, the datagram is routed to that ID's shard.
fn check_route(datagram: &[u8], shards: ShardCount) {
    let routed = route(datagram, shards);
    let decoded = PartialDecode::new(
        BytesMut::from(datagram),
        &FixedLengthConnectionIdParser::new(CONNECTION_ID_LEN),
        &[1],
        false,
    );
    match (decoded, routed) {
        (Ok((packet, _)), Route::Quic { shard, header }) => {
            assert_eq!(shard, shards.of(packet.dst_cid()[0]));
            assert_eq!(header == HeaderForm::Long, datagram[0] & 0x80 != 0);
        }
        (Ok((packet, _)), Route::NonQuic | Route::Drop(_)) => {
            assert!(packet.dst_cid().is_empty(), "{routed:?}");
        }
        // A datagram that quinn-proto does not parse may go to any shard, or to none.
        (Err(_), Route::Quic { shard, .. }) => assert!(shard.index() < shards.count()),
        (Err(_), Route::NonQuic | Route::Drop(_)) => {}
    }
}

/// A listening node of two shards, with one connection to another node.
struct Scene {
    network: Network,
    /// The number of connections without strangers.
    connections: usize,
}

const DIALER: usize = 0;
const LISTENER: usize = 1;

/// The anti-amplification limit: bytes that may be sent to an unvalidated address for each byte
/// received from it (RFC 9000 §8.1).
const MOST_AMPLIFICATION: usize = 3;

fn check_node(datagrams: &[Vec<u8>]) {
    thread_local! {
        /// Its secrets differ from run to run, but the checks do not depend on them.
        static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
    }
    // After a failed run, the scene is discarded.
    let mut scene = SCENE.take().unwrap_or_else(Scene::new);
    scene.receive(datagrams);
    SCENE.set(Some(scene));
}

impl Scene {
    fn new() -> Self {
        let setup = Setup {
            shards: 2,
            ..Setup::default()
        };
        let mut network = Network::pair(1, setup.clone(), setup);
        network.connect(DIALER, LISTENER);
        network.run_for(Duration::from_secs(1));
        Self {
            network,
            connections: 1,
        }
    }

    fn receive(&mut self, datagrams: &[Vec<u8>]) {
        let network = &mut self.network;
        let stranger = SocketAddr::from(([198, 51, 100, 7], 4001));
        let (mut received, mut sent) = (0, 0);
        for datagram in datagrams {
            let datagram = &datagram[..datagram.len().min(LARGEST)];
            received += datagram.len();
            let now = network.now;
            network.nodes[LISTENER].receive(now, stranger, datagram);
            network.nodes[LISTENER].turn(now);
            for answer in network.nodes[LISTENER].take_outgoing() {
                if answer.to == stranger {
                    sent += answer.contents.len();
                }
            }
            assert!(
                sent <= MOST_AMPLIFICATION * received,
                "{sent} for {received}"
            );
        }
        network.nodes[LISTENER].accepted.clear();
        // Longer than the handshake timeout; more would take too long in millions of runs.
        network.run_for(Duration::from_secs(6));
        let (registry, _) = network.nodes[LISTENER].stats();
        assert_eq!(registry.connections, self.connections);
        assert_eq!((registry.pending_incoming, registry.initial_ids), (0, 1));
        assert_eq!(
            registry.issued_ids - registry.retired_ids,
            registry.active_ids
        );
        assert_eq!(network.nodes[LISTENER].shards[0].inbox_bytes(), 0);
    }
}
