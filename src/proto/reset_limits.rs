//! How many stateless resets a host gets.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::address::Host;

/// Counts the stateless resets of a shard by host, so that noise from some hosts does not use up
/// those of others, and so that two endpoints cannot send each other resets without end (RFC 9000
/// §10.3.3).
pub(super) struct ResetLimits {
    /// Each host has one of them, by its hash. An attacker with many addresses cannot choose which,
    /// because the hash has a secret.
    sent: Box<[u8; COUNTERS]>,
    secret: u64,
    /// When they begin anew.
    until: Option<Instant>,
    /// Whether a reset was refused since they last began.
    has_refused: bool,
}

impl ResetLimits {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            sent: Box::new([0; COUNTERS]),
            secret,
            until: None,
            has_refused: false,
        }
    }

    /// Whether a reset may be sent to the host of this address now. If so, counts it.
    pub(super) fn may_send(&mut self, now: Instant, remote_addr: SocketAddr) -> bool {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + INTERVAL);
            self.sent.fill(0);
            self.has_refused = false;
        }
        let index = self.index(remote_addr);
        let Some(sent) = self.sent.get_mut(index) else {
            return false;
        };
        let may_send = *sent < MOST_RESETS;
        *sent += u8::from(may_send);
        self.has_refused |= !may_send;
        may_send
    }

    /// Whether no reset may be sent to that host now. Comes before any datagram that may call for
    /// one, and so looks at the host only if one was refused in the same interval.
    pub(super) fn refuses(&self, now: Instant, remote_addr: SocketAddr) -> bool {
        self.has_refused
            && self.until.is_some_and(|until| now < until)
            && (self.sent.get(self.index(remote_addr))).is_none_or(|&sent| sent >= MOST_RESETS)
    }

    /// The place of a host's counter.
    fn index(&self, remote_addr: SocketAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.secret, Host::of(remote_addr.ip())).hash(&mut hasher);
        (hasher.finish() % COUNTERS as u64) as usize
    }
}

/// Many more than the hosts that have lost their connections in the same second and share one with
/// a host that sends noise.
const COUNTERS: usize = 1024;

const INTERVAL: Duration = Duration::from_secs(1);

/// The most resets for the hosts of a counter in an interval. A host seldom has as many connections
/// with one shard, and each of its connections probes once a second. quinn-proto's default is as
/// much for all hosts together.
const MOST_RESETS: u8 = 50;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_host_gets_fifty_in_a_second_whatever_others_get() {
        let now = crate::net::clock::now();
        let mut limits = ResetLimits::new(7);
        let host = |number: u32| SocketAddr::from((Ipv4Addr::from_bits(number), 4001));
        let granted = |limits: &mut ResetLimits, now, number| {
            (0..1_000)
                .filter(|_| limits.may_send(now, host(number)))
                .count()
        };
        for number in 0..10 {
            assert_eq!(granted(&mut limits, now, number), usize::from(MOST_RESETS));
        }
        assert_eq!(granted(&mut limits, now + INTERVAL / 2, 0), 0);
        for (number, after) in [(0, INTERVAL / 2), (0, INTERVAL), (10, INTERVAL / 2)] {
            let is_refused = (number, after) == (0, INTERVAL / 2);
            assert_eq!(limits.refuses(now + after, host(number)), is_refused);
        }
        assert_eq!(
            granted(&mut limits, now + INTERVAL, 0),
            usize::from(MOST_RESETS)
        );
    }

    #[test]
    fn nobody_chooses_whose_counter_it_shares() {
        let now = crate::net::clock::now();
        let shares = |secret| {
            let mut limits = ResetLimits::new(secret);
            let host = |number: u32| SocketAddr::from((Ipv4Addr::from_bits(number), 4001));
            while limits.may_send(now, host(0)) {}
            let others = (1..10_000).filter(|&number| !limits.may_send(now, host(number)));
            others.collect::<Vec<_>>()
        };
        assert_ne!(shares(1), shares(2));
        assert!((1..40).contains(&shares(1).len()));
    }
}
