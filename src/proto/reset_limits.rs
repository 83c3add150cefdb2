//! How many stateless resets a host gets.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
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
}

impl ResetLimits {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            sent: Box::new([0; COUNTERS]),
            secret,
            until: None,
        }
    }

    /// Whether a reset may be sent to the host now. If so, counts it.
    pub(super) fn may_send(&mut self, now: Instant, host: Host) -> bool {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + INTERVAL);
            self.sent.fill(0);
        }
        let mut hasher = DefaultHasher::new();
        (self.secret, host).hash(&mut hasher);
        let index = (hasher.finish() % COUNTERS as u64) as usize;
        let Some(sent) = self.sent.get_mut(index) else {
            return false;
        };
        let may_send = *sent < MOST_RESETS;
        *sent += u8::from(may_send);
        may_send
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
        let host = |number: u32| Host::of(Ipv4Addr::from_bits(number).into());
        let granted = |limits: &mut ResetLimits, now, number| {
            (0..1_000)
                .filter(|_| limits.may_send(now, host(number)))
                .count()
        };
        for number in 0..10 {
            assert_eq!(granted(&mut limits, now, number), usize::from(MOST_RESETS));
        }
        assert_eq!(granted(&mut limits, now + INTERVAL / 2, 0), 0);
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
            let host = |number: u32| Host::of(Ipv4Addr::from_bits(number).into());
            while limits.may_send(now, host(0)) {}
            let others = (1..10_000).filter(|&number| !limits.may_send(now, host(number)));
            others.collect::<Vec<_>>()
        };
        assert_ne!(shares(1), shares(2));
        assert!((1..40).contains(&shares(1).len()));
    }
}
