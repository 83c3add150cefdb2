//! libp2p's face of a connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use libp2p_core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn_proto::VarInt;

use crate::{address, driver::DrivenConnection, error::ConnectionError, stream::Stream};

/// An authenticated connection, which carries streams.
///
/// Closing it with [`poll_close`](StreamMuxer::poll_close), or dropping it, ends it for the
/// application at once: its streams fail from then on, but for what has arrived before. The peer is
/// told (CONNECTION_CLOSE with code 0) as soon as it has acknowledged all of the streams that were
/// closed before; the driver sees to that, for
/// [`linger_timeout`](crate::ConfigBuilder::linger_timeout) at most. `poll_close` is ready when the
/// peer is told, or when that is left to the driver.
///
/// When the peer has ended the connection, streams that it had opened before can still be taken for
/// a second, and read for as long as they are held. [`poll`](StreamMuxer::poll) reports the end
/// when none is left to take.
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

    /// Closes at once, with an error code and a reason for the peer to read (RFC 9000 §10.2).
    ///
    /// What was written and not acknowledged by now may be lost, also on streams that were closed.
    /// The code is one of the application's; libp2p uses 0 for an ordinary close. Codes of 2^62 and
    /// above are not possible and count as the largest that is.
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
            .with(|connection| connection.poll_accept(cx.waker()));
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

    /// Reports a change of the peer's address, and the end of the connection as soon as there is
    /// one and no stream waits to be taken.
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
        (self.inner)
            .with(|connection| connection.close_in_order(VarInt::from_u32(0), Bytes::new()));
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
