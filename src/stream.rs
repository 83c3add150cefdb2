//! libp2p's face of a stream.

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
/// Reading gives credit to the peer, and nothing else does: a stream that is not read stops its sender
/// when the receive window is full. Small writes are gathered until the driver of the connection sends
/// them, so flushing is not needed for progress.
///
/// [`poll_close`](AsyncWrite::poll_close) ends our half with FIN and leaves the other one open. Dropping
/// the stream does the same, and asks the peer to send no more (STOP_SENDING with code 0) unless its half
/// has ended already; bytes written before are still delivered.
///
/// An [`io::Error`] carries a [`StreamError`], with the peer's code where there is one. Reads and writes may
/// be cancelled at any time: a `poll` that was pending has taken nothing.
pub struct Stream {
    id: StreamId,
    connection: DrivenConnection,
}

impl Stream {
    pub(crate) fn new(id: StreamId, connection: DrivenConnection) -> Self {
        Self { id, connection }
    }

    /// Abandons our half (RESET_STREAM, RFC 9000 §19.4): what the peer has not received by now is lost.
    ///
    /// Codes of 2^62 and above are not possible and count as the largest that is.
    ///
    /// # Errors
    ///
    /// [`StreamError::Closed`] if our half has ended and everything was acknowledged.
    pub fn reset(&mut self, code: u64) -> Result<(), StreamError> {
        self.connection
            .with(|connection| connection.streams().reset(self.id, to_code(code)))
    }

    /// Asks the peer to send no more (STOP_SENDING, RFC 9000 §19.5), and discards what it has sent.
    ///
    /// Codes of 2^62 and above are not possible and count as the largest that is.
    ///
    /// # Errors
    ///
    /// [`StreamError::Closed`] if the peer's half has ended, or was stopped before.
    pub fn stop(&mut self, code: u64) -> Result<(), StreamError> {
        self.connection
            .with(|connection| connection.streams().stop(self.id, to_code(code)))
    }

    /// The code with which the peer has reset its half, once a read has met it.
    pub fn reset_code(&self) -> Option<u64> {
        self.connection
            .with(|connection| connection.streams().reset_code(self.id))
    }

    /// The code with which the peer has asked us to send no more.
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

    /// Ready at once: the driver sends what was written as soon as it may.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ready at once, also if the peer has asked us to send no more.
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
