//! Connections that have ended, while packets for them may still arrive.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, Transmit};

use crate::spare;

/// Connections in the closing and draining states (RFC 9000 §10.2). Only what these states need is
/// kept: the packet with CONNECTION_CLOSE, and the end of the state.
pub(super) struct ClosingConnections<S> {
    closing: HashMap<ConnectionHandle, Closing<S>>,
    /// In order of their ends.
    deadlines: BTreeSet<(Instant, usize)>,
}

struct Closing<S> {
    close_packet: Option<ClosePacket<S>>,
    /// The number of datagrams that arrived in this state.
    received: u64,
}

/// The datagram with the CONNECTION_CLOSE.
pub(super) struct ClosePacket<S> {
    pub(super) socket: S,
    pub(super) destination: SocketAddr,
    pub(super) src_ip: Option<IpAddr>,
    pub(super) contents: Box<[u8]>,
}

impl<S: Clone> ClosingConnections<S> {
    pub(super) fn new() -> Self {
        Self {
            closing: HashMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.closing.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.closing.is_empty()
    }

    /// Adds a connection. `close_packet` is the packet with our CONNECTION_CLOSE. Without one, the
    /// connection is draining, and packets for it are dropped.
    ///
    /// If there are too many, returns one whose state is to be discarded.
    pub(super) fn insert(
        &mut self,
        handle: ConnectionHandle,
        until: Instant,
        close_packet: Option<ClosePacket<S>>,
    ) -> Option<ConnectionHandle> {
        let evicted = (self.closing.len() >= MAX_CLOSING)
            .then(|| self.pop_first())
            .flatten();
        let closing = Closing {
            close_packet,
            received: 0,
        };
        self.closing.insert(handle, closing);
        self.deadlines.insert((until, handle.0));
        evicted
    }

    /// When the first of them is to be discarded.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// Removes a connection whose time is over.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnectionHandle> {
        if self.next_timeout()? > now {
            return None;
        }
        self.pop_first()
    }

    /// Removes the connection that would be discarded first.
    pub(super) fn pop_first(&mut self) -> Option<ConnectionHandle> {
        let (_, index) = self.deadlines.pop_first()?;
        let handle = ConnectionHandle(index);
        self.closing.remove(&handle);
        if let Some(room) = spare::room_for(self.closing.len(), self.closing.capacity()) {
            self.closing.shrink_to(room);
        }
        Some(handle)
    }

    /// Notes a datagram of `len` bytes for a connection. Returns the CONNECTION_CLOSE to send
    /// again, if one is due.
    ///
    /// It is due for the first datagram, the second, the fourth, the eighth, …, because their
    /// sender has missed the close.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-10.2.1
    pub(super) fn answer(
        &mut self,
        handle: ConnectionHandle,
        from: SocketAddr,
        len: usize,
    ) -> Option<(S, Transmit, &[u8])> {
        let closing = self.closing.get_mut(&handle)?;
        closing.received += 1;
        let close_packet = closing.close_packet.as_ref()?;
        let is_due = closing.received.is_power_of_two();
        // The source address may be forged. The answer goes only to the peer's address, and is at
        // most three times as large.
        let may_answer = from == close_packet.destination && close_packet.contents.len() <= 3 * len;
        if !is_due || !may_answer {
            return None;
        }
        let transmit = Transmit {
            destination: close_packet.destination,
            ecn: None,
            size: close_packet.contents.len(),
            segment_size: None,
            src_ip: close_packet.src_ip,
        };
        Some((
            close_packet.socket.clone(),
            transmit,
            &close_packet.contents,
        ))
    }

    /// When a connection that ends now is to be discarded: after three times the probe timeout (RFC
    /// 9000 §10.2), without the part that the peer chooses, and within bounds.
    pub(super) fn deadline(now: Instant, rtt: Duration) -> Instant {
        // With an RTT variation of half the RTT, its initial value in RFC 9002 §5.3.
        now + (3 * (3 * rtt + MAX_ACK_DELAY)).clamp(SHORTEST, LONGEST)
    }
}

/// The most ended connections of one shard. Each takes up to 3 KB. Beyond it, the one that would be
/// discarded first is discarded at once, and its peer may get a stateless reset.
const MAX_CLOSING: usize = 4096;

/// With short round trips, a peer is late because its machine is busy with other work.
const SHORTEST: Duration = Duration::from_millis(500);

/// As long as the socket of dials stays open without a connection, and long enough for round trips
/// of half a second. [`MAX_CLOSING`] bounds the memory. Packets that arrive later at a listener are
/// answered with a stateless reset.
const LONGEST: Duration = Duration::from_secs(5);

/// The default of `max_ack_delay` (RFC 9000 §18.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 4001);

    fn close_packet() -> ClosePacket<()> {
        ClosePacket {
            socket: (),
            destination: PEER.into(),
            src_ip: None,
            contents: Box::from([0; 60]),
        }
    }

    #[test]
    fn close_is_repeated_less_and_less_often() {
        let now = crate::net::clock::now();
        let mut closing = ClosingConnections::new();
        let handle = ConnectionHandle(7);
        closing.insert(handle, now, Some(close_packet()));
        let answered: Vec<_> = (1..=20)
            .filter(|_| closing.answer(handle, PEER.into(), 40).is_some())
            .collect();
        assert_eq!(answered, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn close_is_not_amplified_and_goes_to_the_peer_alone() {
        let now = crate::net::clock::now();
        let mut closing = ClosingConnections::new();
        for (number, (from, len, answers)) in [
            (PEER, 19, false),
            (PEER, 20, true),
            (([192, 0, 2, 2], 4001), 1200, false),
            (([192, 0, 2, 1], 4002), 1200, false),
        ]
        .into_iter()
        .enumerate()
        {
            let handle = ConnectionHandle(number);
            closing.insert(handle, now, Some(close_packet()));
            let answer = closing.answer(handle, from.into(), len);
            assert_eq!(answer.is_some(), answers, "{from:?} {len}");
        }
        // A connection that the peer has closed.
        closing.insert(ConnectionHandle(9), now, None);
        let answer = closing.answer(ConnectionHandle(9), PEER.into(), 1200);
        assert!(answer.is_none());
    }

    #[test]
    fn the_oldest_one_makes_room() {
        let now = crate::net::clock::now();
        let mut closing = ClosingConnections::<()>::new();
        let at = |number: usize| now + Duration::from_millis(number as u64);
        for number in 0..MAX_CLOSING {
            let evicted = closing.insert(ConnectionHandle(number), at(number), None);
            assert_eq!(evicted, None);
        }
        let last = ConnectionHandle(MAX_CLOSING);
        let evicted = closing.insert(last, at(MAX_CLOSING), None);
        assert_eq!(evicted, Some(ConnectionHandle(0)));
        assert_eq!(closing.len(), MAX_CLOSING);
        assert_eq!(closing.next_timeout(), Some(at(1)));
        assert_eq!(closing.pop_due(now), None);
        assert_eq!(closing.pop_due(at(1)), Some(ConnectionHandle(1)));
    }

    #[test]
    fn peer_does_not_choose_how_long_it_takes() {
        let now = crate::net::clock::now();
        let after = |rtt| ClosingConnections::<()>::deadline(now, rtt) - now;
        assert_eq!(after(Duration::ZERO), SHORTEST);
        assert_eq!(after(Duration::from_secs(60)), LONGEST);
    }

    #[test]
    fn packets_of_a_closed_connection_are_known_for_three_probe_timeouts() {
        let now = crate::net::clock::now();
        let rtt = Duration::from_millis(200);
        let deadline = ClosingConnections::<()>::deadline(now, rtt);
        assert_eq!(deadline - now, Duration::from_millis(3 * (3 * 200 + 25)));
    }
}
