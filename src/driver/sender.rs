//! Sends batches over one socket, and handles the errors.

use std::{
    io, mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::Transmit;

use super::socket_group::SocketGroup;
use crate::{
    address::Host,
    known_hosts::{KnownHosts, Passing},
    net::{Fault, UdpSocket, clock, interfaces},
    stats::TransportStats,
};

/// Sends for one shard, and remembers what the errors mean.
pub(super) struct Sender {
    shard: usize,
    /// Hosts to which segmentation offload has failed, with the time until which it is not tried
    /// again. For other hosts it is tried each time.
    no_gso_until: KnownHosts<Instant>,
    /// Sockets that have failed, each with its error.
    broken: Vec<(Arc<SocketGroup>, io::Error)>,
    /// Counts since the last [`take_counts`](Self::take_counts).
    counts: TransportStats,
}

/// The result of sending a batch, which may be a single datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Sent, or lost as any datagram may be on its path.
    Done,
    /// The socket is not writable. Bytes from this offset on are still to be sent.
    Blocked { from: usize },
    /// The interface's queue is full; other interfaces may still send. Bytes from this offset on
    /// are still to be sent.
    Busy { from: usize },
    /// The operating system forbids sending it.
    Forbidden,
    /// No interface has the source address any more.
    SourceGone,
}

/// How long segmentation offload stays off for a host after it failed. Routes change, so it is then
/// tried again.
const GSO_OFF_FOR: Duration = Duration::from_secs(10);

impl Sender {
    pub(super) fn new(shard: usize) -> Self {
        Self {
            shard,
            no_gso_until: KnownHosts::default(),
            broken: Vec::new(),
            counts: TransportStats::default(),
        }
    }

    /// This shard's UDP socket in the group; `None` while a failed one is being replaced.
    pub(super) fn io(&self, socket: &SocketGroup) -> Option<Arc<UdpSocket>> {
        socket.io_of(self.shard)
    }

    /// The most datagrams that one call can send to a host.
    pub(super) fn max_segments(&self, socket: &SocketGroup, host: IpAddr) -> usize {
        let no_gso_until = self.no_gso_until.get(Host::of(host));
        if no_gso_until.is_some_and(|until| !until.is_over(clock::now())) {
            1
        } else {
            self.io(socket).map_or(1, |io| io.max_segments())
        }
    }

    pub(super) fn send(
        &mut self,
        socket: &Arc<SocketGroup>,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Outcome {
        let Some(io) = self.io(socket) else {
            self.counts.send_errors += 1;
            return Outcome::Done;
        };
        let error = match send_persistently(&io, transmit, contents) {
            Ok(()) => return Outcome::Done,
            Err(error) => error,
        };
        if lacks_source(transmit, &error) {
            self.counts.sends_unreachable += 1;
            return Outcome::SourceGone;
        }
        match transmit.segment_size {
            // An error of a batch need not concern its datagrams: the interface may not support
            // segmentation, or the last datagram may be short enough to fit.
            Some(size)
                if contents.len() > size
                    && matches!(Fault::of(&error), Fault::Refused | Fault::TooLarge) =>
            {
                self.send_one_by_one(socket, &io, transmit, contents, size)
            }
            _ => self.fail(socket, transmit, error),
        }
    }

    fn send_one_by_one(
        &mut self,
        socket: &Arc<SocketGroup>,
        io: &UdpSocket,
        batch: &Transmit,
        contents: &[u8],
        size: usize,
    ) -> Outcome {
        let mut from = 0;
        for contents in contents.chunks(size) {
            let transmit = Transmit {
                size: contents.len(),
                segment_size: None,
                ..*batch
            };
            match send_persistently(io, &transmit, contents) {
                // A datagram of full size was sent, so the segmentation had failed.
                Ok(()) if from == 0 => self.note_gso_failed(batch.destination.ip()),
                Ok(()) => {}
                Err(error) => match self.fail(socket, &transmit, error) {
                    Outcome::Done | Outcome::Forbidden | Outcome::SourceGone => {}
                    Outcome::Blocked { .. } => return Outcome::Blocked { from },
                    Outcome::Busy { .. } => return Outcome::Busy { from },
                },
            }
            from += contents.len();
        }
        Outcome::Done
    }

    fn note_gso_failed(&mut self, host: IpAddr) {
        self.counts.segmentation_fallbacks += 1;
        let now = clock::now();
        self.no_gso_until
            .note(now, Host::of(host), now + GSO_OFF_FOR);
    }

    fn fail(
        &mut self,
        socket: &Arc<SocketGroup>,
        transmit: &Transmit,
        error: io::Error,
    ) -> Outcome {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Outcome::Blocked { from: 0 };
        }
        let fault = Fault::of(&error);
        tracing::trace!(%error, ?fault, destination = %transmit.destination, "could not send");
        match fault {
            Fault::Busy => {
                self.counts.send_backoffs += 1;
                return Outcome::Busy { from: 0 };
            }
            // This includes probes of path MTU discovery that are too large.
            Fault::TooLarge => self.counts.sends_too_large += 1,
            Fault::Refused | Fault::Unreachable => self.counts.sends_unreachable += 1,
            Fault::Forbidden => {
                self.counts.sends_unreachable += 1;
                return Outcome::Forbidden;
            }
            Fault::Broken => {
                self.counts.send_errors += 1;
                if !self
                    .broken
                    .iter()
                    .any(|(other, _)| Arc::ptr_eq(other, socket))
                {
                    self.broken.push((Arc::clone(socket), error));
                }
            }
            Fault::Other => self.counts.send_errors += 1,
        }
        Outcome::Done
    }

    /// Counts a batch that was dropped because too many waited.
    pub(super) fn note_lost(&mut self) {
        self.counts.send_errors += 1;
        tracing::trace!(
            reason = "send_errors",
            "dropped a batch, because too many wait"
        );
    }

    /// Takes the counts since the last call.
    pub(super) fn take_counts(&mut self) -> TransportStats {
        mem::take(&mut self.counts)
    }

    /// Takes the sockets that have failed since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<(Arc<SocketGroup>, io::Error)> {
        mem::take(&mut self.broken)
    }
}

/// Sends, and repeats a send that failed with an error that ICMP may have caused. A socket reports
/// an ICMP error about an earlier datagram once, instead of sending; the error concerns neither
/// this datagram nor this peer. An error that persists is returned.
fn send_persistently(io: &UdpSocket, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    for _ in 1..MAX_TRIES {
        match io.try_send(transmit, contents) {
            Ok(()) => return Ok(()),
            // ICMP causes none of these errors: a closed port is `Fault::Unreachable`.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    || matches!(
                        Fault::of(&error),
                        Fault::Broken | Fault::Busy | Fault::Forbidden | Fault::Refused
                    ) =>
            {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    io.try_send(transmit, contents)
}

/// Whether a datagram could not be sent because no interface has its source address any more.
fn lacks_source(transmit: &Transmit, error: &io::Error) -> bool {
    let may_lack =
        error.kind() == io::ErrorKind::AddrNotAvailable || Fault::of(error) == Fault::Refused;
    let source = transmit.src_ip.filter(|_| may_lack);
    source.is_some_and(|ip| !interfaces::is_ours(ip, transmit.destination))
}

/// Attempts per batch. Each pending ICMP error makes one attempt fail: two attempts, and two more
/// for errors that arrive in between.
const MAX_TRIES: usize = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::trace::collected::Traced;

    #[tokio::test(start_paused = true)]
    async fn host_to_which_segmentation_has_failed_gets_single_datagrams_for_a_while() {
        const MOMENT: Duration = Duration::from_millis(1);

        let mut sender = Sender::new(0);
        let socket = SocketGroup::unread();
        let most = sender.io(&socket).unwrap().max_segments();
        let [host, other] = [1, 2].map(|number| IpAddr::from([192, 0, 2, number]));
        sender.note_gso_failed(host);
        assert_eq!(sender.max_segments(&socket, host), 1);
        assert_eq!(sender.max_segments(&socket, other), most);
        tokio::time::advance(GSO_OFF_FOR - MOMENT).await;
        assert_eq!(sender.max_segments(&socket, host), 1);
        tokio::time::advance(MOMENT).await;
        assert_eq!(sender.max_segments(&socket, host), most);
        assert_eq!(sender.take_counts().segmentation_fallbacks, 1);
    }

    #[tokio::test]
    async fn what_could_not_be_sent_is_traced_with_the_error() {
        let traced = Traced::up_to(LevelFilter::TRACE);
        let mut sender = Sender::new(0);
        let socket = SocketGroup::unread();
        sender.io(&socket).unwrap().writable().await;
        // An IPv4 socket reaches no IPv6 address.
        let transmit = Transmit {
            destination: "[::1]:7".parse().unwrap(),
            ecn: None,
            size: 1,
            segment_size: None,
            src_ip: None,
        };
        assert_eq!(sender.send(&socket, &transmit, &[7]), Outcome::Done);
        let failed = traced.events("could not send");
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].field("destination"), "[::1]:7");
        assert!(
            ["error", "fault"]
                .iter()
                .all(|field| !failed[0].field(field).is_empty())
        );
    }

    /// It has more datagrams than the kernel takes at once. Some interfaces take no batch at all.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn batch_that_is_refused_is_sent_one_by_one() {
        const DATAGRAMS: u8 = 150;
        const BYTES: usize = 10;

        let peer = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let contents: Vec<u8> = (0..DATAGRAMS).flat_map(|number| [number; BYTES]).collect();
        let mut sender = Sender::new(0);
        let socket = SocketGroup::unread();
        sender.io(&socket).unwrap().writable().await;
        let transmit = Transmit {
            destination: peer.local_addr().unwrap(),
            ecn: None,
            size: contents.len(),
            segment_size: Some(BYTES),
            src_ip: None,
        };
        assert_eq!(sender.send(&socket, &transmit, &contents), Outcome::Done);
        for number in 0..DATAGRAMS {
            let mut received = [0; 2 * BYTES];
            assert_eq!(peer.recv(&mut received).unwrap(), BYTES);
            assert_eq!(received[..BYTES], [number; BYTES]);
        }
        let counts = sender.take_counts();
        assert_eq!(
            (counts.segmentation_fallbacks, counts.sends_unreachable),
            (1, 0)
        );
    }

    /// Hosts without a listener, and forgers of their answers, do not make us lose datagrams.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn closed_port_costs_other_peers_no_datagram() {
        let bind = || std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let peer = bind();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let closed = bind().local_addr().unwrap();
        let mut sender = Sender::new(0);
        let socket = SocketGroup::unread();
        sender.io(&socket).unwrap().writable().await;
        for number in 0..9 {
            for destination in [closed, peer.local_addr().unwrap()] {
                let transmit = Transmit {
                    destination,
                    ecn: None,
                    size: 1,
                    segment_size: None,
                    src_ip: None,
                };
                assert_eq!(sender.send(&socket, &transmit, &[number]), Outcome::Done);
            }
            let mut received = [0];
            peer.recv(&mut received).unwrap();
            assert_eq!(received, [number]);
        }
        assert_eq!(sender.take_counts(), TransportStats::default());
    }
}
