//! Dials as listener: who is expected, and from where.

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

/// The peers that dials as listener wait for.
///
/// Such a dial is over when the peer that it names comes in from the address that it names, authenticated. Whoever
/// else comes from there, or claims to, changes nothing about it.
#[derive(Default)]
pub(crate) struct HolePunches(Mutex<Expectations>);

/// Addresses are chosen by peers, hence the standard hasher.
#[derive(Default)]
struct Expectations {
    expected: HashMap<Origin, Vec<Expected>>,
    /// How many there are at each host.
    hosts: HashMap<Host, usize>,
    /// How many there are.
    count: usize,
}

struct Expected {
    peer_id: PeerId,
    claim: oneshot::Sender<Connection>,
}

/// An address without zone and flow: those of an IPv6 address may be told in one direction and not in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin {
    ip: IpAddr,
    port: u16,
}

impl HolePunches {
    /// Expects a peer from an address for as long as the result lives.
    pub(crate) fn expect(
        self: &Arc<Self>,
        remote_addr: SocketAddr,
        peer_id: PeerId,
    ) -> Result<Expectation, DialError> {
        let origin = Origin::from(remote_addr);
        let mut expectations = lock(&self.0);
        if expectations.has(origin, peer_id) {
            return Err(DialError::HolePunchInProgress);
        }
        let (claim, claimed) = oneshot::channel();
        expectations.add(origin, Expected { peer_id, claim })?;
        Ok(Expectation {
            punches: Arc::clone(self),
            origin,
            peer_id,
            claimed,
        })
    }

    /// Whether anybody is expected from there.
    pub(crate) fn is_expected_from(&self, remote_addr: SocketAddr) -> bool {
        lock(&self.0).expected.contains_key(&remote_addr.into())
    }

    /// Hands a connection to the dial that waits for it; gives it back if none does.
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

    /// Takes a peer off the list; what is done with the result wakes its dial, so the list is unlocked by then.
    fn take(&self, origin: Origin, which: impl Fn(&Expected) -> bool) -> Option<Expected> {
        lock(&self.0).take(origin, which)
    }
}

impl Expectations {
    fn has(&self, origin: Origin, peer_id: PeerId) -> bool {
        self.expected
            .get(&origin)
            .is_some_and(|expected| expected.iter().any(|expected| expected.peer_id == peer_id))
    }

    fn add(&mut self, origin: Origin, expected: Expected) -> Result<(), DialError> {
        let host = Host::of(origin.ip);
        let at_host = self.hosts.get(&host).copied().unwrap_or(0);
        if self.count >= MAX_HOLE_PUNCHES || at_host >= MAX_HOLE_PUNCHES_PER_HOST {
            return Err(DialError::TooManyHolePunches);
        }
        self.count += 1;
        self.hosts.insert(host, at_host + 1);
        self.expected.entry(origin).or_default().push(expected);
        Ok(())
    }

    fn take(&mut self, origin: Origin, which: impl Fn(&Expected) -> bool) -> Option<Expected> {
        let at_origin = self.expected.get_mut(&origin)?;
        let index = at_origin.iter().position(which)?;
        let taken = at_origin.swap_remove(index);
        if at_origin.is_empty() {
            self.expected.remove(&origin);
        }
        let host = Host::of(origin.ip);
        if let Some(at_host) = self.hosts.get_mut(&host) {
            *at_host -= 1;
            if *at_host == 0 {
                self.hosts.remove(&host);
            }
        }
        self.count -= 1;
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

/// A peer that is expected until this is dropped.
pub(crate) struct Expectation {
    punches: Arc<HolePunches>,
    origin: Origin,
    peer_id: PeerId,
    claimed: oneshot::Receiver<Connection>,
}

impl Expectation {
    /// The connection, once the peer has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(PeerId, Connection)> {
        match self.claimed.poll_unpin(cx) {
            Poll::Ready(Ok(connection)) => Poll::Ready((self.peer_id, connection)),
            // Nobody else takes it off the list.
            Poll::Ready(Err(oneshot::Canceled)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        // Its own, and not that of a later dial for the same peer.
        let expected = self.punches.take(self.origin, |expected| {
            expected.claim.is_connected_to(&self.claimed)
        });
        drop(expected);
    }
}

/// Most dials as listener at once. DCUtR has one or a few for each relayed connection, for five seconds.
const MAX_HOLE_PUNCHES: usize = 256;

/// Most of them for peers at one host. They share what is sent to it (`proto/hole_punch`): with so
/// many, there is a datagram for each of them every other second.
const MAX_HOLE_PUNCHES_PER_HOST: usize = 16;
