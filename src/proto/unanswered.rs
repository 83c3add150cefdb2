//! Dials that have not received anything.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, ConnectionId};
use rustc_hash::FxHashMap;

use crate::spare;

/// The dials of a shard that have not received anything.
///
/// A dial may be one side of a hole punch. Then the other side may begin a little later, so the
/// first packet may be lost. Such dials get special treatment.
#[derive(Default)]
pub(super) struct UnansweredDials {
    /// By the destination connection ID of their first packet, which we chose.
    by_id: FxHashMap<ConnectionId, UnansweredDial>,
    /// Dials that may be one side of a hole punch, until something comes from their address.
    by_addr: HashMap<SocketAddr, ConnectionId>,
}

struct UnansweredDial {
    handle: ConnectionHandle,
    remote_addr: SocketAddr,
    /// "Port unreachable" is ignored before this time.
    accepts_icmp_from: Instant,
}

impl UnansweredDials {
    /// Adds a dial. It may be one side of a hole punch if its peer may know the socket from which
    /// it leaves.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        initial_id: ConnectionId,
        handle: ConnectionHandle,
        remote_addr: SocketAddr,
        may_punch: bool,
    ) {
        let mut accepts_icmp_from = now;
        // There is no NAT on loopback.
        if may_punch && !remote_addr.ip().is_loopback() {
            accepts_icmp_from += REFUSAL_PATIENCE;
            self.by_addr.insert(remote_addr, initial_id);
        }
        let dial = UnansweredDial {
            handle,
            remote_addr,
            accepts_icmp_from,
        };
        self.by_id.insert(initial_id, dial);
    }

    /// Removes a dial that has received something, or has ended.
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

    /// The number of dials for which memory is allocated.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.by_id.capacity() + self.by_addr.capacity()
    }

    /// The dial that an ICMP error ends. The sender of the error has seen our first packet: the
    /// error quotes its connection ID.
    ///
    /// In a hole punch, the peer's router sends such errors until the peer has sent a packet to us.
    /// So a dial that may be one side of a hole punch accepts an error only for its retransmission.
    pub(super) fn unreachable(
        &self,
        now: Instant,
        remote_addr: SocketAddr,
        initial_id: &ConnectionId,
    ) -> Option<ConnectionHandle> {
        let dial = self.by_id.get(initial_id)?;
        // Without the zone of a link-local address, which ICMP does not report.
        let is_there = (dial.remote_addr.ip(), dial.remote_addr.port())
            == (remote_addr.ip(), remote_addr.port());
        (is_there && now >= dial.accepts_icmp_from).then_some(dial.handle)
    }

    /// The dial to `remote_addr`, for the first datagram from there that belongs to no connection.
    /// Most likely the peer sent it to open its NAT for us, so the NAT is open now.
    pub(super) fn unmatched_datagram_from(
        &mut self,
        remote_addr: SocketAddr,
    ) -> Option<ConnectionHandle> {
        let initial_id = self.by_addr.remove(&remote_addr)?;
        self.by_id.get(&initial_id).map(|dial| dial.handle)
    }

    /// Whether there are dials that may be one side of a hole punch and have heard nothing.
    pub(super) fn may_punch(&self) -> bool {
        !self.by_addr.is_empty()
    }
}

/// When quinn-proto sends the first packet of a dial again: after three times the initial RTT (RFC
/// 9002 §6.2.2), here the default one.
pub(super) const FIRST_RETRANSMISSION: Duration = Duration::from_millis(3 * 333);

/// How long a dial that may be one side of a hole punch ignores "port unreachable": longer than the
/// start times of the two sides differ, and with the default of `initial_rtt` shorter than the time
/// to the first retransmission.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);

const _: () = assert!(REFUSAL_PATIENCE.as_millis() < FIRST_RETRANSMISSION.as_millis());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    const HANDLE: ConnectionHandle = ConnectionHandle(7);
    const REMOTE: ([u8; 4], u16) = ([192, 0, 2, 1], 4001);

    fn id(number: u8) -> ConnectionId {
        ConnectionId::new(&[number; 8])
    }

    fn dialled(now: Instant, remote_addr: SocketAddr, may_punch: bool) -> UnansweredDials {
        let mut dials = UnansweredDials::default();
        dials.insert(now, id(1), HANDLE, remote_addr, may_punch);
        dials
    }

    #[test]
    fn only_an_error_about_its_own_first_packet_ends_a_dial() {
        let now = clock::now();
        let dials = dialled(now, REMOTE.into(), false);
        for (host, port, number, refused) in [
            ([192, 0, 2, 1], 4001, 1, Some(HANDLE)),
            ([192, 0, 2, 2], 4001, 1, None),
            ([192, 0, 2, 1], 4002, 1, None),
            ([192, 0, 2, 1], 4001, 2, None),
        ] {
            let found = dials.unreachable(now, (host, port).into(), &id(number));
            assert_eq!(found, refused, "{host:?} {port} {number}");
        }
    }

    #[test]
    fn side_of_a_hole_punch_is_not_refused_before_refusal_patience_is_over() {
        let now = clock::now();
        let remote_addr = REMOTE.into();
        let dials = dialled(now, remote_addr, true);
        let patient = now + REFUSAL_PATIENCE;
        let early = patient - Duration::from_nanos(1);
        assert_eq!(dials.unreachable(early, remote_addr, &id(1)), None);
        assert_eq!(
            dials.unreachable(patient, remote_addr, &id(1)),
            Some(HANDLE)
        );
        // There is no NAT on loopback, so no side of a hole punch either.
        let remote_addr = ([127, 0, 0, 1], 4001).into();
        let mut dials = dialled(now, remote_addr, true);
        assert_eq!(dials.unreachable(now, remote_addr, &id(1)), Some(HANDLE));
        assert_eq!(dials.unmatched_datagram_from(remote_addr), None);
    }

    #[test]
    fn unmatched_datagram_is_for_the_last_dial_to_its_sender_and_only_the_first_counts() {
        let now = clock::now();
        let remote_addr = REMOTE.into();
        let mut dials = dialled(now, remote_addr, true);
        let later = ConnectionHandle(8);
        dials.insert(now, id(2), later, remote_addr, true);
        // The end of the earlier dial does not concern the later one.
        dials.remove(&id(1));
        assert!(dials.may_punch());
        assert_eq!(dials.unmatched_datagram_from(remote_addr), Some(later));
        assert_eq!(dials.unmatched_datagram_from(remote_addr), None);
        dials.insert(now, id(3), HANDLE, remote_addr, true);
        dials.remove(&id(3));
        assert!(!dials.may_punch());
    }
}
