//! Accesses sockets of this process without their owners.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
};

use rustix::{
    net::{Shutdown, getsockname, shutdown},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// Shuts down at most `most` of the sockets bound to a port, like a system that suspends a program:
/// nothing is received any more, sending fails, and the port stays in use until the socket is
/// closed.
///
/// Returns how many were shut down.
pub(crate) fn shut_down(port: u16, most: usize) -> usize {
    let mut sockets = bound_to(port);
    sockets.truncate(most);
    for socket in &sockets {
        // The call reports that there is no connection, but takes effect.
        let _ = shutdown(socket, Shutdown::Both);
    }
    sockets.len()
}

/// Duplicate descriptors of the sockets bound to a port, one for each socket.
pub(crate) fn bound_to(port: u16) -> Vec<File> {
    let myself = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let mut sockets = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let number = entry.unwrap().file_name().into_string().unwrap();
        let number = number.parse().unwrap();
        let Ok(socket) = pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let name = getsockname(&socket).ok();
        let addr = name.and_then(|name| SocketAddr::try_from(name).ok());
        if addr.is_some_and(|addr| addr.port() == port) {
            // Descriptors opened here, or by parallel tests, may appear as well.
            let socket = File::from(socket);
            sockets.insert(socket.metadata().unwrap().ino(), socket);
        }
    }
    sockets.into_values().collect()
}
