//! How windows grow with what a path holds, and shrink again.

use std::time::{Duration, Instant};

/// A stream's receive window: twice what the application reads in a round trip, because a queue may
/// hold as much as the path.
#[derive(Debug)]
pub(super) struct ReceiveGrowth {
    first: u64,
    largest: u64,
    current: u64,
    /// When it was looked at, and what was read by then.
    last: Option<(Instant, u64)>,
}

impl ReceiveGrowth {
    pub(super) fn new(first: u64, largest: u64) -> Self {
        Self {
            first,
            largest,
            current: first,
            last: None,
        }
    }

    /// So much was read by now; returns the window, if it changes. While much of it is in use, it does
    /// not shrink: what would be too much then could not be left where it is.
    pub(super) fn look(
        &mut self,
        now: Instant,
        rtt: Duration,
        read: u64,
        is_in_use: bool,
    ) -> Option<u64> {
        if self.largest <= self.first {
            return None;
        }
        let (since, before) = *self.last.get_or_insert((now, read));
        let elapsed = now.saturating_duration_since(since);
        if elapsed <= rtt {
            return None;
        }
        self.last = Some((now, read));
        let in_round = (read - before) as f64 * rtt.as_secs_f64() / elapsed.as_secs_f64();
        // quinn-proto tells a peer of new credit when it has so much of it.
        let step = self.largest / UPDATES;
        let wanted = (2 * in_round as u64 + step).clamp(self.first, self.largest);
        if is_in_use && wanted < self.current {
            return None;
        }
        change(&mut self.current, wanted)
    }
}

/// The send window: twice the congestion window, so that as much can be written as is under way.
#[derive(Debug)]
pub(super) struct SendGrowth {
    first: u64,
    largest: u64,
    current: u64,
}

impl SendGrowth {
    pub(super) fn new(first: u64, largest: u64) -> Self {
        Self {
            first,
            largest,
            current: first,
        }
    }

    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) fn look(&mut self, congestion_window: u64) -> Option<u64> {
        let wanted = congestion_window.saturating_mul(2);
        change(&mut self.current, wanted.clamp(self.first, self.largest))
    }
}

/// By an eighth more, or a quarter less; what is less than that changes nothing.
fn change(current: &mut u64, wanted: u64) -> Option<u64> {
    let is_news = wanted > *current + *current / 8 || wanted < *current - *current / 4;
    is_news.then(|| {
        *current = wanted;
        wanted
    })
}

/// In how many parts quinn-proto gives the window of a stream.
const UPDATES: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);
    const FIRST: u64 = 10_000_000;
    const LARGEST: u64 = 40_000_000;

    /// The window after so many round trips in each of which the application has read so much.
    fn after(
        growth: &mut ReceiveGrowth,
        now: &mut Instant,
        read: &mut u64,
        rounds: u32,
        bytes: u64,
    ) -> u64 {
        for _ in 0..10 * rounds {
            *now += RTT / 10;
            *read += bytes / 10;
            growth.look(*now, RTT, *read, false);
        }
        growth.current
    }

    #[test]
    fn receive_window_follows_what_is_read_in_a_round_trip() {
        let mut growth = ReceiveGrowth::new(FIRST, LARGEST);
        let (mut now, mut read) = (crate::net::clock::now(), 0);
        let mut after = |rounds, bytes| after(&mut growth, &mut now, &mut read, rounds, bytes);
        assert_eq!(after(10, 1_000_000), FIRST);
        let grown = after(10, 9_000_000);
        assert!((18_000_000..30_000_000).contains(&grown), "{grown}");
        assert_eq!(after(10, 40_000_000), LARGEST);
        assert_eq!(after(10, 1_000_000), FIRST);
    }

    #[test]
    fn receive_window_is_what_it_was_after_a_pause() {
        let mut growth = ReceiveGrowth::new(FIRST, LARGEST);
        let (mut now, mut read) = (crate::net::clock::now(), 0);
        after(&mut growth, &mut now, &mut read, 10, 40_000_000);
        assert_eq!(growth.look(now + 100 * RTT, RTT, read, true), None);
        assert_eq!(growth.look(now + 200 * RTT, RTT, read, false), Some(FIRST));
    }

    #[test]
    fn windows_that_were_set_do_not_grow() {
        let mut growth = ReceiveGrowth::new(FIRST, FIRST);
        let (mut now, mut read) = (crate::net::clock::now(), 0);
        assert_eq!(
            after(&mut growth, &mut now, &mut read, 10, 40_000_000),
            FIRST
        );
        assert_eq!(SendGrowth::new(FIRST, FIRST).look(LARGEST), None);
    }

    #[test]
    fn send_window_is_twice_the_congestion_window() {
        let mut growth = SendGrowth::new(FIRST, LARGEST);
        assert_eq!(growth.look(FIRST / 2), None);
        assert_eq!(growth.look(FIRST), Some(2 * FIRST));
        assert_eq!(growth.look(10 * FIRST), Some(LARGEST));
        assert_eq!(growth.look(FIRST), Some(2 * FIRST));
        assert_eq!(growth.look(0), Some(FIRST));
    }
}
