//! QUIC frames, valid and invalid, as a peer may send them (RFC 9000 §19).

use arbitrary::{Arbitrary, Unstructured};
use bytes::{BufMut, BytesMut};
use quinn_proto::{VarInt, coding::Codec};

/// A frame, which may be invalid.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Frame {
    Ack {
        largest: Number,
        first_range: Number,
        /// Gaps and ACK Range Lengths.
        #[arbitrary(with = some)]
        ranges: Vec<(Number, Number)>,
    },
    ConnectionClose {
        code: Number,
    },
    Crypto {
        offset: Number,
        #[arbitrary(with = some_bytes)]
        data: Vec<u8>,
    },
    DataBlocked(Number),
    HandshakeDone,
    MaxData(Number),
    MaxStreamData {
        stream: Number,
        limit: Number,
    },
    MaxStreams {
        bidirectional: bool,
        limit: Number,
    },
    NewConnectionId {
        sequence: Number,
        retire_prior_to: Number,
        id: [u8; 8],
    },
    NewToken(#[arbitrary(with = some_bytes)] Vec<u8>),
    PathChallenge([u8; 8]),
    PathResponse([u8; 8]),
    Ping,
    /// Any bytes.
    Raw(#[arbitrary(with = some_bytes)] Vec<u8>),
    ResetStream {
        stream: Number,
        code: Number,
        final_size: Number,
    },
    RetireConnectionId(Number),
    StopSending {
        stream: Number,
        code: Number,
    },
    Stream {
        stream: Number,
        offset: Number,
        #[arbitrary(with = some_bytes)]
        data: Vec<u8>,
        fin: bool,
    },
    StreamDataBlocked {
        stream: Number,
        limit: Number,
    },
    StreamsBlocked {
        bidirectional: bool,
        limit: Number,
    },
}

/// The value of a variable-length integer; larger values are truncated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) u64);

impl Number {
    pub(crate) const MAX: Self = Self((1 << 62) - 1);
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// Mostly small, and often close to a limit.
impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let kind = u8::arbitrary(input)?;
        Ok(match kind {
            0..=191 => Self(u64::from(kind)),
            192..=223 => Self(u16::arbitrary(input)?.into()),
            224..=247 => Self((1 << (kind - 224 + 16)) - u64::from(u8::arbitrary(input)? % 4)),
            248..=250 => Self(Self::MAX.0 - u64::from(u8::arbitrary(input)?)),
            251..=255 => Self(u64::arbitrary(input)?),
        })
    }
}

impl Frame {
    pub(crate) fn stream(stream: u64, offset: u64, data: &[u8]) -> Self {
        Self::Stream {
            stream: stream.into(),
            offset: offset.into(),
            data: data.to_vec(),
            fin: false,
        }
    }

    /// Appends the encoded frame.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Ack {
                largest,
                first_range,
                ranges,
            } => {
                let delay = Number(0);
                let count = Number(ranges.len() as u64);
                numbers(to, 0x02, &[*largest, delay, count, *first_range]);
                for &(gap, length) in ranges {
                    number(to, gap);
                    number(to, length);
                }
            }
            Self::ConnectionClose { code } => numbers(to, 0x1c, &[*code, Number(0), Number(0)]),
            Self::Crypto { offset, data } => {
                numbers(to, 0x06, &[*offset]);
                bytes(to, data);
            }
            Self::DataBlocked(limit) => numbers(to, 0x14, &[*limit]),
            Self::HandshakeDone => to.push(0x1e),
            Self::MaxData(limit) => numbers(to, 0x10, &[*limit]),
            Self::MaxStreamData { stream, limit } => numbers(to, 0x11, &[*stream, *limit]),
            Self::MaxStreams {
                bidirectional,
                limit,
            } => numbers(to, if *bidirectional { 0x12 } else { 0x13 }, &[*limit]),
            Self::NewConnectionId {
                sequence,
                retire_prior_to,
                id,
            } => {
                numbers(to, 0x18, &[*sequence, *retire_prior_to]);
                to.push(id.len() as u8);
                to.extend(id);
                // An arbitrary reset token.
                to.extend([*id, *id].concat());
            }
            Self::NewToken(token) => {
                to.push(0x07);
                bytes(to, token);
            }
            Self::PathChallenge(data) => {
                to.push(0x1a);
                to.extend(data);
            }
            Self::PathResponse(data) => {
                to.push(0x1b);
                to.extend(data);
            }
            Self::Ping => to.push(0x01),
            Self::Raw(raw) => to.extend(raw),
            Self::ResetStream {
                stream,
                code,
                final_size,
            } => numbers(to, 0x04, &[*stream, *code, *final_size]),
            Self::RetireConnectionId(sequence) => numbers(to, 0x19, &[*sequence]),
            Self::StopSending { stream, code } => numbers(to, 0x05, &[*stream, *code]),
            Self::Stream {
                stream,
                offset,
                data,
                fin,
            } => {
                // With an offset and a length.
                numbers(to, 0x0e | u8::from(*fin), &[*stream, *offset]);
                bytes(to, data);
            }
            Self::StreamDataBlocked { stream, limit } => numbers(to, 0x15, &[*stream, *limit]),
            Self::StreamsBlocked {
                bidirectional,
                limit,
            } => numbers(to, if *bidirectional { 0x16 } else { 0x17 }, &[*limit]),
        }
    }
}

/// Generates a few values. `arbitrary`'s own implementation ends after one or two.
pub(crate) fn some<'a, T: Arbitrary<'a>>(
    input: &mut Unstructured<'a>,
) -> arbitrary::Result<Vec<T>> {
    let count = input.int_in_range(0..=MOST)?;
    (0..count).map(|_| T::arbitrary(input)).collect()
}

/// Generates up to a packet's worth of bytes, mostly fewer.
pub(crate) fn some_bytes(input: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let len = match u8::arbitrary(input)? {
        u8::MAX => usize::from(u16::arbitrary(input)? % 1500),
        len => len.into(),
    };
    let len = len.min(input.len());
    input.bytes(len).map(<[u8]>::to_vec)
}

/// Encodes the frames one after another.
pub(crate) fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for frame in frames {
        frame.encode(&mut encoded);
    }
    encoded
}

/// Replaces a payload with `frames` and PADDING. What does not fit is cut off.
pub(crate) fn overwrite(payload: &mut [u8], frames: &[u8]) {
    let len = payload.len().min(frames.len());
    payload[..len].copy_from_slice(&frames[..len]);
    payload[len..].fill(0);
}

fn numbers(to: &mut Vec<u8>, ty: u8, fields: &[Number]) {
    to.push(ty);
    for &field in fields {
        number(to, field);
    }
}

fn bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    number(to, Number(bytes.len() as u64));
    to.extend(bytes);
}

fn number(to: &mut Vec<u8>, Number(number): Number) {
    let number = VarInt::from_u64(number & Number::MAX.0).unwrap_or(VarInt::MAX);
    let mut encoded = BytesMut::new();
    number.encode(&mut encoded);
    to.put(encoded);
}

/// The most values generated at a time.
const MOST: u8 = 7;
