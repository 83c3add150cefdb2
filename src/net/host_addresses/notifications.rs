//! Notifications that an address or an interface of this host has changed. They do not tell which.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::{io, net, os::fd::AsRawFd};

    use nix::{
        libc,
        sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
    };
    use tokio::net::UdpSocket;

    /// Changes of addresses, and of interfaces, because IPv4 addresses come and go with the state
    /// of their interface without a notification of their own.
    const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

    /// The most messages read at once, so that a flood of them does not occupy the
    /// thread. The rest causes another notification.
    const MESSAGES_AT_ONCE: usize = 256;

    /// A netlink socket (rtnetlink(7)) whose messages are read but not parsed. It has the type of a
    /// UDP socket only to use tokio's interface for reading.
    pub(crate) struct Notifications(UdpSocket);

    impl Notifications {
        pub(crate) fn subscribe() -> io::Result<Self> {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS as u32))?;
            UdpSocket::from_std(net::UdpSocket::from(socket)).map(Self)
        }

        /// Resolves when something has changed.
        pub(crate) async fn next(&mut self) -> io::Result<()> {
            let mut messages = 0;
            while messages == 0 {
                self.0.readable().await?;
                while messages < MESSAGES_AT_ONCE {
                    // The message is truncated, because its contents are not needed.
                    match self.0.try_recv(&mut [0]) {
                        Ok(_) => messages += 1,
                        // The kernel dropped messages because its queue was full.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => messages += 1,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(())
        }
    }
}

#[cfg(any(target_os = "macos", target_os = "ios", windows))]
mod system {
    use std::io;

    use futures::StreamExt;
    use if_watch::tokio::IfWatcher;

    /// The addresses that `if-watch` reports are ignored.
    pub(crate) struct Notifications(IfWatcher);

    impl Notifications {
        pub(crate) fn subscribe() -> io::Result<Self> {
            IfWatcher::new().map(Self)
        }

        pub(crate) async fn next(&mut self) -> io::Result<()> {
            match self.0.next().await {
                Some(change) => change.map(drop),
                None => Err(io::Error::other("the interface watcher has ended")),
            }
        }
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    windows
)))]
mod system {
    use std::{convert::Infallible, io};

    /// This system has no notifications.
    pub(crate) struct Notifications(Infallible);

    impl Notifications {
        pub(crate) fn subscribe() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) async fn next(&mut self) -> io::Result<()> {
            match self.0 {}
        }
    }
}

pub(super) use self::system::Notifications;
