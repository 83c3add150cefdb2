//! Sockets of this process, behind the back of those who use them.

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

/// Other descriptors of the sockets that are bound to a port, one for each.
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
            // Descriptors that are made here, and by tests beside this one, may be seen as well.
            let socket = File::from(socket);
            sockets.insert(socket.metadata().unwrap().ino(), socket);
        }
    }
    sockets.into_values().collect()
}
