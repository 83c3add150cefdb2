//! Streams that we have stopped (RFC 9000 §3.5). quinn-proto has them until the peer has told their
//! final size, and does not tell when that is.

use rustc_hash::FxHashMap;

use super::StreamId;

/// Memory of a range in quinn-proto's list of what has arrived, of a stream that is read in any
/// order.
pub(super) const RANGE_BYTES: u64 = 45;

/// Those of which quinn-proto still has something that counts.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    streams: FxHashMap<StreamId, Kept>,
    own: u32,
    gaps: u32,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Whether we have opened it.
    is_own: bool,
    /// Gaps in what has arrived of it.
    gaps: u32,
}

impl Stopped {
    /// Notes a stream whose final size is not known. A stream of the peer without gaps does not
    /// count: the peer may have no other one in its place.
    pub(super) fn note(&mut self, id: StreamId, is_own: bool, gaps: u32) {
        if !is_own && gaps == 0 {
            return;
        }
        self.end(id);
        self.streams.insert(id, Kept { is_own, gaps });
        self.own += u32::from(is_own);
        self.gaps += gaps;
    }

    /// Notes that the peer has told the final size of a stream.
    pub(super) fn end(&mut self, id: StreamId) {
        if let Some(Kept { is_own, gaps }) = self.streams.remove(&id) {
            self.own -= u32::from(is_own);
            self.gaps -= gaps;
        }
    }

    /// How many of them we have opened.
    pub(super) fn own(&self) -> u32 {
        self.own
    }

    /// Gaps of all of them.
    pub(super) fn gaps(&self) -> u32 {
        self.gaps
    }

    /// The memory of these.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.gaps) * RANGE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::*;

    fn id(index: u64) -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, index)
    }

    #[test]
    fn streams_count_until_their_final_size_is_told() {
        let mut stopped = Stopped::default();
        stopped.note(id(0), true, 0);
        stopped.note(id(1), true, 5);
        stopped.note(id(2), false, 7);
        assert_eq!((stopped.own(), stopped.gaps()), (2, 12));
        stopped.end(id(3));
        stopped.end(id(1));
        stopped.end(id(1));
        assert_eq!((stopped.own(), stopped.gaps()), (1, 7));
        stopped.end(id(0));
        stopped.end(id(2));
        assert_eq!((stopped.own(), stopped.gaps()), (0, 0));
    }

    #[test]
    fn streams_of_the_peer_without_gaps_take_no_memory() {
        let mut stopped = Stopped::default();
        stopped.note(id(0), false, 0);
        assert!(stopped.streams.is_empty());
    }
}
