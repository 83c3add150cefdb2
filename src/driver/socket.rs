//! A socket and those who use it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::doorbell::Doorbell;
use crate::{net::UdpSocket, proto};

/// A UDP socket in use: by a listener, a dial or a connection.
///
/// One driver reads it, and holds it weakly: with the last user the socket is closed. So a listener can
/// go without its connections, and nothing stays open for nobody.
pub(crate) struct Socket {
    io: Arc<UdpSocket>,
    /// Whether a listener accepts connections here.
    listening: AtomicBool,
    reader: Arc<Doorbell>,
    open_sockets: Arc<AtomicUsize>,
}

impl Socket {
    /// `reader` is the driver that will read the socket, and has to be told when nobody uses it any more.
    pub(super) fn new(
        io: UdpSocket,
        listening: bool,
        reader: Arc<Doorbell>,
        open_sockets: Arc<AtomicUsize>,
    ) -> Self {
        open_sockets.fetch_add(1, Ordering::Relaxed);
        Self {
            io: Arc::new(io),
            listening: AtomicBool::new(listening),
            reader,
            open_sockets,
        }
    }

    pub(crate) fn io(&self) -> &Arc<UdpSocket> {
        &self.io
    }

    /// Connections are not accepted here any more; those there are stay.
    pub(crate) fn stop_listening(&self) {
        self.listening.store(false, Ordering::Relaxed);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.open_sockets.fetch_sub(1, Ordering::Relaxed);
        self.reader.ring();
    }
}

impl proto::Socket for Arc<Socket> {
    fn local_addr(&self) -> SocketAddr {
        self.io.local_addr()
    }

    fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }
}
