//! What the payload of a packet is made of, as far as that matters before quinn-proto reads it.

use bytes::{BufMut, BytesMut};

/// What there is in a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// CRYPTO frames.
    pub(crate) crypto: usize,
    /// Bytes of PADDING.
    pub(crate) padding: usize,
}

impl Survey {
    /// Looks at a payload until it has seen `most` CRYPTO frames.
    ///
    /// Frames are passed over by the fields of their types (RFC 9000 §19), those of extensions that
    /// quinn-proto knows among them. The walk ends where a frame is cut off or unknown: quinn-proto
    /// acts on no frame behind such a one, and closes the connection. So whatever the payload is,
    /// quinn-proto acts on no more CRYPTO frames than are counted here.
    pub(crate) fn of(payload: &[u8], most: usize) -> Self {
        let mut rest = Rest(payload);
        let mut survey = Self::default();
        while survey.crypto < most {
            let before = rest.0.len();
            match rest.pass() {
                Some(Passed::Crypto) => survey.crypto += 1,
                Some(Passed::Padding) => survey.padding += before - rest.0.len(),
                Some(Passed::Path(_) | Passed::Stream | Passed::StreamLimit | Passed::Other) => {}
                None => break,
            }
        }
        survey
    }
}

/// Whether there is a STREAM frame.
pub(super) fn has_stream_data(payload: &[u8]) -> bool {
    let mut rest = Rest(payload);
    std::iter::from_fn(|| rest.pass()).any(|passed| passed == Passed::Stream)
}

/// The data of a path validation frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathToken {
    Challenge(u64),
    Response(u64),
}

/// The data of all path validation frames of a payload, in their order.
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

/// A copy of a payload with so much PADDING, without that: it means nothing. The copy has memory of
/// its own, and no more than it needs.
pub(super) fn without_padding(payload: &[u8], padding: usize) -> BytesMut {
    let mut copy = BytesMut::with_capacity(payload.len() - padding);
    let mut rest = Rest(payload);
    loop {
        let frame = rest.0;
        match rest.pass() {
            Some(Passed::Padding) => {}
            Some(
                Passed::Crypto
                | Passed::Path(_)
                | Passed::Stream
                | Passed::StreamLimit
                | Passed::Other,
            ) => {
                copy.put_slice(&frame[..frame.len() - rest.0.len()]);
            }
            // Whatever is wrong with it is for quinn-proto to find.
            None => {
                copy.put_slice(frame);
                return copy;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Crypto,
    Padding,
    Path(PathToken),
    Stream,
    /// MAX_STREAM_DATA.
    StreamLimit,
    Other,
}

/// What follows the frames that were passed.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl Rest<'_> {
    /// Passes one frame, or several of PADDING. `None` if there is none that is whole and known.
    pub(super) fn pass(&mut self) -> Option<Passed> {
        // A type is a number, which quinn-proto takes in every length, not only in the shortest
        // (RFC 9000 §12.4).
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
                self.numbers(2)?;
                return Some(Passed::StreamLimit);
            }
            RESET_STREAM => self.numbers(3)?,
            ACK_FREQUENCY => self.numbers(4)?,
            CRYPTO => {
                self.numbers(1)?;
                self.data()?;
                return Some(Passed::Crypto);
            }
            NEW_TOKEN | DATAGRAM_LEN => self.data()?,
            STREAM..=STREAM_LAST => {
                self.stream(ty)?;
                return Some(Passed::Stream);
            }
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
            }
            // To the end of the packet.
            DATAGRAM => self.0 = &[],
            _ => return None,
        }
        Some(Passed::Other)
    }

    /// All that follows a PADDING frame; probes of path MTU discovery are full of it.
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
        // Largest, delay.
        self.numbers(2)?;
        // As quinn-proto has it, on machines of 32 bits too.
        let ranges = self.number()? as usize;
        self.numbers(1)?;
        // Gap and length, each of which is a byte at least. So the packet ends before it takes long.
        for _ in 0..ranges {
            self.numbers(2)?;
        }
        if ty == ACK_ECN {
            self.numbers(3)?;
        }
        Some(())
    }

    fn stream(&mut self, ty: u64) -> Option<()> {
        self.numbers(1)?;
        if ty & STREAM_HAS_OFFSET != 0 {
            self.numbers(1)?;
        }
        if ty & STREAM_HAS_LENGTH != 0 {
            return self.data();
        }
        self.0 = &[];
        Some(())
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

    /// The data of path validation.
    fn token(&mut self) -> Option<u64> {
        let (token, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*token))
    }

    /// A length, and as many bytes.
    fn data(&mut self) -> Option<()> {
        let len = usize::try_from(self.number()?).ok()?;
        self.bytes(len)
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

    /// A number of variable length (RFC 9000 §16).
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

/// The two highest bits of the first byte say how long a number is.
fn number_len(first: u8) -> usize {
    1 << (first >> 6)
}

/// The other bits.
const VALUE_MASK: u8 = 0x3f;

/// Bytes of PADDING that are compared at once.
const STRIDE: usize = 32;

/// Longest connection ID in version 1 (RFC 9000 §17.2), in bytes.
const MAX_ID_LEN: u8 = 20;

/// Of a stateless reset (RFC 9000 §10.3), in bytes.
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

// Of extensions: acknowledgement frequency, and DATAGRAM (RFC 9221 §4).
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
            // Its type takes eight bytes as well as one.
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
            // NEW_CONNECTION_ID that retires itself, or has an ID of no length that there is.
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
        // However its type is written.
        let long = [&[0x40, 0, 0x80, 0, 0, 0, 0][..], CRYPTO_FRAME].concat();
        assert_eq!(Survey::of(&long, MANY).padding, 7);
        assert_eq!(without_padding(&long, 7), CRYPTO_FRAME);
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
            // What has no PADDING stays as it is, mistakes and all.
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

    /// One of each other type, whose contents look like CRYPTO where they can.
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
