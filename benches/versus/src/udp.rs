//! A blocking UDP socket with segmentation offload, for the stacks and processes without a runtime.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::Result;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;

pub struct Udp {
    io: UdpSocket,
    state: UdpSocketState,
    memory: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl Udp {
    /// Binds to a free port.
    pub fn bind(ip: Ipv4Addr) -> Result<Self> {
        let io = UdpSocket::bind((ip, 0))?;
        // The kernel may grant less.
        let _ = SockRef::from(&io).set_recv_buffer_size(BUFFER);
        let _ = SockRef::from(&io).set_send_buffer_size(BUFFER);
        Self::new(io)
    }

    fn new(io: UdpSocket) -> Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&io).into())?,
            io,
            memory: vec![0; LARGEST * BATCH_SIZE],
            meta: [RecvMeta::default(); BATCH_SIZE],
        })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// The size that the kernel has granted, as the kernel reports it.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        SockRef::from(&self.io).recv_buffer_size()
    }

    /// Sends, and blocks until the kernel accepts the datagrams.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        loop {
            match self.state.try_send((&self.io).into(), transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, None)?;
                }
                result => return result,
            }
        }
    }

    /// Receives one batch. Blocks for at most `wait`, or without limit if it is `None`. Returns
    /// nothing if nothing has arrived.
    pub fn receive(
        &mut self,
        wait: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (&RecvMeta, &mut [u8])>> {
        let mut received = self.receive_now()?;
        if received == 0 && wait != Some(Duration::ZERO) {
            self.wait(PollFlags::POLLIN, wait)?;
            received = self.receive_now()?;
        }
        let messages = self.memory.chunks_exact_mut(LARGEST).zip(&self.meta);
        Ok(messages
            .take(received)
            .map(|(memory, meta)| (meta, &mut memory[..meta.len])))
    }

    fn receive_now(&mut self) -> io::Result<usize> {
        let mut chunks = self.memory.chunks_exact_mut(LARGEST);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        match self
            .state
            .recv((&self.io).into(), &mut slices, &mut self.meta)
        {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    fn wait(&self, events: PollFlags, time: Option<Duration>) -> io::Result<()> {
        let mut files = [PollFd::new(self.io.as_fd(), events)];
        ppoll(&mut files, time.map(TimeSpec::from_duration), None)?;
        Ok(())
    }
}

/// The most bytes that one receive returns, with GRO.
const LARGEST: usize = 64 * 1024;

/// Our transport asks for this size by default.
const BUFFER: usize = 8 * 1024 * 1024;
