//! Whether one STREAM frame has most of a packet. quinn-proto does not copy the data of such a
//! frame to save memory, as long as it keeps all of it and has few pieces.

use std::sync::atomic::{AtomicU64, Ordering};

use super::frames::Extent;

/// The STREAM frame that fills a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) stream: u64,
    /// Where its data begins and ends.
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// That of the last packet. The driver that decrypts writes and reads it.
#[derive(Debug, Default)]
pub(super) struct LastFill {
    /// One more than the stream; 0 if there is none.
    stream: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

impl LastFill {
    pub(super) fn clear(&self) {
        self.stream.store(0, Ordering::Relaxed);
    }

    /// Notes a frame of a payload of this length.
    pub(super) fn note(&self, extent: Extent, payload: usize) {
        // As quinn-proto has it.
        if extent.len * 6 / 5 >= payload as u64 {
            self.stream.store(extent.stream + 1, Ordering::Relaxed);
            self.start.store(extent.end - extent.len, Ordering::Relaxed);
            self.end.store(extent.end, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self) -> Option<Fill> {
        let stream = self.stream.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Fill {
            stream,
            start: self.start.load(Ordering::Relaxed),
            end: self.end.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::frames::extents, *};
    use crate::simulation::frame::{Frame, encode};

    fn fill(frames: &[Frame]) -> Option<Fill> {
        let payload = encode(frames);
        let last = LastFill::default();
        extents(&payload).for_each(|extent| last.note(extent, payload.len()));
        let fill = last.get();
        last.clear();
        assert_eq!(last.get(), None);
        fill
    }

    #[test]
    fn frame_of_five_sixths_of_a_packet_fills_it() {
        let frame = |bytes| Frame::stream(0, 7, &vec![b'x'; bytes]);
        let beside = |bytes| Frame::stream(4, 0, &vec![b'x'; bytes]);
        let expected = Fill {
            stream: 0,
            start: 7,
            end: 1007,
        };
        assert_eq!(fill(&[Frame::Ping, frame(1000)]), Some(expected));
        // Each frame has a head of up to five bytes.
        assert_eq!(fill(&[beside(180), frame(1000)]), Some(expected));
        assert_eq!(fill(&[beside(220), frame(1000)]), None);
        assert_eq!(fill(&[frame(500), beside(500)]), None);
    }
}
