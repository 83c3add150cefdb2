//! Peers that send more CRYPTO data than a handshake needs, or cut it into more pieces. They are
//! stopped before that costs much, and peers that behave like common implementations are not
//! affected.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Unstructured;
use futures::FutureExt;
use proptest::prelude::*;
use quinn_proto::{Side, TransportErrorCode};

use super::{
    link::{Impairments, Way},
    network::{Fault, Network},
    node::Setup,
    peer::Peer,
};
use crate::{
    error::{ConnectionError, HandshakeError},
    packets::Survey,
    proto::StreamId,
    simulation::{
        frame::{self, Frame, Number},
        initial::Addressed,
        rewrite::{Changes, Level},
    },
};

#[test]
fn pieces_that_come_for_ever_are_dropped_until_the_time_is_over() {
    let mut network = Network::new(1);
    network.add(Setup::default());
    network.add(Setup::default());
    let stranger = stranger();
    let deliver = |network: &mut Network, number| {
        let packet = stranger.numbered_initial(Side::Client, number, &padded_pieces(PIECES));
        let now = network.now;
        network.nodes[VICTIM].receive(now, ANYWHERE.into(), &packet);
        network.settle();
    };
    let packets = 200;
    for number in 0..packets {
        deliver(&mut network, number);
    }
    // The first packet does not count in the budget.
    let admitted = 1 + HANDSHAKE_FRAMES / PIECES as u64;
    let stats = network.nodes[VICTIM].stats();
    // The bytes of a handshake are limited as well.
    let dropped = stats.1.dropped_crypto + stats.0.dropped_handshake_full;
    assert_eq!(dropped, u64::from(packets) - admitted);
    assert!(stats.1.dropped_crypto > 50);
    // It keeps its place until then, and gets no other place instead.
    assert_eq!(stats.0.handshaking, 1);
    assert_honest_goes_on(&mut network);
    network.run_for(Duration::from_secs(5));
    network.run_until_empty();
    assert_eq!(network.nodes[VICTIM].stats().1.handshakes_timed_out, 1);
    network.nodes[VICTIM].assert_empty();
}

#[test]
fn first_packet_in_too_many_pieces_begins_nothing() {
    for (count, begun) in [(32, 1), (33, 0)] {
        let mut network = Network::new(1);
        network.add(Setup::default());
        let packet = stranger().initial(Side::Client, &padded_pieces(count));
        let now = network.now;
        network.nodes[VICTIM].receive(now, ANYWHERE.into(), &packet);
        network.settle();
        let stats = network.nodes[VICTIM].stats();
        assert_eq!(stats.0.connections, begun);
        assert_eq!(stats.1.dropped_crypto, 1 - begun as u64);
    }
}

#[test]
fn packet_in_too_many_pieces_is_dropped_alone() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    let first = Addressed::of(&network.in_flight_to(network.nodes[1].addr())[0]);
    network.run_for(Duration::from_millis(11));
    let from = network.nodes[0].addr();
    let now = network.now;
    for number in 0..50 {
        let packet = first.numbered_initial(Side::Client, 100 + number, &padded_pieces(33));
        network.nodes[1].receive(now, from, &packet);
    }
    network.settle();
    assert_eq!(network.nodes[1].stats().1.dropped_crypto, 50);
    let established = network.block_on(async move { dialer.established().await });
    assert_eq!(established.unwrap(), network.nodes[1].peer_id());
}

#[test]
fn dial_that_is_answered_with_too_much_fails_at_once() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    let flight = network.intercept();
    let first = Addressed::of(&flight[0].contents);
    let from = network.nodes[1].addr();
    let now = network.now;
    let packets = 30;
    for number in 0..packets {
        let packet = first.numbered_initial(Side::Server, number, &padded_pieces(PIECES));
        network.nodes[0].receive(now, from, &packet);
    }
    network.settle();
    let outcome = dialer.established().now_or_never().unwrap();
    assert_eq!(outcome, Err(HandshakeError::Connection(too_much())));
    let dropped = network.nodes[0].stats().1.dropped_crypto;
    assert_eq!(dropped, packets as u64 - HANDSHAKE_FRAMES / PIECES as u64);
    network.nodes[0].assert_empty();
}

#[test]
fn handshake_packets_in_too_many_pieces_end_nowhere() {
    for side in SIDES {
        let mut scene = Scene::new(Level::Handshake);
        for _ in 0..100 {
            scene.script(pieces(33));
        }
        let (from, to) = side.roles();
        scene.network.dial(from, to);
        scene.network.run_for(Duration::from_secs(10));
        let (registry, transport) = scene.network.nodes[VICTIM].stats();
        assert!(transport.dropped_crypto > 0, "{side:?}");
        let ended = (registry.connections, transport.handshakes_completed);
        assert_eq!(ended, (0, 0), "{side:?}");
        assert_honest_goes_on(&mut scene.network);
    }
}

#[test]
fn established_peer_may_send_a_little_and_is_let_go_then() {
    for side in SIDES {
        for updates_keys in [false, true] {
            let mut scene = Scene::new(Level::OneRtt);
            let mut pair = scene.connect(side);
            pair.say(&mut scene, pieces(17));
            assert_eq!((pair.acted_on(), scene.dropped()), (0, 1));
            for number in 0..8 {
                if updates_keys && number == 4 {
                    pair.hostile.with(|connection| connection.update_keys());
                }
                pair.say(&mut scene, pieces(16));
            }
            assert_eq!((pair.acted_on(), scene.dropped()), (128, 1));
            assert_eq!(pair.victim.loss(), None);
            pair.say(&mut scene, pieces(1));
            assert!(scene.dropped() > 1);
            assert_eq!(pair.victim.loss(), Some(too_much()));
            assert_honest_goes_on(&mut scene.network);
            scene.network.run_for(Duration::from_secs(5));
            let registry = scene.network.nodes[VICTIM].stats().0;
            assert_eq!(registry.connections, 0);
        }
    }
}

/// An observer sends a packet again and again that the peer has sent once.
#[test]
fn replayed_crypto_does_not_count() {
    for side in SIDES {
        let mut scene = Scene::new(Level::OneRtt);
        let pair = scene.connect(side);
        scene.script(pieces(2));
        let data = [0; LARGEST_PAYLOAD];
        assert_eq!(pair.hostile.write_now(pair.carrier, &data), data.len());
        scene.network.settle();
        let packets = scene.network.intercept();
        for packet in packets.iter().cycle().take(200 * packets.len()) {
            let now = scene.network.now;
            scene.network.nodes[VICTIM].receive(now, packet.from, &packet.contents);
            scene.network.settle();
        }
        assert_eq!((pair.acted_on(), scene.dropped()), (2, 0), "{side:?}");
        assert_eq!(pair.victim.loss(), None);
        assert_honest_goes_on(&mut scene.network);
    }
}

#[test]
fn hello_in_twenty_pieces_is_heard_however_often_it_comes() {
    let mut network = Network::new(1);
    network.add(Setup::default());
    let cutter = Arc::new(Mutex::new(Cutter::default()));
    network.add(Setup {
        changes: Changes::said({
            let cutter = Arc::clone(&cutter);
            Arc::new(Mutex::new(move |level, payload: &mut [u8]| {
                if level == Level::Initial {
                    cutter.lock().unwrap().cut(payload);
                }
            }))
        }),
        ..Setup::default()
    });
    network.impair(Impairments {
        duplication: 1.0,
        ..Impairments::NONE
    });
    // This makes the dialer send all of it twice.
    let to_dialer = Way {
        from: VICTIM,
        to: DIALER,
    };
    network.schedule(
        Duration::ZERO,
        Fault::Cut(to_dialer, Duration::from_millis(900)),
    );
    network.run_for(Duration::from_micros(1));
    let dialer = network.dial(DIALER, VICTIM);
    network.settle();
    // And three more times, each time doubled as well.
    let hello = network.in_flight_to(network.nodes[VICTIM].addr());
    assert_eq!(hello.len(), 4);
    let from = network.nodes[DIALER].addr();
    let now = network.now;
    for datagram in hello.iter().cycle().take(3 * hello.len()) {
        network.nodes[VICTIM].receive(now, from, datagram);
    }
    let established = network.block_on(async move { dialer.established().await });
    assert_eq!(established.unwrap(), network.nodes[VICTIM].peer_id());
    assert!(network.elapsed() > Duration::from_millis(900));
    assert_eq!(cutter.lock().unwrap().packets, 4);
    assert_eq!(network.nodes[VICTIM].stats().1.dropped_crypto, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn as_many_frames_are_counted_as_quinn_proto_acts_on(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        crypto_at in prop::collection::vec(0_usize..8, 0..3),
        odd_at in prop::collection::vec((0_usize..8, 0..ODD_FRAMES.len()), 0..4),
    ) {
        let mut frames = frame::some::<Frame>(&mut Unstructured::new(&bytes)).unwrap();
        for at in crypto_at {
            let data = vec![1; at];
            frames.insert(at.min(frames.len()), Frame::Crypto { offset: Number(9), data });
        }
        for (at, odd) in odd_at {
            frames.insert(at.min(frames.len()), Frame::Raw(ODD_FRAMES[odd].to_vec()));
        }
        let mut said = frame::encode(&frames);
        said.truncate(CARRIER);
        let mut scene = Scene::new(Level::OneRtt);
        let mut pair = scene.connect(Hostile::Dials);
        let payload = pair.say(&mut scene, said);
        let counted = Survey::of(&payload, usize::MAX).crypto as u64;
        if counted > 16 {
            prop_assert_eq!(pair.acted_on(), 0);
        } else if pair.victim.loss().is_none() {
            prop_assert_eq!(pair.acted_on(), counted);
        } else {
            // The count stops at an invalid frame.
            prop_assert!(pair.acted_on() <= counted);
        }
    }
}

/// Frames of extensions, and types and lengths in longer encodings.
const ODD_FRAMES: &[&[u8]] = &[
    &[0x1f],
    &[0x40, 0xaf, 1, 2, 0x50, 0, 4],
    &[0x31, 3, 6, 0, 0],
    &[0x40, 0x00],
    &[0x40, 0x06, 0x40, 0x07, 0x40, 0x02, 8, 8],
    &[0x80, 0, 0, 6, 5, 1, 8],
    &[0x40, 0x01],
    &[0x03, 0, 0, 0, 0, 1, 2, 3],
];

/// This many pieces of one byte, with a gap behind each and before the first.
fn pieces(count: usize) -> Vec<u8> {
    let pieces: Vec<_> = (0..count as u64)
        .map(|number| Frame::Crypto {
            offset: Number(1 + 2 * number),
            data: vec![0],
        })
        .collect();
    frame::encode(&pieces)
}

/// The same pieces in a payload that is large enough for an Initial packet.
pub(super) fn padded_pieces(count: usize) -> Vec<u8> {
    let mut payload = pieces(count);
    payload.resize(1200, 0);
    payload
}

fn too_much() -> ConnectionError {
    ConnectionError::Violation {
        code: TransportErrorCode::CRYPTO_BUFFER_EXCEEDED.into(),
        reason: "too much CRYPTO".into(),
    }
}

/// An attacker who has never seen a packet of ours.
pub(super) fn stranger() -> Addressed {
    Addressed {
        destination: vec![7; 8],
        source: vec![8; 8],
    }
}

fn assert_honest_goes_on(network: &mut Network) {
    network.nodes[VICTIM].accepted.clear();
    let (dialer, listener) = network.connect(HONEST, VICTIM);
    let received = network.block_on(async move {
        let stream = dialer.open().await.unwrap();
        dialer.write_all(stream, b"still here").await.unwrap();
        dialer.finish(stream).unwrap();
        let accepted = listener.accept().await.unwrap();
        let received = listener.read_to_end(accepted).await;
        dialer.abandon();
        received
    });
    assert_eq!(received.as_deref(), Ok(&b"still here"[..]));
}

/// The role of the hostile peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hostile {
    Dials,
    Listens,
}

const SIDES: [Hostile; 2] = [Hostile::Dials, Hostile::Listens];

impl Hostile {
    /// The node that dials, and the one that it dials.
    fn roles(self) -> (usize, usize) {
        match self {
            Self::Dials => (HOSTILE, VICTIM),
            Self::Listens => (VICTIM, HOSTILE),
        }
    }
}

/// A node, an honest peer, and a hostile peer that sends given frames in packets of one level.
struct Scene {
    network: Network,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    to_say: VecDeque<Vec<u8>>,
    /// The payload of the last packet with frames of the script.
    said: Vec<u8>,
}

impl Scene {
    fn new(hostile_at: Level) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let mut network = Network::new(1);
        network.add(Setup::default());
        network.add(Setup::default());
        network.add(Setup {
            changes: Changes::said({
                let script = Arc::clone(&script);
                Arc::new(Mutex::new(move |level, payload: &mut [u8]| {
                    let mut script = script.lock().unwrap();
                    let fits = |frames: &Vec<u8>| frames.len() <= payload.len();
                    if level == hostile_at
                        && script.to_say.front().is_some_and(fits)
                        && let Some(frames) = script.to_say.pop_front()
                    {
                        frame::overwrite(payload, &frames);
                        script.said = payload.to_vec();
                    }
                }))
            }),
            ..Setup::default()
        });
        Self { network, script }
    }

    fn script(&mut self, frames: Vec<u8>) {
        self.script.lock().unwrap().to_say.push_back(frames);
    }

    fn connect(&mut self, side: Hostile) -> Pair {
        let (from, to) = side.roles();
        let (dialer, listener) = self.network.connect(from, to);
        self.network.run_for(Duration::from_secs(1));
        let (hostile, victim) = match side {
            Hostile::Dials => (dialer, listener),
            Hostile::Listens => (listener, dialer),
        };
        Pair {
            carrier: hostile.open().now_or_never().unwrap().unwrap(),
            of_handshake: crypto_frames(&victim),
            hostile,
            victim,
        }
    }

    fn dropped(&self) -> u64 {
        self.network.nodes[VICTIM].stats().1.dropped_crypto
    }
}

/// The two ends of the hostile peer's connection.
struct Pair {
    hostile: Peer,
    victim: Peer,
    /// A stream whose data makes the hostile peer send packets. The data never arrives.
    carrier: StreamId,
    of_handshake: u64,
}

impl Pair {
    /// Makes the hostile peer send these frames in its next packet, and waits for the effects.
    /// Returns the payload of that packet.
    fn say(&mut self, scene: &mut Scene, frames: Vec<u8>) -> Vec<u8> {
        scene.script(frames);
        let data = [0; LARGEST_PAYLOAD];
        assert_eq!(self.hostile.write_now(self.carrier, &data), data.len());
        scene.network.run_for(Duration::from_millis(45));
        let script = scene.script.lock().unwrap();
        assert!(script.to_say.is_empty());
        script.said.clone()
    }

    /// The number of CRYPTO frames processed after the handshake.
    fn acted_on(&self) -> u64 {
        crypto_frames(&self.victim) - self.of_handshake
    }
}

fn crypto_frames(peer: &Peer) -> u64 {
    peer.with(|connection| connection.crypto_frames_received())
}

/// Cuts each datagram of a ClientHello that takes two datagrams into twenty pieces, and shuffles
/// these.
#[derive(Default)]
struct Cutter {
    hello: Vec<u8>,
    packets: usize,
}

impl Cutter {
    fn cut(&mut self, payload: &mut [u8]) {
        // Acknowledgements are not changed.
        let [0x06, first, ..] = *payload else {
            return;
        };
        let (offset, rest) = match first {
            0 => (0, &payload[2..]),
            _ => (number(&payload[1..]), &payload[3..]),
        };
        let data = &rest[2..2 + number(rest)];
        self.hello.truncate(offset);
        self.hello.extend(data);
        // Smaller than in the original packet, so that there is room for the headers of the pieces.
        let range = match offset {
            0 => 0..FIRST_PART,
            _ => FIRST_PART..self.hello.len(),
        };
        let begin = range.start;
        let part = &self.hello[range];
        let mut pieces: Vec<_> = part
            .chunks(part.len().div_ceil(PIECES_OF_HELLO))
            .enumerate()
            .map(|(number, piece)| Frame::Crypto {
                offset: Number((begin + number * part.len().div_ceil(PIECES_OF_HELLO)) as u64),
                data: piece.to_vec(),
            })
            .collect();
        assert_eq!(pieces.len(), PIECES_OF_HELLO);
        pieces.rotate_left(7);
        pieces.reverse();
        let frames = frame::encode(&pieces);
        assert!(frames.len() <= payload.len());
        frame::overwrite(payload, &frames);
        self.packets += 1;
    }
}

/// A variable-length integer of two bytes.
fn number(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]) & 0x3fff)
}

const VICTIM: usize = 0;
const HONEST: usize = 1;
const HOSTILE: usize = 2;

/// The dialer in a network of two nodes.
const DIALER: usize = 1;

pub(super) const ANYWHERE: ([u8; 4], u16) = ([192, 0, 2, 77], 4001);

/// The limit on frames of a handshake.
const HANDSHAKE_FRAMES: u64 = 640;

/// Pieces in one packet, fewer than it may have.
const PIECES: usize = 30;

const PIECES_OF_HELLO: usize = 20;

/// Bytes of the ClientHello in its first datagram.
const FIRST_PART: usize = 1000;

/// Bytes that fit into a packet on any path.
const CARRIER: usize = 1150;

/// Data that fills a packet of its own on this path.
const LARGEST_PAYLOAD: usize = 1472;
