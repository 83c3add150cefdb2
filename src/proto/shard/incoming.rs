//! Incoming connections: admitted, asked for a proof of their address, accepted or refused.

use std::time::Instant;

use quinn_proto::ConnectionHandle;

use super::{Begun, Shard};
use crate::{
    error::{ConnectionError, HandshakeError},
    proto::{
        address_limits::AddressLimits,
        admission::Rejection,
        connection::{Direction, SharedConnection},
        datagram::{Incoming, Outbound, SocketHandle},
        pending::{FirstPacket, IncomingKey, Pending},
    },
};

impl<S: SocketHandle> Shard<S> {
    /// Decides about a first packet. A packet over a limit is dropped silently: an honest client
    /// sends it again a second later, and then finds a place.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        first: FirstPacket<S>,
        out: &mut impl Outbound<S>,
    ) {
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
        match rejection {
            Rejection::Unproven if self.reception.owes_retry(now, initial_id) => {
                return self.retry(incoming, &socket, out);
            }
            Rejection::Unproven => totals.transport.retries_withheld += 1,
            Rejection::Full => totals.registry.dropped_overload += 1,
            Rejection::SourceFull => totals.registry.dropped_source_full += 1,
        }
        self.endpoint.ignore(incoming);
    }

    /// Sends a Retry, so that the client comes back with a token (RFC 9000 §8.1.2); until then no
    /// state is kept.
    fn retry(&mut self, incoming: quinn_proto::Incoming, socket: &S, out: &mut impl Outbound<S>) {
        self.buf.clear();
        match self.endpoint.retry(incoming, &mut self.buf) {
            Ok(transmit) => {
                self.totals.transport.retries_sent += 1;
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
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        key: IncomingKey,
        max_payload: Option<u16>,
        out: &mut impl Outbound<S>,
    ) -> Result<(ConnectionHandle, SharedConnection), HandshakeError> {
        let Some(pending) = self.reception.take_pending(key) else {
            return Err(HandshakeError::Stale);
        };
        let server = self.servers.get(max_payload, || {
            let mut server = self.reception.server().clone();
            server.transport_config((self.transport)(max_payload));
            server
        });
        self.buf.clear();
        let source = pending.incoming.local_ip();
        match self
            .endpoint
            .accept(pending.incoming, now, &mut self.buf, Some(server))
        {
            Ok((handle, connection)) => {
                let connection = self.connection(connection, Direction::Inbound);
                let remote_addr = connection.remote_addr();
                let is_proven = pending.source.is_proven;
                let mut addresses = AddressLimits::new(is_proven.then_some(remote_addr));
                addresses.note_received(remote_addr, pending.bytes);
                let begun = Begun {
                    source,
                    addresses,
                    deadline: pending.deadline,
                    silent_until: None,
                    admission: Some(pending.admission),
                    received_bytes: pending.bytes,
                    unanswered_dial: None,
                    heard_marked: Some(pending.is_marked),
                };
                let connection = self.insert(now, handle, connection, pending.socket, begun);
                self.note_unfinished();
                Ok((handle, connection))
            }
            Err(error) => {
                self.release(pending.admission);
                self.totals.transport.handshakes_failed += 1;
                if let Some(transmit) = error.response {
                    self.count_sent(&transmit);
                    let _ = out.send(&pending.socket, transmit, &self.buf);
                }
                Err(ConnectionError::from(error.cause).into())
            }
        }
    }

    /// Refuses an incoming connection (CONNECTION_REFUSED, RFC 9000 §20.1).
    pub(crate) fn refuse(&mut self, key: IncomingKey, out: &mut impl Outbound<S>) {
        if let Some(pending) = self.reception.take_pending(key) {
            self.turn_away(pending, out);
        }
    }

    /// Refuses all connections that wait for an answer.
    pub(crate) fn refuse_all(&mut self, out: &mut impl Outbound<S>) {
        while let Some(pending) = self.reception.take_any() {
            self.turn_away(pending, out);
        }
    }

    fn turn_away(&mut self, pending: Pending<S>, out: &mut impl Outbound<S>) {
        self.release(pending.admission);
        self.totals.transport.incoming_refused += 1;
        self.buf.clear();
        let transmit = self.endpoint.refuse(pending.incoming, &mut self.buf);
        self.count_sent(&transmit);
        let _ = out.send(&pending.socket, transmit, &self.buf);
    }
}
