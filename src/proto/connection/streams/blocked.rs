//! How often quinn-proto may have listed a stream that waits for the window of its connection.

use std::mem;

/// quinn-proto 0.11.19 lists the streams that wait for the connection's flow control or for the
/// send window. It forgets none before there is credit, also if the stream is over: a peer that
/// never gives any makes the list longer with each further stream. It goes through the whole list
/// at once when it is polled with credit.
///
/// It lists a stream when a write is refused, or when MAX_STREAM_DATA comes for it.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// Streams of which a write was refused since there was credit; a stream may count twice.
    refused: u64,
    /// Frames that had come when there was credit.
    frames: u64,
    /// Whether there was credit since the frames were counted, so that the list was emptied.
    had_credit: bool,
    /// Whether there may be credit with which quinn-proto was not polled.
    is_unpolled: bool,
}

/// Most entries of 8 bytes in that list, of which one that grows has up to three copies. It takes
/// milliseconds to go through them. Honest peers give credit for a stream because they have read
/// from it.
pub(in crate::proto) const MOST_BLOCKED: u64 = 1 << 17;

impl Blocked {
    /// Notes that quinn-proto has taken this number of bytes. So it had credit, and it was polled
    /// with that unless the credit is newer.
    pub(super) fn note_written(&mut self, bytes: usize) {
        if bytes > 0 && !self.is_unpolled {
            self.note_credit();
        }
    }

    /// Notes that quinn-proto was polled with credit.
    pub(super) fn note_credit(&mut self) {
        self.refused = 0;
        self.had_credit = true;
    }

    /// Notes that a stream waits whose last write was accepted.
    pub(super) fn note_refused(&mut self) {
        self.refused += 1;
    }

    /// Notes that the send window has changed, or what is in it, which may give credit.
    pub(super) fn note_room(&mut self) {
        self.is_unpolled = true;
    }

    /// Notes that quinn-proto was polled until nothing was left.
    pub(super) fn note_polled(&mut self) {
        self.is_unpolled = false;
    }

    /// Whether the list may be too long. `frames` is how many frames MAX_STREAM_DATA have come.
    pub(super) fn is_too_long(&mut self, frames: u64) -> bool {
        if mem::take(&mut self.had_credit) {
            self.frames = frames;
        }
        frames - self.frames + self.refused > MOST_BLOCKED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_refused_writes_count_together_until_a_write_is_accepted() {
        let mut blocked = Blocked::default();
        blocked.note_refused();
        blocked.note_written(0);
        assert!(!blocked.is_too_long(MOST_BLOCKED - 1));
        assert!(blocked.is_too_long(MOST_BLOCKED));
        blocked.note_written(1);
        assert!(!blocked.is_too_long(MOST_BLOCKED));
        assert!(!blocked.is_too_long(2 * MOST_BLOCKED));
        assert!(blocked.is_too_long(2 * MOST_BLOCKED + 1));
    }

    #[test]
    fn write_says_nothing_before_quinn_proto_is_polled_with_new_room() {
        let mut blocked = Blocked::default();
        blocked.note_room();
        blocked.note_written(1);
        assert!(blocked.is_too_long(MOST_BLOCKED + 1));
        blocked.note_polled();
        blocked.note_written(1);
        assert!(!blocked.is_too_long(MOST_BLOCKED + 1));
    }
}
