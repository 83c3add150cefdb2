//! A group of UDP sockets at one address, and its users.

use std::{
    mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::doorbell::Doorbell;
#[cfg(test)]
use crate::net::task::Runtime;
use crate::{
    net::{BufferSizes, UdpSocket},
    proto,
    sync::{Mutex, lock},
};

/// The UDP socket at one address, or one UDP socket for each shard, in use by a listener, dials or
/// connections.
///
/// Drivers hold the group weakly, so its last user closes it. Hence connections keep the socket of
/// a removed listener open, and no unused socket stays open.
pub(crate) struct SocketGroup {
    local_addr: SocketAddr,
    /// The generation of drivers that may read it.
    generation: u64,
    /// The buffer sizes that the kernel granted.
    buffers: BufferSizes,
    /// One for each shard, or one for all. Empty between a failure and the time when the address is
    /// bound again.
    ios: Mutex<Vec<Arc<UdpSocket>>>,
    /// Whether a task is already binding the address again.
    in_repair: AtomicBool,
    /// Whether a listener accepts connections here.
    listening: AtomicBool,
    /// Whether there is a successor; cheaper to check than the mutex.
    given_up: AtomicBool,
    successor: Mutex<Option<Arc<Self>>>,
    drivers: Vec<Arc<Doorbell>>,
    open_sockets: Arc<AtomicUsize>,
}

impl SocketGroup {
    /// All of `ios` are bound to the same address, and there is at least one.
    ///
    /// `drivers` belong to the drivers that may read the sockets. They are rung when the last user
    /// is gone.
    pub(super) fn new(
        ios: Vec<Arc<UdpSocket>>,
        listening: bool,
        generation: u64,
        drivers: Vec<Arc<Doorbell>>,
        open_sockets: Arc<AtomicUsize>,
    ) -> Self {
        open_sockets.fetch_add(ios.len(), Ordering::Relaxed);
        Self {
            generation,
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

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn buffer_sizes(&self) -> BufferSizes {
        self.buffers
    }

    /// The UDP socket from which a shard sends; `None` between a failure and the time when the
    /// address is bound again.
    pub(super) fn io_of(&self, shard: usize) -> Option<Arc<UdpSocket>> {
        let ios = lock(&self.ios);
        ios.get(shard % ios.len().max(1)).map(Arc::clone)
    }

    /// The UDP sockets, for all shards.
    pub(super) fn ios(&self) -> Vec<Arc<UdpSocket>> {
        lock(&self.ios).clone()
    }

    /// Accepts connections again.
    pub(super) fn listen_again(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// Stops accepting connections. Existing connections stay.
    pub(crate) fn stop_listening(&self) {
        self.listening.store(false, Ordering::Relaxed);
    }

    /// Sets a successor. This socket stays open for connections that cannot move yet.
    pub(super) fn give_up_for(&self, successor: &Arc<Self>) {
        let before = lock(&self.successor).replace(Arc::clone(successor));
        self.given_up.store(true, Ordering::Release);
        // Dropping the last reference to it rings the drivers, so it happens after unlocking.
        drop(before);
    }

    /// Closes the failed UDP sockets. Returns `false` if a repair is already in progress.
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

    /// Stores the new UDP sockets of the address.
    pub(super) fn reopen(&self, ios: Vec<Arc<UdpSocket>>) {
        self.open_sockets.fetch_add(ios.len(), Ordering::Relaxed);
        *lock(&self.ios) = ios;
    }

    /// Ends the repair: a later failure starts another one.
    pub(super) fn end_repair(&self) {
        self.in_repair.store(false, Ordering::Relaxed);
    }

    /// A socket at any port, which no driver reads.
    #[cfg(test)]
    pub(super) fn unread() -> Arc<Self> {
        let buffers = BufferSizes {
            receive: 64 * 1024,
            send: 64 * 1024,
        };
        let runtime = Runtime::current().expect("a test with tokio");
        let io = UdpSocket::bind(&runtime, ([0, 0, 0, 0], 0).into(), buffers);
        let ios = vec![Arc::new(io.expect("a port is free"))];
        Arc::new(Self::new(ios, false, 0, Vec::new(), Arc::default()))
    }

    fn ring(&self) {
        for driver in &self.drivers {
            driver.ring();
        }
    }
}

impl Drop for SocketGroup {
    fn drop(&mut self) {
        let ios = lock(&self.ios).len();
        self.open_sockets.fetch_sub(ios, Ordering::Relaxed);
        self.ring();
    }
}

impl proto::SocketHandle for Arc<SocketGroup> {
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
