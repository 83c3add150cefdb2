//! How much a connection may have written that is not acknowledged.

/// Written bytes that the peer has not acknowledged, and the limit for them.
///
/// quinn-proto has the limit, and does not tell how near it is.
#[derive(Debug)]
pub(super) struct SendWindow {
    configured: u64,
    current: u64,
    /// Bytes that quinn-proto was given, and of which it is not certain that they are acknowledged.
    written: u64,
}

impl SendWindow {
    pub(super) fn new(configured: u64) -> Self {
        Self {
            configured,
            current: configured,
            written: 0,
        }
    }

    /// quinn-proto was given so many bytes.
    pub(super) fn note_written(&mut self, bytes: usize) {
        self.written += bytes as u64;
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

    /// No more than this shall be unacknowledged. Returns the window that quinn-proto should have, if it
    /// changes.
    pub(super) fn set_limit(&mut self, bytes: u64) -> Option<u64> {
        let window = self.configured.min(bytes);
        (window != self.current).then(|| {
            self.current = window;
            window
        })
    }
}
