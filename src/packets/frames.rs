//! Parses the frames of a packet's payload before quinn-proto does, as far as we need them.

use std::mem;

use bytes::{BufMut, BytesMut};

/// Counts of what a payload contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// CRYPTO frames.
    pub(crate) crypto: usize,
    /// Bytes of PADDING.
    pub(crate) padding: usize,
}

impl Survey {
    /// Reads a payload until it has found `most` CRYPTO frames.
    ///
    /// It skips each frame according to the fields of its type (RFC 9000 §19), including the types
    /// of those extensions that quinn-proto supports. It stops at a frame that is truncated or
    /// unknown: quinn-proto processes no frame after such a one, and closes the connection. Hence
    /// quinn-proto never processes more CRYPTO frames than are counted here.
    pub(crate) fn of(payload: &[u8], most: usize) -> Self {
        let mut rest = Rest(payload);
        let mut survey = Self::default();
        while survey.crypto < most {
            let before = rest.0.len();
            match rest.pass() {
                Some(Passed::Crypto) => survey.crypto += 1,
                Some(Passed::Padding) => survey.padding += before - rest.0.len(),
                Some(_) => {}
                None => break,
            }
        }
        survey
    }
}

/// Whether the payload has a STREAM frame.
pub(super) fn has_stream_data(payload: &[u8]) -> bool {
    let mut rest = Rest(payload);
    std::iter::from_fn(|| rest.pass()).any(|passed| matches!(passed, Passed::Stream(_)))
}

/// Whether the payload begins with a STREAM frame, as quinn-proto encodes it.
pub(super) fn begins_with_stream(payload: &[u8]) -> bool {
    (payload.first()).is_some_and(|&ty| (STREAM..=STREAM_LAST).contains(&ty.into()))
}

/// The frame at this position of a payload, and where it ends. Returns `None` at the end, or if the
/// frame is truncated or unknown.
pub(super) fn frame_at(payload: &[u8], start: usize) -> Option<(Passed, usize)> {
    let mut rest = Rest(payload.get(start..)?);
    let passed = rest.pass()?;
    Some((passed, payload.len() - rest.0.len()))
}

/// What a STREAM or RESET_STREAM frame says about its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) stream: u64,
    /// Bytes of data.
    pub(super) len: u64,
    /// The length of the stream, at least.
    pub(super) end: u64,
    /// Whether it is exactly that.
    pub(super) is_final: bool,
    /// Whether the frame is RESET_STREAM.
    pub(super) is_reset: bool,
}

/// The data of a PATH_CHALLENGE or PATH_RESPONSE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathToken {
    Challenge(u64),
    Response(u64),
}

/// The STREAM and RESET_STREAM frames of a payload.
pub(super) fn extents(payload: &[u8]) -> impl Iterator<Item = Extent> {
    let mut rest = Rest(payload);
    std::iter::from_fn(move || {
        loop {
            if let Passed::Stream(extent) | Passed::Reset(extent) = rest.pass()? {
                return Some(extent);
            }
        }
    })
}

/// The data of all path validation frames of a payload, in order.
pub(super) fn path_tokens(payload: &[u8]) -> impl Iterator<Item = PathToken> {
    let mut rest = Rest(payload);
    std::iter::from_fn(move || {
        loop {
            if let Passed::Path(token) = rest.pass()? {
                return Some(token);
            }
        }
    })
}

/// Copies a payload, which has `padding` bytes of PADDING, without that PADDING. The copy has
/// memory of exactly the size that it needs.
pub(super) fn without_padding(payload: &[u8], padding: usize) -> BytesMut {
    let mut copy = BytesMut::with_capacity(payload.len() - padding);
    let mut rest = Rest(payload);
    loop {
        let frame = rest.0;
        match rest.pass() {
            Some(Passed::Padding) => {}
            Some(_) => {
                copy.put_slice(&frame[..frame.len() - rest.0.len()]);
            }
            // quinn-proto finds the error in the rest.
            None => {
                copy.put_slice(frame);
                return copy;
            }
        }
    }
}

/// Makes the application's error of a CONNECTION_CLOSE frame one of the transport, if its code has
/// one byte. quinn-proto 0.11.19 closes with errors of the transport that it has found itself only.
///
/// Such a frame has a field more, for which the first byte of the reason has to go (RFC 9000
/// §19.19).
pub(super) fn make_transport_close(payload: &mut [u8]) {
    let mut start = 0;
    while let Some((frame, end)) = frame_at(payload, start) {
        if frame == Passed::ApplicationClose
            && let [ty, 0..=VALUE_MASK, len @ 1..=VALUE_MASK, first, ..] = &mut payload[start..end]
        {
            *ty = CONNECTION_CLOSE as u8;
            *first = *len - 1;
            // The type of the frame that was wrong is not known.
            *len = 0;
        }
        start = end;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Crypto,
    Padding,
    Path(PathToken),
    Stream(Extent),
    Reset(Extent),
    /// MAX_STREAM_DATA, which ends with the limit.
    StreamLimit {
        stream: u64,
        limit: u64,
        /// Length of the encoded limit.
        limit_len: usize,
    },
    /// CONNECTION_CLOSE with an error of the application.
    ApplicationClose,
    Other,
}

/// The rest of the payload after the frames that were skipped.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl Rest<'_> {
    /// Skips one frame, or several of PADDING. Returns `None` at the end, or if the next frame is
    /// truncated or unknown.
    pub(super) fn pass(&mut self) -> Option<Passed> {
        // A type is a variable-length integer. quinn-proto accepts every encoding, not only the
        // shortest (RFC 9000 §12.4).
        let ty = self.number()?;
        match ty {
            PADDING => {
                self.padding();
                return Some(Passed::Padding);
            }
            PING | HANDSHAKE_DONE | IMMEDIATE_ACK => {}
            ACK | ACK_ECN => self.ack(ty)?,
            MAX_DATA | MAX_STREAMS_BIDI | MAX_STREAMS_UNI | DATA_BLOCKED | STREAMS_BLOCKED_BIDI
            | STREAMS_BLOCKED_UNI | RETIRE_CONNECTION_ID => self.numbers(1)?,
            STOP_SENDING | STREAM_DATA_BLOCKED => self.numbers(2)?,
            MAX_STREAM_DATA => {
                let stream = self.number()?;
                let before = self.0.len();
                let limit = self.number()?;
                return Some(Passed::StreamLimit {
                    stream,
                    limit,
                    limit_len: before - self.0.len(),
                });
            }
            RESET_STREAM => {
                let stream = self.number()?;
                self.numbers(1)?;
                return Some(Passed::Reset(Extent {
                    stream,
                    len: 0,
                    end: self.number()?,
                    is_final: true,
                    is_reset: true,
                }));
            }
            ACK_FREQUENCY => self.numbers(4)?,
            CRYPTO => {
                self.numbers(1)?;
                self.data()?;
                return Some(Passed::Crypto);
            }
            NEW_TOKEN | DATAGRAM_LEN => {
                self.data()?;
            }
            STREAM..=STREAM_LAST => return self.stream(ty).map(Passed::Stream),
            NEW_CONNECTION_ID => self.new_connection_id()?,
            PATH_CHALLENGE => return self.token().map(PathToken::Challenge).map(Passed::Path),
            PATH_RESPONSE => return self.token().map(PathToken::Response).map(Passed::Path),
            CONNECTION_CLOSE => {
                self.numbers(2)?;
                self.data()?;
            }
            APPLICATION_CLOSE => {
                self.numbers(1)?;
                self.data()?;
                return Some(Passed::ApplicationClose);
            }
            // A DATAGRAM frame without length extends to the end of the packet.
            DATAGRAM => self.0 = &[],
            _ => return None,
        }
        Some(Passed::Other)
    }

    /// Skips the rest of consecutive PADDING frames; probes of path MTU discovery consist mostly of
    /// them.
    fn padding(&mut self) {
        while let Some((stride, rest)) = self.0.split_first_chunk()
            && *stride == [0; STRIDE]
        {
            self.0 = rest;
        }
        while let [0, rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn ack(&mut self, ty: u64) -> Option<()> {
        // Largest Acknowledged, ACK Delay.
        self.numbers(2)?;
        // quinn-proto truncates to `usize` in the same way on 32-bit machines.
        let ranges = self.number()? as usize;
        self.numbers(1)?;
        // Gap and ACK Range Length, each of at least one byte. So the end of the packet bounds the
        // loop.
        for _ in 0..ranges {
            self.numbers(2)?;
        }
        if ty == ACK_ECN {
            self.numbers(3)?;
        }
        Some(())
    }

    fn stream(&mut self, ty: u64) -> Option<Extent> {
        let stream = self.number()?;
        let offset = if ty & STREAM_HAS_OFFSET != 0 {
            self.number()?
        } else {
            0
        };
        let len = if ty & STREAM_HAS_LENGTH != 0 {
            self.data()?
        } else {
            mem::take(&mut self.0).len()
        };
        Some(Extent {
            stream,
            len: len as u64,
            end: offset + len as u64,
            is_final: ty & STREAM_IS_FINAL != 0,
            is_reset: false,
        })
    }

    fn new_connection_id(&mut self) -> Option<()> {
        let sequence = self.number()?;
        if self.number()? > sequence {
            return None;
        }
        let (&len @ 1..=MAX_ID_LEN, rest) = self.0.split_first()? else {
            return None;
        };
        self.0 = rest;
        self.bytes(usize::from(len) + RESET_TOKEN_LEN)
    }

    /// Reads the data of a path validation frame.
    fn token(&mut self) -> Option<u64> {
        let (token, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*token))
    }

    /// Skips a length and that many bytes. Returns the length.
    fn data(&mut self) -> Option<usize> {
        let len = usize::try_from(self.number()?).ok()?;
        self.bytes(len)?;
        Some(len)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }

    fn numbers(&mut self, count: usize) -> Option<()> {
        for _ in 0..count {
            let first = self.0.first()?;
            self.bytes(number_len(*first))?;
        }
        Some(())
    }

    /// Reads a variable-length integer (RFC 9000 §16).
    pub(super) fn number(&mut self) -> Option<u64> {
        let first = *self.0.first()?;
        if first <= VALUE_MASK {
            self.0 = &self.0[1..];
            return Some(first.into());
        }
        let (bytes, rest) = self.0.split_at_checked(number_len(first))?;
        self.0 = rest;
        let first = u64::from(first & VALUE_MASK);
        Some(
            bytes[1..]
                .iter()
                .fold(first, |number, &byte| number << 8 | u64::from(byte)),
        )
    }
}

/// The length of a variable-length integer, which the two highest bits of its first byte encode.
fn number_len(first: u8) -> usize {
    1 << (first >> 6)
}

/// The bits of the first byte that belong to the value.
const VALUE_MASK: u8 = 0x3f;

/// Bytes of PADDING that are compared at once.
const STRIDE: usize = 32;

/// Longest connection ID in version 1 (RFC 9000 §17.2), in bytes.
const MAX_ID_LEN: u8 = 20;

/// Length of a stateless reset token (RFC 9000 §10.3), in bytes.
const RESET_TOKEN_LEN: usize = 16;

//= https://www.rfc-editor.org/rfc/rfc9000#section-19
const PADDING: u64 = 0x00;
const PING: u64 = 0x01;
const ACK: u64 = 0x02;
const ACK_ECN: u64 = 0x03;
const RESET_STREAM: u64 = 0x04;
const STOP_SENDING: u64 = 0x05;
const CRYPTO: u64 = 0x06;
const NEW_TOKEN: u64 = 0x07;
const STREAM: u64 = 0x08;
const STREAM_IS_FINAL: u64 = 0x01;
const STREAM_HAS_LENGTH: u64 = 0x02;
const STREAM_HAS_OFFSET: u64 = 0x04;
const STREAM_LAST: u64 = 0x0f;
const MAX_DATA: u64 = 0x10;
const MAX_STREAM_DATA: u64 = 0x11;
const MAX_STREAMS_BIDI: u64 = 0x12;
const MAX_STREAMS_UNI: u64 = 0x13;
const DATA_BLOCKED: u64 = 0x14;
const STREAM_DATA_BLOCKED: u64 = 0x15;
const STREAMS_BLOCKED_BIDI: u64 = 0x16;
const STREAMS_BLOCKED_UNI: u64 = 0x17;
const NEW_CONNECTION_ID: u64 = 0x18;
const RETIRE_CONNECTION_ID: u64 = 0x19;
const PATH_CHALLENGE: u64 = 0x1a;
const PATH_RESPONSE: u64 = 0x1b;
const CONNECTION_CLOSE: u64 = 0x1c;
const APPLICATION_CLOSE: u64 = 0x1d;
const HANDSHAKE_DONE: u64 = 0x1e;

// Extensions: acknowledgement frequency, and DATAGRAM (RFC 9221 §4).
const IMMEDIATE_ACK: u64 = 0x1f;
const DATAGRAM: u64 = 0x30;
const DATAGRAM_LEN: u64 = 0x31;
const ACK_FREQUENCY: u64 = 0xaf;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(payload: &[u8], most: usize) -> usize {
        Survey::of(payload, most).crypto
    }

    #[test]
    fn crypto_is_found_behind_every_other_frame() {
        for frame in FRAMES {
            let both = [*frame, CRYPTO_FRAME].concat();
            assert_eq!(count(&both, MANY), 1, "{frame:02x?}");
            for end in 0..both.len() {
                assert_eq!(count(&both[..end], MANY), 0, "{end} of {both:02x?}");
            }
            // The type encoded in eight bytes instead of one.
            let (ty, fields) = match frame {
                [0x40, ty, fields @ ..] => (ty, fields),
                [ty, fields @ ..] => (ty, fields),
                [] => unreachable!("no frame is empty"),
            };
            let longer = [&[0xc0, 0, 0, 0, 0, 0, 0, *ty], fields, CRYPTO_FRAME].concat();
            assert_eq!(count(&longer, MANY), 1, "{longer:02x?}");
        }
    }

    #[test]
    fn crypto_is_counted_however_it_is_written() {
        for frame in [
            CRYPTO_FRAME,
            &[0x06, 0, 0],
            &[0x40, 0x06, 0x40, 0x07, 0x40, 0x03, 1, 2, 3],
            &[0x80, 0, 0, 6, 0x80, 0, 0, 7, 0x80, 0, 0, 3, 1, 2, 3],
            &[
                0xc0, 0, 0, 0, 0, 0, 0, 6, 0xff, 255, 255, 255, 255, 255, 255, 255, 3, 1, 2, 3,
            ],
        ] {
            assert_eq!(count(&frame.repeat(7), MANY), 7, "{frame:02x?}");
            assert_eq!(count(&frame.repeat(7), 5), 5, "{frame:02x?}");
        }
    }

    #[test]
    fn nothing_is_a_frame_behind_one_that_takes_all_or_makes_no_sense() {
        for end in [
            // STREAM and DATAGRAM without a length.
            &[0x08, 4][..],
            &[0x0d, 4, 9],
            &[0x30],
            // Unknown types.
            &[0x20],
            &[0x32],
            &[0x40, 0xae],
            &[0xff; 8],
            // NEW_CONNECTION_ID that retires itself, or has an ID of an invalid length.
            &[0x18, 1, 2, 1, 7],
            &[0x18, 1, 0, 0],
            &[0x18, 1, 0, 21],
            // Longer than the packet.
            &[0x06, 0, 0x7f, 0xff],
            &[0x06, 0, 0xff, 255, 255, 255, 255, 255, 255, 255],
            &[0x02, 9, 0, 0xff, 255, 255, 255, 255, 255, 255, 255, 0],
        ] {
            let padded = [end, CRYPTO_FRAME, &[0; 64]].concat();
            assert_eq!(count(&padded, MANY), 0, "{end:02x?}");
            let behind_crypto = [CRYPTO_FRAME, &padded].concat();
            assert_eq!(count(&behind_crypto, MANY), 1, "{end:02x?}");
        }
        assert_eq!(count(&[], MANY), 0);
    }

    #[test]
    fn padding_of_any_length_is_measured_and_left_out() {
        for len in 0..200 {
            let padding = vec![0; len];
            let padded = [&padding, CRYPTO_FRAME, &padding, &[0x01], &padding].concat();
            let survey = Survey::of(&padded, MANY);
            assert_eq!((survey.crypto, survey.padding), (1, 3 * len));
            let copy = without_padding(&padded, survey.padding);
            assert_eq!(copy, [CRYPTO_FRAME, &[0x01]].concat());
            assert_eq!(copy.capacity(), copy.len());
        }
        // PADDING types in longer encodings.
        let long = [&[0x40, 0, 0x80, 0, 0, 0, 0][..], CRYPTO_FRAME].concat();
        assert_eq!(Survey::of(&long, MANY).padding, 7);
        assert_eq!(without_padding(&long, 7), CRYPTO_FRAME);
    }

    #[test]
    fn errors_of_the_application_become_errors_of_the_transport() {
        for (application, transport) in [
            (
                &[0x1d, 3, 4, b' ', b'w', b'h', b'y'][..],
                &[0x1c, 3, 0, 3, b'w', b'h', b'y'][..],
            ),
            (&[0x1d, 0x3f, 1, b' '], &[0x1c, 0x3f, 0, 0]),
            // Without room.
            (&[0x1d, 3, 0], &[0x1d, 3, 0]),
            (&[0x1d, 0x40, 3, 1, b' '], &[0x1d, 0x40, 3, 1, b' ']),
        ] {
            let ack = &[0x02, 9, 0, 0, 0][..];
            let mut payload = [ack, application, &[0x01]].concat();
            make_transport_close(&mut payload);
            assert_eq!(payload, [ack, transport, &[0x01]].concat());
        }
    }

    proptest! {
        #[test]
        fn no_payload_is_too_much(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            most in 0_usize..4,
        ) {
            let survey = Survey::of(&payload, most);
            prop_assert!(survey.crypto <= most);
            prop_assert!(survey.padding <= payload.len());
            // A payload without PADDING is copied unchanged, errors included.
            let survey = Survey::of(&payload, usize::MAX);
            let copy = without_padding(&payload, survey.padding);
            prop_assert_eq!(payload.len() - survey.padding, copy.len());
            prop_assert_eq!(Survey::of(&copy, usize::MAX), Survey { padding: 0, ..survey });
        }

        #[test]
        fn frames_in_any_order_hide_no_crypto(
            order in prop::collection::vec(0..=FRAMES.len(), 0..50),
        ) {
            let frame = |&index: &usize| *FRAMES.get(index).unwrap_or(&CRYPTO_FRAME);
            let payload: Vec<_> = order.iter().map(frame).collect();
            let expected = order.iter().filter(|&&index| index == FRAMES.len()).count();
            prop_assert_eq!(count(&payload.concat(), MANY), expected);
            let padding = payload.iter().filter(|frame| **frame == [0x00]).count();
            let copy = without_padding(&payload.concat(), padding);
            let rest: Vec<_> = payload.into_iter().filter(|frame| *frame != [0x00]).collect();
            prop_assert_eq!(copy, rest.concat());
        }
    }

    const MANY: usize = 1000;

    const CRYPTO_FRAME: &[u8] = &[0x06, 7, 3, 1, 2, 3];

    /// One frame of each other type, with contents that look like CRYPTO if possible.
    const FRAMES: &[&[u8]] = &[
        &[0x00],
        &[0x01],
        &[0x02, 6, 0, 0, 0],
        &[0x02, 0x46, 6, 6, 2, 0, 0, 0, 6, 0x40, 6],
        &[0x03, 6, 0, 1, 6, 0, 0, 6, 0, 0x80, 6, 6, 6],
        &[0x04, 6, 0, 0],
        &[0x05, 6, 0],
        &[0x07, 3, 6, 0, 0],
        &[0x0a, 6, 3, 6, 0, 0],
        &[0x0b, 6, 0],
        &[0x0e, 6, 6, 3, 6, 0, 0],
        &[0x0f, 0x40, 6, 0x40, 6, 0x40, 3, 6, 0, 0],
        &[0x10, 6],
        &[0x11, 6, 6],
        &[0x12, 6],
        &[0x13, 6],
        &[0x14, 6],
        &[0x15, 6, 6],
        &[0x16, 6],
        &[0x17, 6],
        &[
            0x18, 6, 6, 3, 6, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        ],
        &[0x19, 6],
        &[0x1a, 6, 0, 0, 6, 0, 0, 6, 0],
        &[0x1b, 6, 0, 0, 6, 0, 0, 6, 0],
        &[0x1c, 6, 6, 3, 6, 0, 0],
        &[0x1d, 6, 3, 6, 0, 0],
        &[0x1e],
        &[0x1f],
        &[0x31, 3, 6, 0, 0],
        &[0x40, 0xaf, 6, 6, 6, 6],
    ];
}
