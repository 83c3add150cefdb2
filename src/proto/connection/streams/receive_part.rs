//! The receiving part of a stream (RFC 9000 §3.2): from quinn-proto to the application.

use quinn_proto::{Chunks, Connection, ReadError, StreamId, VarInt};

use super::{
    backlog::{Arrival, Backlog, Share},
    places::Room,
    reassembly::Reassembly,
};

/// The state of the receiving part of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RecvState {
    #[default]
    Open,
    /// Everything was taken out of quinn-proto; the application has not read all of it.
    Complete,
    Finished,
    Reset(u64),
    /// We sent STOP_SENDING.
    Stopped,
}

/// The receiving part of a stream.
///
/// As long as the application keeps up and nothing is missing, it reads from quinn-proto, without
/// another copy in between. What piles up is taken out of quinn-proto. So quinn-proto has few
/// pieces to sort whatever the peer sends, and keeps no datagram for long.
///
/// quinn-proto hands out data in the order of the stream, or in any order. A stream is read in
/// order until a pile behind a gap has to be taken; then in any order, for good. From then on
/// quinn-proto knows what has arrived, and drops duplicates as they come. It pays for that with a
/// search for each frame.
#[derive(Default)]
pub(super) struct ReceivePart {
    pub(super) state: RecvState,
    reassembly: Reassembly,
    backlog: Backlog,
    is_unordered: bool,
    /// How many pieces quinn-proto may have.
    pub(super) room: Room,
    /// Whether its pile stays in quinn-proto until its reader, which is behind, has caught up.
    pub(super) is_left: bool,
    /// Jumps of the packet number that the connection had seen at the last frame of this stream.
    pub(super) jumps_seen: u64,
    /// Frames that came after another jump since the pile was left. Each may have a gap before it.
    pub(super) frames_behind_jumps: u64,
    /// Whether it is to be taken out when all frames of the datagram are noted.
    pub(super) is_due: bool,
    /// Up to where frames that filled their packets had data.
    full_until: u64,
    /// The final size (RFC 9000 §4.5), if the peer has told it, so that it is over for quinn-proto
    /// when we stop it.
    pub(super) final_size: Option<u64>,
    /// Whether the peer has reset it, which a read need not have met.
    pub(super) is_reset: bool,
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

/// How much is taken out of quinn-proto.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion {
    /// Bytes that are taken at once, at most.
    pub(super) step: usize,
    /// Memory of pieces that may stay behind a gap, if they are few.
    pub(super) behind_gap: u64,
}

/// What was taken out of quinn-proto.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Bytes that the application has got, from our memory or from quinn-proto.
    pub(super) filled: usize,
    /// Bytes that quinn-proto has handed out, and given credit for.
    pub(super) bytes: u64,
    pub(super) pieces: u32,
    /// Whether the peer is to be told of the credit.
    pub(super) transmit: bool,
    /// Whether there is more.
    pub(super) is_unfinished: bool,
}

/// The frames of a stream that have arrived since it was last taken out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remaining {
    frames: u32,
    most_pieces: u32,
    is_unordered: bool,
    may_be_merged: bool,
}

impl Remaining {
    /// The most pieces of it that quinn-proto can have had at once. `found` is how many there were
    /// in the end, and of how many bytes together; `None` if there was a reset instead.
    pub(super) fn pieces(self, found: Option<(u32, u64)>) -> u32 {
        let (found, bytes) = match found {
            Some(found) => found,
            // The only one is the reset.
            None if self.frames <= 1 => return 0,
            None => return self.most_pieces,
        };
        if !self.is_unordered {
            // Duplicates are not found, but have taken places.
            return found.max(self.frames);
        }
        if !self.may_be_merged {
            return found;
        }
        // Pieces are merged at the ends of frames, and have a byte or more each.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        (found + 2 * self.frames).min(self.most_pieces).min(bytes)
    }
}

impl ReceivePart {
    /// Notes that this datagram had a frame of the stream, or its end. Returns how much more memory
    /// quinn-proto may hold for the stream.
    ///
    /// `fill` is where the data of the frame begins and ends, if it fills its packet.
    pub(super) fn note(&mut self, arrival: Arrival, fill: Option<(u64, u64)>) -> u64 {
        if self.state != RecvState::Open {
            return 0;
        }
        let gaps = self.reassembly.size().gaps;
        let from = self.full_until.max(self.taken_until());
        // What came before can cut a frame of a stream that is read in any order.
        let may_be_cut = gaps > 0 || (self.is_unordered && !self.backlog.is_tight());
        let share = match fill {
            Some((start, end)) if start >= from && !may_be_cut => {
                self.full_until = end;
                let bytes = u16::try_from(end - start).unwrap_or(u16::MAX);
                if start == from {
                    Share::Next(bytes)
                } else {
                    Share::Full(bytes)
                }
            }
            _ => Share::Part,
        };
        let before = self.backlog.held();
        let left = self.left();
        self.backlog
            .add(arrival, gaps, share, left, self.is_unordered);
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

    /// Whether what piles up must not be left in quinn-proto.
    pub(super) fn is_crumbled(&self) -> bool {
        self.backlog.is_crumbled(self.is_unordered, self.left())
    }

    /// Whether more pieces may be in quinn-proto than it has room for, so that they should be taken
    /// out.
    pub(super) fn is_pile(&self) -> bool {
        self.has_more_than(self.room.pieces().into())
    }

    /// Whether half of a pile may be left when it was taken out as far as there is no gap. Some
    /// pieces may only be counted: they were read, or quinn-proto has dropped them.
    fn is_half_a_pile(&self, portion: Portion) -> bool {
        self.has_more_than(u32::from(self.room.pieces()) / 2)
            || self.backlog.held() > portion.behind_gap
    }

    fn has_more_than(&self, pieces: u32) -> bool {
        self.backlog.most_pieces(false) > pieces || self.backlog.is_inexact()
    }

    /// How many pieces quinn-proto has, at most.
    pub(super) fn most_pieces(&self) -> u32 {
        self.backlog.most_pieces(self.is_unordered)
    }

    /// What has arrived since it was last taken out.
    pub(super) fn remaining(&self) -> Remaining {
        Remaining {
            frames: self.backlog.frames(),
            most_pieces: self.most_pieces(),
            is_unordered: self.is_unordered,
            may_be_merged: self.backlog.may_be_merged(),
        }
    }

    /// Whether quinn-proto has a list of what has arrived, of which we do not know how long it is.
    pub(super) fn has_uncounted_gaps(&self) -> bool {
        self.state == RecvState::Open && self.is_unordered && !self.backlog.is_empty()
    }

    /// Gaps in what was taken out.
    pub(super) fn gaps(&self) -> u32 {
        self.reassembly.size().gaps
    }

    /// Whether the peer may send more on it, as far as we know.
    pub(super) fn is_open(&self) -> bool {
        self.state == RecvState::Open
    }

    /// The offset of the next byte that the application reads.
    pub(super) fn position(&self) -> u64 {
        self.reassembly.next()
    }

    /// Whether the application has read all that can be read.
    pub(super) fn has_caught_up(&self) -> bool {
        self.ready() == 0 && !self.backlog.is_news()
    }

    /// Bytes in our memory that the application may read.
    pub(super) fn ready(&self) -> u64 {
        self.reassembly.ready()
    }

    /// Bytes in quinn-proto of frames that fill their packets, if all have followed each other.
    fn left(&self) -> u64 {
        self.full_until.saturating_sub(self.taken_until())
    }

    /// Bytes that were taken out of quinn-proto.
    pub(super) fn taken(&self) -> u64 {
        self.position() + self.reassembly.size().bytes
    }

    /// Whether quinn-proto has dropped what the application did not read, and has given credit for
    /// it.
    pub(super) fn is_dropped(&self) -> bool {
        matches!(self.state, RecvState::Reset(_) | RecvState::Stopped)
    }

    /// Up to where everything was taken out of quinn-proto.
    fn taken_until(&self) -> u64 {
        self.position() + self.ready()
    }

    /// Whether something was taken that has a gap before it, and the gap is still open.
    pub(super) fn lacks_next(&self) -> bool {
        self.state == RecvState::Open && self.reassembly.lacks_next()
    }

    /// Fills `buf` with as much as there is, and notes the end of the stream if it is reached. An
    /// empty `buf` reaches it too.
    ///
    /// Also begins to move data behind a gap to our memory.
    pub(super) fn read(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
        buf: &mut [u8],
        portion: Portion,
    ) -> Taken {
        let mut taken = Taken::default();
        if self.meets_reset(quic, id) {
            taken.transmit = true;
            return taken;
        }
        taken.filled = self.reassembly.read(buf);
        let has_more = self.state == RecvState::Open && self.backlog.is_news();
        if has_more && buf.is_empty() && self.reassembly.is_empty() {
            self.look_for_end(quic, id, &mut taken);
        } else if has_more && taken.filled < buf.len() {
            self.read_on(quic, id, buf, &mut taken);
            if self.is_behind_a_gap() || self.may_come_apart() {
                let moved = self.take_out(quic, id, portion, false);
                taken.bytes += moved.bytes;
                taken.transmit |= moved.transmit;
                taken.is_unfinished = moved.is_unfinished;
            }
        }
        if self.state == RecvState::Complete && self.reassembly.is_empty() {
            self.state = RecvState::Finished;
        }
        taken
    }

    /// Takes up to a step out of quinn-proto. A few pieces behind a gap stay there, unless
    /// `everything` is to be taken.
    pub(super) fn take_out(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
        portion: Portion,
        everything: bool,
    ) -> Taken {
        let mut taken = Taken::default();
        while self.state == RecvState::Open {
            let mut recv_stream = quic.recv_stream(id);
            let Ok(mut chunks) = recv_stream.read(!self.is_unordered) else {
                self.stop();
                break;
            };
            let end = self.take_chunks(&mut chunks, portion.step, &mut taken);
            taken.transmit |= chunks.finalize().should_transmit();
            match end {
                None => {
                    taken.is_unfinished = true;
                    break;
                }
                Some(End::Blocked) if !self.is_unordered && !self.backlog.is_empty() => {
                    if !everything && !self.is_half_a_pile(portion) {
                        self.meet(End::Blocked);
                        break;
                    }
                    // All bytes in order were read. Otherwise quinn-proto would return them again
                    // and count them twice.
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

    /// Whether quinn-proto may hold less than is counted, and not only because the application does
    /// not read: what is left lies behind a gap, was dropped as a duplicate, shares its datagrams
    /// with other streams, or was merged.
    pub(super) fn may_overcount(&self) -> bool {
        self.state == RecvState::Open && self.backlog.may_overcount() && self.backlog.held() > 0
    }

    /// Notes that the application reads no more of it.
    pub(super) fn stop(&mut self) {
        self.state = RecvState::Stopped;
        self.discard();
    }

    /// Drops what has arrived.
    fn discard(&mut self) {
        self.reassembly.clear();
        self.backlog.clear();
    }

    /// Notes a reset of the stream, and returns whether there was one. Data in our memory is then
    /// dropped, as quinn-proto drops its own.
    fn meets_reset(&mut self, quic: &mut Connection, id: StreamId) -> bool {
        let may_have =
            self.state == RecvState::Open && self.backlog.is_news() && !self.reassembly.is_empty();
        if may_have && let Ok(Some(code)) = quic.recv_stream(id).received_reset() {
            self.meet(End::Reset(code));
            return true;
        }
        false
    }

    /// Whether quinn-proto may copy what is left of a pile when the next frame comes, so few bytes
    /// that it does not copy large pieces, and more pieces than it puts up with stay apart.
    fn may_come_apart(&self) -> bool {
        self.is_left && self.is_pile() && self.backlog.is_copied_again(self.left())
    }

    /// Whether everything that quinn-proto still has lies behind a gap, and is to be taken out: it
    /// may be much, or other data behind a gap was taken before.
    fn is_behind_a_gap(&self) -> bool {
        let is_blocked = !self.backlog.is_news();
        (self.lacks_next() && !is_blocked)
            || (self.state == RecvState::Open && is_blocked && self.is_pile())
    }

    /// Notes the end or a reset if that is all that quinn-proto has.
    fn look_for_end(&mut self, quic: &mut Connection, id: StreamId, taken: &mut Taken) {
        let mut recv_stream = quic.recv_stream(id);
        let Ok(mut chunks) = recv_stream.read(!self.is_unordered) else {
            self.stop();
            return;
        };
        if let Err(end) = next(&mut chunks, 0) {
            self.meet(end);
        }
        taken.transmit |= chunks.finalize().should_transmit();
    }

    fn read_on(&mut self, quic: &mut Connection, id: StreamId, buf: &mut [u8], taken: &mut Taken) {
        let mut recv_stream = quic.recv_stream(id);
        let Ok(mut chunks) = recv_stream.read(!self.is_unordered) else {
            // It is over for quinn-proto, which does not tell how.
            self.stop();
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
                // Chunks come by offset, so all later ones are behind this gap too.
                self.reassembly.insert(offset, &bytes);
                break;
            }
            buf[taken.filled..][..bytes.len()].copy_from_slice(&bytes);
            taken.filled += bytes.len();
            self.reassembly.skip(bytes.len());
            if bytes.len() == wanted {
                // A read often ends where a piece ends. Nothing is left of it if nothing comes
                // next, or what comes next is elsewhere in memory. Of pieces that may overlap,
                // another one may come before what is left of this one.
                let after = bytes.as_ptr_range().end;
                match next(&mut chunks, 0) {
                    Ok((_, next)) if next.as_ptr() != after && self.backlog.is_tight() => {
                        self.took(0, true);
                    }
                    Ok(_) => {}
                    Err(end) => {
                        self.took(0, true);
                        self.meet(end);
                    }
                }
            }
            taken.filled += self.reassembly.read(&mut buf[taken.filled..]);
        }
        // Here the peer gets credit for what the application reads. A slow reader stops its sender.
        taken.transmit |= chunks.finalize().should_transmit();
    }

    /// Moves bytes to our memory until `taken` has reached `most`. Returns why there are no more,
    /// or `None` if there may be.
    fn take_chunks(
        &mut self,
        chunks: &mut Chunks<'_>,
        most: usize,
        taken: &mut Taken,
    ) -> Option<End> {
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
        // Read in order, a frame is at most one piece. Otherwise it may be any number, so all
        // frames count until nothing is left.
        self.backlog.took(bytes, is_whole_piece, !self.is_unordered);
        if !self.is_unordered && self.backlog.is_empty() {
            self.backlog.empty();
        }
    }

    /// Notes why quinn-proto has no more bytes to hand out.
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

/// The reason why there are no more bytes.
enum End {
    /// Nothing more has arrived, or only what has a gap before it if the stream is read in order.
    Blocked,
    /// The stream has ended.
    Complete,
    /// The peer has reset the stream, with this code.
    Reset(VarInt),
}

/// The next bytes, at most `most`, and their offset in the stream.
fn next(chunks: &mut Chunks<'_>, most: usize) -> Result<(u64, bytes::Bytes), End> {
    match chunks.next(most) {
        Ok(Some(chunk)) => Ok((chunk.offset, chunk.bytes)),
        Ok(None) => Err(End::Complete),
        Err(ReadError::Blocked) => Err(End::Blocked),
        Err(ReadError::Reset(code)) => Err(End::Reset(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMAINING: Remaining = Remaining {
        frames: 30,
        most_pieces: 75,
        is_unordered: true,
        may_be_merged: true,
    };

    #[test]
    fn duplicates_have_taken_places_if_a_stream_is_read_in_order() {
        let remaining = Remaining {
            is_unordered: false,
            ..REMAINING
        };
        assert_eq!(remaining.pieces(Some((7, 1000))), 30);
        assert_eq!(remaining.pieces(Some((40, 1000))), 40);
    }

    #[test]
    fn pieces_that_may_have_been_merged_count() {
        assert_eq!(REMAINING.pieces(Some((7, 1000))), 7 + 2 * 30);
        // Not more than can have been, of a byte each.
        assert_eq!(REMAINING.pieces(Some((40, 1000))), 75);
        assert_eq!(REMAINING.pieces(Some((7, 50))), 50);
        let few = Remaining {
            may_be_merged: false,
            ..REMAINING
        };
        assert_eq!(few.pieces(Some((7, 1000))), 7);
    }

    #[test]
    fn reset_hides_all_pieces_but_is_none() {
        assert_eq!(REMAINING.pieces(None), 75);
        let reset = Remaining {
            frames: 1,
            most_pieces: 40,
            ..REMAINING
        };
        assert_eq!(reset.pieces(None), 0);
    }
}
