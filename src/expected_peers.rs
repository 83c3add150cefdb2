//! Hole punches: which peers are expected, and from which addresses.

use std::{
    cmp::Reverse,
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

/// An address without zone and flow label: an IPv6 address may show them in one direction and not
/// in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin {
    ip: IpAddr,
    port: u16,
}

impl ExpectedPeers {
    /// Expects a peer from an address until the result is dropped.
    pub(crate) fn expect(
        self: &Arc<Self>,
        remote_addr: SocketAddr,
        peer_id: PeerId,
    ) -> Result<Expectation, DialError> {
        let origin = Origin::from(remote_addr);
        let (claim, claimed) = oneshot::channel();
        let displaced = lock(&self.0).add(origin, peer_id, claim)?;
        // This wakes its dial, so the list is already unlocked.
        drop(displaced);
        Ok(Expectation {
            expected_peers: Arc::clone(self),
            origin,
            peer_id,
            claimed,
        })
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

    /// Removes one of these expectations to make room for `peer_id`: the oldest one of the peer
    /// that has most of them. Fails if `peer_id` has as many.
    fn displace(
        &mut self,
        peer_id: PeerId,
        which: impl Fn(&Origin, &Expected) -> bool,
    ) -> Result<Expected, DialError> {
        let mut by_peer: HashMap<PeerId, (usize, Reverse<u64>, Origin)> = HashMap::new();
        for (origin, expected) in self
            .iter()
            .filter(|(origin, expected)| which(origin, expected))
        {
            let age = (Reverse(expected.number), *origin);
            let (count, oldest, at) = by_peer.entry(expected.peer_id).or_insert((0, age.0, age.1));
            *count += 1;
            if age.0 > *oldest {
                (*oldest, *at) = age;
            }
        }
        let own = by_peer.get(&peer_id).map_or(0, |(count, ..)| *count);
        let most = by_peer
            .into_values()
            .max_by_key(|(count, oldest, _)| (*count, *oldest));
        let (_, Reverse(number), origin) = most
            .filter(|(count, ..)| *count > own)
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

/// The most hole punches to one host. They share the limit on what is sent to the host
/// (`proto/hole_punch`): with this many, there is a datagram for each of them every other second.
const MAX_HOLE_PUNCHES_PER_HOST: usize = 16;

/// The most hole punches for one peer, which chooses their addresses. A Swarm dials eight addresses
/// of a peer at a time.
const MAX_HOLE_PUNCHES_PER_PEER: usize = 8;

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

    /// As many hole punches as there are places at a host, each for one of these peers in turn.
    fn fill_host(expected_peers: &Arc<ExpectedPeers>, peers: &[PeerId]) -> Vec<Expectation> {
        (1..)
            .zip(peers.iter().cycle())
            .take(MAX_HOLE_PUNCHES_PER_HOST)
            .map(|(port, peer_id)| {
                expected_peers
                    .expect((ONE_HOST, port).into(), *peer_id)
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn nobody_keeps_others_from_the_places_of_a_host() {
        let expected_peers = Arc::default();
        let mallory = [PeerId::random(), PeerId::random()];
        let mut taken = fill_host(&expected_peers, &mallory);
        let mut honest: Vec<_> = (0..MAX_HOLE_PUNCHES_PER_HOST - mallory.len())
            .map(|_| {
                expected_peers
                    .expect((ONE_HOST, 4001).into(), PeerId::random())
                    .unwrap()
            })
            .collect();
        // Each of the two keeps one place.
        let is_displaced_of =
            |taken: &mut Vec<Expectation>| taken.iter_mut().map(is_displaced).collect::<Vec<_>>();
        let last_two = MAX_HOLE_PUNCHES_PER_HOST - mallory.len();
        assert!(
            (is_displaced_of(&mut taken).into_iter().enumerate())
                .all(|(index, is_displaced)| is_displaced == (index < last_two))
        );
        // And does not get another one.
        for peer_id in mallory {
            let result = expected_peers.expect((ONE_HOST, 99).into(), peer_id);
            assert!(matches!(result, Err(DialError::TooManyHolePunches)));
        }
        assert!(!is_displaced_of(&mut honest).contains(&true));
        // Where each peer has one place, the oldest one goes.
        let _newest = expected_peers
            .expect((ONE_HOST, 4001).into(), PeerId::random())
            .unwrap();
        let displaced = is_displaced_of(&mut taken);
        assert_eq!(
            displaced.iter().position(|is_displaced| !is_displaced),
            Some(last_two + 1)
        );
        assert!(!is_displaced_of(&mut honest).contains(&true));
    }

    #[test]
    fn nobody_keeps_others_from_all_places() {
        let expected_peers: Arc<ExpectedPeers> = Arc::default();
        let expect = |host: usize, peer_id| {
            let [high, low] = u16::try_from(host).unwrap().to_be_bytes();
            expected_peers.expect(([198, 18, high, low], 4001).into(), peer_id)
        };
        let mut taken = Vec::new();
        for _ in 0..MAX_HOLE_PUNCHES / MAX_HOLE_PUNCHES_PER_PEER {
            let mallory = PeerId::random();
            // One at each host, far from the limit of a host.
            for _ in 0..MAX_HOLE_PUNCHES_PER_PEER {
                taken.push(expect(taken.len(), mallory).unwrap());
            }
            // Not one more for the same peer.
            let result = expect(MAX_HOLE_PUNCHES, mallory);
            assert!(matches!(result, Err(DialError::TooManyHolePunches)));
        }
        assert_eq!(taken.len(), MAX_HOLE_PUNCHES);
        let mut honest = expect(MAX_HOLE_PUNCHES, PeerId::random()).unwrap();
        assert!(!is_displaced(&mut honest));
        // The oldest punch makes room, and no other.
        let displaced: Vec<_> = taken.iter_mut().map(is_displaced).collect();
        assert_eq!(
            displaced.iter().rposition(|is_displaced| *is_displaced),
            Some(0)
        );
        // All places are free when the hole punches are over.
        drop((taken, honest));
        assert!(lock(&expected_peers.0).expected.is_empty());
    }
}
