//! One listener: its socket, the addresses it is known by, and the events about them.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

use libp2p_core::transport::ListenerId;
use multiaddr::Multiaddr;

use crate::{
    address,
    driver::{IncomingConnection, Socket},
    error::ListenError,
    net::{
        interfaces::{InterfaceEvent, InterfaceWatcher},
        task::Runtime,
    },
};

/// Something to be reported about a listener.
pub(crate) enum ListenerEvent {
    NewAddress(Multiaddr),
    AddressExpired(Multiaddr),
    Error(ListenError),
}

/// What is to be reported next.
enum Pending {
    Up(IpAddr),
    Down(IpAddr),
    Error(ListenError),
}

/// A listener of a transport.
pub(crate) struct Listener {
    id: ListenerId,
    socket: Arc<Socket>,
    /// The addresses that were announced and did not expire.
    announced: BTreeSet<IpAddr>,
    pending: VecDeque<Pending>,
    /// Only for wildcard addresses.
    watcher: Option<InterfaceWatcher>,
}

impl Listener {
    pub(crate) fn new(
        id: ListenerId,
        socket: Arc<Socket>,
        runtime: &Runtime,
    ) -> Result<Self, ListenError> {
        let mut listener = Self {
            id,
            announced: BTreeSet::new(),
            pending: VecDeque::new(),
            watcher: None,
            socket,
        };
        let ip = listener.local_addr().ip();
        if ip.is_unspecified() {
            let watcher = InterfaceWatcher::new(runtime).map_err(ListenError::Interfaces)?;
            listener.watcher = Some(watcher);
        } else {
            listener.pending.push_back(Pending::Up(ip));
        }
        Ok(listener)
    }

    pub(crate) fn id(&self) -> ListenerId {
        self.id
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.announced
            .iter()
            .map(|&ip| self.multiaddr(ip))
            .collect()
    }

    /// Whether a dial to `remote` may leave from here.
    pub(crate) fn can_reach(&self, remote: IpAddr) -> bool {
        let local = self.local_addr().ip();
        // A wildcard listener is known by its loopback address only once that was announced; before,
        // the peer would see an address that the application does not know.
        let known = !remote.is_loopback() || self.announced.iter().any(IpAddr::is_loopback);
        address::can_reach(local, remote) && known
    }

    /// The address that a connection came in at, as far as it was announced.
    pub(crate) fn incoming_addr(&self, incoming: &IncomingConnection) -> Multiaddr {
        let addr = incoming.local_addr();
        if self.announced.contains(&addr.ip()) {
            address::to_multiaddr(addr)
        } else {
            address::to_multiaddr(self.local_addr())
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ListenerEvent> {
        while let Some(watcher) = &mut self.watcher {
            match watcher.poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(event)) => self.on_interface_event(event),
                Poll::Ready(Err(error)) => {
                    // Not to be polled again; the addresses known so far stay.
                    self.watcher = None;
                    let error = ListenError::Interfaces(error);
                    self.pending.push_back(Pending::Error(error));
                }
            }
        }
        let Some(event) = self.pending.pop_front() else {
            return Poll::Pending;
        };
        Poll::Ready(match event {
            Pending::Up(ip) => {
                self.announced.insert(ip);
                ListenerEvent::NewAddress(self.multiaddr(ip))
            }
            Pending::Down(ip) => {
                self.announced.remove(&ip);
                ListenerEvent::AddressExpired(self.multiaddr(ip))
            }
            Pending::Error(error) => ListenerEvent::Error(error),
        })
    }

    /// Has something reported that is wrong.
    pub(crate) fn report(&mut self, error: ListenError) {
        self.pending.push_back(Pending::Error(error));
    }

    fn on_interface_event(&mut self, event: InterfaceEvent) {
        let (InterfaceEvent::Up(ip) | InterfaceEvent::Down(ip)) = event;
        if ip.is_ipv4() != self.local_addr().is_ipv4() {
            return;
        }
        self.pending.push_back(match event {
            InterfaceEvent::Up(ip) => Pending::Up(ip),
            InterfaceEvent::Down(ip) => Pending::Down(ip),
        });
    }

    fn multiaddr(&self, ip: IpAddr) -> Multiaddr {
        address::to_multiaddr(SocketAddr::new(ip, self.local_addr().port()))
    }
}
