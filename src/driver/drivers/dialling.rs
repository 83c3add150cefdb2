//! From which socket a dial or a hole punch leaves, and its way to a driver.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};

use futures::channel::oneshot;
use libp2p_identity::PeerId;

use super::{Drivers, OpenError};
use crate::{
    address::{self, Host},
    config::MIN_MTU_BYTES,
    driver::{
        connection::Handshake,
        mailbox::Undeliverable,
        requests::{DialRequest, PacketRequest, Reply, Request},
        silent_hosts::{Advice, Departure, Heard, Port, first_try},
        socket_group::SocketGroup,
    },
    error::{DialError, Error},
    net::{clock, interfaces, task::Runtime},
    sync,
};

/// The socket from which a dial leaves.
#[derive(Clone, Debug)]
pub(crate) enum DialFrom {
    /// A new socket for this dial.
    New,
    /// The socket of one of these listeners, each of which could reach the target. If all of them
    /// are closed by then, the socket that dials without a listener share.
    Reused(Vec<Weak<SocketGroup>>),
    /// The socket that dials without a listener share, because the host has not answered packets
    /// from a listener's port. The handshake timeout is already running and ends at `deadline`.
    Other { deadline: Instant },
}

impl Drivers {
    /// Begins a dial. Call it when the dial is first polled, because its timeout runs from this
    /// call.
    pub(crate) fn request_dial(
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
        let (socket, port) = self
            .choose_socket(runtime, now, remote_addr, from)
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
            .request(Request::Dial(DialRequest {
                config: Box::new(config),
                max_payload,
                remote_addr,
                socket,
                deadline,
                silent_for: (port.is_first())
                    .then(|| first_try(self.config.initial_rtt(), timeout)),
                reply,
            }))
            .map_err(not_dialled)?;
        let departure = Departure {
            remote_addr,
            port,
            deadline,
        };
        Ok((receiver, departure))
    }

    /// Records for a host whether a dial that has ended heard anything from it.
    pub(crate) fn learn(&self, departure: &Departure, heard: Heard) {
        let comes_through = |local_port| {
            let mut registries = self.registries.iter();
            let host = Host::of(departure.remote_addr.ip());
            registries.any(|registry| sync::lock(registry).has_peer_at(host, local_port))
        };
        (self.silent_hosts).learn(clock::now(), departure, heard, comes_through);
    }

    /// Punches a hole: sends datagrams to `remote_addr` from the socket of one of these listeners,
    /// each of which could reach it, until the returned receiver is dropped. The receiver resolves
    /// when the time for a handshake is over, and is cancelled if the driver stops.
    ///
    /// `expect` is called only if the punch can begin, because it may end another one. A mailbox is
    /// locked then.
    pub(crate) fn punch<T>(
        &self,
        remote_addr: SocketAddr,
        listeners: &[Weak<SocketGroup>],
        expect: impl FnOnce() -> Result<T, DialError>,
    ) -> Result<(oneshot::Receiver<()>, T), DialError> {
        let socket = self
            .listener_socket(listeners, remote_addr)
            .ok_or(DialError::NoListener)?;
        let remote_addr = in_zone_of(&socket, remote_addr);
        let (over, receiver) = Reply::new();
        // One driver sends for all hole punches, so that it can limit how much is sent to one host.
        let request = Request::Packet(PacketRequest::Punch {
            remote_addr,
            socket,
            over,
        });
        let expected = (self.mailbox(0)?.request_with(request, expect)).map_err(not_dialled)??;
        Ok((receiver, expected))
    }

    /// The socket from which a dial leaves, and which port that is. Opens one if necessary.
    fn choose_socket(
        &self,
        runtime: &Runtime,
        now: Instant,
        remote_addr: SocketAddr,
        from: DialFrom,
    ) -> Result<(Arc<SocketGroup>, Port), OpenError> {
        self.replace_gone_drivers();
        let (is_new, port) = match from {
            DialFrom::New => (true, Port::Only),
            DialFrom::Other { .. } => (false, Port::Other),
            DialFrom::Reused(listeners) => match self.listener_socket(&listeners, remote_addr) {
                Some(socket) => {
                    let advice = self.silent_hosts.advice(now, remote_addr);
                    if advice != Advice::Other {
                        let port = Port::Listener {
                            number: socket.local_addr().port(),
                            is_first: advice == Advice::ListenerFirst,
                        };
                        return Ok((socket, port));
                    }
                    (false, Port::Other)
                }
                None => (false, Port::Only),
            },
        };
        if port == Port::Other {
            self.silent_hosts.count_dial();
        }
        let socket = self
            .sockets
            .to_dial_from(remote_addr.ip(), is_new, |addr| {
                self.open_socket(runtime, addr, false)
            })?;
        Ok((socket, port))
    }

    /// The socket of a listener from which to dial or to punch a hole: the one bound to the source
    /// address that the kernel would choose, or a wildcard socket, for which the kernel chooses
    /// that address. Any other socket belongs to another network, and answers might not reach it.
    fn listener_socket(
        &self,
        listeners: &[Weak<SocketGroup>],
        remote_addr: SocketAddr,
    ) -> Option<Arc<SocketGroup>> {
        let sockets: Vec<_> = listeners
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|socket| self.sockets.is_current(socket))
            .collect();
        if address::lacks_zone(remote_addr) {
            // The target's link is unknown, and a wildcard socket does not tell it either, so a
            // socket with a zone comes first.
            let has_zone =
                |socket: &&Arc<SocketGroup>| address::zone(socket.local_addr()).is_some();
            let zoned = sockets.iter().find(has_zone);
            return zoned.or_else(|| sockets.first()).map(Arc::clone);
        }
        let is_wildcard = |socket: &&Arc<SocketGroup>| socket.local_addr().ip().is_unspecified();
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
}

/// Adds the zone of the socket to `remote_addr` if that needs one and has none. Without a zone the
/// kernel would choose a link, and answers would come from an address that differs in its zone.
fn in_zone_of(socket: &SocketGroup, remote_addr: SocketAddr) -> SocketAddr {
    address::in_zone(remote_addr, || address::zone(socket.local_addr()))
}

/// The reason why a dial has not begun.
fn not_dialled(undeliverable: Undeliverable) -> DialError {
    match undeliverable {
        Undeliverable::Overloaded => DialError::Overloaded,
        Undeliverable::Stopped => DialError::DriverStopped,
        Undeliverable::ShutDown => DialError::ShutDown,
    }
}
