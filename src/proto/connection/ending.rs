//! How a connection ends: closed by either side or given up, at once or after delivering streams.

use std::{
    task::{Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use quinn_proto::{TransportErrorCode, VarInt};

use super::Connection;
use crate::{
    error::{ConnectionError, HandshakeError},
    proto::linger::{Acknowledged, Linger},
    trace::ConnectionSpan,
};

impl Connection {
    /// Closes the connection. Ready when the CONNECTION_CLOSE was sent, or when that is left to the
    /// driver because streams have to be delivered first.
    pub(crate) fn poll_close(&mut self, waker: &Waker) -> Poll<Result<(), ConnectionError>> {
        self.close_in_order(VarInt::from_u32(0), Bytes::new());
        if !self.is_released && matches!(self.linger, Lingering::No) {
            self.signals.wait(&mut self.wakers.released, waker);
            return Poll::Pending;
        }
        Poll::Ready(match self.loss() {
            None | Some(ConnectionError::LocallyClosed) => Ok(()),
            Some(error) => Err(error.clone()),
        })
    }

    /// Ends the connection for the application. The peer is told when it has acknowledged the
    /// streams that were closed before, or fails to do so in time.
    pub(crate) fn close_in_order(&mut self, code: VarInt, reason: Bytes) {
        let lingers = self.loss.is_none()
            && self.authenticated.is_some()
            && self.streams.has_undelivered()
            && !self.linger_timeout.is_zero();
        if lingers {
            self.linger = Lingering::Wanted;
        }
        self.begin_closing(code, reason);
    }

    /// Ends the connection. Data that was not acknowledged yet is lost, even if an earlier close
    /// was still delivering it.
    pub(crate) fn close(&mut self, code: VarInt, reason: Bytes) {
        self.give_up_lingering();
        self.begin_closing(code, reason);
    }

    /// Ends a handshake because of its timeout, an ICMP error or its cost, or because no caller
    /// waits for it any more. The connection is discarded as soon as its peer is told. If the
    /// handshake is over, closes the connection.
    pub(crate) fn abandon(&mut self, why: HandshakeError) {
        if self.loss.is_none() && self.authenticated.is_none() {
            self.lose(ConnectionError::LocallyClosed, why);
            self.closing = Some(CloseToSend {
                code: VarInt::from_u32(0),
                reason: Bytes::new(),
                abandoned: true,
            });
            self.signals.want_turn();
        } else {
            self.close(VarInt::from_u32(0), Bytes::new());
        }
    }

    /// Closes the connection because its driver stops. An earlier close by the application keeps
    /// its code and reason.
    pub(in crate::proto) fn close_with_driver(&mut self) {
        self.give_up_lingering();
        if self.loss.is_some() {
            return;
        }
        let stopped = ConnectionError::DriverStopped;
        self.lose(stopped.clone(), stopped.into());
        self.closing = Some(CloseToSend {
            code: VarInt::from_u32(0),
            reason: Bytes::new(),
            abandoned: false,
        });
        self.signals.want_turn();
    }

    /// Ends the connection because nothing will drive it any more, and wakes everyone who waits.
    pub(crate) fn orphan(&mut self) {
        self.lose(
            ConnectionError::DriverStopped,
            ConnectionError::DriverStopped.into(),
        );
        self.release();
    }

    /// Ends the connection because of the peer's behaviour.
    pub(super) fn give_up(&mut self, code: TransportErrorCode, reason: &'static str) {
        if self.loss.is_some() {
            // Such a peer gets no more data.
            self.give_up_lingering();
            return;
        }
        let error = ConnectionError::Violation {
            code: code.into(),
            reason: reason.to_owned(),
        };
        self.lose(error.clone(), error.into());
        if let Some(watch) = &self.watch {
            watch.end_with_error();
        }
        self.closing = Some(CloseToSend {
            code: VarInt::from_u64(code.into()).unwrap_or_default(),
            // A transport close has one field more, which takes the first byte of the reason
            // (`make_transport_close`).
            reason: format!(" {reason}").into(),
            abandoned: self.authenticated.is_none(),
        });
        self.signals.want_turn();
    }

    /// Ends the connection because its peer retires connection IDs faster than anyone needs to.
    pub(in crate::proto) fn give_up_on_ids(&mut self) {
        self.give_up(
            TransportErrorCode::CONNECTION_ID_LIMIT_ERROR,
            "too many connection IDs retired",
        );
    }

    /// Ends the connection because its peer is silent.
    pub(in crate::proto) fn give_up_silent(&mut self) {
        if self.loss.is_some() {
            return;
        }
        self.lose(ConnectionError::TimedOut, HandshakeError::TimedOut);
        self.closing = Some(CloseToSend {
            code: VarInt::from_u32(0),
            reason: Bytes::new(),
            abandoned: true,
        });
        self.signals.want_turn();
    }

    fn begin_closing(&mut self, code: VarInt, reason: Bytes) {
        if self.loss.is_some() {
            return;
        }
        self.lose(
            ConnectionError::LocallyClosed,
            ConnectionError::LocallyClosed.into(),
        );
        self.closing = Some(CloseToSend {
            code,
            reason,
            abandoned: false,
        });
        self.signals.want_turn();
    }

    pub(super) fn lose(&mut self, connection: ConnectionError, handshake: HandshakeError) {
        if self.loss.is_some() {
            return;
        }
        let span = self.trace.span.id();
        if self.authenticated.is_some() {
            tracing::debug!(parent: span, reason = %connection, "the connection has ended");
        } else {
            tracing::debug!(parent: span, reason = %handshake, "the handshake has failed");
        }
        let is_ours = !self.ended_by_peer && connection != ConnectionError::TimedOut;
        self.loss = Some(Loss {
            connection,
            handshake,
        });
        self.streams.fail(&mut self.signals);
        if !self.lingers() {
            self.streams.stop_sending();
        }
        if is_ours {
            self.streams().discard_waiting();
        }
        self.signals.make_due(&mut self.wakers.address_change);
        self.signals.make_due(&mut self.wakers.established);
    }

    pub(crate) fn loss(&self) -> Option<&ConnectionError> {
        self.loss.as_ref().map(|loss| &loss.connection)
    }

    pub(super) fn alive(&self) -> Result<(), ConnectionError> {
        match &self.loss {
            None => Ok(()),
            Some(loss) => Err(loss.connection.clone()),
        }
    }

    /// Stops waiting for streams to be delivered.
    pub(in crate::proto) fn give_up_lingering(&mut self) {
        if self.lingers() {
            self.linger = Lingering::GivenUp;
            self.signals.want_turn();
        }
    }

    /// Whether it is closed for the application, and goes on to deliver streams.
    pub(in crate::proto) fn lingers(&self) -> bool {
        matches!(self.linger, Lingering::Wanted | Lingering::Begun(_))
    }

    /// Whether it was closed before all streams that were closed before it were delivered.
    pub(in crate::proto) fn gave_up_lingering(&self) -> bool {
        matches!(self.linger, Lingering::GivenUp)
    }

    /// Checks whether streams are still to be delivered before the connection is closed.
    pub(super) fn linger(&mut self, now: Instant) {
        if !self.lingers() {
            return;
        }
        let rtt = self.quic.rtt();
        let acknowledged = Acknowledged {
            bytes: self.path_control.acknowledged(),
            times: self.path_control.acknowledgements(),
        };
        if let Lingering::Wanted = self.linger {
            self.streams().abandon_open();
            // Most peers acknowledge the second of two packets at once, and a single one later.
            self.quic.ping();
            let linger = Linger::begin(now, self.linger_timeout, acknowledged, rtt);
            self.linger = Lingering::Begun(linger);
        }
        let Lingering::Begun(linger) = &mut self.linger else {
            return;
        };
        linger.note_acknowledged(now, acknowledged, rtt);
        if linger.asks(now) {
            self.quic.ping();
        }
        if !self.streams.has_undelivered() {
            self.linger = Lingering::Done;
        } else if self.quic.is_closed() || linger.deadline() <= now {
            self.linger = Lingering::GivenUp;
        }
    }

    /// When it is to look again whether streams are delivered, or stops waiting for that.
    pub(in crate::proto) fn linger_timeout(&self) -> Option<Instant> {
        match &self.linger {
            Lingering::Begun(linger) => Some(linger.next_timeout()),
            _ => None,
        }
    }

    /// Whether it was closed since its last turn, or is no longer driven.
    pub(in crate::proto) fn has_no_future(&self) -> bool {
        (self.closing.is_some() && !self.lingers()) || self.is_released
    }

    /// Whether the application has closed it, and its CONNECTION_CLOSE was not sent yet.
    pub(in crate::proto) fn has_to_close(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether it was closed by either side, or lost.
    pub(in crate::proto) fn is_over(&self) -> bool {
        self.quic.is_closed()
    }

    /// Whether the peer has ended the connection, so that nothing may be sent to it (RFC 9000
    /// §10.2.2).
    pub(in crate::proto) fn was_ended_by_peer(&self) -> bool {
        self.ended_by_peer
    }

    /// Whether the peer has ended the connection before the handshake was complete.
    pub(in crate::proto) fn was_turned_away(&self) -> bool {
        self.loss.as_ref().is_some_and(|loss| {
            matches!(
                loss.handshake,
                HandshakeError::Refused
                    | HandshakeError::Connection(
                        ConnectionError::AbortedByPeer { .. }
                            | ConnectionError::ClosedByPeer { .. }
                    )
            )
        }) && self.authenticated.is_none()
    }

    /// Whether streams of the peer wait for the application.
    pub(in crate::proto) fn has_untaken(&self) -> bool {
        self.streams.has_waiting()
    }

    /// Drops streams that the application has not taken in time.
    pub(in crate::proto) fn drop_untaken(&mut self) {
        self.streams().discard_waiting();
        self.charge_ended_share();
        self.streams.wake_inbound(&mut self.signals);
        self.signals.make_due(&mut self.wakers.address_change);
    }

    /// Whether it is no longer driven.
    pub(in crate::proto) fn is_released(&self) -> bool {
        self.is_released
    }

    /// Notes that it is no longer driven.
    pub(in crate::proto) fn release(&mut self) {
        self.lose(ConnectionError::LocallyClosed, HandshakeError::Abandoned);
        self.give_up_lingering();
        self.is_released = true;
        self.trace.span = ConnectionSpan::default();
        self.signals.make_due(&mut self.wakers.released);
    }
}

/// The reason why a connection ended.
pub(super) struct Loss {
    pub(super) connection: ConnectionError,
    pub(super) handshake: HandshakeError,
}

/// A CONNECTION_CLOSE that was not sent yet: the application has closed the connection, or we
/// end it because of the peer's behaviour or silence, the handshake timeout or the end of the
/// driver.
pub(super) struct CloseToSend {
    pub(super) code: VarInt,
    pub(super) reason: Bytes,
    /// Whether the connection has no user left: it is discarded as soon as the close is sent.
    pub(super) abandoned: bool,
}

/// Whether a close waits for streams that were closed before it.
#[derive(Debug)]
pub(super) enum Lingering {
    No,
    /// Begins in the next turn.
    Wanted,
    Begun(Linger),
    /// Everything was delivered.
    Done,
    /// The peer did not acknowledge everything in time, or has ended the connection itself.
    GivenUp,
}
