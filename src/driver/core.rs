//! What a transport, its handles and its drivers share.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use futures::channel::oneshot;
use libp2p_core::transport::ListenerId;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use quinn_proto::VarInt;

#[cfg(feature = "nat")]
use super::stun::StunDoor;
use super::{
    connection::Handshake,
    idle::Idle,
    incoming::{IncomingConnection, IncomingQueue},
    mailbox::{Farewell, Mailbox, Undeliverable},
    requests::{Dial, PacketRequest, Request},
    silent_hosts::{Advice, Departure, FIRST_TRY, Heard, Port, SilentHosts},
    socket::Socket,
    sockets::Sockets,
    task::{Driver, ReceiveSettings, Shared},
    wakers::Reply,
};
use crate::{
    address::{self, Host},
    authenticator::GenerateError,
    config::{Config, MIN_MTU_BYTES},
    error::{DialError, Error, RebindError},
    net::{UdpSocket, clock, host_addresses, interfaces, task::Runtime},
    proto::{Budget, Registry, Shard, ShardSeed, Shards, lock},
    stats::{ListenerStats, Stats},
    sync::{self, Mutex},
};

/// The sockets, mailboxes and books of one transport.
pub(crate) struct Core {
    config: Config,
    budget: Budget,
    shards: Shards,
    mailboxes: Arc<[Arc<Mailbox>]>,
    registries: Vec<Arc<Mutex<Registry>>>,
    incoming: Arc<IncomingQueue>,
    idle: Arc<Idle>,
    is_shut_down: AtomicBool,
    listeners: Mutex<Vec<Listening>>,
    #[cfg(feature = "nat")]
    stun: Arc<StunDoor>,
    sockets: Arc<Sockets>,
    /// Whether drivers were started, and no others are to take their place.
    has_drivers: Mutex<bool>,
    next_shard: AtomicUsize,
    silent_hosts: SilentHosts,
}

struct Listening {
    /// Without the addresses, which come and go one by one.
    stats: ListenerStats,
    addresses: BTreeSet<Multiaddr>,
    socket: Weak<Socket>,
}

/// Which socket a dial leaves from.
#[derive(Clone, Debug)]
pub(crate) enum DialFrom {
    /// One of its own.
    New,
    /// That of one of these listeners, each of which could reach the target. If none is left by then, the one
    /// that all dials share that have no listener to leave from.
    Reused(Vec<Weak<Socket>>),
    /// The one that dials share, because nothing has come back to a listener's. The time for the handshake
    /// runs already, and is over then.
    Other { deadline: Instant },
}

/// A socket that could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    Bind(io::Error),
    Certificate(Arc<GenerateError>),
    DriverStopped,
}

/// Keeps the drivers running even when they have nothing to drive.
pub(crate) struct InUse(Arc<Core>);

impl InUse {
    pub(crate) fn new(config: Config) -> Self {
        Self(Arc::new(Core::new(config)))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.incoming.clear();
        for mailbox in self.0.mailboxes.iter() {
            mailbox.close();
        }
    }
}

impl Core {
    fn new(config: Config) -> Self {
        let config = config.counting_for_itself();
        let shards = config.shards();
        let mailboxes: Arc<[_]> = shards.iter().map(|_| Arc::default()).collect();
        let incoming = Arc::new(IncomingQueue::new(config.max_pending_incoming()));
        Self {
            budget: config.budget(),
            shards,
            sockets: Arc::new(Sockets::new(
                config.socket_buffers(),
                Arc::clone(&mailboxes),
                Arc::clone(&incoming),
            )),
            mailboxes,
            registries: shards.iter().map(|_| Arc::default()).collect(),
            incoming,
            idle: Arc::default(),
            is_shut_down: AtomicBool::new(false),
            listeners: Mutex::default(),
            #[cfg(feature = "nat")]
            stun: Arc::default(),
            has_drivers: Mutex::default(),
            next_shard: AtomicUsize::new(0),
            silent_hosts: SilentHosts::default(),
            config,
        }
    }

    /// Opens a socket to listen on. If connections still use one at this address that has listened
    /// before, it listens again.
    pub(crate) fn listen(
        &self,
        runtime: &Runtime,
        addr: SocketAddr,
    ) -> Result<Arc<Socket>, OpenError> {
        self.begin_again();
        match self.sockets.listen_again(addr) {
            Some(socket) => Ok(socket),
            None => self.open_socket(runtime, addr, true),
        }
    }

    /// Opens a socket and has a driver read it; the first one starts the drivers.
    fn open_socket(
        &self,
        runtime: &Runtime,
        addr: SocketAddr,
        listening: bool,
    ) -> Result<Arc<Socket>, OpenError> {
        let ios = self.sockets.bind(runtime, addr).map_err(OpenError::Bind)?;
        self.start(runtime, &ios[0])
            .map_err(OpenError::Certificate)?;
        self.sockets
            .put_to_use(ios, listening)
            .map_err(|_| OpenError::DriverStopped)
    }

    /// Begins to dial. To be called when the dial is first polled, not before: its time runs from
    /// now on.
    pub(crate) fn dial(
        &self,
        runtime: &Runtime,
        remote_addr: SocketAddr,
        expected: Option<PeerId>,
        from: DialFrom,
    ) -> Result<(oneshot::Receiver<Result<Handshake, Error>>, Departure), DialError> {
        if self.is_shut_down() {
            return Err(DialError::ShutDown);
        }
        let now = clock::now();
        let timeout = self.config.handshake_timeout();
        let deadline = match from {
            DialFrom::Other { deadline } => deadline,
            DialFrom::New | DialFrom::Reused(_) => now + timeout,
        };
        let (socket, port) =
            self.dial_socket(runtime, now, remote_addr, from)
                .map_err(|error| match error {
                    OpenError::Bind(error) => DialError::Bind(error),
                    OpenError::Certificate(error) => DialError::Certificate(error),
                    OpenError::DriverStopped => DialError::DriverStopped,
                })?;
        let remote_addr = in_zone_of(&socket, remote_addr);
        let max_payload = interfaces::max_payload(socket.local_addr(), remote_addr)
            .map_err(DialError::NoRoute)?;
        if let Some(max_payload) = max_payload
            && max_payload < MIN_MTU_BYTES
        {
            return Err(DialError::InterfaceTooNarrow { max_payload });
        }
        let config = self.config.client(expected, max_payload)?;
        let (reply, receiver) = Reply::new();
        self.mailbox(self.next_shard.fetch_add(1, Ordering::Relaxed))?
            .request(Request::Dial(Dial {
                config: Box::new(config),
                remote_addr,
                socket,
                deadline,
                silent_for: port.is_first().then(|| FIRST_TRY.min(timeout / 2)),
                reply,
            }))
            .map_err(not_dialled)?;
        let departure = Departure {
            host: Host::of(remote_addr.ip()),
            port,
            deadline,
        };
        Ok((receiver, departure))
    }

    /// A dial is over that has heard this.
    pub(crate) fn learn(&self, departure: &Departure, heard: Heard) {
        let comes_through = |local_port| {
            let mut registries = self.registries.iter();
            registries.any(|registry| sync::lock(registry).has_peer_at(departure.host, local_port))
        };
        (self.silent_hosts).learn(clock::now(), departure, heard, comes_through);
    }

    /// Sends to `remote_addr`, from the socket of one of these listeners, each of which could reach it, until what comes
    /// back is dropped. It resolves when the time for a handshake is over, or the driver is gone.
    pub(crate) fn punch(
        &self,
        remote_addr: SocketAddr,
        listeners: &[Weak<Socket>],
    ) -> Result<oneshot::Receiver<()>, DialError> {
        let socket = self
            .expected_socket(listeners, remote_addr)
            .ok_or(DialError::NoListener)?;
        let remote_addr = in_zone_of(&socket, remote_addr);
        let (over, receiver) = Reply::new();
        // One driver has all of them, and so knows what all of them send to one host.
        self.mailbox(0)?
            .request(Request::Packet(PacketRequest::Punch {
                remote_addr,
                socket,
                over,
            }))
            .map_err(not_dialled)?;
        Ok(receiver)
    }

    /// Whether it is not a socket of drivers before those that there are now.
    pub(crate) fn may_be_read(&self, socket: &Socket) -> bool {
        self.sockets.is_current(socket)
    }

    /// Whether there were drivers, and all of them are gone.
    pub(crate) fn have_stopped(&self) -> bool {
        self.sockets.have_stopped()
    }

    /// Closes all connections, and lets no other one begin.
    pub(crate) fn shut_down(&self, code: VarInt, reason: Bytes) {
        self.is_shut_down.store(true, Ordering::Relaxed);
        let listening: Vec<_> = sync::lock(&self.listeners)
            .iter()
            .filter_map(|listening| listening.socket.upgrade())
            .collect();
        for socket in listening {
            self.stop_listening(&socket);
        }
        self.close_connections(code, reason, false);
        // The transport reports that its listeners are closed.
        self.incoming.wake();
    }

    /// Closes all connections that are left after [`shut_down`](Self::shut_down).
    pub(crate) fn close_at_once(&self) {
        self.close_connections(VarInt::from_u32(0), Bytes::new(), true);
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.is_shut_down.load(Ordering::Relaxed)
    }

    /// Ready when there is no connection.
    pub(crate) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        // Before looking, so that nothing comes in between.
        self.idle.register(cx);
        let mut registries = self.registries.iter();
        if registries.any(|registry| sync::lock(registry).has_connections()) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn close_connections(&self, code: VarInt, reason: Bytes, at_once: bool) {
        for mailbox in self.mailboxes.iter() {
            mailbox.close_connections(Farewell {
                code,
                reason: reason.clone(),
                at_once,
            });
        }
    }

    /// How many of the drivers are gone, and how many there were. The transport is woken when that changes.
    pub(crate) fn stopped(&self, cx: &Context<'_>) -> (usize, usize) {
        // Before looking, so that nothing comes in between.
        self.incoming.register(cx.waker());
        let stopped = self
            .mailboxes
            .iter()
            .filter(|mailbox| mailbox.has_stopped());
        (stopped.count(), self.mailboxes.len())
    }

    pub(crate) fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<IncomingConnection> {
        self.incoming.poll(cx)
    }

    /// No connection is accepted at this socket any more; those that were not answered are refused.
    pub(crate) fn stop_listening(&self, socket: &Arc<Socket>) {
        socket.stop_listening();
        self.sockets.note_former_listener(socket);
        self.incoming.refuse_from(socket);
    }

    /// Moves what was dialled to other sockets, where it does not come from that of a listener.
    pub(crate) fn rebind(&self) -> Result<(), RebindError> {
        self.sockets.rebind()
    }

    /// Sockets of listeners that have failed since the last time. The transport is woken when there are any.
    pub(crate) fn take_failed(&self) -> VecDeque<(Weak<Socket>, io::Error)> {
        self.sockets.take_failed()
    }

    pub(crate) fn note_listener(&self, listener_id: ListenerId, socket: &Arc<Socket>) {
        let buffers = socket.buffer_sizes();
        sync::lock(&self.listeners).push(Listening {
            stats: ListenerStats {
                addresses: Vec::new(),
                listener_id,
                local_addr: socket.local_addr(),
                receive_buffer_bytes: buffers.receive,
                send_buffer_bytes: buffers.send,
            },
            addresses: BTreeSet::new(),
            socket: Arc::downgrade(socket),
        });
    }

    /// A listener announces an address.
    pub(crate) fn note_address(&self, listener_id: ListenerId, addr: Multiaddr) {
        self.change_addresses(listener_id, |addresses| addresses.insert(addr));
    }

    /// A listener announces an address no more.
    pub(crate) fn forget_address(&self, listener_id: ListenerId, addr: &Multiaddr) {
        self.change_addresses(listener_id, |addresses| addresses.remove(addr));
    }

    fn change_addresses(
        &self,
        listener_id: ListenerId,
        change: impl FnOnce(&mut BTreeSet<Multiaddr>) -> bool,
    ) {
        if let Some(listener) = sync::lock(&self.listeners)
            .iter_mut()
            .find(|listener| listener.stats.listener_id == listener_id)
        {
            change(&mut listener.addresses);
        }
    }

    pub(crate) fn forget_listener(&self, listener_id: ListenerId) {
        sync::lock(&self.listeners).retain(|listener| listener.stats.listener_id != listener_id);
    }

    /// The socket of a listener, if it is one of this transport.
    #[cfg(feature = "nat")]
    pub(crate) fn listening_socket(&self, listener_id: ListenerId) -> Option<Arc<Socket>> {
        sync::lock(&self.listeners)
            .iter()
            .find(|listener| listener.stats.listener_id == listener_id)?
            .socket
            .upgrade()
    }

    /// Sends a datagram that is not QUIC; it is lost if the driver is gone, or has far too much to do.
    #[cfg(feature = "nat")]
    pub(crate) fn send(&self, socket: Arc<Socket>, remote_addr: SocketAddr, contents: Vec<u8>) {
        let Ok(mailbox) = self.mailbox(0) else {
            return;
        };
        let _ = mailbox.request(Request::Packet(PacketRequest::Send {
            remote_addr,
            socket,
            contents,
        }));
    }

    #[cfg(feature = "nat")]
    pub(crate) fn stun(&self) -> &StunDoor {
        &self.stun
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            listeners: sync::lock(&self.listeners)
                .iter()
                .map(|listener| ListenerStats {
                    addresses: listener.addresses.iter().cloned().collect(),
                    ..listener.stats.clone()
                })
                .collect(),
            #[cfg(feature = "nat")]
            stun: self.stun.stats(),
            ..Stats::default()
        };
        let mut peers = HashSet::new();
        let mut remote_addrs = HashSet::new();
        for (shard, registry) in self.registries.iter().enumerate() {
            // One lock at a time: a driver notes things in the registry while it holds a connection.
            let connections = {
                let registry = sync::lock(registry);
                registry.add_to(&mut stats.registry, &mut stats.transport);
                peers.extend(registry.peers().copied());
                remote_addrs.extend(registry.remote_addrs().copied());
                registry.connections()
            };
            for (connection, local_addr) in connections {
                let connection = lock(&connection).stats(shard, local_addr);
                stats.connections.push(connection);
            }
        }
        stats.registry.peers = peers.len();
        stats.registry.remote_addresses = remote_addrs.len();
        stats.transport.dials_from_other_port = self.silent_hosts.dials();
        stats.transport.dropped_crypto = self.config.dropped_crypto();
        stats.transport.buffered_bytes = self.budget.used();
        stats.transport.shards = self.shards.count();
        stats.transport.sockets = self.sockets.open();
        stats.transport.sockets_rebound = self.sockets.rebound();
        stats
    }

    pub(crate) fn reset_stats(&self) {
        for registry in &self.registries {
            sync::lock(registry).reset();
        }
        self.config.reset_dropped_crypto();
        self.sockets.reset_stats();
        self.silent_hosts.reset_stats();
        #[cfg(feature = "nat")]
        self.stun.reset_stats();
    }

    /// Where to ask for something that any shard can do: at the one with this number, modulo how many there are, or at
    /// the next one that is driven.
    fn mailbox(&self, shard: usize) -> Result<&Mailbox, DialError> {
        (0..self.mailboxes.len())
            .map(|step| &*self.mailboxes[(shard + step) % self.mailboxes.len()])
            .find(|mailbox| !mailbox.has_stopped())
            .ok_or(DialError::DriverStopped)
    }

    fn dial_socket(
        &self,
        runtime: &Runtime,
        now: Instant,
        remote_addr: SocketAddr,
        from: DialFrom,
    ) -> Result<(Arc<Socket>, Port), OpenError> {
        self.begin_again();
        let (is_own, port) = match from {
            DialFrom::New => (true, Port::Own),
            DialFrom::Other { .. } => (false, Port::Other),
            DialFrom::Reused(listeners) => match self.expected_socket(&listeners, remote_addr) {
                Some(socket) => {
                    let advice = self.silent_hosts.advice(now, Host::of(remote_addr.ip()));
                    if advice != Advice::Other {
                        let port = Port::Listener {
                            number: socket.local_addr().port(),
                            is_first: advice == Advice::ListenerFirst,
                        };
                        return Ok((socket, port));
                    }
                    (false, Port::Other)
                }
                None => (false, Port::Own),
            },
        };
        if port == Port::Other {
            self.silent_hosts.count_dial();
        }
        let socket = self
            .sockets
            .to_dial_from(remote_addr.ip(), is_own, |addr| {
                self.open_socket(runtime, addr, false)
            })?;
        Ok((socket, port))
    }

    /// The socket that an operator would expect a dial to leave from: the one at the address that
    /// the kernel would send from anyway, or a wildcard one, which lets the kernel choose. Any
    /// other is in another network, to which the answer need not find its way.
    fn expected_socket(
        &self,
        listeners: &[Weak<Socket>],
        remote_addr: SocketAddr,
    ) -> Option<Arc<Socket>> {
        let sockets: Vec<_> = listeners
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|socket| self.sockets.is_current(socket))
            .collect();
        if address::needs_zone(remote_addr.ip()) && address::zone(remote_addr).is_none() {
            // A wildcard socket leaves it open, too, at which link the target is.
            let has_zone = |socket: &&Arc<Socket>| address::zone(socket.local_addr()).is_some();
            let zoned = sockets.iter().find(has_zone);
            return zoned.or_else(|| sockets.first()).map(Arc::clone);
        }
        let is_wildcard = |socket: &&Arc<Socket>| socket.local_addr().ip().is_unspecified();
        if sockets.iter().all(|socket| is_wildcard(&socket)) {
            return sockets.into_iter().next();
        }
        let Some(source) = interfaces::source_ip(remote_addr) else {
            return sockets.into_iter().next();
        };
        sockets
            .iter()
            .find(|socket| socket.local_addr().ip() == source)
            .or_else(|| sockets.iter().find(is_wildcard))
            .map(Arc::clone)
    }

    /// If nothing is left of the drivers, makes way for others.
    fn begin_again(&self) {
        let are_gone = |has_drivers: bool| {
            has_drivers && self.mailboxes.iter().all(|mailbox| mailbox.is_gone())
        };
        if !are_gone(*sync::lock(&self.has_drivers)) {
            return;
        }
        self.sockets.forget_all_if(|| {
            let mut has_drivers = sync::lock(&self.has_drivers);
            // Unless somebody else was first.
            let make_way = are_gone(*has_drivers);
            if make_way {
                self.incoming.clear();
                self.sockets.begin_epoch();
                *has_drivers = false;
            }
            make_way
        });
    }

    /// Starts the drivers, if there are none; `io` is the first socket.
    fn start(&self, runtime: &Runtime, io: &UdpSocket) -> Result<(), Arc<GenerateError>> {
        let mut has_drivers = sync::lock(&self.has_drivers);
        if *has_drivers {
            return Ok(());
        }
        let shared = Shared {
            shards: self.shards,
            mailboxes: Arc::clone(&self.mailboxes),
            incoming: Arc::clone(&self.incoming),
            #[cfg(feature = "nat")]
            stun: Arc::clone(&self.stun),
            sockets: Arc::clone(&self.sockets),
            idle: Arc::clone(&self.idle),
        };
        let settings = self.shards.iter().map(|id| {
            self.config.settings(
                !io.may_fragment(),
                io.buffer_sizes().receive,
                rand::random(),
                self.config.reset_secret(io.local_addr(), id.index()),
            )
        });
        let settings = settings.collect::<Result<Vec<_>, _>>()?;
        // Not before there are drivers for them: what they take, somebody waits for.
        for mailbox in self.mailboxes.iter().filter(|mailbox| mailbox.is_gone()) {
            mailbox.revive();
        }
        for ((id, registry), settings) in self.shards.iter().zip(&self.registries).zip(settings) {
            let receive_settings = ReceiveSettings {
                max_datagram_bytes: settings.max_datagram_bytes(),
                measure_routing: self.config.measures_routing(),
            };
            let shard = Shard::new(
                id,
                self.shards,
                settings,
                ShardSeed {
                    connection_ids: rand::random(),
                    endpoint: rand::random(),
                    initial_ids: rand::random(),
                },
                Arc::clone(registry),
                self.budget.clone(),
            );
            runtime.spawn(Driver::new(shard, shared.clone(), receive_settings));
        }
        self.sockets.run_on(runtime);
        *has_drivers = true;
        Ok(())
    }
}

/// `remote_addr`, in the zone of the socket, or of the only link that there is, where it needs one and
/// has none. Left without, the kernel would choose a link, and what comes back would be from
/// another address.
fn in_zone_of(socket: &Socket, remote_addr: SocketAddr) -> SocketAddr {
    address::in_zone(remote_addr, || {
        address::zone(socket.local_addr()).or_else(host_addresses::only_link)
    })
}

/// Why a dial has not begun.
fn not_dialled(undeliverable: Undeliverable) -> DialError {
    match undeliverable {
        Undeliverable::Overloaded => DialError::Overloaded,
        Undeliverable::Stopped => DialError::DriverStopped,
        Undeliverable::ShutDown => DialError::ShutDown,
    }
}
