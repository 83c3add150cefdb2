//! How windows grow with the bandwidth-delay product, and shrink again.

use std::time::{Duration, Instant};

/// A window between the one that it began with and the largest.
#[derive(Debug)]
struct Growing {
    first: u64,
    largest: u64,
    current: u64,
}

impl Growing {
    fn new(first: u64, largest: u64) -> Self {
        Self {
            first,
            largest,
            current: first,
        }
    }

    /// Follows what is wanted, in steps: by more than an eighth up, by more than a quarter down, or
    /// to where it began. It does not exceed `most`, unless it began with more.
    fn follow(&mut self, wanted: u64, most: u64) {
        let most = most.min(self.largest).max(self.first);
        let wanted = wanted.clamp(self.first, most);
        let is_much_more = wanted > self.current.saturating_add(self.current / 8);
        let is_much_less = wanted < self.current - self.current / 4;
        if is_much_more || is_much_less || wanted == self.first || self.current > most {
            self.current = wanted;
        }
    }
}

/// The receive window of a stream: twice what the application reads in a round trip, because a
/// queue on the path may hold as much as the path itself.
#[derive(Debug)]
pub(super) struct ReceiveGrowth {
    window: Growing,
    /// When it was last looked at, and what had been read by then.
    last: Option<(Instant, u64)>,
}

impl ReceiveGrowth {
    pub(super) fn new(first: u64, largest: u64) -> Self {
        Self {
            window: Growing::new(first, largest),
            last: None,
        }
    }

    pub(super) fn current(&self) -> u64 {
        self.window.current
    }

    /// `read` bytes were read by now in all, and the window may be `most` bytes. Returns whether a
    /// round trip has passed since it was last looked at, so that it may have changed.
    pub(super) fn look(&mut self, now: Instant, rtt: Duration, read: u64, most: u64) -> bool {
        if self.window.largest <= self.window.first {
            return false;
        }
        let rtt = rtt.min(LONGEST_ROUND_TRIP);
        let (since, before) = *self.last.get_or_insert((now, read));
        let elapsed = now.saturating_duration_since(since);
        if elapsed <= rtt {
            return false;
        }
        self.last = Some((now, read));
        let in_round = (read - before) as f64 * rtt.as_secs_f64() / elapsed.as_secs_f64();
        let step = self.window.largest / UPDATES;
        self.window.follow(2 * in_round as u64 + step, most);
        true
    }
}

/// The send window: twice the congestion window, so that as much can be written as is in flight.
#[derive(Debug)]
pub(super) struct SendGrowth(Growing);

impl SendGrowth {
    pub(super) fn new(first: u64, largest: u64) -> Self {
        Self(Growing::new(first, largest))
    }

    pub(super) fn current(&self) -> u64 {
        self.0.current
    }

    pub(super) fn largest(&self) -> u64 {
        self.0.largest
    }

    pub(super) fn look(&mut self, congestion_window: u64, may_grow: bool) {
        let most = if may_grow {
            self.0.largest
        } else {
            self.0.current
        };
        self.0.follow(congestion_window.saturating_mul(2), most);
    }
}

/// A peer that acknowledges late can make round trips as long as it likes; longer ones than of any
/// satellite do not count.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);

/// quinn-proto tells the peer of new credit when it has such a part of a stream's window.
const UPDATES: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);
    const FIRST: u64 = 10_000_000;
    const LARGEST: u64 = 40_000_000;

    /// An application that reads at a steady rate.
    struct Reading {
        growth: ReceiveGrowth,
        now: Instant,
        read: u64,
    }

    impl Reading {
        fn new(first: u64, largest: u64) -> Self {
            Self {
                growth: ReceiveGrowth::new(first, largest),
                now: crate::net::clock::now(),
                read: 0,
            }
        }

        fn after(&mut self, rounds: u32, bytes: u64) -> u64 {
            self.after_bounded(rounds, bytes, u64::MAX)
        }

        fn after_bounded(&mut self, rounds: u32, bytes: u64, most: u64) -> u64 {
            for _ in 0..10 * rounds {
                self.now += RTT / 10;
                self.read += bytes / 10;
                self.growth.look(self.now, RTT, self.read, most);
            }
            self.growth.current()
        }
    }

    #[test]
    fn receive_window_follows_what_is_read_in_a_round_trip() {
        let mut reading = Reading::new(FIRST, LARGEST);
        assert_eq!(reading.after(10, 1_000_000), FIRST);
        let grown = reading.after(10, 9_000_000);
        assert!((18_000_000..30_000_000).contains(&grown), "{grown}");
        assert_eq!(reading.after(10, 40_000_000), LARGEST);
        assert_eq!(reading.after(10, 1_000_000), FIRST);
    }

    #[test]
    fn receive_window_is_what_it_was_after_a_pause() {
        let mut reading = Reading::new(FIRST, LARGEST);
        assert_eq!(reading.after(10, 40_000_000), LARGEST);
        reading.now += 100 * RTT;
        assert_eq!(reading.after(1, 0), FIRST);
    }

    #[test]
    fn receive_window_keeps_to_its_bound() {
        let mut reading = Reading::new(FIRST, LARGEST);
        assert_eq!(
            reading.after_bounded(10, 40_000_000, 20_000_000),
            20_000_000
        );
        assert_eq!(reading.after(10, 40_000_000), LARGEST);
        // Even if the bound falls by little.
        for bound in [20_000_000, 16_000_000] {
            assert_eq!(reading.after_bounded(10, 40_000_000, bound), bound);
        }
        assert_eq!(reading.after_bounded(10, 40_000_000, 0), FIRST);
    }

    #[test]
    fn round_trip_that_is_too_long_counts_as_the_longest() {
        let mut growth = ReceiveGrowth::new(FIRST, LARGEST);
        let (mut now, mut read) = (crate::net::clock::now(), 0);
        for _ in 0..1000 {
            now += RTT;
            read += 200_000;
            growth.look(now, 100 * LONGEST_ROUND_TRIP, read, u64::MAX);
        }
        assert_eq!(growth.current(), FIRST);
    }

    #[test]
    fn windows_that_were_set_do_not_grow() {
        assert_eq!(Reading::new(FIRST, FIRST).after(10, 40_000_000), FIRST);
        let mut growth = SendGrowth::new(FIRST, FIRST);
        growth.look(LARGEST, true);
        assert_eq!(growth.current(), FIRST);
    }

    #[test]
    fn send_window_may_be_as_large_as_it_likes() {
        let mut growth = SendGrowth::new(u64::MAX, u64::MAX);
        growth.look(LARGEST, true);
        assert_eq!(growth.current(), u64::MAX);
    }

    #[test]
    fn send_window_is_twice_the_congestion_window() {
        let mut growth = SendGrowth::new(FIRST, LARGEST);
        let mut look = |congestion_window, may_grow| {
            growth.look(congestion_window, may_grow);
            growth.current()
        };
        assert_eq!(look(FIRST / 2, true), FIRST);
        assert_eq!(look(FIRST, true), 2 * FIRST);
        assert_eq!(look(10 * FIRST, false), 2 * FIRST);
        assert_eq!(look(10 * FIRST, true), LARGEST);
        assert_eq!(look(FIRST, false), 2 * FIRST);
        assert_eq!(look(0, true), FIRST);
    }
}
