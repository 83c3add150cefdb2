//! How many written bytes of a connection may be unacknowledged.

use super::growth::SendGrowth;

/// Written bytes that the peer has not acknowledged, and the limit for them.
///
/// quinn-proto enforces the limit, but does not tell how many bytes count against it.
#[derive(Debug)]
pub(super) struct SendWindow {
    growth: SendGrowth,
    /// How much of it there is memory for, beside other connections.
    allowance: u64,
    /// The limit of the path.
    path: u64,
    current: u64,
    /// Bytes that quinn-proto was given, unless it is certain that they are acknowledged.
    written: u64,
}

impl SendWindow {
    pub(super) fn new(first: u64, largest: u64) -> Self {
        Self {
            growth: SendGrowth::new(first, largest),
            allowance: u64::MAX,
            path: u64::MAX,
            current: first,
            written: 0,
        }
    }

    /// Notes bytes that were given to quinn-proto.
    pub(super) fn note_written(&mut self, bytes: usize) {
        self.written += bytes as u64;
        if bytes > 0 {
            // quinn-proto takes only what the window permits. So what exceeds the window was
            // acknowledged without our notice.
            self.written = self.written.min(self.current);
        }
    }

    /// Notes acknowledged bytes.
    pub(super) fn note_acknowledged(&mut self, bytes: u64) {
        self.written = self.written.saturating_sub(bytes);
    }

    /// Notes that everything is acknowledged.
    pub(super) fn note_all_acknowledged(&mut self) {
        self.written = 0;
    }

    /// The most bytes that quinn-proto may hold until they are acknowledged.
    pub(super) fn held_bytes(&self) -> u64 {
        self.written.min(self.growth.largest())
    }

    /// Bytes that may be unacknowledged.
    pub(super) fn limit(&self) -> u64 {
        self.current
    }

    /// Sets how many bytes there is memory for. Returns the window that quinn-proto should have, if
    /// it changes.
    pub(super) fn set_allowance(&mut self, bytes: u64) -> Option<u64> {
        self.allowance = bytes;
        self.change()
    }

    /// Sets the limit of the path. Returns the window that quinn-proto should have, if it
    /// changes.
    pub(super) fn set_path_limit(&mut self, bytes: Option<u64>) -> Option<u64> {
        self.path = bytes.unwrap_or(u64::MAX);
        self.change()
    }

    /// Lets the window grow with the congestion window, or only shrink. Returns the window that
    /// quinn-proto should have, if it changes.
    pub(super) fn look(&mut self, congestion_window: u64, may_grow: bool) -> Option<u64> {
        self.growth.look(congestion_window, may_grow);
        self.change()
    }

    fn change(&mut self) -> Option<u64> {
        let window = (self.growth.current()).min(self.allowance).min(self.path);
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
        window.set_allowance(1_000);
        assert_eq!(window.held_bytes(), 9_910, "it may all be there");
        window.note_written(0);
        assert_eq!(window.held_bytes(), 9_910, "it may all be there");
        window.note_written(1);
        assert_eq!(window.held_bytes(), 1_000);
    }

    #[test]
    fn window_is_the_least_of_what_memory_and_path_take() {
        let mut window = SendWindow::new(10_000, 10_000);
        assert_eq!(window.set_path_limit(Some(5_000)), Some(5_000));
        assert_eq!(window.set_allowance(7_000), None);
        assert_eq!(window.set_allowance(1_000), Some(1_000));
        assert_eq!(window.set_path_limit(None), None);
        assert_eq!(window.set_allowance(20_000), Some(10_000));
    }

    #[test]
    fn window_to_the_same_host_stays_whatever_the_congestion_window() {
        let mut window = SendWindow::new(10_000, 40_000);
        window.set_path_limit(Some(500));
        for congestion_window in [500, 1_000, 1_000_000] {
            assert_eq!(window.look(congestion_window, true), None);
        }
        assert_eq!(window.limit(), 500);
        assert_eq!(window.set_path_limit(None), Some(40_000));
    }
}
