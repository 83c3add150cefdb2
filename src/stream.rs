//! A stream of the libp2p stream muxer.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use quinn_proto::VarInt;

use crate::{
    driver::DrivenConnection, error::StreamError, net::task::poll_moving, proto::StreamId,
};

/// A bidirectional stream.
///
/// Only reading gives the peer flow-control credit for the connection: if the application does not
/// read, the peer stops when the connection's receive window is full. Usually it stops earlier,
/// when the stream's own window is full. Small writes are gathered until the driver of the
/// connection sends them; flushing is not needed for progress.
///
/// [`poll_close`](AsyncWrite::poll_close) ends our half with FIN and leaves the other half open.
/// Dropping the stream does the same, and asks the peer to stop sending (STOP_SENDING with code 0)
/// unless its half has already ended. Data written before is still delivered.
///
/// An [`io::Error`] carries a [`StreamError`], with the peer's error code if there is one.
///
/// # Cancellation safety
///
/// Reads and writes may be cancelled at any time: a pending `poll` has transferred no data.
pub struct Stream {
    id: StreamId,
    connection: DrivenConnection,
}

impl Stream {
    pub(crate) fn new(id: StreamId, connection: DrivenConnection) -> Self {
        Self { id, connection }
    }

    /// Abandons our half (RESET_STREAM, RFC 9000 §19.4). Data that the peer has not received yet is
    /// lost.
    ///
    /// Codes of 2^62 and above cannot be encoded and are replaced by 2^62 − 1.
    ///
    /// # Errors
    ///
    /// [`StreamError::Closed`] if our half has ended and the peer has acknowledged all of it.
    pub fn reset(&mut self, code: u64) -> Result<(), StreamError> {
        self.connection
            .with(|connection| connection.streams().reset(self.id, to_code(code)))
    }

    /// Asks the peer to stop sending (STOP_SENDING, RFC 9000 §19.5), and discards what it has sent.
    ///
    /// Codes of 2^62 and above cannot be encoded and are replaced by 2^62 − 1.
    ///
    /// # Errors
    ///
    /// [`StreamError::Closed`] if the peer's half has ended, or was stopped before.
    pub fn stop(&mut self, code: u64) -> Result<(), StreamError> {
        self.connection
            .with(|connection| connection.streams().stop(self.id, to_code(code)))
    }

    /// The code with which the peer has reset its half; `None` until a read has returned that
    /// reset.
    pub fn reset_code(&self) -> Option<u64> {
        self.connection
            .with(|connection| connection.streams().reset_code(self.id))
    }

    /// The code with which the peer has asked us to stop sending.
    pub fn stop_code(&self) -> Option<u64> {
        self.connection
            .with(|connection| connection.streams().stop_code(self.id))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_moving(cx, |cx| {
            self.connection
                .with(|connection| connection.streams().poll_read(self.id, buf, cx.waker()))
        })
        .map_err(io::Error::from)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_moving(cx, |cx| {
            self.connection
                .with(|connection| connection.streams().poll_write(self.id, buf, cx.waker()))
        })
        .map_err(io::Error::from)
    }

    /// Always ready: the driver sends written data as soon as flow and congestion control allow.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Always ready, even if the peer has asked us to stop sending.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(
            self.connection
                .with(|connection| connection.streams().finish(self.id))
                .map_err(io::Error::from),
        )
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection
            .with(|connection| connection.streams().let_go(self.id));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn to_code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
