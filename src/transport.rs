//! libp2p's face of the whole: listening and dialling.

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
    driver::{DialFrom, InUse, IncomingConnection, OpenError},
    error::{DialError, Error, ListenError},
    handle::Handle,
    hole_punch::HolePunches,
    listener::{Listener, ListenerEvent},
    net::{host_addresses::AddressWatch, interfaces, task::Runtime},
};

/// A QUIC transport for libp2p.
///
/// Takes addresses of the form `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`, with an `/ip6zone/…` in front of a
/// link-local one. Any other address is refused at once with
/// [`MultiaddrNotSupported`](TransportError::MultiaddrNotSupported), so that another transport can try.
///
/// A dial leaves from a listener's socket where one can reach the target, so that peers see the address
/// that we listen at ([`PortUse::Reuse`]); else from a socket that such dials share.
///
/// A dial with the role of the listener punches a hole: it sends random datagrams from a listener's socket, to open
/// the NATs on the way, and resolves when the named peer has dialled us from the named address ([DCUtR]). It needs a
/// `/p2p/…` and a listener that can reach the address.
///
/// Removing a listener stops accepting connections and leaves the established ones alone. Connections
/// also outlive the transport.
///
/// Needs a tokio runtime with time and I/O enabled around [`listen_on`](transport::Transport::listen_on)
/// and around the polling of dials.
///
/// [DCUtR]: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
pub struct Transport {
    in_use: Arc<InUse>,
    listeners: Vec<Listener>,
    /// While there is a wildcard listener.
    host: Option<AddressWatch>,
    punches: Arc<HolePunches>,
    /// Connections that may be what a dial as listener waits for.
    candidates: Vec<Candidate>,
    /// Listeners that were removed, or have nobody left to hear for them, and are to be reported as such.
    closed: VecDeque<(ListenerId, Result<(), Error>)>,
    /// Drivers whose end the listeners have reported.
    stopped: usize,
    /// Whom to wake when there is something new to report.
    waker: Option<Waker>,
}

impl Transport {
    /// A transport that behaves as `config` says. It opens no socket yet.
    pub fn new(config: Config) -> Self {
        Self {
            in_use: Arc::new(InUse::new(config)),
            listeners: Vec::new(),
            host: None,
            punches: Arc::default(),
            candidates: Vec::new(),
            closed: VecDeque::new(),
            stopped: 0,
            waker: None,
        }
    }

    /// Looks into the transport from outside, also when a Swarm has taken it.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(self.in_use.core()))
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<TransportEvent<Connecting, Error>> {
        loop {
            let Poll::Ready(connection) = self.in_use.core().poll_incoming(cx) else {
                return Poll::Pending;
            };
            if let Some(event) = self.incoming_event(connection) {
                return Poll::Ready(event);
            }
        }
    }

    /// `None` if its listener was removed meanwhile, which refuses the connection, or if it may be what a dial as
    /// listener waits for.
    fn incoming_event(
        &mut self,
        connection: IncomingConnection,
    ) -> Option<TransportEvent<Connecting, Error>> {
        let listener = self
            .listeners
            .iter()
            .find(|listener| Arc::ptr_eq(listener.socket(), connection.socket()))?;
        let remote_addr = connection.remote_addr();
        let candidate = Candidate {
            listener_id: listener.id(),
            local_addr: listener.incoming_addr(&connection),
            remote_addr,
            upgrade: Connecting::incoming(Incoming {
                in_use: Arc::clone(&self.in_use),
                connection,
            }),
        };
        if self.punches.is_expected_from(remote_addr) && self.candidates.len() < MAX_CANDIDATES {
            self.candidates.push(candidate);
            None
        } else {
            Some(candidate.into_event())
        }
    }

    /// Finds out who the candidates are. Those that no dial waits for are reported like any other.
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
                // It was removed meanwhile; that closes what has come in at it and was not reported.
                continue;
            }
            let reported = match result {
                Ok((peer_id, connection)) => {
                    let remote_addr = candidate.remote_addr;
                    match self.punches.claim(remote_addr, peer_id, connection) {
                        Ok(()) => continue,
                        Err(connection) => Ok((peer_id, connection)),
                    }
                }
                Err(error) => Err(error),
            };
            let event = Candidate {
                upgrade: Connecting::settled(reported),
                ..candidate
            };
            return Poll::Ready(event.into_event());
        }
        Poll::Pending
    }

    /// Has listeners report that they have lost a driver, and closes them when it was the last one,
    /// so that nothing is dialled from their sockets either.
    fn note_stopped_drivers(&mut self, cx: &mut Context<'_>) {
        let core = self.in_use.core();
        let (stopped, drivers) = core.stopped(cx);
        let was_stopped = mem::replace(&mut self.stopped, stopped);
        if was_stopped < stopped && stopped < drivers {
            for listener in &mut self.listeners {
                listener.report(ListenError::DriverStopped);
            }
        }
        self.close_deaf_listeners(stopped == drivers);
    }

    /// Closes listeners whose drivers are gone, whether others have taken their place or not.
    /// `have_stopped` is whether all drivers are gone that there were last.
    fn close_deaf_listeners(&mut self, have_stopped: bool) {
        let core = Arc::clone(self.in_use.core());
        let is_deaf = |listener: &Listener| have_stopped || !core.may_be_read(listener.socket());
        self.close_listeners(is_deaf, || Err(ListenError::DriverStopped.into()));
    }

    fn close_listeners(
        &mut self,
        which: impl Fn(&Listener) -> bool,
        reason: impl Fn() -> Result<(), Error>,
    ) {
        let core = self.in_use.core();
        for listener in self.listeners.extract_if(.., |listener| which(listener)) {
            core.stop_listening(listener.socket());
            core.forget_listener(listener.id());
            self.closed.push_back((listener.id(), reason()));
        }
        if !self.listeners.iter().any(Listener::is_wildcard) {
            self.host = None;
        }
    }

    /// Has listeners report that their socket has failed.
    fn note_failed_sockets(&mut self) {
        for (socket, source) in self.in_use.core().take_failed() {
            let listener = (self.listeners.iter_mut())
                .find(|listener| Arc::as_ptr(listener.socket()) == Weak::as_ptr(&socket));
            if let Some(listener) = listener {
                let addr = listener.local_addr();
                listener.report(ListenError::Socket { addr, source });
            }
        }
    }

    /// Has wildcard listeners announce the addresses of this host.
    fn follow_host(&mut self, cx: &mut Context<'_>) {
        let Some(host) = &mut self.host else {
            return;
        };
        if host.has_ended()
            && let Ok(runtime) = Runtime::current()
        {
            // The listeners live on another one than it did.
            *host = AddressWatch::start(&runtime);
        }
        while let Poll::Ready(addresses) = host.poll(cx) {
            for listener in &mut self.listeners {
                listener.follow(&addresses);
            }
        }
    }

    fn listener_event(&mut self) -> Option<TransportEvent<Connecting, Error>> {
        let core = self.in_use.core();
        self.listeners.iter_mut().find_map(|listener| {
            let listener_id = listener.id();
            Some(match listener.next_event()? {
                ListenerEvent::NewAddress(listen_addr) => {
                    core.note_address(listener_id, listen_addr.clone());
                    TransportEvent::NewAddress {
                        listener_id,
                        listen_addr,
                    }
                }
                ListenerEvent::AddressExpired(listen_addr) => {
                    core.forget_address(listener_id, &listen_addr);
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
        let core = self.in_use.core();
        if core.is_shut_down() {
            return Err(other(ListenError::ShutDown));
        }
        let socket = core.listen(&runtime, socket_addr).map_err(|error| {
            other(match error {
                OpenError::Bind(source) => ListenError::Bind {
                    addr: socket_addr,
                    source,
                },
                OpenError::Certificate(error) => ListenError::Certificate(error),
                OpenError::DriverStopped => ListenError::DriverStopped,
            })
        })?;
        core.note_listener(id, &socket);
        let mut listener = Listener::new(id, socket);
        if listener.is_wildcard() {
            let start = || AddressWatch::start(&runtime);
            listener.follow(&self.host.get_or_insert_with(start).latest());
        }
        self.listeners.push(listener);
        self.close_deaf_listeners(self.in_use.core().have_stopped());
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
        self.close_deaf_listeners(self.in_use.core().have_stopped());
        let listeners: Vec<_> = self
            .listeners
            .iter()
            .filter(|listener| listener.can_reach(remote.socket_addr))
            .map(|listener| Arc::downgrade(listener.socket()))
            .collect();
        if opts.role == Endpoint::Listener {
            // Whatever port it asks for: the hole is for those that know the listener's.
            let Some(peer_id) = remote.peer_id else {
                return Err(TransportError::MultiaddrNotSupported(addr));
            };
            if listeners.is_empty() {
                return Err(TransportError::Other(DialError::NoListener.into()));
            }
            return Ok(Connecting::punch(Punch {
                in_use: Arc::clone(&self.in_use),
                punches: Arc::clone(&self.punches),
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
            in_use: Arc::clone(&self.in_use),
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
        if self.in_use.core().is_shut_down() {
            self.close_listeners(|_| true, || Ok(()));
        }
        if let Some((listener_id, reason)) = self.closed.pop_front() {
            return Poll::Ready(TransportEvent::ListenerClosed {
                listener_id,
                reason,
            });
        }
        // Addresses first: connections come in at announced ones only.
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

/// An incoming connection from an address that somebody is expected from.
struct Candidate {
    listener_id: ListenerId,
    local_addr: Multiaddr,
    remote_addr: SocketAddr,
    upgrade: Connecting,
}

impl Candidate {
    fn into_event(self) -> TransportEvent<Connecting, Error> {
        TransportEvent::Incoming {
            listener_id: self.listener_id,
            local_addr: self.local_addr,
            send_back_addr: address::to_multiaddr(self.remote_addr),
            upgrade: self.upgrade,
        }
    }
}

/// Most connections whose peer is found out before they are reported. Who forges an expected address gets no
/// further than that.
const MAX_CANDIDATES: usize = 64;

impl Drop for Transport {
    fn drop(&mut self) {
        self.close_listeners(|_| true, || Ok(()));
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
