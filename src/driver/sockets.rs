//! Opens sockets, and replaces those that were given up or have failed.

mod for_dials;
mod kept;
mod replacing;
mod small_buffers;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use self::{for_dials::Dialling, kept::Kept};
use super::{
    incoming::IncomingQueue,
    mailbox::{Mailbox, Undeliverable, read_socket},
    socket_group::SocketGroup,
};
use crate::{
    net::{BufferSizes, UdpSocket, bind_steered, task::Runtime},
    sync::{Mutex, lock},
};

/// The sockets of one transport: opens them, and records which are used for dialling.
pub(crate) struct Sockets {
    buffers: BufferSizes,
    mailboxes: Arc<[Arc<Mailbox>]>,
    incoming: Arc<IncomingQueue>,
    /// The drivers' runtime; dropped with the last driver, because a runtime handle keeps
    /// descriptors open.
    runtime: Mutex<Option<Runtime>>,
    /// The generation of the drivers. Nobody reads a socket of an earlier generation.
    generation: AtomicU64,
    open: Arc<AtomicUsize>,
    rebound: AtomicU64,
    next_reader: AtomicUsize,
    dialling: Mutex<Dialling>,
    /// The current shared sockets for dials: at most one for each address family.
    kept: Mutex<Vec<Kept>>,
    /// Whether `kept` has any; cheaper to check than the mutex.
    has_kept: AtomicBool,
    /// Sockets that were given up within the last second (`GIVEN_UP_TIME` in `replacing`).
    given_up: Mutex<VecDeque<Arc<SocketGroup>>>,
    /// Sockets of removed listeners that may still be open.
    former_listeners: Mutex<Vec<FormerListener>>,
    /// Sockets of listeners that have failed, for the transport to report.
    failed: Mutex<VecDeque<(Weak<SocketGroup>, io::Error)>>,
}

impl Sockets {
    pub(super) fn new(
        buffers: BufferSizes,
        mailboxes: Arc<[Arc<Mailbox>]>,
        incoming: Arc<IncomingQueue>,
    ) -> Self {
        Self {
            buffers,
            mailboxes,
            incoming,
            runtime: Mutex::default(),
            generation: AtomicU64::new(0),
            open: Arc::default(),
            rebound: AtomicU64::new(0),
            next_reader: AtomicUsize::new(0),
            dialling: Mutex::default(),
            kept: Mutex::default(),
            has_kept: AtomicBool::new(false),
            given_up: Mutex::default(),
            former_listeners: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Notes that the drivers have started.
    pub(super) fn run_on(&self, runtime: &Runtime) {
        *lock(&self.runtime) = Some(runtime.clone());
        // The drivers may already have stopped.
        self.driver_stopped();
    }

    /// Notes that a driver has stopped. The last one takes the runtime along, so that the drop of a
    /// transport waits for all of them.
    pub(super) fn driver_stopped(&self) {
        if self.have_stopped()
            && self
                .mailboxes
                .iter()
                .all(|mailbox| mailbox.flushes().are_over())
        {
            let runtime = lock(&self.runtime).take();
            drop(runtime);
            self.close_kept();
        }
    }

    /// Whether all drivers have stopped.
    pub(super) fn have_stopped(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.has_stopped())
    }

    /// The runtime of the drivers, until all of them have stopped.
    pub(super) fn runtime(&self) -> Option<Runtime> {
        lock(&self.runtime).clone()
    }

    /// Forgets all sockets of the earlier drivers if `should_forget` returns true, that is, if new
    /// drivers replace them.
    ///
    /// `should_forget` is called while no other thread opens a socket to dial from, because that
    /// would start drivers.
    pub(super) fn forget_all_if(&self, should_forget: impl FnOnce() -> bool) {
        let mut dialling = lock(&self.dialling);
        if !should_forget() {
            return;
        }
        let forgotten = std::mem::take(&mut *dialling);
        drop(dialling);
        let given_up = std::mem::take(&mut *lock(&self.given_up));
        let former = std::mem::take(&mut *lock(&self.former_listeners));
        drop((forgotten, given_up, former));
    }

    /// Begins a new generation: other drivers read the sockets opened from now on.
    pub(super) fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the current drivers may read it.
    pub(super) fn is_current(&self, socket: &SocketGroup) -> bool {
        socket.generation() == self.generation.load(Ordering::Relaxed)
    }

    /// Notes that a socket has stopped listening.
    pub(super) fn note_former_listener(&self, socket: &Arc<SocketGroup>) {
        if !self.is_current(socket) {
            return;
        }
        let mut former = lock(&self.former_listeners);
        former.retain(FormerListener::is_open);
        former.push(FormerListener {
            local_addr: socket.local_addr(),
            socket: Arc::downgrade(socket),
            ios: socket.ios().iter().map(Arc::downgrade).collect(),
        });
    }

    /// Lets the socket at this address listen again that has listened before, if it is still open.
    pub(super) fn listen_again(&self, addr: SocketAddr) -> Former {
        let mut all = lock(&self.former_listeners);
        let Some(wanted) = all.iter().position(|former| former.local_addr == addr) else {
            return Former::None;
        };
        let former = all.swap_remove(wanted);
        drop(all);
        if let Some(socket) = former.socket.upgrade() {
            socket.listen_again();
            return Former::Open(socket);
        }
        // Its last user is gone. Some drivers have closed it, or none, or all are about to.
        let ios = former.ios.iter().map(Weak::upgrade);
        let ios: Option<Vec<_>> = ios.map(|io| io.filter(|io| !io.is_retired())).collect();
        match ios.and_then(|ios| self.put_to_use(ios, true).ok()) {
            Some(socket) => Former::Open(socket),
            None => Former::Closing,
        }
    }

    /// Binds one UDP socket for each shard, or one for all.
    pub(super) fn bind(
        &self,
        runtime: &Runtime,
        addr: SocketAddr,
    ) -> io::Result<Vec<Arc<UdpSocket>>> {
        let ios = bind_steered(runtime, addr, self.buffers, self.mailboxes.len())?;
        Ok(ios.into_iter().map(Arc::new).collect())
    }

    /// Makes drivers read the UDP sockets.
    pub(super) fn put_to_use(
        &self,
        ios: Vec<Arc<UdpSocket>>,
        listening: bool,
    ) -> Result<Arc<SocketGroup>, Undeliverable> {
        let doorbells = self.mailboxes.iter().map(|reader| reader.doorbell());
        let socket = Arc::new(SocketGroup::new(
            ios.clone(),
            listening,
            self.generation.load(Ordering::Relaxed),
            doorbells.map(Arc::clone).collect(),
            Arc::clone(&self.open),
        ));
        small_buffers::report(self.buffers, socket.buffer_sizes(), socket.local_addr());
        self.read(&socket, &ios)?;
        Ok(socket)
    }

    /// The number of open UDP sockets.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The number of sockets that replaced another one, or were bound again.
    pub(super) fn rebound(&self) -> u64 {
        self.rebound.load(Ordering::Relaxed)
    }

    pub(super) fn reset_stats(&self) {
        self.rebound.store(0, Ordering::Relaxed);
    }

    fn read(&self, socket: &Arc<SocketGroup>, ios: &[Arc<UdpSocket>]) -> Result<(), Undeliverable> {
        let readers = self.mailboxes.len();
        let first_reader = if ios.len() == readers {
            0
        } else {
            self.next_reader.fetch_add(1, Ordering::Relaxed)
        };
        for (index, io) in ios.iter().enumerate() {
            let reader = first_reader.wrapping_add(index) % readers;
            read_socket(&self.mailboxes, reader, socket, io)?;
        }
        Ok(())
    }
}

/// What is left of a listener that was removed.
pub(super) enum Former {
    None,
    /// It listens again.
    Open(Arc<SocketGroup>),
    /// Drivers are closing it.
    Closing,
}

/// The socket of a removed listener.
struct FormerListener {
    local_addr: SocketAddr,
    /// While connections use it.
    socket: Weak<SocketGroup>,
    /// The UDP sockets are closed in the next rounds of their drivers.
    ios: Vec<Weak<UdpSocket>>,
}

impl FormerListener {
    fn is_open(&self) -> bool {
        self.socket.strong_count() > 0 || self.ios.iter().any(|io| io.strong_count() > 0)
    }
}

#[cfg(test)]
mod fixture {
    //! Sockets of a transport whose only driver does not run.

    use super::*;

    pub(super) fn sockets() -> Arc<Sockets> {
        let buffers = BufferSizes {
            receive: 64 * 1024,
            send: 64 * 1024,
        };
        let incoming = Arc::new(IncomingQueue::new(1));
        Arc::new(Sockets::new(buffers, Arc::new([Arc::default()]), incoming))
    }

    pub(super) fn open(sockets: &Sockets, listening: bool) -> Arc<SocketGroup> {
        let runtime = Runtime::current().expect("a test with tokio");
        let ios = sockets.bind(&runtime, ([127, 0, 0, 1], 0).into());
        let socket = sockets.put_to_use(ios.expect("a port is free"), listening);
        socket.expect("the driver has not stopped")
    }
}
