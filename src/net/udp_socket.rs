//! UDP sockets with segmentation offload, ECN and packet information, through quinn-udp.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::future::{BoxFuture, FutureExt};
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;

use super::{
    fault::Fault,
    task::Runtime,
    unreachable::{Unreachable, next_icmp_error},
};

/// Room for the largest UDP payload, or for the datagrams that GRO merges into one read, in bytes.
const MAX_RECEIVE: usize = 64 * 1024;

/// Buffer sizes to request from the kernel, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferSizes {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

/// A socket buffer that is smaller than was asked for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    pub(crate) asked: usize,
    pub(crate) granted: usize,
    /// The setting of the kernel that limits it, if it has a name.
    pub(crate) sysctl: Option<&'static str>,
}

impl BufferSizes {
    /// What is missing of the receive and of the send buffer of a socket for which the kernel has
    /// reported these sizes.
    pub(crate) fn shortfalls(self, reported: Self) -> [Option<Shortfall>; 2] {
        let [receive, send] = LIMITS;
        let buffers = [
            (self.receive, reported.receive, receive),
            (self.send, reported.send, send),
        ];
        buffers.map(|(asked, reported, sysctl)| {
            let granted = reported / REPORTED_PER_GRANTED;
            (granted < asked).then_some(Shortfall {
                asked,
                granted,
                sysctl,
            })
        })
    }
}

/// Linux reports twice the size that it grants, because its own records take a part (socket(7)).
const REPORTED_PER_GRANTED: usize = if IS_LINUX { 2 } else { 1 };

/// What limits the receive and the send buffer.
const LIMITS: [Option<&str>; 2] = if IS_LINUX {
    [Some("net.core.rmem_max"), Some("net.core.wmem_max")]
} else if cfg!(unix) {
    [Some("kern.ipc.maxsockbuf"); 2]
} else {
    [None; 2]
};

const IS_LINUX: bool = cfg!(any(target_os = "android", target_os = "linux"));

/// A UDP socket for QUIC: it does not fragment datagrams, and reports to which local address they
/// were sent.
pub(crate) struct UdpSocket {
    io: tokio::net::UdpSocket,
    /// quinn-udp's state of the socket. It is replaced after quinn-udp has drawn a wrong conclusion
    /// from an error.
    state: RwLock<UdpSocketState>,
    /// The most datagrams that one call can send.
    max_segments: usize,
    /// Whether the operating system may fragment datagrams.
    may_fragment: bool,
    local_addr: SocketAddr,
    /// The buffer sizes that the kernel granted.
    buffers: BufferSizes,
    /// Whether it has failed and must be dropped by all its owners.
    retired: AtomicBool,
}

impl UdpSocket {
    /// Binds to `addr`; IPv6 sockets take IPv6 only.
    pub(crate) fn bind(
        _runtime: &Runtime,
        addr: SocketAddr,
        buffers: BufferSizes,
    ) -> io::Result<Self> {
        Self::open(addr, buffers, false)
    }

    /// Binds to the address of another socket, for which `SO_REUSEPORT` is set.
    #[cfg(target_os = "linux")]
    pub(super) fn bind_shared(
        _runtime: &Runtime,
        addr: SocketAddr,
        buffers: BufferSizes,
    ) -> io::Result<Self> {
        Self::open(addr, buffers, true)
    }

    fn open(addr: SocketAddr, buffers: BufferSizes, is_shared: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        #[cfg(target_os = "linux")]
        socket.set_reuse_port(is_shared)?;
        #[cfg(not(target_os = "linux"))]
        let _ = is_shared;
        if addr.is_ipv6() {
            // One address family for each socket: a wildcard IPv6 socket must not receive IPv4
            // packets.
            socket.set_only_v6(true)?;
        }
        // A smaller buffer is no reason to fail; the granted size is reported.
        let _ = socket.set_recv_buffer_size(buffers.receive);
        let _ = socket.set_send_buffer_size(buffers.send);
        socket.bind(&addr.into())?;
        let granted = BufferSizes {
            receive: socket.recv_buffer_size()?,
            send: socket.send_buffer_size()?,
        };
        let state = prepare(&socket)?;
        let socket = std::net::UdpSocket::from(socket);
        // Transport errors are enabled only on Linux, the only system on which we read them; unread
        // errors would fill the receive buffer. A failure is not fatal: without them, a dial to a
        // closed port ends with its timeout.
        #[cfg(target_os = "linux")]
        let _ = state.enable_transport_errors((&socket).into());
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self {
            local_addr: io.local_addr()?,
            io,
            max_segments: state.max_gso_segments(),
            may_fragment: state.may_fragment(),
            state: RwLock::new(state),
            buffers: granted,
            retired: AtomicBool::new(false),
        })
    }

    #[cfg(target_os = "linux")]
    pub(super) fn io(&self) -> &tokio::net::UdpSocket {
        &self.io
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The buffer sizes that the kernel granted, as it reports them.
    pub(crate) fn buffer_sizes(&self) -> BufferSizes {
        self.buffers
    }

    /// Whether datagrams may be fragmented on the path, so that path MTU discovery proves nothing.
    pub(crate) fn may_fragment(&self) -> bool {
        self.may_fragment
    }

    /// Marks the socket as failed: all its owners should drop it.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The most datagrams that one call can send, according to the kernel. Only a send shows
    /// whether the interface supports that.
    pub(crate) fn max_segments(&self) -> usize {
        self.max_segments
    }

    /// Receives one batch into `buffers`.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut ReceiveBuffers,
    ) -> Poll<io::Result<MoreToRead>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                buffers.receive(&self.io, &read(&self.state))?;
                if buffers.is_full() {
                    Ok(())
                } else {
                    // The batch is not full, so the socket is empty. `WouldBlock` tells tokio that
                    // without another system call.
                    Err(io::ErrorKind::WouldBlock.into())
                }
            });
            match received {
                Ok(()) => return Poll::Ready(Ok(MoreToRead::Maybe)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if buffers.received == 0 {
                        if self.is_shut_down() {
                            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                        }
                        continue;
                    }
                    let more = match self.io.poll_recv_ready(cx) {
                        Poll::Ready(_) => MoreToRead::Maybe,
                        Poll::Pending => MoreToRead::No,
                    };
                    return Poll::Ready(Ok(more));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whether the socket was shut down. Such a socket is always readable but returns nothing.
    fn is_shut_down(&self) -> bool {
        let ready = self.io.ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    /// Sends `contents` as one datagram, or as a batch with the segment size in `transmit`.
    pub(crate) fn try_send(&self, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(|ecn| match ecn {
                EcnCodepoint::Ect0 => quinn_udp::EcnCodepoint::Ect0,
                EcnCodepoint::Ect1 => quinn_udp::EcnCodepoint::Ect1,
                EcnCodepoint::Ce => quinn_udp::EcnCodepoint::Ce,
            }),
            contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let sent = self.io.try_io(Interest::WRITABLE, || {
            read(&self.state).try_send((&self.io).into(), &transmit)
        });
        if let Err(error) = &sent
            && Fault::of(error) == Fault::Refused
        {
            self.restore_offloads();
        }
        sent
    }

    /// Restores segmentation offload and ECN after an error. After an `EINVAL` or `EIO`, quinn-udp
    /// disables both for the rest of the socket's life. But such an error may concern a single
    /// datagram, whose source address is gone or whose route is a black hole, and other connections
    /// must not suffer from that.
    fn restore_offloads(&self) {
        // The same options succeeded when the socket was bound.
        if let Ok(state) = prepare(&SockRef::from(&self.io)) {
            *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// Resolves when the socket is writable again.
    pub(crate) fn writable(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The next send finds and handles the error.
            let _ = self.io.writable().await;
        })
    }

    /// Resolves when the error queue has an ICMP error about a datagram that was sent.
    pub(crate) fn icmp_error(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.io.ready(Interest::ERROR).await.is_err() {
                // The runtime is shutting down, and with it the driver that waits here.
                std::future::pending::<()>().await;
            }
        })
    }

    /// Takes the next ICMP error: a datagram that was not delivered, or `None` for one that is
    /// ignored.
    pub(crate) fn next_icmp_error(&self) -> io::Result<Option<Unreachable>> {
        self.io
            .try_io(Interest::ERROR, || next_icmp_error(&self.io))
    }
}

/// Sets the options that quinn-udp needs, and resets one that nobody needs.
fn prepare(socket: &Socket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    // quinn-udp enables arrival timestamps but has too little room for them in its control buffer.
    // For datagrams that the kernel has merged, this truncates the ECN mark, which comes last. A
    // failure is not fatal: connections go on without ECN.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = nix::sys::socket::setsockopt(
        socket,
        nix::sys::socket::sockopt::ReceiveTimestampns,
        &false,
    );
    Ok(state)
}

fn read(state: &RwLock<UdpSocketState>) -> RwLockReadGuard<'_, UdpSocketState> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}

/// Whether datagrams may be left in the socket after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoreToRead {
    /// There are none; the task is woken when one arrives.
    No,
    Maybe,
}

/// Memory for one receive batch, used for all sockets of a driver.
pub(crate) struct ReceiveBuffers {
    memory: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
    received: usize,
}

/// A part of a receive batch: consecutive datagrams of one sender.
pub(crate) struct ReceivedRun<'a> {
    pub(crate) contents: &'a [u8],
    /// The size of each datagram in bytes; the last one may be shorter.
    pub(crate) stride: usize,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<std::net::IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
}

/// The datagrams of a [`ReceivedRun`] that are not too large.
pub(crate) struct Fitting<'a> {
    pub(crate) contents: &'a [u8],
    /// The number of datagrams that are too large.
    pub(crate) too_large: u64,
}

impl<'a> ReceivedRun<'a> {
    /// The datagrams of at most this many bytes: all, none, or the last one.
    pub(crate) fn up_to(&self, bytes: usize) -> Fitting<'a> {
        let contents = self.contents;
        let stride = self.stride.clamp(1, contents.len().max(1));
        if stride <= bytes {
            return Fitting {
                contents,
                too_large: 0,
            };
        }
        let (large, last) = contents.split_at(contents.len() - contents.len() % stride);
        let too_large = (large.len() / stride) as u64;
        if last.len() <= bytes {
            Fitting {
                contents: last,
                too_large,
            }
        } else {
            Fitting {
                contents: &[],
                too_large: too_large + 1,
            }
        }
    }
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self {
            // The kernel zeroes the pages when they are first touched.
            memory: vec![0; MAX_RECEIVE * BATCH_SIZE],
            meta: [RecvMeta::default(); BATCH_SIZE],
            received: 0,
        }
    }

    fn receive(&mut self, io: &tokio::net::UdpSocket, state: &UdpSocketState) -> io::Result<()> {
        let mut chunks = self.memory.chunks_exact_mut(MAX_RECEIVE);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.received = 0;
        self.received = state.recv(io.into(), &mut slices, &mut self.meta)?;
        Ok(())
    }

    /// Whether the batch filled all buffers. It always does on systems that return one message for
    /// each call.
    fn is_full(&self) -> bool {
        self.received == BATCH_SIZE
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ReceivedRun<'_>> {
        self.memory
            .chunks_exact(MAX_RECEIVE)
            .zip(&self.meta)
            .take(self.received)
            .map(|(memory, meta)| ReceivedRun {
                contents: &memory[..meta.len.min(memory.len())],
                stride: meta.stride,
                remote_addr: meta.addr,
                local_ip: meta.dst_ip,
                ecn: meta.ecn.map(|ecn| match ecn {
                    quinn_udp::EcnCodepoint::Ect0 => EcnCodepoint::Ect0,
                    quinn_udp::EcnCodepoint::Ect1 => EcnCodepoint::Ect1,
                    quinn_udp::EcnCodepoint::Ce => EcnCodepoint::Ce,
                }),
            })
    }
}

#[cfg(test)]
mod receiving_tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_too_large_is_left_out() {
        // Length of a batch, size of its datagrams, and the limit; then the bytes that fit, and the
        // number of datagrams that do not.
        for (len, stride, bytes, left, too_large) in [
            (0, 0, 1200, 0, 0),
            (0, 1200, 1200, 0, 0),
            (1200, 1200, 1200, 1200, 0),
            (1200, 1500, 1200, 1200, 0),
            (3600, 1200, 1200, 3600, 0),
            (3700, 1200, 1200, 3700, 0),
            (1201, 1201, 1200, 0, 1),
            (2402, 1201, 1200, 0, 2),
            (3602, 1201, 1200, 1200, 2),
            (4000, 1500, 1200, 1000, 2),
            (4400, 1500, 1200, 0, 3),
        ] {
            let contents = vec![7; len];
            let received = ReceivedRun {
                contents: &contents,
                stride,
                remote_addr: (Ipv4Addr::LOCALHOST, 1).into(),
                local_ip: None,
                ecn: None,
            };
            let fitting = received.up_to(bytes);
            let found = (fitting.contents.len(), fitting.too_large);
            assert_eq!(found, (left, too_large), "{len} bytes in {stride}");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use std::{future::poll_fn, net::IpAddr};

    use super::*;

    const SEGMENT: usize = 1200;
    const SEGMENTS: usize = 8;

    #[tokio::test]
    async fn datagrams_that_the_kernel_has_merged_keep_their_ecn_mark() {
        for ip in ["127.0.0.1", "::1"] {
            let (sender, receiver) = (bind(ip), bind(ip));
            send(&sender, receiver.local_addr(), None).await.unwrap();
            assert_arrives(&receiver, ip).await;
        }
    }

    #[tokio::test]
    async fn kernel_sends_many_datagrams_in_one_call() {
        assert!(bind("127.0.0.1").max_segments() >= SEGMENTS);
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_datagram_takes_neither_segmentation_nor_ecn_from_others() {
        // To port 0, and from a documentation address, which no interface has.
        let gone = Some("2001:db8::1".parse().unwrap());
        for (ip, wrong, src_ip) in [("127.0.0.1", "127.0.0.1:0", None), ("::1", "[::1]:4", gone)] {
            let (sender, receiver) = (bind(ip), bind(ip));
            let error = send(&sender, wrong.parse().unwrap(), src_ip)
                .await
                .unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Refused, "{error}");
            // Without the restored state, quinn-udp would send neither batches nor ECN marks.
            assert_eq!(read(&sender.state).max_gso_segments(), sender.max_segments);
            send(&sender, receiver.local_addr(), None).await.unwrap();
            assert_arrives(&receiver, ip).await;
        }
    }

    fn bind(ip: &str) -> UdpSocket {
        let buffers = BufferSizes {
            receive: 256 * 1024,
            send: 256 * 1024,
        };
        let addr = (ip.parse::<IpAddr>().unwrap(), 0).into();
        UdpSocket::bind(&Runtime::current().unwrap(), addr, buffers).unwrap()
    }

    async fn send(
        sender: &UdpSocket,
        destination: SocketAddr,
        src_ip: Option<IpAddr>,
    ) -> io::Result<()> {
        sender.io.writable().await.unwrap();
        let transmit = Transmit {
            destination,
            ecn: Some(EcnCodepoint::Ect0),
            size: SEGMENT * SEGMENTS,
            segment_size: Some(SEGMENT),
            src_ip,
        };
        sender.try_send(&transmit, &[7; SEGMENT * SEGMENTS])
    }

    async fn assert_arrives(receiver: &UdpSocket, ip: &str) {
        let mut buffers = ReceiveBuffers::new();
        poll_fn(|cx| receiver.poll_receive(cx, &mut buffers))
            .await
            .unwrap();
        let received: Vec<_> = buffers.iter().collect();
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].stride, SEGMENT);
        assert_eq!(received[0].contents, [7; SEGMENT * SEGMENTS]);
        assert_eq!(received[0].local_ip, Some(ip.parse().unwrap()));
        assert_eq!(received[0].ecn, Some(EcnCodepoint::Ect0), "{ip}");
    }
}
