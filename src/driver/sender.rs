//! Sending a batch over one socket, and what to do about errors.

use std::{
    io, mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::Transmit;

use super::socket::Socket;
use crate::{
    address::Host,
    known_hosts::{KnownHosts, Passing},
    net::{Fault, UdpSocket, clock, interfaces},
    stats::TransportStats,
};

/// Sends for one shard, and remembers what the errors say.
pub(super) struct Sender {
    shard: usize,
    /// Hosts on whose way batches are not cut into segments, each until when that is believed. Batches to others are
    /// tried each time.
    uncut: KnownHosts<Instant>,
    /// Sockets that are dead, each with the error that says so.
    broken: Vec<(Arc<Socket>, io::Error)>,
    /// Since somebody has taken them.
    counts: TransportStats,
}

/// What became of a batch; it may be a single datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Sent, or lost, as any datagram may be on its way.
    Gone,
    /// The socket takes no more. Bytes from here on are still to be sent.
    Blocked { from: usize },
    /// The interface takes no more for now; others of the same socket may. Bytes from here on are still to be sent.
    Busy { from: usize },
    /// The operating system does not let it out.
    Forbidden,
    /// No interface has the source address any more.
    SourceGone,
}

/// How long it is believed that batches to a host cannot be cut. Then one is tried: ways change.
const UNCUT_FOR: Duration = Duration::from_secs(10);

impl Sender {
    pub(super) fn new(shard: usize) -> Self {
        Self {
            shard,
            uncut: KnownHosts::default(),
            broken: Vec::new(),
            counts: TransportStats::default(),
        }
    }

    /// The one of a socket's that this shard sends from; `None` between the failure of one and the next.
    pub(super) fn io(&self, socket: &Socket) -> Option<Arc<UdpSocket>> {
        socket.io_of(self.shard)
    }

    /// How many datagrams can be sent to a host at once.
    pub(super) fn max_segments(&self, socket: &Socket, host: IpAddr) -> usize {
        let uncut = self.uncut.get(Host::of(host));
        if uncut.is_some_and(|until| !until.is_over(clock::now())) {
            1
        } else {
            self.io(socket).map_or(1, |io| io.max_segments())
        }
    }

    pub(super) fn send(
        &mut self,
        socket: &Arc<Socket>,
        transmit: &Transmit,
        contents: &[u8],
    ) -> Outcome {
        let Some(io) = self.io(socket) else {
            self.counts.send_errors += 1;
            return Outcome::Gone;
        };
        let error = match send_persistently(&io, transmit, contents) {
            Ok(()) => return Outcome::Gone,
            Err(error) => error,
        };
        if lacks_source(transmit, &error) {
            self.counts.sends_unreachable += 1;
            return Outcome::SourceGone;
        }
        match transmit.segment_size {
            // What is wrong with the batch need not be wrong with its datagrams: the interface does not cut it, or
            // the shorter one at its end fits.
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
        socket: &Arc<Socket>,
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
                // One of full size: it is the cutting that does not work.
                Ok(()) if from == 0 => self.note_uncut(batch.destination.ip()),
                Ok(()) => {}
                Err(error) => match self.fail(socket, &transmit, error) {
                    Outcome::Gone | Outcome::Forbidden | Outcome::SourceGone => {}
                    Outcome::Blocked { .. } => return Outcome::Blocked { from },
                    Outcome::Busy { .. } => return Outcome::Busy { from },
                },
            }
            from += contents.len();
        }
        Outcome::Gone
    }

    fn note_uncut(&mut self, host: IpAddr) {
        self.counts.segmentation_fallbacks += 1;
        let now = clock::now();
        self.uncut.note(now, Host::of(host), now + UNCUT_FOR);
    }

    fn fail(&mut self, socket: &Arc<Socket>, transmit: &Transmit, error: io::Error) -> Outcome {
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
            // An MTU probe that is too large ends here as well.
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
        Outcome::Gone
    }

    /// A batch is lost for which there was no room.
    pub(super) fn note_lost(&mut self) {
        self.counts.send_errors += 1;
    }

    /// What was counted since the last call.
    pub(super) fn take_counts(&mut self) -> TransportStats {
        mem::take(&mut self.counts)
    }

    /// Sockets that were found dead since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<(Arc<Socket>, io::Error)> {
        mem::take(&mut self.broken)
    }
}

/// A socket reports an ICMP error about an earlier datagram once, instead of sending; it is not about this
/// datagram, nor this peer. What fails again and again fails.
fn send_persistently(io: &UdpSocket, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    for _ in 1..MAX_TRIES {
        match io.try_send(transmit, contents) {
            Ok(()) => return Ok(()),
            // None of these is ICMP's.
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

/// Whether a datagram is kept by its source address, which no interface has any more.
fn lacks_source(transmit: &Transmit, error: &io::Error) -> bool {
    let may_lack =
        error.kind() == io::ErrorKind::AddrNotAvailable || Fault::of(error) == Fault::Refused;
    let source = transmit.src_ip.filter(|_| may_lack);
    source.is_some_and(|ip| !interfaces::is_ours(ip, transmit.destination))
}

/// How often a batch is tried, where ICMP may be what keeps it: twice, and twice more for reports that come meanwhile.
const MAX_TRIES: usize = 4;
