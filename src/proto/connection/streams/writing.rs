//! How the application writes to a stream and ends it, and how that is handed to quinn-proto.

use std::{
    num::NonZeroU32,
    task::{Poll, Waker},
    time::Instant,
};

use quinn_proto::{FinishError, VarInt, WriteError};

use super::{SendState, StreamId, Streams, bandwidth::Way, gather::LARGEST_CHUNK};
use crate::error::StreamError;

impl Streams<'_> {
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
        let permitted = self.permit(Way::Send, id, data.len(), waker);
        if permitted == 0 {
            return Poll::Pending;
        }
        let written = self.poll_write_permitted(id, &data[..permitted], waker);
        if let Poll::Ready(Ok(written)) = written {
            self.charge(Way::Send, id, written);
        }
        written
    }

    fn poll_write_permitted(
        &mut self,
        id: StreamId,
        data: &[u8],
        waker: &Waker,
    ) -> Poll<Result<usize, StreamError>> {
        let chunk_bytes = self.streams.chunk_bytes();
        let gathers_no_more = (self.streams.gathering).is_full(self.streams.send_window.limit());
        let stream = self.streams.states.get(&id).ok_or(StreamError::Closed)?;
        let is_held_back = self.streams.write_line.holds_back(stream.ticket);
        if !is_held_back
            && (stream.gather.is_full(chunk_bytes)
                || (gathers_no_more && !stream.gather.is_empty()))
        {
            self.flush(id);
        }
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        let all = &mut self.streams.gathering;
        let turn = NonZeroU32::new(self.signals.turn() as u32);
        if gathers_no_more && !stream.gather.is_empty() {
            // quinn-proto has just taken what it could and reported that the stream is blocked, so
            // an event will report that it is writable again.
            return self.wait_to_write(id, waker, is_held_back);
        }
        if !gathers_no_more && stream.gather.wants(all, data.len(), chunk_bytes, turn) {
            let taken = stream.gather.add(all, id, data, chunk_bytes);
            if taken == 0 {
                return self.wait_to_write(id, waker, is_held_back);
            }
            self.signals.want_turn();
            return Poll::Ready(Ok(taken));
        }
        // A message beside a transfer then needs no task to run before it leaves.
        let may_gather = !gathers_no_more && stream.gather.takes_whole(data.len());
        if is_held_back {
            if !may_gather {
                return self.wait_to_write(id, waker, true);
            }
            stream.gather.add(all, id, data, chunk_bytes);
            self.join_write_line(id);
            return Poll::Ready(Ok(data.len()));
        }
        let data = &data[..data.len().min(LARGEST_CHUNK)];
        let mut written = self.quic.send_stream(id).write(data);
        if let Ok(written) = written {
            stream.gather.note_direct(all, written, turn);
            self.streams.send_window.note_written(written);
            self.streams.blocked.note_written(written);
            self.streams.writers.note_taken(id);
        }
        let is_blocked = matches!(written, Err(WriteError::Blocked));
        if is_blocked {
            self.streams.writers.note_refused(id);
        }
        if is_blocked && may_gather {
            stream.gather.add(all, id, data, chunk_bytes);
            written = Ok(data.len());
        } else if is_blocked {
            self.signals.wait(&mut stream.writer, waker);
        }
        self.note_written(id, is_blocked);
        // Blocked or not: DATA_BLOCKED or STREAM_DATA_BLOCKED may be due (RFC 9000 §4.1).
        self.signals.want_turn();
        match written {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(WriteError::Blocked) => Poll::Pending,
            Err(WriteError::Stopped(code)) => {
                Poll::Ready(Err(StreamError::Stopped(code.into_inner())))
            }
            Err(WriteError::ClosedStream) => Poll::Ready(Err(StreamError::Closed)),
        }
    }

    /// Makes the task wait until the stream may write: in the line if it `is_held_back`, and until
    /// quinn-proto reports it otherwise.
    fn wait_to_write<T>(&mut self, id: StreamId, waker: &Waker, is_held_back: bool) -> Poll<T> {
        self.streams.writers.note_refused(id);
        if let Some(stream) = self.streams.states.get_mut(&id) {
            self.signals.wait(&mut stream.writer, waker);
        }
        if is_held_back {
            self.join_write_line(id);
        }
        Poll::Pending
    }

    /// Ends our half of the stream. FIN follows what was written.
    pub(crate) fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        self.end(id, true)
    }

    /// Ends our half of the stream. `is_promised` is whether a close of the connection waits until
    /// the stream is delivered.
    pub(super) fn end(&mut self, id: StreamId, is_promised: bool) -> Result<(), StreamError> {
        let stream = self
            .streams
            .states
            .get_mut(&id)
            .ok_or(StreamError::Closed)?;
        match stream.send {
            // A peer that stops reading needs no FIN. go-libp2p ends each stream with STOP_SENDING.
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
        if stream.gather.is_empty() {
            self.leave_write_line(id);
        } else if self.streams.write_line.holds_back(stream.ticket) {
            self.join_write_line(id);
            self.signals.want_turn();
            return Ok(());
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
        // Fails if the half is over, and then its state must not change.
        self.quic
            .send_stream(id)
            .reset(code)
            .map_err(|_| StreamError::Closed)?;
        self.streams.blocked.note_room();
        stream.gather.clear(&mut self.streams.gathering);
        stream.send = SendState::Reset;
        if stream.may_linger() {
            self.note_lingering(id);
        }
        self.leave_write_line(id);
        self.streams.undelivered.remove(&id);
        self.signals.want_turn();
        Ok(())
    }

    /// The code of the peer's STOP_SENDING, if it sent one.
    pub(crate) fn stop_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.states.get(&id)?.send {
            SendState::Stopped(code) => Some(code),
            _ => None,
        }
    }

    /// Resets the streams that the application has not closed. Only closed ones are still
    /// delivered.
    pub(in crate::proto::connection) fn abandon_open(&mut self) {
        let ids: Vec<_> = self.streams.states.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.states.get(&id) else {
                continue;
            };
            if stream.send == SendState::Open {
                // Fails if the peer has just stopped it; then nothing is left to do.
                let _ = self.reset(id, VarInt::from_u32(0));
            }
        }
    }

    /// Hands gathered bytes to quinn-proto, as far as this turn may send them.
    pub(in crate::proto::connection) fn flush_gathered(&mut self) {
        for id in self.streams.gathering.take_listed() {
            let all = &mut self.streams.gathering;
            let Some(stream) = self.streams.states.get_mut(&id) else {
                continue;
            };
            if stream.gather.unlist(all, id) {
                continue;
            }
            if self.streams.write_line.holds_back(stream.ticket) {
                self.join_write_line(id);
            } else {
                self.flush(id);
            }
        }
    }

    /// quinn-proto has reported that the stream may write again.
    pub(in crate::proto::connection) fn on_writable(&mut self, id: StreamId) {
        self.streams.blocked.note_credit();
        self.streams.write_line.open();
        self.join_write_line(id);
    }

    /// Puts the stream into the line of those that may write.
    fn join_write_line(&mut self, id: StreamId) {
        let line = &mut self.streams.write_line;
        if let Some(stream) = self.streams.states.get_mut(&id) {
            let kind = stream.gather.kind();
            let ticket = stream.ticket.filter(|ticket| ticket.kind() == kind);
            if let Some(other) = stream.ticket.filter(|_| ticket.is_none()) {
                line.leave(other);
            }
            let ticket = ticket.unwrap_or_else(|| line.ticket(kind));
            stream.ticket = Some(ticket);
            line.join(ticket, id);
        }
    }

    /// Notes that quinn-proto has taken a write of the stream, or that it `is_blocked`.
    fn note_written(&mut self, id: StreamId, is_blocked: bool) {
        let line = &mut self.streams.write_line;
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        let Some(ticket) = stream.ticket else {
            if is_blocked {
                self.streams.blocked.note_refused();
                stream.ticket = Some(line.ticket(stream.gather.kind()));
            }
            return;
        };
        line.leave(ticket);
        line.note_written(is_blocked);
        if !is_blocked {
            stream.ticket = None;
        }
        self.serve(true);
    }

    /// Takes a stream that has ended out of the line. The next turn serves the others.
    pub(super) fn leave_write_line(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.states.get_mut(&id)
            && let Some(ticket) = stream.ticket.take()
        {
            self.streams.write_line.leave(ticket);
        }
    }

    /// Begins a turn, in which streams may write that were told so.
    pub(in crate::proto::connection) fn begin_writing(&mut self, now: Instant) {
        self.streams.write_line.begin_turn(now);
        self.serve_write_line();
    }

    /// Lets streams write in the order of the line: those that have gathered something, up to the
    /// first one whose task has to write.
    pub(in crate::proto) fn serve_write_line(&mut self) {
        self.serve(false);
    }

    /// `is_relay` is whether another stream has just written. Then even a single one that waits is
    /// called, so that the other one does not go on meanwhile.
    fn serve(&mut self, mut is_relay: bool) {
        while let Some((ticket, id)) = self.streams.write_line.next() {
            let line = &mut self.streams.write_line;
            let stream = self.streams.states.get_mut(&id);
            let Some(stream) = stream.filter(|stream| stream.ticket == Some(ticket)) else {
                line.leave(ticket);
                continue;
            };
            let has_gathered = !stream.gather.is_empty();
            if has_gathered && stream.gather.kind() != ticket.kind() {
                self.join_write_line(id);
                continue;
            }
            let is_alone = line.len() == 1 && !is_relay;
            if has_gathered || stream.writer.is_none() || is_alone {
                line.leave(ticket);
            } else {
                line.call(ticket);
            }
            self.signals.make_due(&mut stream.writer);
            if has_gathered {
                is_relay = true;
                self.flush(id);
            }
        }
    }

    /// Hands a stream's gathered bytes to quinn-proto, as far as flow control permits, and then
    /// FIN.
    pub(super) fn flush(&mut self, id: StreamId) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        let mut send_stream = self.quic.send_stream(id);
        if !stream.gather.is_empty() {
            let all = &mut self.streams.gathering;
            let written = stream.gather.hand_over(all, &mut send_stream);
            self.streams.send_window.note_written(written);
            self.streams.blocked.note_written(written);
            let line = &mut self.streams.write_line;
            if written > 0 {
                self.streams.writers.note_taken(id);
                if stream.writer.is_some() {
                    // It has more.
                    self.streams.writers.note_refused(id);
                }
                // There is room again.
                self.signals.make_due(&mut stream.writer);
                if let Some(ticket) = stream.ticket.take() {
                    line.leave(ticket);
                }
            }
            if !stream.gather.is_empty() {
                self.streams.writers.note_refused(id);
                let kind = stream.gather.kind();
                stream.ticket.get_or_insert_with(|| {
                    self.streams.blocked.note_refused();
                    line.ticket(kind)
                });
            }
        }
        if stream.send == SendState::Finishing && stream.gather.is_empty() {
            let finished = send_stream.finish();
            stream.send = match finished {
                Ok(()) | Err(FinishError::ClosedStream) => SendState::Finished,
                Err(FinishError::Stopped(code)) => {
                    // The event that reports this may come after the stream was removed.
                    let _ = send_stream.reset(code);
                    self.streams.blocked.note_room();
                    SendState::Stopped(code.into_inner())
                }
            };
            if finished.is_err() {
                // It will never be acknowledged.
                self.streams.undelivered.remove(&id);
            }
            if stream.dropped {
                self.remove(id);
            } else if stream.may_linger() {
                self.note_lingering(id);
            }
        }
        self.signals.want_turn();
    }

    /// The peer has acknowledged all of the stream.
    pub(in crate::proto::connection) fn on_finished(&mut self, id: StreamId) {
        self.streams.undelivered.remove(&id);
    }

    /// The peer has sent STOP_SENDING.
    pub(in crate::proto::connection) fn on_stopped(&mut self, id: StreamId, code: VarInt) {
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        stream.gather.clear(&mut self.streams.gathering);
        stream.send = SendState::Stopped(code.into_inner());
        self.signals.make_due(&mut stream.writer);
        let (dropped, may_linger) = (stream.dropped, stream.may_linger());
        self.leave_write_line(id);
        if dropped {
            self.remove(id);
        } else if may_linger {
            self.note_lingering(id);
        }
        self.streams.undelivered.remove(&id);
        // RFC 9000 §3.5: the answer to STOP_SENDING is RESET_STREAM, preferably with the same code.
        let _ = self.quic.send_stream(id).reset(code);
        self.signals.want_turn();
    }

    /// Sets how many written and unacknowledged bytes there is memory for.
    pub(in crate::proto::connection) fn set_send_allowance(&mut self, bytes: u64) {
        let changed = self.streams.send_window.set_allowance(bytes);
        self.change_send_window(changed);
    }

    /// Sets the path's limit on written and unacknowledged bytes.
    pub(in crate::proto::connection) fn set_path_limit(&mut self, bytes: Option<u64>) {
        let changed = self.streams.send_window.set_path_limit(bytes);
        self.change_send_window(changed);
    }

    /// Lets the send window grow with the congestion window, or only shrink.
    pub(in crate::proto::connection) fn look_at_send_window(&mut self, may_grow: bool) {
        let congestion_window = self.quic.congestion_state().window();
        let changed = (self.streams.send_window).look(congestion_window, may_grow);
        self.change_send_window(changed);
    }

    fn change_send_window(&mut self, changed: Option<u64>) {
        if let Some(window) = changed {
            self.quic.set_send_window(window);
            self.streams.blocked.note_room();
            // Writers may go on.
            self.signals.want_turn();
        }
    }
}
