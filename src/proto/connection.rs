//! One connection: quinn-proto's state machine, its streams, and who waits for what.

use std::{
    mem,
    net::SocketAddr,
    task::{Poll, Waker},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use libp2p_identity::PeerId;
pub(crate) use quinn_proto::StreamId;
use quinn_proto::{
    ConnectionError as QuicError, ConnectionEvent, Dir, EndpointEvent, Event, FinishError,
    ReadError, ReadableError, StreamEvent, Transmit, TransportErrorCode, VarInt, WriteError,
};
use rustc_hash::FxHashMap;

use crate::{
    authenticator::{CertificateError, Negotiated, VerifiedPeer},
    error::{ConnectionError, HandshakeError, StreamError},
    stats::ConnectionStats,
};

/// Largest write that is taken in one call, in bytes.
///
/// quinn-proto accounts whole chunks against the send window until the last byte of them is
/// acknowledged, so chunks of megabytes would stall it.
const MAX_WRITE: usize = 64 * 1024;

/// Writes below this many bytes are gathered.
///
/// quinn-proto's send buffer searches its chunks from the front, which makes many small ones quadratic;
/// from one packet's worth upwards the search no longer shows.
const SMALL_WRITE: usize = 1024;

/// Most bytes of small writes that one stream gathers before they have to go on.
const GATHER_LIMIT: usize = 16 * 1024;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// What the handshake has shown.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) peer_id: PeerId,
    pub(crate) negotiated: Negotiated,
}

/// A connection and its streams.
///
/// Methods called for the application (reads, writes, [`close`](Self::close), …) never produce a
/// datagram. They change state and ask for a *turn*, in which the shard has the connection produce what
/// it has to send. Wakers that are due pile up in the connection until [`take_due`](Self::take_due).
pub(crate) struct Connection {
    quic: quinn_proto::Connection,
    direction: Direction,
    authenticated: Option<Authenticated>,
    loss: Option<Loss>,
    closing: Option<Closing>,
    drained: bool,
    remote_addr: SocketAddr,
    /// The peer's new address, not yet reported to the application.
    moved_to: Option<SocketAddr>,
    streams: FxHashMap<StreamId, StreamState>,
    /// Streams whose gathered bytes go on in the next turn.
    gathered: Vec<StreamId>,
    /// Counts turns; it tells whether a stream has written since the last one.
    turn: u64,
    turn_wanted: TurnWanted,
    waiting: Waiting,
    due: Vec<Waker>,
}

/// Why a connection is over.
struct Loss {
    connection: ConnectionError,
    handshake: HandshakeError,
}

/// A close that the application asked for.
struct Closing {
    code: VarInt,
    reason: Bytes,
    /// Nobody will ever ask again: forget the connection as soon as the peer was told.
    abandoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnWanted {
    No,
    /// The shard does not know yet.
    Unannounced,
    /// The shard knows.
    Announced,
}

/// Who waits for the connection itself.
#[derive(Default)]
struct Waiting {
    address_change: Option<Waker>,
    drained: Option<Waker>,
    established: Option<Waker>,
    inbound_stream: Option<Waker>,
    outbound_stream: Option<Waker>,
}

#[derive(Default)]
struct StreamState {
    recv: RecvState,
    send: SendState,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Small writes on their way to quinn-proto.
    gather: BytesMut,
    /// The turn in which a small write went to quinn-proto directly.
    direct_in_turn: Option<u64>,
    /// The application has dropped the stream; only its gathered bytes are left to send.
    dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RecvState {
    #[default]
    Open,
    Finished,
    Reset(u64),
    /// We sent STOP_SENDING.
    Stopped,
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

/// The connection as the application sees it.
impl Connection {
    pub(crate) fn new(quic: quinn_proto::Connection, direction: Direction) -> Self {
        Self {
            remote_addr: quic.remote_address(),
            quic,
            direction,
            authenticated: None,
            loss: None,
            closing: None,
            drained: false,
            moved_to: None,
            streams: FxHashMap::default(),
            gathered: Vec::new(),
            turn: 0,
            turn_wanted: TurnWanted::No,
            waiting: Waiting::default(),
            due: Vec::new(),
        }
    }

    pub(crate) fn poll_established(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<PeerId, HandshakeError>> {
        if let Some(loss) = &self.loss {
            return Poll::Ready(Err(loss.handshake.clone()));
        }
        match &self.authenticated {
            Some(authenticated) => Poll::Ready(Ok(authenticated.peer_id)),
            None => {
                wait(&mut self.waiting.established, waker);
                Poll::Pending
            }
        }
    }

    pub(crate) fn poll_open(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        self.alive()?;
        match self.quic.streams().open(Dir::Bi) {
            Some(id) => {
                self.streams.insert(id, StreamState::default());
                Poll::Ready(Ok(id))
            }
            None => {
                wait(&mut self.waiting.outbound_stream, waker);
                Poll::Pending
            }
        }
    }

    /// The next stream that the peer has opened.
    ///
    /// A stream that is not taken goes on counting against the limit that the peer was given, so an
    /// application that takes none holds its peer back.
    pub(crate) fn poll_accept(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        self.alive()?;
        match self.quic.streams().accept(Dir::Bi) {
            Some(id) => {
                self.streams.insert(id, StreamState::default());
                Poll::Ready(Ok(id))
            }
            None => {
                wait(&mut self.waiting.inbound_stream, waker);
                Poll::Pending
            }
        }
    }

    /// The peer's new address, once after each change, or the end of the connection.
    pub(crate) fn poll_address_change(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<SocketAddr, ConnectionError>> {
        self.alive()?;
        match self.moved_to.take() {
            Some(addr) => Poll::Ready(Ok(addr)),
            None => {
                wait(&mut self.waiting.address_change, waker);
                Poll::Pending
            }
        }
    }

    /// Closes, and waits until nothing is left of the connection.
    pub(crate) fn poll_close(&mut self, waker: &Waker) -> Poll<Result<(), ConnectionError>> {
        self.close(VarInt::from_u32(0), Bytes::new());
        if !self.drained {
            wait(&mut self.waiting.drained, waker);
            return Poll::Pending;
        }
        Poll::Ready(match self.loss() {
            None | Some(ConnectionError::LocallyClosed) => Ok(()),
            Some(error) => Err(error.clone()),
        })
    }

    /// Ends the connection; what was not acknowledged by now is lost.
    pub(crate) fn close(&mut self, code: VarInt, reason: Bytes) {
        self.begin_closing(Closing {
            code,
            reason,
            abandoned: false,
        });
    }

    /// Closes a connection whose handshake nobody waits for any more, and forgets it at once.
    pub(crate) fn abandon(&mut self, why: HandshakeError) {
        if self.loss.is_none() && self.authenticated.is_none() {
            self.lose(ConnectionError::LocallyClosed, why);
            self.closing = Some(Closing {
                code: VarInt::from_u32(0),
                reason: Bytes::new(),
                abandoned: true,
            });
            self.want_turn();
        } else {
            self.close(VarInt::from_u32(0), Bytes::new());
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        id: StreamId,
        buf: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<usize, StreamError>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Closed));
        };
        match stream.recv {
            RecvState::Open => {}
            RecvState::Finished => return Poll::Ready(Ok(0)),
            RecvState::Reset(code) => return Poll::Ready(Err(StreamError::Reset(code))),
            RecvState::Stopped => return Poll::Ready(Err(StreamError::Closed)),
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut recv_stream = self.quic.recv_stream(id);
        let mut chunks = match recv_stream.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                return Poll::Ready(Err(StreamError::Closed));
            }
        };
        let mut filled = 0;
        let end = loop {
            if filled == buf.len() {
                break None;
            }
            match chunks.next(buf.len() - filled) {
                Ok(Some(chunk)) => {
                    buf[filled..filled + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                    filled += chunk.bytes.len();
                }
                Ok(None) => {
                    stream.recv = RecvState::Finished;
                    break Some(Ok(0));
                }
                Err(ReadError::Reset(code)) => {
                    stream.recv = RecvState::Reset(code.into_inner());
                    break Some(Err(StreamError::Reset(code.into_inner())));
                }
                Err(ReadError::Blocked) => {
                    wait(&mut stream.reader, waker);
                    break None;
                }
            }
        };
        // Credit goes back to the peer here and nowhere else: a slow reader stops its sender.
        if chunks.finalize().should_transmit() {
            self.want_turn();
        }
        match end {
            _ if filled > 0 => Poll::Ready(Ok(filled)),
            Some(end) => Poll::Ready(end),
            None => {
                // What had arrived before the end could still be read.
                self.alive()?;
                Poll::Pending
            }
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        id: StreamId,
        data: &[u8],
        waker: &Waker,
    ) -> Poll<Result<usize, StreamError>> {
        self.alive()?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Closed));
        };
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
        if stream.gather.len() >= GATHER_LIMIT {
            self.flush(id);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Closed));
        };
        let behind_gathered = !stream.gather.is_empty();
        // The first small write of a turn goes on as it is: it may well stay the only one.
        let gather = behind_gathered
            || (data.len() < SMALL_WRITE && stream.direct_in_turn == Some(self.turn));
        if gather {
            let room = GATHER_LIMIT.saturating_sub(stream.gather.len());
            if room == 0 {
                wait(&mut stream.writer, waker);
                return Poll::Pending;
            }
            let taken = room.min(data.len());
            stream.gather.extend_from_slice(&data[..taken]);
            if !behind_gathered {
                self.gathered.push(id);
            }
            self.want_turn();
            return Poll::Ready(Ok(taken));
        }
        stream.direct_in_turn = Some(self.turn);
        let data = &data[..data.len().min(MAX_WRITE)];
        match self.quic.send_stream(id).write(data) {
            Ok(written) => {
                self.want_turn();
                Poll::Ready(Ok(written))
            }
            Err(WriteError::Blocked) => {
                wait(&mut stream.writer, waker);
                // DATA_BLOCKED or STREAM_DATA_BLOCKED may be due.
                self.want_turn();
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
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(StreamError::Closed);
        };
        match stream.send {
            // A peer that does not read any further has no use for FIN either; go closes a stream
            // with STOP_SENDING as a matter of course.
            SendState::Stopped(_) | SendState::Finishing | SendState::Finished => return Ok(()),
            SendState::Reset => return Err(StreamError::Closed),
            SendState::Open => {}
        }
        if let Some(loss) = &self.loss {
            return Err(loss.connection.clone().into());
        }
        stream.send = SendState::Finishing;
        self.flush(id);
        Ok(())
    }

    /// Abandons our half of the stream.
    pub(crate) fn reset(&mut self, id: StreamId, code: VarInt) -> Result<(), StreamError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(StreamError::Closed);
        };
        stream.gather = BytesMut::new();
        stream.send = SendState::Reset;
        self.quic
            .send_stream(id)
            .reset(code)
            .map_err(|_| StreamError::Closed)?;
        self.want_turn();
        Ok(())
    }

    /// Discards what the peer still sends on the stream, and asks it to send no more.
    pub(crate) fn stop(&mut self, id: StreamId, code: VarInt) -> Result<(), StreamError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(StreamError::Closed);
        };
        if stream.recv != RecvState::Open {
            return Err(StreamError::Closed);
        }
        stream.recv = RecvState::Stopped;
        self.quic
            .recv_stream(id)
            .stop(code)
            .map_err(|_| StreamError::Closed)?;
        self.want_turn();
        Ok(())
    }

    /// The code of the peer's RESET_STREAM, if it was seen by a read.
    pub(crate) fn reset_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.get(&id)?.recv {
            RecvState::Reset(code) => Some(code),
            _ => None,
        }
    }

    /// The code of the peer's STOP_SENDING, if it sent one.
    pub(crate) fn stop_code(&self, id: StreamId) -> Option<u64> {
        match self.streams.get(&id)?.send {
            SendState::Stopped(code) => Some(code),
            _ => None,
        }
    }

    /// The application has let go of the stream: FIN for our half, STOP_SENDING for an unread one.
    pub(crate) fn drop_stream(&mut self, id: StreamId) {
        let no_error = VarInt::from_u32(0);
        // Neither can fail in a way that matters: the half is over already.
        let _ = self.stop(id, no_error);
        let _ = self.finish(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.send == SendState::Finishing && self.loss.is_none() {
            stream.dropped = true;
            stream.reader = None;
            stream.writer = None;
        } else {
            self.streams.remove(&id);
        }
    }

    /// Whether the shard has to be told that this connection wants a turn; `true` once for each turn.
    pub(crate) fn announce_turn(&mut self) -> bool {
        let unannounced = self.turn_wanted == TurnWanted::Unannounced;
        if unannounced {
            self.turn_wanted = TurnWanted::Announced;
        }
        unannounced
    }

    /// Moves the wakers that are due to `wakers`; wake them when the connection is unlocked.
    pub(crate) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.due);
    }

    pub(crate) fn authenticated(&self) -> Option<&Authenticated> {
        self.authenticated.as_ref()
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    pub(crate) fn loss(&self) -> Option<&ConnectionError> {
        self.loss.as_ref().map(|loss| &loss.connection)
    }

    pub(crate) fn stats(&self, shard: usize, socket_addr: SocketAddr) -> ConnectionStats {
        let quic = self.quic.stats();
        let negotiated = self.authenticated.as_ref().map(|peer| &peer.negotiated);
        let mut local_addr = socket_addr;
        if let Some(ip) = self.quic.local_ip()
            && socket_addr.ip().is_unspecified()
        {
            local_addr.set_ip(ip);
        }
        ConnectionStats {
            bytes_received: quic.udp_rx.bytes,
            bytes_sent: quic.udp_tx.bytes,
            cipher_suite: negotiated.and_then(|negotiated| negotiated.cipher_suite.as_str()),
            congestion_events: quic.path.congestion_events,
            congestion_window_bytes: quic.path.cwnd,
            datagrams_received: quic.udp_rx.datagrams,
            datagrams_sent: quic.udp_tx.datagrams,
            is_outbound: self.direction == Direction::Outbound,
            key_exchange_group: negotiated
                .and_then(|negotiated| negotiated.key_exchange_group.as_str()),
            local_addr,
            lost_packets: quic.path.lost_packets,
            min_rtt: quic.path.min_rtt,
            mtu_bytes: quic.path.current_mtu,
            open_streams: self.streams.len(),
            peer_id: self.authenticated.as_ref().map(|peer| peer.peer_id),
            remote_addr: self.remote_addr,
            rtt: quic.path.rtt,
            shard,
        }
    }

    /// Nothing will drive this connection any more: everyone who waits is told so.
    pub(crate) fn orphan(&mut self) {
        self.lose(
            ConnectionError::DriverStopped,
            ConnectionError::DriverStopped.into(),
        );
        self.set_drained();
    }

    fn alive(&self) -> Result<(), ConnectionError> {
        match &self.loss {
            None => Ok(()),
            Some(loss) => Err(loss.connection.clone()),
        }
    }

    fn begin_closing(&mut self, closing: Closing) {
        if self.loss.is_some() {
            return;
        }
        self.lose(
            ConnectionError::LocallyClosed,
            ConnectionError::LocallyClosed.into(),
        );
        self.closing = Some(closing);
        self.want_turn();
    }

    /// Hands a stream's gathered bytes to quinn-proto, as far as flow control lets it, and FIN after them.
    fn flush(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut send_stream = self.quic.send_stream(id);
        if !stream.gather.is_empty() {
            let mut chunks = [mem::take(&mut stream.gather).freeze()];
            while !chunks[0].is_empty() {
                match send_stream.write_chunks(&mut chunks) {
                    Ok(_) => {}
                    // quinn-proto tells when to go on, but only after it has said "blocked".
                    Err(WriteError::Blocked) => break,
                    // The stream ends without them; the event that says so is on its way.
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => chunks[0].clear(),
                }
            }
            let [rest] = chunks;
            stream.gather = BytesMut::from(rest);
        }
        if stream.send == SendState::Finishing && stream.gather.is_empty() {
            stream.send = match send_stream.finish() {
                Ok(()) | Err(FinishError::ClosedStream) => SendState::Finished,
                Err(FinishError::Stopped(code)) => SendState::Stopped(code.into_inner()),
            };
            if stream.dropped {
                self.streams.remove(&id);
            }
        }
        self.want_turn();
    }

    fn lose(&mut self, connection: ConnectionError, handshake: HandshakeError) {
        if self.loss.is_some() {
            return;
        }
        self.loss = Some(Loss {
            connection,
            handshake,
        });
        self.gathered.clear();
        self.streams.retain(|_, stream| !stream.dropped);
        for stream in self.streams.values_mut() {
            stream.gather = BytesMut::new();
            self.due.extend(stream.reader.take());
            self.due.extend(stream.writer.take());
        }
        self.due.extend(self.waiting.address_change.take());
        self.due.extend(self.waiting.established.take());
        self.due.extend(self.waiting.inbound_stream.take());
        self.due.extend(self.waiting.outbound_stream.take());
    }

    fn set_drained(&mut self) {
        self.drained = true;
        self.due.extend(self.waiting.drained.take());
    }

    fn want_turn(&mut self) {
        if self.turn_wanted == TurnWanted::No {
            self.turn_wanted = TurnWanted::Unannounced;
        }
    }
}

/// The connection as its shard drives it, in quinn-proto's order: events in, transmits, timeouts,
/// endpoint events, application events.
impl Connection {
    /// Begins a turn: what the application did since the last one takes effect.
    ///
    /// Returns `true` if the connection is to be forgotten once this turn's datagrams are out.
    pub(super) fn begin_turn(&mut self, now: Instant) -> bool {
        self.turn += 1;
        self.turn_wanted = TurnWanted::No;
        if let Some(closing) = self.closing.take() {
            self.quic.close(now, closing.code, closing.reason);
            return closing.abandoned;
        }
        for id in mem::take(&mut self.gathered) {
            self.flush(id);
        }
        // Nothing else was asked for, and this turn has just done it.
        self.turn_wanted = TurnWanted::No;
        false
    }

    pub(super) fn handle_event(&mut self, event: ConnectionEvent) {
        self.quic.handle_event(event);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
    }

    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic.poll_transmit(now, max_datagrams, buf)
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.quic.poll_timeout()
    }

    pub(super) fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.quic.poll_endpoint_events()
    }

    pub(super) fn current_mtu(&self) -> u16 {
        self.quic.current_mtu()
    }

    /// Whether the peer's address has just changed, by a packet that it authenticated.
    pub(super) fn note_migration(&mut self) -> bool {
        let addr = self.quic.remote_address();
        if addr == self.remote_addr {
            return false;
        }
        self.remote_addr = addr;
        if self.authenticated.is_some() {
            self.moved_to = Some(addr);
            self.due.extend(self.waiting.address_change.take());
        }
        true
    }

    /// Turns quinn-proto's events into state and due wakers.
    ///
    /// Returns `true` when the peer was authenticated just now.
    pub(super) fn handle_application_events(&mut self) -> bool {
        let mut established = false;
        while let Some(event) = self.quic.poll() {
            match event {
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {
                }
                Event::Connected => established |= self.on_connected(),
                Event::ConnectionLost { reason } => {
                    let handshake = self.handshake_error(&reason);
                    self.lose(reason.into(), handshake);
                }
                Event::Stream(event) => self.on_stream_event(event),
            }
        }
        established
    }

    pub(super) fn on_drained(&mut self) {
        self.lose(ConnectionError::LocallyClosed, HandshakeError::Stale);
        self.set_drained();
    }

    fn on_connected(&mut self) -> bool {
        let session = self.quic.crypto_session();
        let peer = session.peer_identity().and_then(|verdict| {
            verdict
                .downcast::<Result<VerifiedPeer, CertificateError>>()
                .ok()
        });
        let negotiated = session
            .handshake_data()
            .and_then(|data| data.downcast::<Negotiated>().ok());
        match (peer.map(|verdict| *verdict), negotiated) {
            (Some(Ok(peer)), Some(negotiated)) => {
                self.authenticated = Some(Authenticated {
                    peer_id: peer.peer_id(),
                    negotiated: *negotiated,
                });
                self.due.extend(self.waiting.established.take());
                true
            }
            (verdict, _) => {
                // A handshake never completes without a verdict; if it did, nobody would be there.
                let error = match verdict {
                    Some(Err(error)) => error,
                    _ => CertificateError::Chain { length: 0 },
                };
                self.lose(ConnectionError::LocallyClosed, error.into());
                self.closing = Some(Closing {
                    code: VarInt::from_u32(0),
                    reason: Bytes::new(),
                    abandoned: true,
                });
                self.want_turn();
                false
            }
        }
    }

    fn on_stream_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { .. } => self.due.extend(self.waiting.inbound_stream.take()),
            StreamEvent::Available { .. } => self.due.extend(self.waiting.outbound_stream.take()),
            StreamEvent::Readable { id } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    self.due.extend(stream.reader.take());
                }
            }
            StreamEvent::Writable { id } => {
                let Some(stream) = self.streams.get_mut(&id) else {
                    return;
                };
                self.due.extend(stream.writer.take());
                if !stream.gather.is_empty() {
                    self.flush(id);
                }
            }
            StreamEvent::Stopped { id, error_code } => {
                let Some(stream) = self.streams.get_mut(&id) else {
                    return;
                };
                let dropped = stream.dropped;
                stream.gather = BytesMut::new();
                stream.send = SendState::Stopped(error_code.into_inner());
                self.due.extend(stream.writer.take());
                // RFC 9000 §3.5: STOP_SENDING is answered by RESET_STREAM, with its code.
                let _ = self.quic.send_stream(id).reset(error_code);
                if dropped {
                    self.streams.remove(&id);
                }
                self.want_turn();
            }
            StreamEvent::Finished { .. } => {}
        }
    }

    fn handshake_error(&self, reason: &QuicError) -> HandshakeError {
        let verdict = self
            .quic
            .crypto_session()
            .peer_identity()
            .and_then(|verdict| {
                verdict
                    .downcast::<Result<VerifiedPeer, CertificateError>>()
                    .ok()
            });
        match (verdict.map(|verdict| *verdict), reason) {
            (Some(Err(error)), _) => error.into(),
            (_, QuicError::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                HandshakeError::Refused
            }
            (_, reason) => ConnectionError::from(reason.clone()).into(),
        }
    }
}

impl From<QuicError> for ConnectionError {
    fn from(error: QuicError) -> Self {
        let text = |reason: &Bytes| String::from_utf8_lossy(reason).into_owned();
        match error {
            QuicError::VersionMismatch => Self::VersionMismatch,
            QuicError::TransportError(error) => Self::Violation {
                code: error.code.into(),
                reason: error.reason,
            },
            QuicError::ConnectionClosed(close) => Self::AbortedByPeer {
                code: close.error_code.into(),
                reason: text(&close.reason),
            },
            QuicError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: close.error_code.into_inner(),
                reason: text(&close.reason),
            },
            QuicError::Reset => Self::Reset,
            QuicError::TimedOut => Self::TimedOut,
            QuicError::LocallyClosed => Self::LocallyClosed,
            QuicError::CidsExhausted => Self::Violation {
                code: TransportErrorCode::INTERNAL_ERROR.into(),
                reason: error.to_string(),
            },
        }
    }
}

/// Remembers who waits, without cloning the waker of the one who waits already.
fn wait(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(waiting) => waiting.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}
