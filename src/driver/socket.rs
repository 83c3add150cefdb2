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

/// A UDP socket in use: by a listener, a dial or a connection. Or one for each shard, at the same address.
///
/// Drivers read them, and hold them weakly: with the last user they are closed. So a listener can
/// go without its connections, and nothing stays open for nobody.
pub(crate) struct Socket {
    /// One for each shard, or one for all.
    ios: Vec<Arc<UdpSocket>>,
    /// Whether a listener accepts connections here.
    listening: AtomicBool,
    drivers: Vec<Arc<Doorbell>>,
    open_sockets: Arc<AtomicUsize>,
}

impl Socket {
    /// `drivers` are those that may read the sockets, and have to be told when nobody uses them any more.
    pub(super) fn new(
        ios: Vec<UdpSocket>,
        listening: bool,
        drivers: Vec<Arc<Doorbell>>,
        open_sockets: Arc<AtomicUsize>,
    ) -> Self {
        open_sockets.fetch_add(ios.len(), Ordering::Relaxed);
        Self {
            ios: ios.into_iter().map(Arc::new).collect(),
            listening: AtomicBool::new(listening),
            drivers,
            open_sockets,
        }
    }

    /// The one that speaks for all, which have address and sizes in common.
    pub(crate) fn io(&self) -> &Arc<UdpSocket> {
        self.io_of(0)
    }

    /// The one that a shard sends from.
    pub(super) fn io_of(&self, shard: usize) -> &Arc<UdpSocket> {
        &self.ios[shard % self.ios.len()]
    }

    pub(super) fn ios(&self) -> &[Arc<UdpSocket>] {
        &self.ios
    }

    /// Connections are not accepted here any more; those there are stay.
    pub(crate) fn stop_listening(&self) {
        self.listening.store(false, Ordering::Relaxed);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.open_sockets
            .fetch_sub(self.ios.len(), Ordering::Relaxed);
        for driver in &self.drivers {
            driver.ring();
        }
    }
}

impl proto::Socket for Arc<Socket> {
    fn local_addr(&self) -> SocketAddr {
        self.io().local_addr()
    }

    fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }
}
