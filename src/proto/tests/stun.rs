//! STUN requests: when they are sent, to which servers, and which answers count.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use stun_types::{
    attribute::{ErrorCode, XorMappedAddress},
    message::{Message, MessageWrite, MessageWriteExt, MessageWriteVec, TransactionId},
};

use super::{
    network::Network,
    node::{Outgoing, Setup},
    seeds,
};
use crate::{
    proto::{Finding, MappingBehaviour, StunClient, StunTransmit},
    stats::StunStats,
};

const A: ([u8; 4], u16) = ([198, 51, 100, 1], 3478);
const B: ([u8; 4], u16) = ([198, 51, 100, 2], 3478);
const C: ([u8; 4], u16) = ([198, 51, 100, 3], 3478);
/// Another port of the first host.
const A2: ([u8; 4], u16) = ([198, 51, 100, 1], 3479);

/// The external address of the node.
const PUBLIC: ([u8; 4], u16) = ([203, 0, 113, 1], 50_000);
const OTHER: ([u8; 4], u16) = ([203, 0, 113, 1], 50_001);

/// Longest time until the next round, if nothing changes.
const INTERVAL: Duration = Duration::from_secs(29);

/// Time from a change to the next request.
const SETTLING: Duration = Duration::from_millis(500);

const ROUND_TRIP: Duration = Duration::from_millis(20);

/// One node, and its environment: STUN servers.
struct World {
    network: Network,
    /// The address that each server sees; others do not answer.
    seen: BTreeMap<SocketAddr, SocketAddr>,
    /// Answers in flight.
    answers: BTreeMap<(Instant, usize), Outgoing>,
    random: StdRng,
    loss: f64,
    /// All requests: time, server, and contents.
    requests: Vec<(Duration, SocketAddr, Vec<u8>)>,
    findings: Vec<(Duration, Finding)>,
    stats: StunStats,
}

impl World {
    fn new(seed: u64, servers: &[([u8; 4], u16)]) -> Self {
        let mut network = Network::new(seed);
        network.add(Setup::default());
        let servers = servers.iter().copied().map(SocketAddr::from).collect();
        let mut random = StdRng::seed_from_u64(seed);
        let mut client = StunClient::new(servers, INTERVAL, random.random());
        client.ask_about(network.now, network.nodes[0].addr());
        network.nodes[0].stun = Some(client);
        Self {
            network,
            seen: BTreeMap::new(),
            answers: BTreeMap::new(),
            random,
            loss: 0.0,
            requests: Vec::new(),
            findings: Vec::new(),
            stats: StunStats::default(),
        }
    }

    /// Adds a server that sees the node at this address.
    fn sees(mut self, server: ([u8; 4], u16), addr: ([u8; 4], u16)) -> Self {
        self.seen.insert(server.into(), addr.into());
        self
    }

    fn client(&mut self) -> &mut StunClient {
        self.network.nodes[0].stun.as_mut().unwrap()
    }

    fn run_for(&mut self, time: Duration) {
        let limit = self.network.now + time;
        loop {
            self.network.settle();
            self.exchange();
            let timeout = self.network.nodes[0].next_timeout();
            let arrival = self.answers.keys().next().map(|&(arrival, _)| arrival);
            let Some(next) = timeout.into_iter().chain(arrival).min() else {
                break;
            };
            if next > limit {
                break;
            }
            let pause = next.saturating_duration_since(self.network.now);
            self.network.run_for(pause);
        }
        let rest = limit.saturating_duration_since(self.network.now);
        self.network.run_for(rest);
        self.exchange();
    }

    /// Receives requests, delivers answers that are due, and notes the findings of the node.
    fn exchange(&mut self) {
        let elapsed = self.network.elapsed();
        for request in self.network.intercept() {
            let answer = self.seen.get(&request.to).copied();
            self.requests
                .push((elapsed, request.to, request.contents.clone()));
            if let Some(seen) = answer
                && !self.random.random_bool(self.loss)
            {
                let contents = success(&request.contents, seen);
                self.answer_with(&request, contents);
            }
        }
        let now = self.network.now;
        while let Some(entry) = self.answers.first_entry()
            && entry.key().0 <= now
        {
            let Outgoing { from, contents, .. } = entry.remove();
            self.network.nodes[0].receive(now, from, &contents);
        }
        self.network.settle();
        while let Some((_, finding)) = self.client().poll_finding() {
            self.findings.push((elapsed, finding));
        }
        let stats = self.client().take_stats();
        self.stats += stats;
    }

    fn answer_with(&mut self, request: &Outgoing, contents: Vec<u8>) {
        let key = (self.network.now + ROUND_TRIP, self.requests.len());
        let answer = Outgoing {
            from: request.to,
            to: request.from,
            contents,
            ecn: None,
        };
        self.answers.insert(key, answer);
    }

    /// The first request, which is not answered yet.
    fn first_request(&mut self) -> (SocketAddr, Vec<u8>) {
        self.run_for(SETTLING);
        let (_, server, contents) = self.requests[0].clone();
        (server, contents)
    }

    fn receive(&mut self, from: impl Into<SocketAddr>, contents: &[u8]) {
        let now = self.network.now;
        self.network.nodes[0].receive(now, from.into(), contents);
        self.network.settle();
        self.exchange();
    }

    fn times(&self, server: ([u8; 4], u16)) -> Vec<u128> {
        self.requests
            .iter()
            .filter(|(_, to, _)| *to == SocketAddr::from(server))
            .map(|(time, _, _)| (*time - SETTLING).as_millis())
            .collect()
    }
}

fn success(request: &[u8], seen: SocketAddr) -> Vec<u8> {
    let request = Message::from_bytes(request).unwrap();
    let mut response = Message::builder_success(&request, MessageWriteVec::new());
    let mapped = XorMappedAddress::new(seen, request.transaction_id());
    response.add_attribute(&mapped).unwrap();
    response.finish()
}

fn error(request: &[u8], code: u16) -> Vec<u8> {
    let request = Message::from_bytes(request).unwrap();
    let mut response = Message::builder_error(&request, MessageWriteVec::new());
    response
        .add_attribute(&ErrorCode::builder(code).build().unwrap())
        .unwrap();
    response.finish()
}

fn id(request: &[u8]) -> TransactionId {
    Message::from_bytes(request).unwrap().transaction_id()
}

fn mapped(addr: ([u8; 4], u16), behaviour: Option<MappingBehaviour>) -> Finding {
    Finding::Mapped {
        addr: addr.into(),
        behaviour,
    }
}

fn independent(addr: ([u8; 4], u16)) -> Finding {
    mapped(addr, Some(MappingBehaviour::EndpointIndependent))
}

fn dependent(addr: ([u8; 4], u16)) -> Finding {
    mapped(addr, Some(MappingBehaviour::EndpointDependent))
}

/// The findings, without their times.
fn found(world: &World) -> Vec<Finding> {
    world.findings.iter().map(|(_, finding)| *finding).collect()
}

#[test]
fn silent_server_is_asked_seven_times_and_given_up_after_39_5_seconds() {
    let mut world = World::new(1, &[A]);
    world.run_for(SETTLING + Duration::from_millis(39_499));
    assert_eq!(
        world.times(A),
        [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500]
    );
    assert!(world.findings.is_empty());
    world.run_for(Duration::from_millis(1));
    assert_eq!(found(&world), [Finding::Unanswered]);
    let first = id(&world.requests[0].2);
    assert!(
        world
            .requests
            .iter()
            .all(|(_, _, bytes)| id(bytes) == first)
    );
    assert_eq!((world.stats.requests_sent, world.stats.unanswered), (7, 1));
    // The next round is another transaction, and changes nothing.
    world.run_for(INTERVAL);
    let again = &world.requests[7];
    let pause = again.0 - SETTLING - Duration::from_millis(39_500);
    assert!(pause >= INTERVAL.mul_f64(0.8) && pause <= INTERVAL);
    assert_ne!(id(&again.2), first);
    world.run_for(Duration::from_secs(60));
    assert_eq!(found(&world), [Finding::Unanswered]);
}

#[test]
fn same_address_at_two_hosts_is_endpoint_independent() {
    let mut world = World::new(2, &[A, B, C]).sees(A, PUBLIC).sees(B, PUBLIC);
    world.run_for(SETTLING + ROUND_TRIP);
    assert_eq!(found(&world), [independent(PUBLIC)]);
    // Two were enough.
    assert_eq!((world.times(A).len(), world.times(B).len()), (1, 1));
    assert!(world.times(C).is_empty());
}

#[test]
fn other_address_at_another_host_is_endpoint_dependent() {
    let mut world = World::new(3, &[A, B]).sees(A, PUBLIC).sees(B, OTHER);
    world.run_for(Duration::from_secs(1));
    assert_eq!(found(&world), [dependent(PUBLIC)]);
}

#[test]
fn two_ports_of_one_host_show_dependence_only() {
    let mut world = World::new(4, &[A, A2]).sees(A, PUBLIC).sees(A2, PUBLIC);
    world.run_for(Duration::from_secs(1));
    assert_eq!(found(&world), [mapped(PUBLIC, None)]);
    let mut world = World::new(4, &[A, A2]).sees(A, PUBLIC).sees(A2, OTHER);
    world.run_for(Duration::from_secs(1));
    assert_eq!(found(&world), [dependent(PUBLIC)]);
}

#[test]
fn another_host_is_asked_before_another_port() {
    let mut world = World::new(5, &[A, A2, B]).sees(A, PUBLIC).sees(B, PUBLIC);
    world.run_for(Duration::from_secs(1));
    assert_eq!(found(&world), [independent(PUBLIC)]);
    assert!(world.times(A2).is_empty());
}

#[test]
fn late_server_is_replaced_before_it_is_given_up() {
    let mut world = World::new(6, &[A, B, C]).sees(B, PUBLIC).sees(C, PUBLIC);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.times(C), [1_500]);
    assert_eq!(found(&world), [independent(PUBLIC)]);
}

#[test]
fn late_server_completes_what_was_said_without_it() {
    let mut world = World::new(7, &[A, B]).sees(A, PUBLIC);
    world.run_for(Duration::from_secs(3));
    assert_eq!(found(&world), [mapped(PUBLIC, None)]);
    world = world.sees(B, PUBLIC);
    world.run_for(Duration::from_secs(3));
    assert_eq!(found(&world), [mapped(PUBLIC, None), independent(PUBLIC)]);
}

#[test]
fn refusing_and_unreachable_servers_are_replaced_at_once() {
    let mut world = World::new(8, &[A, B, C]).sees(C, PUBLIC);
    let (server, request) = world.first_request();
    world.receive(server, &error(&request, 500));
    assert_eq!((world.stats.refused, world.times(C)), (1, vec![0]));
    let (_, server, request) = world.requests[1].clone();
    let (now, local_addr) = (world.network.now, world.network.nodes[0].addr());
    // From a host that has not seen the request: no effect.
    let mut guessed = request.clone();
    guessed[19] ^= 1;
    let is_ours = |world: &mut World, server: SocketAddr, quoted: &[u8]| {
        world.client().unreachable(now, local_addr, server, quoted)
    };
    assert!(!is_ours(&mut world, server, &guessed));
    assert!(!is_ours(&mut world, A.into(), &request));
    assert!(is_ours(&mut world, server, &request));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.stats.unanswered, 1);
    assert_eq!(found(&world), [mapped(PUBLIC, None)]);
}

#[test]
fn only_the_asked_server_is_believed_and_only_once() {
    let mut world = World::new(9, &[A]);
    let (server, request) = world.first_request();
    let good = success(&request, PUBLIC.into());
    let with = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        bytes
    };
    let unexpected = [
        (SocketAddr::from(B), good.clone()),
        (SocketAddr::from(A2), good.clone()),
        // Another transaction.
        (server, with(19, good[19] ^ 1)),
        // Our own request, and an indication.
        (server, request.clone()),
        (server, [&[0, 0x11], &good[2..]].concat()),
        // A response to a method other than Binding.
        (server, with(1, 0x03)),
    ];
    for (from, bytes) in &unexpected {
        world.receive(*from, bytes);
    }
    assert_eq!(world.stats.dropped_unexpected, 6);
    // No cookie; a wrong length; one byte too few, and one too many; an attribute that ends behind
    // the message; an address of an unknown family, one of the other family, and one that no host
    // can have.
    let mut family = with(25, 2);
    family[3] += 12;
    family[23] += 12;
    family.extend([0; 12]);
    let malformed = [
        with(4, 0),
        with(3, good[3] + 4),
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        with(23, 40),
        with(25, 9),
        family,
        success(&request, ([224, 0, 0, 1], 1).into()),
        success(&request, ([203, 0, 113, 1], 0).into()),
        good[..19].to_vec(),
        vec![0],
    ];
    for bytes in &malformed {
        world.receive(server, bytes);
    }
    assert_eq!(world.stats.dropped_malformed, malformed.len() as u64);
    // DTLS, for instance, is ignored.
    world.receive(server, &[22, 254, 253]);
    assert!(world.findings.is_empty());
    assert_eq!(world.stats.answers, 0);
    // None of it had an effect: the right answer still counts.
    world.receive(server, &good);
    assert_eq!(found(&world), [mapped(PUBLIC, None)]);
    // But only once.
    world.receive(server, &success(&request, OTHER.into()));
    assert_eq!(world.stats.dropped_unexpected, 7);
    assert_eq!(world.stats.answers, 1);
}

#[test]
fn answer_to_another_socket_is_not_believed() {
    let mut world = World::new(10, &[A]);
    let (server, request) = world.first_request();
    let other = SocketAddr::from(([192, 0, 2, 1], 4002));
    let now = world.network.now;
    let good = success(&request, PUBLIC.into());
    let client = world.client();
    assert!(!client.handle(now, other, server, &good));
    // Nor if that socket has a request in progress as well.
    client.ask_about(now, other);
    let then = now + SETTLING;
    let mut asked = 0;
    while let Some(request) = client.poll_transmit(then) {
        asked += usize::from(request.from == other);
    }
    assert_eq!(asked, 1);
    assert!(!client.handle(then, other, server, &good));
    assert_eq!(client.take_stats().dropped_unexpected, 2);
}

#[test]
fn ipv6_addresses_are_read() {
    let [server, local_addr, public] = ["[2001:db8::1]:3478", "[::]:4001", "[2001:db8:9::7]:50000"]
        .map(|addr| addr.parse::<SocketAddr>().unwrap());
    let now = crate::net::clock::now();
    // The other server cannot be reached from there.
    let mut client = StunClient::new(vec![A.into(), server], INTERVAL, [6; 32]);
    client.ask_about(now, local_addr);
    let then = now + SETTLING;
    let request = client.poll_transmit(then).unwrap();
    assert_eq!((request.from, request.to), (local_addr, server));
    assert!(client.poll_transmit(then).is_none());
    let answer = success(&request.contents, public);
    assert!(client.handle(then, local_addr, server, &answer));
    let finding = Finding::Mapped {
        addr: public,
        behaviour: None,
    };
    assert_eq!(client.poll_finding(), Some((local_addr, finding)));
    assert_eq!(client.poll_finding(), None);
}

#[test]
fn answer_that_must_be_understood_and_is_not_is_a_failure() {
    let mut world = World::new(11, &[A, B]);
    let (server, request) = world.first_request();
    let mut answer = success(&request, PUBLIC.into());
    // An attribute of type 0x0006, without a value.
    answer.extend([0, 6, 0, 0]);
    answer[3] += 4;
    world.receive(server, &answer);
    assert_eq!((world.stats.refused, world.stats.answers), (1, 0));
}

#[test]
fn change_of_an_interface_is_followed_by_a_question() {
    let mut world = World::new(12, &[A, B]).sees(A, PUBLIC).sees(B, PUBLIC);
    world.run_for(Duration::from_secs(5));
    world = world.sees(A, OTHER).sees(B, OTHER);
    let (now, local_addr) = (world.network.now, world.network.nodes[0].addr());
    // Several changes at a time count as one.
    for _ in 0..20 {
        world.client().ask_about(now, local_addr);
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.times(A), [0, 5_000]);
    assert_eq!(found(&world), [independent(PUBLIC), independent(OTHER)]);
    // There are no requests for a socket that is gone.
    world.client().forget(local_addr);
    let sent = world.stats.requests_sent;
    world.run_for(2 * INTERVAL);
    assert_eq!(world.stats.requests_sent, sent);
    assert_eq!(world.client().next_timeout(), None);
}

#[test]
fn undisturbed_it_asks_before_a_nat_forgets() {
    let mut world = World::new(13, &[A, B]).sees(A, PUBLIC).sees(B, PUBLIC);
    world.run_for(Duration::from_secs(300));
    let times = world.times(A);
    assert!((11..=13).contains(&times.len()), "{times:?}");
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!((23_200..=29_020).contains(&pause), "{pause}");
    }
    assert_eq!(found(&world), [independent(PUBLIC)]);
}

#[test]
fn nobody_is_asked_who_was_not_configured_or_cannot_be_reached() {
    let mut world = World::new(14, &[]);
    world.run_for(INTERVAL);
    assert!(world.requests.is_empty());
    // A loopback server cannot be reached from a public address.
    let mut world = World::new(14, &[([127, 0, 0, 1], 3478)]);
    world.run_for(INTERVAL);
    assert!(world.requests.is_empty());
    assert_eq!(world.client().next_timeout(), None);
}

/// Runs a client until `end`. `answer` returns what the server answers to a request at once.
fn drive(
    client: &mut StunClient,
    mut now: Instant,
    end: Instant,
    mut answer: impl FnMut(Instant, &StunTransmit) -> Option<Vec<u8>>,
) {
    let mut steps = 0;
    while let Some(next) = client.next_timeout().filter(|next| *next < end) {
        steps += 1;
        assert!(steps < 100_000, "a timeout leads to nothing");
        // It is past where an answer has made room for another socket.
        now = now.max(next);
        let mut answers = Vec::new();
        while let Some(request) = client.poll_transmit(now) {
            let answer = answer(now, &request);
            answers.extend(answer.map(|answer| (request.from, request.to, answer)));
        }
        for (from, server, answer) in answers {
            assert!(client.handle(now, from, server, &answer));
        }
    }
}

/// Lets a client with this number of sockets run for a while, and has these servers answer. Returns
/// the ports from which requests were sent, and those with a finding.
fn crowd(
    sockets: u16,
    servers: &[([u8; 4], u16)],
    answering: &[([u8; 4], u16)],
) -> [BTreeSet<u16>; 2] {
    let now = crate::net::clock::now();
    let servers = servers.iter().copied().map(SocketAddr::from).collect();
    let mut client = StunClient::new(servers, Duration::from_secs(1), [7; 32]);
    for port in 1..=sockets {
        client.ask_about(now, ([192, 0, 2, 9], port).into());
    }
    let mut asked = BTreeSet::new();
    drive(
        &mut client,
        now,
        now + Duration::from_secs(300),
        |_, request| {
            asked.insert(request.from.port());
            let is_answered = answering
                .iter()
                .any(|addr| request.to == SocketAddr::from(*addr));
            is_answered.then(|| success(&request.contents, PUBLIC.into()))
        },
    );
    let found = iter::from_fn(|| client.poll_finding());
    let found = found.map(|(addr, _)| addr.port()).collect();
    [asked, found]
}

#[test]
fn no_more_than_ten_sockets_ask_the_same_server_at_a_time() {
    let began = crate::net::clock::now();
    let mut client = StunClient::new(six_servers(), INTERVAL, [7; 32]);
    for port in 0..50 {
        client.ask_about(began, ([192, 0, 2, 9], 1 + port).into());
    }
    // With six silent servers, a round keeps its place for 7 s.
    let now = began + SETTLING + Duration::from_millis(5_100);
    let mut asked = BTreeMap::new();
    drive(&mut client, began, now, |_, request| {
        asked.insert((request.from, request.to), request.contents.clone());
        None
    });
    let sockets: BTreeSet<_> = asked.keys().map(|(from, _)| *from).collect();
    assert_eq!(sockets.len(), 10);
    // The next one begins when a round is over, and when a socket is forgotten.
    let answered = *sockets.iter().nth(1).unwrap();
    for server in [A, B].map(SocketAddr::from) {
        let answer = success(&asked[&(answered, server)], PUBLIC.into());
        assert!(client.handle(now, answered, server, &answer));
    }
    client.forget(*sockets.iter().nth(2).unwrap());
    assert!(client.next_timeout() <= Some(now));
    let mut more = BTreeSet::new();
    let end = began + SETTLING + Duration::from_millis(6_900);
    drive(&mut client, now, end, |_, request| {
        if !sockets.contains(&request.from) {
            more.insert(request.from);
        }
        None
    });
    assert_eq!(more.len(), 2);
}

/// Servers at six hosts. If all are silent, the last two of them are late after 4.5 s.
fn six_servers() -> Vec<SocketAddr> {
    (1..=6)
        .map(|host| ([198, 51, 100, host], 3478).into())
        .collect()
}

#[test]
fn no_more_than_ten_questions_to_a_silent_server_are_open() {
    let now = crate::net::clock::now();
    let mut client = StunClient::new(vec![A.into()], INTERVAL, [7; 32]);
    for port in 1..=50 {
        client.ask_about(now, ([192, 0, 2, 9], port).into());
    }
    let mut asked = BTreeSet::new();
    let (mut given_up, mut most) = (0, 0);
    for step in 1..=600 {
        let time = |step| now + step * Duration::from_millis(100);
        drive(&mut client, time(step - 1), time(step), |_, request| {
            asked.insert((request.from, request.contents.clone()));
            None
        });
        given_up += client.take_stats().unanswered;
        most = most.max(asked.len() as u64 - given_up);
    }
    assert_eq!(most, 10);
}

#[test]
fn sockets_of_the_two_families_do_not_wait_for_each_other() {
    let began = crate::net::clock::now();
    let server: SocketAddr = "[2001:db8::1]:3478".parse().unwrap();
    let servers = six_servers().into_iter().chain([server]).collect();
    let mut client = StunClient::new(servers, INTERVAL, [7; 32]);
    let ipv6 = |port| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], port));
    for port in 1..=12 {
        client.ask_about(began, ([192, 0, 2, 9], port).into());
    }
    for port in [1, 2] {
        client.ask_about(began, ipv6(port));
    }
    let mut first_asked = BTreeMap::new();
    let mut run = |client: &mut StunClient, from: u64, to: u64| {
        let [from, to] = [from, to].map(|ms| began + SETTLING + Duration::from_millis(ms));
        drive(client, from, to, |at, request| {
            let elapsed = (at - began - SETTLING).as_millis();
            first_asked.entry(request.from).or_insert(elapsed);
            (request.to == server).then(|| success(&request.contents, ipv6(7)))
        });
    };
    run(&mut client, 0, 5_100);
    // All places of IPv4 are taken.
    client.ask_about(began + Duration::from_millis(5_100), ipv6(3));
    run(&mut client, 5_100, 6_900);
    let [of_ipv6, of_ipv4] = [true, false].map(|is_ipv6| -> Vec<_> {
        let asked = first_asked
            .iter()
            .filter(|(from, _)| from.is_ipv6() == is_ipv6);
        asked.map(|(_, time)| *time).collect()
    });
    assert_eq!(of_ipv6, [0, 500, 5_100]);
    assert_eq!(of_ipv4, (0..10).map(|turn| turn * 500).collect::<Vec<_>>());
}

#[test]
fn sockets_without_an_answer_leave_their_places_to_others() {
    let now = crate::net::clock::now();
    let mut client = StunClient::new(vec![A.into()], INTERVAL, [7; 32]);
    let local = |port| SocketAddr::from(([192, 0, 2, 9], port));
    for port in 1..=11 {
        client.ask_about(now, local(port));
    }
    let mut asked_first = Vec::new();
    let run = |client: &mut StunClient, from: u64, to: u64, asked: &mut Vec<u128>| {
        let [from, to] = [from, to].map(|secs| now + SETTLING + Duration::from_secs(secs));
        drive(client, from, to, |at, request| {
            if request.from == local(1) {
                asked.push((at - now - SETTLING).as_millis());
            }
            (request.from == local(11)).then(|| success(&request.contents, PUBLIC.into()))
        });
    };
    run(&mut client, 0, 6, &mut asked_first);
    // The first of them has had four requests, and makes room for the last one.
    let found: Vec<_> = iter::from_fn(|| client.poll_finding()).collect();
    assert_eq!(
        found,
        [
            (local(1), Finding::Unanswered),
            (local(11), mapped(PUBLIC, None))
        ]
    );
    assert_eq!(client.take_stats().unanswered, 1);
    // It gets its turn again.
    run(&mut client, 6, 40, &mut asked_first);
    let again = asked_first[4];
    assert!((28_200..=34_000).contains(&again), "{asked_first:?}");
}

#[test]
fn rounds_begin_an_rto_apart() {
    let now = crate::net::clock::now();
    let mut client = StunClient::new(vec![A.into()], INTERVAL, [7; 32]);
    let addrs = [1, 2, 3].map(|port| SocketAddr::from(([192, 0, 2, 9], port)));
    let mut times = Vec::new();
    // An interface changes after 10 s.
    for pause in [Duration::ZERO, Duration::from_secs(10)] {
        let now = now + pause;
        for addr in addrs {
            client.ask_about(now, addr);
        }
        drive(
            &mut client,
            now,
            now + Duration::from_secs(10),
            |at, request| {
                times.push((at - now - SETTLING).as_millis());
                Some(success(&request.contents, PUBLIC.into()))
            },
        );
    }
    assert_eq!(times, [0, 500, 1_000, 0, 500, 1_000]);
}

#[test]
fn server_that_is_late_when_it_is_asked_again_counts_as_unanswered() {
    let mut world = World::new(16, &[A, B]).sees(A, PUBLIC);
    // Two rounds.
    world.run_for(Duration::from_secs(33));
    assert_eq!(world.times(A).len(), 2);
    assert_eq!(world.stats.unanswered, 1);
}

#[test]
fn late_answer_counts_although_another_socket_needs_the_place() {
    let now = crate::net::clock::now();
    // The first of six servers answers at once and the others are late, so the last one is asked
    // after 6 s. It answers the fourth request, after 9.5 s.
    let servers = six_servers();
    let (first, last) = (servers[0], servers[5]);
    let mut client = StunClient::new(servers, INTERVAL, [7; 32]);
    let local = |port| SocketAddr::from(([192, 0, 2, 9], port));
    (1..=11).for_each(|port| client.ask_about(now, local(port)));
    let mut asked_late = BTreeMap::new();
    let end = now + Duration::from_secs(15);
    drive(&mut client, now, end, |_, request| {
        let times = asked_late.entry((request.from, request.to)).or_insert(0);
        *times += 1;
        let is_heard = request.to == first || (request.to == last && *times == 4);
        is_heard.then(|| success(&request.contents, PUBLIC.into()))
    });
    let found: BTreeMap<_, _> = iter::from_fn(|| client.poll_finding()).collect();
    assert_eq!(found[&local(1)], independent(PUBLIC));
}

#[test]
fn every_socket_gets_its_turn_however_often_interfaces_change() {
    let mut now = crate::net::clock::now();
    let mut client = StunClient::new(vec![A.into()], INTERVAL, [7; 32]);
    let mut asked = BTreeSet::new();
    for _ in 0..100 {
        for port in 1..=25 {
            client.ask_about(now, ([192, 0, 2, 9], port).into());
        }
        let next = now + Duration::from_millis(900);
        drive(&mut client, now, next, |_, request| {
            asked.insert(request.from.port());
            None
        });
        now = next;
    }
    assert_eq!(asked, (1..=25).collect());
}

#[test]
fn every_socket_gets_its_turn() {
    let all: BTreeSet<_> = (1..=25).collect();
    // Without an answer a round takes longer than the interval, and so does one that waits for
    // another server.
    for answering in [&[][..], &[A], &[A, B]] {
        let [asked, found] = crowd(25, &[A, B], answering);
        assert_eq!(asked, all, "{answering:?}");
        assert_eq!(found, all, "{answering:?}");
    }
}

#[test]
fn loss_delays_and_never_misleads() {
    for seed in seeds() {
        let run = || {
            let mut world = World::new(seed, &[A, B, C])
                .sees(A, PUBLIC)
                .sees(B, PUBLIC)
                .sees(C, PUBLIC);
            world.loss = 0.4;
            world.run_for(Duration::from_secs(120));
            world
        };
        let world = run();
        let found = found(&world);
        // In 12 rounds, at least one got answers of two servers.
        assert!(
            found.contains(&independent(PUBLIC)),
            "seed {seed}: {found:?}"
        );
        assert!(!found.contains(&dependent(PUBLIC)), "seed {seed}");
        // The same seed sends the same requests.
        assert_eq!(world.requests, run().requests, "seed {seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// No bytes from the right server, however close to an answer, cause a panic, and accepted
    /// answers are complete.
    #[test]
    fn takes_any_answer(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let local_addr = SocketAddr::from(([192, 0, 2, 1], 4001));
        let now = crate::net::clock::now();
        let mut client = StunClient::new(vec![A.into()], INTERVAL, [7; 32]);
        client.ask_about(now, local_addr);
        let request = client.poll_transmit(now + SETTLING).unwrap();
        let good = success(&request.contents, PUBLIC.into());
        let mut answer = good.clone();
        for (index, value) in changes {
            let index = index.index(answer.len());
            answer[index] = value;
        }
        if is_cut {
            answer.truncate(cut.index(answer.len()));
        }
        let taken = client.handle(now + SETTLING, local_addr, A.into(), &answer);
        let stats = client.take_stats();
        let counted = stats.answers
            + stats.refused
            + stats.dropped_malformed
            + stats.dropped_unexpected;
        prop_assert_eq!(counted, u64::from(answer.first().is_some_and(|first| *first < 4)));
        prop_assert_eq!(taken, stats.answers + stats.refused == 1);
        if taken {
            prop_assert_eq!(&answer[4..20], &good[4..20]);
        }
    }
}
