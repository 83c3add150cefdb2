//! Reads one socket despite the errors that it reports.

use std::{
    io,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};

use super::socket_group::SocketGroup;
use crate::net::{Backlog, Fault, ReceiveBuffers, UdpSocket, Unreachable, clock};

/// A socket that a driver reads.
pub(super) struct Reader {
    io: Arc<UdpSocket>,
    /// The group of the socket.
    socket: Weak<SocketGroup>,
    /// Resolves when the socket has an ICMP error.
    reported: BoxFuture<'static, ()>,
    /// The earliest time for the next read, after too many errors.
    retry_at: Option<Instant>,
}

/// The result of a read.
pub(super) enum Read {
    /// Nothing; the task is woken when that changes.
    Nothing,
    /// A batch, which is in the buffers.
    Batch(Backlog),
    /// The socket keeps failing, and is not read for a while.
    InTrouble(io::Error),
    /// The socket has failed. It is not read for a while, unless it is replaced.
    Broken(io::Error),
}

/// The number of failed reads in a row after which a socket is not read for a while.
const MAX_FAILURES: usize = 16;

/// How long a failing socket is not read, so that it does not take up all CPU time.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

impl Reader {
    pub(super) fn new(io: Arc<UdpSocket>, socket: Weak<SocketGroup>) -> Self {
        Self {
            reported: Arc::clone(&io).reported(),
            io,
            socket,
            retry_at: None,
        }
    }

    pub(super) fn io(&self) -> &Arc<UdpSocket> {
        &self.io
    }

    /// The group of the socket, while anyone uses it.
    pub(super) fn socket(&self) -> Option<Arc<SocketGroup>> {
        self.socket.upgrade()
    }

    /// Whether anyone uses the group and the UDP socket has not failed. Otherwise only the reader
    /// keeps it open.
    pub(super) fn is_used(&self) -> bool {
        self.socket.strong_count() > 0 && !self.io.is_retired()
    }

    /// When a failing socket should be read again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The next ICMP error: a datagram that was not delivered, or `None` for one that is ignored.
    pub(super) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Option<Unreachable>> {
        while self.reported.poll_unpin(cx).is_ready() {
            // The next wait is registered before checking, so that no error is missed in between.
            self.reported = Arc::clone(&self.io).reported();
            if let Ok(report) = self.io.next_report() {
                return Poll::Ready(report);
            }
        }
        Poll::Pending
    }

    /// Reads one batch.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, buffers: &mut ReceiveBuffers) -> Read {
        if let Some(retry_at) = self.retry_at {
            if clock::now() < retry_at {
                return Read::Nothing;
            }
            self.retry_at = None;
        }
        for failures in 1.. {
            let error = match self.io.poll_receive(cx, buffers) {
                Poll::Pending => break,
                Poll::Ready(Ok(backlog)) => return Read::Batch(backlog),
                Poll::Ready(Err(error)) => error,
            };
            // Unless the socket is broken, the error most likely comes from ICMP and concerns a
            // datagram that was sent earlier. The socket reports each such error once, instead of
            // returning a datagram. So reading is repeated at once; otherwise a flood of forged
            // ICMP messages would keep datagrams away.
            let is_broken = Fault::of(&error) == Fault::Broken;
            if is_broken || failures == MAX_FAILURES {
                self.retry_at = Some(clock::now() + RECEIVE_RETRY);
                return if is_broken {
                    Read::Broken(error)
                } else {
                    Read::InTrouble(error)
                };
            }
        }
        Read::Nothing
    }
}
