//! What datagrams and quinn-proto's events do to a connection.

use std::mem;

use bytes::Bytes;
use quinn_proto::{
    ConnectionError as QuicError, ConnectionEvent, EndpointEvent, Event, StreamEvent,
    TransportErrorCode, VarInt,
};

use super::{Authenticated, Connection, ending::CloseToSend, peer};
use crate::{
    authenticator::{CertificateError, Negotiated},
    error::{ConnectionError, HandshakeError},
};

impl Connection {
    /// Passes quinn-proto a datagram, or an event of the endpoint. It decrypts the datagram's
    /// packets here, with the keys of [`packets`](crate::packets).
    pub(in crate::proto) fn handle_event(&mut self, event: ConnectionEvent) {
        self.quic.handle_event(event);
    }

    /// Handles the effects of a datagram. quinn-proto keeps `held` bytes of memory as long as it
    /// keeps any part of it. Data may pile up in streams where it has not before if there is
    /// memory for it.
    pub(in crate::proto) fn note_arrival(&mut self, held: usize, has_memory: bool) -> Noted {
        let jumps = self.watch.as_ref().map_or(0, |watch| watch.jumps());
        let fill = self.watch.as_ref().and_then(|watch| watch.last_fill());
        self.streams().begin_arrival(held, fill, jumps, has_memory);
        let was_open = self.loss.is_none();
        let authenticated = self.handle_quic_events();
        if (self.watch.as_ref()).is_some_and(|watch| watch.violates_final_size()) {
            self.give_up(
                TransportErrorCode::FINAL_SIZE_ERROR,
                "final size less than what was sent",
            );
        }
        if self.streams().exceed_credit() {
            self.give_up(
                TransportErrorCode::FLOW_CONTROL_ERROR,
                "more data on a stream than permitted",
            );
        }
        let exceeded_credit = was_open && self.has_violated(TransportErrorCode::FLOW_CONTROL_ERROR);
        let ended = self.watch.as_ref().map(|watch| watch.take_ended_streams());
        self.streams().end_arrival(&ended.unwrap_or_default());
        let is_open = self.loss.is_none() || self.lingers();
        let violated = is_open && self.streams.is_too_fragmented();
        if violated {
            self.give_up(
                TransportErrorCode::INTERNAL_ERROR,
                "too many gaps in stream data",
            );
        }
        Noted {
            authenticated,
            too_fragmented: violated,
            exceeded_credit,
        }
    }

    /// Ends the connection if quinn-proto may list too many streams as blocked. Returns whether it
    /// does.
    pub(in crate::proto) fn end_if_too_many_are_blocked(&mut self) -> bool {
        let frames = self.quic.stats().frame_rx.max_stream_data;
        let violated = self.loss.is_none() && self.streams.has_too_many_blocked(frames);
        if violated {
            self.give_up(
                TransportErrorCode::INTERNAL_ERROR,
                "too many streams without credit for the connection",
            );
        }
        violated
    }

    /// Whether we have closed the connection for such a reason.
    fn has_violated(&self, reason: TransportErrorCode) -> bool {
        matches!(
            self.loss(),
            Some(&ConnectionError::Violation { code, .. }) if code == u64::from(reason)
        )
    }

    /// Translates quinn-proto's events into state and due wakers.
    ///
    /// Returns `true` if the peer was authenticated by these events.
    pub(in crate::proto) fn handle_quic_events(&mut self) -> bool {
        let mut established = false;
        while let Some(event) = self.quic.poll() {
            match event {
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {
                }
                Event::Connected => established |= self.on_connected(),
                Event::ConnectionLost { reason } => {
                    let handshake = self.handshake_error(&reason);
                    let error = ConnectionError::from(reason);
                    self.ended_by_peer |= matches!(
                        error,
                        ConnectionError::AbortedByPeer { .. }
                            | ConnectionError::ClosedByPeer { .. }
                            | ConnectionError::Reset
                    );
                    self.lose(error, handshake);
                }
                Event::Stream(event) => self.handle_stream_event(event),
            }
        }
        self.streams.note_polled();
        established
    }

    fn handle_stream_event(&mut self, event: StreamEvent) {
        let mut streams = self.streams();
        match event {
            StreamEvent::Opened { .. } => streams.on_opened(),
            StreamEvent::Available { .. } => streams.on_available(),
            StreamEvent::Readable { id } => streams.on_readable(id),
            StreamEvent::Writable { id } => streams.on_writable(id),
            StreamEvent::Stopped { id, error_code } => streams.on_stopped(id, error_code),
            StreamEvent::Finished { id } => streams.on_finished(id),
        }
    }

    fn on_connected(&mut self) -> bool {
        let verdict = peer(&self.quic).and_then(|peer| peer.verdict);
        let negotiated = self
            .quic
            .crypto_session()
            .handshake_data()
            .and_then(|data| data.downcast::<Negotiated>().ok());
        match (verdict, negotiated) {
            (Some(Ok(peer)), Some(negotiated)) => {
                let peer_id = peer.peer_id();
                self.trace.span.record_peer(&peer_id);
                tracing::debug!("the peer is authenticated");
                self.authenticated = Some(Authenticated {
                    peer_id,
                    negotiated: *negotiated,
                });
                self.signals.make_due(&mut self.wakers.established);
                true
            }
            (verdict, _) => {
                // rustls never completes a handshake without a verdict; if it did, the peer would
                // be unknown.
                let error = match verdict {
                    Some(Err(error)) => error,
                    _ => CertificateError::Chain { length: 0 },
                };
                self.lose(ConnectionError::LocallyClosed, error.into());
                self.closing = Some(CloseToSend {
                    code: VarInt::from_u32(0),
                    reason: Bytes::new(),
                    abandoned: true,
                });
                self.signals.want_turn();
                false
            }
        }
    }

    fn handshake_error(&self, reason: &QuicError) -> HandshakeError {
        let verdict = peer(&self.quic).and_then(|peer| peer.verdict);
        match (verdict, reason) {
            (Some(Err(error)), _) => error.into(),
            (_, QuicError::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                HandshakeError::Refused
            }
            // The idle timeout, if it is shorter than the handshake timeout.
            (_, QuicError::TimedOut) => HandshakeError::TimedOut,
            (_, reason) => ConnectionError::from(reason.clone()).into(),
        }
    }

    /// Whether the peer has sent more CRYPTO data than permitted, so that none of its packets is
    /// decrypted any more.
    pub(in crate::proto) fn exceeded_crypto(&self) -> bool {
        self.crypto
            .as_ref()
            .is_some_and(|crypto| crypto.is_exceeded())
    }

    /// Whether the peer has sent a new packet since the last call, and not only a replayed one.
    /// During the handshake, every packet counts.
    pub(in crate::proto) fn has_new_packet(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return true;
        };
        let before = mem::replace(&mut self.newest, watch.newest());
        self.newest > before || self.authenticated.is_none()
    }

    /// Notes a datagram from the peer's address that belongs to no connection, and sends a packet:
    /// the peer may be about to answer.
    pub(in crate::proto) fn note_unmatched_datagram(&mut self) {
        self.heard_unmatched_datagram = true;
        self.ping();
    }

    /// Whether nothing has come from the peer's address.
    pub(crate) fn heard_nothing(&self) -> bool {
        self.quic.stats().udp_rx.datagrams == 0 && !self.heard_unmatched_datagram
    }

    pub(in crate::proto) fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.quic.poll_endpoint_events()
    }
}

/// The effects of a datagram.
#[derive(Clone, Copy, Debug)]
pub(in crate::proto) struct Noted {
    /// The peer was authenticated by this datagram.
    pub(in crate::proto) authenticated: bool,
    /// The connection was ended because its peer has cut its data into too many pieces.
    pub(in crate::proto) too_fragmented: bool,
    /// The connection was ended because its peer has sent more than it was permitted (RFC 9000
    /// §4.1).
    pub(in crate::proto) exceeded_credit: bool,
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
