//! How the application reads a stream, or asks the peer to send no more.

use std::task::{Poll, Waker};

use quinn_proto::VarInt;

use super::{
    StreamId, Streams,
    bandwidth::Way,
    receive_part::{ReceivePart, RecvState},
};
use crate::error::StreamError;

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
        // Without a permission this still meets a reset, or the end if all is there.
        let taken = receiving.read(self.quic, id, &mut stream.receive, &mut buf[..permitted]);
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
        self.charge(Way::Receive, id, taken.filled);
        self.settle();
        if read.is_pending() {
            // Only now, because what arrived before the end of the connection can still be read.
            self.alive()?;
        }
        read
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
        self.streams
            .receiving
            .change(id, &mut stream.receive, ReceivePart::stop);
        if stream.may_linger() {
            self.note_lingering(id);
        }
        self.settle();
        // If everything has arrived, there is nothing to ask for.
        if !is_complete {
            self.quic
                .recv_stream(id)
                .stop(code)
                .map_err(|_| StreamError::Closed)?;
        }
        self.turns.want();
        Ok(())
    }

    /// The code of the peer's RESET_STREAM, if a read has met it.
    pub(crate) fn reset_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.states.get(&id)?.receive.state {
            RecvState::Reset(code) => Some(code),
            _ => None,
        }
    }
}
