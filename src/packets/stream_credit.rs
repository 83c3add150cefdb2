//! The credit of streams (RFC 9000 §4.1): how much less the peer is told of than quinn-proto gives,
//! and whether the peer keeps to what it was told.
//!
//! quinn-proto 0.11.19 gives all streams of a connection the same window, which never changes. It
//! is configured with the largest one that a stream may ever have. The limits that we send, in
//! transport parameters and MAX_STREAM_DATA frames, are lowered to the window of the moment.
//! quinn-proto does not know these lower limits, so what arrives is compared with them here.

use std::{
    mem,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rustc_hash::FxHashMap;

use super::frames::{Extent, Passed, Rest, begins_with_stream, frame_at};
use crate::sync::lock_unmodelled;

/// The receive windows that streams may have, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamWindows {
    /// The window with which each stream begins.
    pub(crate) first: u64,
    /// What quinn-proto takes for the window of each stream.
    pub(crate) largest: u64,
}

impl StreamWindows {
    pub(crate) fn may_grow(self) -> bool {
        self.first < self.largest
    }
}

/// What the peer of one connection was told about its streams.
#[derive(Debug)]
pub(crate) struct StreamCredit {
    windows: StreamWindows,
    /// What new limits are made of.
    window: AtomicU64,
    /// The limits of the open streams that got more than they began with. The lock of the
    /// connection is held whenever they are used.
    limits: Mutex<FxHashMap<u64, u64>>,
    /// The streams of frames that exceed what the peer was told, since the last call of
    /// [`take_exceeded`](Self::take_exceeded).
    exceeded: Mutex<Vec<u64>>,
}

impl StreamCredit {
    pub(crate) fn new(windows: StreamWindows) -> Self {
        Self {
            windows,
            window: AtomicU64::new(windows.first),
            limits: Mutex::default(),
            exceeded: Mutex::default(),
        }
    }

    /// Sets the window from which new limits are made. A peer keeps the limits that it has (RFC
    /// 9000 §4.1).
    pub(crate) fn set_window(&self, bytes: u64) {
        self.window.store(bytes, Ordering::Relaxed);
    }

    /// Nobody reads this stream any more: it was read to its end, was reset, or is to be stopped.
    pub(crate) fn leave(&self, stream: u64) {
        lock_unmodelled(&self.limits).remove(&stream);
    }

    /// Up to where the peer may send on this stream, which is open.
    pub(crate) fn limit(&self, stream: u64) -> u64 {
        let limits = lock_unmodelled(&self.limits);
        limits.get(&stream).copied().unwrap_or(self.windows.first)
    }

    /// The streams on which the peer has sent more since the last call than it was told it may.
    ///
    /// Only for open streams this is a violation. The limits of others are forgotten, and what the
    /// peer has sent of them may still arrive: packets overtake each other, and quinn-proto drops
    /// those that are very late, so that the peer sends it all again.
    pub(crate) fn take_exceeded(&self) -> Vec<u64> {
        mem::take(&mut lock_unmodelled(&self.exceeded))
    }

    #[cfg(test)]
    pub(crate) fn streams(&self) -> usize {
        lock_unmodelled(&self.limits).len()
    }

    /// Lowers the limits that streams begin with (RFC 9000 §18.2).
    pub(crate) fn lower_parameters(windows: StreamWindows, parameters: &mut [u8]) {
        let mut start = 0;
        while start < parameters.len() {
            let mut rest = Rest(&parameters[start..]);
            let (Some(id), Some(len)) = (rest.number(), rest.number()) else {
                return;
            };
            let value = parameters.len() - rest.0.len();
            let Some(()) = usize::try_from(len).ok().and_then(|len| rest.bytes(len)) else {
                return;
            };
            let end = parameters.len() - rest.0.len();
            if matches!(
                id,
                INITIAL_MAX_STREAM_DATA_BIDI_LOCAL
                    | INITIAL_MAX_STREAM_DATA_BIDI_REMOTE
                    | INITIAL_MAX_STREAM_DATA_UNI
            ) {
                overwrite_number(&mut parameters[value..end], windows.first);
            }
            start = end;
        }
    }

    /// Lowers the limits in the MAX_STREAM_DATA frames (RFC 9000 §19.10) of a packet that is about
    /// to be encrypted, and notes them. quinn-proto writes them before the first STREAM frame.
    pub(crate) fn lower(&self, payload: &mut [u8]) {
        if begins_with_stream(payload) {
            return;
        }
        let mut start = 0;
        while let Some((frame, end)) = frame_at(payload, start) {
            match frame {
                Passed::StreamLimit {
                    stream,
                    limit,
                    limit_len,
                } => {
                    let lowered = self.tell(stream, limit);
                    overwrite_number(&mut payload[end - limit_len..end], lowered);
                }
                Passed::Stream(_) => return,
                _ => {}
            }
            start = end;
        }
    }

    /// Notes and returns the limit that the peer is told in place of quinn-proto's.
    fn tell(&self, stream: u64, limit: u64) -> u64 {
        let withheld = self.windows.largest - self.window.load(Ordering::Relaxed);
        let told = limit.saturating_sub(withheld);
        if told > self.windows.first {
            let mut limits = lock_unmodelled(&self.limits);
            let limit = limits.entry(stream).or_default();
            *limit = told.max(*limit);
        }
        told
    }

    /// Checks a frame from the peer, and notes it if it exceeds what the peer was told.
    pub(super) fn check(&self, extent: Extent) {
        if !self.allows(extent) {
            lock_unmodelled(&self.exceeded).push(extent.stream);
        }
    }

    fn allows(&self, extent: Extent) -> bool {
        let Extent {
            stream,
            end,
            is_final,
            ..
        } = extent;
        if end <= self.windows.first && !is_final {
            return true;
        }
        let mut limits = lock_unmodelled(&self.limits);
        let Some(limit) = limits.get_mut(&stream) else {
            return end <= self.windows.first;
        };
        if end > *limit {
            return false;
        }
        if is_final {
            // There is no more to come.
            *limit = end;
        }
        true
    }
}

/// Overwrites a variable-length integer by a smaller one of the same length (RFC 9000 §16).
fn overwrite_number(bytes: &mut [u8], number: u64) {
    let number = number.to_be_bytes();
    let Some(start) = number.len().checked_sub(bytes.len()) else {
        return;
    };
    let Some(&first) = bytes.first() else {
        return;
    };
    bytes.copy_from_slice(&number[start..]);
    bytes[0] |= first & LENGTH_MASK;
}

/// The bits of a variable-length integer that encode its length.
const LENGTH_MASK: u8 = 0xc0;

/// Transport parameters.
const INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
const INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: u64 = 0x06;
const INITIAL_MAX_STREAM_DATA_UNI: u64 = 0x07;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::frames::extents, *};

    const FIRST: u64 = 0x100;
    const WINDOWS: StreamWindows = StreamWindows {
        first: FIRST,
        largest: 0x180,
    };

    /// Frames that may continue with anything.
    const STARTS: &[&[u8]] = &[&[], &[0x11, 4, 0x41], &[0x0f, 4, 0x41], &[0x04, 4]];

    /// MAX_STREAM_DATA, with the limit in four bytes.
    fn limit_frame(stream: u8, limit: u32) -> Vec<u8> {
        let mut frame = vec![0x11, stream];
        frame.extend_from_slice(&(0x8000_0000 | limit).to_be_bytes());
        frame
    }

    /// A STREAM frame of one byte which ends at `end`.
    fn data_frame(stream: u8, end: u32, is_final: bool) -> Vec<u8> {
        let mut frame = vec![0x0e | u8::from(is_final), stream];
        frame.extend_from_slice(&(0x8000_0000 | (end - 1)).to_be_bytes());
        frame.extend_from_slice(&[1, 7]);
        frame
    }

    fn reset_frame(stream: u8, end: u32) -> Vec<u8> {
        let mut frame = vec![0x04, stream, 0];
        frame.extend_from_slice(&(0x8000_0000 | end).to_be_bytes());
        frame
    }

    fn told(credit: &StreamCredit, frame: &[u8]) -> Vec<u8> {
        let mut payload = frame.to_vec();
        credit.lower(&mut payload);
        payload
    }

    fn exceeded(credit: &StreamCredit, payload: &[u8]) -> Vec<u64> {
        extents(payload).for_each(|extent| credit.check(extent));
        credit.take_exceeded()
    }

    fn is_allowed(credit: &StreamCredit, frame: &[u8]) -> bool {
        exceeded(credit, frame).is_empty()
    }

    #[test]
    fn limits_of_streams_are_lowered_by_what_the_window_lacks() {
        let credit = StreamCredit::new(WINDOWS);
        // ACK, MAX_DATA, two limits, PING.
        let others = [&[0x02, 9, 0, 0, 0, 0x10, 0x41, 0][..], &[0x01]];
        let frames = |first, second| {
            [
                others[0],
                &limit_frame(4, first),
                &limit_frame(8, second),
                others[1],
            ]
            .concat()
        };
        assert_eq!(told(&credit, &frames(0x180, 0x2000)), frames(0x100, 0x1f80));
        credit.set_window(0x170);
        assert_eq!(told(&credit, &frames(0x181, 0x2000)), frames(0x171, 0x1ff0));
        // What only looks like a limit in stream data, and what is truncated.
        for payload in [&[0x08, 0, 0x11, 4, 0x42, 0][..], &[0x11, 4, 0x42]] {
            assert_eq!(told(&credit, payload), payload);
        }
    }

    #[test]
    fn numbers_keep_their_length() {
        for (before, number, after) in [
            (&[0x25][..], 0x20, &[0x20][..]),
            (&[0x7f, 0xff], 0x0f, &[0x40, 0x0f]),
            (&[0x80, 1, 0, 0], 0xffff, &[0x80, 0, 0xff, 0xff]),
            (
                &[0xc0, 0, 0, 1, 0, 0, 0, 0],
                0xffff_ffff,
                &[0xc0, 0, 0, 0, 255, 255, 255, 255],
            ),
        ] {
            let mut bytes = before.to_vec();
            overwrite_number(&mut bytes, number);
            assert_eq!(bytes, after);
        }
    }

    #[test]
    fn streams_begin_with_the_first_window() {
        let mut parameters = vec![
            0x04, 2, 0x42, 0, 0x05, 2, 0x41, 0x80, 0x06, 4, 0x80, 0, 1, 0x80, 0x0f, 0, 0x07, 2,
            0x41, 0x80, 0x08, 1, 0,
        ];
        StreamCredit::lower_parameters(WINDOWS, &mut parameters);
        let expected = [
            0x04, 2, 0x42, 0, 0x05, 2, 0x41, 0, 0x06, 4, 0x80, 0, 1, 0, 0x0f, 0, 0x07, 2, 0x41, 0,
            0x08, 1, 0,
        ];
        assert_eq!(parameters, expected);
        let mut truncated = vec![0x05, 2, 0x41];
        StreamCredit::lower_parameters(WINDOWS, &mut truncated);
        assert_eq!(truncated, [0x05, 2, 0x41]);
    }

    #[test]
    fn peer_may_send_what_it_was_told_and_no_more() {
        let credit = StreamCredit::new(WINDOWS);
        let first = FIRST as u32;
        assert!(is_allowed(&credit, &data_frame(4, first, false)));
        for frame in [data_frame(4, first + 1, false), reset_frame(4, first + 1)] {
            assert_eq!(exceeded(&credit, &frame), [4]);
        }
        told(&credit, &limit_frame(4, 0x200));
        assert!(is_allowed(&credit, &data_frame(4, 0x180, false)));
        assert!(!is_allowed(&credit, &data_frame(4, 0x181, false)));
        assert!(!is_allowed(&credit, &reset_frame(4, 0x181)));
        assert!(
            !is_allowed(&credit, &data_frame(8, 0x180, false)),
            "another stream"
        );
        // A limit is never taken back.
        credit.set_window(FIRST / 2);
        told(&credit, &limit_frame(4, 0x200));
        assert!(is_allowed(&credit, &data_frame(4, 0x180, false)));
    }

    #[test]
    fn every_frame_that_exceeds_its_limit_is_found() {
        let credit = StreamCredit::new(WINDOWS);
        let (good, bad) = (data_frame(8, 5, false), data_frame(4, 0x200, false));
        let payload = [&good[..], &bad, &[0x01], &reset_frame(12, 0x200), &good].concat();
        assert_eq!(exceeded(&credit, &payload), [4, 12]);
        assert!(credit.take_exceeded().is_empty());
        // The last one extends to the end of the packet.
        let payload = [&good[..], &[0x0c, 4, 0x42, 0, 1, 2, 3]].concat();
        assert_eq!(exceeded(&credit, &payload), [4]);
    }

    #[test]
    fn streams_that_are_over_are_forgotten() {
        let credit = StreamCredit::new(WINDOWS);
        told(&credit, &limit_frame(4, 0x180));
        assert_eq!(credit.streams(), 0, "no more than it began with");
        told(&credit, &limit_frame(4, 0x200));
        told(&credit, &limit_frame(8, 0x200));
        assert_eq!(credit.streams(), 2);
        credit.leave(4);
        assert_eq!(credit.streams(), 1);
        assert_eq!(credit.limit(8), 0x180);
        assert_eq!(credit.limit(12), FIRST);
        // Nothing comes behind the end.
        assert!(is_allowed(&credit, &data_frame(8, 0x170, true)));
        assert_eq!(credit.limit(8), 0x170);
    }

    proptest! {
        #[test]
        fn excess_is_found_wherever_it_is(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            start in prop::sample::select(STARTS),
        ) {
            let payload = [start, &payload].concat();
            let credit = StreamCredit::new(WINDOWS);
            prop_assert_eq!(told(&credit, &payload).len(), payload.len());
            let mut ends = 0;
            while let Some((frame, end)) = frame_at(&payload, ends) {
                if let Passed::Stream(extent) | Passed::Reset(extent) = frame
                    && extent.end > credit.limit(extent.stream)
                {
                    break;
                }
                ends = end;
            }
            let has_excess = frame_at(&payload, ends).is_some();
            prop_assert_eq!(is_allowed(&credit, &payload), !has_excess);
        }
    }
}
