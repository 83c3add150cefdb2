//! A socket and those who use it.

use std::{
    mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::doorbell::Doorbell;
use crate::{
    net::{BufferSizes, UdpSocket},
    proto,
    sync::{Mutex, lock},
};

/// A UDP socket in use: by a listener, a dial or a connection. Or one for each shard, at the same address.
///
/// Drivers read them, and hold them weakly: with the last user they are closed. So a listener can
/// go without its connections, and nothing stays open for nobody.
pub(crate) struct Socket {
    local_addr: SocketAddr,
    /// Which drivers, one after the other, may read it.
    epoch: u64,
    /// What the kernel granted.
    buffers: BufferSizes,
    /// One for each shard, or one for all. None after they have failed, until the address is bound again.
    ios: Mutex<Vec<Arc<UdpSocket>>>,
    /// Whether somebody sees to it that the address is bound again.
    in_repair: AtomicBool,
    /// Whether a listener accepts connections here.
    listening: AtomicBool,
    /// Whether there is a successor: a look at this is cheaper.
    given_up: AtomicBool,
    successor: Mutex<Option<Arc<Self>>>,
    drivers: Vec<Arc<Doorbell>>,
    open_sockets: Arc<AtomicUsize>,
}

impl Socket {
    /// All of `ios` are bound to the same address, and there is one at least.
    ///
    /// `drivers` are those that may read the sockets, and have to be told when nobody uses them any more.
    pub(super) fn new(
        ios: Vec<Arc<UdpSocket>>,
        listening: bool,
        epoch: u64,
        drivers: Vec<Arc<Doorbell>>,
        open_sockets: Arc<AtomicUsize>,
    ) -> Self {
        open_sockets.fetch_add(ios.len(), Ordering::Relaxed);
        Self {
            epoch,
            local_addr: ios[0].local_addr(),
            buffers: ios[0].buffer_sizes(),
            ios: Mutex::new(ios),
            in_repair: AtomicBool::new(false),
            listening: AtomicBool::new(listening),
            given_up: AtomicBool::new(false),
            successor: Mutex::new(None),
            drivers,
            open_sockets,
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn buffer_sizes(&self) -> BufferSizes {
        self.buffers
    }

    /// The one that a shard sends from; `None` while there is none.
    pub(super) fn io_of(&self, shard: usize) -> Option<Arc<UdpSocket>> {
        let ios = lock(&self.ios);
        ios.get(shard % ios.len().max(1)).map(Arc::clone)
    }

    /// Connections are accepted here again.
    pub(super) fn listen_again(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// Connections are not accepted here any more; those there are stay.
    pub(crate) fn stop_listening(&self) {
        self.listening.store(false, Ordering::Relaxed);
    }

    /// Another socket takes the place of this one, which stays open for those who cannot follow.
    pub(super) fn give_up_for(&self, successor: &Arc<Self>) {
        let before = lock(&self.successor).replace(Arc::clone(successor));
        self.given_up.store(true, Ordering::Release);
        // It rings for the drivers when nobody else uses it.
        drop(before);
    }

    /// Closes what has failed. `false` if somebody sees to it already.
    pub(super) fn begin_repair(&self) -> bool {
        if self.in_repair.swap(true, Ordering::Relaxed) {
            return false;
        }
        let failed = mem::take(&mut *lock(&self.ios));
        self.open_sockets.fetch_sub(failed.len(), Ordering::Relaxed);
        for io in &failed {
            io.retire();
        }
        self.ring();
        true
    }

    /// The address is bound again.
    pub(super) fn reopen(&self, ios: Vec<Arc<UdpSocket>>) {
        self.open_sockets.fetch_add(ios.len(), Ordering::Relaxed);
        *lock(&self.ios) = ios;
    }

    /// From now on another failure is a new one.
    pub(super) fn end_repair(&self) {
        self.in_repair.store(false, Ordering::Relaxed);
    }

    fn ring(&self) {
        for driver in &self.drivers {
            driver.ring();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ios = lock(&self.ios).len();
        self.open_sockets.fetch_sub(ios, Ordering::Relaxed);
        self.ring();
    }
}

impl proto::Socket for Arc<Socket> {
    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    fn successor(&self) -> Option<Self> {
        if !self.given_up.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.successor).clone()
    }
}
