//! What the last while has seen at most, or at least.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The largest value of two cycles of probing: this one, and the one before (MaxBwFilterLen).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CycleMax {
    current: f64,
    previous: f64,
}

impl CycleMax {
    pub(super) fn get(&self) -> f64 {
        self.current.max(self.previous)
    }

    pub(super) fn update(&mut self, value: f64) {
        self.current = self.current.max(value);
    }

    /// Begins another cycle, unless this one has told nothing yet.
    pub(super) fn advance(&mut self) {
        if self.current > 0.0 {
            self.previous = self.current;
            self.current = 0.0;
        }
    }
}

/// The largest value of the last rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundMax {
    /// By round, each with a smaller value than the one before.
    values: VecDeque<(u64, f64)>,
}

impl RoundMax {
    pub(super) fn get(&self) -> f64 {
        self.values.front().map_or(0.0, |&(_, value)| value)
    }

    /// Forgets what is `rounds` rounds ago.
    pub(super) fn update(&mut self, round: u64, value: f64, rounds: u64) {
        while self.values.back().is_some_and(|&(_, last)| last <= value) {
            self.values.pop_back();
        }
        match self.values.back() {
            Some(&(last, _)) if last == round => {}
            _ => self.values.push_back((round, value)),
        }
        while self
            .values
            .front()
            .is_some_and(|&(first, _)| first + rounds <= round)
        {
            self.values.pop_front();
        }
    }
}

/// The least round trip of ten seconds, and that of five, which tells when to measure it again.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeastRtt {
    least: Option<Duration>,
    stamp: Instant,
    /// probe_rtt_min_delay.
    recent: Option<Duration>,
    recent_stamp: Instant,
    is_expired: bool,
}

impl LeastRtt {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            least: None,
            stamp: now,
            recent: None,
            recent_stamp: now,
            is_expired: false,
        }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        self.least
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.least.is_none()
    }

    /// Whether nothing as short was seen for [`PROBE_INTERVAL`] before the last update.
    pub(super) fn is_expired(&self) -> bool {
        self.is_expired
    }

    /// UpdateMinRTT.
    pub(super) fn update(&mut self, now: Instant, rtt: Duration) {
        self.is_expired = now > self.recent_stamp + PROBE_INTERVAL;
        if self.is_expired || self.recent.is_none_or(|recent| rtt < recent) {
            self.recent = Some(rtt);
            self.recent_stamp = now;
        }
        let is_old = now > self.stamp + FILTER_TIME;
        let is_less = self.recent < self.least || self.least.is_none();
        if is_less || is_old {
            self.least = self.recent;
            self.stamp = self.recent_stamp;
        }
    }

    /// Notes that it was probed for.
    pub(super) fn note_probed(&mut self, now: Instant) {
        self.recent_stamp = now;
    }
}

/// ProbeRTTInterval.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// MinRTTFilterLen.
const FILTER_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_of_two_cycles_is_remembered() {
        let mut max = CycleMax::default();
        max.update(3.0);
        max.update(2.0);
        assert_eq!(max.get(), 3.0);
        max.advance();
        assert_eq!(max.get(), 3.0);
        max.advance();
        assert_eq!(max.get(), 3.0, "nothing was seen in this cycle");
        max.update(1.0);
        assert_eq!(max.get(), 3.0);
        max.advance();
        assert_eq!(max.get(), 1.0);
    }

    #[test]
    fn largest_value_of_some_rounds_is_remembered() {
        let mut max = RoundMax::default();
        max.update(1, 5.0, 10);
        for round in 2..=10 {
            max.update(round, 10.0 / round as f64, 10);
            assert_eq!(max.get(), 5.0);
        }
        max.update(11, 0.5, 10);
        assert_eq!(max.get(), 5.0, "the second round had it too");
        max.update(12, 0.5, 10);
        assert_eq!(max.get(), 10.0 / 3.0);
        max.update(12, 7.0, 10);
        assert_eq!((max.get(), max.values.len()), (7.0, 1));
        max.update(13, 1.0, 1);
        assert_eq!(max.get(), 1.0);
    }

    #[test]
    fn round_trip_is_measured_again_after_five_seconds_and_forgotten_after_ten() {
        let began = crate::net::clock::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let ms = Duration::from_millis;
        let mut least = LeastRtt::new(began);
        least.update(at(1), ms(20));
        for second in 2..=6 {
            least.update(at(second), ms(30));
            assert!(!least.is_expired());
        }
        least.update(at(7), ms(30));
        assert!(least.is_expired());
        least.update(at(8), ms(31));
        assert!(!least.is_expired());
        assert_eq!(least.get(), Some(ms(20)));
        least.update(at(12), ms(31));
        assert_eq!(least.get(), Some(ms(30)));
        least.update(at(12), ms(10));
        assert_eq!(least.get(), Some(ms(10)));
    }
}
