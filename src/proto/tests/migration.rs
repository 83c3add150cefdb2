//! Nodes that move to another socket, and connections that follow as soon as they may.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    time::Duration,
};

use futures::FutureExt;

use super::{
    link::Impairments,
    network::{Fault, Network},
    node::{Node, Reader, Setup},
    peer::Peer,
    seeds,
    transfer::exchange_between,
};

#[test]
fn transfer_is_exact_while_the_dialer_moves_and_the_wrong_shard_reads() {
    const MOVES: u32 = 20;

    for seed in seeds().take(10) {
        for dialer_shards in [1, 4] {
            let dialer = Setup {
                shards: dialer_shards,
                ..dialling()
            };
            let listener = Setup {
                reader: Reader::NeverTheOwner,
                shards: 4,
                ..Setup::default()
            };
            let mut network = Network::pair(seed, dialer, listener);
            let (dialer, listener) = connected(&mut network);
            for number in 1..=MOVES {
                network.schedule(Duration::from_millis(50) * number, Fault::Move(0));
            }
            exchange_between(&mut network, &dialer, &listener, seed, 500_000);
            network.run_for(Duration::from_secs(5));

            let addr = network.nodes[0].addr();
            assert_eq!(addr.port(), 4001 + MOVES as u16);
            assert_eq!(network.nodes[1].remote_addrs(), [addr].into());
            let reported = listener.address_change().now_or_never();
            assert_eq!(reported, Some(Ok(addr)));
            let registry = network.nodes[1].stats().0;
            assert!(registry.forwarded > 0);
            assert_eq!((registry.foreign, registry.responses_sent), (0, 0));
            assert_eq!((dialer.loss(), listener.loss()), (None, None));

            close(&mut network, dialer);
        }
    }
}

/// RFC 9000 §9.5.
#[test]
fn no_connection_id_is_seen_at_two_addresses_however_often_a_node_moves() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    let mut seen: BTreeMap<SocketAddr, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut look = |network: &mut Network| {
        network.settle();
        let listener = network.nodes[1].addr();
        for datagram in network.intercept() {
            if datagram.to == listener {
                let id = datagram.contents[1..9].to_vec();
                seen.entry(datagram.from).or_default().insert(id);
            }
        }
    };
    send_something(&dialer);
    look(&mut network);
    // More often than the listener has issued IDs. The listener receives nothing of it, and so
    // issues no more.
    for _ in 0..10 {
        network.move_socket(0);
        send_something(&dialer);
        look(&mut network);
    }
    let ids: Vec<_> = seen.values().flatten().collect();
    assert!((2..10).contains(&seen.len()), "{seen:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());

    // When it does, the connection moves to the node's current socket.
    network.run_for(Duration::from_secs(10));
    let addr = network.nodes[0].addr();
    assert_eq!(network.nodes[1].remote_addrs(), [addr].into());
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    close(&mut network, dialer);
}

/// RFC 9000 §9: not before the handshake is confirmed. A quinn-proto listener accepts no part of a
/// handshake from another address.
#[test]
fn handshake_ends_where_it_has_begun_and_then_the_connection_moves() {
    for moves_after in (0..=60).step_by(5) {
        let mut network = Network::pair(1, dialling(), Setup::default());
        let before = network.nodes[0].addr();
        network.schedule(Duration::from_millis(moves_after), Fault::Move(0));
        let (dialer, listener) = network.connect(0, 1);
        assert_eq!(network.nodes[1].remote_addrs(), [before].into());
        network.run_for(Duration::from_secs(1));
        let after = network.nodes[0].addr();
        assert_ne!(before, after);
        assert_eq!(network.nodes[1].remote_addrs(), [after].into());
        exchange_between(&mut network, &dialer, &listener, 1, 50_000);
        close(&mut network, dialer);
    }
}

/// RFC 9000 §18.2.
#[test]
fn connection_to_a_peer_that_disables_migration_stays() {
    let listener = Setup {
        configure: |builder| builder.migration(false),
        ..Setup::default()
    };
    let mut network = Network::pair(1, dialling(), listener);
    let before = network.nodes[0].addr();
    let (dialer, listener) = connected(&mut network);
    network.move_socket(0);
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    network.run_for(Duration::from_secs(30));
    assert_eq!(network.nodes[1].remote_addrs(), [before].into());
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    close(&mut network, dialer);
}

/// RFC 9000 §9: only clients migrate.
#[test]
fn connection_that_came_in_stays() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let before = network.nodes[1].addr();
    let (dialer, listener) = connected(&mut network);
    network.move_socket(1);
    send_something(&listener);
    network.settle();
    let from: BTreeSet<_> = (network.intercept().into_iter())
        .filter(|datagram| datagram.to == network.nodes[0].addr())
        .map(|datagram| datagram.from)
        .collect();
    assert_eq!(from, [before].into());
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    close(&mut network, dialer);
}

/// The timer was armed for a packet on the path that the peer has left; on the new path there is
/// none yet.
#[test]
fn timer_for_lost_packets_that_is_due_as_the_peer_moves_does_no_harm() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    send_something(&listener);
    network.settle();
    network.intercept();
    send_something(&dialer);
    network.settle();
    let sent = network.intercept();
    assert!(!sent.is_empty());

    let moved = network.rebind(0);
    network.now += Duration::from_secs(1);
    let now = network.now;
    for datagram in sent {
        network.nodes[1].receive(now, moved, &datagram.contents);
    }
    network.nodes[1].turn(now);
    assert_eq!(network.nodes[1].remote_addrs(), [moved].into());
    network.run_for(Duration::from_secs(5));
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    assert!(listener.accept().now_or_never().unwrap().is_ok());
    assert!(dialer.accept().now_or_never().unwrap().is_ok());
    close(&mut network, dialer);
}

/// A peer acknowledges everything at one address, seems to be elsewhere, and answers nothing there.
/// On the path to which the connection returns there is nothing in flight, but the timer was armed
/// for a packet on the one that is given up.
#[test]
fn timer_for_lost_packets_of_a_path_that_is_given_up_does_no_harm() {
    for is_back in [false, true] {
        for elsewhere in [OTHER_HOST, OTHER_PORT] {
            let mut network = Network::pair(1, dialling(), Setup::default());
            let (dialer, listener) = connected(&mut network);
            let addr = network.nodes[0].addr();
            seem_to_be(&mut network, &dialer, elsewhere.into());
            if is_back {
                seem_to_be(&mut network, &dialer, addr);
            }
            network.impair(Impairments::DEAD);
            network.run_for(Duration::from_millis(5));
            network.intercept();
            // Later than the challenge, so that the timer for it is armed beyond the end of the
            // validation.
            send_something(&listener);
            network.run_for(Duration::from_secs(5));
            assert_eq!(network.nodes[1].remote_addrs(), [addr].into());
            network.impair(Impairments::NONE);
            leave_streams(&mut network, &[&dialer, &listener]);
            exchange_between(&mut network, &dialer, &listener, 1, 50_000);
            assert_eq!((dialer.loss(), listener.loss()), (None, None));
        }
    }
}

/// It returns to the path before, which has a controller of its own.
#[test]
fn controller_of_the_path_is_followed_where_only_the_path_changes_and_not_the_address() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    let addr = network.nodes[0].addr();
    seem_to_be(&mut network, &dialer, OTHER_HOST.into());
    seem_to_be(&mut network, &dialer, addr);
    network.impair(Impairments::DEAD);
    network.run_for(Duration::from_secs(5));
    network.impair(Impairments::NONE);
    leave_streams(&mut network, &[&dialer, &listener]);
    let heard = || listener.with(|connection| connection.path_control().acknowledgements());
    let before = heard();
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    assert!(heard() > before, "{before}");
    assert_eq!(network.nodes[1].remote_addrs(), [addr].into());
}

/// What is sent before that goes to the old address.
#[test]
fn path_of_a_peer_that_moves_begins_with_the_turn_that_notes_it() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    send_something(&dialer);
    network.settle();
    let (now, sent) = (network.now, network.intercept());
    for datagram in sent {
        network.nodes[1].receive(now, OTHER_HOST.into(), &datagram.contents);
    }
    let later = now + Duration::from_millis(5);
    network.nodes[1].turn(later);
    let began = listener.with(|connection| connection.path_control().began());
    assert_eq!(began, Some(later));
}

/// Timers wait until something was sent on the new path, and the socket may not be writable for
/// long.
#[test]
fn timer_that_waits_for_a_socket_is_not_armed() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    send_something(&dialer);
    network.settle();
    let sent = network.intercept();
    let room = mem::take(&mut network.nodes[1].outbox.room);
    let moved = network.rebind(0);
    for later in [0, 30, 1000].map(Duration::from_millis) {
        network.now += later;
        let now = network.now;
        for datagram in &sent {
            network.nodes[1].receive(now, moved, &datagram.contents);
        }
        network.nodes[1].turn(now);
        assert_eq!(network.nodes[1].remote_addrs(), [moved].into());
        let next = network.nodes[1].next_timeout();
        assert!(next.is_none_or(|next| next > now), "{later:?}");
    }
    network.nodes[1].outbox.room = room;
    network.nodes[1].take_outgoing();
    leave_streams(&mut network, &[&dialer, &listener]);
    exchange_between(&mut network, &dialer, &listener, 1, 50_000);
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
    close(&mut network, dialer);
}

/// The peer is challenged at its old address first.
#[test]
fn peer_is_challenged_at_its_new_address_although_packets_to_the_old_one_wait() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    seem_to_be_behind_a_busy_host(&mut network, &dialer);
    assert_eq!(network.nodes[1].remote_addrs(), [OTHER_HOST.into()].into());
    let sent = sent_to(&mut network, OTHER_HOST.into());
    assert!(!sent.is_empty());
    let challenges = listener.with(|connection| connection.quic_stats().frame_tx.path_challenge);
    assert_eq!(challenges, 2, "at both addresses");
    network.run_for(Duration::from_secs(5));
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

#[test]
fn peer_is_told_of_the_end_at_its_new_address_although_packets_to_the_old_one_wait() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    listener.close(0);
    seem_to_be_behind_a_busy_host(&mut network, &dialer);
    forward_from_other_host(&mut network);
    assert!(dialer.loss().is_some());
}

/// The challenge to the old address, which is sent first, says nothing of the end.
#[test]
fn peer_is_told_of_the_end_at_its_new_address_when_it_has_sent_enough_from_there() {
    let mut network = Network::pair(1, dialling(), Setup::default());
    let (dialer, listener) = connected(&mut network);
    let reason = vec![b'x'; 500];
    listener.with(|connection| connection.close(0_u32.into(), reason.into()));
    for (bytes, is_told) in [(100, false), (1000, true)] {
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        assert_eq!(dialer.write_now(stream, &vec![0; bytes]), bytes);
        let now = network.now;
        network.nodes[0].turn(now);
        for datagram in network.nodes[0].take_outgoing() {
            network.nodes[1].receive(now, OTHER_HOST.into(), &datagram.contents);
        }
        network.nodes[1].turn(now);
        forward_from_other_host(&mut network);
        assert_eq!(dialer.loss().is_some(), is_told);
    }
}

/// Makes the dialer send something that arrives from another host, while its own host is behind a
/// busy interface, and gives the listener a turn.
fn seem_to_be_behind_a_busy_host(network: &mut Network, dialer: &Peer) {
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, &[0; 5000]), 5000);
    let now = network.now;
    network.nodes[0].turn(now);
    network.nodes[1].outbox.busy_host = Some(network.nodes[0].addr().ip());
    for datagram in network.nodes[0].take_outgoing() {
        network.nodes[1].receive(now, OTHER_HOST.into(), &datagram.contents);
    }
    network.nodes[1].turn(now);
    network.nodes[1].outbox.busy_host = None;
}

/// Gives the dialer what the listener has sent to the other host.
fn forward_from_other_host(network: &mut Network) {
    let (now, from) = (network.now, network.nodes[1].addr());
    for datagram in sent_to(network, OTHER_HOST.into()) {
        network.nodes[0].receive(now, from, &datagram);
    }
    network.nodes[0].turn(now);
}

/// The contents of what the listener has sent to this address.
fn sent_to(network: &mut Network, to: SocketAddr) -> Vec<Vec<u8>> {
    let sent = network.nodes[1].take_outgoing().into_iter();
    sent.filter(|datagram| datagram.to == to)
        .map(|datagram| datagram.contents)
        .collect()
}

/// What was sent on the path that is given up is acknowledged late.
#[test]
fn path_to_which_a_connection_returns_begins_anew_unless_only_the_port_was_another_one() {
    for (elsewhere, is_new) in [(OTHER_HOST, true), (OTHER_PORT, false)] {
        let mut network = Network::pair(1, dialling(), Setup::default());
        let (dialer, listener) = connected(&mut network);
        let addr = network.nodes[0].addr();
        seem_to_be(&mut network, &dialer, elsewhere.into());
        let left = network.now;
        network.impair(Impairments::DEAD);
        network.run_for(Duration::from_secs(5));
        assert_eq!(network.nodes[1].remote_addrs(), [addr].into());
        let began = listener.with(|connection| connection.path_control().began());
        assert_eq!(began.is_some_and(|began| began > left), is_new);
    }
}

/// Not the address of the dialer.
const OTHER_HOST: ([u8; 4], u16) = ([198, 51, 100, 7], 7);
const OTHER_PORT: ([u8; 4], u16) = ([10, 0, 0, 1], 7);

/// Makes the dialer send something that arrives from this address. No answer arrives.
fn seem_to_be(network: &mut Network, dialer: &Peer, from: SocketAddr) {
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, &[0; 5000]), 5000);
    network.settle();
    let (now, listener) = (network.now, network.nodes[1].addr());
    for datagram in network.intercept() {
        if datagram.to == listener {
            network.nodes[1].receive(now, from, &datagram.contents);
        }
    }
    network.settle();
    network.intercept();
    assert_eq!(network.nodes[1].remote_addrs(), [from].into());
}

/// Waits until the streams that were opened have arrived, and leaves them.
fn leave_streams(network: &mut Network, peers: &[&Peer]) {
    network.run_for(Duration::from_secs(5));
    for peer in peers {
        while let Some(stream) = peer.accept().now_or_never() {
            peer.drop_stream(stream.unwrap());
        }
    }
}

fn dialling() -> Setup {
    Setup {
        listening: false,
        ..Setup::default()
    }
}

fn connected(network: &mut Network) -> (Peer, Peer) {
    let connected = network.connect(0, 1);
    // Until the handshake is confirmed, and IDs are issued.
    network.run_for(Duration::from_secs(1));
    connected
}

fn send_something(peer: &Peer) {
    let stream = peer.open().now_or_never().unwrap().unwrap();
    assert_eq!(peer.write_now(stream, &[0; 100]), 100);
}

/// Closes the connection, and asserts that nothing is left.
fn close(network: &mut Network, dialer: Peer) {
    dialer.close(0);
    network.run_until_empty();
    network.nodes.iter().for_each(Node::assert_empty);
}
