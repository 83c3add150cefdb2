//! Whether the final size of a stream (RFC 9000 §4.5) is less than what the peer has sent of it.
//!
//! quinn-proto 0.11.19 compares a final size with what has arrived only in a RESET_STREAM frame,
//! and only if it knows no final size yet. It accepts a STREAM frame with FIN that ends too early.
//! A RESET_STREAM frame with the same size then makes its count of received data wrap around, and
//! the connection has no flow control any more.

use std::{
    collections::hash_map::Entry,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustc_hash::FxHashMap;

use super::frames::Extent;
use crate::{spare, sync::lock_unmodelled};

/// Memory of a stream: its number, up to where it has data, and a byte of the table, of which an
/// eighth is always free.
const STREAM_BYTES: u64 = (size_of::<(u64, u64)>() as u64 + 1) * 8 / 7 + 1;

/// Up to where the peer has sent data on the streams that are open. The lock of the connection is
/// held whenever this is used.
#[derive(Debug, Default)]
pub(crate) struct FinalSizes {
    /// One more than the stream of the last frame; 0 if there is none. Further frames of it need no
    /// search: a bulk transfer has one stream, and most of its packets have one frame.
    last: AtomicU64,
    /// Up to where that stream has data.
    last_end: AtomicU64,
    streams: Mutex<Ends>,
    has_new: AtomicBool,
    is_violated: AtomicBool,
}

#[derive(Debug, Default)]
struct Ends {
    /// Up to where each stream has data. It may be more for the last one.
    ends: FxHashMap<u64, u64>,
    /// Streams that were added and may not be open.
    new: Vec<u64>,
}

impl FinalSizes {
    /// Notes a frame that quinn-proto is about to process. `false` if its stream would end before
    /// data that has come, and for all frames after such a one: quinn-proto must not get them.
    pub(super) fn allows(&self, extent: Extent) -> bool {
        let Extent {
            stream,
            end,
            is_final,
            ..
        } = extent;
        if self.is_violated() {
            return false;
        }
        let is_last = self.is_last(stream);
        let last_end = self.last_end.load(Ordering::Relaxed);
        if is_last && !is_final {
            self.last_end.store(last_end.max(end), Ordering::Relaxed);
            return true;
        }
        let mut streams = lock_unmodelled(&self.streams);
        if is_final {
            let before = if is_last {
                Some(last_end)
            } else {
                streams.ends.get(&stream).copied()
            };
            if before.is_some_and(|before| end < before) {
                self.is_violated.store(true, Ordering::Relaxed);
                return false;
            }
            // quinn-proto compares what comes from now on with this size.
            self.remove(&mut streams, stream);
            return true;
        }
        self.put_back(&mut streams);
        let before = match streams.ends.entry(stream) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                entry.insert(end);
                streams.new.push(stream);
                self.has_new.store(true, Ordering::Relaxed);
                end
            }
        };
        self.last.store(stream + 1, Ordering::Relaxed);
        self.last_end.store(before.max(end), Ordering::Relaxed);
        true
    }

    /// Whether the peer has ended a stream before data that it had sent.
    pub(super) fn is_violated(&self) -> bool {
        self.is_violated.load(Ordering::Relaxed)
    }

    /// Nobody reads this stream any more, or its final size is known: quinn-proto has noted the
    /// size, or drops the stream as soon as it is told.
    pub(crate) fn leave(&self, stream: u64) {
        self.remove(&mut lock_unmodelled(&self.streams), stream);
    }

    /// Forgets the streams that have come since the last call and are not open. What the peer has
    /// sent of a stream may arrive long after it is over.
    pub(crate) fn keep_open(&self, mut is_open: impl FnMut(u64) -> bool) {
        if !self.has_new.load(Ordering::Relaxed) {
            return;
        }
        self.has_new.store(false, Ordering::Relaxed);
        let mut streams = lock_unmodelled(&self.streams);
        for stream in mem::take(&mut streams.new) {
            if !is_open(stream) {
                self.remove(&mut streams, stream);
            }
        }
    }

    /// The memory of these, but for places that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        let capacity = lock_unmodelled(&self.streams).ends.capacity();
        spare::beyond_kept(capacity) * STREAM_BYTES
    }

    #[cfg(test)]
    pub(crate) fn streams(&self) -> usize {
        lock_unmodelled(&self.streams).ends.len()
    }

    fn is_last(&self, stream: u64) -> bool {
        self.last.load(Ordering::Relaxed) == stream + 1
    }

    fn remove(&self, streams: &mut Ends, stream: u64) {
        if self.is_last(stream) {
            self.last.store(0, Ordering::Relaxed);
        }
        streams.ends.remove(&stream);
        if let Some(room) = spare::room_for(streams.ends.len(), streams.ends.capacity()) {
            streams.ends.shrink_to(room);
        }
    }

    fn put_back(&self, streams: &mut Ends) {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1);
        if let Some(end) = last.and_then(|last| streams.ends.get_mut(&last)) {
            *end = self.last_end.load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(stream: u64, end: u64) -> Extent {
        Extent {
            stream,
            len: 1,
            end,
            is_final: false,
            is_reset: false,
        }
    }

    fn fin(stream: u64, end: u64) -> Extent {
        Extent {
            is_final: true,
            ..data(stream, end)
        }
    }

    fn allow(extents: &[Extent]) -> bool {
        let sizes = FinalSizes::default();
        extents.iter().all(|&extent| sizes.allows(extent))
    }

    #[test]
    fn stream_does_not_end_before_its_data() {
        for others in [&[][..], &[data(4, 7)], &[data(4, 7), fin(4, 7), data(8, 1)]] {
            for before in [&[data(0, 1000)][..], &[data(0, 1000), data(0, 10)]] {
                let ends = |end| [before, others, &[fin(0, end)]].concat();
                assert!(!allow(&ends(999)));
                assert!(allow(&ends(1000)));
                assert!(allow(&ends(1001)));
                // Once more, and what it has sent before.
                let again = [&ends(1000)[..], &[fin(0, 1000), data(0, 9), fin(0, 1000)]].concat();
                assert!(allow(&again));
            }
        }
        assert!(allow(&[fin(0, 0), data(4, 3), fin(4, 3)]));
    }

    #[test]
    fn nothing_passes_after_a_violation() {
        let sizes = FinalSizes::default();
        assert!(sizes.allows(data(0, 1000)) && sizes.allows(data(4, 5)));
        assert!(!sizes.is_violated());
        assert!(!sizes.allows(fin(0, 10)));
        assert!(sizes.is_violated());
        assert!(!sizes.allows(data(4, 6)));
    }

    #[test]
    fn only_open_streams_are_kept() {
        let sizes = FinalSizes::default();
        for stream in 0..10_000 {
            assert!(sizes.allows(data(stream, 9)));
        }
        sizes.keep_open(|stream| stream < 9000);
        assert_eq!(sizes.streams(), 9000);
        for stream in 0..8000 {
            sizes.leave(stream);
        }
        for stream in 8000..9000 {
            assert!(sizes.allows(fin(stream, 9)));
        }
        assert_eq!(sizes.streams(), 0);
        assert!(lock_unmodelled(&sizes.streams).ends.capacity() < 500);
        // A late one.
        assert!(sizes.allows(data(5, 9)));
        sizes.keep_open(|_| false);
        assert_eq!(sizes.streams(), 0);
        assert!(sizes.allows(fin(5, 3)));
    }

    proptest! {
        #[test]
        fn violation_is_found_whatever_comes_between(
            frames in prop::collection::vec((0..4_u64, 0..8_u64, any::<bool>()), 0..40),
        ) {
            let sizes = FinalSizes::default();
            let mut ends = FxHashMap::default();
            for (stream, end, is_final) in frames {
                let extent = Extent { is_final, ..data(stream, end) };
                let before = ends.get(&stream).copied().unwrap_or(0);
                let is_allowed = !is_final || end >= before;
                prop_assert_eq!(sizes.allows(extent), is_allowed);
                if !is_allowed {
                    return Ok(());
                }
                if is_final {
                    ends.remove(&stream);
                } else {
                    ends.insert(stream, end.max(before));
                }
            }
        }
    }
}
