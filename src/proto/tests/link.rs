//! What a network does to datagrams.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How a link treats datagrams. Probabilities are per datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Impairments {
    /// One-way delay.
    pub(super) delay: Duration,
    /// Up to this much more, apart for each datagram, so that some overtake others.
    pub(super) jitter: Duration,
    pub(super) loss: f64,
    pub(super) duplication: f64,
    /// One bit is flipped.
    pub(super) corruption: f64,
    /// Larger datagrams vanish, in bytes of UDP payload.
    pub(super) mtu: usize,
}

impl Impairments {
    /// A round trip of 20 ms, and Ethernet.
    pub(super) const NONE: Self = Self {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        duplication: 0.0,
        corruption: 0.0,
        mtu: 1472,
    };

    /// Nothing arrives.
    pub(super) const DEAD: Self = Self {
        loss: 1.0,
        ..Self::NONE
    };
}

/// A link, and the luck of the datagrams on it.
pub(super) struct Link {
    pub(super) impairments: Impairments,
    random: StdRng,
}

impl Link {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            impairments: Impairments::NONE,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// When a datagram that is sent `now` arrives, and what is left of it: nothing, once, or twice.
    pub(super) fn carry(&mut self, now: Instant, contents: &[u8]) -> Vec<(Instant, Vec<u8>)> {
        let Impairments {
            loss,
            duplication,
            mtu,
            ..
        } = self.impairments;
        if contents.len() > mtu || self.random.random_bool(loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.random.random_bool(duplication));
        (0..copies)
            .map(|_| (self.arrival(now), self.corrupt(contents)))
            .collect()
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        let Impairments { delay, jitter, .. } = self.impairments;
        now + delay + jitter.mul_f64(self.random.random())
    }

    fn corrupt(&mut self, contents: &[u8]) -> Vec<u8> {
        let mut contents = contents.to_vec();
        if !contents.is_empty() && self.random.random_bool(self.impairments.corruption) {
            let bit = self.random.random_range(0..contents.len() * 8);
            contents[bit / 8] ^= 1 << (bit % 8);
        }
        contents
    }
}
