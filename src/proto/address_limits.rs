//! How much a connection may send to addresses that are not validated.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Keeps a connection from sending more than three times the bytes that came from an address, until
/// it is certain that the peer is there (RFC 9000 §8).
///
/// quinn-proto has a limit of its own for the address that it takes the peer to be at. It lets a
/// whole datagram pass while there is any credit, and does not count all of them. Whatever it makes
/// passes by here, for each address.
#[derive(Debug)]
pub(super) struct AddressLimits {
    /// Where the peer is for certain.
    validated: Option<SocketAddr>,
    /// The one that was heard of last at the end. Almost always there is none.
    others: Vec<Unvalidated>,
    /// When it was asked last whether the peer is at another port.
    asked_at: Option<Instant>,
}

#[derive(Debug)]
struct Unvalidated {
    addr: SocketAddr,
    received: usize,
    sent: usize,
    /// The data of the last PATH_CHALLENGE that was sent there.
    challenge: Option<u64>,
}

impl AddressLimits {
    /// `validated` is where the peer is for certain, for instance because we have dialled it there.
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

    /// So many bytes have come from there.
    pub(super) fn note_received(&mut self, addr: SocketAddr, bytes: usize) {
        if self.is_validated(addr) {
            return;
        }
        if let Some(other) = self.others.iter_mut().find(|other| other.addr == addr) {
            other.received += bytes;
            return;
        }
        if self.others.len() >= MAX_OTHERS {
            // If it is heard of again, it begins again, with what it sends then.
            self.others.remove(0);
        }
        self.others.push(Unvalidated {
            addr,
            received: bytes,
            sent: 0,
            challenge: None,
        });
    }

    /// Whether so many bytes may be sent there; if so, they count as sent.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-8
    pub(super) fn may_send(&mut self, addr: SocketAddr, bytes: usize) -> bool {
        if self.is_validated(addr) {
            return true;
        }
        let Some(other) = self.others.iter_mut().find(|other| other.addr == addr) else {
            // Nothing has come from there, or too long ago.
            return false;
        };
        let may_send = other.sent + bytes <= LIMIT * other.received;
        if may_send {
            other.sent += bytes;
        }
        may_send
    }

    /// Whether a datagram with PATH_CHALLENGE may be sent there although it is more than three times
    /// what came: to another port of the host where the peer was, and once a second.
    ///
    /// Such a change is most likely one of a NAT, and the peer may not have anything to send. Whoever
    /// provokes it has 1.5 KB in a second sent to an address of its own host.
    pub(super) fn may_ask(&mut self, now: Instant, addr: SocketAddr) -> bool {
        let is_same_host = self.validated.is_some_and(|own| own.ip() == addr.ip());
        let is_due = self.asked_at.is_none_or(|at| at + ASK_INTERVAL <= now);
        let may_ask = is_same_host && is_due;
        if may_ask {
            self.asked_at = Some(now);
        }
        may_ask
    }

    /// A PATH_CHALLENGE with this data is sent there.
    pub(super) fn note_challenge(&mut self, addr: SocketAddr, token: u64) {
        if let Some(other) = self.others.iter_mut().find(|other| other.addr == addr) {
            other.challenge = Some(token);
        }
    }

    /// A PATH_RESPONSE with this data has come, wherever from. Returns the address that it validates
    /// (RFC 9000 §8.2.3).
    pub(super) fn answered(&mut self, token: u64) -> Option<SocketAddr> {
        let mut others = self.others.iter();
        let addr = others.find(|other| other.challenge == Some(token))?.addr;
        self.validate(addr);
        Some(addr)
    }

    /// It is certain now that the peer is there.
    pub(super) fn validate(&mut self, addr: SocketAddr) {
        self.validated = Some(addr);
        self.others.retain(|other| other.addr != addr);
        self.others.shrink_to_fit();
    }
}

/// Bytes that may be sent for each one received.
const LIMIT: usize = 3;

/// How long it takes until the peer is asked again whether it is at another port.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Most addresses of one connection for which bytes are counted. Its peer has one, and another one
/// while it moves; the rest is forged.
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
        limits.note_received(addr(2), 40);
        assert!(limits.may_send(addr(2), 100));
        assert!(!limits.may_send(addr(2), 21));
        assert!(limits.may_send(addr(2), 20));
        assert!(!limits.may_send(addr(2), 1));
        limits.note_received(addr(2), 1);
        assert!(limits.may_send(addr(2), 3));
        assert!(!limits.may_send(addr(3), 1));
    }

    #[test]
    fn many_addresses_in_turns_get_no_more_than_one() {
        let mut limits = AddressLimits::new(None);
        let (mut sent, mut received) = (0, 0);
        for number in (0..10_000).map(|number| number % 7) {
            limits.note_received(addr(number), 10);
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

    #[test]
    fn answer_to_what_was_sent_there_validates_an_address_and_nothing_else_does() {
        let mut limits = AddressLimits::new(Some(addr(1)));
        limits.note_received(addr(2), 1200);
        limits.note_received(addr(3), 1200);
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
        limits.note_received(addr(2), 40);
        limits.validate(addr(2));
        assert!(limits.may_send(addr(2), 1_000_000));
        assert!(!limits.may_send(addr(1), 1));
        assert!(limits.others.is_empty());
    }
}
