//! Who gets a turn when everybody wants one.

use std::net::SocketAddr;

use futures::{FutureExt, task::noop_waker};

use super::{
    network::Network,
    node::{Node, Outbox, Setup},
    peer::Peer,
};

#[test]
fn connection_with_little_to_send_goes_before_one_that_has_much() {
    let (mut network, bulk, ping) = three();
    let sender = &mut network.nodes[0];
    let [bulk_addr, ping_addr] = [&bulk, &ping].map(|peer| peer.with(|peer| peer.remote_addr()));
    open_and_write(&bulk, 100_000);
    sender.take_turns(0);
    let before = turn(sender, network.now);
    assert!(before.iter().all(|&to| to == bulk_addr) && before.len() <= BATCHES_PER_TURN);

    // Half-way through the bulk, the other one has something to say.
    open_and_write(&ping, 100);
    sender.take_turns(0);
    let turns: Vec<_> = (0..4).map(|_| turn(sender, network.now)).collect();
    let said = turns.iter().position(|turn| turn.contains(&ping_addr));
    assert_eq!(said, Some(0), "{turns:?}");
    assert!(turns.iter().all(|turn| turn.len() <= BATCHES_PER_TURN));
    let bulk_turns = turns.iter().filter(|turn| turn.contains(&bulk_addr));
    assert!(bulk_turns.count() >= 3, "{turns:?}");
}

#[test]
fn connection_with_little_to_receive_goes_before_one_that_has_much() {
    let (mut network, bulk, ping) = three();
    let from = [&bulk, &ping].map(|peer| peer.with(|peer| peer.remote_addr()));
    let listeners = [1, 2].map(|node| network.nodes[node].accepted.pop_front().unwrap());
    let [bulk_sender, ping_sender] = listeners;
    open_and_write(&bulk_sender, 100_000);
    open_and_write(&ping_sender, 100);
    network.settle();
    let datagrams = network.intercept();
    let (much, little): (Vec<_>, Vec<_>) = datagrams
        .into_iter()
        .partition(|datagram| datagram.from == from[0]);

    // The same ones over and over; a copy costs as much as an original, up to decryption.
    let receiver = &mut network.nodes[0];
    let copies = std::iter::repeat_n(&much, COPIES).flatten();
    for datagram in copies {
        receiver.receive(network.now, datagram.from, &datagram.contents);
    }
    let mut waiting = vec![receiver.cores[0].inbox_bytes()];
    // Half-way through the bulk, the other one is told something.
    turn(receiver, network.now);
    waiting.push(receiver.cores[0].inbox_bytes());
    for datagram in &little {
        receiver.receive(network.now, datagram.from, &datagram.contents);
    }
    let mut heard_in_turn = None;
    while receiver.cores[0].inbox_bytes() > 0 {
        turn(receiver, network.now);
        waiting.push(receiver.cores[0].inbox_bytes());
        let heard = ping.with(|ping| ping.streams().poll_accept(&noop_waker()).is_ready());
        if heard && heard_in_turn.is_none() {
            heard_in_turn = Some(waiting.len() - 1);
        }
    }
    assert_eq!(heard_in_turn, Some(2));
    // And the bulk was not done by then.
    let turns_of_bulk = (much.len() * COPIES).div_ceil(DATAGRAMS_PER_TURN);
    assert!(turns_of_bulk > 3);
    assert!(waiting.len() > turns_of_bulk, "{waiting:?}");
}

/// How often a datagram of the bulk arrives.
const COPIES: usize = 50;

/// As the shard has it.
const DATAGRAMS_PER_TURN: usize = 64;

/// As the shard has it; a batch is one datagram here.
const BATCHES_PER_TURN: usize = 2;

/// A node with connections to two others.
fn three() -> (Network, Peer, Peer) {
    let mut network = Network::new(1);
    network.add(Setup {
        outbox: Outbox {
            max_segments: 1,
            ..Outbox::default()
        },
        ..Setup::default()
    });
    let connect = |network: &mut Network| {
        let node = network.add(Setup::default());
        let (dialer, listener) = network.connect(0, node);
        network.nodes[node].accepted.push_back(listener);
        dialer
    };
    let bulk = connect(&mut network);
    let ping = connect(&mut network);
    network.run_for(std::time::Duration::from_secs(1));
    (network, bulk, ping)
}

fn open_and_write(peer: &Peer, len: usize) {
    let stream = peer.open().now_or_never().unwrap().unwrap();
    let mut written = 0;
    while written < len {
        let count = peer.write_now(stream, &vec![0; len - written]);
        assert!(count > 0);
        written += count;
    }
}

/// Gives one connection its turn, and returns where it has sent to.
fn turn(node: &mut Node, now: std::time::Instant) -> Vec<SocketAddr> {
    node.serve(0, now);
    let sent = node.take_outgoing();
    sent.iter().map(|datagram| datagram.to).collect()
}
