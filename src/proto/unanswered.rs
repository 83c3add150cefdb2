//! Dials that have not heard anything.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, ConnectionId};
use rustc_hash::FxHashMap;

use super::spare;

/// The dials of a shard that have not heard anything.
///
/// A dial that may be one half of a hole punch gets special treatment: the other half may be a little late, and then
/// the first packet was for nothing.
#[derive(Default)]
pub(super) struct UnansweredDials {
    /// By the ID of their first packet, which we have chosen.
    by_id: FxHashMap<ConnectionId, Dial>,
    /// Those that may punch a hole, until something has come from there.
    by_addr: HashMap<SocketAddr, ConnectionId>,
}

struct Dial {
    handle: ConnectionHandle,
    remote_addr: SocketAddr,
    /// From when on it counts that nobody is said to listen at the address.
    believed_from: Instant,
}

impl UnansweredDials {
    /// Notes a dial that begins. It may punch a hole if its peer may know the socket that it leaves from.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        initial_id: ConnectionId,
        handle: ConnectionHandle,
        remote_addr: SocketAddr,
        may_punch: bool,
    ) {
        let mut believed_from = now;
        // Between us and ourselves there is no NAT.
        if may_punch && !remote_addr.ip().is_loopback() {
            believed_from += REFUSAL_PATIENCE;
            self.by_addr.insert(remote_addr, initial_id);
        }
        let dial = Dial {
            handle,
            remote_addr,
            believed_from,
        };
        self.by_id.insert(initial_id, dial);
    }

    /// It has heard something, or is over.
    pub(super) fn remove(&mut self, initial_id: &ConnectionId) {
        let Some(dial) = self.by_id.remove(initial_id) else {
            return;
        };
        if self.by_addr.get(&dial.remote_addr) == Some(initial_id) {
            self.by_addr.remove(&dial.remote_addr);
        }
        if let Some(room) = spare::room_for(self.by_id.len(), self.by_id.capacity()) {
            self.by_id.shrink_to(room);
            self.by_addr.shrink_to(room);
        }
    }

    /// For how many it has memory.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.by_id.capacity() + self.by_addr.capacity()
    }

    /// The dial that is over because nobody listens at `remote_addr`, as somebody says who has seen the dial's first
    /// packet: he knows its ID.
    ///
    /// In a hole punch it is the peer's router that says so, as long as the peer has sent nothing to us; so such a dial
    /// believes it only of what is sent again.
    pub(super) fn refused(
        &self,
        now: Instant,
        remote_addr: SocketAddr,
        initial_id: &ConnectionId,
    ) -> Option<ConnectionHandle> {
        let dial = self.by_id.get(initial_id)?;
        // Without the zone of a link-local address, which ICMP does not tell.
        let is_there = (dial.remote_addr.ip(), dial.remote_addr.port())
            == (remote_addr.ip(), remote_addr.port());
        (is_there && now >= dial.believed_from).then_some(dial.handle)
    }

    /// The dial to `remote_addr`, the first time that something has come from there that belongs to no connection: most
    /// likely what the peer sends to open its NAT for us, and that is open now.
    pub(super) fn noise_from(&mut self, remote_addr: SocketAddr) -> Option<ConnectionHandle> {
        let initial_id = self.by_addr.remove(&remote_addr)?;
        self.by_id.get(&initial_id).map(|dial| dial.handle)
    }
}

/// How long a dial that may be half of a hole punch does not believe that nobody listens. Longer than the two sides of
/// one are apart, and shorter than the time after which a first packet is sent again: a second, three times the RTT that
/// is assumed at first (RFC 9002 §6.2.2).
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);
