//! How streams are opened by either side, and how many the peer may have.

use std::{
    mem,
    task::{Poll, Waker},
};

use quinn_proto::{Dir, Side, VarInt};

use super::{SendState, StreamId, StreamState, StreamStates, Streams, receive_part::RecvState};
use crate::error::ConnectionError;

/// Streams of ours that the application has dropped and whose sending part, or whose receiving part
/// (RFC 9000 §3.5), is not over for quinn-proto. It keeps some 2 KB for each. With as many as this
/// of either kind, the application has to wait with further ones.
const MOST_UNENDED: u64 = 4096;

/// The factor by which the limit grows when half of it is used: in one step from 100 to the usual
/// 256.
const LIMIT_GROWTH: u32 = 4;

impl Streams<'_> {
    pub(crate) fn poll_open(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        self.alive()?;
        self.streams.waits_for_ends = self.has_many_unended();
        let id = if self.streams.waits_for_ends {
            None
        } else {
            self.quic.streams().open(Dir::Bi)
        };
        match id {
            Some(id) => {
                self.streams.states.insert(id, StreamState::default());
                self.streams.own += 1;
                self.note_streams();
                Poll::Ready(Ok(id))
            }
            None => {
                self.signals.wait(&mut self.streams.outbound, waker);
                Poll::Pending
            }
        }
    }

    /// Wakes the task that waits to open a stream, if it waits for earlier ones to be over, and
    /// enough of them are.
    pub(super) fn note_unended(&mut self) {
        if self.streams.waits_for_ends && !self.has_many_unended() {
            self.streams.waits_for_ends = false;
            self.signals.make_due(&mut self.streams.outbound);
        }
    }

    fn has_many_unended(&mut self) -> bool {
        let sending = self.quic.streams().send_streams() as u64;
        let others = u64::from(self.streams.own) + self.quic.streams().remote_open_streams(Dir::Bi);
        let unsent = sending.saturating_sub(others);
        unsent.max(self.streams.receiving.stopped()) >= MOST_UNENDED
    }

    /// The peer permits more streams.
    pub(in crate::proto::connection) fn on_available(&mut self) {
        self.signals.make_due(&mut self.streams.outbound);
    }

    /// Takes the next stream that the peer has opened.
    ///
    /// A stream that is not taken counts against the peer's limit, so an application that takes
    /// none holds its peer back.
    ///
    /// Streams that came in before the end of the connection can be taken after it, unless we have
    /// ended it.
    pub(in crate::proto) fn poll_accept(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<StreamId, ConnectionError>> {
        if self.streams.waiting == 0 {
            self.alive()?;
            self.signals.wait(&mut self.streams.inbound, waker);
            return Poll::Pending;
        }
        let id = peer_stream(self.quic.side(), self.streams.accepted);
        self.streams.accepted += 1;
        self.streams.waiting -= 1;
        Poll::Ready(Ok(id))
    }

    /// Refuses the streams that wait, because nobody will take them.
    pub(in crate::proto::connection) fn discard_waiting(&mut self) {
        let waiting = mem::take(&mut self.streams.waiting) as usize;
        for index in (self.streams.accepted..).take(waiting) {
            let id = peer_stream(self.quic.side(), index);
            self.count_gaps(id);
            if let Some(mut stream) = self.streams.states.remove(&id) {
                (self.streams.receiving).stop(id, &mut stream.receive, false);
            }
            // The connection may go on to deliver other streams.
            self.refuse(id);
        }
    }

    /// The peer has opened streams. Their data is managed from now on, even before the application
    /// takes them.
    pub(in crate::proto::connection) fn on_opened(&mut self) {
        if self.loss.is_some() {
            self.refuse_new();
            return;
        }
        self.raise_limit();
        while let Some(id) = self.quic.streams().accept(Dir::Bi) {
            let mut stream = StreamState::default();
            // quinn-proto does not tell which of them the datagram had a frame of.
            self.streams.receiving.note(id, &mut stream.receive);
            self.streams.states.insert(id, stream);
            self.streams.waiting += 1;
        }
        self.note_streams();
        self.signals.make_due(&mut self.streams.inbound);
    }

    /// Refuses streams that the peer has opened after the end of the connection.
    fn refuse_new(&mut self) {
        while let Some(id) = self.quic.streams().accept(Dir::Bi) {
            self.refuse(id);
        }
    }

    /// Refuses a stream of the peer, so that its data takes no memory.
    fn refuse(&mut self, id: StreamId) {
        // Fails if the stream is over; then nothing is left to refuse.
        let _ = self.stop_receiving(id, VarInt::from_u32(0));
        self.signals.want_turn();
    }

    /// Notes how many streams quinn-proto may have at once. It has something for each that the peer
    /// may open, which it may have from an earlier one.
    fn note_streams(&mut self) {
        let StreamStates {
            own, peer_streams, ..
        } = *self.streams;
        let receiving = &mut self.streams.receiving;
        receiving.note_streams(own.saturating_add(peer_streams));
    }

    /// Raises the limit on the peer's streams once half of it is used.
    fn raise_limit(&mut self) {
        let limit = self.streams.peer_streams;
        let open = self.quic.streams().remote_open_streams(Dir::Bi);
        if limit < self.streams.max_peer_streams && open >= u64::from(limit / 2) {
            let raised = limit.saturating_mul(LIMIT_GROWTH);
            self.streams.peer_streams = raised.min(self.streams.max_peer_streams);
            self.set_limit();
        }
    }

    /// Notes whether a stream of the peer is over for quinn-proto while the application has not
    /// read it to its end. Such a stream still counts against the peer's limit.
    pub(super) fn note_lingering(&mut self, id: StreamId) {
        let is_peers = !self.is_own(id);
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
        self.signals.want_turn();
    }
}

/// The ID of a stream that the peer of this side has opened.
fn peer_stream(side: Side, index: u64) -> StreamId {
    StreamId::new(!side, Dir::Bi, index)
}
