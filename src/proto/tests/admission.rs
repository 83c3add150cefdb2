//! Floods of first packets, honest and forged: which are admitted, which have to wait, and what
//! they cost.

use std::{net::SocketAddr, time::Duration};

use super::{
    network::Network,
    node::{Answer, Node, Outgoing, Setup},
    peer::Peer,
    seeds,
    transfer::payload,
};
use crate::{
    config::{ConfigBuilder, RetryPolicy},
    error::HandshakeError,
    proto::{
        deadlines::SLACK,
        reception::{RESETS_PER_ROUND, STRANGERS_PER_ROUND},
    },
    simulation::initial::Addressed,
};

const SECOND: Duration = Duration::from_secs(1);

/// The default.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

fn listener(answer: Answer, configure: fn(ConfigBuilder) -> ConfigBuilder) -> Setup {
    Setup {
        answer,
        configure,
        ..Setup::default()
    }
}

/// Node 0 is an attacker, 1 listens, and 2 is honest.
fn three(listener: Setup) -> Network {
    let mut network = Network::pair(1, Setup::default(), listener);
    network.add(Setup::default());
    network
}

fn host(network: u8, host: u8) -> SocketAddr {
    ([198, 51, network, host], 4001).into()
}

/// First flights of dials whose connections were discarded: an attacker's, who ignores the answers.
fn first_flights(network: &mut Network, count: usize) -> Vec<Vec<Outgoing>> {
    (0..count)
        .map(|_| {
            let dialer = network.dial(0, 1);
            network.settle();
            let flight = network.intercept();
            dialer.abandon();
            network.settle();
            network.intercept();
            flight
        })
        .collect()
}

fn deliver(network: &mut Network, from: SocketAddr, flight: &[Outgoing]) {
    let now = network.now;
    for datagram in flight {
        network.nodes[1].receive(now, from, &datagram.contents);
    }
}

/// Delivers the first datagram of a flight, filled up with zeros to `len` bytes.
fn deliver_padded(network: &mut Network, from: SocketAddr, flight: &[Outgoing], len: usize) {
    let now = network.now;
    let mut contents = flight[0].contents.to_vec();
    assert!(contents.len() <= len);
    contents.resize(len, 0);
    network.nodes[1].receive(now, from, &contents);
}

/// The result of a dial.
fn outcome(network: &mut Network, peer: &Peer) -> Result<(), HandshakeError> {
    let peer = peer.clone();
    let established = network.block_on(async move { peer.established().await });
    established.map(drop)
}

fn held(network: &Network) -> usize {
    network.nodes[1].unanswered_incoming.len()
}

#[test]
fn whoever_forges_an_address_does_not_shut_its_owner_out() {
    let mut network = three(listener(Answer::Accept, |config| {
        config.max_handshakes_per_source(2).unwrap()
    }));
    let owner = network.nodes[2].addr();
    for flight in first_flights(&mut network, 20) {
        deliver(&mut network, owner, &flight);
    }
    network.nodes[1].turn(network.now);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!((transport.incoming, registry.handshaking), (2, 2));
    // At least one for each of the others, for which no state is kept.
    assert!(transport.retries_sent >= 18);
    network.nodes[1].take_outgoing();

    let before = network.elapsed();
    let dialer = network.dial(2, 1);
    assert_eq!(outcome(&mut network, &dialer), Ok(()));
    // The forged connections are still there. They cost the owner of the address only a round trip.
    assert_eq!(network.nodes[1].stats().0.handshaking, 3);
    assert_eq!(network.elapsed() - before, Duration::from_millis(40));
    assert_eq!(network.nodes[1].stats().0.dropped_source_full, 0);
    // No other address is asked for a proof.
    let retries = network.nodes[1].stats().1.retries_sent;
    let stranger = network.add(Setup::default());
    let dialer = network.dial(stranger, 1);
    assert_eq!(outcome(&mut network, &dialer), Ok(()));
    assert_eq!(network.nodes[1].stats().1.retries_sent, retries);
}

#[test]
fn source_that_is_proven_to_have_too_many_gets_in_when_some_are_over() {
    let mut network = three(listener(Answer::Hold, |config| {
        config.max_handshakes_per_source(2).unwrap()
    }));
    let dialers: Vec<_> = (0..6).map(|_| network.dial(0, 1)).collect();
    network.run_for(SECOND / 10);
    // Two that were not asked for a proof, and two that have given it. The others get neither a
    // place nor an answer.
    assert_eq!(held(&network), 4);
    let (registry, _) = network.nodes[1].stats();
    assert!(registry.dropped_source_full >= 2);
    assert_eq!(
        (registry.handshake_sources, registry.pending_incoming),
        (1, 4)
    );

    // Other sources are not affected.
    network.dial(2, 1);
    network.run_for(SECOND / 10);
    assert_eq!(held(&network), 5);
    assert_eq!(network.nodes[1].stats().0.handshake_sources, 2);

    // Places become free, and retransmissions find them.
    let now = network.now;
    while network.nodes[1].answer_incoming(now, true).is_none() && held(&network) > 0 {}
    network.nodes[1].answer = Answer::Accept;
    for dialer in &dialers {
        assert_eq!(outcome(&mut network, dialer), Ok(()));
    }
    assert!(network.elapsed() < HANDSHAKE_TIMEOUT);
    network.run_for(SECOND);
    assert_eq!(network.nodes[1].stats().0.handshake_sources, 0);
}

#[test]
fn hundreds_of_peers_behind_one_address_come_at_once_and_all_get_in() {
    const PEERS: usize = 300;

    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialers: Vec<_> = (0..PEERS).map(|_| network.dial(0, 1)).collect();
    for dialer in &dialers {
        assert_eq!(outcome(&mut network, dialer), Ok(()));
    }
    // The last of them connect after one retransmission.
    assert!(network.elapsed() < 2 * SECOND, "{:?}", network.elapsed());
    assert!(network.nodes[1].stats().1.retries_sent > 0);
    network.run_for(SECOND);
    assert_eq!(network.nodes[1].stats().0.handshake_sources, 0);
}

/// If each address had its limit, a few addresses would take all places.
#[test]
fn attackers_who_prove_many_addresses_leave_places_to_others() {
    const ATTACKERS: usize = 20;

    let mut network = three(listener(Answer::Hold, |config| {
        config
            .max_incoming_handshakes(64)
            .and_then(|config| config.max_handshakes_per_source(16))
            .unwrap()
            .retry_policy(RetryPolicy::Always)
    }));
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|_| network.add(Setup::default()))
        .collect();
    for _ in 0..20 {
        for &attacker in &attackers {
            network.dial(attacker, 1);
        }
        network.run_for(SECOND / 20);
    }
    let registry = network.nodes[1].stats().0;
    assert_eq!(registry.handshake_sources, ATTACKERS);
    assert!(
        (ATTACKERS..64).contains(&held(&network)),
        "{}",
        held(&network)
    );
    assert!(registry.dropped_source_full > 0);
    assert_eq!(registry.dropped_overload, 0);

    // Another client is admitted at once.
    let dialer = network.dial(2, 1);
    let before = held(&network);
    network.run_for(SECOND / 20);
    assert_eq!(network.nodes[1].stats().0.handshake_sources, ATTACKERS + 1);
    let last = network.nodes[1].unanswered_incoming.pop_back().unwrap();
    assert_eq!(network.nodes[1].unanswered_incoming.len(), before);
    network.nodes[1].unanswered_incoming.clear();
    network.nodes[1].unanswered_incoming.push_back(last);
    let now = network.now;
    assert_eq!(network.nodes[1].answer_incoming(now, true), None);
    assert_eq!(outcome(&mut network, &dialer), Ok(()));
}

#[test]
fn forged_addresses_take_a_quarter_of_the_places() {
    let mut network = three(listener(Answer::Accept, |config| {
        config.max_incoming_handshakes(8).unwrap()
    }));
    for (number, flight) in first_flights(&mut network, 30).iter().enumerate() {
        deliver(&mut network, host(100, number as u8), flight);
        network.nodes[1].turn(network.now);
    }
    assert_eq!(network.nodes[1].stats().0.handshaking, 2);
    network.nodes[1].take_outgoing();
    for _ in 0..5 {
        let dialer = network.dial(2, 1);
        assert_eq!(outcome(&mut network, &dialer), Ok(()));
    }
    assert_eq!(network.nodes[1].stats().0.dropped_overload, 0);
}

#[test]
fn listener_with_all_places_taken_is_silent_and_serves_those_it_has() {
    let mut network = three(listener(Answer::Accept, |config| {
        config
            .max_incoming_handshakes(4)
            .unwrap()
            .retry_policy(RetryPolicy::Never)
    }));
    let (established, accepted) = network.connect(2, 1);
    network.run_for(SECOND);
    let before = network.nodes[1].stats();
    for (number, flight) in first_flights(&mut network, 30).iter().enumerate() {
        deliver(&mut network, host(100, number as u8), flight);
        network.nodes[1].turn(network.now);
    }
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!(registry.handshaking, 4);
    assert!(registry.dropped_overload - before.0.dropped_overload >= 26);
    assert_eq!(transport.incoming - before.1.incoming, 4);
    assert_eq!(registry.responses_sent, 0);
    // Everything that was sent went to those four.
    for outgoing in network.nodes[1].take_outgoing() {
        assert!((0..4).any(|number| outgoing.to == host(100, number)));
    }

    let late = network.dial(2, 1);
    network.run_for(SECOND / 2);
    assert!(late.with(|late| late.authenticated().is_none()));
    let received = network.block_on(async move {
        let stream = established.open().await.unwrap();
        established
            .write_all(stream, b"still there?")
            .await
            .unwrap();
        established.finish(stream).unwrap();
        let stream = accepted.accept().await.unwrap();
        accepted.read_to_end(stream).await
    });
    assert_eq!(received, Ok(b"still there?".to_vec()));
    // The forged connections end with their deadline. By then an honest client has sent its first
    // packet again, or will do so.
    network.run_for(HANDSHAKE_TIMEOUT);
    let dialer = network.dial(2, 1);
    assert_eq!(outcome(&mut network, &dialer), Ok(()));
}

#[test]
fn what_waits_is_bounded_in_bytes_of_each_connection() {
    const BYTES_EACH: usize = 16 * 1024;

    let mut network = three(listener(Answer::Hold, |config| config));
    let flight = first_flights(&mut network, 1).remove(0);
    let length = flight[0].contents.len();
    for _ in 0..20 {
        deliver(&mut network, host(100, 0), &flight);
    }
    network.nodes[1].turn(network.now);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!(transport.incoming, 1);
    let bytes = registry.pending_incoming_bytes;
    assert!(
        (BYTES_EACH - length..=BYTES_EACH).contains(&bytes),
        "{bytes}"
    );
    assert!(registry.dropped_overload > 0);
}

/// Whatever the lengths of its datagrams.
#[test]
fn connection_that_waits_holds_bytes_each_and_no_byte_more() {
    const BYTES_EACH: usize = 16 * 1024;

    for (lens, bytes) in [
        (&[1200, 4000, 4000, 4000, 3184][..], BYTES_EACH),
        (&[1200, 4000, 4000, 4000, 3185][..], BYTES_EACH - 3184),
        (&[BYTES_EACH][..], BYTES_EACH),
        (&[BYTES_EACH + 1][..], 0),
    ] {
        let mut network = three(listener(Answer::Hold, |config| config));
        let flight = first_flights(&mut network, 1).remove(0);
        for &len in lens {
            deliver_padded(&mut network, host(100, 0), &flight, len);
        }
        network.nodes[1].turn(network.now);
        let (registry, transport) = network.nodes[1].stats();
        assert_eq!(registry.pending_incoming_bytes, bytes, "{lens:?}");
        // The sender of a first datagram for which there is no room is asked for a proof.
        let turned_away = registry.dropped_overload + transport.retries_sent;
        assert_eq!(turned_away, u64::from(bytes != BYTES_EACH), "{lens:?}");
    }
}

#[test]
fn forged_addresses_fill_half_of_the_bytes_for_all_and_no_byte_more() {
    const BYTES: usize = 32 * 1024;

    for (last, waiting) in [(4096, 4), (4097, 3)] {
        let mut network = three(listener(Answer::Hold, |config| {
            config.max_pending_incoming_bytes(BYTES).unwrap()
        }));
        let flights = first_flights(&mut network, 4);
        for (number, (flight, len)) in flights.iter().zip([4096, 4096, 4096, last]).enumerate() {
            deliver_padded(&mut network, host(100, number as u8), flight, len);
        }
        network.nodes[1].turn(network.now);
        let (registry, _) = network.nodes[1].stats();
        assert_eq!(registry.pending_incoming, waiting);
        assert_eq!(registry.pending_incoming_bytes, waiting * 4096);
    }
}

#[test]
fn what_waits_is_bounded_in_bytes_of_all() {
    const BYTES: usize = 32 * 1024;

    let mut network = three(listener(Answer::Hold, |config| {
        config.max_pending_incoming_bytes(BYTES).unwrap()
    }));
    let bytes = |network: &Network| network.nodes[1].stats().0.pending_incoming_bytes;
    let flights = first_flights(&mut network, 20);
    let length: usize = flights[0]
        .iter()
        .map(|datagram| datagram.contents.len())
        .sum();
    // Senders that have not proven their address may use half of the memory; then they are asked
    // for a proof.
    for (number, flight) in flights.iter().enumerate() {
        deliver(&mut network, host(100, number as u8), flight);
    }
    network.nodes[1].turn(network.now);
    assert!(bytes(&network) <= BYTES / 2 && bytes(&network) > BYTES / 2 - 2 * length);
    assert!(network.nodes[1].stats().1.retries_sent > 0);
    network.nodes[1].take_outgoing();
    // The other half is for senders that have proven it; here it is the minimum of one source.
    for _ in 0..20 {
        network.dial(2, 1);
    }
    network.run_for(SECOND);
    assert!(bytes(&network) <= BYTES && bytes(&network) > BYTES - 2 * length);
    let (registry, _) = network.nodes[1].stats();
    assert!(registry.dropped_overload + registry.dropped_source_full > 0);

    network.nodes[1].answer = Answer::Refuse;
    let now = network.now;
    while held(&network) > 0 {
        network.nodes[1].answer_incoming(now, false);
    }
    network.run_until_empty();
    network.nodes[1].assert_empty();
}

#[test]
fn what_waits_is_bounded_in_bytes_of_each_source() {
    const BYTES_PER_SOURCE: usize = 16 * 1024;

    let mut network = three(listener(Answer::Hold, |config| {
        config
            .max_pending_incoming_bytes(128 * 1024)
            .unwrap()
            .retry_policy(RetryPolicy::Always)
    }));
    for _ in 0..20 {
        network.dial(0, 1);
    }
    network.run_for(SECOND / 10);
    let (registry, _) = network.nodes[1].stats();
    let of_one = registry.pending_incoming_bytes;
    assert!(
        (BYTES_PER_SOURCE * 3 / 4..=BYTES_PER_SOURCE).contains(&of_one),
        "{of_one}"
    );
    assert!(registry.dropped_source_full > 0);
    // Another source has as much.
    network.dial(2, 1);
    network.run_for(SECOND / 10);
    assert!(network.nodes[1].stats().0.pending_incoming_bytes > of_one);
    assert_eq!(registry.dropped_overload, 0);
    // After they are answered, others may wait.
    let now = network.now;
    for _ in 0..held(&network) {
        network.nodes[1].answer_incoming(now, true);
    }
    assert_eq!(network.nodes[1].stats().0.pending_incoming_bytes, 0);
    network.run_for(2 * SECOND);
    assert!(held(&network) > 0);
}

#[test]
fn short_datagrams_do_not_wait() {
    let mut network = three(listener(Answer::Hold, |config| config));
    let flight = first_flights(&mut network, 1).remove(0);
    deliver(&mut network, host(100, 0), &flight);
    network.nodes[1].turn(network.now);
    let before = network.nodes[1].stats().0;
    let now = network.now;
    // The same header, and so the same connection.
    for len in [60, 300, 1199] {
        network.nodes[1].receive(now, host(100, 0), &flight[0].contents[..len]);
    }
    network.nodes[1].turn(now);
    let after = network.nodes[1].stats().0;
    assert_eq!(after.malformed - before.malformed, 3);
    assert_eq!(after.pending_incoming_bytes, before.pending_incoming_bytes);
    network.run_until_empty();
    network.nodes[1].assert_empty();
}

/// Each gives its place back, so two places serve all of them.
#[test]
fn however_an_incoming_connection_ends_its_place_is_free() {
    let mut network = three(listener(Answer::Hold, |config| {
        config
            .max_incoming_handshakes(2)
            .and_then(|config| config.max_pending_incoming(2))
            .unwrap()
            .retry_policy(RetryPolicy::Never)
    }));
    for round in 0..5 {
        for end in [
            "refused",
            "expires",
            "fails",
            "stalls",
            "is left",
            "completes",
        ] {
            for _ in 0..2 {
                let expected = match end {
                    "fails" => libp2p_identity::PeerId::random(),
                    _ => network.nodes[1].peer_id(),
                };
                let dialer = network.dial_expecting(2, 1, Some(expected));
                network.run_for(Duration::from_millis(15));
                assert!(held(&network) == 1, "no place in round {round} as it {end}");
                let now = network.now;
                match end {
                    "refused" => drop(network.nodes[1].answer_incoming(now, false)),
                    "expires" => {}
                    _ => drop(network.nodes[1].answer_incoming(now, true)),
                }
                if end == "is left" || end == "stalls" {
                    dialer.abandon();
                    network.settle();
                    if end == "stalls" {
                        network.intercept();
                    }
                }
                // Most connections whose dialer is there have ended by now; the next one begins
                // meanwhile.
                network.run_for(Duration::from_millis(15));
                if end == "expires" {
                    network.nodes[1].unanswered_incoming.clear();
                }
            }
            // And some more time, because the CONNECTION_CLOSE of a dialer that has waited for too
            // long looks like a first packet.
            network.run_for(3 * HANDSHAKE_TIMEOUT);
            network.nodes[1].unanswered_incoming.clear();
            let registry = network.nodes[1].stats().0;
            assert_eq!(
                (registry.pending_incoming, registry.handshake_sources),
                (0, 0)
            );
        }
    }
    assert_eq!(network.nodes[1].stats().0.dropped_overload, 0);
}

#[test]
fn strangers_get_a_share_of_each_round_and_no_more() {
    const SHARE: u64 = STRANGERS_PER_ROUND as u64;

    let mut network = three(listener(Answer::Hold, |config| {
        config.retry_policy(RetryPolicy::Never)
    }));
    let flights = first_flights(&mut network, 300);
    let now = network.now;
    network.nodes[1].turn(now);
    let round = |network: &mut Network| {
        let before = network.nodes[1].stats();
        for flight in &flights {
            network.nodes[1].receive(now, host(100, 1), &flight[0].contents);
        }
        network.nodes[1].turn(now);
        let after = network.nodes[1].stats();
        (
            after.1.incoming - before.1.incoming,
            after.0.dropped_overload - before.0.dropped_overload,
        )
    };
    assert_eq!(round(&mut network), (SHARE, 300 - SHARE));
    // Connections that already wait are no strangers.
    assert_eq!(round(&mut network), (300 - SHARE, 0));

    // Senders that only get an answer count as strangers, too.
    let mut unknown_version = vec![0xc0, 0xff, 0, 0, 9, 8];
    unknown_version.resize(1200, 1);
    for _ in 0..300 {
        network.nodes[1].receive(now, host(100, 2), &unknown_version);
    }
    network.nodes[1].turn(now);
    assert_eq!(network.nodes[1].stats().0.responses_sent, SHARE);
}

/// Their keys are derived before they are found to be invalid.
#[test]
fn first_packets_that_are_invalid_count_as_strangers() {
    let mut network = three(listener(Answer::Hold, |config| {
        config.retry_policy(RetryPolicy::Never)
    }));
    let flight = first_flights(&mut network, 1).remove(0);
    let now = network.now;
    network.nodes[1].turn(now);
    for number in 0..STRANGERS_PER_ROUND {
        let destination = (number as u64).to_be_bytes();
        let stranger = Addressed {
            destination: destination.to_vec(),
            source: vec![8; 8],
        };
        let packet = stranger.invalid_initial(&[0; 1200]);
        network.nodes[1].receive(now, host(100, 1), &packet);
    }
    deliver(&mut network, host(100, 2), &flight);
    network.nodes[1].turn(now);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!(registry.unknown, STRANGERS_PER_ROUND as u64);
    assert_eq!(registry.dropped_overload, flight.len() as u64);
    assert_eq!(transport.incoming, 0);
    // They get no more than their part, and short ones have no keys.
    for _ in 0..STRANGERS_PER_ROUND {
        network.nodes[1].receive(now, host(100, 1), &flight[0].contents[..1000]);
    }
    deliver(&mut network, host(100, 2), &flight);
    network.nodes[1].turn(now);
    assert_eq!(network.nodes[1].stats().1.incoming, 1);
}

/// Their keys are derived, and an answer is made, whether or not it is sent.
#[test]
fn first_packets_with_ids_that_are_too_short_count_as_strangers_where_nobody_listens() {
    let mut network = three(listener(Answer::Hold, |config| {
        config.retry_policy(RetryPolicy::Never)
    }));
    let flight = first_flights(&mut network, 1).remove(0);
    let now = network.now;
    network.nodes[1].turn(now);
    let dial_only = network.nodes[1].other_socket(network.nodes[1].addr(), false);
    for number in 0..STRANGERS_PER_ROUND {
        let stranger = Addressed {
            destination: (number as u32).to_be_bytes().to_vec(),
            source: vec![8; 8],
        };
        let packet = stranger.initial(quinn_proto::Side::Client, &[0; 1200]);
        network.nodes[1].receive_at_socket(&dial_only, 0, now, host(100, 1), &packet);
    }
    deliver(&mut network, host(100, 2), &flight);
    network.nodes[1].turn(now);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!(registry.unknown, STRANGERS_PER_ROUND as u64);
    assert_eq!(registry.dropped_overload, flight.len() as u64);
    assert_eq!((transport.incoming, registry.responses_sent), (0, 0));
}

/// They have a part of each round of their own.
#[test]
fn noise_that_is_reset_keeps_no_new_connection_out() {
    const SHARE: u64 = RESETS_PER_ROUND as u64;

    let mut network = three(listener(Answer::Hold, |config| {
        config.retry_policy(RetryPolicy::Never)
    }));
    let flights = first_flights(&mut network, 300);
    let now = network.now;
    network.nodes[1].turn(now);
    let noise = |network: &mut Network| {
        for number in 0..2 * SHARE {
            let noise = [&[0x40][..], &payload(number, 60)].concat();
            let from = host(100 + (number >> 8) as u8, number as u8);
            network.nodes[1].receive(now, from, &noise);
        }
    };
    noise(&mut network);
    deliver(&mut network, host(99, 1), &flights[0][..1]);
    network.nodes[1].turn(now);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!((transport.incoming, registry.dropped_overload), (1, 0));
    assert_eq!(registry.responses_sent, SHARE);
    // Nor do first packets keep resets from being sent.
    for flight in &flights {
        deliver(&mut network, host(99, 1), &flight[..1]);
    }
    noise(&mut network);
    network.nodes[1].turn(now);
    let (registry, _) = network.nodes[1].stats();
    assert!(registry.dropped_overload > 0);
    assert_eq!(registry.responses_sent, 2 * SHARE);
}

/// Neither where nobody listens, nor when no more are sent in the round or to the host.
#[test]
fn no_reset_is_made_that_is_not_sent() {
    let mut network = three(listener(Answer::Hold, |config| config));
    let now = network.now;
    let node = &mut network.nodes[1];
    let dial_only = node.other_socket(node.addr(), false);
    let noise = |number| [&[0x40][..], &payload(number, 60)].concat();
    for number in 0..100 {
        node.receive_at_socket(&dial_only, 0, now, host(99, 1), &noise(number));
    }
    assert_eq!(node.shards[0].resets_made(), 0);
    for number in 0..200 {
        node.receive(now, host(99, 1), &noise(number));
    }
    // The last one was refused.
    assert_eq!(node.shards[0].resets_made(), 51);
    for number in 0..2 * RESETS_PER_ROUND {
        let from = host(100 + (number >> 8) as u8, number as u8);
        node.receive(now, from, &noise(number as u64));
    }
    assert_eq!(node.shards[0].resets_made(), RESETS_PER_ROUND);
    node.turn(now);
    let (registry, _) = node.stats();
    assert_eq!(registry.responses_sent, RESETS_PER_ROUND as u64 - 1);
    assert_eq!(registry.unknown, 300 + 2 * RESETS_PER_ROUND as u64);
}

/// Otherwise a client could have much sent to an address that it has forged once.
#[test]
fn only_datagrams_of_its_address_wait_with_an_incoming_connection() {
    let mut network = three(listener(Answer::Hold, |config| config));
    let flight = first_flights(&mut network, 1).remove(0);
    assert!(flight.len() > 1);
    deliver(&mut network, host(100, 1), &flight[..1]);
    let waiting = |network: &mut Network| {
        network.nodes[1].turn(network.now);
        let (registry, _) = network.nodes[1].stats();
        (registry.pending_incoming_bytes, registry.unknown)
    };
    let first = flight[0].contents.len();
    assert_eq!(waiting(&mut network), (first, 0));
    let other_port = SocketAddr::new(host(100, 1).ip(), 4002);
    for (number, other) in (1..).zip([host(100, 2), other_port]) {
        deliver(&mut network, other, &flight[1..2]);
        assert_eq!(waiting(&mut network), (first, number));
    }
    deliver(&mut network, host(100, 1), &flight[1..2]);
    let both = first + flight[1].contents.len();
    assert_eq!(waiting(&mut network), (both, 2));
}

#[test]
fn only_first_packets_are_dropped_for_lack_of_a_place() {
    let mut network = three(listener(Answer::Hold, |config| {
        config.max_incoming_handshakes(1).unwrap()
    }));
    let flights = first_flights(&mut network, 2);
    let now = network.now;
    deliver(&mut network, host(100, 1), &flights[0]);
    network.nodes[1].turn(now);
    assert_eq!(held(&network), 1);
    // A Handshake packet of no connection.
    let mut stray = flights[1][0].contents.clone();
    stray[0] |= 0x20;
    network.nodes[1].receive(now, host(100, 2), &stray);
    deliver(&mut network, host(100, 2), &flights[1]);
    network.nodes[1].turn(now);
    let (registry, _) = network.nodes[1].stats();
    let dropped = (registry.unknown, registry.dropped_overload);
    assert_eq!(dropped, (1, flights[1].len() as u64));
}

#[test]
fn handshake_that_is_kept_alive_but_not_completed_ends_with_its_deadline() {
    let mut network = three(listener(Answer::Accept, |config| config));
    let flight = first_flights(&mut network, 1).remove(0);
    let attacker = network.nodes[0].addr();
    let began = network.now;
    let mut last = began;
    // It sends the same packets again and again, often enough for any idle timeout.
    while network.now < began + 2 * HANDSHAKE_TIMEOUT {
        if network.nodes[1].stats().0.handshaking == 1 || network.now == began {
            last = network.now;
            deliver(&mut network, attacker, &flight);
        }
        network.run_for(SECOND / 4);
    }
    assert!(last < began + HANDSHAKE_TIMEOUT);
    let (registry, transport) = network.nodes[1].stats();
    assert_eq!(transport.handshakes_timed_out, 1);
    assert_eq!((registry.connections, registry.handshake_sources), (0, 0));
}

#[test]
fn time_that_an_incoming_connection_has_waited_is_part_of_its_handshake() {
    let mut network = three(listener(Answer::Hold, |config| config));
    let flight = first_flights(&mut network, 1).remove(0);
    let began = network.now;
    deliver(&mut network, host(100, 1), &flight);
    network.run_for(HANDSHAKE_TIMEOUT / 2);
    let now = network.now;
    assert_eq!(network.nodes[1].answer_incoming(now, true), None);
    let listener = network.nodes[1].accepted.pop_front().unwrap();
    assert_eq!(
        outcome(&mut network, &listener),
        Err(HandshakeError::TimedOut)
    );
    let late = network.now - began - HANDSHAKE_TIMEOUT;
    assert!(late < SLACK, "{late:?}");
    network.nodes[1].assert_empty();
}

/// Forged, honest and repeated packets, over several shards, with the tightest limits: nothing
/// exceeds the limits, and nothing is left.
#[test]
fn no_flood_exceeds_the_limits_or_leaves_anything() {
    const PLACES: usize = 12;

    for seed in seeds().take(20) {
        let setup = Setup {
            configure: |config| {
                config
                    .max_incoming_handshakes(PLACES)
                    .and_then(|config| config.max_handshakes_per_source(4))
                    .and_then(|config| config.max_pending_incoming_bytes(32 * 1024))
                    .unwrap()
            },
            shards: 1 + (seed % 3) as u8,
            ..Setup::default()
        };
        let mut network = Network::pair(seed, Setup::default(), setup);
        network.add(Setup::default());
        let flights = first_flights(&mut network, 40);
        for (number, flight) in flights.iter().enumerate() {
            network.nodes[1].answer = match (number as u64 + seed) % 3 {
                0 => Answer::Accept,
                1 => Answer::Hold,
                _ => Answer::Refuse,
            };
            let from = host(number as u8 % 3, number as u8 % 7);
            deliver(&mut network, from, flight);
            if number % 4 == 0 {
                network.dial(2, 1);
            }
            network.run_for(SECOND / 20);
            let (registry, _) = network.nodes[1].stats();
            let shards = network.nodes[1].shards.len();
            let unfinished = registry.handshaking + registry.pending_incoming;
            assert!(
                unfinished <= PLACES.div_ceil(shards) * shards,
                "{unfinished} {registry:?}"
            );
            assert!(registry.handshake_sources <= 2 * unfinished);
            assert!(registry.pending_incoming_bytes <= 32 * 1024 * shards);
        }
        network.nodes[1].answer = Answer::Refuse;
        network.nodes[1].unanswered_incoming.clear();
        network.run_for(4 * HANDSHAKE_TIMEOUT);
        while let Some(peer) = network.nodes[1].accepted.pop_front() {
            peer.close(0);
        }
        network.run_until_empty();
        network.nodes.iter().for_each(Node::assert_empty);
    }
}
