//! Sending, and waiting for sockets that take no more.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};
use quinn_proto::Transmit;

use super::socket::Socket;
use crate::{
    net::{UdpSocket, clock},
    proto::{self, Sent},
};

/// Where the datagrams of one shard leave.
pub(super) struct Outbound {
    shard: usize,
    /// Sockets that would block, each with the batches that it owes.
    blocked: Vec<BlockedSocket>,
    pub(super) send_errors: u64,
    pub(super) segmentation_fallbacks: u64,
}

struct BlockedSocket {
    socket: Arc<Socket>,
    writable: BoxFuture<'static, ()>,
    /// Not before this time, after a false alarm.
    retry_at: Option<Instant>,
    /// A batch of a connection, and perhaps answers to strangers behind it.
    owed: VecDeque<(Transmit, Vec<u8>)>,
}

/// How long a socket is left alone that has called itself writable and was not.
const FALSE_ALARM: Duration = Duration::from_millis(1);

/// Most batches kept for a socket that would block.
const MAX_OWED: usize = 4;

impl Outbound {
    pub(super) fn new(shard: usize) -> Self {
        Self {
            shard,
            blocked: Vec::new(),
            send_errors: 0,
            segmentation_fallbacks: 0,
        }
    }

    /// Sends what is owed; ready when a socket takes datagrams again.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unblocked = false;
        for mut blocked in std::mem::take(&mut self.blocked) {
            let waits = blocked
                .retry_at
                .is_some_and(|retry_at| clock::now() < retry_at);
            if waits || blocked.writable.poll_unpin(cx).is_pending() {
                self.blocked.push(blocked);
                continue;
            }
            let io = Arc::clone(blocked.socket.io_of(self.shard));
            while let Some((transmit, contents)) = blocked.owed.front() {
                if self.transmit(&io, transmit, contents) == Sent::Blocked {
                    break;
                }
                blocked.owed.pop_front();
            }
            if blocked.owed.is_empty() {
                unblocked = true;
            } else {
                // After some errors a socket calls itself writable for ever; it is not believed at once.
                blocked.retry_at = Some(clock::now() + FALSE_ALARM);
                blocked.writable = io.writable();
                self.blocked.push(blocked);
            }
        }
        if unblocked {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// When a socket should be tried again that has said wrongly that it is writable.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.blocked
            .iter()
            .filter_map(|blocked| blocked.retry_at)
            .min()
    }

    fn transmit(&mut self, io: &UdpSocket, transmit: &Transmit, contents: &[u8]) -> Sent {
        let error = match send_once_more(io, transmit, contents) {
            Ok(()) => return Sent::Ready,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked,
            Err(error) => error,
        };
        match transmit.segment_size {
            // The interface does not segment after all; quinn-udp asks for it no more.
            Some(size) if contents.len() > size && io.max_segments() == 1 => {
                self.segmentation_fallbacks += 1;
                for contents in contents.chunks(size) {
                    let transmit = Transmit {
                        size: contents.len(),
                        segment_size: None,
                        ..*transmit
                    };
                    if send_once_more(io, &transmit, contents).is_err() {
                        self.send_errors += 1;
                    }
                }
            }
            // Lost, as any datagram may be. An MTU probe that is too large ends here as well.
            _ => {
                tracing::trace!(%error, destination = %transmit.destination, "could not send");
                self.send_errors += 1;
            }
        }
        Sent::Ready
    }
}

impl proto::Outbound<Arc<Socket>> for Outbound {
    fn is_ready(&self, socket: &Arc<Socket>) -> bool {
        !self
            .blocked
            .iter()
            .any(|blocked| Arc::ptr_eq(&blocked.socket, socket))
    }

    fn max_segments(&self, socket: &Arc<Socket>) -> usize {
        socket.io_of(self.shard).max_segments()
    }

    fn send(&mut self, socket: &Arc<Socket>, transmit: Transmit, contents: &[u8]) -> Sent {
        if let Some(blocked) = self
            .blocked
            .iter_mut()
            .find(|blocked| Arc::ptr_eq(&blocked.socket, socket))
        {
            if blocked.owed.len() < MAX_OWED {
                blocked.owed.push_back((transmit, contents.to_vec()));
            } else {
                self.send_errors += 1;
            }
            return Sent::Blocked;
        }
        let sent = self.transmit(socket.io_of(self.shard), &transmit, contents);
        if sent == Sent::Blocked {
            self.blocked.push(BlockedSocket {
                socket: Arc::clone(socket),
                writable: Arc::clone(socket.io_of(self.shard)).writable(),
                retry_at: None,
                owed: VecDeque::from([(transmit, contents.to_vec())]),
            });
        }
        sent
    }
}

/// A socket reports an ICMP error about an earlier datagram once, instead of sending; it is not about this
/// datagram, nor this peer. What fails twice fails.
fn send_once_more(io: &UdpSocket, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    match io.try_send(transmit, contents) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => io.try_send(transmit, contents),
        result => result,
    }
}
