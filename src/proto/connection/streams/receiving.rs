//! Received data of all streams of a connection: how the application reads it, and when it is taken
//! out of quinn-proto.

mod limits;

use std::{
    mem,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use quinn_proto::{Connection, StreamId, VarInt};

#[cfg(test)]
use super::receive_part::Holding;
use super::{
    StreamState, Streams,
    backlog::{Arrival, PILE},
    bandwidth::Way,
    growth::ReceiveGrowth,
    places::{Places, Room},
    receive_part::{Portion, ReceivePart, RecvState, Taken},
    stopped::{Kept, Stopped},
    window::{ReceiveWindow, ReceiveWindows},
};
use crate::{
    error::StreamError,
    packets::{EndedStream, Fill, FinalSizes, PacketWatch, StreamCredit, StreamWindows},
};

/// Frames of a stream that may come after a jump of the packet number while its pile is left in
/// quinn-proto, which ends the connection at 1,024 gaps. A frame that follows the stream's last one
/// without a jump has no gap before it, unless packets have overtaken each other by far.
///
/// A gap that is filled late leaves two pieces: what is behind it, and what filled it. Another 128
/// gaps may be among the first pieces of the pile, where they are not counted.
const MOST_BEHIND_JUMPS: u64 = 384;

/// What the streams of a connection hold of received data.
pub(super) struct Receiving {
    window: ReceiveWindow,
    /// Of the window of a stream.
    growth: ReceiveGrowth,
    windows: ReceiveWindows,
    /// What the peer was told about streams, if their windows may grow.
    credit: Option<Arc<StreamCredit>>,
    /// Up to where the peer has sent data on open streams.
    final_sizes: Option<Arc<FinalSizes>>,
    /// Bytes that the application has read.
    read: u64,
    /// How far behind a reader may be before no more is taken out for it.
    for_one: u64,
    stopped: Stopped,
    /// Bytes of the datagrams that quinn-proto keeps. The next two count our own pages and gaps.
    backlog: u64,
    pages: u32,
    gaps: u32,
    /// The last datagram, and the frame that fills it.
    arrival: Arrival,
    fill: Option<Fill>,
    /// How often a packet number skipped some, or its stream data was refused.
    jumps: u64,
    /// Streams to be taken out when all of its frames are noted.
    due: Vec<StreamId>,
    is_arriving: bool,
    /// For pieces in quinn-proto.
    places: Places,
    /// Frames of the datagram on streams that were refused.
    refused_frames: u32,
    is_too_fragmented: bool,
    /// How often a stream was looked at because there was too much memory.
    #[cfg(test)]
    looked_at: usize,
    /// Pieces that were moved to our memory so far.
    #[cfg(test)]
    moved: u64,
}

/// To what the windows of a connection have grown.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(in crate::proto) struct Grown {
    pub(in crate::proto) stream: u64,
    pub(in crate::proto) connection: u64,
    /// How many streams have a larger limit than they began with.
    pub(in crate::proto) limits: usize,
    /// Of how many streams it is noted up to where they have data.
    pub(in crate::proto) sizes: usize,
}

impl Receiving {
    pub(super) fn new(windows: ReceiveWindows, watch: Option<&PacketWatch>) -> Self {
        let StreamWindows { first, largest } = windows.stream;
        Self {
            window: ReceiveWindow::new(windows.connection),
            growth: ReceiveGrowth::new(first, largest),
            windows,
            credit: watch.and_then(PacketWatch::stream_credit),
            final_sizes: watch.map(PacketWatch::final_sizes),
            read: 0,
            for_one: windows.for_one(first),
            stopped: Stopped::default(),
            backlog: 0,
            pages: 0,
            gaps: 0,
            arrival: Arrival::default(),
            fill: None,
            jumps: 0,
            due: Vec::new(),
            is_arriving: false,
            places: Places::new(),
            refused_frames: 0,
            is_too_fragmented: false,
            #[cfg(test)]
            looked_at: 0,
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

    #[cfg(test)]
    pub(super) fn looked_at(&self) -> usize {
        self.looked_at
    }

    #[cfg(test)]
    pub(super) fn grown(&self) -> Grown {
        Grown {
            stream: self.growth.current(),
            connection: self.window.size(),
            limits: self.credit.as_ref().map_or(0, |credit| credit.streams()),
            sizes: self.final_sizes.as_ref().map_or(0, |sizes| sizes.streams()),
        }
    }

    /// Notes that quinn-proto may have this number of streams at once, and those that were stopped.
    pub(super) fn note_streams(&mut self, streams: u32) {
        self.places
            .note_streams(streams.saturating_add(self.stopped.own()));
    }

    /// Streams of ours that were stopped and that the peer has not ended.
    pub(super) fn stopped(&self) -> u64 {
        self.stopped.own().into()
    }

    /// How far the peer may be ahead of readers, if the window has grown.
    pub(super) fn grown_bytes(&self) -> u64 {
        let reach = self.window.reach();
        if reach > self.windows.connection {
            reach
        } else {
            0
        }
    }

    /// Whether the peer has cut its data into more pieces than there is a reason for.
    pub(super) fn is_too_fragmented(&self) -> bool {
        self.is_too_fragmented
    }

    /// Does something to a stream's receiving part, and to the counters.
    pub(super) fn change<T>(
        &mut self,
        id: StreamId,
        part: &mut ReceivePart,
        change: impl FnOnce(&mut ReceivePart) -> T,
    ) -> T {
        let was_open = part.is_open();
        let (before, taken) = (part.holding(), part.taken());
        let result = change(part);
        let after = part.holding();
        if was_open && !part.is_open() {
            let id = VarInt::from(id).into_inner();
            if let Some(credit) = &self.credit {
                credit.leave(id);
            }
            if let Some(sizes) = &self.final_sizes {
                sizes.leave(id);
            }
            if part.is_dropped()
                && let Some(size) = part.final_size
            {
                self.window.credited(size.saturating_sub(taken));
            }
        }
        self.backlog = self.backlog - before.backlog + after.backlog;
        self.pages = self.pages - before.pages + after.pages;
        self.gaps = self.gaps - before.gaps + after.gaps;
        self.window.withhold(before.bytes, after.bytes);
        result
    }

    /// Notes a frame of a stream; `true` if the stream is to be taken out before its reader is
    /// woken.
    pub(super) fn note(&mut self, id: StreamId, part: &mut ReceivePart) -> bool {
        if !self.is_arriving {
            return false;
        }
        let fill = (self.fill)
            .filter(|fill| fill.stream == VarInt::from(id).into_inner())
            .map(|fill| (fill.start, fill.end));
        self.backlog += part.note(self.arrival, fill);
        if part.jumps_seen != self.jumps {
            part.jumps_seen = self.jumps;
            part.frames_behind_jumps += 1;
        }
        if !part.is_due && (part.lacks_next() || self.wants(part)) {
            part.is_due = true;
            self.due.push(id);
        }
        part.is_due
    }

    /// Notes that nobody reads a stream any more. It is to be stopped in quinn-proto as well.
    pub(super) fn stop(&mut self, id: StreamId, part: &mut ReceivePart, is_own: bool) {
        if part.is_open() && part.final_size.is_none() {
            let kept = Kept {
                is_own,
                gaps: part.gaps(),
                taken: part.taken(),
            };
            self.stopped.note(id, kept);
        }
        self.change(id, part, ReceivePart::stop);
    }

    /// Fills `buf` with what a stream has.
    pub(super) fn read(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
        part: &mut ReceivePart,
        buf: &mut [u8],
    ) -> Taken {
        let portion = self.portion();
        let taken = self.change(id, part, |part| part.read(quic, id, buf, portion));
        self.window.credited(taken.bytes);
        self.read += taken.filled as u64;
        taken
    }

    /// What is taken out of a stream at once.
    fn portion(&self) -> Portion {
        Portion {
            step: self.window.step() as usize,
            behind_gap: self.for_one / 4,
        }
    }

    /// Whether a stream is left to a reader far behind: with what quinn-proto has, our memory would
    /// have more than one stream may have.
    fn leaves(&self, part: &ReceivePart) -> bool {
        let waiting = part.ready().saturating_add(part.backlog().held());
        part.is_left || waiting > self.for_one
    }

    /// Whether a stream's pile is to be taken out: more pieces than it has room for, or half of
    /// what one stream may have. So the first pile of a reader that keeps up is never too much.
    ///
    /// It is left in quinn-proto while its reader is far behind. Taking it out gives credit for the
    /// stream: one stream that nobody reads could so use up the connection's credit and stop the
    /// others. Only few streams may be left alone with many pieces, and only if their data has few
    /// gaps.
    fn wants(&mut self, part: &mut ReceivePart) -> bool {
        let pieces = part.most_pieces();
        self.places.make_room(&mut part.room, pieces);
        let has_many = part.is_pile();
        if !has_many && part.backlog().held() <= self.for_one / 2 {
            part.is_left = false;
            return false;
        }
        let is_behind = self.leaves(part);
        if !part.is_left {
            part.frames_behind_jumps = 0;
        }
        let has_few_gaps =
            part.holding().gaps <= PILE.into() && part.frames_behind_jumps <= MOST_BEHIND_JUMPS;
        let is_easy = !part.is_crumbled() && has_few_gaps;
        part.is_left = is_behind && is_easy && (!has_many || self.places.lets_many(&mut part.room));
        !part.is_left
    }
}

impl Streams<'_> {
    pub(crate) fn poll_read(
        &mut self,
        id: StreamId,
        buf: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<usize, StreamError>> {
        let permitted = if buf.is_empty() {
            0
        } else {
            self.permit(Way::Receive, id, buf.len(), waker)
        };
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        match stream.receive.state {
            RecvState::Open | RecvState::Complete => {}
            RecvState::Finished => return Poll::Ready(Ok(0)),
            RecvState::Reset(code) => return Poll::Ready(Err(StreamError::Reset(code))),
            RecvState::Stopped => return Poll::Ready(Err(StreamError::Closed)),
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let was_complete = stream.receive.state == RecvState::Complete;
        let receiving = &mut self.streams.receiving;
        // Without a permission this still meets a reset, or the end if all before it was read.
        let taken = receiving.read(self.quic, id, &mut stream.receive, &mut buf[..permitted]);
        let read = match stream.receive.state {
            _ if taken.filled > 0 => Poll::Ready(Ok(taken.filled)),
            RecvState::Finished => Poll::Ready(Ok(0)),
            RecvState::Reset(code) => Poll::Ready(Err(StreamError::Reset(code))),
            RecvState::Stopped => Poll::Ready(Err(StreamError::Closed)),
            RecvState::Open | RecvState::Complete => {
                self.signals.wait(&mut stream.reader, waker);
                Poll::Pending
            }
        };
        let is_complete = stream.receive.state == RecvState::Complete;
        if was_complete != is_complete {
            self.note_lingering(id);
        }
        if taken.transmit {
            self.signals.want_turn();
        }
        if taken.is_unfinished {
            self.take_out(id, false);
        }
        self.charge(Way::Receive, id, taken.filled);
        self.give_credit();
        if read.is_pending() {
            // Only now, because what arrived before the end of the connection can still be read.
            self.alive()?;
        }
        read
    }

    /// Discards what the peer still sends on the stream, and asks it to send no more.
    pub(crate) fn stop(&mut self, id: StreamId, code: VarInt) -> Result<(), StreamError> {
        let is_own = self.is_own(id);
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        if !matches!(stream.receive.state, RecvState::Open | RecvState::Complete) {
            return Err(StreamError::Closed);
        }
        self.count_gaps(id);
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return Err(StreamError::Closed);
        };
        let is_open = stream.receive.is_open();
        (self.streams.receiving).stop(id, &mut stream.receive, is_own);
        if stream.may_linger() {
            self.note_lingering(id);
        }
        self.give_credit();
        // If everything has arrived, there is nothing to ask for.
        if is_open {
            self.stop_receiving(id, code)?;
        }
        self.signals.want_turn();
        Ok(())
    }

    /// Has quinn-proto drop what it has of a stream, and ask the peer to send no more.
    pub(super) fn stop_receiving(&mut self, id: StreamId, code: VarInt) -> Result<(), StreamError> {
        let mut stream = self.quic.recv_stream(id);
        // quinn-proto 0.11.19 has given credit for all of a stream that was reset, and would give
        // some of it once more.
        if let Ok(Some(_)) = stream.received_reset() {
            return Ok(());
        }
        stream.stop(code).map_err(|_| StreamError::Closed)
    }

    /// The code of the peer's RESET_STREAM, if a read has met it.
    pub(crate) fn reset_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.states.get(&id)?.receive.state {
            RecvState::Reset(code) => Some(code),
            _ => None,
        }
    }

    /// A datagram has arrived. It keeps `held` bytes of memory until nothing of it is kept. The
    /// events that come next are about it.
    ///
    /// `fill` is the frame that fills the datagram, if there is one. `jumps` is how often a packet
    /// number has skipped some after the largest before it, so far, or its stream data was refused.
    pub(crate) fn begin_arrival(
        &mut self,
        held: usize,
        fill: Option<Fill>,
        jumps: u64,
        has_memory: bool,
    ) {
        let receiving = &mut self.streams.receiving;
        receiving.fill = fill;
        receiving.jumps = jumps;
        receiving.places.set_may_grow(has_memory);
        receiving.arrival = Arrival {
            number: receiving.arrival.number.wrapping_add(1),
            held: u32::try_from(held).unwrap_or(u32::MAX),
        };
        receiving.is_arriving = true;
    }

    /// Whether the peer has sent more on a stream than it was told it may. That is a violation only
    /// while the stream is open, see [`StreamCredit::take_exceeded`].
    pub(crate) fn exceed_credit(&self) -> bool {
        let credit = self.streams.receiving.credit.as_ref();
        let exceeded = credit.map_or_else(Vec::new, |credit| credit.take_exceeded());
        let is_open = |stream| self.receive_part(stream).is_some_and(ReceivePart::is_open);
        exceeded.into_iter().any(is_open)
    }

    /// The receiving part of the stream with this number.
    fn receive_part(&self, stream: u64) -> Option<&ReceivePart> {
        let stream = self.streams.states.get(&stream_id(stream)?)?;
        Some(&stream.receive)
    }

    /// All events of the datagram are handled. `ended` are the streams that the peer has ended.
    pub(crate) fn end_arrival(&mut self, ended: &[EndedStream]) {
        self.note_ended(ended);
        self.forget_final_sizes();
        self.note_unended();
        self.streams.receiving.is_arriving = false;
        if !self.streams.receiving.due.is_empty() {
            self.take_out_due();
        }
        let streams = self.streams.states.len();
        if self.streams.receiving.is_over(streams, 0) {
            self.relieve();
        }
        let receiving = &mut self.streams.receiving;
        receiving.is_too_fragmented |= receiving.exceeds_limits();
        // One may have had all of them, and the one more that opened it.
        let refused = mem::take(&mut receiving.refused_frames) + 1;
        receiving.is_too_fragmented |= !receiving.places.found(&mut Room::default(), refused);
        // The less is free, the smaller the parts in which credit is told.
        self.give_credit();
    }

    fn note_ended(&mut self, ended: &[EndedStream]) {
        for ended in ended {
            let final_size = ended.final_size;
            let Some(id) = stream_id(ended.stream) else {
                continue;
            };
            let receiving = &mut self.streams.receiving;
            if let Some(Kept { taken, .. }) = receiving.stopped.end(id) {
                receiving.window.credited(final_size.saturating_sub(taken));
            }
            if let Some(stream) = self.streams.states.get_mut(&id) {
                // quinn-proto ignores what comes after the first one, or ends the connection. A
                // first one that is too small does not get so far.
                stream.receive.final_size.get_or_insert(final_size);
                if ended.is_reset
                    && stream.receive.is_open()
                    && !mem::replace(&mut stream.receive.is_reset, true)
                {
                    // quinn-proto gives credit for all of it at once. The debt is paid when a read
                    // meets the reset.
                    let dropped = final_size.saturating_sub(stream.receive.taken());
                    (self.streams.receiving.window).note_untold(dropped);
                }
            }
        }
    }

    /// Forgets up to where streams have data that are not open.
    fn forget_final_sizes(&self) {
        let Some(sizes) = &self.streams.receiving.final_sizes else {
            return;
        };
        sizes.keep_open(|stream| {
            let part = self.receive_part(stream);
            part.is_some_and(|part| part.is_open() && part.final_size.is_none())
        });
    }

    fn take_out_due(&mut self) {
        let mut due = mem::take(&mut self.streams.receiving.due);
        for id in due.drain(..) {
            if let Some(stream) = self.streams.states.get_mut(&id) {
                stream.receive.is_due = false;
            }
            self.take_out(id, false);
            if let Some(stream) = self.streams.states.get_mut(&id)
                && !stream.receive.lacks_next()
            {
                self.signals.make_due(&mut stream.reader);
            }
        }
        self.streams.receiving.due = due;
    }

    /// Finds out how many gaps quinn-proto knows of in a stream that is about to be stopped. One
    /// that may have many pieces has room for as many gaps.
    pub(super) fn count_gaps(&mut self, id: StreamId) {
        let part = self.streams.states.get(&id).map(|stream| &stream.receive);
        if part.is_some_and(|part| part.has_uncounted_gaps() && !part.room.is_large()) {
            self.take_out(id, true);
        }
    }

    /// A frame of the stream has arrived.
    pub(in crate::proto::connection) fn on_readable(&mut self, id: StreamId) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            // It was refused when this datagram opened it.
            self.streams.receiving.refused_frames += 1;
            return;
        };
        if !self.streams.receiving.note(id, &mut stream.receive) {
            self.signals.make_due(&mut stream.reader);
        }
    }

    /// Limits the memory for received data.
    pub(crate) fn set_receive_limit(&mut self, bytes: u64) {
        self.streams.receiving.window.set_limit(bytes);
        self.give_credit();
    }

    /// Lets receive windows grow with what the application reads in a round trip, and shrink again.
    /// `allowance` is the window of the connection for which there is memory beside others.
    pub(crate) fn look_at_receive_windows(
        &mut self,
        now: Instant,
        rtt: Duration,
        allowance: u64,
        may_grow: bool,
    ) {
        let receiving = &mut self.streams.receiving;
        let windows = receiving.windows;
        let mut most = windows.stream_beside(allowance);
        if !may_grow {
            most = most.min(receiving.growth.current());
        }
        if !(receiving.growth).look(now, rtt, receiving.read, most) {
            return;
        }
        let stream = receiving.growth.current();
        if let Some(credit) = &receiving.credit {
            credit.set_window(stream);
        }
        let is_grown = receiving.window.size() > windows.connection;
        let ahead = if is_grown { self.most_ahead() } else { 0 };
        let receiving = &mut self.streams.receiving;
        // What a stream may still send cannot be taken back, and must not be all that the
        // connection may send, however little memory there is.
        let least = windows.stream_for(ahead).min(windows.stream.largest);
        let is_ahead = least > windows.stream.first;
        let floor = is_ahead.then(|| windows.connection_beside(least));
        receiving.window.set_floor(floor.unwrap_or(0));
        let stream = stream.max(least);
        receiving.for_one = windows.for_one(stream);
        (receiving.window).set_size(windows.connection_beside(stream));
        self.give_credit();
    }

    /// How far a peer may be ahead of the reader of a stream, at most.
    fn most_ahead(&self) -> u64 {
        let credit = self.streams.receiving.credit.as_ref();
        let ahead = |(&id, stream): (&StreamId, &StreamState)| {
            let part = &stream.receive;
            match credit {
                Some(credit) if part.is_open() => {
                    let limit = credit.limit(VarInt::from(id).into_inner());
                    limit.saturating_sub(part.position())
                }
                _ => part.holding().bytes,
            }
        };
        self.streams.states.iter().map(ahead).max().unwrap_or(0)
    }

    /// Gives the peer as much credit as is free.
    pub(super) fn give_credit(&mut self) {
        let receiving = &mut self.streams.receiving;
        receiving.window.set_unread(receiving.backlog);
        if receiving.window.give_credit(self.quic) {
            self.signals.want_turn();
        }
    }

    /// Takes out of quinn-proto what it has of a stream: `everything`, or all but a few pieces
    /// behind a gap.
    fn take_out(&mut self, id: StreamId, everything: bool) {
        let Some(stream) = self.streams.states.get(&id) else {
            return;
        };
        let remaining = stream.receive.remaining();
        let mut found = (0, 0);
        loop {
            let Some(stream) = self.streams.states.get_mut(&id) else {
                return;
            };
            let receiving = &mut self.streams.receiving;
            let portion = receiving.portion();
            let taken = receiving.change(id, &mut stream.receive, |part| {
                part.take_out(self.quic, id, portion, everything)
            });
            receiving.window.credited(taken.bytes);
            found.0 += taken.pieces;
            found.1 += taken.bytes;
            #[cfg(test)]
            {
                receiving.moved += u64::from(taken.pieces);
            }
            if taken.transmit {
                self.signals.want_turn();
            }
            self.give_credit();
            if !taken.is_unfinished {
                break;
            }
        }
        if let Some(stream) = self.streams.states.get_mut(&id) {
            let is_reset = matches!(stream.receive.state, RecvState::Reset(_));
            let pieces = remaining.pieces((!is_reset).then_some(found));
            let receiving = &mut self.streams.receiving;
            receiving.is_too_fragmented |=
                !receiving.places.found(&mut stream.receive.room, pieces);
            if stream.may_linger() {
                self.note_lingering(id);
            }
        }
    }
}

fn stream_id(number: u64) -> Option<StreamId> {
    VarInt::from_u64(number).ok().map(StreamId::from)
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::{
        limits::tests::{constrained, grown},
        *,
    };

    #[test]
    fn pile_is_to_be_taken_out_and_few_pieces_are_not() {
        let mut receiving = grown();
        receiving.note_streams(1);
        receiving.is_arriving = true;
        let id = StreamId::new(Side::Client, Dir::Bi, 0);
        let mut part = ReceivePart::default();
        for number in 0..u32::from(PILE) {
            receiving.arrival = Arrival { number, held: 1200 };
            assert!(!receiving.note(id, &mut part), "{number} before it");
        }
        assert!(receiving.note(id, &mut part));
        assert_eq!(receiving.due, [id]);
    }

    /// Notes frames of a stream, each alone in its datagram, until it is to be taken out or left.
    fn note_until_it_is_much(receiving: &mut Receiving, part: &mut ReceivePart, held: u32) -> u32 {
        let id = StreamId::new(Side::Client, Dir::Bi, 0);
        for number in 1.. {
            receiving.arrival = Arrival { number, held };
            if receiving.note(id, part) || part.is_left {
                return number;
            }
        }
        unreachable!("numbers do not end")
    }

    #[test]
    fn readers_that_keep_up_take_no_places_for_many_pieces() {
        for held in [1200, 1500, 9000, 16_370] {
            let mut receiving = constrained();
            receiving.note_streams(300);
            receiving.is_arriving = true;
            for stream in 0..300 {
                let mut part = ReceivePart::default();
                note_until_it_is_much(&mut receiving, &mut part, held);
                assert!(part.is_due && !part.is_left, "{held} {stream}");
                assert!(!part.room.is_large(), "{held} {stream}");
            }
        }
    }

    /// A few pieces are a pile then.
    #[test]
    fn readers_that_keep_up_take_no_places_while_memory_is_short() {
        let mut receiving = constrained();
        receiving.note_streams(1);
        receiving.is_arriving = true;
        receiving.places.set_may_grow(false);
        let mut part = ReceivePart::default();
        let frames = note_until_it_is_much(&mut receiving, &mut part, 1400);
        assert_eq!((frames, part.is_due), (9, true));
        assert!(!part.is_left && !part.room.is_large());
    }

    #[test]
    fn pile_counts_in_bytes_as_well() {
        for held in [1200, 9000, 16_370] {
            let mut receiving = constrained();
            receiving.note_streams(1);
            receiving.is_arriving = true;
            let mut part = ReceivePart::default();
            let frames = note_until_it_is_much(&mut receiving, &mut part, held);
            // With the first datagram beyond half of what one stream may have.
            assert_eq!(frames, 64 * 1024 / held + 1, "{held}");
        }
    }
}
