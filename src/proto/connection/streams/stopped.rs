//! Streams that we have stopped (RFC 9000 §3.5). quinn-proto has them until the peer has told their
//! final size, and does not tell when that is.

use rustc_hash::FxHashMap;

use super::StreamId;
use crate::spare;

/// Memory of a range in quinn-proto's list of what has arrived, of a stream that is read in any
/// order.
pub(super) const RANGE_BYTES: u64 = 45;

/// Memory of a place for a stream: its ID, what was kept of it, and a byte of the table.
const STREAM_BYTES: u64 = (size_of::<(StreamId, Kept)>() + 1) as u64;

/// Those of which quinn-proto still has something that counts.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    streams: FxHashMap<StreamId, Kept>,
    own: u32,
    gaps: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Whether we have opened it.
    pub(super) is_own: bool,
    /// Gaps in what has arrived of it.
    pub(super) gaps: u32,
    /// Bytes that were taken out of quinn-proto.
    pub(super) taken: u64,
}

impl Stopped {
    /// Notes a stream whose final size is not known.
    pub(super) fn note(&mut self, id: StreamId, kept: Kept) {
        self.end(id);
        self.streams.insert(id, kept);
        self.own += u32::from(kept.is_own);
        self.gaps += kept.gaps;
    }

    /// Notes that the peer has told the final size of a stream, and returns what was noted of it.
    pub(super) fn end(&mut self, id: StreamId) -> Option<Kept> {
        let kept = self.streams.remove(&id)?;
        self.own -= u32::from(kept.is_own);
        self.gaps -= kept.gaps;
        if let Some(room) = spare::room_for(self.streams.len(), self.streams.capacity()) {
            self.streams.shrink_to(room);
        }
        Some(kept)
    }

    /// How many of them we have opened. One of the peer does not count as another stream: the peer
    /// may have no other one in its place.
    pub(super) fn own(&self) -> u32 {
        self.own
    }

    /// Gaps of all of them.
    pub(super) fn gaps(&self) -> u32 {
        self.gaps
    }

    /// The memory of these, and of the streams themselves here, but for places that are kept.
    pub(super) fn bytes(&self) -> u64 {
        let places = spare::beyond_kept(self.streams.capacity());
        u64::from(self.gaps) * RANGE_BYTES + places * STREAM_BYTES
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::*;

    fn id(index: u64) -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, index)
    }

    fn kept(is_own: bool, gaps: u32) -> Kept {
        Kept {
            is_own,
            gaps,
            taken: 0,
        }
    }

    #[test]
    fn streams_count_until_their_final_size_is_told() {
        let mut stopped = Stopped::default();
        stopped.note(id(0), kept(true, 0));
        stopped.note(id(1), kept(true, 5));
        stopped.note(id(2), kept(false, 7));
        assert_eq!((stopped.own(), stopped.gaps()), (2, 12));
        assert!(stopped.end(id(3)).is_none());
        assert!(stopped.end(id(1)).is_some());
        assert!(stopped.end(id(1)).is_none());
        assert_eq!((stopped.own(), stopped.gaps()), (1, 7));
        stopped.end(id(0));
        stopped.end(id(2));
        assert_eq!((stopped.own(), stopped.gaps()), (0, 0));
    }

    #[test]
    fn streams_of_the_peer_take_memory_until_their_final_size_is_told() {
        const STREAMS: u64 = 65_536;
        let mut stopped = Stopped::default();
        for index in 0..STREAMS {
            stopped.note(id(index), kept(false, 0));
        }
        assert_eq!((stopped.own(), stopped.gaps()), (0, 0));
        assert!(stopped.bytes() >= STREAMS * 25, "{}", stopped.bytes());
        for index in 0..STREAMS {
            stopped.end(id(index));
        }
        assert!(stopped.bytes() < 500 * 25, "{}", stopped.bytes());
    }
}
