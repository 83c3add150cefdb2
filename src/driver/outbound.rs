//! Sends, and waits for sockets and interfaces that are not ready.

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
    socket_group::SocketGroup,
};
use crate::{
    net::{UdpSocket, clock, interfaces},
    proto::{self, Sent},
    stats::TransportStats,
};

/// The outgoing side of one shard.
pub(super) struct Outbound {
    sender: Sender,
    deferred: Vec<DeferredBatches>,
}

/// Batches that wait for a socket or an interface, and those queued behind them.
struct DeferredBatches {
    socket: Arc<SocketGroup>,
    /// `Some(host)`: the interface towards this host is busy, and other hosts need not wait.
    /// `None`: the socket itself is not writable, so all hosts wait.
    host: Option<IpAddr>,
    /// Resolves when the socket is writable again; `None` if only `retry_at` counts.
    writable: Option<(Arc<UdpSocket>, BoxFuture<'static, ()>)>,
    /// The earliest time for another attempt: the interface is busy, or the socket was reported
    /// writable and was not.
    retry_at: Option<Instant>,
    /// How often in a row the interface was busy.
    backoffs: u32,
    /// The first one is a connection's batch; answers to strangers may follow.
    batches: VecDeque<(Transmit, Vec<u8>)>,
}

/// Pause before another attempt on a socket that was reported writable and was not.
const FALSE_ALARM: Duration = Duration::from_millis(1);

/// Pause after the interface was busy for the first time; it doubles each time in a row.
const FIRST_BACKOFF: Duration = Duration::from_millis(1);

/// The most pauses in a row, some 60 ms in all. Then the batch is lost, and congestion control
/// reacts to the loss.
const MAX_BACKOFFS: u32 = 6;

/// The most batches kept for a socket that would block, or for a host behind a busy interface.
const MAX_DEFERRED: usize = 4;

/// The most hosts behind busy interfaces for which batches are kept, over all sockets of a shard.
const MAX_BUSY_HOSTS: usize = 64;

impl Outbound {
    pub(super) fn new(shard: usize) -> Self {
        Self {
            sender: Sender::new(shard),
            deferred: Vec::new(),
        }
    }

    /// Whether no batch waits.
    pub(super) fn is_empty(&self) -> bool {
        self.deferred.is_empty()
    }

    /// Sends the batches that waited. Ready when a connection that had to wait may send again.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deferred.is_empty() {
            return Poll::Pending;
        }
        let now = clock::now();
        let mut unblocked = false;
        for mut deferred in mem::take(&mut self.deferred) {
            if deferred.poll(now, cx).is_pending() || !self.flush_deferred(now, &mut deferred) {
                self.deferred.push(deferred);
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

    /// Sends the batches that waited. Returns `false` if some have to wait again.
    fn flush_deferred(&mut self, now: Instant, deferred: &mut DeferredBatches) -> bool {
        while let Some((transmit, contents)) = deferred.batches.front_mut() {
            match self.sender.send(&deferred.socket, transmit, contents) {
                Outcome::Done | Outcome::Forbidden | Outcome::SourceGone => deferred.backoffs = 0,
                Outcome::Blocked { from } => {
                    drop_sent(transmit, contents, from);
                    // After some errors a socket reports itself writable for ever, so it is tried
                    // again only a little later.
                    deferred.retry_at = Some(now + FALSE_ALARM);
                    deferred.wait_for(self.sender.io(&deferred.socket));
                    return false;
                }
                Outcome::Busy { from } if deferred.host.is_some() => {
                    drop_sent(transmit, contents, from);
                    if deferred.back_off_again(now, from) {
                        return false;
                    }
                    self.sender.note_lost();
                }
                // Another host behind the same socket may have another interface, so only this
                // batch waits.
                Outcome::Busy { from } => {
                    let contents = contents.split_off(from);
                    let transmit = Transmit {
                        size: contents.len(),
                        ..*transmit
                    };
                    self.wait_for_interface(now, &deferred.socket, transmit, contents);
                }
            }
            deferred.batches.pop_front();
        }
        true
    }

    fn wait_for_interface(
        &mut self,
        now: Instant,
        socket: &Arc<SocketGroup>,
        transmit: Transmit,
        contents: Vec<u8>,
    ) {
        let busy = self
            .deferred
            .iter()
            .filter(|deferred| deferred.host.is_some());
        if busy.count() >= MAX_BUSY_HOSTS {
            self.sender.note_lost();
            return;
        }
        let host = transmit.destination.ip();
        let mut deferred = DeferredBatches::new(socket, Some(host), transmit, contents);
        deferred.back_off(now);
        self.deferred.push(deferred);
    }

    /// When the next waiting batch should be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.deferred
            .iter()
            .filter_map(|deferred| deferred.retry_at)
            .min()
    }

    /// Takes the counts since the last call.
    pub(super) fn take_counts(&mut self) -> TransportStats {
        self.sender.take_counts()
    }

    /// Takes the sockets that have failed since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<(Arc<SocketGroup>, io::Error)> {
        self.sender.take_broken()
    }
}

impl proto::Output<Arc<SocketGroup>> for Outbound {
    fn is_ready(&self, socket: &Arc<SocketGroup>, remote_addr: SocketAddr) -> bool {
        !self
            .deferred
            .iter()
            .any(|deferred| deferred.concerns(socket, remote_addr.ip()))
    }

    fn max_segments(&self, socket: &Arc<SocketGroup>, remote_addr: SocketAddr) -> usize {
        self.sender.max_segments(socket, remote_addr.ip())
    }

    fn source_ip(&self, socket: &Arc<SocketGroup>, remote_addr: SocketAddr) -> Option<IpAddr> {
        let own = socket.local_addr().ip();
        if own.is_unspecified() {
            interfaces::source_ip(remote_addr)
        } else {
            Some(own)
        }
    }

    fn send(&mut self, socket: &Arc<SocketGroup>, transmit: Transmit, contents: &[u8]) -> Sent {
        let host = transmit.destination.ip();
        if let Some(deferred) = self
            .deferred
            .iter_mut()
            .find(|deferred| deferred.concerns(socket, host))
        {
            if deferred.batches.len() < MAX_DEFERRED {
                deferred.batches.push_back((transmit, contents.to_vec()));
            } else {
                self.sender.note_lost();
            }
            return Sent::Blocked;
        }
        match self.sender.send(socket, &transmit, contents) {
            Outcome::Done => return Sent::Ready,
            Outcome::Forbidden => return Sent::Forbidden,
            Outcome::SourceGone => return Sent::SourceGone,
            Outcome::Blocked { from } => {
                let contents = contents[from..].to_vec();
                let mut deferred = DeferredBatches::new(socket, None, transmit, contents);
                deferred.wait_for(self.sender.io(socket));
                self.deferred.push(deferred);
            }
            Outcome::Busy { from } => {
                let contents = contents[from..].to_vec();
                self.wait_for_interface(clock::now(), socket, transmit, contents);
            }
        }
        Sent::Blocked
    }
}

impl DeferredBatches {
    fn new(
        socket: &Arc<SocketGroup>,
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
            batches: VecDeque::from([(transmit, contents)]),
        }
    }

    /// Whether a datagram from this socket to that host has to wait as well.
    fn concerns(&self, socket: &Arc<SocketGroup>, host: IpAddr) -> bool {
        Arc::ptr_eq(&self.socket, socket) && self.host.is_none_or(|busy| busy == host)
    }

    /// Ready when it is time to try again.
    fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return Poll::Pending;
        }
        // The retry time is over; from here only the socket's writability matters.
        self.retry_at = None;
        match &mut self.writable {
            // The future of a closed socket never resolves; a new socket may have replaced it.
            Some((io, _)) if io.is_retired() => Poll::Ready(()),
            Some((_, writable)) => writable.poll_unpin(cx),
            None => Poll::Ready(()),
        }
    }

    /// Waits until the socket is writable again. With `None` it does not wait: without a socket the
    /// batch is lost.
    fn wait_for(&mut self, io: Option<Arc<UdpSocket>>) {
        self.writable = io.map(|io| (Arc::clone(&io), io.writable()));
    }

    /// Waits once more, because the interface was busy again after `sent` bytes of the batch.
    /// Returns `false` if it was busy too often in a row; then the batch is lost.
    fn back_off_again(&mut self, now: Instant, sent: usize) -> bool {
        if sent > 0 {
            self.backoffs = 0;
        }
        let goes_on = self.backoffs < MAX_BACKOFFS;
        if goes_on {
            self.back_off(now);
        }
        goes_on
    }

    fn back_off(&mut self, now: Instant) {
        self.writable = None;
        self.retry_at = Some(now + FIRST_BACKOFF * 2_u32.pow(self.backoffs));
        self.backoffs += 1;
    }
}

/// Removes the bytes of a batch that were sent.
fn drop_sent(transmit: &mut Transmit, contents: &mut Vec<u8>, from: usize) {
    contents.drain(..from);
    transmit.size = contents.len();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use std::task::Waker;

    use proto::Output as _;
    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::trace::collected::Traced;

    const BUSY: [u8; 4] = [127, 0, 0, 2];
    const FREE: [u8; 4] = [127, 0, 0, 3];

    #[tokio::test]
    async fn busy_interface_holds_up_only_the_host_behind_it() {
        let receiver = std::net::UdpSocket::bind((IpAddr::from(BUSY), 0)).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let to = receiver.local_addr().unwrap();
        let mut outbound = Outbound::new(0);
        let (socket, other) = (SocketGroup::unread(), SocketGroup::unread());
        let now = clock::now();
        let (transmit, contents) = datagram(to);
        outbound.wait_for_interface(now, &socket, transmit, contents);
        assert!(!outbound.is_ready(&socket, to));
        assert!(outbound.is_ready(&socket, (FREE, 1).into()));
        assert!(outbound.is_ready(&other, to));
        assert_eq!(outbound.next_retry(), Some(now + FIRST_BACKOFF));

        // Further batches wait behind the first one, up to a limit.
        for _ in 0..MAX_DEFERRED {
            let (transmit, contents) = datagram(to);
            assert_eq!(outbound.send(&socket, transmit, &contents), Sent::Blocked);
        }
        assert_eq!(outbound.deferred[0].batches.len(), MAX_DEFERRED);
        assert_eq!(outbound.take_counts().send_errors, 1);

        // Then all of them are sent.
        let mut cx = Context::from_waker(Waker::noop());
        outbound.deferred[0].retry_at = Some(now);
        socket.io_of(0).unwrap().writable().await;
        assert!(outbound.poll_writable(&mut cx).is_ready());
        assert!(outbound.is_ready(&socket, to));
        assert_eq!(outbound.next_retry(), None);
        let received = std::iter::from_fn(|| receiver.recv(&mut [0; 200]).ok());
        assert_eq!(received.collect::<Vec<_>>(), [LEN; MAX_DEFERRED]);
    }

    #[tokio::test]
    async fn batch_behind_a_busy_interface_is_lost_after_max_backoffs_in_a_row() {
        let now = clock::now();
        let mut deferred = busy();
        deferred.back_off(now);
        let first = deferred.retry_at;
        let next = |_| deferred.back_off_again(now, 0).then_some(deferred.retry_at);
        let further = (0..2 * MAX_BACKOFFS).map_while(next);
        let pauses: Vec<_> = [first].into_iter().chain(further).flatten().collect();
        let doubled = (0..MAX_BACKOFFS).map(|times| now + FIRST_BACKOFF * 2_u32.pow(times));
        assert!(doubled.eq(pauses));
        // An interface that has sent a part begins a new row.
        assert!(deferred.back_off_again(now, 1));
        assert_eq!(deferred.retry_at, first);
    }

    #[tokio::test]
    async fn busy_interface_is_tried_again_when_the_pause_is_over() {
        let now = clock::now();
        let mut deferred = busy();
        deferred.back_off(now);
        let mut cx = Context::from_waker(Waker::noop());
        let over = now + FIRST_BACKOFF;
        let early = over - Duration::from_nanos(1);
        assert!(deferred.poll(early, &mut cx).is_pending());
        assert!(deferred.poll(over, &mut cx).is_ready());
    }

    #[tokio::test]
    async fn next_retry_is_that_of_the_host_whose_pause_ends_first() {
        let mut outbound = Outbound::new(0);
        let socket = SocketGroup::unread();
        let now = clock::now();
        for (host, late) in [(BUSY, 2), (FREE, 1), ([127, 0, 0, 4], 3)] {
            let (transmit, contents) = datagram((host, 1).into());
            outbound.wait_for_interface(now + late * FIRST_BACKOFF, &socket, transmit, contents);
        }
        assert_eq!(outbound.next_retry(), Some(now + 2 * FIRST_BACKOFF));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_socket_that_has_failed() {
        let mut outbound = Outbound::new(0);
        let socket = SocketGroup::unread();
        let (transmit, contents) = datagram((BUSY, 1).into());
        let mut deferred = DeferredBatches::new(&socket, None, transmit, contents);
        let never = Box::pin(std::future::pending());
        deferred.writable = Some((socket.io_of(0).unwrap(), never));
        outbound.deferred.push(deferred);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outbound.poll_writable(&mut cx).is_pending());

        assert!(socket.begin_repair());
        assert!(outbound.poll_writable(&mut cx).is_ready());
        assert!(outbound.is_ready(&socket, (BUSY, 1).into()));
        // There is no socket to send it from.
        assert_eq!(outbound.take_counts().send_errors, 1);
    }

    #[tokio::test]
    async fn batches_are_kept_for_so_many_hosts_only() {
        let traced = Traced::up_to(LevelFilter::TRACE);
        let mut outbound = Outbound::new(0);
        let socket = SocketGroup::unread();
        for host in 0..=MAX_BUSY_HOSTS {
            let (transmit, contents) = datagram(([127, 0, 1, host as u8], 1).into());
            outbound.wait_for_interface(clock::now(), &socket, transmit, contents);
        }
        assert_eq!(outbound.deferred.len(), MAX_BUSY_HOSTS);
        assert_eq!(outbound.take_counts().send_errors, 1);
        let dropped = "dropped a batch, because too many wait";
        assert_eq!(traced.reasons(dropped), ["send_errors"]);
    }

    /// A batch for a host behind a busy interface.
    fn busy() -> DeferredBatches {
        let (transmit, contents) = datagram((BUSY, 1).into());
        DeferredBatches::new(
            &SocketGroup::unread(),
            Some(BUSY.into()),
            transmit,
            contents,
        )
    }

    /// The length of a datagram.
    const LEN: usize = 100;

    fn datagram(destination: SocketAddr) -> (Transmit, Vec<u8>) {
        let transmit = Transmit {
            destination,
            ecn: None,
            size: LEN,
            segment_size: None,
            src_ip: None,
        };
        (transmit, vec![7; LEN])
    }
}
