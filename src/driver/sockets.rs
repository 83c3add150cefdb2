//! Opens sockets, and replaces those that were given up or have failed.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    incoming::IncomingQueue,
    mailbox::{Mailbox, Undeliverable, read_socket},
    socket_group::SocketGroup,
};
use crate::{
    address,
    error::RebindError,
    net::{BufferSizes, UdpSocket, bind_steered, clock, sleep, task::Runtime},
    sync::{Mutex, lock},
};

/// How long a socket that was given up is still read: about as long as a datagram to it may be
/// under way.
const LINGER: Duration = Duration::from_secs(1);

/// The most sockets that are kept open only for that. Each is a descriptor, and [`Sockets::rebind`]
/// may be called often.
const MAX_LINGERING: usize = 16;

/// How long the shared socket for dials stays open after its last use.
///
/// So a node that connects to one peer after another dials from the same port, and opens no socket
/// for each dial. It is as long as the usual keep-alive interval: if a peer has missed the end of
/// its connection, its next keep-alive reaches us, and not another program at the same port.
const UNUSED_LINGER: Duration = Duration::from_secs(5);

/// Delay before a failed socket is bound again: by then all drivers have most likely dropped it.
const FIRST_ATTEMPT: Duration = Duration::from_millis(10);

/// Interval between attempts to bind an address again, and the shortest time between two reported
/// failures of a socket.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);

/// The most failed sockets of listeners that wait to be reported. There is at most one report a
/// second for each.
const MAX_FAILED: usize = 64;

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
    /// Sockets that were given up within the last [`LINGER`].
    lingering: Mutex<VecDeque<Arc<SocketGroup>>>,
    /// Sockets of removed listeners, which connections may still use.
    former_listeners: Mutex<Vec<Weak<SocketGroup>>>,
    /// Sockets of listeners that have failed, for the transport to report.
    failed: Mutex<VecDeque<(Weak<SocketGroup>, io::Error)>>,
}

/// Sockets that dial and do not listen, while they are used.
#[derive(Default)]
struct Dialling {
    /// The socket that all dials of a family share.
    v4: Place,
    v6: Place,
    /// Sockets of a single dial each.
    unshared: Vec<Place>,
}

/// A socket that stays open for a while after its last use.
struct Kept {
    socket: Arc<SocketGroup>,
    /// When it is closed; `None` while it is used.
    closes_at: Option<Instant>,
}

/// A socket, and those that it has replaced.
#[derive(Default)]
struct Place {
    current: Weak<SocketGroup>,
    /// The replaced sockets, as long as connections that cannot move yet use them. Each keeps the
    /// current one open as its successor.
    replaced: Vec<Weak<SocketGroup>>,
    /// When the current socket replaced a failed one.
    replaced_at: Option<Instant>,
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
            lingering: Mutex::default(),
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

    /// Notes that a driver has stopped.
    pub(super) fn driver_stopped(&self) {
        if self.have_stopped() {
            let runtime = lock(&self.runtime).take();
            drop(runtime);
            self.close_kept();
        }
    }

    /// Whether all drivers have stopped.
    pub(super) fn have_stopped(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.has_stopped())
    }

    fn runtime(&self) -> Option<Runtime> {
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
        let lingering = std::mem::take(&mut *lock(&self.lingering));
        let former = std::mem::take(&mut *lock(&self.former_listeners));
        drop((forgotten, lingering, former));
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
        former.retain(|former| former.strong_count() > 0);
        former.push(Arc::downgrade(socket));
    }

    /// Returns the socket at this address that has listened before, if it is still open, and lets
    /// it listen again.
    pub(super) fn listen_again(&self, addr: SocketAddr) -> Option<Arc<SocketGroup>> {
        let mut former = lock(&self.former_listeners);
        let sockets: Vec<_> = former.iter().filter_map(Weak::upgrade).collect();
        let socket = sockets
            .into_iter()
            .find(|socket| socket.local_addr() == addr)?;
        former.retain(|former| Weak::as_ptr(former) != Arc::as_ptr(&socket));
        drop(former);
        socket.listen_again();
        Some(socket)
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
        self.read(&socket, &ios)?;
        Ok(socket)
    }

    /// Returns the socket that dials of this family share, or a new one for a single dial if
    /// `unshared` is set. `open` opens it if necessary.
    pub(super) fn to_dial_from<E>(
        &self,
        remote: IpAddr,
        unshared: bool,
        open: impl FnOnce(SocketAddr) -> Result<Arc<SocketGroup>, E>,
    ) -> Result<Arc<SocketGroup>, E> {
        let wildcard = address::wildcard(remote);
        let addr = SocketAddr::new(wildcard, 0);
        let mut dialling = lock(&self.dialling);
        if unshared {
            let socket = open(addr)?;
            dialling.add_unshared(&socket);
            return Ok(socket);
        }
        let place = match wildcard {
            IpAddr::V4(_) => &mut dialling.v4,
            IpAddr::V6(_) => &mut dialling.v6,
        };
        let socket = match place.current.upgrade() {
            Some(socket) => socket,
            None => {
                let socket = open(addr)?;
                *place = Place::of(&socket);
                socket
            }
        };
        self.keep(&socket);
        Ok(socket)
    }

    /// Closes shared sockets that have been unused for [`UNUSED_LINGER`]. Returns when the next one
    /// is to be closed.
    ///
    /// Drivers call it at the end of each round, because sockets lose their users during rounds.
    pub(super) fn close_unused(&self) -> Option<Instant> {
        if !self.has_kept.load(Ordering::Relaxed) {
            return None;
        }
        let mut kept = lock(&self.kept);
        let mut now = None;
        let closed: Vec<_> = kept
            .extract_if(.., |kept| {
                if kept.is_used() {
                    kept.closes_at = None;
                    return false;
                }
                let now = *now.get_or_insert_with(clock::now);
                *kept.closes_at.get_or_insert(now + UNUSED_LINGER) <= now
            })
            .collect();
        self.note_kept(&kept);
        let next = kept.iter().filter_map(|kept| kept.closes_at).min();
        drop(kept);
        drop(closed);
        next
    }

    /// Closes all unused shared sockets.
    pub(super) fn close_kept(&self) {
        if self.has_kept.load(Ordering::Relaxed) {
            let mut kept = lock(&self.kept);
            let closed = std::mem::take(&mut *kept);
            self.note_kept(&kept);
            drop(kept);
            drop(closed);
        }
    }

    /// Replaces each socket that dials and does not listen, or none of them if an error occurs. A
    /// replacement that is not used yet is kept.
    pub(super) fn rebind(self: &Arc<Self>) -> Result<(), RebindError> {
        if self.have_stopped() {
            return Err(RebindError::DriverStopped);
        }
        let Some(runtime) = self.runtime() else {
            return Ok(());
        };
        let mut dialling = lock(&self.dialling);
        // Unused sockets need no replacement: the next dial opens a new one.
        self.close_idle();
        let mut moves = Vec::new();
        for place in dialling.places() {
            if place.is_used(self.is_kept(&place.current))
                && let Some(socket) = place.current.upgrade()
            {
                let successor = self.open_beside(&runtime, &socket)?;
                moves.push((place, socket, successor));
            }
        }
        for (place, socket, successor) in moves {
            self.give_up(&runtime, place, socket, &successor);
        }
        drop(dialling);
        self.tell_drivers();
        Ok(())
    }

    /// Handles a failed socket. If it only dials, another socket replaces it. In any case its own
    /// address is bound again, for the connections that cannot move.
    pub(super) fn replace_failed(self: &Arc<Self>, socket: &Arc<SocketGroup>, error: io::Error) {
        let Some(runtime) = self.runtime() else {
            return;
        };
        if !socket.begin_repair() {
            return;
        }
        tracing::warn!(%error, addr = %socket.local_addr(), "a socket has failed");
        self.report(socket, error);
        if let Err(error) = self.replace(&runtime, socket) {
            tracing::debug!(%error, "could not open another socket");
        }
        runtime.spawn(bind_again(
            Arc::downgrade(self),
            Arc::downgrade(socket),
            runtime.clone(),
        ));
    }

    /// Sockets of listeners that have failed since the last call. The transport is woken when there
    /// are any.
    pub(super) fn take_failed(&self) -> VecDeque<(Weak<SocketGroup>, io::Error)> {
        std::mem::take(&mut *lock(&self.failed))
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

    /// Opens a socket at another port of the same wildcard address.
    fn open_beside(
        &self,
        runtime: &Runtime,
        socket: &SocketGroup,
    ) -> Result<Arc<SocketGroup>, RebindError> {
        let addr = SocketAddr::new(socket.local_addr().ip(), 0);
        let context = runtime.enter();
        let ios = self.bind(runtime, addr).map_err(RebindError::Bind)?;
        drop(context);
        self.put_to_use(ios, false)
            .map_err(|_| RebindError::DriverStopped)
    }

    /// Replaces a failed socket if it only dials.
    fn replace(
        self: &Arc<Self>,
        runtime: &Runtime,
        socket: &Arc<SocketGroup>,
    ) -> Result<(), RebindError> {
        let mut dialling = lock(&self.dialling);
        let place = dialling
            .places()
            .find(|place| Weak::as_ptr(&place.current) == Arc::as_ptr(socket));
        let now = clock::now();
        let Some(place) = place.filter(|place| {
            // If the replacement fails again so soon, another one is unlikely to do better.
            (place.replaced_at).is_none_or(|replaced_at| now >= replaced_at + NEXT_ATTEMPT)
        }) else {
            return Ok(());
        };
        let successor = self.open_beside(runtime, socket)?;
        self.give_up(runtime, place, Arc::clone(socket), &successor);
        place.replaced_at = Some(now);
        drop(dialling);
        self.tell_drivers();
        Ok(())
    }

    /// Replaces this socket. The old one stays open for a while and owns the new one until someone
    /// uses it.
    fn give_up(
        self: &Arc<Self>,
        runtime: &Runtime,
        place: &mut Place,
        socket: Arc<SocketGroup>,
        successor: &Arc<SocketGroup>,
    ) {
        place.give_up(&socket, successor);
        self.keep_instead(&socket, successor);
        self.rebound.fetch_add(1, Ordering::Relaxed);
        self.let_linger(runtime, socket);
    }

    /// Keeps this socket open for a while after its last use, because a dial leaves from it.
    fn keep(&self, socket: &Arc<SocketGroup>) {
        let mut kept = lock(&self.kept);
        match kept.iter_mut().find(|kept| kept.is(socket)) {
            Some(kept) => kept.closes_at = None,
            None => kept.push(Kept {
                socket: Arc::clone(socket),
                closes_at: None,
            }),
        }
        self.note_kept(&kept);
        drop(kept);
        if self.have_stopped() {
            // No driver is left to close it later.
            self.close_kept();
        }
    }

    /// If this socket is kept, keeps its successor instead.
    fn keep_instead(&self, socket: &Arc<SocketGroup>, successor: &Arc<SocketGroup>) {
        let mut kept = lock(&self.kept);
        let Some(kept) = kept.iter_mut().find(|kept| kept.is(socket)) else {
            return;
        };
        kept.closes_at = None;
        kept.socket = Arc::clone(successor);
    }

    /// Closes the kept sockets without a user.
    fn close_idle(&self) {
        let mut kept = lock(&self.kept);
        let closed: Vec<_> = kept.extract_if(.., |kept| !kept.is_used()).collect();
        self.note_kept(&kept);
        drop(kept);
        drop(closed);
    }

    fn is_kept(&self, socket: &Weak<SocketGroup>) -> bool {
        let kept = lock(&self.kept);
        kept.iter()
            .any(|kept| Arc::as_ptr(&kept.socket) == Weak::as_ptr(socket))
    }

    fn note_kept(&self, kept: &[Kept]) {
        self.has_kept.store(!kept.is_empty(), Ordering::Relaxed);
    }

    /// Keeps a socket open for datagrams that are under way to it.
    fn let_linger(self: &Arc<Self>, runtime: &Runtime, socket: Arc<SocketGroup>) {
        let lingers = Lingers {
            sockets: Arc::downgrade(self),
            socket: Arc::downgrade(&socket),
        };
        let mut lingering = lock(&self.lingering);
        lingering.push_back(socket);
        let closed = if lingering.len() > MAX_LINGERING {
            lingering.pop_front()
        } else {
            None
        };
        drop(lingering);
        drop(closed);
        runtime.spawn(async move {
            sleep(LINGER).await;
            drop(lingers);
        });
    }

    fn tell_drivers(&self) {
        for mailbox in self.mailboxes.iter() {
            mailbox.note_given_up();
        }
    }

    /// Makes the transport report a failed socket, if a listener uses it.
    fn report(&self, socket: &Arc<SocketGroup>, error: io::Error) {
        if !crate::proto::SocketHandle::is_listening(socket) {
            return;
        }
        let mut failed = lock(&self.failed);
        if failed.len() < MAX_FAILED {
            failed.push_back((Arc::downgrade(socket), error));
        }
        drop(failed);
        self.incoming.wake();
    }

    /// Binds the address of a failed socket again.
    fn repair(&self, runtime: &Runtime, socket: &Arc<SocketGroup>) -> io::Result<()> {
        let ios = self.bind(runtime, socket.local_addr())?;
        socket.reopen(ios.clone());
        self.rebound.fetch_add(1, Ordering::Relaxed);
        // This fails only if all drivers have stopped, and then no connection needs what arrives.
        let _ = self.read(socket, &ios);
        Ok(())
    }
}

impl Dialling {
    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        [&mut self.v4, &mut self.v6]
            .into_iter()
            .chain(&mut self.unshared)
    }

    fn add_unshared(&mut self, socket: &Arc<SocketGroup>) {
        // Closed sockets are removed before the vector grows.
        if self.unshared.len() == self.unshared.capacity() {
            self.unshared
                .retain(|place| place.current.strong_count() > 0);
        }
        self.unshared.push(Place::of(socket));
    }
}

impl Kept {
    fn is(&self, socket: &Arc<SocketGroup>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }

    fn is_used(&self) -> bool {
        Arc::strong_count(&self.socket) > 1
    }
}

impl Place {
    fn of(socket: &Arc<SocketGroup>) -> Self {
        Self {
            current: Arc::downgrade(socket),
            replaced: Vec::new(),
            replaced_at: None,
        }
    }

    /// Whether anyone uses the current socket, apart from the sockets that it has replaced and from
    /// [`Sockets::kept`].
    fn is_used(&self, is_kept: bool) -> bool {
        let replaced = self.replaced.iter();
        let open = replaced.filter(|replaced| replaced.strong_count() > 0);
        self.current.strong_count() > open.count() + usize::from(is_kept)
    }

    fn give_up(&mut self, socket: &Arc<SocketGroup>, successor: &Arc<SocketGroup>) {
        self.replaced.retain(|replaced| replaced.strong_count() > 0);
        self.replaced.push(Arc::downgrade(socket));
        for replaced in self.replaced.iter().filter_map(Weak::upgrade) {
            replaced.give_up_for(successor);
        }
        self.current = Arc::downgrade(successor);
    }
}

/// Closes a socket that was kept open for a while. It does so on drop, so also if the runtime shuts
/// down earlier.
struct Lingers {
    sockets: Weak<Sockets>,
    socket: Weak<SocketGroup>,
}

impl Drop for Lingers {
    fn drop(&mut self) {
        let (Some(sockets), Some(socket)) = (self.sockets.upgrade(), self.socket.upgrade()) else {
            return;
        };
        lock(&sockets.lingering).retain(|lingering| !Arc::ptr_eq(lingering, &socket));
    }
}

/// Binds the address of a failed socket again as soon as possible, unless nobody uses the socket
/// any more.
async fn bind_again(sockets: Weak<Sockets>, socket: Weak<SocketGroup>, runtime: Runtime) {
    sleep(FIRST_ATTEMPT).await;
    loop {
        {
            let (Some(sockets), Some(socket)) = (sockets.upgrade(), socket.upgrade()) else {
                return;
            };
            match sockets.repair(&runtime, &socket) {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(%error, addr = %socket.local_addr(), "could not bind again");
                }
            }
        }
        sleep(NEXT_ATTEMPT).await;
    }
    // Errors until then are ignored: they concern the old socket, or they will occur again.
    sleep(NEXT_ATTEMPT).await;
    if let Some(socket) = socket.upgrade() {
        socket.end_repair();
    }
}
