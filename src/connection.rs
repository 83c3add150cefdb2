//! libp2p's face of a connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use libp2p_core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn_proto::VarInt;

use crate::{address, driver::DrivenConnection, error::ConnectionError, stream::Stream};

/// An authenticated connection, which carries streams.
///
/// Closing it with [`poll_close`](StreamMuxer::poll_close) tells the peer and waits until nothing is left
/// of the connection. Dropping it tells the peer too (CONNECTION_CLOSE with code 0), but waits for nothing;
/// its streams fail from then on.
///
/// Each `poll_…` may be dropped at any time without losing anything, and may be called again after an
/// error, which it then repeats.
pub struct Connection {
    inner: DrivenConnection,
}

impl Connection {
    pub(crate) fn new(inner: DrivenConnection) -> Self {
        Self { inner }
    }

    /// Closes with an error code and a reason for the peer to read (RFC 9000 §10.2).
    ///
    /// What was written and not acknowledged by now may be lost. The code is one of the application's;
    /// libp2p uses 0 for an ordinary close. Codes of 2^62 and above are not possible and count as the
    /// largest that is.
    pub fn close_with(&self, code: u64, reason: &str) {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        let reason = reason.to_owned().into();
        self.inner.with(|connection| connection.close(code, reason));
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let accepted = self
            .inner
            .with(|connection| connection.streams().poll_accept(cx.waker()));
        accepted.map_ok(|id| Stream::new(id, self.inner.clone()))
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let opened = self
            .inner
            .with(|connection| connection.streams().poll_open(cx.waker()));
        opened.map_ok(|id| Stream::new(id, self.inner.clone()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.inner
            .with(|connection| connection.poll_close(cx.waker()))
    }

    /// Reports a change of the peer's address, and the end of the connection as soon as there is one.
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        self.inner
            .with(|connection| connection.poll_address_change(cx.waker()))
            .map_ok(|addr| StreamMuxerEvent::AddressChange(address::to_multiaddr(addr)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close_with(0, "");
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote_addr = self.inner.with(|connection| connection.remote_addr());
        f.debug_struct("Connection")
            .field("remote_addr", &remote_addr)
            .finish_non_exhaustive()
    }
}
