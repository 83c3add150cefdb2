//! Datagrams of attackers without keys other than those that anyone can derive. They get no useful
//! answer, and do not affect existing connections.

use std::{net::SocketAddr, time::Duration};

use futures::FutureExt;
use quinn_proto::{Side, TransportErrorCode};

use super::{
    network::Network,
    node::{Outgoing, Setup},
    peer::Peer,
    transfer::payload,
};
use crate::{
    error::{ConnectionError, HandshakeError},
    simulation::{
        frame::{self, Frame, Number},
        initial::{Addressed, header},
    },
};

#[test]
fn every_truncation_of_a_first_flight_is_dropped_in_silence() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.dial(0, 1);
    network.settle();
    let flight = network.intercept();
    assert!(flight.len() >= 2);
    for Outgoing { contents, .. } in flight {
        for end in 0..contents.len() {
            assert!(answers(&mut network, &contents[..end]).is_empty(), "{end}");
        }
    }
    assert_untouched(&network);
}

#[test]
fn every_truncation_of_later_packets_is_dropped_in_silence() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.run_for(Duration::from_millis(25));
    // The end of the dialer's handshake.
    let mut datagrams = network.intercept();
    // Datagrams with a short header are left out: they arrive after the connection is lost, and are
    // answered with a reset, which is tested elsewhere.
    datagrams.retain(|datagram| datagram.contents[0] & 0x80 != 0);
    assert!(!datagrams.is_empty());
    dialer.abandon();
    network.run_for(Duration::from_secs(10));
    network.nodes[1].accepted.clear();
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, &[0; 500]), 500);
    network.settle();
    datagrams.extend(network.intercept());
    for Outgoing { contents, .. } in datagrams {
        for end in 0..contents.len() {
            let answered = answers(&mut network, &contents[..end]);
            assert!(answered.is_empty(), "{end} of {}", contents.len());
        }
    }
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

#[test]
fn versions_are_only_told_to_who_sends_as_much_as_a_first_packet() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let mut datagram = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    for len in [20, 100, 1_199] {
        datagram.resize(len, 1);
        assert!(answers(&mut network, &datagram).is_empty(), "{len}");
    }
    datagram.resize(1_200, 1);
    let [answer] = &answers(&mut network, &datagram)[..] else {
        panic!("one answer is due");
    };
    // Version 0 (RFC 9000 §17.2.1), and much smaller than the datagram that it answers.
    assert_eq!(answer[1..5], [0; 4]);
    assert!(answer.len() < 100);
    // A Version Negotiation packet gets no answer (RFC 9000 §6.1).
    let mut negotiation = answer.clone();
    negotiation.resize(1_200, 0);
    assert!(answers(&mut network, &negotiation).is_empty());
    assert_untouched(&network);
}

#[test]
fn forged_answers_end_a_dial_only_before_the_first_true_one() {
    for forgery in FORGERIES {
        // An attacker who sees the first packet can answer before the listener does; QUIC cannot
        // prevent that.
        let mut forged = Dial::begin();
        forged.receive(forgery.against(&forged.first));
        let end = forged.outcome();
        match forgery {
            Forgery::VersionNegotiation => {
                assert_eq!(end, Err(ConnectionError::VersionMismatch.into()));
            }
            Forgery::Close => assert!(
                matches!(
                    &end,
                    Err(HandshakeError::Connection(ConnectionError::AbortedByPeer {
                        code: 10,
                        ..
                    }))
                ),
                "{end:?}"
            ),
            // The dialer presents the attacker's token to the listener, which does not accept it.
            Forgery::Retry(_) => assert!(end.is_err(), "{end:?}"),
        }

        let mut true_one_first = Dial::begin();
        let answer = true_one_first.answer();
        assert!(answer.len() > 1);
        let (last, first) = answer.split_last().unwrap();
        for datagram in first {
            true_one_first.receive(datagram.clone());
        }
        if !matches!(forgery, Forgery::Close) {
            true_one_first.receive(forgery.against(&true_one_first.first));
        }
        true_one_first.receive(last.clone());
        // By now the dialer has sent a Handshake packet, and has discarded its Initial keys (RFC
        // 9001 §4.9.1).
        true_one_first.receive(forgery.against(&true_one_first.first));
        assert_eq!(true_one_first.outcome(), Ok(()), "{forgery:?}");
    }
}

#[test]
fn forged_first_packets_do_not_touch_a_connection() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    let first = Addressed::of(&network.in_flight_to(network.nodes[1].addr())[0]);
    network.run_for(Duration::from_secs(1));
    let listener = network.nodes[1].accepted.pop_front().unwrap();
    let (now, addr) = (network.now, network.nodes[0].addr());
    // As the client, to its initial destination ID, with the keys derived from that.
    for padding in [0, 1_200] {
        let mut forged = first.initial(Side::Client, &close());
        forged.resize(forged.len().max(padding), 0);
        network.nodes[1].receive(now, addr, &forged);
    }
    network.run_for(Duration::from_secs(1));
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    assert_eq!(network.nodes[1].stats().0.connections, 1);
}

#[test]
fn retry_with_a_token_of_any_size_leaves_the_dialer_whole() {
    for len in [1, 1_000, 1_100, 1_160, 1_200, 1_400, 8_000, 60_000] {
        let mut dial = Dial::begin();
        dial.receive(Forgery::Retry(len).against(&dial.first));
        let end = dial.outcome();
        assert!(end.is_err(), "{len}: {end:?}");
        let sent = dial.network.nodes[0].stats().1.datagrams_sent;
        assert!(sent < 64, "{len}: {sent} datagrams");
        // A new dial succeeds.
        dial.network.nodes[1].accepted.clear();
        dial.network.connect(0, 1);
        dial.network.run_for(Duration::from_secs(10));
        assert_eq!(dial.network.nodes[0].stats().0.connections, 1, "{len}");
    }
}

#[test]
fn resets_are_smaller_than_what_they_answer_to_and_few() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    for len in 9..200 {
        network.run_for(Duration::from_secs(1) / MOST_RESETS);
        let answers = answers(&mut network, &unknown(1, len));
        match &answers[..] {
            // Smaller than any reset (RFC 9000 §10.3).
            [] => assert!(len <= 21, "{len}"),
            [reset] => assert!(
                (21..len).contains(&reset.len()),
                "{} for {len}",
                reset.len()
            ),
            more => panic!("{} answers", more.len()),
        }
    }
    network.run_for(Duration::from_secs(2));
    for number in 0..2 * MOST_RESETS {
        let answers = answers(&mut network, &unknown(3, 1_200));
        assert_eq!(answers.len(), usize::from(number < MOST_RESETS), "{number}");
    }
    network.run_for(Duration::from_secs(1));
    assert_eq!(answers(&mut network, &unknown(4, 1_200)).len(), 1);
}

#[test]
fn two_nodes_that_reset_each_other_soon_stop() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (now, addr) = (network.now, network.nodes[0].addr());
    network.nodes[1].receive(now, addr, &unknown(1, 1_400));
    network.run_for(Duration::from_secs(60));
    let sent: u64 = network
        .nodes
        .iter()
        .map(|node| node.stats().1.datagrams_sent)
        .sum();
    // Each is at least one byte smaller than the one before, and usually half as large.
    assert!((1..1_400 - 21).contains(&sent), "{sent}");
    assert!(network.intercept().is_empty());
}

#[test]
fn guessed_resets_do_not_end_a_connection() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, &[0; 500]), 500);
    network.settle();
    let packet = network.intercept().swap_remove(0);
    let now = network.now;
    for seed in 0..2_000 {
        // From the right address, with the right ID, and with a guessed token at the end.
        let mut guess = packet.contents.clone();
        let token = guess.len() - 16;
        guess[token..].copy_from_slice(&payload(seed, 16));
        network.nodes[1].receive(now, packet.from, &guess);
        network.nodes[1].receive(now, packet.from, &guess[token - 9..]);
    }
    network.run_for(Duration::from_secs(1));
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

/// A dial of node 0. The listener's answers are intercepted.
struct Dial {
    network: Network,
    dialer: Peer,
    first: Addressed,
}

impl Dial {
    fn begin() -> Self {
        let mut network = Network::pair(1, Setup::default(), Setup::default());
        let dialer = network.dial(0, 1);
        network.settle();
        let first = Addressed::of(&network.in_flight_to(network.nodes[1].addr())[0]);
        Self {
            network,
            dialer,
            first,
        }
    }

    /// The listener's answers, which do not arrive.
    fn answer(&mut self) -> Vec<Vec<u8>> {
        self.network.run_for(Duration::from_millis(15));
        let answer = self.network.intercept();
        answer
            .into_iter()
            .map(|datagram| datagram.contents)
            .collect()
    }

    /// Delivers a datagram to the dialer, with the listener's address.
    fn receive(&mut self, datagram: Vec<u8>) {
        let (now, from) = (self.network.now, self.network.nodes[1].addr());
        self.network.nodes[0].receive(now, from, &datagram);
        self.network.settle();
    }

    fn outcome(&mut self) -> Result<(), HandshakeError> {
        let dialer = self.dialer.clone();
        let end = self
            .network
            .block_on(async move { dialer.established().await });
        self.network.run_for(Duration::from_secs(1));
        end.map(drop)
    }
}

/// A forged answer.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    /// An Initial packet with CONNECTION_CLOSE.
    Close,
    /// A Retry with a token of this many bytes.
    Retry(usize),
    VersionNegotiation,
}

const FORGERIES: [Forgery; 3] = [
    Forgery::Close,
    Forgery::Retry(16),
    Forgery::VersionNegotiation,
];

impl Forgery {
    fn against(self, first: &Addressed) -> Vec<u8> {
        match self {
            Self::Close => first.initial(Side::Server, &close()),
            Self::Retry(len) => {
                let mut packet = header(0xf0, 1, &first.source, &[9; 8]);
                packet.extend(vec![5; len]);
                let tag = first.retry_tag(&packet);
                packet.extend(tag);
                packet
            }
            Self::VersionNegotiation => {
                let mut packet = header(0xc0, 0, &first.source, &first.destination);
                packet.extend(0xff00_001d_u32.to_be_bytes());
                packet
            }
        }
    }
}

/// CONNECTION_CLOSE and PADDING: packets have to be long enough for header protection.
fn close() -> Vec<u8> {
    let code = Number(TransportErrorCode::PROTOCOL_VIOLATION.into());
    let mut payload = frame::encode(&[Frame::ConnectionClose { code }]);
    payload.resize(40, 0);
    payload
}

/// A packet with a short header and an unknown ID.
fn unknown(seed: u64, len: usize) -> Vec<u8> {
    let mut datagram = payload(seed, len);
    datagram[0] = 0x40 | datagram[0] & 0x3f;
    datagram
}

/// Node 1's answers to a datagram from a stranger.
fn answers(network: &mut Network, datagram: &[u8]) -> Vec<Vec<u8>> {
    let stranger = SocketAddr::from(([198, 51, 100, 7], 4001));
    let now = network.now;
    network.nodes[1].receive(now, stranger, datagram);
    network.nodes[1].turn(now);
    let answers = network.nodes[1].take_outgoing();
    answers.into_iter().map(|answer| answer.contents).collect()
}

/// Asserts that node 1 has kept no state.
fn assert_untouched(network: &Network) {
    network.nodes[1].assert_empty();
    assert_eq!(network.nodes[1].stats().1.incoming, 0);
}

/// The most resets of a host in a second.
const MOST_RESETS: u32 = 50;
