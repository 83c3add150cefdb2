//! Which streams the STREAM and RESET_STREAM frames of packets end. quinn-proto does not report it
//! if we have stopped the stream.

use std::{
    mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::frames::Extent;
use crate::sync::lock_unmodelled;

/// A stream that the peer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedStream {
    pub(crate) stream: u64,
    /// RFC 9000 §4.5.
    pub(crate) final_size: u64,
    /// Whether that was told in a RESET_STREAM frame.
    pub(crate) is_reset: bool,
}

/// The streams whose final size was told since they were last taken.
#[derive(Debug, Default)]
pub(super) struct EndedStreams {
    are_there: AtomicBool,
    streams: Mutex<Vec<EndedStream>>,
}

impl EndedStreams {
    pub(super) fn note(&self, extent: Extent) {
        if extent.is_final {
            lock_unmodelled(&self.streams).push(EndedStream {
                stream: extent.stream,
                final_size: extent.end,
                is_reset: extent.is_reset,
            });
            self.are_there.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn take(&self) -> Vec<EndedStream> {
        // Only the driver decrypts and takes, so that nothing comes between the two.
        if !self.are_there.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.are_there.store(false, Ordering::Relaxed);
        mem::take(&mut lock_unmodelled(&self.streams))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::frames::extents, *};
    use crate::simulation::frame::{Frame, Number, encode};

    #[test]
    fn ends_are_told_once() {
        let last = |stream| Frame::Stream {
            stream: Number(stream),
            offset: Number(0),
            data: vec![7],
            fin: true,
        };
        let reset = Frame::ResetStream {
            stream: Number(12),
            code: Number(0),
            final_size: Number(9),
        };
        let other = Frame::stream(8, 0, b"x");
        let payload = encode(&[last(4), other, Frame::Ping, reset, last(16)]);
        let ended = EndedStreams::default();
        assert!(ended.take().is_empty());
        extents(&payload).for_each(|extent| ended.note(extent));
        let expected = [(4, 1, false), (12, 9, true), (16, 1, false)];
        let expected = expected.map(|(stream, final_size, is_reset)| EndedStream {
            stream,
            final_size,
            is_reset,
        });
        assert_eq!(ended.take(), expected);
        assert!(ended.take().is_empty());
    }
}
