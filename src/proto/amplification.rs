//! The anti-amplification limit: how much a connection may send to addresses that are not
//! validated.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Keeps a connection from sending more than three times the bytes that came from an address, until
/// the address is validated (RFC 9000 §8).
///
/// quinn-proto has its own limit, for the peer's current address. But it sends a whole datagram if
/// any credit is left, and does not count all datagrams. This limit applies to every datagram that
/// quinn-proto produces, for each address separately.
#[derive(Debug)]
pub(super) struct AddressLimits {
    /// The peer's validated address.
    validated: Option<SocketAddr>,
    /// Addresses that are not validated; the one with the most recent datagram is last. Almost
    /// always empty.
    others: Vec<Unvalidated>,
    /// When a PATH_CHALLENGE was last sent beyond the limit ([`may_ask`](Self::may_ask)).
    asked_at: Option<Instant>,
}

#[derive(Debug)]
struct Unvalidated {
    addr: SocketAddr,
    received: usize,
    sent: usize,
    /// The data of the last PATH_CHALLENGE sent to this address.
    challenge: Option<u64>,
}

impl AddressLimits {
    /// `validated` is the peer's validated address, for instance because we have dialled it.
    pub(super) fn new(validated: Option<SocketAddr>) -> Self {
        Self {
            validated,
            others: Vec::new(),
            asked_at: None,
        }
    }

    pub(super) fn is_validated(&self, addr: SocketAddr) -> bool {
        self.validated == Some(addr)
    }

    /// Notes bytes that came from this address. `current` is the one to which the connection sends.
    pub(super) fn note_received(&mut self, addr: SocketAddr, bytes: usize, current: SocketAddr) {
        if self.is_validated(addr) {
            return;
        }
        let known = self.others.iter().position(|other| other.addr == addr);
        let mut other = known.map_or(
            Unvalidated {
                addr,
                received: 0,
                sent: 0,
                challenge: None,
            },
            |index| self.others.remove(index),
        );
        if self.others.len() >= MAX_OTHERS {
            // If another datagram comes from it, it starts again with the credit of that datagram.
            let evicted = self.least_needed(current);
            self.others.remove(evicted);
        }
        other.received += bytes;
        self.others.push(other);
    }

    /// The one to forget if there are too many: one that was not asked, or else the one that has
    /// been silent longest, and never the current one. quinn-proto repeats its challenge only at
    /// the current address, so without it another one could not be validated any more. Anybody can
    /// send garbage from many addresses, but only packets of the peer lead to a challenge.
    fn least_needed(&self, current: SocketAddr) -> usize {
        let mut others = self.others.iter();
        let unasked = others.position(|other| other.challenge.is_none() && other.addr != current);
        let mut others = self.others.iter();
        unasked
            .or_else(|| others.position(|other| other.addr != current))
            .unwrap_or(0)
    }

    /// Whether this many bytes may be sent to the address. If so, counts them as sent.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-8
    pub(super) fn may_send(&mut self, addr: SocketAddr, bytes: usize) -> bool {
        if self.is_validated(addr) {
            return true;
        }
        let Some(other) = self.others.iter_mut().find(|other| other.addr == addr) else {
            // No datagram came from there, or its entry was evicted.
            return false;
        };
        let may_send = other.sent + bytes <= LIMIT * other.received;
        if may_send {
            other.sent += bytes;
        }
        may_send
    }

    /// Whether a datagram with PATH_CHALLENGE may be sent to the address beyond the limit: to
    /// another port of the host with the validated address, and once a second.
    ///
    /// Such a change is most likely a NAT rebinding, and the peer may have nothing to send that
    /// would raise the limit. A peer that provokes it makes us send a datagram a second to its own
    /// host, or to another one behind the same NAT: some 60 bytes, and up to a full datagram if
    /// stream data waits.
    ///
    /// RFC 9000 §8.2.3 requires that an address that was validated without padding is validated
    /// again with padding. quinn-proto does not do that (docs/upstream/0004).
    pub(super) fn may_ask(&mut self, now: Instant, addr: SocketAddr) -> bool {
        let is_same_host = self.validated.is_some_and(|own| own.ip() == addr.ip());
        let is_due = self.asked_at.is_none_or(|at| at + ASK_INTERVAL <= now);
        let may_ask = is_same_host && is_due;
        if may_ask {
            self.asked_at = Some(now);
        }
        may_ask
    }

    /// Notes that a PATH_CHALLENGE with this data was sent to the address.
    pub(super) fn note_challenge(&mut self, addr: SocketAddr, token: u64) {
        if let Some(other) = self.others.iter_mut().find(|other| other.addr == addr) {
            other.challenge = Some(token);
        }
    }

    /// Notes a PATH_RESPONSE with this data, from any address. Returns the address that it
    /// validates (RFC 9000 §8.2.3).
    pub(super) fn answered(&mut self, token: u64) -> Option<SocketAddr> {
        let mut others = self.others.iter();
        let addr = others.find(|other| other.challenge == Some(token))?.addr;
        self.validate(addr);
        Some(addr)
    }

    /// Makes this the validated address.
    pub(super) fn validate(&mut self, addr: SocketAddr) {
        self.validated = Some(addr);
        self.others.retain(|other| other.addr != addr);
        self.others.shrink_to_fit();
    }
}

/// Bytes that may be sent for each one received.
const LIMIT: usize = 3;

/// Shortest time between two challenges beyond the limit.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The most addresses of one connection for which bytes are counted. A peer has one, and a second
/// one while it migrates; others are forged.
const MAX_OTHERS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number).into()
    }

    #[test]
    fn three_times_what_came_and_no_byte_more() {
        let mut limits = AddressLimits::new(Some(addr(1)));
        assert!(limits.may_send(addr(1), usize::MAX));
        assert!(!limits.may_send(addr(2), 1));
        limits.note_received(addr(2), 40, addr(1));
        assert!(limits.may_send(addr(2), 100));
        assert!(!limits.may_send(addr(2), 21));
        assert!(limits.may_send(addr(2), 20));
        assert!(!limits.may_send(addr(2), 1));
        limits.note_received(addr(2), 1, addr(1));
        assert!(limits.may_send(addr(2), 3));
        assert!(!limits.may_send(addr(3), 1));
    }

    #[test]
    fn many_addresses_in_turns_get_no_more_than_one() {
        let mut limits = AddressLimits::new(None);
        let (mut sent, mut received) = (0, 0);
        for number in (0..10_000).map(|number| number % 7) {
            limits.note_received(addr(number), 10, addr(1));
            received += 10;
            for other in 0..7 {
                while limits.may_send(addr(other), 7) {
                    sent += 7;
                }
            }
        }
        assert!(sent <= LIMIT * received, "{sent} for {received}");
        assert!(limits.others.len() <= MAX_OTHERS);
    }

    /// So forged addresses do not displace a peer that moves, as long as it goes on sending.
    #[test]
    fn address_that_has_been_silent_longest_makes_room() {
        let mut limits = AddressLimits::new(None);
        for number in 0..MAX_OTHERS as u16 {
            limits.note_received(addr(number), 40, addr(0));
        }
        limits.note_challenge(addr(0), 7);
        limits.note_received(addr(0), 1, addr(0));
        limits.note_received(addr(99), 40, addr(0));
        assert!(!limits.may_send(addr(1), 1));
        assert!(limits.may_send(addr(2), 1));
        assert_eq!(limits.answered(7), Some(addr(0)));
    }

    #[test]
    fn garbage_displaces_neither_who_was_asked_nor_where_the_connection_is() {
        let mut limits = AddressLimits::new(None);
        for (number, token) in [(1, 7), (2, 8)] {
            limits.note_received(addr(number), 40, addr(number));
            limits.note_challenge(addr(number), token);
        }
        limits.note_received(addr(3), 40, addr(3));
        for number in 100..200 {
            limits.note_received(addr(number), 40, addr(3));
        }
        assert!(limits.may_send(addr(3), 120), "not asked yet");
        assert!(!limits.may_send(addr(198), 1));
        assert_eq!(limits.answered(7), Some(addr(1)));
        assert_eq!(limits.answered(8), Some(addr(2)));
    }

    /// Copies of its packets have come from all of them.
    #[test]
    fn peer_that_was_asked_at_many_addresses_may_be_at_the_last_one() {
        let mut limits = AddressLimits::new(None);
        for number in 0..100 {
            limits.note_received(addr(number), 40, addr(number));
            limits.note_challenge(addr(number), number.into());
        }
        assert!(limits.others.len() <= MAX_OTHERS);
        assert_eq!(limits.answered(99), Some(addr(99)));
    }

    #[test]
    fn answer_to_what_was_sent_there_validates_an_address_and_nothing_else_does() {
        let mut limits = AddressLimits::new(Some(addr(1)));
        limits.note_received(addr(2), 1200, addr(1));
        limits.note_received(addr(3), 1200, addr(1));
        limits.note_challenge(addr(2), 7);
        limits.note_challenge(addr(3), 8);
        limits.note_challenge(addr(3), 9);
        assert_eq!(limits.answered(0), None);
        assert_eq!(limits.answered(8), None, "not the last one");
        assert!(!limits.may_send(addr(2), 3601));
        assert_eq!(limits.answered(7), Some(addr(2)));
        assert!(limits.may_send(addr(2), 3601));
        assert!(!limits.may_send(addr(3), 3601));
    }

    #[test]
    fn peer_is_asked_at_another_port_now_and_then_and_nowhere_else() {
        let now = crate::net::clock::now();
        let mut limits = AddressLimits::new(Some(addr(1)));
        assert!(!limits.may_ask(now, ([192, 0, 2, 2], 1).into()));
        assert!(limits.may_ask(now, addr(2)));
        assert!(!limits.may_ask(now, addr(3)));
        assert!(!limits.may_ask(now + ASK_INTERVAL / 2, addr(2)));
        assert!(limits.may_ask(now + ASK_INTERVAL, addr(3)));
        assert!(!AddressLimits::new(None).may_ask(now, addr(1)));
    }

    #[test]
    fn validated_address_takes_the_place_of_the_one_before() {
        let mut limits = AddressLimits::new(Some(addr(1)));
        limits.note_received(addr(2), 40, addr(1));
        limits.validate(addr(2));
        assert!(limits.may_send(addr(2), 1_000_000));
        assert!(!limits.may_send(addr(1), 1));
        assert!(limits.others.is_empty());
    }
}
