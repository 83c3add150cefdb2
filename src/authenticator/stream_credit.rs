//! Credit for streams that quinn-proto gives and the peer does not get yet.
//!
//! quinn-proto 0.11.19 gives all streams of a connection the same window, which never changes. It has
//! one that is as large as any gets, and peers are told of less (RFC 9000 §4.1): in the transport
//! parameters, and in MAX_STREAM_DATA. A peer that sends more than it was told is not found out, but
//! has no more than the credit of the connection.

use super::payload::{Passed, Rest};

/// Lowers the limits that streams of both directions begin with (RFC 9000 §18.2).
pub(super) fn lower_initial_limits(parameters: &mut [u8], by: u64) {
    let mut at = 0;
    while at < parameters.len() {
        let mut rest = Rest(&parameters[at..]);
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
            INITIAL_MAX_STREAM_DATA_BIDI_LOCAL | INITIAL_MAX_STREAM_DATA_BIDI_REMOTE
        ) {
            lower(&mut parameters[value..end], by);
        }
        at = end;
    }
}

/// Lowers the limits in MAX_STREAM_DATA frames (RFC 9000 §19.10). quinn-proto puts them before
/// STREAM frames, and behind the first of these it is not looked.
pub(super) fn lower_stream_limits(payload: &mut [u8], by: u64) {
    let mut at = 0;
    loop {
        let mut rest = Rest(&payload[at..]);
        let passed = rest.pass();
        let end = payload.len() - rest.0.len();
        match passed {
            None | Some(Passed::Stream) => return,
            Some(Passed::StreamLimit) => {
                let mut fields = Rest(&payload[at..end]);
                // Its type, and the stream.
                let (_, _) = (fields.number(), fields.number());
                let limit = end - fields.0.len();
                lower(&mut payload[limit..end], by);
            }
            Some(Passed::Crypto | Passed::Padding | Passed::Path(_) | Passed::Other) => {}
        }
        at = end;
    }
}

/// Lowers a number of variable length, which stays as long as it is (RFC 9000 §16).
fn lower(bytes: &mut [u8], by: u64) {
    let Some(number) = Rest(bytes).number() else {
        return;
    };
    let lowered = number.saturating_sub(by).to_be_bytes();
    let Some((first, others)) = bytes.split_first_mut() else {
        return;
    };
    let lowered = &lowered[lowered.len() - others.len() - 1..];
    *first = (*first & LENGTH_MASK) | lowered[0];
    others.copy_from_slice(&lowered[1..]);
}

/// The bits that say how long a number is.
const LENGTH_MASK: u8 = 0xc0;

/// Transport parameters.
const INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
const INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: u64 = 0x06;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_lowered_and_keep_it() {
        for (number, by, expected) in [
            (&[0x25][..], 5, &[0x20][..]),
            (&[0x7f, 0xff], 0x3ff0, &[0x40, 0x0f]),
            (&[0x80, 1, 0, 0], 1, &[0x80, 0, 0xff, 0xff]),
            (
                &[0xc0, 0, 0, 1, 0, 0, 0, 0],
                1,
                &[0xc0, 0, 0, 0, 255, 255, 255, 255],
            ),
            (&[0x80, 0, 0, 7], 8, &[0x80, 0, 0, 0]),
        ] {
            let mut lowered = number.to_vec();
            lower(&mut lowered, by);
            assert_eq!(lowered, expected, "{number:02x?} - {by}");
        }
    }

    #[test]
    fn limits_of_streams_are_lowered_and_nothing_else() {
        // ACK, MAX_DATA, two MAX_STREAM_DATA, PING.
        let mut payload = vec![
            0x02, 9, 0, 0, 0, 0x10, 0x41, 0, 0x11, 4, 0x41, 0, 0x11, 8, 0x80, 0, 2, 0, 0x01,
        ];
        lower_stream_limits(&mut payload, 0x80);
        let expected = [
            0x02, 9, 0, 0, 0, 0x10, 0x41, 0, 0x11, 4, 0x40, 0x80, 0x11, 8, 0x80, 0, 1, 0x80, 0x01,
        ];
        assert_eq!(payload, expected);
        // What looks like one in the data of a stream, and what is cut off.
        for payload in [&[0x08, 0, 0x11, 4, 0x41, 0][..], &[0x11, 4, 0x41]] {
            let mut same = payload.to_vec();
            lower_stream_limits(&mut same, 1);
            assert_eq!(same, payload);
        }
    }

    #[test]
    fn initial_limits_of_streams_are_lowered_and_nothing_else() {
        let mut parameters = vec![
            0x04, 2, 0x41, 0, 0x05, 2, 0x41, 0, 0x06, 4, 0x80, 0, 2, 0, 0x0f, 0, 0x07, 1, 0,
        ];
        lower_initial_limits(&mut parameters, 0x80);
        let expected = [
            0x04, 2, 0x41, 0, 0x05, 2, 0x40, 0x80, 0x06, 4, 0x80, 0, 1, 0x80, 0x0f, 0, 0x07, 1, 0,
        ];
        assert_eq!(parameters, expected);
        let mut cut_off = vec![0x05, 2, 0x41];
        lower_initial_limits(&mut cut_off, 1);
        assert_eq!(cut_off, [0x05, 2, 0x41]);
    }
}
