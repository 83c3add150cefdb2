//! What may be sent in a time.

use std::time::{Duration, Instant};

/// A token bucket: it fills with `rate` bytes per second, up to `burst` bytes.
///
/// What is taken may exceed what it holds. It then owes the rest, and holds nothing until that is
/// paid.
#[derive(Clone, Debug)]
pub(in crate::proto) struct Bucket {
    rate: f64,
    burst: f64,
    bytes: f64,
    /// When `bytes` was right.
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(in crate::proto) fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self {
            rate,
            burst,
            bytes: burst,
            at: now,
        }
    }

    /// Changes how fast it fills from now on, and how much it holds.
    pub(in crate::proto) fn adjust(&mut self, rate: f64, burst: f64, now: Instant) {
        if (rate, burst) != (self.rate, self.burst) {
            self.fill(now);
            (self.rate, self.burst) = (rate, burst);
            self.bytes = self.bytes.min(burst);
        }
    }

    /// Bytes per second.
    pub(in crate::proto) fn rate(&self) -> f64 {
        self.rate
    }

    /// Bytes that may be taken now.
    pub(in crate::proto) fn available(&self, now: Instant) -> u64 {
        self.level(now) as u64
    }

    pub(in crate::proto) fn take(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        self.bytes -= bytes as f64;
    }

    /// Forgives what is owed beyond this.
    pub(in crate::proto) fn owe_at_most(&mut self, bytes: u64) {
        self.bytes = self.bytes.max(-(bytes as f64));
    }

    /// When it will hold `bytes` bytes, or all that it can hold; `None` if that is never.
    pub(in crate::proto) fn next_at(&self, bytes: u64, now: Instant) -> Option<Instant> {
        self.reaches_at(self.burst.min(bytes as f64), now)
    }

    /// When it will owe no more than this.
    pub(in crate::proto) fn owes_at_most_at(&self, bytes: u64, now: Instant) -> Option<Instant> {
        self.reaches_at(-(bytes as f64), now)
    }

    fn reaches_at(&self, level: f64, now: Instant) -> Option<Instant> {
        let missing = level - self.level(now);
        if missing <= 0.0 {
            return Some(now);
        }
        let wait = Duration::try_from_secs_f64(missing / self.rate).ok()?;
        // Rounded up, so that nothing is missing then.
        now.checked_add(wait + Duration::from_nanos(1))
    }

    fn fill(&mut self, now: Instant) {
        self.bytes = self.level(now);
        self.at = self.at.max(now);
    }

    fn level(&self, now: Instant) -> f64 {
        let time = now.saturating_duration_since(self.at);
        (self.bytes + self.rate * time.as_secs_f64()).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 1_000_000.0;

    fn at(began: Instant, millis: u64) -> Instant {
        began + Duration::from_millis(millis)
    }

    #[test]
    fn bucket_fills_at_its_rate_until_it_is_full() {
        let began = crate::net::clock::now();
        let mut bucket = Bucket::new(RATE, 5_000.0, began);
        assert_eq!(bucket.available(began), 5_000);
        bucket.take(5_000, began);
        assert_eq!(bucket.available(at(began, 3)), 3_000);
        bucket.take(2_000, at(began, 3));
        assert_eq!(bucket.available(at(began, 4)), 2_000);
        assert_eq!(bucket.available(at(began, 1_000)), 5_000);
    }

    #[test]
    fn debt_is_paid_before_anything_is_available() {
        let began = crate::net::clock::now();
        let mut bucket = Bucket::new(RATE, 5_000.0, began);
        bucket.take(7_000, began);
        assert_eq!(bucket.available(at(began, 2)), 0);
        assert_eq!(bucket.available(at(began, 3)), 1_000);
        let next = bucket.next_at(1_000, began).unwrap();
        assert!(next >= at(began, 3) && next < at(began, 4));
        assert!(bucket.available(next) >= 1_000);
        let owes = bucket.owes_at_most_at(500, began).unwrap();
        assert!(owes >= at(began, 1) && owes < at(began, 2));
        assert_eq!(bucket.owes_at_most_at(2_000, began), Some(began));
    }

    #[test]
    fn debt_beyond_a_limit_is_forgiven() {
        let began = crate::net::clock::now();
        let mut bucket = Bucket::new(RATE, 5_000.0, began);
        bucket.take(9_000, began);
        bucket.owe_at_most(1_000);
        assert_eq!(bucket.available(at(began, 2)), 1_000);
        bucket.owe_at_most(10_000);
        assert_eq!(bucket.available(at(began, 2)), 1_000);
    }

    #[test]
    fn what_a_bucket_can_never_hold_is_not_waited_for() {
        let began = crate::net::clock::now();
        let mut bucket = Bucket::new(RATE, 5_000.0, began);
        bucket.take(1_000, began);
        let next = bucket.next_at(1_000_000, began).unwrap();
        assert_eq!(bucket.available(next), 5_000);
        assert_eq!(
            Bucket::new(0.0, 10.0, began).next_at(20, began),
            Some(began)
        );
        let mut dead = Bucket::new(0.0, 10.0, began);
        dead.take(1, began);
        assert_eq!(dead.next_at(10, began), None);
    }

    #[test]
    fn rate_changes_from_now_on() {
        let began = crate::net::clock::now();
        let mut bucket = Bucket::new(RATE, 5_000.0, began);
        bucket.take(5_000, began);
        bucket.adjust(10.0 * RATE, 50_000.0, at(began, 1));
        assert_eq!(bucket.available(at(began, 2)), 11_000);
        bucket.adjust(RATE, 2_000.0, at(began, 2));
        assert_eq!(bucket.available(at(began, 2)), 2_000);
    }
}
