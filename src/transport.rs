//! The libp2p `Transport`: listening and dialling.

use std::{
    collections::VecDeque,
    fmt, mem,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use futures::FutureExt;
use libp2p_core::{
    Endpoint,
    transport::{self, DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use crate::{
    address::{self, QuicAddress},
    config::Config,
    connecting::{Connecting, Dial, Incoming, Punch},
    connection::Connection,
    driver::{DialFrom, IncomingConnection, OpenError, UseGuard},
    error::{DialError, Error, ListenError},
    expected_peers::ExpectedPeers,
    handle::Handle,
    listener::{Listener, ListenerEvent},
    net::{host_addresses::AddressWatch, interfaces, task::Runtime},
};

/// A QUIC transport for libp2p.
///
/// It takes addresses of the form `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`, with an `/ip6zone/…` in front
/// of a link-local address. It refuses any other address at once with
/// [`MultiaddrNotSupported`](TransportError::MultiaddrNotSupported), so that another transport can
/// try.
///
/// With [`PortUse::Reuse`], a dial leaves from the socket of a listener that can reach the target,
/// so that the peer sees an address at which we listen. If no listener can reach it, the dial
/// leaves from a socket that such dials share. So does a dial to a host that does not answer
/// packets from the listener's port. With [`PortUse::New`], each dial opens its own socket.
///
/// A dial with [`Endpoint::Listener`] punches a hole: it sends random datagrams from a listener's
/// socket to open the NATs on the path. It resolves when the named peer has dialled us from the
/// named address ([DCUtR]). The address needs a `/p2p/…`, and a listener must be able to reach it.
///
/// Removing a listener stops accepting connections but leaves established connections alone.
/// Connections also outlive the transport.
///
/// Dropping the transport outside of a task, while a multi-threaded runtime serves it, blocks for
/// at most 100 ms: until the CONNECTION_CLOSE of every connection that was closed before is sent.
/// It takes 0.2 to 0.4 ms if nothing else is under way, and a round trip more if the peer has to
/// acknowledge data of closed streams first. So a process may end right after that. This is not
/// enough for a Swarm, which drops its transport before its connections, or for more connections
/// than 100 ms suffice for: use [`Handle::shutdown`](crate::Handle::shutdown).
///
/// [`listen_on`](transport::Transport::listen_on) and the polling of dials need a tokio runtime
/// with time and I/O enabled around them.
///
/// [DCUtR]: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
pub struct Transport {
    use_guard: Arc<UseGuard>,
    listeners: Vec<Listener>,
    /// The addresses of this host; `None` unless there is a wildcard listener.
    host: Option<AddressWatch>,
    expected_peers: Arc<ExpectedPeers>,
    /// Incoming connections from addresses where a hole punch expects its peer.
    candidates: Vec<Unreported>,
    /// Listeners that are closed but not yet reported as closed.
    closed: VecDeque<(ListenerId, Result<(), Error>)>,
    /// How many stopped drivers have been reported to the listeners.
    stopped: usize,
    /// The waker for new events.
    waker: Option<Waker>,
}

impl Transport {
    /// Creates a transport with this configuration. It opens no socket yet.
    pub fn new(config: Config) -> Self {
        Self {
            use_guard: Arc::new(UseGuard::new(config)),
            listeners: Vec::new(),
            host: None,
            expected_peers: Arc::default(),
            candidates: Vec::new(),
            closed: VecDeque::new(),
            stopped: 0,
            waker: None,
        }
    }

    /// Returns a handle to the transport, which also works after a Swarm has taken the transport.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(self.use_guard.drivers()))
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<TransportEvent<Connecting, Error>> {
        loop {
            let Poll::Ready(connection) = self.use_guard.drivers().poll_incoming(cx) else {
                return Poll::Pending;
            };
            if let Some(event) = self.incoming_event(connection) {
                return Poll::Ready(event);
            }
        }
    }

    /// Returns `None` if the listener has been removed, in which case dropping the connection
    /// refuses it, or if the connection becomes a candidate for a hole punch.
    fn incoming_event(
        &mut self,
        connection: IncomingConnection,
    ) -> Option<TransportEvent<Connecting, Error>> {
        let listener = self
            .listeners
            .iter()
            .find(|listener| Arc::ptr_eq(listener.socket(), connection.socket()))?;
        let remote_addr = connection.remote_addr();
        let candidate = Unreported {
            listener_id: listener.id(),
            local_addr: listener.incoming_addr(&connection),
            remote_addr,
            upgrade: Connecting::incoming(Incoming {
                use_guard: Arc::clone(&self.use_guard),
                connection,
            }),
        };
        if self.expected_peers.is_expected_from(remote_addr)
            && self.candidates.len() < MAX_CANDIDATES
        {
            self.candidates.push(candidate);
            None
        } else {
            Some(candidate.into_event())
        }
    }

    /// Completes the handshakes of the candidates. Reports those that no hole punch waits for like
    /// any other incoming connection.
    fn poll_candidates(&mut self, cx: &mut Context<'_>) -> Poll<TransportEvent<Connecting, Error>> {
        let mut index = 0;
        while index < self.candidates.len() {
            let Poll::Ready(result) = self.candidates[index].upgrade.poll_unpin(cx) else {
                index += 1;
                continue;
            };
            let candidate = self.candidates.swap_remove(index);
            let listener_id = candidate.listener_id;
            if !self
                .listeners
                .iter()
                .any(|listener| listener.id() == listener_id)
            {
                // The listener was removed after the connection came in, so the connection is
                // closed without being reported.
                continue;
            }
            let reported = match result {
                Ok((peer_id, connection)) => {
                    let remote_addr = candidate.remote_addr;
                    match self.expected_peers.claim(remote_addr, peer_id, connection) {
                        Ok(()) => continue,
                        Err(connection) => Ok((peer_id, connection)),
                    }
                }
                Err(error) => Err(error),
            };
            let event = Unreported {
                upgrade: Connecting::settled(reported),
                ..candidate
            };
            return Poll::Ready(event.into_event());
        }
        Poll::Pending
    }

    /// Makes listeners report that a driver has stopped. After the last driver has stopped, closes
    /// them, so that nothing is dialled from their sockets either.
    fn note_stopped_drivers(&mut self, cx: &mut Context<'_>) {
        let drivers = self.use_guard.drivers();
        let (stopped, all) = drivers.stopped(cx);
        let was_stopped = mem::replace(&mut self.stopped, stopped);
        if was_stopped < stopped && stopped < all {
            for listener in &mut self.listeners {
                listener.report(ListenError::DriverStopped);
            }
        }
        self.close_deaf_listeners(stopped == all);
    }

    /// Closes listeners whose drivers have stopped, even if other drivers have taken their place.
    /// `have_stopped` is whether all of the latest drivers have stopped.
    fn close_deaf_listeners(&mut self, have_stopped: bool) {
        let drivers = Arc::clone(self.use_guard.drivers());
        let is_deaf = |listener: &Listener| have_stopped || !drivers.may_be_read(listener.socket());
        self.close_listeners(is_deaf, || Err(ListenError::DriverStopped.into()));
    }

    fn close_listeners(
        &mut self,
        which: impl Fn(&Listener) -> bool,
        reason: impl Fn() -> Result<(), Error>,
    ) {
        let drivers = self.use_guard.drivers();
        for listener in self.listeners.extract_if(.., |listener| which(listener)) {
            drivers.stop_listening(listener.socket());
            drivers.forget_listener(listener.id());
            self.closed.push_back((listener.id(), reason()));
        }
        if !self.listeners.iter().any(Listener::is_wildcard) {
            self.host = None;
        }
    }

    /// Makes listeners report that their socket has failed.
    fn note_failed_sockets(&mut self) {
        for (socket, source) in self.use_guard.drivers().take_failed() {
            let listener = (self.listeners.iter_mut())
                .find(|listener| Arc::as_ptr(listener.socket()) == Weak::as_ptr(&socket));
            if let Some(listener) = listener {
                let addr = listener.local_addr();
                listener.report(ListenError::Socket { addr, source });
            }
        }
    }

    /// Makes wildcard listeners announce the addresses of this host.
    fn follow_host(&mut self, cx: &mut Context<'_>) {
        let Some(host) = &mut self.host else {
            return;
        };
        if host.has_ended()
            && let Ok(runtime) = Runtime::current()
        {
            // The runtime of the watch has ended; this one replaces it.
            *host = AddressWatch::start(&runtime);
        }
        while let Poll::Ready(addresses) = host.poll(cx) {
            for listener in &mut self.listeners {
                listener.follow(&addresses);
            }
        }
    }

    fn listener_event(&mut self) -> Option<TransportEvent<Connecting, Error>> {
        let drivers = self.use_guard.drivers();
        self.listeners.iter_mut().find_map(|listener| {
            let listener_id = listener.id();
            Some(match listener.next_event()? {
                ListenerEvent::NewAddress(listen_addr) => {
                    drivers.note_address(listener_id, listen_addr.clone());
                    TransportEvent::NewAddress {
                        listener_id,
                        listen_addr,
                    }
                }
                ListenerEvent::AddressExpired(listen_addr) => {
                    drivers.forget_address(listener_id, &listen_addr);
                    TransportEvent::AddressExpired {
                        listener_id,
                        listen_addr,
                    }
                }
                ListenerEvent::Error(error) => TransportEvent::ListenerError {
                    listener_id,
                    error: error.into(),
                },
            })
        })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl transport::Transport for Transport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Connecting;
    type Dial = Connecting;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let Some(QuicAddress { socket_addr, .. }) = QuicAddress::parse(&addr, interfaces::index_of)
        else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let runtime = Runtime::current().map_err(|_| other(ListenError::NoRuntime))?;
        let drivers = self.use_guard.drivers();
        if drivers.is_shut_down() {
            return Err(other(ListenError::ShutDown));
        }
        let socket = drivers.listen(&runtime, socket_addr).map_err(|error| {
            other(match error {
                OpenError::Bind(source) => ListenError::Bind {
                    addr: socket_addr,
                    source,
                },
                OpenError::Certificate(error) => ListenError::Certificate(error),
                OpenError::DriverStopped => ListenError::DriverStopped,
            })
        })?;
        drivers.note_listener(id, &socket);
        let mut listener = Listener::new(id, socket);
        if listener.is_wildcard() {
            let start = || AddressWatch::start(&runtime);
            listener.follow(&self.host.get_or_insert_with(start).latest());
        }
        self.listeners.push(listener);
        self.close_deaf_listeners(self.use_guard.drivers().have_stopped());
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
        self.close_listeners(|listener| listener.id() == id, || Ok(()));
        let is_removed = self.listeners.len() < before;
        if is_removed {
            self.wake();
        }
        is_removed
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let Some(remote) =
            QuicAddress::parse(&addr, interfaces::index_of).filter(QuicAddress::is_dialable)
        else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        self.close_deaf_listeners(self.use_guard.drivers().have_stopped());
        let listeners: Vec<_> = self
            .listeners
            .iter()
            .filter(|listener| listener.can_reach(remote.socket_addr))
            .map(|listener| Arc::downgrade(listener.socket()))
            .collect();
        if opts.role == Endpoint::Listener {
            // `port_use` is ignored: the peer has only the listener's port, so the hole is for
            // that port.
            let Some(peer_id) = remote.peer_id else {
                return Err(TransportError::MultiaddrNotSupported(addr));
            };
            if listeners.is_empty() {
                return Err(TransportError::Other(DialError::NoListener.into()));
            }
            return Ok(Connecting::punch(Punch {
                use_guard: Arc::clone(&self.use_guard),
                expected_peers: Arc::clone(&self.expected_peers),
                remote_addr: remote.socket_addr,
                peer_id,
                listeners,
            }));
        }
        let from = match opts.port_use {
            PortUse::New => DialFrom::New,
            PortUse::Reuse => DialFrom::Reused(listeners),
        };
        Ok(Connecting::dial(Dial {
            use_guard: Arc::clone(&self.use_guard),
            remote_addr: remote.socket_addr,
            expected: remote.peer_id,
            from,
        }))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        self.note_stopped_drivers(cx);
        self.note_failed_sockets();
        if self.use_guard.drivers().is_shut_down() {
            self.close_listeners(|_| true, || Ok(()));
        }
        if let Some((listener_id, reason)) = self.closed.pop_front() {
            return Poll::Ready(TransportEvent::ListenerClosed {
                listener_id,
                reason,
            });
        }
        // Addresses first, because connections come in at announced addresses only.
        self.follow_host(cx);
        if let Some(event) = self.listener_event() {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_incoming(cx) {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_candidates(cx) {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// An incoming connection that the transport has not reported.
struct Unreported {
    listener_id: ListenerId,
    local_addr: Multiaddr,
    remote_addr: SocketAddr,
    upgrade: Connecting,
}

impl Unreported {
    fn into_event(self) -> TransportEvent<Connecting, Error> {
        TransportEvent::Incoming {
            listener_id: self.listener_id,
            local_addr: self.local_addr,
            send_back_addr: address::to_multiaddr(self.remote_addr),
            upgrade: self.upgrade,
        }
    }
}

/// The most connections whose peer we authenticate before we report them. It limits what an
/// attacker gains who forges an address where a hole punch expects a peer.
const MAX_CANDIDATES: usize = 64;

impl Drop for Transport {
    fn drop(&mut self) {
        self.close_listeners(|_| true, || Ok(()));
        // Their peers are told as well.
        self.candidates.clear();
        self.use_guard.drivers().flush();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}

fn other(error: ListenError) -> TransportError<Error> {
    TransportError::Other(error.into())
}
