//! How much a connection may have written that is not acknowledged.

/// Written bytes that the peer has not acknowledged, and the limit for them.
///
/// quinn-proto has the limit, and does not tell how near it is.
#[derive(Debug)]
pub(super) struct SendWindow {
    configured: u64,
    /// As much of it as there is memory for, beside other connections.
    allowance: u64,
    /// As much as the path takes.
    path: u64,
    current: u64,
    /// Bytes that quinn-proto was given, and of which it is not certain that they are acknowledged.
    written: u64,
}

impl SendWindow {
    pub(super) fn new(configured: u64) -> Self {
        Self {
            configured,
            allowance: u64::MAX,
            path: u64::MAX,
            current: configured,
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
        self.written.min(self.configured)
    }

    /// Bytes that may be unacknowledged.
    pub(super) fn limit(&self) -> u64 {
        self.current
    }

    /// There is memory for so much. Returns the window that quinn-proto should have, if it changes.
    pub(super) fn set_allowance(&mut self, bytes: u64) -> Option<u64> {
        self.allowance = bytes;
        self.change()
    }

    /// The path takes so much. Returns the window that quinn-proto should have, if it changes.
    pub(super) fn set_path_limit(&mut self, bytes: Option<u64>) -> Option<u64> {
        self.path = bytes.unwrap_or(u64::MAX);
        self.change()
    }

    fn change(&mut self) -> Option<u64> {
        let window = self.configured.min(self.allowance).min(self.path);
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
        let mut window = SendWindow::new(10_000);
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
        let mut window = SendWindow::new(10_000);
        assert_eq!(window.set_path_limit(Some(5_000)), Some(5_000));
        assert_eq!(window.set_allowance(7_000), None);
        assert_eq!(window.set_allowance(1_000), Some(1_000));
        assert_eq!(window.set_path_limit(None), None);
        assert_eq!(window.set_allowance(20_000), Some(10_000));
    }
}
