//! The peers that are remembered, the ones reached most recently first.

use std::{
    collections::HashMap,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use lru::LruCache;
use web_time::Instant;

use crate::{
    address::{Network, acceptable, public_network},
    config::Config,
    snapshot::{RememberedPeer, Snapshot},
};

/// Addresses of one peer: IPv4 and IPv6 by two transports. A round dials all of them.
pub(crate) const MAX_ADDRESSES: usize = 4;

/// Peers in one public network; see [`Config::with_capacity`].
pub(crate) const NETWORK_PEERS: usize = 10;

/// A failure counts if a dial to another peer has succeeded or does so within this time. Otherwise
/// the cause may be our own network, and being offline would empty the book.
const PROOF: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) struct Book {
    local_peer_id: PeerId,
    capacity: NonZeroUsize,
    max_failures: NonZeroU8,
    /// How long a peer is left alone after a failure that counts, and after one that does not yet.
    rest: Duration,
    short_rest: Duration,
    /// No more than `capacity`, which [`Book::make_room`] keeps: it has to choose who goes.
    peers: LruCache<PeerId, Entry>,
    /// When a dial has succeeded last, in a local network and in public ones. A peer in the local
    /// network says nothing about the way to others.
    proved: [Option<Instant>; 2],
}

#[derive(Debug, Clone)]
struct Entry {
    /// The one that worked most recently first. Never empty, at most [`MAX_ADDRESSES`].
    addresses: Vec<Multiaddr>,
    /// In seconds since 1970, and only for the user.
    last_seen: u64,
    /// Failures in a row that count.
    failures: u8,
    /// Not dialled before, and other failures before do not count.
    rests_until: Option<Instant>,
    /// A failure that does not count yet.
    unproved: Option<Instant>,
}

impl Book {
    pub(crate) fn new(local_peer_id: PeerId, config: &Config) -> Self {
        Self {
            local_peer_id,
            capacity: config.capacity,
            max_failures: config.max_failures,
            rest: config.backoff.longest,
            short_rest: config.backoff.initial,
            // `capacity` bounds it, by `make_room` and `add_older`.
            peers: LruCache::unbounded(),
            proved: [None; 2],
        }
    }

    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains(peer)
    }

    /// The addresses of `peer`, the one that worked most recently first.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Option<&[Multiaddr]> {
        self.peers
            .peek(peer)
            .map(|entry| entry.addresses.as_slice())
    }

    /// The peers, the one reached most recently first.
    pub(crate) fn peers(&self) -> impl DoubleEndedIterator<Item = &PeerId> {
        self.peers.iter().map(|(peer, _)| peer)
    }

    /// The peers that may be dialled now, with their failures.
    pub(crate) fn rested(&self, now: Instant) -> impl Iterator<Item = (PeerId, u8)> {
        self.peers
            .iter()
            .filter(move |(_, entry)| entry.rests_until.is_none_or(|until| until <= now))
            .map(|(peer, entry)| (*peer, entry.failures))
    }

    /// Whether `peer` is remembered or can be without another one going.
    pub(crate) fn has_room_for(&self, peer: &PeerId) -> bool {
        self.contains(peer) || self.peers.len() < self.capacity.get()
    }

    /// Remembers that `peer` was reached at `address`. A peer that `is_connected` stays, if another
    /// can make room.
    pub(crate) fn reached(
        &mut self,
        peer: PeerId,
        address: &Multiaddr,
        unix_seconds: u64,
        is_connected: impl Fn(&PeerId) -> bool,
    ) {
        let Some(address) = acceptable(address) else {
            return;
        };
        if peer == self.local_peer_id {
            return;
        }
        let network = public_network(&address);
        let before = self.peers.peek(&peer).map(Entry::network);
        if before.as_ref() != Some(&network) {
            self.make_room(network, before.is_none(), is_connected);
        }
        let entry = self
            .peers
            .get_or_insert_mut(peer, || Entry::new(Vec::new()));
        entry.addresses.retain(|other| *other != address);
        entry.addresses.insert(0, address);
        entry.addresses.truncate(MAX_ADDRESSES);
        entry.last_seen = unix_seconds;
        entry.failures = 0;
        entry.rests_until = None;
        entry.unproved = None;
    }

    /// Notes that `peer`, if it is remembered, is alive.
    pub(crate) fn seen(&mut self, peer: &PeerId, unix_seconds: u64) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.last_seen = unix_seconds;
        }
    }

    /// A dial to `address` has succeeded, so our network works, and recent failures count.
    pub(crate) fn prove(&mut self, address: &Multiaddr, now: Instant) {
        let is_public = public_network(address).is_some();
        self.proved[usize::from(is_public)] = Some(now);
        let rest = self.rest;
        let mut failed = Vec::new();
        for (peer, entry) in &mut self.peers {
            if entry.network().is_some() != is_public {
                continue;
            }
            if let Some(at) = entry.unproved.take().filter(|&at| is_recent(at, now)) {
                entry.rests_until = Some(at + rest);
                failed.push(*peer);
            }
        }
        for peer in failed {
            self.count_failure(&peer);
        }
    }

    /// `peer` could not be reached, or did not keep a connection.
    pub(crate) fn failed(&mut self, peer: &PeerId, now: Instant) {
        let (rest, short_rest) = (self.rest, self.short_rest);
        let Some(entry) = self.peers.peek_mut(peer) else {
            return;
        };
        if entry.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let is_public = entry.network().is_some();
        if self.proved[usize::from(is_public)].is_some_and(|at| is_recent(at, now)) {
            entry.rests_until = Some(now + rest);
            self.count_failure(peer);
        } else {
            entry.rests_until = Some(now + short_rest);
            entry.unproved = Some(now);
        }
    }

    /// Leaves `peer` alone for some time, through no fault of its own.
    pub(crate) fn rest(&mut self, peer: &PeerId, now: Instant) {
        let until = now + self.rest;
        if let Some(entry) = self.peers.peek_mut(peer) {
            entry.rests_until = Some(until);
        }
    }

    /// Forgets addresses that failed while another of the peer worked.
    pub(crate) fn forget_failed(&mut self, peer: &PeerId, failed: &[Multiaddr]) {
        if let Some(entry) = self.peers.peek_mut(peer)
            && entry
                .addresses
                .iter()
                .any(|address| !failed.contains(address))
        {
            entry.addresses.retain(|address| !failed.contains(address));
        }
    }

    /// Forgets an address at which `peer` is not, and the peer with its last address.
    pub(crate) fn forget_address(&mut self, peer: &PeerId, wrong: &Multiaddr) {
        if let Some(entry) = self.peers.peek_mut(peer) {
            entry.addresses.retain(|address| address != wrong);
            if entry.addresses.is_empty() {
                self.peers.pop(peer);
            }
        }
    }

    /// Tells whether `peer` was remembered.
    pub(crate) fn forget(&mut self, peer: &PeerId) -> bool {
        self.peers.pop(peer).is_some()
    }

    /// Adds the peers of `snapshot` that are not here yet, as reached less recently than all
    /// others, while there is room. The same rules hold for them as for others.
    pub(crate) fn add_older(&mut self, snapshot: &Snapshot) {
        let mut crowds: HashMap<Network, usize> = HashMap::new();
        for network in self.peers.iter().filter_map(|(_, entry)| entry.network()) {
            *crowds.entry(network).or_default() += 1;
        }
        for peer in snapshot.peers() {
            if self.peers.len() >= self.capacity.get() {
                break;
            }
            let unwanted = *peer.peer_id() == self.local_peer_id
                || peer.failures() >= self.max_failures.get()
                || self.contains(peer.peer_id());
            let mut entry = Entry::new(peer.addresses().iter().filter_map(acceptable).collect());
            entry.addresses.truncate(MAX_ADDRESSES);
            if unwanted || entry.addresses.is_empty() {
                continue;
            }
            if let Some(network) = entry.network() {
                let crowd = crowds.entry(network).or_default();
                if *crowd >= NETWORK_PEERS {
                    continue;
                }
                *crowd += 1;
            }
            entry.last_seen = peer.last_seen().as_secs();
            entry.failures = peer.failures();
            self.peers.put(*peer.peer_id(), entry);
            self.peers.demote(peer.peer_id());
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let remembered = |(peer, entry): (&PeerId, &Entry)| {
            RememberedPeer::new(
                *peer,
                entry.addresses.clone(),
                entry.last_seen,
                entry.failures,
            )
        };
        Snapshot::new(self.peers.iter().map(remembered).collect())
    }

    fn count_failure(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.peek_mut(peer) {
            entry.failures = entry.failures.saturating_add(1);
            if entry.failures >= self.max_failures.get() {
                self.peers.pop(peer);
            }
        }
    }

    /// Makes room for a peer of `network`: within it, if it has enough, and otherwise anywhere.
    fn make_room(
        &mut self,
        network: Option<Network>,
        is_new: bool,
        is_connected: impl Fn(&PeerId) -> bool,
    ) {
        let within = if self.is_crowded(network.as_ref()) {
            network
        } else if is_new && self.peers.len() >= self.capacity.get() {
            None
        } else {
            return;
        };
        let candidates = || {
            self.peers
                .iter()
                .rev()
                .filter(|(_, entry)| within.is_none() || entry.network() == within)
                .map(|(peer, _)| *peer)
        };
        let victim = candidates()
            .find(|peer| !is_connected(peer))
            .or_else(|| candidates().next());
        if let Some(peer) = victim {
            self.peers.pop(&peer);
        }
    }

    fn is_crowded(&self, network: Option<&Network>) -> bool {
        let inside = |entry: &Entry| entry.network().as_ref() == network;
        network.is_some()
            && self.peers.iter().filter(|(_, entry)| inside(entry)).count() >= NETWORK_PEERS
    }
}

impl Entry {
    fn new(addresses: Vec<Multiaddr>) -> Self {
        Self {
            addresses,
            last_seen: 0,
            failures: 0,
            rests_until: None,
            unproved: None,
        }
    }

    fn network(&self) -> Option<Network> {
        self.addresses.first().and_then(public_network)
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) <= PROOF
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::clock;

    const REST: Duration = Duration::from_secs(300);

    fn book(capacity: usize) -> Book {
        let capacity = NonZeroUsize::new(capacity).unwrap();
        Book::new(PeerId::random(), &Config::default().with_capacity(capacity))
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn memory(port: usize) -> Multiaddr {
        address(&format!("/memory/{port}"))
    }

    fn nobody(_: &PeerId) -> bool {
        false
    }

    fn with_peers(capacity: usize, count: usize) -> (Book, Vec<PeerId>) {
        let mut book = book(capacity);
        let peers: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
        for (port, peer) in peers.iter().enumerate() {
            book.reached(*peer, &memory(port + 1), 0, nobody);
        }
        (book, peers)
    }

    #[test]
    fn a_full_book_forgets_the_peer_reached_least_recently() {
        let (mut book, peers) = with_peers(3, 3);
        book.reached(peers[0], &memory(1), 0, nobody);
        let new = PeerId::random();
        book.reached(new, &memory(9), 0, nobody);
        assert_eq!(
            book.peers().copied().collect::<Vec<_>>(),
            [new, peers[0], peers[2]]
        );
    }

    #[test]
    fn a_full_book_keeps_the_connected_peers_if_it_can() {
        let (mut book, peers) = with_peers(2, 2);
        book.reached(PeerId::random(), &memory(9), 0, |peer| *peer == peers[0]);
        assert!(book.contains(&peers[0]) && !book.contains(&peers[1]));
        book.reached(PeerId::random(), &memory(9), 0, |_| true);
        assert_eq!(book.peers().count(), 2);
    }

    #[test]
    fn many_peers_of_one_network_displace_each_other_only() {
        let (mut book, peers) = with_peers(100, 50);
        for host in 0..100 {
            let sybil = address(&format!("/ip4/203.0.113.{host}/udp/1/quic-v1"));
            book.reached(PeerId::random(), &sybil, 0, nobody);
        }
        assert!(peers.iter().all(|peer| book.contains(peer)));
        assert_eq!(book.peers().count(), 50 + NETWORK_PEERS);

        let mut copy = self::book(100);
        copy.add_older(&book.snapshot());
        assert_eq!(copy.snapshot(), book.snapshot());
    }

    #[test]
    fn a_peer_has_few_addresses_and_the_latest_is_first() {
        let mut book = book(1);
        let peer = PeerId::random();
        for port in 1..=100 {
            book.reached(peer, &memory(port), 0, nobody);
        }
        book.reached(peer, &memory(98), 0, nobody);
        let expected = [98, 100, 99, 97].map(memory);
        assert_eq!(book.addresses(&peer).unwrap(), expected);
    }

    #[test]
    fn failures_count_only_if_a_dial_succeeds_within_a_minute() {
        let (mut book, peers) = with_peers(1, 1);
        let peer = peers[0];
        let mut now = clock::now();
        // Offline for long.
        for _ in 0..100 {
            book.failed(&peer, now);
            now += REST;
        }
        assert_eq!(book.snapshot().peers()[0].failures(), 0);
        book.prove(&memory(0), now);
        assert_eq!(
            book.snapshot().peers()[0].failures(),
            0,
            "the last failure is too old"
        );

        book.failed(&peer, now);
        assert_eq!(book.snapshot().peers()[0].failures(), 1, "just proved");
        now += REST;
        book.failed(&peer, now);
        now += PROOF;
        assert_eq!(book.snapshot().peers()[0].failures(), 1);
        book.prove(&memory(0), now);
        assert_eq!(book.snapshot().peers()[0].failures(), 2);
        now += REST;
        book.prove(&memory(0), now);
        book.failed(&peer, now);
        assert!(!book.contains(&peer));
    }

    /// A node without an uplink still reaches its neighbour.
    #[test]
    fn success_in_the_local_network_is_no_proof_against_others() {
        let mut book = book(10);
        let (near, far) = (PeerId::random(), PeerId::random());
        book.reached(near, &memory(1), 0, nobody);
        book.reached(far, &address("/ip4/198.51.100.1/tcp/1"), 0, nobody);
        let failures = |book: &Book, peer: &PeerId| {
            let snapshot = book.snapshot();
            let found = snapshot.peers().iter().find(|it| it.peer_id() == peer);
            found.unwrap().failures()
        };
        let mut now = clock::now();
        for _ in 0..10 {
            book.failed(&far, now);
            book.prove(&memory(7), now);
            now += REST;
        }
        assert_eq!(failures(&book, &far), 0);
        book.failed(&near, now);
        book.prove(&memory(7), now);
        assert_eq!(failures(&book, &near), 1);
        book.failed(&far, now);
        book.prove(&address("/dns4/bootstrap.example/tcp/1"), now);
        assert_eq!(failures(&book, &far), 1);
        assert_eq!(book.rested(now + REST - Duration::from_secs(1)).count(), 0);
    }

    /// The cause may be a moment without a network.
    #[test]
    fn failure_that_does_not_count_rests_as_long_as_the_first_backoff() {
        let (mut book, peers) = with_peers(1, 1);
        let now = clock::now();
        book.failed(&peers[0], now);
        assert_eq!(book.rested(now + Duration::from_secs(1)).count(), 0);
        assert_eq!(book.rested(now + Duration::from_secs(2)).count(), 1);
    }

    #[test]
    fn peer_that_moves_into_a_crowded_network_makes_room_there() {
        let mut book = book(100);
        for host in 1..=NETWORK_PEERS {
            let address = address(&format!("/ip4/198.51.100.{host}/tcp/1"));
            book.reached(PeerId::random(), &address, 0, nobody);
        }
        let peer = PeerId::random();
        book.reached(peer, &memory(1), 0, nobody);
        book.reached(peer, &address("/ip4/198.51.100.99/tcp/1"), 0, nobody);
        assert!(book.contains(&peer));
        assert_eq!(book.peers().count(), NETWORK_PEERS);
    }

    #[test]
    fn failures_in_quick_succession_count_once() {
        let (mut book, peers) = with_peers(1, 1);
        let now = clock::now();
        book.prove(&memory(0), now);
        for _ in 0..100 {
            book.failed(&peers[0], now);
        }
        assert_eq!(book.snapshot().peers()[0].failures(), 1);
        assert_eq!(book.rested(now).count(), 0);
        assert_eq!(book.rested(now + REST).count(), 1);
    }

    #[test]
    fn reaching_a_peer_forgives_its_failures() {
        let (mut book, peers) = with_peers(1, 1);
        let now = clock::now();
        book.prove(&memory(0), now);
        book.failed(&peers[0], now);
        book.reached(peers[0], &memory(1), 7, nobody);
        assert_eq!(book.snapshot().peers()[0].failures(), 0);
        assert_eq!(
            book.snapshot().peers()[0].last_seen(),
            Duration::from_secs(7)
        );
        assert_eq!(book.rested(now).count(), 1);
    }

    #[test]
    fn a_wrong_address_goes_and_the_last_one_takes_the_peer_with_it() {
        let mut book = book(1);
        let peer = PeerId::random();
        book.reached(peer, &memory(1), 0, nobody);
        book.reached(peer, &memory(2), 0, nobody);
        book.forget_address(&peer, &memory(2));
        assert_eq!(book.addresses(&peer).unwrap(), [memory(1)]);
        book.forget_failed(&peer, &[memory(1)]);
        assert_eq!(
            book.addresses(&peer).unwrap(),
            [memory(1)],
            "there is no other"
        );
        book.forget_address(&peer, &memory(1));
        assert!(!book.contains(&peer));
    }

    #[test]
    fn what_a_snapshot_adds_is_older_and_obeys_the_limits() {
        let (other, peers) = with_peers(10, 5);
        let (mut book, own) = with_peers(3, 1);
        book.add_older(&other.snapshot());
        let expected = [own[0], peers[4], peers[3]];
        assert_eq!(book.peers().copied().collect::<Vec<_>>(), expected);

        let mut itself = self::book(10);
        itself.local_peer_id = peers[0];
        itself.add_older(&other.snapshot());
        assert!(!itself.contains(&peers[0]));
        assert_eq!(itself.peers().count(), 4);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Reached(usize, u8),
        Failed(usize),
        Prove,
        Pass(u64),
        ForgetAddress(usize, u8),
        Restore,
    }

    fn op() -> impl Strategy<Value = Op> {
        let peer = 0..30_usize;
        prop_oneof![
            6 => (peer.clone(), 0..60_u8).prop_map(|(peer, host)| Op::Reached(peer, host)),
            3 => peer.clone().prop_map(Op::Failed),
            1 => Just(Op::Prove),
            1 => (0..400_u64).prop_map(Op::Pass),
            1 => (peer, 0..60_u8).prop_map(|(peer, host)| Op::ForgetAddress(peer, host)),
            1 => Just(Op::Restore),
        ]
    }

    /// Half of them in one public network.
    fn at(host: u8) -> Multiaddr {
        let network = if host.is_multiple_of(2) {
            "203.0.113"
        } else {
            "10.0.0"
        };
        address(&format!("/ip4/{network}.{host}/tcp/1"))
    }

    proptest! {
        #[test]
        fn a_book_keeps_its_limits_and_its_snapshot(ops in vec(op(), 0..200)) {
            let mut peers: Vec<_> = (0..30).map(|_| PeerId::random()).collect();
            let mut book = book(20);
            peers[0] = book.local_peer_id;
            let mut now = clock::now();
            for op in ops {
                match op {
                    Op::Reached(peer, host) => {
                        book.reached(peers[peer], &at(host), 1, nobody);
                        prop_assert_eq!(book.peers().next() == Some(&peers[peer]), peer != 0);
                    }
                    Op::Failed(peer) => book.failed(&peers[peer], now),
                    Op::Prove => book.prove(&memory(0), now),
                    Op::Pass(seconds) => now += Duration::from_secs(seconds),
                    Op::ForgetAddress(peer, host) => book.forget_address(&peers[peer], &at(host)),
                    Op::Restore => {
                        let mut copy = book.clone();
                        copy.peers.clear();
                        copy.add_older(&book.snapshot());
                        let text = copy.snapshot().to_json();
                        prop_assert_eq!(Snapshot::from_json(&text).unwrap(), copy.snapshot());
                        book = copy;
                    }
                }
                prop_assert!(book.peers().count() <= 20);
                prop_assert!(!book.contains(&book.local_peer_id));
                for (_, entry) in &book.peers {
                    let distinct: BTreeSet<_> = entry.addresses.iter().collect();
                    prop_assert!(!distinct.is_empty() && distinct.len() <= MAX_ADDRESSES);
                    prop_assert_eq!(distinct.len(), entry.addresses.len());
                    prop_assert!(entry.failures < book.max_failures.get());
                }
            }
        }
    }
}
