//! Received data of all streams of a connection: how much there is, and when it is taken out of quinn-proto.

use std::mem;

use quinn_proto::StreamId;

use super::{
    Streams,
    backlog::{Arrival, PILE},
    reassembly::PAGE_BYTES,
    receive_part::{Holding, ReceivePart, RecvState},
    window::ReceiveWindow,
};

/// Most pieces that may be found when a pile is taken out: the pile, and as many one-byte frames as a datagram of 1472
/// bytes has room for.
///
/// The memory that quinn-proto had for their places, 56 bytes each, it keeps for later streams; half of what it
/// allocates may never have been used. With 256 streams that is 10 MB at most.
const MOST_PIECES: u32 = PILE + 224;

/// Streams, in the life of a connection, that may have more pieces than that, up to the 2048 that quinn-proto has at
/// most.
///
/// A stream that nobody reads has a window's worth of them, if it is left alone.
const LARGE_STREAMS: u8 = 8;

/// Least that is taken out of a stream for a reader that falls behind.
const LEAST_READ_AHEAD_BYTES: u64 = 256 * 1024;

/// Memory for received data beyond the receive window: datagrams are larger than what they carry, and the first and
/// last [page](PAGE_BYTES) of each stream need not be full.
const SLACK_BYTES: u64 = 1536 * 1024;

/// Gaps that a connection may have in any case, with a little in each packet.
const LEAST_GAPS: u64 = 4096;

/// Bytes of the receive window for one more gap.
///
/// A sender that loses every other packet of 1200 bytes, the smallest there are, has one for each two of them. A gap
/// takes some 90 bytes, half of them in quinn-proto.
const BYTES_PER_GAP: u64 = 2400;

/// What a gap counts for in bytes of memory.
const GAP_BYTES: u64 = 90;

/// What the streams of a connection hold of received data.
#[derive(Debug)]
pub(super) struct Receiving {
    window: ReceiveWindow,
    /// How far behind a reader may be before no more is taken out for it.
    read_ahead: u64,
    held: Holding,
    arrival: Option<Arrival>,
    arrivals: u32,
    /// Streams to be drained when all frames of the datagram are noted.
    due: Vec<StreamId>,
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
}

impl Receiving {
    pub(super) fn new(windows: ReceiveWindows) -> Self {
        let ReceiveWindows { connection, stream } = windows;
        Self {
            window: ReceiveWindow::new(connection),
            read_ahead: (connection.saturating_sub(stream) / 2).max(LEAST_READ_AHEAD_BYTES),
            held: Holding::default(),
            arrival: None,
            arrivals: 0,
            due: Vec::new(),
            large_left: LARGE_STREAMS,
            is_too_fragmented: false,
            #[cfg(test)]
            moved: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn received(&self) -> (Holding, u64) {
        (self.held, self.moved)
    }

    /// Memory for received data, at most.
    pub(super) fn held_bytes(&self) -> u64 {
        self.data_bytes() + self.held.gaps as u64 * GAP_BYTES
    }

    /// Whether the peer has cut its data into more pieces than there is a reason for.
    pub(super) fn is_too_fragmented(&self) -> bool {
        self.is_too_fragmented || self.held.gaps as u64 > self.most_gaps()
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
        self.held.bytes = self.held.bytes - before.bytes + after.bytes;
        self.held.pages = self.held.pages - before.pages + after.pages;
        self.held.gaps = self.held.gaps - before.gaps + after.gaps;
        self.held.backlog = self.held.backlog - before.backlog + after.backlog;
        self.window.withhold(self.held.bytes);
        result
    }

    fn data_bytes(&self) -> u64 {
        self.held.backlog + (self.held.pages * PAGE_BYTES) as u64
    }

    fn most_gaps(&self) -> u64 {
        LEAST_GAPS + self.window.configured() / BYTES_PER_GAP
    }

    fn is_over(&self) -> bool {
        self.held.backlog > 0
            && self.data_bytes() > self.window.configured().saturating_add(SLACK_BYTES)
    }

    /// Whether a stream's pile is to be taken out.
    ///
    /// It is left to a reader that is far behind, until it has caught up. To take it out gives credit for the stream, which
    /// would have the connection's in the end; the other streams would stand still for one that nobody reads. There may not
    /// be many of those, and in what they have must not be much to sort.
    fn wants(&mut self, part: &mut ReceivePart) -> bool {
        let backlog = part.backlog();
        if !backlog.is_pile() {
            part.is_left = false;
            return false;
        }
        let is_behind = part.is_left || part.ready() >= self.read_ahead;
        let is_easy = !backlog.is_crumbled() && part.holding().gaps <= PILE as usize;
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
    /// A datagram has arrived that keeps so many bytes of memory for as long as anything of it is kept. The events that
    /// come next are about it.
    pub(crate) fn begin_arrival(&mut self, held: usize) {
        let receiving = &mut self.streams.receiving;
        receiving.arrivals = receiving.arrivals.wrapping_add(1);
        receiving.arrival = Some(Arrival {
            number: receiving.arrivals,
            held: u32::try_from(held).unwrap_or(u32::MAX),
        });
    }

    /// All that the datagram has brought is noted.
    pub(crate) fn end_arrival(&mut self) {
        self.streams.receiving.arrival = None;
        let mut due = mem::take(&mut self.streams.receiving.due);
        for id in due.drain(..) {
            self.drain(id);
            if let Some(stream) = self.streams.states.get_mut(&id) {
                stream.receive.is_due = false;
                if !stream.receive.lacks_next() {
                    self.turns.wake(&mut stream.reader);
                }
            }
        }
        self.streams.receiving.due = due;
        while self.streams.receiving.is_over() {
            let largest = (self.streams.states.iter())
                .max_by_key(|(_, stream)| stream.receive.holding().backlog)
                .map(|(&id, _)| id);
            match largest {
                Some(id) => self.drain(id),
                None => break,
            }
        }
    }

    /// A frame of the stream has arrived.
    pub(super) fn on_readable(&mut self, id: StreamId) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        let receiving = &mut self.streams.receiving;
        let part = &mut stream.receive;
        if let Some(arrival) = receiving.arrival {
            receiving.change(part, |part| part.note(arrival));
            if part.is_due {
                return;
            }
            if part.lacks_next() || receiving.wants(part) {
                part.is_due = true;
                receiving.due.push(id);
                return;
            }
        }
        self.turns.wake(&mut stream.reader);
    }

    /// Fills `buf` with what a stream has; returns how much that was.
    pub(super) fn read(&mut self, id: StreamId, buf: &mut [u8]) -> usize {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return 0;
        };
        let receiving = &mut self.streams.receiving;
        let step = receiving.window.step() as usize;
        let was_complete = stream.receive.state == RecvState::Complete;
        let taken = receiving.change(&mut stream.receive, |part| {
            part.read(self.quic, id, buf, step)
        });
        receiving.window.handed_out(taken.bytes);
        if taken.transmit {
            self.turns.want();
        }
        let is_complete = stream.receive.state == RecvState::Complete;
        self.settle();
        if was_complete != is_complete {
            self.note_lingering(id);
        }
        taken.filled
    }

    /// Memory for received data shall not grow beyond so many bytes.
    pub(crate) fn set_receive_limit(&mut self, bytes: u64) {
        self.streams.receiving.window.set_limit(bytes);
        self.settle();
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
        if pieces > MOST_PIECES
            && let Some(stream) = self.streams.states.get_mut(&id)
            && !receiving.allow(&mut stream.receive)
        {
            receiving.is_too_fragmented = true;
        }
        self.note_lingering(id);
    }
}
