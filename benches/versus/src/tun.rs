//! A TUN device: an interface whose IP packets this process sends and receives.

use std::{io, os::fd::AsFd, time::Duration};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use tun_rs::{DeviceBuilder, SyncDevice};

pub struct Tun(SyncDevice);

impl Tun {
    /// Attaches to the device of this name in our network namespace.
    pub fn attach(name: &str) -> Result<Self> {
        let device = DeviceBuilder::new()
            .name(name)
            .inherit_enable_state()
            .build_sync()
            .with_context(|| format!("no TUN device {name}"))?;
        device.set_nonblocking(true)?;
        Ok(Self(device))
    }

    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(drop)
    }

    /// Takes the next packet if there is one.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.0.recv(buffer) {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Blocks until there is a packet, but for at most `time` if it is given.
    pub fn wait(&self, time: Option<Duration>) -> io::Result<()> {
        let mut files = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut files, time.map(TimeSpec::from_duration), None)?;
        Ok(())
    }
}
