//! Received data of all streams of a connection: how much there is, and when it is taken out of
//! quinn-proto.

use std::{
    mem,
    time::{Duration, Instant},
};

use quinn_proto::{Connection, StreamId};

#[cfg(test)]
use super::receive_part::Holding;
use super::{
    Streams,
    backlog::{Arrival, PILE},
    growth::ReceiveGrowth,
    reassembly::PAGE_BYTES,
    receive_part::{ReceivePart, Taken},
    window::ReceiveWindow,
};

/// Most pieces that may be found when a pile is taken out: the pile, and as many one-byte frames as
/// a datagram of 1472 bytes has room for.
///
/// The memory that quinn-proto had for their places, 56 bytes each, it keeps for later streams;
/// half of what it allocates may never have been used. With 256 streams that is 10 MB at most.
const MOST_PIECES: u32 = PILE as u32 + 224;

/// Streams, in the life of a connection, that may have more pieces than that, up to the 2048 that
/// quinn-proto has at most.
///
/// A stream that nobody reads has a window's worth of them, if it is left alone.
const LARGE_STREAMS: u8 = 8;

/// By which part of a stream's window the connection's must be larger, or other streams have
/// nothing that could be kept for them.
const LEAST_FOR_OTHERS: u64 = 8;

/// Memory for received data beyond the receive window: datagrams are larger than what they carry,
/// and the first and last [page](PAGE_BYTES) of each stream need not be full.
const SLACK_BYTES: u64 = 1536 * 1024;

/// Frames of a stream that may come after a jump of the packet number while its pile is left in
/// quinn-proto, which ends the connection at 1,024 gaps. A frame that follows the stream's last one
/// without a jump has no gap before it, unless packets have overtaken each other by far.
const MOST_BEHIND_JUMPS: u64 = 512;

/// Gaps that a connection may have in any case, with a little in each packet.
const LEAST_GAPS: u64 = 4096;

/// Bytes of the receive window for one more gap.
///
/// A sender that loses every other packet of 1200 bytes, the smallest there are, has one for each
/// two of them. A gap takes some 90 bytes, half of them in quinn-proto.
const BYTES_PER_GAP: u64 = 2400;

/// A window that has grown further has no more gaps for it, so that all that is beside the window is
/// 16 MiB at most.
const MOST_WINDOW_FOR_GAPS: u64 = 48_000_000;

/// What a gap counts for in bytes of memory.
const GAP_BYTES: u64 = 90;

/// What the streams of a connection hold of received data.
pub(super) struct Receiving {
    window: ReceiveWindow,
    growth: ReceiveGrowth,
    /// What they were first.
    first: ReceiveWindows,
    /// What the application has read.
    read: u64,
    /// How far behind a reader may be before no more is taken out for it.
    read_ahead: u64,
    /// Memory of datagrams in quinn-proto, and what of ours.
    backlog: u64,
    pages: u32,
    gaps: u32,
    /// The last datagram.
    arrival: Arrival,
    /// Packet numbers that did not follow the one before them.
    jumps: u64,
    /// Streams to be drained when all of its frames are noted.
    due: u32,
    is_arriving: bool,
    large_left: u8,
    is_too_fragmented: bool,
    /// Pieces that were moved to our memory so far.
    #[cfg(test)]
    moved: u64,
}

/// The windows for received data that peers are given (RFC 9000 §4.1), in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindows {
    pub(crate) connection: u64,
    pub(crate) stream: u64,
    /// What a stream's window may grow to, and the connection's in proportion.
    pub(crate) largest_stream: u64,
}

impl ReceiveWindows {
    /// With so much for a stream, and as much for others as before, in proportion.
    fn grown(self, stream: u64) -> Self {
        let connection = self.connection as f64 / self.stream as f64 * stream as f64;
        Self {
            connection: connection as u64,
            stream,
            ..self
        }
    }

    /// How far behind the reader of a stream may be before no more is taken out for it: half of
    /// what is beyond the stream's own window. The other half is left to other streams.
    fn read_ahead(self) -> u64 {
        let beyond = self.connection.saturating_sub(self.stream);
        if beyond < self.stream / LEAST_FOR_OTHERS {
            return u64::MAX;
        }
        beyond / 2
    }
}

impl Receiving {
    pub(super) fn new(windows: ReceiveWindows) -> Self {
        Self {
            window: ReceiveWindow::new(windows.connection),
            growth: ReceiveGrowth::new(windows.stream, windows.largest_stream),
            first: windows,
            read: 0,
            read_ahead: windows.read_ahead(),
            backlog: 0,
            pages: 0,
            gaps: 0,
            arrival: Arrival::default(),
            jumps: 0,
            due: 0,
            is_arriving: false,
            large_left: LARGE_STREAMS,
            is_too_fragmented: false,
            #[cfg(test)]
            moved: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn received(&self) -> (Holding, u64) {
        let held = Holding {
            bytes: self.window.withheld(),
            pages: self.pages,
            gaps: self.gaps,
            backlog: self.backlog,
        };
        (held, self.moved)
    }

    /// Memory for received data, at most.
    pub(super) fn held_bytes(&self) -> u64 {
        self.data_bytes() + u64::from(self.gaps) * GAP_BYTES
    }

    /// Whether the peer has cut its data into more pieces than there is a reason for.
    pub(super) fn is_too_fragmented(&self) -> bool {
        self.is_too_fragmented
    }

    /// Does something to a stream's receiving part, and to the books.
    pub(super) fn change<T>(
        &mut self,
        part: &mut ReceivePart,
        change: impl FnOnce(&mut ReceivePart) -> T,
    ) -> T {
        let before = part.holding();
        let result = change(part);
        let after = part.holding();
        self.backlog = self.backlog - before.backlog + after.backlog;
        self.pages = self.pages - before.pages + after.pages;
        self.gaps = self.gaps - before.gaps + after.gaps;
        self.window.withhold(before.bytes, after.bytes);
        result
    }

    /// Notes a frame of a stream; `true` if the stream is to be drained before its reader is woken.
    pub(super) fn note(&mut self, part: &mut ReceivePart) -> bool {
        if !self.is_arriving {
            return false;
        }
        self.backlog += part.note(self.arrival);
        if part.jumps_seen != self.jumps {
            part.jumps_seen = self.jumps;
            part.frames_behind_jumps += 1;
        }
        if !part.is_due && (part.lacks_next() || self.wants(part)) {
            part.is_due = true;
            self.due += 1;
        }
        part.is_due
    }

    /// Fills `buf` with what a stream has.
    pub(super) fn read(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
        part: &mut ReceivePart,
        buf: &mut [u8],
    ) -> Taken {
        let step = self.window.step() as usize;
        let taken = self.change(part, |part| part.read(quic, id, buf, step));
        self.window.handed_out(taken.bytes);
        self.read += taken.filled as u64;
        taken
    }

    fn data_bytes(&self) -> u64 {
        self.backlog + u64::from(self.pages) * PAGE_BYTES as u64
    }

    fn most_gaps(&self) -> u64 {
        let grown = self.window.largest().min(MOST_WINDOW_FOR_GAPS);
        LEAST_GAPS + grown.max(self.first.connection) / BYTES_PER_GAP
    }

    fn is_over(&self) -> bool {
        self.backlog > 0 && self.data_bytes() > self.window.size().saturating_add(SLACK_BYTES)
    }

    /// Whether a stream's pile is to be taken out.
    ///
    /// It is left to a reader that is far behind, until it has caught up. To take it out gives
    /// credit for the stream, which would have the connection's in the end; the other streams would
    /// stand still for one that nobody reads. There may not be many of those, and in what they have
    /// must not be much to sort.
    fn wants(&mut self, part: &mut ReceivePart) -> bool {
        let backlog = *part.backlog();
        if !backlog.is_pile() {
            part.is_left = false;
            return false;
        }
        let is_behind = part.is_left || part.ready() >= self.read_ahead;
        if !part.is_left {
            part.frames_behind_jumps = 0;
        }
        let has_few_gaps =
            part.holding().gaps <= PILE.into() && part.frames_behind_jumps <= MOST_BEHIND_JUMPS;
        let is_easy = !backlog.is_crumbled() && has_few_gaps;
        part.is_left = is_behind && is_easy && self.allow(part);
        !part.is_left
    }

    /// Whether a stream may have many pieces in quinn-proto.
    fn allow(&mut self, part: &mut ReceivePart) -> bool {
        if !part.is_large {
            let Some(left) = self.large_left.checked_sub(1) else {
                return false;
            };
            self.large_left = left;
            part.is_large = true;
        }
        true
    }
}

/// For the connection.
impl Streams<'_> {
    /// A datagram has arrived that keeps so many bytes of memory for as long as anything of it is
    /// kept. The events that come next are about it.
    ///
    /// `jumps` is how often a packet number did not follow the largest one before it, so far.
    pub(crate) fn begin_arrival(&mut self, held: usize, jumps: u64) {
        let receiving = &mut self.streams.receiving;
        receiving.jumps = jumps;
        receiving.arrival = Arrival {
            number: receiving.arrival.number.wrapping_add(1),
            held: u32::try_from(held).unwrap_or(u32::MAX),
        };
        receiving.is_arriving = true;
    }

    /// All that the datagram has brought is noted.
    pub(crate) fn end_arrival(&mut self) {
        self.streams.receiving.is_arriving = false;
        if mem::take(&mut self.streams.receiving.due) > 0 {
            self.drain_due();
        }
        while self.streams.receiving.is_over() {
            let largest = (self.streams.states.iter())
                .map(|(&id, stream)| (stream.receive.backlog().held(), id))
                .max()
                .filter(|&(held, _)| held > 0);
            match largest {
                Some((_, id)) => self.drain(id),
                None => break,
            }
        }
    }

    fn drain_due(&mut self) {
        let due: Vec<_> = (self.streams.states.iter_mut())
            .filter_map(|(&id, stream)| mem::take(&mut stream.receive.is_due).then_some(id))
            .collect();
        for id in due {
            self.drain(id);
            if let Some(stream) = self.streams.states.get_mut(&id)
                && !stream.receive.lacks_next()
            {
                self.turns.wake(&mut stream.reader);
            }
        }
    }

    /// A frame of the stream has arrived.
    pub(super) fn on_readable(&mut self, id: StreamId) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        if !self.streams.receiving.note(&mut stream.receive) {
            self.turns.wake(&mut stream.reader);
        }
    }

    /// Memory for received data shall not grow beyond so many bytes.
    pub(crate) fn set_receive_limit(&mut self, bytes: u64) {
        self.streams.receiving.window.set_limit(bytes);
        self.settle();
    }

    /// Lets windows grow with what is read in a round trip. Returns a stream's window, if it changes.
    pub(crate) fn look_at_receive_windows(&mut self, now: Instant, rtt: Duration) -> Option<u64> {
        let receiving = &mut self.streams.receiving;
        let is_in_use = receiving.data_bytes() > receiving.window.size() / 8;
        let stream = (receiving.growth).look(now, rtt, receiving.read, is_in_use)?;
        let windows = receiving.first.grown(stream);
        receiving.window.set_size(windows.connection);
        receiving.read_ahead = windows.read_ahead();
        self.settle();
        Some(stream)
    }

    /// Has the peer get as much credit as is free.
    pub(super) fn settle(&mut self) {
        if self.streams.receiving.window.settle(self.quic) {
            self.turns.want();
        }
    }

    /// Takes everything out of quinn-proto that it has of a stream.
    fn drain(&mut self, id: StreamId) {
        let mut pieces = 0;
        loop {
            let Some(stream) = self.streams.states.get_mut(&id) else {
                return;
            };
            let receiving = &mut self.streams.receiving;
            let step = receiving.window.step() as usize;
            let taken =
                receiving.change(&mut stream.receive, |part| part.drain(self.quic, id, step));
            receiving.window.handed_out(taken.bytes);
            pieces += taken.pieces;
            #[cfg(test)]
            {
                receiving.moved += u64::from(taken.pieces);
            }
            if taken.transmit {
                self.turns.want();
            }
            self.settle();
            if !taken.is_unfinished {
                break;
            }
        }
        let receiving = &mut self.streams.receiving;
        receiving.is_too_fragmented |= u64::from(receiving.gaps) > receiving.most_gaps();
        if let Some(stream) = self.streams.states.get_mut(&id) {
            if pieces > MOST_PIECES {
                receiving.is_too_fragmented |= !receiving.allow(&mut stream.receive);
            }
            if stream.may_linger() {
                self.note_lingering(id);
            }
        }
    }
}
