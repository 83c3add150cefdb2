//! How much a connection may have written that is not acknowledged.

use super::growth::SendGrowth;

/// Written bytes that the peer has not acknowledged, and the limit for them.
///
/// quinn-proto has the limit, and does not tell how near it is.
#[derive(Debug)]
pub(super) struct SendWindow {
    growth: SendGrowth,
    size: u64,
    /// As much of it as there is memory for, beside other connections.
    allowance: u64,
    current: u64,
    /// Bytes that quinn-proto was given, and of which it is not certain that they are acknowledged.
    written: u64,
}

impl SendWindow {
    pub(super) fn new(first: u64, largest: u64) -> Self {
        Self {
            growth: SendGrowth::new(first, largest),
            size: first,
            allowance: u64::MAX,
            current: first,
            written: 0,
        }
    }

    /// quinn-proto was given so many bytes.
    pub(super) fn note_written(&mut self, bytes: usize) {
        self.written += bytes as u64;
        if bytes > 0 {
            // It would have taken less if more than the window was unacknowledged with that. What was
            // acknowledged and not noticed adds up to no more.
            self.written = self.written.min(self.current);
        }
    }

    /// So many bytes were acknowledged.
    pub(super) fn note_acknowledged(&mut self, bytes: u64) {
        self.written = self.written.saturating_sub(bytes);
    }

    /// Nothing is unacknowledged.
    pub(super) fn note_all_acknowledged(&mut self) {
        self.written = 0;
    }

    /// Bytes that quinn-proto holds until they are acknowledged, at most.
    pub(super) fn held_bytes(&self) -> u64 {
        self.written.min(self.growth.largest())
    }

    /// Bytes that may be unacknowledged.
    pub(super) fn limit(&self) -> u64 {
        self.current
    }

    /// No more than this shall be unacknowledged. Returns the window that quinn-proto should have, if it
    /// changes.
    pub(super) fn set_limit(&mut self, bytes: u64) -> Option<u64> {
        self.allowance = bytes;
        self.change()
    }

    /// The congestion window is so large. Returns the window that quinn-proto should have, if it
    /// changes.
    pub(super) fn look(&mut self, congestion_window: u64) -> Option<u64> {
        self.size = self.growth.look(congestion_window)?;
        self.change()
    }

    fn change(&mut self) -> Option<u64> {
        let window = self.size.min(self.allowance);
        (window != self.current).then(|| {
            self.current = window;
            window
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_and_not_noticed_counts_for_a_window_at_most() {
        let mut window = SendWindow::new(10_000, 10_000);
        for _ in 0..1_000 {
            window.note_written(100);
            window.note_acknowledged(90);
        }
        assert_eq!(window.held_bytes(), 9_910);
        // There is less memory now, of which it has no more than is unacknowledged.
        window.set_limit(1_000);
        assert_eq!(window.held_bytes(), 9_910, "it may all be there");
        window.note_written(0);
        assert_eq!(window.held_bytes(), 9_910, "it may all be there");
        window.note_written(1);
        assert_eq!(window.held_bytes(), 1_000);
    }
}
