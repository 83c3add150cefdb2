//! A line in which connections wait for their part of a rate.

use std::time::{Duration, Instant};

/// Serves a number of bytes per second, first come, first served.
///
/// All bytes for which anybody has ever queued up are numbered. A place is the number of its last
/// byte, and its turn comes when the line has served that one.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    queued: f64,
    /// May be ahead of `queued`, but only by what passes in [`BURST`].
    served: f64,
    /// When `served` was right; `None` if nobody has queued up yet.
    at: Option<Instant>,
}

/// A place in a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place(f64);

/// Unused rate can be made up for within this time, because timers, readers and writers are late by
/// a millisecond or two.
const BURST: Duration = Duration::from_millis(20);

impl Line {
    /// Queues up for this number of bytes, at the end of the line.
    pub(super) fn queue_up(&mut self, rate: u64, bytes: u64, now: Instant) -> Place {
        self.serve(rate, now);
        self.queued += bytes as f64;
        Place(self.queued)
    }

    /// When it is the turn of this place, at this rate.
    pub(super) fn turn_at(&mut self, rate: u64, place: Place, now: Instant) -> Instant {
        self.serve(rate, now);
        let missing = place.0 - self.served;
        if missing <= 0.0 {
            return now;
        }
        // Rounded up, so that nothing is missing then.
        let wait = Duration::try_from_secs_f64(missing / rate.min(FASTEST) as f64)
            .unwrap_or(Duration::MAX);
        now.checked_add(wait.saturating_add(Duration::from_nanos(1)))
            .unwrap_or(now + LONGEST)
    }

    fn serve(&mut self, rate: u64, now: Instant) {
        let rate = rate.min(FASTEST);
        let at = self.at.get_or_insert(now);
        let time = now.saturating_duration_since(*at);
        *at = now.max(*at);
        let most = self.queued + rate as f64 * BURST.as_secs_f64();
        self.served = (self.served + rate as f64 * time.as_secs_f64()).min(most);
    }
}

/// Bytes per second, beyond which sums of them would lose digits: a terabyte.
pub(super) const FASTEST: u64 = 1_000_000_000_000;

/// Farther than anybody waits.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The time of a turn, rounded to milliseconds.
    fn after(began: Instant, turn: Instant) -> u64 {
        (turn - began).as_nanos().div_ceil(1_000_000) as u64
    }

    #[test]
    fn places_are_served_in_their_order_and_at_the_rate() {
        let began = crate::net::clock::now();
        let mut line = Line::default();
        let places = [5_000, 1_000, 10_000].map(|bytes| line.queue_up(RATE, bytes, began));
        let turns = places.map(|place| after(began, line.turn_at(RATE, place, began)));
        assert_eq!(turns, [6, 7, 17], "rounded up");
        let now = began + millis(7);
        assert_eq!(line.turn_at(RATE, places[1], now), now);
        assert_eq!(after(began, line.turn_at(RATE, places[2], now)), 17);
    }

    #[test]
    fn time_that_nobody_used_is_saved_up_to_the_burst() {
        let began = crate::net::clock::now();
        let mut line = Line::default();
        line.queue_up(RATE, 0, began);
        let now = began + Duration::from_secs(10);
        let first = line.queue_up(RATE, 20_000, now);
        let second = line.queue_up(RATE, 1_000, now);
        assert_eq!(line.turn_at(RATE, first, now), now);
        assert_eq!(after(now, line.turn_at(RATE, second, now)), 2);
    }

    #[test]
    fn new_rate_holds_for_those_who_wait() {
        let began = crate::net::clock::now();
        let mut line = Line::default();
        let place = line.queue_up(RATE, 1_000_000, began);
        let now = began + millis(500);
        assert_eq!(after(began, line.turn_at(RATE, place, now)), 1_001);
        assert_eq!(after(now, line.turn_at(10 * RATE, place, now)), 51);
        assert_eq!(after(now, line.turn_at(RATE / 10, place, now)), 5_001);
    }

    #[test]
    fn line_that_would_take_for_ever_has_a_time() {
        let began = crate::net::clock::now();
        let mut line = Line::default();
        let place = line.queue_up(1_000, u64::MAX, began);
        assert!(line.turn_at(1_000, place, began) > began);
    }
}
