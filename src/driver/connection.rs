//! A connection with the interface for the application: each call locks it briefly, and its shard
//! drives it.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use libp2p_identity::PeerId;
use quinn_proto::ConnectionHandle;

use super::{doorbell::Doorbell, silent_hosts::Heard, wakers};
use crate::{
    authenticator::CertificateError,
    error::HandshakeError,
    proto::{Connection, SharedConnection, with},
};

/// A connection, with the doorbell of its driver.
#[derive(Clone)]
pub(crate) struct DrivenConnection {
    connection: SharedConnection,
    handle: ConnectionHandle,
    doorbell: Arc<Doorbell>,
}

impl DrivenConnection {
    pub(super) fn new(
        connection: SharedConnection,
        handle: ConnectionHandle,
        doorbell: Arc<Doorbell>,
    ) -> Self {
        Self {
            connection,
            handle,
            doorbell,
        }
    }

    /// Calls `act` on the connection, and wakes the driver if the connection then has something to
    /// send.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        let ring = || self.doorbell.ring_for(self.handle);
        with(&self.connection, act, ring, wakers::wake)
    }
}

/// A connection whose peer is not authenticated yet; dropping it abandons the attempt.
pub(crate) struct Handshake {
    connection: Option<DrivenConnection>,
    heard: Heard,
}

impl Handshake {
    pub(super) fn new(connection: DrivenConnection) -> Self {
        Self {
            connection: Some(connection),
            heard: Heard::Nothing,
        }
    }

    /// Resolves to the authenticated peer and its connection. Must not be polled again after that.
    ///
    /// If a peer other than the expected one was reached, it resolves to that peer and to a
    /// connection that has ended. So a Swarm learns which peer it reached.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(PeerId, DrivenConnection), HandshakeError>> {
        let Some(connection) = &self.connection else {
            return Poll::Ready(Err(HandshakeError::Abandoned));
        };
        let result = ready!(connection.with(|connection| {
            if !connection.heard_nothing() {
                self.heard = Heard::Something;
            }
            connection.poll_established(cx.waker())
        }));
        Poll::Ready(match (result, self.connection.take()) {
            (Ok(peer_id), Some(connection)) => Ok((peer_id, connection)),
            (Ok(_), None) => Err(HandshakeError::Abandoned),
            (
                Err(HandshakeError::Certificate(CertificateError::PeerMismatch { actual, .. })),
                Some(connection),
            ) => Ok((*actual, connection)),
            (Err(error), _) => Err(error),
        })
    }

    /// Whether any packet had come from the peer's address at the last poll.
    pub(crate) fn heard(&self) -> Heard {
        self.heard
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.with(|connection| connection.abandon(HandshakeError::Abandoned));
        }
    }
}
