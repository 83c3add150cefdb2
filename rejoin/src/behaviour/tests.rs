//! The rules that take seconds or minutes, with times that the tests choose.

use std::{io, num::NonZeroUsize};

use libp2p_core::{ConnectedPoint, transport::TransportError};
use libp2p_swarm::dial_opts::DialOpts;

use super::*;
use crate::config::Backoff;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn behaviour(config: Config) -> Behaviour {
    Behaviour::new(PeerId::random(), config)
}

fn id(number: usize) -> ConnectionId {
    ConnectionId::new_unchecked(1_000_000 + number)
}

fn dialled(address: &str) -> ConnectedPoint {
    ConnectedPoint::Dialer {
        address: address.parse().unwrap(),
        role_override: Endpoint::Dialer,
        port_use: PortUse::Reuse,
    }
}

fn accepted() -> ConnectedPoint {
    let address: Multiaddr = "/memory/1".parse().unwrap();
    ConnectedPoint::Listener {
        local_addr: address.clone(),
        send_back_addr: address,
    }
}

fn open(
    behaviour: &mut Behaviour,
    peer: PeerId,
    connection_id: ConnectionId,
    endpoint: &ConnectedPoint,
    now: Instant,
) {
    let event = ConnectionEstablished {
        peer_id: peer,
        connection_id,
        endpoint,
        failed_addresses: &[],
        other_established: 0,
    };
    behaviour.on_established(event, now);
}

fn close(
    behaviour: &mut Behaviour,
    peer: PeerId,
    connection_id: ConnectionId,
    cause: Option<&ConnectionError>,
    now: Instant,
) {
    close_one(behaviour, peer, connection_id, cause, 0, now);
}

fn close_one(
    behaviour: &mut Behaviour,
    peer: PeerId,
    connection_id: ConnectionId,
    cause: Option<&ConnectionError>,
    remaining_established: usize,
    now: Instant,
) {
    let endpoint = &dialled("/memory/1");
    let event = ConnectionClosed {
        peer_id: peer,
        connection_id,
        endpoint,
        cause,
        remaining_established,
    };
    behaviour.on_closed(event, now);
}

fn reset() -> ConnectionError {
    ConnectionError::IO(io::ErrorKind::ConnectionReset.into())
}

/// The dials and events that are due, without the file.
fn due(behaviour: &mut Behaviour, now: Instant) -> Vec<DialOpts> {
    behaviour.started.get_or_insert(now);
    behaviour.remember_settled(now);
    behaviour.watch_target();
    behaviour.dial(now);
    let dials = behaviour
        .actions
        .drain(..)
        .filter_map(|action| match action {
            ToSwarm::Dial { opts } => Some(opts),
            _ => None,
        });
    dials.collect()
}

fn fail(behaviour: &mut Behaviour, opts: &DialOpts, addresses: &[&str], now: Instant) {
    let refused = |address: &&str| {
        let error = io::ErrorKind::ConnectionRefused.into();
        (address.parse().unwrap(), TransportError::Other(error))
    };
    let error = DialError::Transport(addresses.iter().map(refused).collect());
    let event = DialFailure {
        peer_id: opts.get_peer_id(),
        error: &error,
        connection_id: opts.connection_id(),
    };
    behaviour.on_dial_failure(event, now);
}

/// When `behaviour` dials within some time, if nobody answers.
fn dials_in_vain(
    behaviour: &mut Behaviour,
    begin: Instant,
    time: Duration,
    mut each: impl FnMut(&mut Behaviour, Instant),
) -> Vec<Duration> {
    let mut dials = Vec::new();
    let mut passed = Duration::ZERO;
    while passed < time {
        let now = begin + passed;
        each(behaviour, now);
        for opts in due(behaviour, now) {
            fail(behaviour, &opts, &["/memory/1"], now);
            dials.push(passed);
        }
        passed += Duration::from_millis(100);
    }
    dials
}

fn failing(failures: u8) -> (PeerId, Snapshot) {
    let peer = PeerId::random();
    let text = format!(
        r#"{{"version":1,"peers":[{{"id":"{peer}","addresses":["/memory/1"],"failures":{failures}}}]}}"#
    );
    (peer, Snapshot::from_json(text.as_bytes()).unwrap())
}

fn snapshot_of(count: usize) -> Snapshot {
    let mut other = behaviour(Config::default());
    let now = clock::now();
    for number in 0..count {
        let endpoint = dialled(&format!("/memory/{}", number + 1));
        open(&mut other, PeerId::random(), id(number), &endpoint, now);
    }
    other.snapshot()
}

#[test]
fn a_peer_is_remembered_when_its_connection_has_lasted() {
    let mut behaviour = behaviour(Config::default());
    let (peer, now) = (PeerId::random(), clock::now());
    open(&mut behaviour, peer, id(1), &dialled("/memory/7"), now);
    due(&mut behaviour, now + SETTLING - Duration::from_millis(1));
    assert!(!behaviour.book.contains(&peer));
    assert_eq!(
        behaviour.snapshot().peers().len(),
        1,
        "a snapshot has it already"
    );
    due(&mut behaviour, now + SETTLING);
    assert!(behaviour.book.contains(&peer));
}

#[test]
fn a_peer_that_closes_at_once_is_not_remembered() {
    let (reset, idle) = (reset(), ConnectionError::KeepAliveTimeout);
    for (cause, remembered) in [(Some(&reset), 0), (None, 0), (Some(&idle), 1)] {
        let mut behaviour = behaviour(Config::default());
        let (peer, now) = (PeerId::random(), clock::now());
        open(&mut behaviour, peer, id(1), &dialled("/memory/7"), now);
        close(&mut behaviour, peer, id(1), cause, now);
        due(&mut behaviour, now + HOUR);
        assert_eq!(behaviour.snapshot().peers().len(), remembered, "{cause:?}");
    }
}

#[test]
fn a_peer_that_closes_one_of_two_connections_is_remembered() {
    let mut behaviour = behaviour(Config::default());
    let (peer, now) = (PeerId::random(), clock::now());
    open(&mut behaviour, peer, id(1), &dialled("/memory/7"), now);
    open(&mut behaviour, peer, id(2), &accepted(), now);
    close_one(&mut behaviour, peer, id(1), Some(&reset()), 1, now);
    assert!(behaviour.book.contains(&peer));
    assert_eq!(behaviour.connections.counted(), 1);
}

#[test]
fn a_peer_that_always_closes_at_once_is_forgotten() {
    let mut behaviour = behaviour(Config::default());
    behaviour.restore(&snapshot_of(1));
    let peer = *behaviour.snapshot().peers()[0].peer_id();
    let mut now = clock::now();
    for round in 0..3 {
        let dials = due(&mut behaviour, now);
        assert_eq!(dials.len(), 1, "round {round}");
        let id = dials[0].connection_id();
        open(&mut behaviour, peer, id, &dialled("/memory/1"), now);
        close(&mut behaviour, peer, id, Some(&reset()), now);
        assert_eq!(due(&mut behaviour, now + Duration::from_secs(200)).len(), 0);
        now += HOUR;
    }
    assert_eq!(behaviour.snapshot().peers().len(), 0);
}

#[test]
fn a_direct_connection_beside_a_relayed_one_is_not_remembered() {
    let mut behaviour = behaviour(Config::default());
    let (peer, relay, now) = (PeerId::random(), PeerId::random(), clock::now());
    let circuit = dialled(&format!("/memory/1/p2p/{relay}/p2p-circuit/p2p/{peer}"));
    open(&mut behaviour, peer, id(1), &circuit, now);
    open(&mut behaviour, peer, id(2), &dialled("/memory/7"), now);
    due(&mut behaviour, now + HOUR);
    assert_eq!(behaviour.snapshot().peers().len(), 0);
}

#[test]
fn peers_that_dial_us_count_only_if_we_have_dialled_them_earlier() {
    let mut behaviour = behaviour(Config::default());
    behaviour.restore(&snapshot_of(1));
    let now = clock::now();
    for number in 0..50 {
        open(
            &mut behaviour,
            PeerId::random(),
            id(number),
            &accepted(),
            now,
        );
    }
    assert_eq!(behaviour.connections.counted(), 0);
    let known = *behaviour.snapshot().peers()[0].peer_id();
    open(&mut behaviour, known, id(100), &accepted(), now);
    assert_eq!(behaviour.connections.counted(), 1);
    close(&mut behaviour, known, id(100), None, now);
    assert_eq!(behaviour.connections.counted(), 0);
    assert_eq!(
        behaviour.snapshot().peers().len(),
        1,
        "those that dialled us are not remembered"
    );
}

/// An AutoNAT server dials what it is asked to, and a hole punch is a dial as well.
#[test]
fn dials_that_a_peer_has_brought_about_do_not_count() {
    let mut behaviour = behaviour(Config::default());
    let (peer, now) = (PeerId::random(), clock::now());
    let address: Multiaddr = "/memory/7".parse().unwrap();
    let (dialer, listener) = (Endpoint::Dialer, Endpoint::Listener);
    let dials = [(dialer, PortUse::New), (listener, PortUse::Reuse)];
    for (number, (role_override, port_use)) in dials.into_iter().enumerate() {
        let address = address.clone();
        let endpoint = ConnectedPoint::Dialer {
            address,
            role_override,
            port_use,
        };
        open(&mut behaviour, peer, id(number), &endpoint, now);
    }
    due(&mut behaviour, now + HOUR);
    assert_eq!(behaviour.connections.counted(), 0);
    assert_eq!(behaviour.snapshot().peers().len(), 0);
}

#[test]
fn a_peer_that_is_connected_when_it_is_restored_counts() {
    let mut behaviour = behaviour(Config::default());
    let snapshot = snapshot_of(1);
    let now = clock::now();
    open(
        &mut behaviour,
        *snapshot.peers()[0].peer_id(),
        id(1),
        &accepted(),
        now,
    );
    behaviour.restore(&snapshot);
    assert_eq!(behaviour.connections.counted(), 1);
    assert_eq!(due(&mut behaviour, now).len(), 0, "it is connected already");
}

#[test]
fn slow_dials_to_dead_peers_neither_pile_up_nor_keep_bootstrap_peers_away() {
    let bootstrap: Multiaddr = "/memory/9999".parse().unwrap();
    let mut behaviour = behaviour(Config::default().with_bootstrap([bootstrap]));
    behaviour.restore(&snapshot_of(200));
    let start = clock::now();
    // None of these dials ever ends.
    let first = due(&mut behaviour, start);
    assert_eq!(first.len(), 4);
    assert!(first.iter().all(|opts| opts.get_peer_id().is_some()));
    let second = due(&mut behaviour, start + Duration::from_millis(2500));
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].get_peer_id(), None, "the bootstrap peer");
    // Their places are free after 30 s, for other peers.
    let later = due(&mut behaviour, start + Duration::from_secs(31));
    let mut all: Vec<_> = first
        .iter()
        .chain(&later)
        .map(DialOpts::get_peer_id)
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 8);
    // Each peer is being dialled once at most, so that no more than all of them pile up.
    let mut now = start;
    let mut dials = first.len() + later.len();
    for _ in 0..200 {
        now += HOUR;
        dials += due(&mut behaviour, now).len();
    }
    assert_eq!(dials, 200);
}

#[test]
fn a_lost_connection_ends_the_backoff_only_if_it_had_lasted() {
    for (lasted, dials) in [(LASTING - Duration::from_secs(1), 0), (LASTING, 4)] {
        let mut behaviour = behaviour(Config::default());
        behaviour.restore(&snapshot_of(100));
        let mut now = clock::now();
        for _ in 0..10 {
            due(&mut behaviour, now);
            behaviour.dials = Dials::new(PeerId::random(), &[]);
            now += HOUR;
        }
        assert_eq!(due(&mut behaviour, now).len(), 4);
        behaviour.dials = Dials::new(PeerId::random(), &[]);
        let peer = PeerId::random();
        open(&mut behaviour, peer, id(1), &dialled("/memory/7"), now);
        now += lasted;
        close(&mut behaviour, peer, id(1), Some(&reset()), now);
        assert_eq!(due(&mut behaviour, now).len(), dials, "{lasted:?}");
    }
}

#[test]
fn a_failed_dial_to_other_addresses_is_no_failure() {
    let mut behaviour = behaviour(Config::default());
    behaviour.restore(&snapshot_of(1));
    let now = clock::now();
    behaviour.book.prove(&"/memory/1".parse().unwrap(), now);
    let dials = due(&mut behaviour, now);
    let peer = dials[0].get_peer_id().unwrap();
    let of_application = DialOpts::peer_id(peer).build();
    fail(&mut behaviour, &of_application, &["/memory/4711"], now);
    assert_eq!(behaviour.snapshot().peers()[0].failures(), 0);
    let text = format!("/memory/1/p2p/{peer}");
    fail(&mut behaviour, &dials[0], &[&text, "/memory/4711"], now);
    assert_eq!(behaviour.snapshot().peers()[0].failures(), 1);
}

#[test]
fn an_address_that_failed_while_another_worked_is_forgotten() {
    let mut behaviour = behaviour(Config::default());
    let (peer, now) = (PeerId::random(), clock::now());
    for (number, address) in ["/memory/1", "/memory/2"].into_iter().enumerate() {
        open(&mut behaviour, peer, id(number), &dialled(address), now);
    }
    due(&mut behaviour, now + HOUR);
    assert_eq!(behaviour.book.addresses(&peer).unwrap().len(), 2);
    let failed = [format!("/memory/2/p2p/{peer}").parse().unwrap()];
    let endpoint = &dialled("/memory/1");
    let event = ConnectionEstablished {
        peer_id: peer,
        connection_id: id(3),
        endpoint,
        failed_addresses: &failed,
        other_established: 2,
    };
    behaviour.on_established(event, now);
    assert_eq!(
        behaviour.book.addresses(&peer).unwrap(),
        ["/memory/1".parse().unwrap()]
    );
}

#[test]
fn the_first_round_waits_for_the_file_but_not_for_ever() {
    let bootstrap: Multiaddr = "/memory/9999".parse().unwrap();
    let config = Config::default()
        .with_bootstrap([bootstrap])
        .with_file("never read");
    let mut behaviour = behaviour(config);
    let start = clock::now();
    assert_eq!(due(&mut behaviour, start).len(), 0);
    assert_eq!(due(&mut behaviour, start + LOADING).len(), 1);
}

#[test]
fn an_address_that_always_fails_is_dialled_less_and_less_often() {
    let config = Config::default();
    let Backoff { initial, longest } = config.backoff;
    let mut behaviour = behaviour(config);
    let (peer, snapshot) = failing(0);
    behaviour.restore(&snapshot);
    let dials = dials_in_vain(&mut behaviour, clock::now(), 2 * HOUR, |_, _| {});
    let gaps: Vec<_> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut plain = initial;
    for gap in &gaps {
        assert!(*gap >= plain.mul_f64(0.7), "{gap:?} of {gaps:?}");
        plain = (plain * 2).min(longest);
    }
    assert!(gaps.len() >= 20, "{gaps:?}");
    assert!(
        behaviour.book.contains(&peer),
        "our own network may be down"
    );
}

#[test]
fn an_address_that_always_fails_is_dialled_three_times_if_others_answer() {
    let config = Config::default();
    let rest = config.backoff.longest;
    let mut behaviour = behaviour(config);
    let (peer, snapshot) = failing(0);
    behaviour.restore(&snapshot);
    let others_answer = |behaviour: &mut Behaviour, now| {
        let other = "/memory/2".parse().unwrap();
        behaviour.book.prove(&other, now);
    };
    let dials = dials_in_vain(&mut behaviour, clock::now(), 2 * HOUR, others_answer);
    assert_eq!(dials.len(), 3, "{dials:?}");
    for pair in dials.windows(2) {
        assert!(pair[1] - pair[0] >= rest, "{dials:?}");
    }
    assert!(!behaviour.book.contains(&peer));
}

#[test]
fn a_restart_ends_rests_and_keeps_failures() {
    let (peer, snapshot) = failing(2);
    // Peers are chosen at random.
    for _ in 0..32 {
        let mut behaviour = behaviour(Config::default().with_batch(NonZeroUsize::new(2).unwrap()));
        behaviour.restore(&snapshot_of(1));
        behaviour.restore(&snapshot);
        let now = clock::now();
        let [first, second] = &due(&mut behaviour, now)[..] else {
            panic!("two dials in a round");
        };
        assert_ne!(first.get_peer_id(), Some(peer));
        assert_eq!(second.get_peer_id(), Some(peer), "last, but at once");
        behaviour.book.prove(&"/memory/2".parse().unwrap(), now);
        fail(&mut behaviour, second, &["/memory/1"], now);
        assert!(!behaviour.book.contains(&peer), "the third failure");
    }
}
