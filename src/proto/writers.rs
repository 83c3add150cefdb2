//! Whether all streams are held back, or some have nothing to write.

use std::mem;

use quinn_proto::StreamId;

/// A stream that quinn-proto takes no more of waits for the network or its peer. One that was not
/// refused anything has written all that it had, once all is sent or another one writes.
#[derive(Debug, Default)]
pub(super) struct Writers {
    /// The stream that has written last, unless it was refused something since.
    unrefused: Option<StreamId>,
    /// Whether another one wrote after it.
    has_left_any: bool,
}

impl Writers {
    /// quinn-proto has taken something of the stream.
    pub(super) fn note_taken(&mut self, id: StreamId) {
        let last = self.unrefused.replace(id);
        self.has_left_any |= last.is_some_and(|last| last != id);
    }

    /// quinn-proto takes no more of the stream.
    pub(super) fn note_refused(&mut self, id: StreamId) {
        self.unrefused.take_if(|last| *last == id);
    }

    /// Nothing is left to send. Returns whether some stream has written all that it had since the
    /// last call.
    pub(super) fn take_done(&mut self) -> bool {
        mem::take(&mut self.has_left_any) | self.unrefused.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::*;

    #[test]
    fn a_stream_is_done_that_was_refused_nothing_when_all_is_sent_or_another_one_writes() {
        let [one, other] = [0, 1].map(|index| StreamId::new(Side::Client, Dir::Bi, index));
        let mut writers = Writers::default();
        assert!(!writers.take_done());
        writers.note_taken(one);
        writers.note_refused(one);
        assert!(!writers.take_done());
        writers.note_taken(one);
        assert!(writers.take_done());
        assert!(!writers.take_done(), "told once");
        for is_refused in [true, false] {
            writers.note_taken(one);
            if is_refused {
                writers.note_refused(one);
            }
            writers.note_taken(other);
            writers.note_taken(other);
            writers.note_refused(other);
            assert_eq!(writers.take_done(), !is_refused);
        }
    }
}
