//! Sending, and waiting for sockets that take no more.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, FutureExt};
use quinn_proto::Transmit;

use super::socket::Socket;
use crate::{
    net::{UdpSocket, is_about_earlier_datagram},
    proto::{self, Sent},
};

/// Where the datagrams of one shard leave.
#[derive(Default)]
pub(super) struct Outbound {
    /// Sockets that would block, each with the batches that it owes.
    blocked: Vec<BlockedSocket>,
    pub(super) send_errors: u64,
    pub(super) segmentation_fallbacks: u64,
}

struct BlockedSocket {
    socket: Arc<Socket>,
    writable: BoxFuture<'static, ()>,
    /// One batch, or two where a stranger was answered meanwhile.
    owed: Vec<(Transmit, Vec<u8>)>,
}

/// Most batches kept for a socket that would block.
const MAX_OWED: usize = 4;

impl Outbound {
    /// Sends what is owed; ready when a socket takes datagrams again.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unblocked = false;
        let mut index = 0;
        while let Some(blocked) = self.blocked.get_mut(index) {
            if blocked.writable.poll_unpin(cx).is_pending() {
                index += 1;
                continue;
            }
            let mut blocked = self.blocked.swap_remove(index);
            let io = Arc::clone(blocked.socket.io());
            let owed = std::mem::take(&mut blocked.owed);
            let mut left = owed.into_iter();
            let mut still_blocked = false;
            for (transmit, contents) in left.by_ref() {
                if self.transmit(&io, &transmit, &contents) == Sent::Blocked {
                    blocked.owed.push((transmit, contents));
                    still_blocked = true;
                    break;
                }
            }
            if still_blocked {
                blocked.owed.extend(left);
                blocked.writable = io.writable();
                // Polled anew, so that it knows whom to wake.
                self.blocked.push(blocked);
            } else {
                unblocked = true;
            }
        }
        if unblocked {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
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
        socket.io().max_segments()
    }

    fn send(&mut self, socket: &Arc<Socket>, transmit: Transmit, contents: &[u8]) -> Sent {
        if let Some(blocked) = self
            .blocked
            .iter_mut()
            .find(|blocked| Arc::ptr_eq(&blocked.socket, socket))
        {
            if blocked.owed.len() < MAX_OWED {
                blocked.owed.push((transmit, contents.to_vec()));
            } else {
                self.send_errors += 1;
            }
            return Sent::Blocked;
        }
        let sent = self.transmit(socket.io(), &transmit, contents);
        if sent == Sent::Blocked {
            self.blocked.push(BlockedSocket {
                socket: Arc::clone(socket),
                writable: Arc::clone(socket.io()).writable(),
                owed: vec![(transmit, contents.to_vec())],
            });
        }
        sent
    }
}

/// Sends again where the socket had only something to say about an earlier datagram.
fn send_once_more(io: &UdpSocket, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    match io.try_send(transmit, contents) {
        Err(error) if is_about_earlier_datagram(&error) => io.try_send(transmit, contents),
        result => result,
    }
}
