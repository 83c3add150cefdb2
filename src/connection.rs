//! The libp2p stream muxer.

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
/// [`poll_close`](StreamMuxer::poll_close) or dropping the connection ends it for the application
/// at once: its streams fail from then on, except that data which has already arrived can still be
/// read. The peer is told (CONNECTION_CLOSE with code 0) as soon as it has acknowledged all data of
/// the streams that were closed before. The driver waits for that in the background, for at most
/// [`linger_timeout`](crate::ConfigBuilder::linger_timeout). `poll_close` is ready when the close
/// has been sent, or left to the driver.
///
/// After the peer has ended the connection, streams that it opened before can still be taken for
/// one second, and read as long as the application holds them. [`poll`](StreamMuxer::poll) reports
/// the end when no stream is left to take.
///
/// # Cancellation safety
///
/// A pending `poll_…` may be abandoned at any time: nothing is lost. After an error, a repeated
/// call returns the same error.
pub struct Connection {
    inner: DrivenConnection,
}

impl Connection {
    pub(crate) fn new(inner: DrivenConnection) -> Self {
        Self { inner }
    }

    /// Closes the connection at once, with an error code and a reason for the peer (RFC 9000
    /// §10.2).
    ///
    /// Data that the peer has not acknowledged may be lost, even on streams that were closed.
    /// `code` is an application error code; libp2p uses 0 for an ordinary close. Codes of 2^62 and
    /// above cannot be encoded and are replaced by 2^62 − 1.
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

    /// Reports a change of the peer's address. After the end of the connection, reports the end as
    /// soon as no stream waits to be taken.
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
