//! The order of turns when many connections need one.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, task::noop_waker};

use super::{
    link::Impairments,
    network::Network,
    node::{Node, Outbox, Outgoing, Setup},
    peer::Peer,
};
use crate::{
    error::{ConnectionError, HandshakeError},
    proto::{
        Meter,
        shard::READY_BESIDE_TIMERS,
        turn::{BATCHES_PER_TURN, DATAGRAMS_PER_TURN},
        work::HANDSHAKE_TIME,
    },
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

    // In the middle of the bulk transfer, the other connection has something to send.
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

    // Copies of the same datagrams; a copy costs as much as an original, up to decryption.
    let receiver = &mut network.nodes[0];
    let copies = std::iter::repeat_n(&much, COPIES).flatten();
    for datagram in copies {
        receiver.receive(network.now, datagram.from, &datagram.contents);
    }
    let mut waiting = vec![receiver.shards[0].inbox_bytes()];
    // In the middle of the bulk transfer, the other connection receives something.
    turn(receiver, network.now);
    waiting.push(receiver.shards[0].inbox_bytes());
    for datagram in &little {
        receiver.receive(network.now, datagram.from, &datagram.contents);
    }
    let mut heard_in_turn = None;
    while receiver.shards[0].inbox_bytes() > 0 {
        turn(receiver, network.now);
        waiting.push(receiver.shards[0].inbox_bytes());
        let heard = ping.with(|ping| ping.streams().poll_accept(&noop_waker()).is_ready());
        if heard && heard_in_turn.is_none() {
            heard_in_turn = Some(waiting.len() - 1);
        }
    }
    assert_eq!(heard_in_turn, Some(2));
    // The bulk transfer was not finished by then.
    let turns_of_bulk = (much.len() * COPIES).div_ceil(DATAGRAMS_PER_TURN);
    assert!(turns_of_bulk > 3);
    assert!(waiting.len() > turns_of_bulk, "{waiting:?}");
}

/// A meter by which each turn takes the same time.
struct Cost {
    began: Instant,
    each: Duration,
    used: Cell<Duration>,
}

impl Cost {
    fn new(began: Instant, each: Duration) -> Self {
        Self {
            began,
            each,
            used: Cell::default(),
        }
    }
}

/// A node gets the datagram twice, and runs into debt by its second turn. By the first it only
/// becomes suspect, and has no savings any more.
fn run_into_debt(network: &mut Network, node: usize, datagram: &Outgoing, each: Duration) {
    for each in [Duration::from_millis(45), each] {
        let cost = Cost::new(network.now, each);
        let node = &mut network.nodes[node];
        node.receive(network.now, datagram.from, &datagram.contents);
        assert!(node.give_measured_turn(0, network.now, &cost));
        node.take_outgoing();
    }
}

impl Meter for Cost {
    fn now(&self) -> Instant {
        self.began + self.each
    }

    /// Called at the beginning and at the end of a turn.
    fn cpu_time(&self) -> Duration {
        self.used.replace(self.used.get() + self.each)
    }
}

#[test]
fn what_costs_too_much_takes_a_tenth_of_the_time_however_many_send_it() {
    let each = Duration::from_millis(20);
    let (mut network, senders) = receiver_and(8);
    let mut datagrams = Vec::new();
    for sender in &senders {
        open_and_write(sender, 100);
        network.settle();
        datagrams.extend(network.intercept().into_iter().take(1));
    }
    let began = network.now;
    let mut used = Duration::ZERO;
    let mut longest = Duration::ZERO;
    while network.now < began + Duration::from_secs(60) {
        let receiver = &mut network.nodes[0];
        // Copies of the same datagrams. More arrive than there are turns for.
        for datagram in &datagrams {
            receiver.receive(network.now, datagram.from, &datagram.contents);
        }
        receiver.shards[0].prepare_turns(network.now, &mut receiver.outbox, &mut Vec::new());
        let mut now = network.now;
        // As long as a round: one turn that is too long ends it.
        let cost = Cost::new(now, each);
        if receiver.give_measured_turn(0, now, &cost) {
            now += each;
            used += each;
        }
        longest = longest.max(now - network.now);
        network.now = now + Duration::from_millis(1);
    }
    let share = used.as_secs_f64() / 60.0;
    // Each may cost too much once without being in debt, and all of them also earn time by waiting.
    assert!(share > 0.05 && share < 0.165, "{share}");
    assert_eq!(longest, each);
    let (registry, transport) = network.nodes[0].stats();
    assert_eq!(transport.debts, 0, "not posted yet");
    assert_eq!(registry.dropped_inbox_full, 0, "not posted yet");
    let totals = network.nodes[0].shards[0].totals();
    assert!(totals.transport.debts > 100);
    assert!(totals.registry.dropped_inbox_full > 1_000, "{totals:?}");
}

#[test]
fn handshake_that_costs_too_much_is_given_up_and_counted() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    let first_flight = network.intercept();
    let listener = &mut network.nodes[1];
    for datagram in &first_flight {
        listener.receive(network.now, datagram.from, &datagram.contents);
    }
    let cost = Cost::new(network.now, Duration::from_secs(1));
    listener.turn(network.now);
    listener.take_outgoing();
    for datagram in &first_flight {
        listener.receive(network.now, datagram.from, &datagram.contents);
    }
    assert!(listener.give_measured_turn(0, network.now, &cost));
    let totals = listener.shards[0].totals();
    assert_eq!(totals.transport.handshakes_too_costly, 1);
    let incoming = network.nodes[1].accepted.pop_front().unwrap();
    let end = incoming.established().now_or_never();
    assert_eq!(end, Some(Err(HandshakeError::TooCostly)));
    drop(dialer);
}

/// The number of dials of a [`crowd`].
const CROWD: usize = 500;

/// A node that dials a host that does not answer, many times at once.
fn crowd() -> (Network, Vec<Peer>) {
    let mut network = Network::new(1);
    network.add(Setup::default());
    let nobody = (std::net::Ipv4Addr::LOCALHOST, 9).into();
    let now = network.now;
    let node = &mut network.nodes[0];
    let dials = (0..CROWD).map(|_| node.dial(now, nobody, None)).collect();
    (network, dials)
}

/// Gives turns until no connection needs one. Returns how many there were.
fn turns(node: &mut Node, now: Instant) -> usize {
    let mut turns = 0;
    while node.shards[0].has_ready() {
        turn(node, now);
        turns += 1;
    }
    turns
}

/// Thousands of dials may begin, and be given up, at the same time.
#[test]
fn timers_of_a_crowd_do_not_all_get_their_turn_before_anybody_else() {
    let (mut network, dials) = crowd();
    let now = network.now;
    let node = &mut network.nodes[0];
    assert!(turns(node, now) >= CROWD);
    let late = now + Duration::from_secs(60);
    let mut rounds = 0;
    while node.shards[0].next_timeout().is_some() {
        node.shards[0].prepare_turns(late, &mut node.outbox, &mut Vec::new());
        assert!(turns(node, late) <= READY_BESIDE_TIMERS);
        rounds += 1;
    }
    assert!(rounds >= CROWD / READY_BESIDE_TIMERS);
    for dial in dials {
        let end = dial.established().now_or_never();
        assert_eq!(end, Some(Err(HandshakeError::TimedOut)));
    }
    // The crowd has needed 500 places in each of several containers.
    let room = node.shards[0].room();
    assert!(room < CROWD, "{room}");
}

/// On a slow machine, a round has time for one turn.
#[test]
fn timers_of_a_crowd_do_not_pile_up_where_a_round_has_one_turn() {
    let (mut network, _dials) = crowd();
    let now = network.now;
    let node = &mut network.nodes[0];
    turns(node, now);
    // The first probe timeout of all of them.
    let late = now + Duration::from_millis(1500);
    for _ in 0..CROWD / 2 {
        node.shards[0].prepare_turns(late, &mut node.outbox, &mut Vec::new());
        turn(node, late);
    }
    let late_addr = (std::net::Ipv4Addr::LOCALHOST, 10).into();
    let _dial = node.dial(late, late_addr, None);
    let mut rounds = 0;
    while !turn(node, late).contains(&late_addr) {
        node.shards[0].prepare_turns(late, &mut node.outbox, &mut Vec::new());
        rounds += 1;
    }
    // One timer for eight turns, besides those that wait already.
    assert!(rounds <= READY_BESIDE_TIMERS * 2, "{rounds}");
}

/// The probe timeouts of a crowd of dials are due, and then an acknowledgement.
#[test]
fn timer_of_a_live_connection_does_not_wait_behind_those_of_a_crowd() {
    const DIALS: u16 = 1000;

    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (_live, far) = network.connect(0, 1);
    network.run_for(Duration::from_secs(2));
    let now = network.now;
    let dials: Vec<_> = (0..DIALS)
        .map(|port| network.nodes[0].dial(now, ([192, 0, 3, 1], 1000 + port).into(), None))
        .collect();
    network.run_for(Duration::from_millis(985));
    let stream = far.open().now_or_never().unwrap().unwrap();
    far.write_now(stream, b"x");
    network.run_for(Duration::from_millis(11));
    let to = network.nodes[1].addr();
    let node = &mut network.nodes[0];
    node.take_outgoing();
    let late = network.now + Duration::from_millis(40);
    let mut turns = 0;
    while turns <= READY_BESIDE_TIMERS {
        node.shards[0].prepare_turns(late, &mut node.outbox, &mut Vec::new());
        turns += 1;
        if turn(node, late).contains(&to) {
            break;
        }
    }
    assert!(turns <= READY_BESIDE_TIMERS, "{turns}");
    drop(dials);
}

/// A datagram may fill only a small part of the memory that it holds.
#[test]
fn bytes_that_were_not_sent_earn_nothing() {
    assert!(run_up_debts() > 0);
}

/// Receives copies of one packet, which hold much memory, and returns how often the connection was
/// in debt.
pub(super) fn run_up_debts() -> u64 {
    in_debt().nodes[0].shards[0].totals().transport.debts
}

/// A network whose first node has a connection in debt.
fn in_debt() -> Network {
    let (mut network, senders) = receiver_and(1);
    open_and_write(&senders[0], 100);
    network.settle();
    let datagram = network.intercept().remove(0);
    for _ in 0..100 {
        let receiver = &mut network.nodes[0];
        let cost = Cost {
            began: network.now,
            // More than a small datagram earns, and less than a batch does.
            each: Duration::from_millis(1),
            used: Cell::default(),
        };
        receiver.receive_holding(60_000, network.now, datagram.from, &datagram.contents);
        receiver.give_measured_turn(0, network.now, &cost);
        network.now += Duration::from_millis(1);
    }
    network
}

/// The drop of a transport waits for it (decision 4).
#[test]
fn connection_that_is_closed_in_debt_has_something_to_send() {
    let mut network = in_debt();
    let now = network.now;
    let receiver = &mut network.nodes[0];
    let peer = receiver.accepted.pop_front().unwrap();
    assert!(receiver.shards[0].has_sent_all());
    let stream = peer.open().now_or_never().unwrap().unwrap();
    assert_eq!(peer.write_now(stream, &[7; 100]), 100);
    peer.finish(stream).unwrap();
    peer.with(|connection| connection.close_in_order(0_u32.into(), Bytes::new()));
    receiver.take_turns(0);
    assert!(!receiver.shards[0].has_ready(), "it pays first");
    assert!(!receiver.shards[0].has_sent_all());
    // The debt is paid in time.
    drop(peer);
    network.now = now + Duration::from_secs(60);
    network.run_for(Duration::from_secs(60));
    assert!(network.nodes[0].shards[0].has_sent_all());
}

/// Their peers close them at once, which they learn when their debts are paid.
#[test]
fn small_debt_does_not_wait_for_all_large_ones() {
    const ATTACKERS: usize = 7;

    let (mut network, senders) = receiver_and(ATTACKERS + 1);
    let incur = |network: &mut Network, sender: &Peer, each| {
        open_and_write(sender, 100);
        network.settle();
        let datagram = network.intercept().remove(0);
        run_into_debt(network, 0, &datagram, each);
    };
    let (honest, attackers) = senders.split_first().unwrap();
    for attacker in attackers {
        incur(&mut network, attacker, Duration::from_secs(1));
        attacker.close(0);
        network.settle();
        for datagram in network.intercept() {
            network.nodes[0].receive(network.now, datagram.from, &datagram.contents);
        }
    }
    incur(&mut network, honest, Duration::from_millis(25));
    let receiver = &mut network.nodes[0];
    let debts = receiver.stats().1.debts + receiver.shards[0].totals().transport.debts;
    assert_eq!(debts, ATTACKERS as u64 + 1);
    let began = network.now;
    let listener = network.nodes[0].accepted[0].clone();
    let first = listener.accept().now_or_never().unwrap().unwrap();
    open_and_write(honest, 100);
    network.run_for(Duration::from_millis(15));
    assert!(listener.accept().now_or_never().is_none(), "it is in debt");
    let second = network.block_on(async move { listener.accept().await });
    assert_ne!(second.unwrap(), first);
    // Each debt is paid in as small a part of half of the time, and the small one takes 250 ms
    // alone.
    let waited = network.now - began;
    assert!(
        waited < Duration::from_millis(250) * 2 * (ATTACKERS as u32 + 2),
        "{waited:?}"
    );
}

/// Its debt takes longer than its idle timeout, and would take that time from other debtors.
#[test]
fn debtor_whose_peer_is_gone_is_given_up_without_payment() {
    for is_gone in [true, false] {
        let mut network = Network::pair(1, Setup::default(), Setup::default());
        let (sender, receiver) = network.connect(0, 1);
        network.run_for(Duration::from_secs(1));
        open_and_write(&sender, 100);
        network.settle();
        let datagram = network.intercept().remove(0);
        run_into_debt(&mut network, 1, &datagram, Duration::from_secs(3));
        // What waits in its inbox is no sign that the peer is still there, but what comes is.
        let now = network.now;
        let hear = |network: &mut Network| {
            let now = network.now;
            network.nodes[1].receive(now, datagram.from, &datagram.contents);
        };
        hear(&mut network);
        network.impair(Impairments::DEAD);
        for _ in 0..14 {
            network.run_for(Duration::from_secs(1));
            if !is_gone {
                hear(&mut network);
            }
        }
        let end = is_gone.then_some(ConnectionError::TimedOut);
        assert_eq!(receiver.loss(), end, "{:?}", network.now - now);
        assert_eq!(network.nodes[1].shards[0].next_timeout().is_none(), is_gone);
    }
}

/// Nothing more is done for its peer.
#[test]
fn connection_that_is_closed_at_once_need_not_pay_its_debt() {
    let mut network = in_debt();
    let receiver = &mut network.nodes[0];
    let peer = receiver.accepted.pop_front().unwrap();
    receiver.take_turns(0);
    assert!(!receiver.shards[0].has_ready(), "it is in debt");
    peer.close(0);
    receiver.take_turns(0);
    assert!(receiver.shards[0].has_ready());
}

/// A datagram counts for at least 512 bytes in an inbox, and acknowledgements are much shorter.
#[test]
fn turn_is_light_whatever_memory_its_small_datagrams_hold() {
    let (mut network, senders) = receiver_and(1);
    let mut datagrams = Vec::new();
    while datagrams.len() < 20 {
        open_and_write(&senders[0], 1);
        network.settle();
        datagrams.extend(network.intercept());
    }
    let now = network.now;
    let receiver = &mut network.nodes[0];
    for datagram in &datagrams {
        receiver.receive(now, datagram.from, &datagram.contents);
    }
    turn(receiver, now);
    assert!(!receiver.shards[0].has_ready());
    let again = &datagrams[0];
    receiver.receive(now, again.from, &again.contents);
    assert!(receiver.shards[0].has_light());
}

/// After authentication, the limit of a handshake does not apply.
#[test]
fn handshake_that_was_costly_and_is_over_is_not_given_up() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    for node in [1, 0] {
        for datagram in network.intercept() {
            network.nodes[node].receive(network.now, datagram.from, &datagram.contents);
        }
        network.settle();
    }
    // The last datagrams of the handshake.
    for datagram in network.intercept() {
        network.nodes[1].receive(network.now, datagram.from, &datagram.contents);
    }
    let cost = Cost::new(network.now, Duration::from_secs(1));
    assert!(network.nodes[1].give_measured_turn(0, network.now, &cost));
    let incoming = network.nodes[1].accepted.pop_front().unwrap();
    assert!(matches!(incoming.established().now_or_never(), Some(Ok(_))));
    let totals = network.nodes[1].shards[0].totals();
    assert_eq!(totals.transport.handshakes_too_costly, 0);
    network.run_for(Duration::from_secs(60));
    assert_eq!((incoming.loss(), dialer.loss()), (None, None));
}

#[test]
fn handshake_that_costs_much_has_no_debts_and_no_more_time_than_others() {
    const DIALERS: usize = 20;
    let mut network = Network::new(1);
    network.add(Setup::default());
    let began = network.now;
    let mut dialers = Vec::new();
    for _ in 0..DIALERS {
        let node = network.add(Setup::default());
        dialers.push(network.dial(node, 0));
        network.settle();
        let first_flight = network.intercept();
        let listener = &mut network.nodes[0];
        for datagram in &first_flight {
            listener.receive(network.now, datagram.from, &datagram.contents);
        }
        listener.turn(network.now);
        for datagram in &first_flight {
            listener.receive(network.now, datagram.from, &datagram.contents);
        }
        let cost = Cost {
            began: network.now,
            // More than the savings, and less than the limit of a handshake.
            each: HANDSHAKE_TIME * 7 / 8,
            used: Cell::default(),
        };
        assert!(listener.give_measured_turn(0, network.now, &cost));
        listener.take_outgoing();
    }
    assert_eq!(network.nodes[0].shards[0].totals().transport.debts, 0);
    for (node, _) in (1..).zip(&dialers) {
        network.nodes[node].orphan_all();
    }
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.nodes[0].stats().0.handshaking, DIALERS);
    network.run_for(began + Duration::from_secs(6) - network.now);
    let (registry, transport) = network.nodes[0].stats();
    assert_eq!(registry.handshaking, 0);
    assert_eq!(transport.handshakes_timed_out, DIALERS as u64);
}

/// The number of copies of each datagram.
const COPIES: usize = 50;

/// A node with connections to two others, which sends batches of one datagram.
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
    network.run_for(Duration::from_secs(1));
    (network, bulk, ping)
}

/// A node, and the connections that others have to it.
fn receiver_and(senders: usize) -> (Network, Vec<Peer>) {
    // Copies of a packet are no sign of life, so there is no idle timeout.
    let patient = Setup {
        configure: |builder| builder.idle_timeout(None).unwrap(),
        ..Setup::default()
    };
    let mut network = Network::new(1);
    network.add(patient.clone());
    let (senders, receivers): (_, Vec<_>) = (0..senders)
        .map(|_| {
            let node = network.add(patient.clone());
            network.connect(node, 0)
        })
        .unzip();
    network.nodes[0].accepted.extend(receivers);
    network.run_for(Duration::from_secs(1));
    (network, senders)
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

/// Gives one connection its turn, and returns the addresses to which it has sent.
fn turn(node: &mut Node, now: Instant) -> Vec<SocketAddr> {
    node.give_turn(0, now);
    let sent = node.take_outgoing();
    sent.iter().map(|datagram| datagram.to).collect()
}
