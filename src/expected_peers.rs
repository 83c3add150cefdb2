//! Hole punches: which peers are expected, and from which addresses.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

use futures::{channel::oneshot, future::FutureExt};
use libp2p_identity::PeerId;

use crate::{
    address::Host,
    connection::Connection,
    error::DialError,
    sync::{Mutex, lock},
};

/// The peers for which hole punches wait.
///
/// A hole punch ends when the named peer, authenticated, has dialled us from the named address.
/// Other peers at that address, and packets with a forged source address, do not affect it.
#[derive(Default)]
pub(crate) struct ExpectedPeers(Mutex<Expectations>);

/// Peers choose the addresses, hence the standard hasher.
#[derive(Default)]
struct Expectations {
    expected: HashMap<Origin, Vec<Expected>>,
    /// The number of the next hole punch.
    next: u64,
}

struct Expected {
    peer_id: PeerId,
    /// Hole punches are numbered as they begin.
    number: u64,
    claim: oneshot::Sender<Connection>,
}

/// The hole punch that has lost its place to another one. Dropping it wakes its dial, so drop it
/// where nothing is locked.
#[must_use = "it wakes a dial"]
pub(crate) struct Displaced(#[allow(dead_code, reason = "it is only dropped")] Option<Expected>);

/// An address without zone and flow label: an IPv6 address may show them in one direction and not
/// in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin {
    ip: IpAddr,
    port: u16,
}

impl ExpectedPeers {
    /// Expects a peer from an address until the [`Expectation`] is dropped.
    pub(crate) fn expect(
        self: &Arc<Self>,
        remote_addr: SocketAddr,
        peer_id: PeerId,
    ) -> Result<(Expectation, Displaced), DialError> {
        let origin = Origin::from(remote_addr);
        let (claim, claimed) = oneshot::channel();
        let displaced = lock(&self.0).add(origin, peer_id, claim)?;
        let expectation = Expectation {
            expected_peers: Arc::clone(self),
            origin,
            peer_id,
            claimed,
        };
        Ok((expectation, Displaced(displaced)))
    }

    /// Whether any peer is expected from this address.
    pub(crate) fn is_expected_from(&self, remote_addr: SocketAddr) -> bool {
        lock(&self.0).expected.contains_key(&remote_addr.into())
    }

    /// Hands a connection to the dial that waits for it, or returns it if no dial does.
    pub(crate) fn claim(
        &self,
        remote_addr: SocketAddr,
        peer_id: PeerId,
        connection: Connection,
    ) -> Result<(), Connection> {
        match self.take(remote_addr.into(), |expected| expected.peer_id == peer_id) {
            Some(expected) => expected.claim.send(connection),
            None => Err(connection),
        }
    }

    /// Removes a peer from the list. Using or dropping the result wakes the dial, so the list is
    /// already unlocked.
    fn take(&self, origin: Origin, which: impl Fn(&Expected) -> bool) -> Option<Expected> {
        lock(&self.0).take(origin, which)
    }
}

impl Expectations {
    /// Adds a peer. Returns the expectation whose place it takes, if there was none left.
    fn add(
        &mut self,
        origin: Origin,
        peer_id: PeerId,
        claim: oneshot::Sender<Connection>,
    ) -> Result<Option<Expected>, DialError> {
        let at_origin = self.expected.get(&origin);
        if at_origin.is_some_and(|at| at.iter().any(|expected| expected.peer_id == peer_id)) {
            return Err(DialError::HolePunchInProgress);
        }
        if self.count(|_, expected| expected.peer_id == peer_id) >= MAX_HOLE_PUNCHES_PER_PEER {
            return Err(DialError::TooManyHolePunches);
        }
        let host = Host::of(origin.ip);
        let is_at_host = |origin: &Origin, _: &Expected| Host::of(origin.ip) == host;
        let displaced = if self.count(is_at_host) >= MAX_HOLE_PUNCHES_PER_HOST {
            Some(self.displace(peer_id, is_at_host)?)
        } else if self.count(|_, _| true) >= MAX_HOLE_PUNCHES {
            Some(self.displace(peer_id, |_, _| true)?)
        } else {
            None
        };
        let number = self.next;
        self.next += 1;
        self.expected.entry(origin).or_default().push(Expected {
            peer_id,
            number,
            claim,
        });
        Ok(displaced)
    }

    /// Removes one of these expectations to make room for `peer_id`: the oldest one of the peer, or
    /// the peers, that have most of them. It has had the most of its time to succeed. Fails if
    /// `peer_id` has as many.
    fn displace(
        &mut self,
        peer_id: PeerId,
        which: impl Fn(&Origin, &Expected) -> bool,
    ) -> Result<Expected, DialError> {
        let these = || {
            self.iter()
                .filter(|(origin, expected)| which(origin, expected))
        };
        let mut counts: HashMap<PeerId, usize> = HashMap::new();
        for (_, expected) in these() {
            *counts.entry(expected.peer_id).or_default() += 1;
        }
        let count_of = |peer_id: &PeerId| counts.get(peer_id).copied().unwrap_or_default();
        let most = counts.values().copied().max().unwrap_or_default();
        if count_of(&peer_id) >= most {
            return Err(DialError::TooManyHolePunches);
        }
        let (number, origin) = these()
            .filter(|(_, expected)| count_of(&expected.peer_id) == most)
            .map(|(origin, expected)| (expected.number, *origin))
            .min_by_key(|(number, _)| *number)
            .ok_or(DialError::TooManyHolePunches)?;
        self.take(origin, |expected| expected.number == number)
            .ok_or(DialError::TooManyHolePunches)
    }

    fn count(&self, which: impl Fn(&Origin, &Expected) -> bool) -> usize {
        self.iter()
            .filter(|(origin, expected)| which(origin, expected))
            .count()
    }

    /// All expectations: [`MAX_HOLE_PUNCHES`] at most.
    fn iter(&self) -> impl Iterator<Item = (&Origin, &Expected)> {
        (self.expected.iter())
            .flat_map(|(origin, at)| at.iter().map(move |expected| (origin, expected)))
    }

    fn take(&mut self, origin: Origin, which: impl Fn(&Expected) -> bool) -> Option<Expected> {
        let at_origin = self.expected.get_mut(&origin)?;
        let index = at_origin.iter().position(which)?;
        let taken = at_origin.swap_remove(index);
        if at_origin.is_empty() {
            self.expected.remove(&origin);
        }
        Some(taken)
    }
}

impl From<SocketAddr> for Origin {
    fn from(addr: SocketAddr) -> Self {
        Self {
            ip: addr.ip(),
            port: addr.port(),
        }
    }
}

/// A peer that is expected until this value is dropped.
pub(crate) struct Expectation {
    expected_peers: Arc<ExpectedPeers>,
    origin: Origin,
    peer_id: PeerId,
    claimed: oneshot::Receiver<Connection>,
}

impl Expectation {
    /// Resolves to the connection once the peer has dialled us, or to an error if another hole
    /// punch has taken the place of this one.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(PeerId, Connection), DialError>> {
        self.claimed.poll_unpin(cx).map(|claimed| match claimed {
            Ok(connection) => Ok((self.peer_id, connection)),
            Err(oneshot::Canceled) => Err(DialError::TooManyHolePunches),
        })
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        // The entry of this value, not that of a later dial for the same peer.
        let expected = self.expected_peers.take(self.origin, |expected| {
            expected.claim.is_connected_to(&self.claimed)
        });
        drop(expected);
    }
}

/// The most hole punches at once. DCUtR makes one or a few for each relayed connection, and
/// each takes five seconds.
const MAX_HOLE_PUNCHES: usize = 256;

/// The most hole punches to one host: as many as for one peer, all of whose addresses may be at
/// one host. They share the limit on what is sent to the host (`proto/hole_punch`): with this many,
/// there is a datagram for each of them about every other second.
const MAX_HOLE_PUNCHES_PER_HOST: usize = MAX_HOLE_PUNCHES_PER_PEER;

/// The most hole punches for one peer, which chooses their addresses. `libp2p-dcutr` names 20
/// at most, and a Swarm with smart dialling, or with a large concurrency factor, begins all of them
/// within a second or a few.
const MAX_HOLE_PUNCHES_PER_PEER: usize = 20;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    const ONE_HOST: [u8; 4] = [192, 0, 2, 1];

    fn is_displaced(expectation: &mut Expectation) -> bool {
        match expectation.poll(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(Err(DialError::TooManyHolePunches)) => true,
            Poll::Ready(_) => panic!("nobody has dialled"),
            Poll::Pending => false,
        }
    }

    fn are_displaced(expectations: &mut [Expectation]) -> Vec<bool> {
        expectations.iter_mut().map(is_displaced).collect()
    }

    fn expect(
        expected_peers: &Arc<ExpectedPeers>,
        addr: impl Into<SocketAddr>,
        peer_id: PeerId,
    ) -> Result<Expectation, DialError> {
        let (expectation, _displaced) = expected_peers.expect(addr.into(), peer_id)?;
        Ok(expectation)
    }

    /// As many hole punches as there are places at a host, each for one of these peers in turn.
    fn fill_host(expected_peers: &Arc<ExpectedPeers>, peers: &[PeerId]) -> Vec<Expectation> {
        (1..)
            .zip(peers.iter().cycle())
            .take(MAX_HOLE_PUNCHES_PER_HOST)
            .map(|(port, peer_id)| expect(expected_peers, (ONE_HOST, port), *peer_id).unwrap())
            .collect()
    }

    #[test]
    fn all_addresses_that_dcutr_names_have_places() {
        /// The capacity of `Candidates` in `libp2p-dcutr` 0.15.
        const ADDRESSES: u16 = 20;

        let peer_id = PeerId::random();
        for is_one_host in [true, false] {
            let expected_peers = Arc::default();
            let mut begun = Vec::new();
            for number in 1..=ADDRESSES {
                let [_, low] = number.to_be_bytes();
                let ip = if is_one_host {
                    ONE_HOST
                } else {
                    [198, 18, 0, low]
                };
                begun.push(expect(&expected_peers, (ip, number), peer_id).unwrap());
            }
            assert!(!are_displaced(&mut begun).contains(&true));
            let result = expect(&expected_peers, ([198, 18, 1, 1], 1), peer_id);
            assert!(matches!(result, Err(DialError::TooManyHolePunches)));
        }
    }

    #[test]
    fn peer_with_several_punches_keeps_the_last_one_longest() {
        let expected_peers = Arc::default();
        let honest = PeerId::random();
        let mut own = [4001, 4002, 4003]
            .map(|port| expect(&expected_peers, (ONE_HOST, port), honest).unwrap());
        let others = MAX_HOLE_PUNCHES_PER_HOST - own.len();
        let begin = |count: usize| -> Vec<_> {
            (0..count)
                .map(|_| expect(&expected_peers, (ONE_HOST, 9), PeerId::random()).unwrap())
                .collect()
        };
        let _full = begin(others);
        assert_eq!(are_displaced(&mut own), [false, false, false]);
        let _one_more = begin(1);
        assert!(is_displaced(&mut own[0]));
        assert_eq!(are_displaced(&mut own[1..]), [false, false]);
        let _another = begin(1);
        assert!(is_displaced(&mut own[1]));
        assert!(!is_displaced(&mut own[2]));
        // Where all have one, the oldest goes.
        let _last = begin(1);
        assert!(is_displaced(&mut own[2]));
    }

    #[test]
    fn nobody_keeps_others_from_the_places_of_a_host() {
        let expected_peers = Arc::default();
        let mallory = [PeerId::random(), PeerId::random()];
        let mut taken = fill_host(&expected_peers, &mallory);
        let mut honest: Vec<_> = (0..MAX_HOLE_PUNCHES_PER_HOST - mallory.len())
            .map(|_| expect(&expected_peers, (ONE_HOST, 4001), PeerId::random()).unwrap())
            .collect();
        // Each of the two keeps one place, that of its last punch.
        let oldest_kept = taken.len() - mallory.len();
        assert!(
            (are_displaced(&mut taken).into_iter().enumerate())
                .all(|(index, is_displaced)| is_displaced == (index < oldest_kept))
        );
        // And does not get another one.
        for peer_id in mallory {
            let result = expect(&expected_peers, (ONE_HOST, 99), peer_id);
            assert!(matches!(result, Err(DialError::TooManyHolePunches)));
        }
        assert!(!are_displaced(&mut honest).contains(&true));
        // Where each peer has one place, the oldest one goes.
        let _newest = expect(&expected_peers, (ONE_HOST, 4001), PeerId::random()).unwrap();
        assert!(is_displaced(&mut taken[oldest_kept]));
        assert!(!is_displaced(&mut taken[oldest_kept + 1]));
        assert!(!are_displaced(&mut honest).contains(&true));
    }

    #[test]
    fn nobody_keeps_others_from_all_places() {
        let expected_peers: Arc<ExpectedPeers> = Arc::default();
        let expect = |host: usize, peer_id| {
            let [high, low] = u16::try_from(host).unwrap().to_be_bytes();
            expect(&expected_peers, ([198, 18, high, low], 4001), peer_id)
        };
        let mut taken = Vec::new();
        let mut mallory = PeerId::random();
        // One at each host, far from the limit of a host.
        for host in 0..MAX_HOLE_PUNCHES {
            if host > 0 && host % MAX_HOLE_PUNCHES_PER_PEER == 0 {
                // Not one more for the same peer.
                let result = expect(MAX_HOLE_PUNCHES, mallory);
                assert!(matches!(result, Err(DialError::TooManyHolePunches)));
                mallory = PeerId::random();
            }
            taken.push(expect(host, mallory).unwrap());
        }
        let mut honest = expect(MAX_HOLE_PUNCHES, PeerId::random()).unwrap();
        assert!(!is_displaced(&mut honest));
        // The oldest punch of the first peer makes room, and no other.
        assert!(
            (are_displaced(&mut taken).into_iter().enumerate())
                .all(|(index, is_displaced)| is_displaced == (index == 0))
        );
        // All places are free when the hole punches are over.
        drop((taken, honest));
        assert!(lock(&expected_peers.0).expected.is_empty());
    }
}
