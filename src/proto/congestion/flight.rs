//! How much was in flight at most.

use std::time::Instant;

/// The most bytes that were sent and not acknowledged, in this round trip and the last.
///
/// There are most of them right before an acknowledgement. quinn-proto tells of every packet that
/// is sent, but not whether it counts: packets with nothing but acknowledgements do not.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    peak: u64,
    last_peak: u64,
    round_began: Instant,
}

impl Flight {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            peak: 0,
            last_peak: 0,
            round_began: now,
        }
    }

    /// Notes the bytes in flight.
    pub(super) fn note(&mut self, in_flight: u64) {
        self.peak = self.peak.max(in_flight);
    }

    /// A packet that was sent at `sent` is acknowledged; `in_flight` bytes are left.
    pub(super) fn note_acknowledged(&mut self, now: Instant, sent: Instant, in_flight: u64) {
        if sent >= self.round_began {
            self.round_began = now;
            self.last_peak = self.peak;
            self.peak = in_flight;
        }
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak.max(self.last_peak)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn peak_is_that_of_two_round_trips() {
        let at = |ms| Duration::from_millis(ms);
        let began = crate::net::clock::now();
        let mut flight = Flight::new(began);
        flight.note(1_000);
        flight.note(3_000);
        flight.note(2_000);
        assert_eq!(flight.peak(), 3_000);
        flight.note_acknowledged(began + at(10), began, 500);
        assert_eq!(flight.peak(), 3_000);
        flight.note_acknowledged(began + at(11), began + at(5), 100);
        assert_eq!(
            flight.peak(),
            3_000,
            "sent before the last round trip was over"
        );
        flight.note_acknowledged(began + at(20), began + at(10), 100);
        assert_eq!(flight.peak(), 500);
    }
}
