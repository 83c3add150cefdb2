//! Dials as listener: who is expected, and from where.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{channel::oneshot, future::FutureExt};
use libp2p_identity::PeerId;

use crate::{
    connection::Connection,
    error::DialError,
    sync::{Mutex, lock},
};

/// The peers that dials as listener wait for.
///
/// Such a dial is over when the peer that it names comes in from the address that it names, authenticated. Whoever
/// else comes from there, or claims to, changes nothing about it.
#[derive(Default)]
pub(crate) struct HolePunches(Mutex<Vec<Expected>>);

struct Expected {
    remote_addr: SocketAddr,
    peer_id: PeerId,
    claim: oneshot::Sender<Connection>,
}

impl HolePunches {
    /// Expects a peer from an address for as long as the result lives.
    pub(crate) fn expect(
        self: &Arc<Self>,
        remote_addr: SocketAddr,
        peer_id: PeerId,
    ) -> Result<Expectation, DialError> {
        let mut expected = lock(&self.0);
        if expected
            .iter()
            .any(|expected| expected.is(remote_addr, peer_id))
        {
            return Err(DialError::HolePunchInProgress);
        }
        if expected.len() >= MAX_HOLE_PUNCHES {
            return Err(DialError::TooManyHolePunches);
        }
        let (claim, claimed) = oneshot::channel();
        expected.push(Expected {
            remote_addr,
            peer_id,
            claim,
        });
        Ok(Expectation {
            punches: Arc::clone(self),
            peer_id,
            claimed,
        })
    }

    /// Whether anybody is expected from there.
    pub(crate) fn is_expected_from(&self, remote_addr: SocketAddr) -> bool {
        lock(&self.0)
            .iter()
            .any(|expected| is_same(expected.remote_addr, remote_addr))
    }

    /// Hands a connection to the dial that waits for it; gives it back if none does.
    pub(crate) fn claim(
        &self,
        remote_addr: SocketAddr,
        peer_id: PeerId,
        connection: Connection,
    ) -> Result<(), Connection> {
        match self.take(|expected| expected.is(remote_addr, peer_id)) {
            Some(expected) => expected.claim.send(connection),
            None => Err(connection),
        }
    }

    /// Takes a peer off the list; what is done with the result wakes its dial, so the list is unlocked by then.
    fn take(&self, which: impl Fn(&Expected) -> bool) -> Option<Expected> {
        let mut expected = lock(&self.0);
        let index = expected.iter().position(which)?;
        Some(expected.swap_remove(index))
    }
}

impl Expected {
    fn is(&self, remote_addr: SocketAddr, peer_id: PeerId) -> bool {
        self.peer_id == peer_id && is_same(self.remote_addr, remote_addr)
    }
}

/// A peer that is expected until this is dropped.
pub(crate) struct Expectation {
    punches: Arc<HolePunches>,
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
        let expected = self
            .punches
            .take(|expected| expected.claim.is_connected_to(&self.claimed));
        drop(expected);
    }
}

/// The zone and the flow of an IPv6 address may be told in one direction and not in the other.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}

/// Most dials as listener at once. DCUtR has one or a few for each relayed connection, for five seconds.
const MAX_HOLE_PUNCHES: usize = 256;
