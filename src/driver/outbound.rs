//! Sending, and waiting for sockets and interfaces that take no more.

use std::{
    collections::VecDeque,
    io, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};
use quinn_proto::Transmit;

use super::{
    sender::{Outcome, Sender},
    socket::Socket,
};
use crate::{
    net::{UdpSocket, clock, interfaces},
    proto::{self, Sent},
    stats::TransportStats,
};

/// Where the datagrams of one shard leave.
pub(super) struct Outbound {
    sender: Sender,
    waiting: Vec<Waiting>,
}

/// Batches that have to wait, and those behind them.
struct Waiting {
    socket: Arc<Socket>,
    /// The one that they are for, if the interface on the way there is busy; others of the same socket need not
    /// wait. Everybody, if the socket takes nothing.
    host: Option<IpAddr>,
    /// Resolves when the socket takes datagrams again, unless only time can tell.
    writable: Option<(Arc<UdpSocket>, BoxFuture<'static, ()>)>,
    /// Not before this time: the interface is busy, or the alarm was a false one.
    retry_at: Option<Instant>,
    /// How often the interface was busy in a row.
    backoffs: u32,
    /// A batch of a connection, and perhaps answers to strangers behind it.
    owed: VecDeque<(Transmit, Vec<u8>)>,
}

/// How long a socket is left alone that has called itself writable and was not.
const FALSE_ALARM: Duration = Duration::from_millis(1);

/// How long a busy interface is left alone at first; each time in a row twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(1);

/// How often in a row; some 60 ms in all. Then what waits is lost, and congestion control hears of it.
const MAX_BACKOFFS: u32 = 6;

/// Most batches kept for a socket that would block, or for a host behind a busy interface.
const MAX_OWED: usize = 4;

/// Most hosts behind busy interfaces that batches are kept for, of all sockets of a shard.
const MAX_BUSY_HOSTS: usize = 64;

impl Outbound {
    pub(super) fn new(shard: usize) -> Self {
        Self {
            sender: Sender::new(shard),
            waiting: Vec::new(),
        }
    }

    /// Sends what is owed; ready when somebody who had to wait may send again.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_empty() {
            return Poll::Pending;
        }
        let now = clock::now();
        let mut unblocked = false;
        for mut waiting in mem::take(&mut self.waiting) {
            if waiting.poll(now, cx).is_pending() || !self.pay(now, &mut waiting) {
                self.waiting.push(waiting);
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

    /// Sends what is owed; returns `false` if some of it has to wait again.
    fn pay(&mut self, now: Instant, waiting: &mut Waiting) -> bool {
        while let Some((transmit, contents)) = waiting.owed.front_mut() {
            match self.sender.send(&waiting.socket, transmit, contents) {
                Outcome::Gone | Outcome::Forbidden | Outcome::SourceGone => waiting.backoffs = 0,
                Outcome::Blocked { from } => {
                    keep(transmit, contents, from);
                    // After some errors a socket calls itself writable for ever; it is not believed at once.
                    waiting.retry_at = Some(now + FALSE_ALARM);
                    waiting.wait_for(self.sender.io(&waiting.socket));
                    return false;
                }
                Outcome::Busy { from } if waiting.host.is_some() => {
                    if from > 0 {
                        waiting.backoffs = 0;
                    }
                    keep(transmit, contents, from);
                    if waiting.backoffs < MAX_BACKOFFS {
                        waiting.back_off(now);
                        return false;
                    }
                    self.sender.note_lost();
                }
                // The interface on the way to one of them need not be that of the others.
                Outcome::Busy { from } => {
                    let contents = contents.split_off(from);
                    let transmit = Transmit {
                        size: contents.len(),
                        ..*transmit
                    };
                    self.wait_for_interface(now, &waiting.socket, transmit, contents);
                }
            }
            waiting.owed.pop_front();
        }
        true
    }

    fn wait_for_interface(
        &mut self,
        now: Instant,
        socket: &Arc<Socket>,
        transmit: Transmit,
        contents: Vec<u8>,
    ) {
        let busy = self.waiting.iter().filter(|waiting| waiting.host.is_some());
        if busy.count() >= MAX_BUSY_HOSTS {
            self.sender.note_lost();
            return;
        }
        let host = transmit.destination.ip();
        let mut waiting = Waiting::new(socket, Some(host), transmit, contents);
        waiting.back_off(now);
        self.waiting.push(waiting);
    }

    /// When something that waits should be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .filter_map(|waiting| waiting.retry_at)
            .min()
    }

    /// What was counted since the last call.
    pub(super) fn take_counts(&mut self) -> TransportStats {
        self.sender.take_counts()
    }

    /// Sockets that were found dead since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<(Arc<Socket>, io::Error)> {
        self.sender.take_broken()
    }
}

impl proto::Outbound<Arc<Socket>> for Outbound {
    fn is_ready(&self, socket: &Arc<Socket>, remote_addr: SocketAddr) -> bool {
        !self
            .waiting
            .iter()
            .any(|waiting| waiting.concerns(socket, remote_addr.ip()))
    }

    fn max_segments(&self, socket: &Arc<Socket>, remote_addr: SocketAddr) -> usize {
        self.sender.max_segments(socket, remote_addr.ip())
    }

    fn source_ip(&self, socket: &Arc<Socket>, remote_addr: SocketAddr) -> Option<IpAddr> {
        let own = socket.local_addr().ip();
        if own.is_unspecified() {
            interfaces::source_ip(remote_addr)
        } else {
            Some(own)
        }
    }

    fn send(&mut self, socket: &Arc<Socket>, transmit: Transmit, contents: &[u8]) -> Sent {
        let host = transmit.destination.ip();
        if let Some(waiting) = self
            .waiting
            .iter_mut()
            .find(|waiting| waiting.concerns(socket, host))
        {
            if waiting.owed.len() < MAX_OWED {
                waiting.owed.push_back((transmit, contents.to_vec()));
            } else {
                self.sender.note_lost();
            }
            return Sent::Blocked;
        }
        match self.sender.send(socket, &transmit, contents) {
            Outcome::Gone => return Sent::Ready,
            Outcome::Forbidden => return Sent::Forbidden,
            Outcome::SourceGone => return Sent::SourceGone,
            Outcome::Blocked { from } => {
                let contents = contents[from..].to_vec();
                let mut waiting = Waiting::new(socket, None, transmit, contents);
                waiting.wait_for(self.sender.io(socket));
                self.waiting.push(waiting);
            }
            Outcome::Busy { from } => {
                let contents = contents[from..].to_vec();
                self.wait_for_interface(clock::now(), socket, transmit, contents);
            }
        }
        Sent::Blocked
    }
}

impl Waiting {
    fn new(
        socket: &Arc<Socket>,
        host: Option<IpAddr>,
        transmit: Transmit,
        contents: Vec<u8>,
    ) -> Self {
        let transmit = Transmit {
            size: contents.len(),
            ..transmit
        };
        Self {
            socket: Arc::clone(socket),
            host,
            writable: None,
            retry_at: None,
            backoffs: 0,
            owed: VecDeque::from([(transmit, contents)]),
        }
    }

    /// Whether a datagram from this socket to that host has to wait as well.
    fn concerns(&self, socket: &Arc<Socket>, host: IpAddr) -> bool {
        Arc::ptr_eq(&self.socket, socket) && self.host.is_none_or(|busy| busy == host)
    }

    /// Ready when it is time to try again.
    fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return Poll::Pending;
        }
        // Past: what is waited for now is the socket alone, and no timer is to run for it.
        self.retry_at = None;
        match &mut self.writable {
            // It would wait for ever; another one may have taken its place.
            Some((io, _)) if io.is_retired() => Poll::Ready(()),
            Some((_, writable)) => writable.poll_unpin(cx),
            None => Poll::Ready(()),
        }
    }

    /// Has it wait until the socket takes datagrams again. `None` does not: what is sent without one is lost.
    fn wait_for(&mut self, io: Option<Arc<UdpSocket>>) {
        self.writable = io.map(|io| (Arc::clone(&io), io.writable()));
    }

    fn back_off(&mut self, now: Instant) {
        self.writable = None;
        self.retry_at = Some(now + FIRST_BACKOFF * 2_u32.pow(self.backoffs));
        self.backoffs += 1;
    }
}

/// Keeps what is still to be sent of a batch.
fn keep(transmit: &mut Transmit, contents: &mut Vec<u8>, from: usize) {
    contents.drain(..from);
    transmit.size = contents.len();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use std::task::Waker;

    use proto::Outbound as _;

    use super::*;
    use crate::net::{BufferSizes, task::Runtime};

    const BUSY: [u8; 4] = [127, 0, 0, 2];
    const FREE: [u8; 4] = [127, 0, 0, 3];

    #[tokio::test]
    async fn busy_interface_holds_up_only_the_host_behind_it() {
        let mut outbound = Outbound::new(0);
        let (socket, other) = (socket(), socket());
        let now = clock::now();
        let (transmit, contents) = datagram(BUSY);
        outbound.wait_for_interface(now, &socket, transmit, contents);
        assert!(!outbound.is_ready(&socket, (BUSY, 1).into()));
        assert!(outbound.is_ready(&socket, (FREE, 1).into()));
        assert!(outbound.is_ready(&other, (BUSY, 1).into()));
        assert_eq!(outbound.next_retry(), Some(now + FIRST_BACKOFF));

        // What follows it waits behind it, up to a limit.
        for _ in 0..MAX_OWED {
            let (transmit, contents) = datagram(BUSY);
            assert_eq!(outbound.send(&socket, transmit, &contents), Sent::Blocked);
        }
        assert_eq!(outbound.waiting[0].owed.len(), MAX_OWED);
        assert_eq!(outbound.take_counts().send_errors, 1);

        // In time all of it is sent.
        let mut cx = Context::from_waker(Waker::noop());
        outbound.waiting[0].retry_at = Some(now);
        socket.io_of(0).unwrap().writable().await;
        assert!(outbound.poll_writable(&mut cx).is_ready());
        assert!(outbound.is_ready(&socket, (BUSY, 1).into()));
        assert_eq!(outbound.next_retry(), None);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_socket_that_has_failed() {
        let mut outbound = Outbound::new(0);
        let socket = socket();
        let (transmit, contents) = datagram(BUSY);
        let mut waiting = Waiting::new(&socket, None, transmit, contents);
        let never = Box::pin(std::future::pending());
        waiting.writable = Some((socket.io_of(0).unwrap(), never));
        outbound.waiting.push(waiting);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outbound.poll_writable(&mut cx).is_pending());

        assert!(socket.begin_repair());
        assert!(outbound.poll_writable(&mut cx).is_ready());
        assert!(outbound.is_ready(&socket, (BUSY, 1).into()));
        // There is none to send it from.
        assert_eq!(outbound.take_counts().send_errors, 1);
    }

    #[tokio::test]
    async fn batches_are_kept_for_so_many_hosts_only() {
        let mut outbound = Outbound::new(0);
        let socket = socket();
        for host in 0..=MAX_BUSY_HOSTS {
            let (transmit, contents) = datagram([127, 0, 1, host as u8]);
            outbound.wait_for_interface(clock::now(), &socket, transmit, contents);
        }
        assert_eq!(outbound.waiting.len(), MAX_BUSY_HOSTS);
        assert_eq!(outbound.take_counts().send_errors, 1);
    }

    fn socket() -> Arc<Socket> {
        let buffers = BufferSizes {
            receive: 64 * 1024,
            send: 64 * 1024,
        };
        let io = UdpSocket::bind(
            &Runtime::current().unwrap(),
            ([0, 0, 0, 0], 0).into(),
            buffers,
        );
        let socket = Socket::new(
            vec![Arc::new(io.unwrap())],
            false,
            0,
            Vec::new(),
            Arc::default(),
        );
        Arc::new(socket)
    }

    fn datagram(host: [u8; 4]) -> (Transmit, Vec<u8>) {
        let transmit = Transmit {
            destination: (host, 1).into(),
            ecn: None,
            size: 100,
            segment_size: None,
            src_ip: None,
        };
        (transmit, vec![7; 100])
    }
}
