//! A connection as the application holds it: locked for a moment, driven by its shard.

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
    proto::{Connection, SharedConnection, lock},
};

/// A connection and the way to its driver.
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

    /// Does something to the connection, and tells the driver if there is something to send for it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        let mut due = Vec::new();
        let mut connection = lock(&self.connection);
        let result = act(&mut connection);
        let wants_turn = connection.announce_turn();
        connection.take_due(&mut due);
        let displaced = connection.take_displaced();
        drop(connection);
        // A waker may be all that keeps a task, and the task a stream of this connection.
        drop(displaced);
        if wants_turn {
            self.doorbell.ring_for(self.handle);
        }
        wakers::wake(due);
        result
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

    /// Resolves to the authenticated peer and its connection. Not to be polled again after that.
    ///
    /// Where it is another peer than the expected one, the connection is over. So a Swarm learns
    /// who was met, although nothing but its identity was taken from it.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(PeerId, DrivenConnection), HandshakeError>> {
        let Some(connection) = &self.connection else {
            return Poll::Ready(Err(HandshakeError::Stale));
        };
        let result = ready!(connection.with(|connection| {
            if !connection.heard_nothing() {
                self.heard = Heard::Something;
            }
            connection.poll_established(cx.waker())
        }));
        Poll::Ready(match (result, self.connection.take()) {
            (Ok(peer_id), Some(connection)) => Ok((peer_id, connection)),
            (Ok(_), None) => Err(HandshakeError::Stale),
            (
                Err(HandshakeError::Certificate(CertificateError::PeerMismatch { actual, .. })),
                Some(connection),
            ) => Ok((*actual, connection)),
            (Err(error), _) => Err(error),
        })
    }

    /// Whether anything had come from the peer's address when this was polled last.
    pub(crate) fn heard(&self) -> Heard {
        self.heard
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.with(|connection| connection.abandon(HandshakeError::Stale));
        }
    }
}
