//! What a controller with a pacing rate shares with its connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

/// quinn-proto 0.11.19 paces by window and round trip, whatever rate a controller may have. So the
/// connection paces: it tells the window what to say while quinn-proto asks.
#[derive(Clone, Debug, Default)]
pub(in crate::proto) struct Paced(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Bytes per second.
    rate: AtomicU64,
    window: AtomicU64,
    in_flight: AtomicU64,
    gate: AtomicU8,
    /// Whether the controller was told of what was sent.
    is_told: AtomicBool,
    is_uncounted: AtomicBool,
    is_dry: AtomicBool,
}

/// What the window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::proto) enum Gate {
    /// What it is. quinn-proto compares it with what is in flight.
    AsIs,
    /// As much as anybody may want, which ends quinn-proto's own pacing. The connection sees to it
    /// that the window suffices.
    Open,
    /// Nothing. Acknowledgements without data, and probes for lost packets, still pass.
    Closed,
}

impl Paced {
    /// Bytes per second.
    pub(in crate::proto) fn rate(&self) -> f64 {
        self.0.rate.load(Ordering::Relaxed) as f64
    }

    /// Bytes that the window has left, or less.
    pub(in crate::proto) fn room(&self) -> u64 {
        let window = self.0.window.load(Ordering::Relaxed);
        window.saturating_sub(self.0.in_flight.load(Ordering::Relaxed))
    }

    pub(in crate::proto) fn set_gate(&self, gate: Gate) {
        self.0.gate.store(gate as u8, Ordering::Relaxed);
    }

    /// Notes what was sent, and whether it counts as in flight.
    pub(in crate::proto) fn note_sent(&self, bytes: u64, is_counted: bool) {
        // quinn-proto tells of most that is sent, and not whether it counts.
        let is_told = self.0.is_told.swap(false, Ordering::Relaxed);
        if is_counted {
            self.0.in_flight.fetch_add(bytes, Ordering::Relaxed);
        } else if is_told {
            self.0.is_uncounted.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that there was nothing to send although it was permitted.
    pub(in crate::proto) fn note_dry(&self) {
        self.0.is_dry.store(true, Ordering::Relaxed);
    }

    pub(super) fn set(&self, rate: f64, window: u64) {
        self.0.rate.store((rate as u64).max(1), Ordering::Relaxed);
        self.0.window.store(window, Ordering::Relaxed);
    }

    pub(super) fn note_told(&self) {
        self.0.is_told.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_in_flight(&self, bytes: u64) {
        self.0.in_flight.store(bytes, Ordering::Relaxed);
    }

    /// What the window says to quinn-proto, instead of `bytes`.
    pub(super) fn window(&self, bytes: u64) -> u64 {
        let gate = self.0.gate.load(Ordering::Relaxed);
        if gate == Gate::Open as u8 {
            u64::MAX
        } else if gate == Gate::Closed as u8 {
            // quinn-proto asserts that it is not 0.
            1
        } else {
            bytes
        }
    }

    /// Whether the last datagrams that were sent do not count.
    pub(super) fn take_uncounted(&self) -> bool {
        self.0.is_uncounted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn take_dry(&self) -> bool {
        self.0.is_dry.load(Ordering::Relaxed) && self.0.is_dry.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_says_what_the_gate_lets_through() {
        let paced = Paced::default();
        for (gate, window) in [
            (Gate::AsIs, 12_000),
            (Gate::Open, u64::MAX),
            (Gate::Closed, 1),
        ] {
            paced.set_gate(gate);
            assert_eq!(paced.window(12_000), window, "{gate:?}");
        }
    }

    #[test]
    fn only_what_counts_takes_room() {
        let paced = Paced::default();
        paced.set(0.0, 10_000);
        assert_eq!(paced.rate(), 1.0);
        paced.set_in_flight(4_000);
        for (is_counted, room) in [(true, 5_000), (false, 5_000), (true, 4_000)] {
            paced.note_sent(1_000, is_counted);
            assert_eq!(paced.room(), room);
        }
    }

    #[test]
    fn controller_hears_once_that_what_it_was_told_of_does_not_count() {
        let paced = Paced::default();
        for (is_told, is_counted, is_heard) in [
            (false, false, false),
            (true, true, false),
            (true, false, true),
            (false, false, false),
        ] {
            if is_told {
                paced.note_told();
            }
            paced.note_sent(1_200, is_counted);
            assert_eq!(paced.take_uncounted(), is_heard);
        }
    }

    #[test]
    fn controller_hears_once_that_there_was_nothing_to_send() {
        let paced = Paced::default();
        assert!(!paced.take_dry());
        paced.note_dry();
        assert_eq!([(); 2].map(|()| paced.take_dry()), [true, false]);
    }
}
