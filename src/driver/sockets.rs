//! Opening sockets, and having others take the place of those that were given up or have failed.

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
    socket::Socket,
};
use crate::{
    address,
    error::RebindError,
    net::{BufferSizes, UdpSocket, bind_steered, clock, sleep, task::Runtime},
    sync::{Mutex, lock},
};

/// How long a socket is read that was given up: about what a datagram to it may still be under way.
const LINGER: Duration = Duration::from_secs(1);

/// Most sockets that are kept open only for that. Each is a descriptor, and [`Sockets::rebind`] may be called often.
const MAX_LINGERING: usize = 16;

/// How long the socket that dials share stays open when nobody uses it any more.
///
/// A node that connects to one peer after the other dials from the same port then, and does not
/// open a socket for each dial. It is as long as the usual pause between keep-alives: the next one
/// of a peer that has missed the end of its connection comes to us, and not to another program at
/// the same port.
const UNUSED_LINGER: Duration = Duration::from_secs(5);

/// How long it takes, most likely, until all drivers have let go of a socket that has failed.
const FIRST_ATTEMPT: Duration = Duration::from_millis(10);

/// How often it is tried to bind an address again, and how often a socket may fail.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);

/// Most failed sockets of listeners that wait to be reported; there is one report a second for each at most.
const MAX_FAILED: usize = 64;

/// The sockets of one transport: where they come from, and which are used for dialling.
pub(crate) struct Sockets {
    buffers: BufferSizes,
    mailboxes: Arc<[Arc<Mailbox>]>,
    incoming: Arc<IncomingQueue>,
    /// Where the drivers run, for as long as any of them does: to know it keeps its descriptors open.
    runtime: Mutex<Option<Runtime>>,
    /// How often drivers have made way for others. Nobody reads a socket of an earlier epoch.
    epoch: AtomicU64,
    open: Arc<AtomicUsize>,
    rebound: AtomicU64,
    next_reader: AtomicUsize,
    dialling: Mutex<Dialling>,
    /// The current sockets that dials share: one for each family at most.
    kept: Mutex<Vec<Kept>>,
    /// Whether there are any: a look at this is cheaper.
    has_kept: AtomicBool,
    /// Sockets that were given up a moment ago.
    lingering: Mutex<VecDeque<Arc<Socket>>>,
    /// Sockets that have listened, and that connections may still use.
    former_listeners: Mutex<Vec<Weak<Socket>>>,
    /// Sockets of listeners that have failed, for the transport to report.
    failed: Mutex<VecDeque<(Weak<Socket>, io::Error)>>,
}

/// Sockets that dial and do not listen, for as long as they are used.
#[derive(Default)]
struct Dialling {
    /// The one that all dials share, for each family.
    v4: Place,
    v6: Place,
    /// Those of a single dial.
    own: Vec<Place>,
}

/// A socket that stays open for a while when nobody uses it.
struct Kept {
    socket: Arc<Socket>,
    /// When it is closed; `None` while it is used.
    closes_at: Option<Instant>,
}

/// A socket, and those that it has taken the place of.
#[derive(Default)]
struct Place {
    current: Weak<Socket>,
    /// For as long as there are connections that cannot leave them. They keep the current one.
    former: Vec<Weak<Socket>>,
    /// When the current one has taken the place of one that had failed.
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
            epoch: AtomicU64::new(0),
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

    /// The drivers have started.
    pub(super) fn run_on(&self, runtime: &Runtime) {
        *lock(&self.runtime) = Some(runtime.clone());
        // They may have stopped already.
        self.driver_stopped();
    }

    /// A driver has stopped.
    pub(super) fn driver_stopped(&self) {
        if self.have_stopped() {
            let runtime = lock(&self.runtime).take();
            drop(runtime);
            self.close_kept();
        }
    }

    /// Whether all drivers are gone.
    pub(super) fn have_stopped(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.has_stopped())
    }

    fn runtime(&self) -> Option<Runtime> {
        lock(&self.runtime).clone()
    }

    /// If drivers make way for others: nothing is of use any more that those before have read.
    ///
    /// `make_way` tells whether they do. It is asked when nobody opens a socket to dial from, which
    /// starts drivers.
    pub(super) fn forget_all_if(&self, make_way: impl FnOnce() -> bool) {
        let mut dialling = lock(&self.dialling);
        if !make_way() {
            return;
        }
        let forgotten = std::mem::take(&mut *dialling);
        drop(dialling);
        let lingering = std::mem::take(&mut *lock(&self.lingering));
        let former = std::mem::take(&mut *lock(&self.former_listeners));
        drop((forgotten, lingering, former));
    }

    /// What is opened from now on, other drivers read.
    pub(super) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the drivers that there are now may read it.
    pub(super) fn is_current(&self, socket: &Socket) -> bool {
        socket.epoch() == self.epoch.load(Ordering::Relaxed)
    }

    /// A socket listens no more.
    pub(super) fn note_former_listener(&self, socket: &Arc<Socket>) {
        if !self.is_current(socket) {
            return;
        }
        let mut former = lock(&self.former_listeners);
        former.retain(|former| former.strong_count() > 0);
        former.push(Arc::downgrade(socket));
    }

    /// The socket at this address that has listened before, if there still is one; it listens
    /// again.
    pub(super) fn listen_again(&self, addr: SocketAddr) -> Option<Arc<Socket>> {
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

    /// Opens a socket for each shard, or one for all.
    pub(super) fn bind(
        &self,
        runtime: &Runtime,
        addr: SocketAddr,
    ) -> io::Result<Vec<Arc<UdpSocket>>> {
        let ios = bind_steered(runtime, addr, self.buffers, self.mailboxes.len())?;
        Ok(ios.into_iter().map(Arc::new).collect())
    }

    /// Has drivers read what was bound.
    pub(super) fn put_to_use(
        &self,
        ios: Vec<Arc<UdpSocket>>,
        listening: bool,
    ) -> Result<Arc<Socket>, Undeliverable> {
        let doorbells = self.mailboxes.iter().map(|reader| reader.doorbell());
        let socket = Arc::new(Socket::new(
            ios.clone(),
            listening,
            self.epoch.load(Ordering::Relaxed),
            doorbells.map(Arc::clone).collect(),
            Arc::clone(&self.open),
        ));
        self.read(&socket, &ios)?;
        Ok(socket)
    }

    /// The socket that dials of this family share, or one of its own; opened by `open` if there is none.
    pub(super) fn to_dial_from<E>(
        &self,
        remote: IpAddr,
        own: bool,
        open: impl FnOnce(SocketAddr) -> Result<Arc<Socket>, E>,
    ) -> Result<Arc<Socket>, E> {
        let wildcard = address::wildcard(remote);
        let addr = SocketAddr::new(wildcard, 0);
        let mut dialling = lock(&self.dialling);
        if own {
            let socket = open(addr)?;
            dialling.add_own(&socket);
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

    /// Closes sockets that were kept for long enough although nobody uses them. Returns when the
    /// next one is to be closed.
    ///
    /// Drivers look at the end of each round: it is in their rounds that sockets lose their users.
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

    /// Keeps no socket any longer that nobody uses.
    pub(super) fn close_kept(&self) {
        if self.has_kept.load(Ordering::Relaxed) {
            let mut kept = lock(&self.kept);
            let closed = std::mem::take(&mut *kept);
            self.note_kept(&kept);
            drop(kept);
            drop(closed);
        }
    }

    /// Gives up each socket that dials and does not listen for another one; or none, if it fails. One that nobody has
    /// moved to yet is as good as another one.
    pub(super) fn rebind(self: &Arc<Self>) -> Result<(), RebindError> {
        if self.have_stopped() {
            return Err(RebindError::DriverStopped);
        }
        let Some(runtime) = self.runtime() else {
            return Ok(());
        };
        let mut dialling = lock(&self.dialling);
        // The next dial opens another one.
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

    /// A socket has failed, whatever it is used for. If it is one that only dials, another one takes its place. And its
    /// own address is bound again, for all who cannot leave it.
    pub(super) fn replace_failed(self: &Arc<Self>, socket: &Arc<Socket>, error: io::Error) {
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

    /// Sockets of listeners that have failed since the last time. The transport is woken when there are any.
    pub(super) fn take_failed(&self) -> VecDeque<(Weak<Socket>, io::Error)> {
        std::mem::take(&mut *lock(&self.failed))
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many have taken the place of another one, or were bound again.
    pub(super) fn rebound(&self) -> u64 {
        self.rebound.load(Ordering::Relaxed)
    }

    pub(super) fn reset_stats(&self) {
        self.rebound.store(0, Ordering::Relaxed);
    }

    fn read(&self, socket: &Arc<Socket>, ios: &[Arc<UdpSocket>]) -> Result<(), Undeliverable> {
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
    fn open_beside(&self, runtime: &Runtime, socket: &Socket) -> Result<Arc<Socket>, RebindError> {
        let addr = SocketAddr::new(socket.local_addr().ip(), 0);
        let context = runtime.enter();
        let ios = self.bind(runtime, addr).map_err(RebindError::Bind)?;
        drop(context);
        self.put_to_use(ios, false)
            .map_err(|_| RebindError::DriverStopped)
    }

    /// Gives up a socket that has failed, if it is one that only dials.
    fn replace(
        self: &Arc<Self>,
        runtime: &Runtime,
        socket: &Arc<Socket>,
    ) -> Result<(), RebindError> {
        let mut dialling = lock(&self.dialling);
        let place = dialling
            .places()
            .find(|place| Weak::as_ptr(&place.current) == Arc::as_ptr(socket));
        let now = clock::now();
        let Some(place) = place.filter(|place| {
            // If it fails again so soon, another one is not better.
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

    /// Has another socket take the place of this one. It lives, until somebody uses it, by the one that it replaces, which
    /// is kept open for a while.
    fn give_up(
        self: &Arc<Self>,
        runtime: &Runtime,
        place: &mut Place,
        socket: Arc<Socket>,
        successor: &Arc<Socket>,
    ) {
        place.give_up(&socket, successor);
        self.keep_instead(&socket, successor);
        self.rebound.fetch_add(1, Ordering::Relaxed);
        self.let_linger(runtime, socket);
    }

    /// A dial leaves from this socket: it is kept for a while when it is not used any more.
    fn keep(&self, socket: &Arc<Socket>) {
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
            // Nobody is left who would close it.
            self.close_kept();
        }
    }

    /// If this socket is kept, another one is from now on.
    fn keep_instead(&self, socket: &Arc<Socket>, successor: &Arc<Socket>) {
        let mut kept = lock(&self.kept);
        let Some(kept) = kept.iter_mut().find(|kept| kept.is(socket)) else {
            return;
        };
        kept.closes_at = None;
        kept.socket = Arc::clone(successor);
    }

    /// Closes what is only kept.
    fn close_idle(&self) {
        let mut kept = lock(&self.kept);
        let closed: Vec<_> = kept.extract_if(.., |kept| !kept.is_used()).collect();
        self.note_kept(&kept);
        drop(kept);
        drop(closed);
    }

    fn is_kept(&self, socket: &Weak<Socket>) -> bool {
        let kept = lock(&self.kept);
        kept.iter()
            .any(|kept| Arc::as_ptr(&kept.socket) == Weak::as_ptr(socket))
    }

    fn note_kept(&self, kept: &[Kept]) {
        self.has_kept.store(!kept.is_empty(), Ordering::Relaxed);
    }

    /// Keeps a socket open for what is on its way to it.
    fn let_linger(self: &Arc<Self>, runtime: &Runtime, socket: Arc<Socket>) {
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

    /// Has the transport hear of a failed socket, if it listens.
    fn report(&self, socket: &Arc<Socket>, error: io::Error) {
        if !crate::proto::Socket::is_listening(socket) {
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
    fn repair(&self, runtime: &Runtime, socket: &Arc<Socket>) -> io::Result<()> {
        let ios = self.bind(runtime, socket.local_addr())?;
        socket.reopen(ios.clone());
        self.rebound.fetch_add(1, Ordering::Relaxed);
        // If all drivers are gone, so is everybody who could miss what comes in.
        let _ = self.read(socket, &ios);
        Ok(())
    }
}

impl Dialling {
    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        [&mut self.v4, &mut self.v6]
            .into_iter()
            .chain(&mut self.own)
    }

    fn add_own(&mut self, socket: &Arc<Socket>) {
        // Those that are gone make room before more is asked for.
        if self.own.len() == self.own.capacity() {
            self.own.retain(|place| place.current.strong_count() > 0);
        }
        self.own.push(Place::of(socket));
    }
}

impl Kept {
    fn is(&self, socket: &Arc<Socket>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }

    fn is_used(&self) -> bool {
        Arc::strong_count(&self.socket) > 1
    }
}

impl Place {
    fn of(socket: &Arc<Socket>) -> Self {
        Self {
            current: Arc::downgrade(socket),
            former: Vec::new(),
            replaced_at: None,
        }
    }

    /// Whether anyone uses the current socket besides those that it has taken the place of. If it
    /// is [kept](Sockets::kept), that is no use.
    fn is_used(&self, is_kept: bool) -> bool {
        let former = self.former.iter();
        let keep = former.filter(|former| former.strong_count() > 0).count();
        self.current.strong_count() > keep + usize::from(is_kept)
    }

    fn give_up(&mut self, socket: &Arc<Socket>, successor: &Arc<Socket>) {
        self.former.retain(|former| former.strong_count() > 0);
        self.former.push(Arc::downgrade(socket));
        for former in self.former.iter().filter_map(Weak::upgrade) {
            former.give_up_for(successor);
        }
        self.current = Arc::downgrade(successor);
    }
}

/// Has a socket closed that was kept open for a while, also where the runtime does not live that long.
struct Lingers {
    sockets: Weak<Sockets>,
    socket: Weak<Socket>,
}

impl Drop for Lingers {
    fn drop(&mut self) {
        let (Some(sockets), Some(socket)) = (self.sockets.upgrade(), self.socket.upgrade()) else {
            return;
        };
        lock(&sockets.lingering).retain(|lingering| !Arc::ptr_eq(lingering, &socket));
    }
}

/// Binds the address of a failed socket again as soon as it can be had, unless nobody uses the socket any more.
async fn bind_again(sockets: Weak<Sockets>, socket: Weak<Socket>, runtime: Runtime) {
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
    // What is heard until then is about the one that has failed, or will be heard again.
    sleep(NEXT_ATTEMPT).await;
    if let Some(socket) = socket.upgrade() {
        socket.end_repair();
    }
}
