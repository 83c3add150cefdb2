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
    /// The number of expected peers at each host.
    hosts: HashMap<Host, usize>,
    /// The number of expected peers.
    count: usize,
}

struct Expected {
    peer_id: PeerId,
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
        let mut expectations = lock(&self.0);
        if expectations.has(origin, peer_id) {
            return Err(DialError::HolePunchInProgress);
        }
        let (claim, claimed) = oneshot::channel();
        expectations.add(origin, Expected { peer_id, claim })?;
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

/// A peer that is expected until this value is dropped.
pub(crate) struct Expectation {
    expected_peers: Arc<ExpectedPeers>,
    origin: Origin,
    peer_id: PeerId,
    claimed: oneshot::Receiver<Connection>,
}

impl Expectation {
    /// Resolves to the connection once the peer has dialled us.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(PeerId, Connection)> {
        match self.claimed.poll_unpin(cx) {
            Poll::Ready(Ok(connection)) => Poll::Ready((self.peer_id, connection)),
            // Only the drop of this value removes the entry otherwise.
            Poll::Ready(Err(oneshot::Canceled)) | Poll::Pending => Poll::Pending,
        }
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
