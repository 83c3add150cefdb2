//! What is traced of connections that move, wait, are refused or are given up.

use std::{net::SocketAddr, time::Duration};

use futures::FutureExt;
use quinn_proto::Side;
use tracing::level_filters::LevelFilter;

use super::{
    crypto, doubts, fairness, lingering,
    link::Impairments,
    network::Network,
    node::{Answer, Setup},
    paths, source_address,
    transfer::exchange_between,
};
use crate::trace::collected::Traced;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn moves_to_another_source_address_have_a_reason() {
    for (is_gone, reason) in [(true, "source_gone"), (false, "nothing_arrives")] {
        let traced = Traced::up_to(LevelFilter::DEBUG);
        let (mut network, peers, old) = source_address::connected(0, Setup::default());
        let new = source_address::NEW.into();
        network.readdress(0, &[new]);
        if !is_gone {
            network.nodes[0].outbox.ips = Some(vec![new, old]);
        }
        source_address::write_something(&peers[0]);
        network.run_for(5 * SECOND);
        let moves = traced.events("moved to another address");
        assert_eq!(moves.len(), 1);
        assert_eq!(moves[0].side(), Some("dialer"));
        assert_eq!(moves[0].field("reason"), reason);
        assert!(!moves[0].field("local_addr").is_empty());
    }
}

#[test]
fn connection_that_may_not_move_says_so_once() {
    let traced = Traced::up_to(LevelFilter::DEBUG);
    let listener = Setup {
        configure: |builder| builder.migration(false),
        ..Setup::default()
    };
    let (mut network, peers, _) = source_address::connected(0, listener);
    network.readdress(0, &[source_address::NEW.into()]);
    source_address::write_something(&peers[0]);
    network.run_for(5 * SECOND);
    let refused = "may not move to another address";
    assert_eq!(traced.reasons(refused), ["source_gone"]);
    assert_eq!(network.nodes[0].stats().1.source_changes_refused, 1);
}

#[test]
fn address_that_is_not_validated_is_left_again() {
    let traced = Traced::up_to(LevelFilter::DEBUG);
    let (mut network, _dialer, listener) = paths::connected(Impairments::NONE);
    let stream = listener.open().now_or_never().unwrap().unwrap();
    listener.write_now(stream, &[7; 100]);
    let to = network.nodes[1].addr();
    while network.in_flight_to(to).is_empty() {
        network.run_for(Duration::from_millis(1));
    }
    // The acknowledgement comes from somewhere else, and nothing more comes from the peer.
    let now = network.now;
    for datagram in network.intercept() {
        network.nodes[1].receive(now, paths::FORGED.into(), &datagram.contents);
    }
    network.impair(Impairments::DEAD);
    network.run_for(4 * SECOND);
    let (real, forged) = (network.nodes[0].addr(), SocketAddr::from(paths::FORGED));
    for (message, reason, from, to) in [
        (
            "the peer's address has changed",
            "authenticated_packet",
            real,
            forged,
        ),
        (
            "the peer's address has changed back",
            "not_validated",
            forged,
            real,
        ),
    ] {
        let changes = traced.events(message);
        assert_eq!(changes.len(), 1, "{message}");
        assert_eq!(changes[0].side(), Some("listener"));
        assert_eq!(changes[0].field("reason"), reason);
        assert_eq!(changes[0].field("from"), from.to_string());
        assert_eq!(changes[0].field("to"), to.to_string());
    }
    // A path to another address begins with the smallest MTU.
    let changes = traced.reasons("the MTU has changed");
    assert!(changes.iter().any(|reason| reason == "path_changed"));
}

#[test]
fn path_that_becomes_narrow_is_traced_as_a_black_hole() {
    let (mut network, dialer, listener) = paths::connected(Impairments::NONE);
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    network.run_for(2 * SECOND);
    let traced = Traced::up_to(LevelFilter::DEBUG);
    network.impair(Impairments {
        mtu: 1200,
        ..Impairments::NONE
    });
    exchange_between(&mut network, &dialer, &listener, 2, 200_000);
    let changes = traced.events("the MTU has changed");
    assert!(!changes.is_empty());
    for event in changes {
        assert_eq!(event.field("reason"), "black_hole");
        assert_eq!(event.field("to"), "1200");
    }
}

#[test]
fn doubts_about_a_path_are_traced() {
    let traced = Traced::up_to(LevelFilter::DEBUG);
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.impair(doubts::DROPS_MARKED);
    let _connected = network.connect(0, 1);
    let doubted = traced.events("the path may drop marked packets or batches");
    let sums = network.nodes.iter().map(|node| node.stats().1.path_doubts);
    assert_eq!(doubted.len() as u64, sums.sum::<u64>());
    assert_eq!(doubted[0].side(), Some("dialer"));
    assert!(!doubted[0].field("doubts").is_empty());
}

#[test]
fn connection_that_is_closed_before_all_was_delivered_says_so() {
    let traced = Traced::up_to(LevelFilter::DEBUG);
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, _listener) = network.connect(0, 1);
    network.run_for(SECOND);
    lingering::write_and_finish(&mut network, &dialer);
    network.impair(Impairments::DEAD);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    network.run_for(4 * SECOND);
    let given_up = "closed before all was delivered";
    assert_eq!(traced.reasons(given_up), ["lingers_given_up"]);
    assert_eq!(traced.events(given_up)[0].side(), Some("dialer"));
}

#[test]
fn incoming_connections_that_nobody_takes_are_traced_with_the_reason_of_their_end() {
    for (ends, message, reason) in [
        (false, "dropped an incoming connection", "handshake_timeout"),
        (true, "refused an incoming connection", "shut_down"),
    ] {
        let traced = Traced::up_to(LevelFilter::DEBUG);
        let holding = Setup {
            answer: Answer::Hold,
            ..Setup::default()
        };
        let mut network = Network::pair(1, Setup::default(), holding);
        let _dialer = network.dial(0, 1);
        network.run_for(Duration::from_millis(15));
        if ends {
            let node = &mut network.nodes[1];
            node.shards[0].refuse_all(&mut node.outbox);
        }
        network.run_until_empty();
        let events = traced.events(message);
        assert_eq!(events.len(), 1, "{message}");
        assert_eq!(events[0].field("reason"), reason);
        let from = network.nodes[0].addr().to_string();
        assert_eq!(events[0].field("remote_addr"), from);
    }
}

#[test]
fn first_packet_that_is_not_valid_is_traced_as_a_failed_handshake() {
    let traced = Traced::up_to(LevelFilter::TRACE);
    let mut network = Network::new(1);
    network.add(Setup::default());
    let packet = crypto::stranger().initial(Side::Client, &crypto::padded_pieces(33));
    let now = network.now;
    network.nodes[0].receive(now, crypto::ANYWHERE.into(), &packet);
    network.settle();
    assert_eq!(traced.reasons("dropped a packet"), ["dropped_crypto"]);
    let failed = traced.events("the handshake has failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].side(), Some("listener"));
    assert!(!failed[0].field("reason").is_empty());
}

#[test]
fn connection_in_debt_says_so_whenever_it_waits() {
    let traced = Traced::up_to(LevelFilter::TRACE);
    let debts = fairness::run_up_debts();
    assert!(debts > 0);
    let waits = traced.events("the connection waits until its debt is paid");
    assert_eq!(waits.len() as u64, debts);
    assert!(waits.iter().all(|event| !event.field("debt").is_empty()));
}
