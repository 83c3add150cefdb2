//! Sockets of this process, behind the back of those who use them.

use std::{fs, net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    net::{Shutdown, getsockname, shutdown},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// Shuts down the sockets that are bound to a port, as a system does that suspends a program: nothing comes in any more,
/// sending fails, and the port stays taken until the socket is closed. At most so many of them.
///
/// Returns how many they were.
pub(crate) fn shut_down(port: u16, most: usize) -> usize {
    let mut sockets = bound_to(port);
    sockets.truncate(most);
    for socket in &sockets {
        // It says that there is no connection, and does it.
        let _ = shutdown(socket, Shutdown::Both);
    }
    sockets.len()
}

/// Other descriptors of the sockets that are bound to a port.
pub(crate) fn bound_to(port: u16) -> Vec<OwnedFd> {
    let myself = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|number| {
            pidfd_getfd(&myself, number.parse().unwrap(), PidfdGetfdFlags::empty()).ok()
        })
        .filter(|file| {
            let name = getsockname(file).ok();
            name.and_then(|name| SocketAddr::try_from(name).ok())
                .is_some_and(|addr| addr.port() == port)
        })
        .collect()
}
