//! The datagrams of hole punches, and their times.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{network::Network, node::Setup};
use crate::proto::{MAX_UNMATCHED, PunchKey, unanswered::FIRST_RETRANSMISSION};

const TARGET: ([u8; 4], u16) = ([192, 0, 2, 77], 4001);

/// The default.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Times and sizes of all datagrams of a hole punch.
fn punch(seed: u64) -> Vec<(Duration, usize)> {
    let mut network = Network::new(seed);
    network.add(Setup::default());
    let now = network.now;
    network.nodes[0].punch(now, SocketAddr::from(TARGET));
    let mut sent = Vec::new();
    while let Some(due) = network.nodes[0].next_timeout() {
        network.run_for(due.saturating_duration_since(network.now));
        for datagram in network.intercept() {
            assert_eq!(datagram.to, SocketAddr::from(TARGET));
            sent.push((network.elapsed(), datagram.contents.len()));
        }
    }
    network.nodes[0].assert_empty();
    sent
}

#[test]
fn pauses_and_sizes_are_random_within_their_bounds() {
    let sent = punch(1);
    // The first at once, then 9.5 a second on average.
    assert_eq!(sent[0].0, Duration::ZERO);
    assert!((30..=70).contains(&sent.len()), "{}", sent.len());
    assert!(sent.iter().all(|(time, _)| *time < HANDSHAKE_TIMEOUT));
    for pair in sent.windows(2) {
        let pause = pair[1].0 - pair[0].0;
        assert!(pause >= Duration::from_millis(10), "{pause:?}");
        assert!(pause <= Duration::from_millis(200), "{pause:?}");
    }
    // Too small to be answered with a stateless reset (RFC 9000 §10.3).
    assert!(sent.iter().all(|(_, size)| *size < 21));
}

#[test]
fn dial_that_was_too_early_need_not_wait_to_send_again() {
    let mut network = Network::new(1);
    for _ in 0..2 {
        network.add(Setup::default());
    }
    let dialled = network.dial(0, 1);
    network.settle();
    // The other node's NAT is not open yet.
    assert!(!network.intercept().is_empty());
    let dialer_addr = network.nodes[0].addr();
    network.run_for(Duration::from_millis(30));
    let now = network.now;
    network.nodes[1].punch(now, dialer_addr);

    let established = network.block_on(async move { dialled.established().await });
    assert_eq!(established.unwrap(), network.nodes[1].peer_id());
    // Before the first retransmission, which is sent after a second.
    assert!(network.elapsed() < Duration::from_millis(500));
}

#[test]
fn first_packet_of_a_dial_is_sent_again_when_we_expect_it() {
    let mut network = Network::new(1);
    network.add(Setup::default());
    let now = network.now;
    let _dialled = network.nodes[0].dial(now, SocketAddr::from(TARGET), None);
    network.settle();
    assert!(!network.intercept().is_empty());
    let just_before = FIRST_RETRANSMISSION - Duration::from_millis(1);
    network.run_for(just_before);
    assert!(network.intercept().is_empty());
    network.run_for(FIRST_RETRANSMISSION - just_before);
    assert!(!network.intercept().is_empty());
}

#[test]
fn unmatched_datagram_makes_a_dial_send_once_more_and_not_more_often() {
    let mut network = Network::new(1);
    network.add(Setup::default());
    network.add(Setup {
        listening: false,
        ..Setup::default()
    });
    for (node, expected) in [(0, 1), (1, 0)] {
        let target = SocketAddr::from(TARGET);
        let now = network.now;
        let _dialled = network.nodes[node].dial(now, target, None);
        network.settle();
        network.intercept();
        let elsewhere = SocketAddr::new(target.ip(), target.port() + 1);
        for from in [elsewhere, target, target] {
            for noise in [&[0; 8][..], &[0x40; 64], &[0x40; 20]] {
                network.nodes[node].receive(now, from, noise);
            }
            network.settle();
        }
        let sent = network.intercept();
        // The other datagrams are stateless resets.
        let initials = sent
            .iter()
            .filter(|datagram| datagram.contents.len() >= 1200);
        assert_eq!(initials.count(), expected, "node {node}");
    }
}

#[test]
fn unmatched_datagram_is_heard_whichever_shard_gets_it() {
    let mut network = Network::new(1);
    network.add(Setup {
        shards: 2,
        ..Setup::default()
    });
    let mut port = TARGET.1;
    let shorts = [0x40, 0x41].map(|first| [first; 20]);
    let longer = [0, 0x40, 0x41].map(|first| [first; 64]);
    // The datagrams of a hole punch are too short for a stateless reset.
    let noises =
        (shorts.iter().map(|noise| &noise[..])).chain(longer.iter().map(|noise| &noise[..]));
    for noise in noises {
        // One dial for each shard.
        for _ in 0..2 {
            port += 1;
            let target = SocketAddr::from((TARGET.0, port));
            let now = network.now;
            let _dialled = network.nodes[0].dial(now, target, None);
            network.settle();
            network.intercept();
            network.nodes[0].receive(now, target, noise);
            network.settle();
            let sent = network.intercept();
            let is_initial = |contents: &[u8]| contents.len() >= 1200;
            assert!(sent.iter().any(|sent| is_initial(&sent.contents)), "{port}");
        }
    }
}

#[test]
fn max_unmatched_senders_are_named_to_other_shards_and_none_if_there_is_no_other() {
    for (shards, named) in [(1, 0), (2, MAX_UNMATCHED)] {
        let mut network = Network::new(1);
        network.add(Setup {
            shards,
            ..Setup::default()
        });
        let now = network.now;
        for port in 1..=MAX_UNMATCHED as u16 + 1 {
            let from = SocketAddr::from((TARGET.0, port));
            network.nodes[0].receive_on(0, now, from, &[0x40; 20]);
        }
        let unmatched = network.nodes[0].shards[0].take_unmatched();
        assert_eq!(unmatched.len(), named, "{shards} shards");
    }
}

#[test]
fn host_that_is_named_many_times_is_sent_what_one_punch_sends() {
    let mut crowd = Crowd::new();
    // Each at a different port, repeatedly; none of them ends.
    for _ in 0..3 {
        for port in 1..=256 {
            crowd.punch(SocketAddr::from((TARGET.0, port)));
        }
        crowd.run_for(Duration::from_secs(4));
    }
    crowd.assert_bounded(TARGET.0.into());
}

#[test]
fn punches_that_are_ended_and_begun_again_send_no_more() {
    let mut crowd = Crowd::new();
    for round in 0..700_u16 {
        // As for peers that disappear as soon as they are dialled.
        let [high, low] = round.to_be_bytes();
        let elsewhere = SocketAddr::from(([10, 1, high, low], 1));
        let there = (1..=16).map(|port| SocketAddr::from((TARGET.0, port)));
        let begun: Vec<_> = there.chain([elsewhere]).map(|to| crowd.punch(to)).collect();
        crowd.run_for(Duration::from_millis(10));
        for key in begun {
            crowd.network.nodes[0].end_punch(key);
        }
    }
    crowd.network.nodes[0].assert_empty();
    crowd.assert_bounded(TARGET.0.into());
}

#[test]
fn one_network_of_ipv6_is_one_host() {
    let mut crowd = Crowd::new();
    for host in 0..256_u16 {
        let ip = [0x2001, 0xdb8, 0, 7, 0, 0, 0, host];
        crowd.punch((ip, 4001).into());
    }
    crowd.run_for(Duration::from_secs(6));
    let sent = crowd.sent.len();
    let expected = MOST_IN_FIVE_SECONDS / 2..=MOST_IN_FIVE_SECONDS;
    assert!(expected.contains(&sent), "{sent}");
}

#[test]
fn eight_peers_behind_one_nat_are_all_punched_for() {
    let mut crowd = Crowd::new();
    let ports = 1..=8;
    for port in ports.clone() {
        crowd.punch(SocketAddr::from((TARGET.0, port)));
    }
    crowd.run_for(Duration::ZERO);
    let at_once = crowd.sent_by_port();
    assert!(ports.clone().all(|port| at_once.get(&port) == Some(&1)));
    crowd.run_for(Duration::from_secs(5));
    let in_all = crowd.sent_by_port();
    let enough = |port| in_all.get(&port).is_some_and(|sent| *sent >= 3);
    assert!(ports.clone().all(enough), "{in_all:?}");
    crowd.assert_bounded(TARGET.0.into());
}

#[test]
fn peer_that_comes_last_is_sent_to_before_the_others_again() {
    let mut crowd = Crowd::new();
    // As many as the transport permits for one host.
    for port in 1..=15 {
        crowd.punch(SocketAddr::from((TARGET.0, port)));
    }
    crowd.run_for(Duration::from_secs(4));
    let late = SocketAddr::from((TARGET.0, 4001));
    crowd.punch(late);
    let elsewhere = SocketAddr::from(([192, 0, 2, 78], 4001));
    crowd.punch(elsewhere);
    let began = crowd.network.elapsed();
    crowd.run_for(Duration::from_secs(5));
    let first_to = |addr| {
        let first = crowd.sent.iter().find(|(_, to, _)| *to == addr);
        first.map(|(time, ..)| *time - began).unwrap()
    };
    assert!(first_to(late) <= Duration::from_millis(200));
    // Another host has its own schedule.
    assert_eq!(first_to(elsewhere), Duration::ZERO);
    let to_elsewhere = crowd.sent.iter().filter(|(_, to, _)| *to == elsewhere);
    assert!((30..=70).contains(&to_elsewhere.count()));
}

/// A node that punches many holes, and everything that it sends.
struct Crowd {
    network: Network,
    /// Time, destination, and size.
    sent: Vec<(Duration, SocketAddr, usize)>,
}

impl Crowd {
    fn new() -> Self {
        let mut network = Network::new(1);
        network.add(Setup::default());
        Self {
            network,
            sent: Vec::new(),
        }
    }

    fn punch(&mut self, to: SocketAddr) -> PunchKey {
        let now = self.network.now;
        self.network.nodes[0].punch(now, to)
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.network.now + time;
        loop {
            self.network.settle();
            let now = self.network.elapsed();
            let sent = self.network.intercept().into_iter();
            self.sent
                .extend(sent.map(|datagram| (now, datagram.to, datagram.contents.len())));
            let due = self.network.nodes[0].next_timeout();
            match due {
                Some(due) if due <= end => self.network.run_for(due - self.network.now),
                _ => break,
            }
        }
        self.network.run_for(end - self.network.now);
    }

    fn sent_by_port(&self) -> HashMap<u16, usize> {
        let mut sent = HashMap::new();
        for (_, to, _) in &self.sent {
            *sent.entry(to.port()).or_default() += 1;
        }
        sent
    }

    /// Asserts that this host was never sent much more than by one punch, in any five seconds.
    fn assert_bounded(&self, ip: IpAddr) {
        let to_host: Vec<_> = self
            .sent
            .iter()
            .filter(|(_, to, _)| to.ip() == ip)
            .collect();
        assert!(!to_host.is_empty());
        for (index, (began, ..)) in to_host.iter().enumerate() {
            let end = *began + Duration::from_secs(5);
            let window = to_host[index..].iter().take_while(|(time, ..)| *time < end);
            let bytes: Vec<_> = window.map(|(_, _, bytes)| bytes).collect();
            assert!(bytes.len() <= MOST_IN_FIVE_SECONDS, "{}", bytes.len());
            assert!(bytes.into_iter().sum::<usize>() <= 20 * MOST_IN_FIVE_SECONDS);
        }
    }
}

/// Datagrams that one punch may send with short pauses, and the bursts: eight datagrams in five
/// seconds. The interval may include the end of one burst period and the beginning of the next.
const MOST_IN_FIVE_SECONDS: usize = 70 + 16;

#[test]
fn same_seed_sends_the_same() {
    assert_eq!(punch(2), punch(2));
    assert_ne!(punch(2), punch(3));
}
