//! UDP sockets with segmentation offload, ECN and packet information, through quinn-udp.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use super::{
    task::Runtime,
    unreachable::{Unreachable, next_unreachable},
};

/// Largest UDP payload with everything that GRO may put behind it, in bytes.
const MAX_RECEIVE: usize = 64 * 1024;

/// Buffer sizes to ask the kernel for, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferSizes {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

/// A UDP socket that QUIC can use: never fragmenting, and telling where datagrams were sent to.
pub(crate) struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    local_addr: SocketAddr,
    /// What the kernel granted.
    buffers: BufferSizes,
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
            // One family for each socket, so that an address means what it says.
            socket.set_only_v6(true)?;
        }
        // A smaller buffer than asked for is no reason to fail; what was granted is reported.
        let _ = socket.set_recv_buffer_size(buffers.receive);
        let _ = socket.set_send_buffer_size(buffers.send);
        socket.bind(&addr.into())?;
        let granted = BufferSizes {
            receive: socket.recv_buffer_size()?,
            send: socket.send_buffer_size()?,
        };
        let socket = std::net::UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        // Only where the errors are read, or they would fill the receive buffer. Not fatal: without them a
        // dial to a closed port ends with its timeout.
        #[cfg(target_os = "linux")]
        let _ = state.enable_transport_errors((&socket).into());
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self {
            local_addr: io.local_addr()?,
            io,
            state,
            buffers: granted,
        })
    }

    #[cfg(target_os = "linux")]
    pub(super) fn io(&self) -> &tokio::net::UdpSocket {
        &self.io
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the kernel granted, as it reports it.
    pub(crate) fn buffer_sizes(&self) -> BufferSizes {
        self.buffers
    }

    /// Whether datagrams may be fragmented on their way, so that a large one proves nothing.
    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Receives one batch; `buffers` tells what came.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut ReceiveBuffers,
    ) -> Poll<io::Result<Backlog>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                buffers.receive(&self.io, &self.state)?;
                if buffers.is_full() {
                    Ok(())
                } else {
                    // There was no more, and tokio need not ask the kernel again to know it.
                    Err(io::ErrorKind::WouldBlock.into())
                }
            });
            match received {
                Ok(()) => return Poll::Ready(Ok(Backlog::More)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if buffers.received == 0 {
                        continue;
                    }
                    let backlog = match self.io.poll_recv_ready(cx) {
                        Poll::Ready(_) => Backlog::More,
                        Poll::Pending => Backlog::None,
                    };
                    return Poll::Ready(Ok(backlog));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends a datagram, or as many as `transmit` says are in `contents`.
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
        self.io.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.io).into(), &transmit)
        })
    }

    /// Resolves when the socket takes datagrams again.
    pub(crate) fn writable(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // An error is found, and handled, by the next send.
            let _ = self.io.writable().await;
        })
    }

    /// Resolves when ICMP has reported something about a datagram that was sent.
    pub(crate) fn reported(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.io.ready(Interest::ERROR).await.is_err() {
                // The runtime is going away; so is the driver that waits here.
                std::future::pending::<()>().await;
            }
        })
    }

    /// The next datagram that nobody was there to receive, as ICMP says.
    pub(crate) fn next_unreachable(&self) -> Option<Unreachable> {
        self.io
            .try_io(Interest::ERROR, || next_unreachable(&self.io))
            .ok()
    }
}

/// What a batch has left in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// Nothing; the task is woken when something comes.
    None,
    /// Perhaps something.
    More,
}

/// Memory for one receive batch, shared by all sockets of a driver.
pub(crate) struct ReceiveBuffers {
    memory: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
    received: usize,
}

/// One read of a receive batch: datagrams of the same sender, end to end.
pub(crate) struct Received<'a> {
    pub(crate) contents: &'a [u8],
    /// Size of each datagram; the last one may be shorter.
    pub(crate) stride: usize,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_ip: Option<std::net::IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self {
            // Zeroed by the kernel page by page, as far as it is ever touched.
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

    /// Whether there was memory for no more. Where the system gives one message at a time it always is.
    fn is_full(&self) -> bool {
        self.received == BATCH_SIZE
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.memory
            .chunks_exact(MAX_RECEIVE)
            .zip(&self.meta)
            .take(self.received)
            .map(|(memory, meta)| Received {
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
