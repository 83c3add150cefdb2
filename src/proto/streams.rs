//! The streams of a connection: reading, writing, gathering of small writes, and who waits for what.

mod backlog;
mod gather;
mod growth;
mod reassembly;
mod receive_part;
mod receiving;
mod send_window;
mod window;

use std::{
    mem,
    num::NonZeroU32,
    task::{Poll, Waker},
};

pub(crate) use quinn_proto::StreamId;
use quinn_proto::{Dir, FinishError, Side, StreamEvent, VarInt, WriteError};
use rustc_hash::{FxHashMap, FxHashSet};

#[cfg(test)]
pub(super) use self::receive_part::Holding;
pub(crate) use self::receiving::ReceiveWindows;
use self::{
    gather::{Gather, Gathering, LARGEST_CHUNK},
    receive_part::{ReceivePart, RecvState},
    receiving::Receiving,
    send_window::SendWindow,
};
use super::turns::Turns;
use crate::error::{ConnectionError, StreamError};

/// Streams that a peer may open before it has opened any.
///
/// quinn-proto has two map entries, 84 bytes, for each stream that is permitted. Most connections of a node
/// are idle most of the time, and have no use for more. Not fewer, because a stream is only seen when something
/// was written to it: who opens many first, and writes then, has to get along with these. (And because so many
/// fit into a map of 128 places.)
pub(crate) const FIRST_PEER_STREAMS: u32 = 100;

/// By how much the limit grows when half of it is used: in one step from 100 to the usual 256.
const LIMIT_GROWTH: u32 = 4;

/// What a connection's peer may have of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    /// As many streams as it may have open in the end; the server's and the clients' configurations
    /// begin with [`FIRST_PEER_STREAMS`].
    pub(crate) max_peer_streams: u32,
    pub(crate) windows: ReceiveWindows,
    pub(crate) send_window: u64,
    pub(crate) largest_send_window: u64,
}

/// What is known of the streams of one connection.
pub(super) struct StreamStates {
    /// As many streams as the peer may have open in the end.
    max_peer_streams: u32,
    /// As many as it may have open now, if none [lingers](StreamState::lingers).
    peer_streams: u32,
    lingering: u32,
    /// Streams that the peer has opened and the application has not taken.
    waiting: u32,
    /// Those that it has taken, in the order of their [`StreamId::index`].
    accepted: u64,
    /// Streams that the application has closed, and of which the peer has not acknowledged
    /// everything, but still may.
    undelivered: FxHashSet<StreamId>,
    receiving: Receiving,
    send_window: SendWindow,
    states: FxHashMap<StreamId, StreamState>,
    gathering: Gathering,
    /// Who waits for a stream of the peer's.
    inbound: Option<Waker>,
    /// Who waits to open a stream.
    outbound: Option<Waker>,
}

#[derive(Default)]
struct StreamState {
    receive: ReceivePart,
    send: SendState,
    reader: Option<Waker>,
    writer: Option<Waker>,
    gather: Gather,
    /// The application has dropped the stream; only its gathered bytes are left to send.
    dropped: bool,
    /// The stream is over for quinn-proto, which would let the peer open another one. For the
    /// application it is not.
    lingers: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SendState {
    #[default]
    Open,
    /// FIN follows the gathered bytes.
    Finishing,
    Finished,
    Reset,
    /// The peer sent STOP_SENDING.
    Stopped(u64),
}

impl StreamState {
    /// Whether it may make a difference to [`lingers`](Self::lingers) that another part is over.
    fn may_linger(&self) -> bool {
        self.lingers || self.receive.state == RecvState::Complete
    }
}

impl StreamStates {
    pub(super) fn new(limits: StreamLimits) -> Self {
        Self {
            max_peer_streams: limits.max_peer_streams,
            peer_streams: limits.max_peer_streams.min(FIRST_PEER_STREAMS),
            lingering: 0,
            waiting: 0,
            accepted: 0,
            undelivered: FxHashSet::default(),
            receiving: Receiving::new(limits.windows),
            send_window: SendWindow::new(limits.send_window, limits.largest_send_window),
            states: FxHashMap::default(),
            gathering: Gathering::default(),
            inbound: None,
            outbound: None,
        }
    }

    /// Streams that the application holds, or whose last bytes are still to be sent.
    pub(super) fn count(&self) -> usize {
        self.states.len() - self.waiting as usize
    }

    /// Written bytes that are not acknowledged, at most, those that are gathered among them.
    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        self.send_window.held_bytes() + self.gathering.bytes()
    }

    /// Datagrams of so many bytes were sent.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.gathering.note_sent(bytes);
    }

    /// How many chunks quinn-proto was given, and of how many bytes.
    #[cfg(test)]
    pub(super) fn handed_over(&self) -> (u64, u64) {
        self.gathering.handed_over()
    }

    /// How large a chunk should be that is handed to quinn-proto.
    fn chunk_bytes(&self) -> usize {
        Gathering::chunk_bytes(self.send_window.held_bytes())
    }

    /// So many bytes were acknowledged, or all.
    pub(super) fn note_acknowledged(&mut self, bytes: u64, is_all: bool) {
        self.send_window.note_acknowledged(bytes);
        if is_all {
            self.send_window.note_all_acknowledged();
        }
    }

    /// Memory that received data takes, at most, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.receiving.held_bytes()
    }

    /// What there is, and how many pieces were moved from quinn-proto's memory to ours so far.
    #[cfg(test)]
    pub(super) fn received(&self) -> (Holding, u64) {
        self.receiving.received()
    }

    /// Whether the peer has cut its data into more pieces than there is a reason for.
    pub(super) fn is_too_fragmented(&self) -> bool {
        self.receiving.is_too_fragmented()
    }

    /// Whether there are streams that were closed and may still be delivered.
    pub(super) fn has_undelivered(&self) -> bool {
        !self.undelivered.is_empty()
    }

    /// Whether streams of the peer's wait for the application to take them.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// The connection is over for the application: whoever waits for a stream is told.
    pub(super) fn fail(&mut self, turns: &mut Turns) {
        for stream in self.states.values_mut() {
            turns.wake(&mut stream.reader);
            turns.wake(&mut stream.writer);
        }
        turns.wake(&mut self.inbound);
        turns.wake(&mut self.outbound);
    }

    /// Nothing more is sent.
    pub(super) fn stop_sending(&mut self) {
        self.gathering.clear();
        self.undelivered = FxHashSet::default();
        for stream in self.states.values_mut() {
            stream.gather.clear(&mut self.gathering);
        }
        self.states.retain(|_, stream| !stream.dropped);
    }

    /// Who waits for a stream looks again.
    pub(super) fn wake_inbound(&mut self, turns: &mut Turns) {
        turns.wake(&mut self.inbound);
    }
}

/// The streams of a connection, with what they need of it.
pub(crate) struct Streams<'a> {
    pub(super) quic: &'a mut quinn_proto::Connection,
    pub(super) streams: &'a mut StreamStates,
    pub(super) turns: &'a mut Turns,
    /// Why the connection is over, if it is.
    pub(super) loss: Option<&'a ConnectionError>,
}

/// For the application.
impl Streams<'_> {
    pub(crate) fn poll_open(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        self.alive()?;
        match self.quic.streams().open(Dir::Bi) {
            Some(id) => {
                self.streams.states.insert(id, StreamState::default());
                Poll::Ready(Ok(id))
            }
            None => {
                self.turns.wait(&mut self.streams.outbound, waker);
                Poll::Pending
            }
        }
    }

    /// The next stream that the peer has opened.
    ///
    /// A stream that is not taken goes on counting against the limit that the peer was given, so an
    /// application that takes none holds its peer back.
    ///
    /// Those that came in before the end of the connection can be taken after it, unless it was us
    /// who ended it.
    pub(super) fn poll_accept(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        if self.streams.waiting == 0 {
            self.alive()?;
            self.turns.wait(&mut self.streams.inbound, waker);
            return Poll::Pending;
        }
        let id = peer_stream(self.quic.side(), self.streams.accepted);
        self.streams.accepted += 1;
        self.streams.waiting -= 1;
        Poll::Ready(Ok(id))
    }

    pub(crate) fn poll_read(
        &mut self,
        id: StreamId,
        buf: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<usize, StreamError>> {
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
        let taken = receiving.read(self.quic, id, &mut stream.receive, buf);
        let read = match stream.receive.state {
            _ if taken.filled > 0 => Poll::Ready(Ok(taken.filled)),
            RecvState::Finished => Poll::Ready(Ok(0)),
            RecvState::Reset(code) => Poll::Ready(Err(StreamError::Reset(code))),
            RecvState::Stopped => Poll::Ready(Err(StreamError::Closed)),
            RecvState::Open | RecvState::Complete => {
                self.turns.wait(&mut stream.reader, waker);
                Poll::Pending
            }
        };
        let is_complete = stream.receive.state == RecvState::Complete;
        if was_complete != is_complete {
            self.note_lingering(id);
        }
        if taken.transmit {
            self.turns.want();
        }
        self.settle();
        if read.is_pending() {
            // What had arrived before the end could still be read.
            self.alive()?;
        }
        read
    }

    pub(crate) fn poll_write(
        &mut self,
        id: StreamId,
        data: &[u8],
        waker: &Waker,
    ) -> Poll<Result<usize, StreamError>> {
        self.alive()?;
        let stream = self.streams.states.get(&id).ok_or(StreamError::Closed)?;
        match stream.send {
            SendState::Open => {}
            SendState::Stopped(code) => return Poll::Ready(Err(StreamError::Stopped(code))),
            SendState::Finishing | SendState::Finished | SendState::Reset => {
                return Poll::Ready(Err(StreamError::Closed));
            }
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let chunk_bytes = self.streams.chunk_bytes();
        let gathers_no_more = (self.streams.gathering).is_full(self.streams.send_window.limit());
        if stream.gather.is_full(chunk_bytes) || (gathers_no_more && !stream.gather.is_empty()) {
            self.flush(id);
        }
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        let all = &mut self.streams.gathering;
        let turn = NonZeroU32::new(self.turns.count() as u32);
        if gathers_no_more && !stream.gather.is_empty() {
            // What is left of it is blocked, so that there will be an event when it can go on.
            self.turns.wait(&mut stream.writer, waker);
            return Poll::Pending;
        }
        if !gathers_no_more && stream.gather.wants(all, data.len(), chunk_bytes, turn) {
            let taken = stream.gather.add(all, id, data, chunk_bytes);
            if taken == 0 {
                self.turns.wait(&mut stream.writer, waker);
                return Poll::Pending;
            }
            self.turns.want();
            return Poll::Ready(Ok(taken));
        }
        let data = &data[..data.len().min(LARGEST_CHUNK)];
        let written = self.quic.send_stream(id).write(data);
        if let Ok(written) = written {
            stream.gather.note_direct(all, written, turn);
        }
        // Blocked or not: DATA_BLOCKED or STREAM_DATA_BLOCKED may be due (RFC 9000 §4.1).
        self.turns.want();
        match written {
            Ok(written) => {
                self.streams.send_window.note_written(written);
                Poll::Ready(Ok(written))
            }
            Err(WriteError::Blocked) => {
                self.turns.wait(&mut stream.writer, waker);
                Poll::Pending
            }
            Err(WriteError::Stopped(code)) => {
                Poll::Ready(Err(StreamError::Stopped(code.into_inner())))
            }
            Err(WriteError::ClosedStream) => Poll::Ready(Err(StreamError::Closed)),
        }
    }

    /// Ends our half of the stream; FIN follows what was written.
    pub(crate) fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        self.end(id, true)
    }

    /// `is_promised` is whether a close of the connection waits until it is delivered.
    fn end(&mut self, id: StreamId, is_promised: bool) -> Result<(), StreamError> {
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        match stream.send {
            // A peer that does not read any further has no use for FIN either; go closes a stream
            // with STOP_SENDING as a matter of course.
            SendState::Stopped(_) | SendState::Finishing | SendState::Finished => return Ok(()),
            SendState::Reset => return Err(StreamError::Closed),
            SendState::Open => {}
        }
        if let Some(loss) = self.loss {
            return Err(loss.clone().into());
        }
        stream.send = SendState::Finishing;
        if is_promised {
            self.streams.undelivered.insert(id);
        }
        self.flush(id);
        Ok(())
    }

    /// Abandons our half of the stream.
    pub(crate) fn reset(&mut self, id: StreamId, code: VarInt) -> Result<(), StreamError> {
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        // Fails where the half is over already, with a state that is worth keeping.
        self.quic
            .send_stream(id)
            .reset(code)
            .map_err(|_| StreamError::Closed)?;
        stream.gather.clear(&mut self.streams.gathering);
        stream.send = SendState::Reset;
        if stream.may_linger() {
            self.note_lingering(id);
        }
        self.streams.undelivered.remove(&id);
        self.turns.want();
        Ok(())
    }

    /// Discards what the peer still sends on the stream, and asks it to send no more.
    pub(crate) fn stop(&mut self, id: StreamId, code: VarInt) -> Result<(), StreamError> {
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        let is_complete = match stream.receive.state {
            RecvState::Open => false,
            RecvState::Complete => true,
            RecvState::Finished | RecvState::Reset(_) | RecvState::Stopped => {
                return Err(StreamError::Closed);
            }
        };
        stream.receive.state = RecvState::Stopped;
        self.streams
            .receiving
            .change(&mut stream.receive, ReceivePart::discard);
        if stream.may_linger() {
            self.note_lingering(id);
        }
        self.settle();
        // Nobody need be asked to send no more of what is here already.
        if !is_complete {
            self.quic
                .recv_stream(id)
                .stop(code)
                .map_err(|_| StreamError::Closed)?;
        }
        self.turns.want();
        Ok(())
    }

    /// The code of the peer's RESET_STREAM, if it was seen by a read.
    pub(crate) fn reset_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.states.get(&id)?.receive.state {
            RecvState::Reset(code) => Some(code),
            _ => None,
        }
    }

    /// The code of the peer's STOP_SENDING, if it sent one.
    pub(crate) fn stop_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.states.get(&id)?.send {
            SendState::Stopped(code) => Some(code),
            _ => None,
        }
    }

    /// The application has let go of the stream: FIN for our half, STOP_SENDING for an unread one.
    pub(crate) fn let_go(&mut self, id: StreamId) {
        // Neither can fail in a way that matters: the half is over already.
        let _ = self.stop(id, VarInt::from_u32(0));
        if self.end(id, false).is_err() {
            // Dropped behind a connection that goes on to deliver other streams.
            let _ = self.reset(id, VarInt::from_u32(0));
        }
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        self.turns.forget(&mut stream.reader);
        self.turns.forget(&mut stream.writer);
        if stream.send == SendState::Finishing && !stream.gather.is_empty() {
            stream.dropped = true;
        } else {
            stream.gather.clear(&mut self.streams.gathering);
            self.streams.states.remove(&id);
        }
    }

    fn alive(&self) -> Result<(), ConnectionError> {
        match self.loss {
            None => Ok(()),
            Some(loss) => Err(loss.clone()),
        }
    }
}

/// For the connection.
impl Streams<'_> {
    /// No more than so many written bytes shall be unacknowledged.
    pub(super) fn set_send_limit(&mut self, bytes: u64) {
        let changed = self.streams.send_window.set_limit(bytes);
        self.set_send_window(changed);
    }

    /// Lets the send window grow with the congestion window.
    pub(super) fn look_at_send_window(&mut self) {
        let congestion_window = self.quic.congestion_state().window();
        let changed = self.streams.send_window.look(congestion_window);
        self.set_send_window(changed);
    }

    fn set_send_window(&mut self, changed: Option<u64>) {
        if let Some(window) = changed {
            self.quic.set_send_window(window);
            // Writers may go on.
            self.turns.want();
        }
    }

    /// Nobody will take the streams that the peer has opened and that were not taken.
    pub(super) fn discard_waiting(&mut self) {
        let waiting = mem::take(&mut self.streams.waiting) as usize;
        for index in (self.streams.accepted..).take(waiting) {
            let id = peer_stream(self.quic.side(), index);
            if let Some(mut stream) = self.streams.states.remove(&id) {
                self.streams
                    .receiving
                    .change(&mut stream.receive, ReceivePart::discard);
            }
            // The connection may go on to deliver other streams.
            self.refuse(id);
        }
    }

    /// Resets what the application has not closed: all that is left to do is to deliver what it
    /// has.
    pub(super) fn abandon_open(&mut self) {
        let ids: Vec<_> = self.streams.states.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.states.get(&id) else {
                continue;
            };
            if stream.send == SendState::Open {
                // Fails if the peer has just stopped it, which is as good.
                let _ = self.reset(id, VarInt::from_u32(0));
            }
        }
    }

    /// Hands what was gathered to quinn-proto, as far as it might be sent in this turn.
    pub(super) fn flush_gathered(&mut self) {
        for id in self.streams.gathering.take_listed() {
            let all = &mut self.streams.gathering;
            let stream = self.streams.states.get_mut(&id);
            if stream.is_some_and(|stream| !stream.gather.unlist(all, id)) {
                self.flush(id);
            }
        }
    }

    pub(super) fn on_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { .. } => self.on_opened(),
            StreamEvent::Available { .. } => self.turns.wake(&mut self.streams.outbound),
            StreamEvent::Readable { id } => self.on_readable(id),
            StreamEvent::Writable { id } => {
                if let Some(stream) = self.streams.states.get_mut(&id) {
                    self.turns.wake(&mut stream.writer);
                    if !stream.gather.is_empty() {
                        self.flush(id);
                    }
                }
            }
            StreamEvent::Stopped { id, error_code } => self.on_stopped(id, error_code),
            StreamEvent::Finished { id } => {
                self.streams.undelivered.remove(&id);
            }
        }
    }

    /// The peer has opened streams. They are looked after from now on, whenever the application
    /// takes them.
    fn on_opened(&mut self) {
        if self.loss.is_some() {
            self.refuse_new();
            return;
        }
        self.raise_limit();
        while let Some(id) = self.quic.streams().accept(Dir::Bi) {
            let mut stream = StreamState::default();
            // Which of them the datagram had a frame of, quinn-proto does not tell.
            self.streams.receiving.note(&mut stream.receive);
            self.streams.states.insert(id, stream);
            self.streams.waiting += 1;
        }
        self.turns.wake(&mut self.streams.inbound);
    }

    /// Nobody will read the streams that the peer has opened since the connection was closed.
    fn refuse_new(&mut self) {
        while let Some(id) = self.quic.streams().accept(Dir::Bi) {
            self.refuse(id);
        }
    }

    /// Has a stream of the peer's keep no memory, whatever the peer sends on it.
    fn refuse(&mut self, id: StreamId) {
        // Fails if the stream is over, which is as good.
        let _ = self.quic.recv_stream(id).stop(VarInt::from_u32(0));
        self.turns.want();
    }

    /// Lets a peer open more streams that makes use of those it may open.
    fn raise_limit(&mut self) {
        let limit = self.streams.peer_streams;
        let open = self.quic.streams().remote_open_streams(Dir::Bi);
        if limit < self.streams.max_peer_streams && open >= u64::from(limit / 2) {
            let raised = limit.saturating_mul(LIMIT_GROWTH);
            self.streams.peer_streams = raised.min(self.streams.max_peer_streams);
            self.set_limit();
        }
    }

    /// Notes whether a stream of the peer's is over for quinn-proto while the application has not
    /// read it to its end. It goes on counting.
    fn note_lingering(&mut self, id: StreamId) {
        let is_peers = id.initiator() != self.quic.side();
        let Some(stream) = self.streams.states.get_mut(&id).filter(|_| is_peers) else {
            return;
        };
        let sends = matches!(stream.send, SendState::Open | SendState::Finishing);
        let lingers = stream.receive.state == RecvState::Complete && !sends;
        if mem::replace(&mut stream.lingers, lingers) != lingers {
            if lingers {
                self.streams.lingering += 1;
            } else {
                self.streams.lingering -= 1;
            }
            self.set_limit();
        }
    }

    fn set_limit(&mut self) {
        let limit = (self.streams.peer_streams).saturating_sub(self.streams.lingering);
        self.quic.set_max_concurrent_streams(Dir::Bi, limit.into());
        self.turns.want();
    }

    /// The peer does not read any further.
    fn on_stopped(&mut self, id: StreamId, code: VarInt) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        stream.gather.clear(&mut self.streams.gathering);
        stream.send = SendState::Stopped(code.into_inner());
        self.turns.wake(&mut stream.writer);
        if stream.dropped {
            self.streams.states.remove(&id);
        } else if stream.may_linger() {
            self.note_lingering(id);
        }
        self.streams.undelivered.remove(&id);
        // RFC 9000 §3.5: STOP_SENDING is answered by RESET_STREAM, best with its own code.
        let _ = self.quic.send_stream(id).reset(code);
        self.turns.want();
    }

    /// Hands a stream's gathered bytes to quinn-proto, as far as flow control lets it, and FIN after them.
    fn flush(&mut self, id: StreamId) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        let mut send_stream = self.quic.send_stream(id);
        if !stream.gather.is_empty() {
            let all = &mut self.streams.gathering;
            let written = stream.gather.hand_over(all, &mut send_stream);
            self.streams.send_window.note_written(written);
        }
        if stream.send == SendState::Finishing && stream.gather.is_empty() {
            let finished = send_stream.finish();
            stream.send = match finished {
                Ok(()) | Err(FinishError::ClosedStream) => SendState::Finished,
                Err(FinishError::Stopped(code)) => {
                    // The event that says so may find the stream gone.
                    let _ = send_stream.reset(code);
                    SendState::Stopped(code.into_inner())
                }
            };
            if finished.is_err() {
                // It will never be acknowledged.
                self.streams.undelivered.remove(&id);
            }
            if stream.dropped {
                self.streams.states.remove(&id);
            } else if stream.may_linger() {
                self.note_lingering(id);
            }
        }
        self.turns.want();
    }
}

/// A stream that the peer has opened, where we are on this side.
fn peer_stream(side: Side, index: u64) -> StreamId {
    StreamId::new(!side, Dir::Bi, index)
}
