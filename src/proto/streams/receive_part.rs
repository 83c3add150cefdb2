//! The receiving part of a stream (RFC 9000 §3.2): from quinn-proto to the application.

use quinn_proto::{Chunks, Connection, ReadError, StreamId, VarInt};

use super::{
    backlog::{Arrival, Backlog},
    reassembly::Reassembly,
};

/// How the receiving part of a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RecvState {
    #[default]
    Open,
    /// quinn-proto has nothing more to give; the application has not read it all.
    Complete,
    Finished,
    Reset(u64),
    /// We sent STOP_SENDING.
    Stopped,
}

/// The receiving part of a stream.
///
/// The application reads from quinn-proto, without another copy between the two, as long as it
/// keeps up and nothing is missing. What piles up is taken out of quinn-proto. Without it,
/// quinn-proto has few pieces to sort whatever the peer sends, and keeps no datagram for long.
///
/// quinn-proto hands out what has arrived in the order of the stream, or in any. Which one is
/// chosen once: *any* when something was taken that had a gap before it. From then on quinn-proto
/// knows what has arrived and drops duplicates as they come.
#[derive(Default)]
pub(super) struct ReceivePart {
    pub(super) state: RecvState,
    reassembly: Reassembly,
    backlog: Backlog,
    is_unordered: bool,
    /// More pieces than usual were allowed to pile up once. quinn-proto never gives the memory for
    /// their places back.
    pub(super) is_large: bool,
    /// Its pile is left to a reader that is behind.
    pub(super) is_left: bool,
    /// Jumps of the packet number that the connection had seen by the last frame of this stream.
    pub(super) jumps_seen: u64,
    /// Frames since the pile is left that came after another jump. Each may have a gap before it.
    pub(super) frames_behind_jumps: u64,
    /// It is to be drained.
    pub(super) is_due: bool,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proto) struct Holding {
    /// Bytes in our memory.
    pub(in crate::proto) bytes: u64,
    pub(in crate::proto) pages: u32,
    pub(in crate::proto) gaps: u32,
    /// Memory in quinn-proto.
    pub(in crate::proto) backlog: u64,
}

/// What was taken out of quinn-proto.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Bytes that the application has got, from wherever.
    pub(super) filled: usize,
    /// Bytes that quinn-proto has handed out, and given credit for.
    pub(super) bytes: u64,
    pub(super) pieces: u32,
    /// Whether the peer is to be told of the credit.
    pub(super) transmit: bool,
    /// Whether there is more.
    pub(super) is_unfinished: bool,
}

impl ReceivePart {
    /// A frame of it, or its end, was in this datagram; returns how much more memory quinn-proto may
    /// hold for it.
    pub(super) fn note(&mut self, arrival: Arrival) -> u64 {
        if self.state != RecvState::Open {
            return 0;
        }
        let before = self.backlog.held();
        self.backlog.add(arrival, self.reassembly.size().gaps);
        self.backlog.held() - before
    }

    pub(super) fn holding(&self) -> Holding {
        let size = self.reassembly.size();
        Holding {
            bytes: size.bytes,
            pages: size.pages,
            gaps: size.gaps,
            backlog: self.backlog.held(),
        }
    }

    pub(super) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Bytes in our memory that the application may read.
    pub(super) fn ready(&self) -> u64 {
        self.reassembly.ready()
    }

    /// Whether something was taken that had a gap before it, and what fills it was not.
    pub(super) fn lacks_next(&self) -> bool {
        self.state == RecvState::Open && self.reassembly.lacks_next()
    }

    /// Fills `buf`, as far as there is anything, and notes the end if it has come to that.
    ///
    /// What lies behind a gap is moved to our memory on the way, up to so many bytes.
    pub(super) fn read(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
        buf: &mut [u8],
        most: usize,
    ) -> Taken {
        let mut taken = Taken::default();
        if self.meets_reset(quic, id) {
            taken.transmit = true;
            return taken;
        }
        taken.filled = self.reassembly.read(buf);
        if taken.filled < buf.len() && self.state == RecvState::Open && self.backlog.is_news() {
            self.read_on(quic, id, buf, &mut taken);
            if self.is_behind_a_gap() {
                let moved = self.drain(quic, id, most);
                taken.bytes += moved.bytes;
                taken.transmit |= moved.transmit;
            }
        }
        if self.state == RecvState::Complete && self.reassembly.is_empty() {
            self.state = RecvState::Finished;
        }
        taken
    }

    /// Takes up to so many bytes out of quinn-proto.
    pub(super) fn drain(&mut self, quic: &mut Connection, id: StreamId, most: usize) -> Taken {
        let mut taken = Taken::default();
        while self.state == RecvState::Open {
            let mut recv_stream = quic.recv_stream(id);
            let Ok(mut chunks) = recv_stream.read(!self.is_unordered) else {
                self.backlog.clear();
                break;
            };
            let end = self.take_out(&mut chunks, most, &mut taken);
            taken.transmit |= chunks.finalize().should_transmit();
            match end {
                None => {
                    taken.is_unfinished = true;
                    break;
                }
                Some(End::Blocked) if !self.is_unordered && !self.backlog.is_empty() => {
                    // Whatever lies before the next byte is out of the way, as it has to be: read
                    // in any order, it would come again, and count.
                    self.is_unordered = true;
                }
                Some(end) => {
                    self.meet(end);
                    self.backlog.clear();
                    break;
                }
            }
        }
        taken
    }

    /// Forgets what has arrived.
    pub(super) fn discard(&mut self) {
        self.reassembly.clear();
        self.backlog.clear();
    }

    /// Whether the peer has reset the stream. What is in our memory goes the way of what
    /// quinn-proto had.
    fn meets_reset(&mut self, quic: &mut Connection, id: StreamId) -> bool {
        let may_have =
            self.state == RecvState::Open && self.backlog.is_news() && !self.reassembly.is_empty();
        if may_have && let Ok(Some(code)) = quic.recv_stream(id).received_reset() {
            self.meet(End::Reset(code));
            return true;
        }
        false
    }

    /// Whether all that quinn-proto still has lies behind a gap, and there may be much of it.
    fn is_behind_a_gap(&self) -> bool {
        let is_blocked = !self.backlog.is_news();
        (self.lacks_next() && !is_blocked)
            || (self.state == RecvState::Open && is_blocked && self.backlog.is_pile())
    }

    fn read_on(&mut self, quic: &mut Connection, id: StreamId, buf: &mut [u8], taken: &mut Taken) {
        let mut recv_stream = quic.recv_stream(id);
        let Ok(mut chunks) = recv_stream.read(!self.is_unordered) else {
            // It is over for quinn-proto, and nobody knows how.
            self.state = RecvState::Stopped;
            return;
        };
        while taken.filled < buf.len() {
            let wanted = buf.len() - taken.filled;
            let (offset, bytes) = match next(&mut chunks, wanted) {
                Ok(chunk) => chunk,
                Err(end) => {
                    self.meet(end);
                    break;
                }
            };
            taken.bytes += bytes.len() as u64;
            self.took(bytes.len(), bytes.len() < wanted);
            if offset != self.reassembly.next() {
                // Read in any order, what comes first comes first: all the rest is behind this gap,
                // too.
                self.reassembly.insert(offset, &bytes);
                break;
            }
            buf[taken.filled..][..bytes.len()].copy_from_slice(&bytes);
            taken.filled += bytes.len();
            self.reassembly.skip(bytes.len());
            taken.filled += self.reassembly.read(&mut buf[taken.filled..]);
        }
        // Credit goes back to the peer for what the application reads and nothing else: a slow
        // reader stops its sender.
        taken.transmit |= chunks.finalize().should_transmit();
    }

    /// Moves up to `most` bytes to our memory, with those that were `taken` before; tells what it
    /// met first, if anything.
    fn take_out(&mut self, chunks: &mut Chunks<'_>, most: usize, taken: &mut Taken) -> Option<End> {
        loop {
            let wanted = most - (taken.bytes as usize).min(most);
            if wanted == 0 {
                return None;
            }
            let (offset, bytes) = match next(chunks, wanted) {
                Ok(chunk) => chunk,
                Err(end) => return Some(end),
            };
            taken.bytes += bytes.len() as u64;
            taken.pieces += 1;
            self.took(bytes.len(), bytes.len() < wanted);
            self.reassembly.insert(offset, &bytes);
        }
    }

    fn took(&mut self, bytes: usize, is_whole_piece: bool) {
        self.backlog.took(bytes, is_whole_piece);
        // In order, a frame is one piece at most.
        if !self.is_unordered && self.backlog.is_empty() {
            self.backlog.empty();
        }
    }

    fn meet(&mut self, end: End) {
        match end {
            End::Blocked => {
                if self.is_unordered {
                    self.backlog.clear();
                } else {
                    self.backlog.block();
                }
            }
            End::Complete => {
                self.state = RecvState::Complete;
                self.backlog.clear();
            }
            End::Reset(code) => {
                self.state = RecvState::Reset(code.into_inner());
                self.discard();
            }
        }
    }
}

/// Why there are no bytes.
enum End {
    Blocked,
    Complete,
    Reset(VarInt),
}

/// The bytes that come next, at most so many, and where in the stream.
fn next(chunks: &mut Chunks<'_>, most: usize) -> Result<(u64, bytes::Bytes), End> {
    match chunks.next(most) {
        Ok(Some(chunk)) => Ok((chunk.offset, chunk.bytes)),
        Ok(None) => Err(End::Complete),
        Err(ReadError::Blocked) => Err(End::Blocked),
        Err(ReadError::Reset(code)) => Err(End::Reset(code)),
    }
}
