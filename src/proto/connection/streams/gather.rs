//! Gathers small writes into larger chunks for quinn-proto.
//!
//! For each packet, quinn-proto searches the chunks of the stream, beginning with the first one
//! that is not acknowledged. So the cost of a packet grows with the number of chunks in flight:
//! with 10 MB in writes of 1 KiB, a packet costs ten times as much as with writes of 64 KiB.
//! Gathering delays nothing, because a write is gathered only while bytes before it wait to be
//! sent.

use std::{mem, num::NonZeroU32};

use bytes::{Buf, BytesMut};
use quinn_proto::{SendStream, StreamId, WriteError};

use super::write_line::Kind;

/// The smallest size of a full chunk.
pub(super) const LEAST_CHUNK: usize = 16 * 1024;

/// The largest size of a chunk.
///
/// A chunk counts against quinn-proto's send window until its last byte is acknowledged, so chunks
/// of megabytes would use the window up.
pub(super) const LARGEST_CHUNK: usize = 64 * 1024;

/// About how many chunks the unacknowledged bytes should have: the more bytes, the larger the
/// chunks.
const CHUNKS: u64 = 128;

/// The most bytes that all streams of a connection gather; one write may exceed it.
const MOST_GATHERED: u64 = 1024 * 1024;

/// Gathered bytes are at most this part of the send window. With a small window there are few
/// chunks anyway.
const PART_OF_SEND_WINDOW: u64 = 8;

/// What a stream that has gathered something counts for beside it: its state stays until that is
/// handed over, also if the application has dropped it, and the peer may never let it be.
const STREAM_BYTES: usize = 1024;

/// Writes of at most this size are taken whole, or not at all.
const TAKEN_WHOLE: usize = 4096;

/// The most bytes that a turn can send: two batches, each at most as large as the largest UDP
/// datagram.
const TURN_BYTES: u64 = 128 * 1024;

/// What the streams of a connection gather.
#[derive(Default)]
pub(super) struct Gathering {
    /// Bytes of all datagrams that were sent: at least as many as their stream data has.
    sent: u64,
    gathered: usize,
    /// Streams that have gathered something.
    streams: usize,
    /// Streams whose gathered bytes are handed over when little is left to send before them.
    listed: Vec<StreamId>,
    /// Chunks that quinn-proto was given, and their bytes.
    #[cfg(test)]
    handed_over: (u64, u64),
}

/// What one stream has gathered.
#[derive(Default)]
pub(super) struct Gather {
    bytes: BytesMut,
    /// The turn in which a write went to quinn-proto directly.
    direct_in_turn: Option<NonZeroU32>,
    /// Until the connection has sent this number of bytes, quinn-proto certainly has unsent bytes
    /// of this stream.
    unsent_until: u64,
    is_listed: bool,
}

impl Gathering {
    /// Notes datagrams with this number of bytes as sent.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Memory of what waits to be handed over, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.gathered + self.streams * STREAM_BYTES) as u64
    }

    /// Whether nothing more may be gathered. `send_window` is how many bytes may be unacknowledged.
    pub(super) fn is_full(&self, send_window: u64) -> bool {
        self.bytes() >= MOST_GATHERED.min(send_window / PART_OF_SEND_WINDOW)
    }

    /// How large a chunk should be, given the unacknowledged bytes.
    pub(super) fn chunk_bytes(unacknowledged: u64) -> usize {
        let bytes = usize::try_from(unacknowledged / CHUNKS).unwrap_or(usize::MAX);
        bytes.clamp(LEAST_CHUNK, LARGEST_CHUNK)
    }

    /// Takes the streams that may have bytes to hand over in this turn.
    pub(super) fn take_listed(&mut self) -> Vec<StreamId> {
        mem::take(&mut self.listed)
    }

    #[cfg(test)]
    pub(super) fn handed_over(&self) -> (u64, u64) {
        self.handed_over
    }

    /// Forgets all streams, because nothing more is sent.
    pub(super) fn clear(&mut self) {
        self.listed = Vec::new();
    }
}

impl Gather {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether there is enough for a chunk.
    pub(super) fn is_full(&self, chunk_bytes: usize) -> bool {
        self.bytes.len() >= chunk_bytes
    }

    /// Whether to gather a write of `len` bytes in this turn.
    ///
    /// The first write of a turn goes to quinn-proto directly, unless something waits before it. It
    /// may be the only one.
    pub(super) fn wants(
        &self,
        all: &Gathering,
        len: usize,
        chunk_bytes: usize,
        turn: Option<NonZeroU32>,
    ) -> bool {
        let is_follower = turn.is_some() && self.direct_in_turn == turn;
        let waits = is_follower || self.unsent_until > all.sent;
        !self.is_empty() || (len < chunk_bytes && waits)
    }

    /// What it is for the line of streams that wait: a message, if it is small.
    pub(super) fn kind(&self) -> Kind {
        if self.is_empty() || self.bytes.len() > TAKEN_WHOLE {
            Kind::Transfer
        } else {
            Kind::Message
        }
    }

    /// Whether a write of this size may be gathered although quinn-proto takes nothing now.
    pub(super) fn takes_whole(&self, len: usize) -> bool {
        self.is_empty() && len <= TAKEN_WHOLE
    }

    /// Gathers as much as there is room for. Returns how much that was.
    pub(super) fn add(
        &mut self,
        all: &mut Gathering,
        id: StreamId,
        data: &[u8],
        chunk_bytes: usize,
    ) -> usize {
        let mut room = chunk_bytes.saturating_sub(self.bytes.len());
        if room > 0 {
            room = room.max(TAKEN_WHOLE);
        }
        let data = &data[..data.len().min(room)];
        if self.is_empty() && data.len() >= chunk_bytes / 4 && self.has_enough_before(all) {
            // It will be full.
            self.bytes.reserve(chunk_bytes);
        }
        all.streams += usize::from(self.is_empty() && !data.is_empty());
        self.bytes.extend_from_slice(data);
        all.gathered += data.len();
        if !mem::replace(&mut self.is_listed, true) {
            all.listed.push(id);
        }
        data.len()
    }

    /// Notes that a write went to quinn-proto in this turn.
    pub(super) fn note_direct(
        &mut self,
        all: &mut Gathering,
        len: usize,
        turn: Option<NonZeroU32>,
    ) {
        self.direct_in_turn = turn;
        self.note_handed_over(all, len);
    }

    /// Takes the stream off the list. If its bytes could not be sent in this turn, because more
    /// bytes are before them than a turn sends, puts it on the list again and returns `true`.
    pub(super) fn unlist(&mut self, all: &mut Gathering, id: StreamId) -> bool {
        self.is_listed = !self.is_empty() && self.has_enough_before(all);
        if self.is_listed {
            all.listed.push(id);
        }
        self.is_listed
    }

    /// Hands over as much as flow control permits. Returns how much that was.
    pub(super) fn hand_over(&mut self, all: &mut Gathering, stream: &mut SendStream<'_>) -> usize {
        let mut handed_over = 0;
        let had_any = !self.is_empty();
        while !self.bytes.is_empty() {
            match stream.write(&self.bytes) {
                Ok(written) => {
                    self.bytes.advance(written);
                    all.gathered -= written;
                    self.note_handed_over(all, written);
                    handed_over += written;
                }
                // quinn-proto reports when the stream is writable again, but only after it has
                // reported that the stream is blocked.
                Err(WriteError::Blocked) => break,
                // The stream ends without them; an event reports that.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    self.clear(all);
                    return handed_over;
                }
            }
        }
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            all.streams -= usize::from(had_any);
        }
        handed_over
    }

    /// Drops what was gathered.
    pub(super) fn clear(&mut self, all: &mut Gathering) {
        all.gathered -= self.bytes.len();
        all.streams -= usize::from(!self.is_empty());
        self.bytes = BytesMut::new();
    }

    fn note_handed_over(&mut self, all: &mut Gathering, len: usize) {
        #[cfg(test)]
        {
            all.handed_over.0 += u64::from(len > 0);
            all.handed_over.1 += len as u64;
        }
        self.unsent_until = self.unsent_until.max(all.sent) + len as u64;
    }

    /// Whether quinn-proto has more of this stream than a turn can send.
    fn has_enough_before(&self, all: &Gathering) -> bool {
        self.unsent_until >= all.sent.saturating_add(TURN_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::*;

    const TURN: Option<NonZeroU32> = NonZeroU32::new(7);

    #[test]
    fn chunks_grow_with_what_is_not_acknowledged() {
        assert_eq!(Gathering::chunk_bytes(0), LEAST_CHUNK);
        assert_eq!(Gathering::chunk_bytes(4_000_000), 31_250);
        assert_eq!(Gathering::chunk_bytes(u64::MAX), LARGEST_CHUNK);
        let full = LEAST_CHUNK - 1;
        let (mut all, mut stream) = (Gathering::default(), Gather::default());
        let id = StreamId::new(Side::Client, Dir::Bi, 0);
        assert_eq!(stream.add(&mut all, id, &vec![0; full], LEAST_CHUNK), full);
        let most = [0; LARGEST_CHUNK];
        assert_eq!(stream.add(&mut all, id, &most, LEAST_CHUNK), TAKEN_WHOLE);
        assert_eq!(stream.add(&mut all, id, &most, LEAST_CHUNK), 0);
        stream.clear(&mut all);
        assert_eq!(all.gathered, 0);
    }

    #[test]
    fn connection_gathers_a_part_of_its_send_window_and_has_a_limit() {
        let mut all = Gathering {
            gathered: 1_000,
            ..Gathering::default()
        };
        assert!(all.is_full(1_000 * PART_OF_SEND_WINDOW));
        assert!(!all.is_full(1_001 * PART_OF_SEND_WINDOW));
        all.gathered = MOST_GATHERED as usize - 1;
        assert!(!all.is_full(u64::MAX));
        all.gathered += 1;
        assert!(all.is_full(u64::MAX));
    }

    #[test]
    fn no_stream_is_listed_once_nothing_more_is_sent() {
        let (mut all, mut stream) = (Gathering::default(), Gather::default());
        let id = StreamId::new(Side::Client, Dir::Bi, 0);
        stream.add(&mut all, id, &[0; 100], LEAST_CHUNK);
        all.clear();
        assert_eq!(all.take_listed(), []);
    }

    #[test]
    fn a_write_is_gathered_while_others_wait_before_it() {
        let id = StreamId::new(Side::Client, Dir::Bi, 0);
        let (mut all, mut stream) = (Gathering::default(), Gather::default());
        let wants = |stream: &Gather, all: &Gathering, len| {
            stream.wants(all, len, LEAST_CHUNK, NonZeroU32::new(8))
        };
        assert!(!wants(&stream, &all, 1), "the first one goes on");
        stream.note_direct(&mut all, 5000, TURN);
        assert!(
            stream.wants(&all, 1, LEAST_CHUNK, TURN),
            "the second does not"
        );
        assert!(!stream.wants(&all, LEAST_CHUNK, LEAST_CHUNK, TURN));
        all.note_sent(4999);
        assert!(wants(&stream, &all, 1), "one byte is left");
        all.note_sent(1);
        assert!(!wants(&stream, &all, 1), "all may be sent");

        stream.note_direct(&mut all, 200_000, TURN);
        assert_eq!(stream.add(&mut all, id, &[0; 100], LEAST_CHUNK), 100);
        assert!(wants(&stream, &all, LARGEST_CHUNK), "it comes after those");
        assert_eq!(all.take_listed(), [id]);
        assert!(
            stream.unlist(&mut all, id),
            "more than a turn can send is before it"
        );
        all.note_sent(100_000);
        assert_eq!(all.take_listed(), [id]);
        assert!(!stream.unlist(&mut all, id), "the turn may get there");
        assert_eq!(all.take_listed(), []);
    }
}
