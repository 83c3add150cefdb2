//! Incoming connections: admitted, asked for a proof of their address, accepted or refused.

use std::{sync::Arc, time::Instant};

use quinn_proto::ConnectionHandle;

use super::{Beginning, InitialState, Shard};
use crate::{
    address::Host,
    error::{ConnectionError, HandshakeError},
    proto::{
        amplification::AddressLimits,
        connection::{Direction, SharedConnection},
        datagram::{Incoming, Output, SocketHandle, local_addr},
        reception::{FirstPacket, IncomingKey, Pending, Rejection},
    },
    trace::dropped,
};

impl<S: SocketHandle> Shard<S> {
    /// Decides about a first packet. A packet over a limit is dropped silently: an honest client
    /// sends it again a second later, and then finds a place.
    pub(super) fn admit(&mut self, now: Instant, first: FirstPacket<S>, out: &mut impl Output<S>) {
        let Err((first, rejection)) = self.reception.admit(now, first) else {
            self.note_unfinished();
            return;
        };
        let FirstPacket {
            incoming,
            initial_id,
            socket,
            ..
        } = *first;
        let totals = &mut self.totals;
        let remote_addr = incoming.remote_address();
        match rejection {
            Rejection::Unproven if self.reception.owes_retry(now, initial_id) => {
                return self.retry(incoming, &socket, out);
            }
            Rejection::Unproven => dropped!(totals.transport, retries_withheld, remote_addr),
            Rejection::Overload => dropped!(totals.registry, dropped_overload, remote_addr),
            Rejection::SourceFull => dropped!(totals.registry, dropped_source_full, remote_addr),
        }
        self.endpoint.ignore(incoming);
    }

    /// Sends a Retry, so that the client comes back with a token (RFC 9000 §8.1.2); until then no
    /// state is kept.
    fn retry(&mut self, incoming: quinn_proto::Incoming, socket: &S, out: &mut impl Output<S>) {
        self.buf.clear();
        let remote_addr = incoming.remote_address();
        match self.endpoint.retry(incoming, &mut self.buf) {
            Ok(transmit) => {
                self.totals.transport.retries_sent += 1;
                tracing::trace!(reason = "unproven", %remote_addr, "sent a Retry");
                self.count_sent(&transmit);
                // If it is blocked, it is dropped: it is an answer to a stranger.
                let _ = out.send(socket, transmit, &self.buf);
            }
            // A client that has returned with a token is validated, and never gets here.
            Err(error) => self.endpoint.ignore(error.into_incoming()),
        }
    }

    /// Takes the next incoming connection to report to the application.
    pub(crate) fn poll_incoming(&mut self) -> Option<Incoming<S>> {
        let (key, pending) = self.reception.next_unreported()?;
        self.totals.transport.incoming += 1;
        Some(Incoming {
            key,
            socket: pending.socket.clone(),
            remote_addr: pending.incoming.remote_address(),
            local_ip: pending.incoming.local_ip(),
        })
    }

    /// Begins the handshake of an incoming connection; TLS work starts here.
    ///
    /// `max_payload` is the largest UDP payload of the interface in bytes, if known.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::TimedOut`] if the connection has waited for too long, and
    /// [`HandshakeError::Connection`] if quinn-proto finds that its first packet is not valid.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        key: IncomingKey,
        max_payload: Option<u16>,
        out: &mut impl Output<S>,
    ) -> Result<(ConnectionHandle, SharedConnection), HandshakeError> {
        let Some(pending) = self.reception.take_pending(key) else {
            return Err(HandshakeError::TimedOut);
        };
        self.buf.clear();
        let local_ip = pending.incoming.local_ip();
        let trace = self.trace(Direction::Inbound, pending.incoming.remote_address());
        let span = trace.span.clone();
        let _entered = span.enter();
        let with = |transport| {
            let mut server = self.reception.server().clone();
            server.transport_config(transport);
            server
        };
        let server = match &self.single {
            None => (self.servers).get(max_payload, || with((self.transport)(max_payload))),
            Some(single) => {
                let connection = Beginning {
                    host: Host::of(pending.incoming.remote_address().ip()),
                    initial_id: *pending.incoming.orig_dst_cid(),
                    is_outbound: false,
                    now,
                    number: trace.number,
                };
                Arc::new(with(single(max_payload, &connection)))
            }
        };
        match self
            .endpoint
            .accept(pending.incoming, now, &mut self.buf, Some(server))
        {
            Ok((handle, connection)) => {
                let local_addr = local_addr(&pending.socket, local_ip);
                let connection = self.connection(connection, trace, local_addr, Direction::Inbound);
                let remote_addr = connection.remote_addr();
                let is_proven = pending.source.is_proven;
                let mut amplification = AddressLimits::new(is_proven.then_some(remote_addr));
                amplification.note_received(remote_addr, pending.bytes, remote_addr);
                let initial = InitialState {
                    local_ip,
                    amplification,
                    deadline: pending.deadline,
                    silent_until: None,
                    admission: Some(pending.admission),
                    received_bytes: pending.bytes,
                    unanswered_dial: None,
                    heard_marked: Some(pending.is_marked),
                };
                let connection = self.insert(now, handle, connection, pending.socket, initial);
                self.note_unfinished();
                Ok((handle, connection))
            }
            Err(error) => {
                self.release(pending.admission);
                self.totals.transport.handshakes_failed += 1;
                tracing::debug!(reason = %error.cause, "the handshake has failed");
                if let Some(transmit) = error.response {
                    self.count_sent(&transmit);
                    let _ = out.send(&pending.socket, transmit, &self.buf);
                }
                Err(ConnectionError::from(error.cause).into())
            }
        }
    }

    /// Refuses an incoming connection (CONNECTION_REFUSED, RFC 9000 §20.1).
    pub(crate) fn refuse(&mut self, key: IncomingKey, out: &mut impl Output<S>) {
        if let Some(pending) = self.reception.take_pending(key) {
            self.turn_away(pending, "not_accepted", out);
        }
    }

    /// Refuses all connections that wait for an answer.
    pub(crate) fn refuse_all(&mut self, out: &mut impl Output<S>) {
        while let Some(pending) = self.reception.take_any() {
            self.turn_away(pending, "shut_down", out);
        }
    }

    fn turn_away(&mut self, pending: Pending<S>, reason: &str, out: &mut impl Output<S>) {
        let remote_addr = pending.incoming.remote_address();
        tracing::debug!(reason, %remote_addr, "refused an incoming connection");
        self.release(pending.admission);
        self.totals.transport.incoming_refused += 1;
        self.buf.clear();
        let transmit = self.endpoint.refuse(pending.incoming, &mut self.buf);
        self.count_sent(&transmit);
        let _ = out.send(&pending.socket, transmit, &self.buf);
    }
}
