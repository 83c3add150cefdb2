//! Reading one socket, whatever errors it reports.

use std::{
    io,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};

use super::socket::Socket;
use crate::net::{Backlog, Fault, ReceiveBuffers, UdpSocket, Unreachable, clock};

/// A socket that a driver reads.
pub(super) struct Reader {
    io: Arc<UdpSocket>,
    socket: Weak<Socket>,
    /// Resolves when ICMP has reported something.
    reported: BoxFuture<'static, ()>,
    /// Not before this time, after too many of them.
    retry_at: Option<Instant>,
}

/// What came of reading.
pub(super) enum Read {
    /// Nothing; the task is woken when that changes.
    Nothing,
    /// A batch, which is in the buffers.
    Batch(Backlog),
    /// The socket is in trouble, and is left alone for a while.
    InTrouble(io::Error),
    /// The socket is dead. It is left alone for a while, if nobody does better.
    Broken(io::Error),
}

/// Failed reads in a row after which a socket is taken to be in trouble.
const MAX_FAILURES: usize = 16;

/// How long a socket that cannot be read is left alone, so that it does not take all the time there is.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

impl Reader {
    pub(super) fn new(io: Arc<UdpSocket>, socket: Weak<Socket>) -> Self {
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

    /// The socket, while anyone uses it.
    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.upgrade()
    }

    /// Whether anyone uses the socket, and it has not failed; otherwise a reader is all that keeps it open.
    pub(super) fn is_used(&self) -> bool {
        self.socket.strong_count() > 0 && !self.io.is_retired()
    }

    /// When a socket that was in trouble should be read again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The next report of ICMP: a datagram that nobody was there to receive, or nothing of interest.
    pub(super) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Option<Unreachable>> {
        while self.reported.poll_unpin(cx).is_ready() {
            // Waited for anew before looking, so that nothing comes in between.
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
            // Unless the socket is broken, it is most likely about a datagram that was sent earlier, of which ICMP has something to say.
            // Each is reported once, and instead of what has come in; so that is asked for again at once, or a flood
            // of forged reports would keep it away.
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
