//! Rearranges received stream data: into smaller frames, in another order, with repetitions and
//! overlaps. All data still arrives.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex},
};

use bytes::{Buf, BytesMut};
use quinn_proto::{VarInt, coding::Codec};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    frame::Frame,
    rewrite::{Changes, Level},
};

/// Makes a node with a single connection receive stream data in this way.
pub(crate) fn mangling(seed: u64) -> Changes {
    let mut mangler = Mangler {
        random: StdRng::seed_from_u64(seed),
        heard: BTreeMap::new(),
    };
    Changes {
        said: None,
        heard: Some(Arc::new(Mutex::new(
            move |level, payload: &mut BytesMut| {
                if level == Level::OneRtt {
                    mangler.mangle(payload);
                }
            },
        ))),
    }
}

struct Mangler {
    random: StdRng,
    /// Some of the pieces received on each stream.
    heard: BTreeMap<u64, VecDeque<Piece>>,
}

/// The contents of a STREAM frame.
#[derive(Clone)]
pub(crate) struct Piece {
    offset: u64,
    data: Vec<u8>,
    fin: bool,
}

impl Mangler {
    fn mangle(&mut self, payload: &mut BytesMut) {
        let Some(Parsed {
            mut others,
            streams,
        }) = parse(payload)
        else {
            return;
        };
        let mut frames = Vec::new();
        for (stream, piece) in streams {
            let mut pieces = self.cut(&piece);
            pieces.extend(self.repeat(stream, piece));
            frames.extend(pieces.into_iter().map(|piece| piece.frame(stream)));
        }
        frames.shuffle(&mut self.random);
        frames.iter().for_each(|frame| frame.encode(&mut others));
        *payload = BytesMut::from(&others[..]);
    }

    /// Cuts a piece into a few or many pieces.
    fn cut(&mut self, piece: &Piece) -> Vec<Piece> {
        let most = [1, 4, 60, usize::MAX][self.random.random_range(0..4)];
        let mut pieces = Vec::new();
        let mut at = 0;
        while piece.data.len() - at > 1 && pieces.len() + 1 < most {
            let longest = (2 * piece.data.len() / most)
                .max(2)
                .min(piece.data.len() - at);
            let end = at + self.random.random_range(1..longest);
            pieces.push(piece.part(at..end));
            at = end;
        }
        pieces.push(piece.part(at..piece.data.len()));
        pieces
    }

    /// Stores this piece, and returns earlier pieces of the same stream to repeat.
    fn repeat(&mut self, stream: u64, piece: Piece) -> Vec<Piece> {
        let heard = self.heard.entry(stream).or_default();
        heard.push_back(piece);
        if heard.len() > MOST_HEARD {
            heard.pop_front();
        }
        (0..self.random.random_range(0..4))
            .map(|_| {
                let piece = &heard[self.random.random_range(0..heard.len())];
                let len = piece.data.len();
                let [a, b] = [(); 2].map(|()| self.random.random_range(0..=len));
                piece.part(a.min(b)..a.max(b))
            })
            .collect()
    }
}

impl Piece {
    pub(crate) fn frame(self, stream: u64) -> Frame {
        Frame::Stream {
            stream: stream.into(),
            offset: self.offset.into(),
            data: self.data,
            fin: self.fin,
        }
    }

    fn part(&self, range: Range<usize>) -> Self {
        Self {
            offset: self.offset + range.start as u64,
            fin: self.fin && range.end == self.data.len(),
            data: self.data[range].to_vec(),
        }
    }
}

/// The most pieces of each stream that are stored.
const MOST_HEARD: usize = 16;

/// The frames of a payload.
pub(crate) struct Parsed {
    /// The encoded frames other than STREAM.
    pub(crate) others: Vec<u8>,
    /// The stream IDs and contents of the STREAM frames.
    pub(crate) streams: Vec<(u64, Piece)>,
}

/// Parses a payload; `None` if it has a frame that the simulation never sends.
pub(crate) fn parse(payload: &[u8]) -> Option<Parsed> {
    let mut others = Vec::new();
    let mut streams = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let frame = rest;
        let ty = number(&mut rest)?;
        match ty {
            0x00 | 0x01 | 0x1e | 0x1f => {}
            0x02 | 0x03 => {
                let [_, _, ranges, _] = numbers(&mut rest)?;
                for _ in 0..2 * ranges + if ty == 0x03 { 3 } else { 0 } {
                    number(&mut rest)?;
                }
            }
            0x04 => drop(numbers::<3>(&mut rest)?),
            0x05 | 0x11 | 0x15 => drop(numbers::<2>(&mut rest)?),
            0x06 => {
                number(&mut rest)?;
                bytes(&mut rest)?;
            }
            0x07 => drop(bytes(&mut rest)?),
            0x08..=0x0f => {
                let stream = number(&mut rest)?;
                let offset = if ty & 4 == 0 { 0 } else { number(&mut rest)? };
                let data = if ty & 2 == 0 {
                    std::mem::take(&mut rest)
                } else {
                    bytes(&mut rest)?
                };
                let piece = Piece {
                    offset,
                    data: data.to_vec(),
                    fin: ty & 1 != 0,
                };
                streams.push((stream, piece));
                continue;
            }
            0x10 | 0x12 | 0x13 | 0x14 | 0x16 | 0x17 | 0x19 => drop(number(&mut rest)?),
            0x18 => {
                numbers::<2>(&mut rest)?;
                let len = usize::from(*rest.first()?);
                rest = rest.get(1 + len + 16..)?;
            }
            0x1a | 0x1b => rest = rest.get(8..)?,
            _ => return None,
        }
        others.extend_from_slice(&frame[..frame.len() - rest.len()]);
    }
    Some(Parsed { others, streams })
}

fn numbers<const COUNT: usize>(rest: &mut &[u8]) -> Option<[u64; COUNT]> {
    let mut numbers = [0; COUNT];
    for slot in &mut numbers {
        *slot = number(rest)?;
    }
    Some(numbers)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    Some(VarInt::decode(rest).ok()?.into_inner())
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(number(rest)?).ok()?;
    let bytes = rest.get(..len)?;
    rest.advance(len);
    Some(bytes)
}
