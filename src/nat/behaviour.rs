//! The behaviour that sends STUN requests and reports the answers to the Swarm.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use libp2p_core::{
    Endpoint,
    transport::{ListenerId, PortUse},
};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionDenied, ConnectionId, ExpiredListenAddr, FromSwarm, ListenerClosed, NetworkBehaviour,
    NewListenAddr, ToSwarm, dummy,
};
use multiaddr::Multiaddr;

use super::config::Config;
use crate::{
    address,
    driver::{Drivers, SocketGroup, StunRegistration},
    handle::Handle,
    net::{Timer, clock},
    proto::{Finding, MappingBehaviour, StunClient, StunTransmit},
};

/// Finds out the addresses at which others see the listeners of a transport.
///
/// It sends requests when a listener begins, when an interface gains or loses an address, and then
/// periodically. The address at which a listener is seen becomes a candidate for an external
/// address of the Swarm ([`NewExternalAddrCandidate`](ToSwarm::NewExternalAddrCandidate)), unless
/// the NAT is known to show a different one to each remote host. When the address changes or the
/// listener closes, it expires ([`ExternalAddrExpired`](ToSwarm::ExternalAddrExpired)).
///
/// A transport serves one `Behaviour`; a second one replaces the first.
/// [`StunStats`](crate::StunStats) counts what was sent and what was dropped.
pub struct Behaviour {
    drivers: Arc<Drivers>,
    registration: Arc<StunRegistration>,
    listeners: Vec<Listener>,
    events: VecDeque<ToSwarm<Event, Infallible>>,
    timer: Timer,
}

/// A result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A listener is seen at a new address, or the NAT's behaviour differs from what was known.
    Mapped {
        /// The listener.
        listener_id: ListenerId,
        /// The address that a server reported: that of the first server in the configuration that
        /// has answered.
        address: Multiaddr,
        /// The NAT's behaviour; `None` if too few servers have answered to tell. A late answer may
        /// cause another event.
        behaviour: Option<MappingBehaviour>,
    },
    /// No server has answered; they are asked again later. Earlier results remain valid.
    Unanswered {
        /// The listener.
        listener_id: ListenerId,
    },
}

struct Listener {
    id: ListenerId,
    local_addr: SocketAddr,
    socket: Weak<SocketGroup>,
    /// The address that was reported to the Swarm.
    offered: Option<Multiaddr>,
}

impl Behaviour {
    /// Creates the behaviour for the transport of this handle, with the servers and the interval of
    /// `config`.
    pub fn new(handle: &Handle, config: Config) -> Self {
        let drivers = Arc::clone(&handle.drivers);
        let client = StunClient::new(config.servers, config.interval, rand::random());
        Self {
            registration: drivers.stun().register(client),
            drivers,
            listeners: Vec::new(),
            events: VecDeque::new(),
            timer: Timer::default(),
        }
    }

    /// Sends requests for a listener that is new, or has gained or lost an address.
    fn ask_about(&mut self, id: ListenerId) {
        let local_addr = if let Some(listener) = self.listener(id) {
            listener.local_addr
        } else {
            let Some(socket) = self.drivers.listening_socket(id) else {
                // The listener belongs to another transport.
                return;
            };
            let local_addr = socket.local_addr();
            self.listeners.push(Listener {
                id,
                local_addr,
                socket: Arc::downgrade(&socket),
                offered: None,
            });
            local_addr
        };
        self.registration
            .lock()
            .client
            .ask_about(clock::now(), local_addr);
    }

    fn forget(&mut self, id: ListenerId) {
        let Some(index) = self.listeners.iter().position(|listener| listener.id == id) else {
            return;
        };
        let listener = self.listeners.swap_remove(index);
        self.registration.lock().client.forget(listener.local_addr);
        if let Some(offered) = listener.offered {
            self.events.push_back(ToSwarm::ExternalAddrExpired(offered));
        }
    }

    fn send(&self, transmit: StunTransmit) {
        let socket = self
            .listeners
            .iter()
            .find(|listener| listener.local_addr == transmit.from)
            .and_then(|listener| listener.socket.upgrade());
        if let Some(socket) = socket {
            self.drivers.send(socket, transmit.to, transmit.contents);
        }
    }

    fn report(&mut self, local_addr: SocketAddr, finding: Finding) {
        let Some(listener) = self
            .listeners
            .iter_mut()
            .find(|listener| listener.local_addr == local_addr)
        else {
            return;
        };
        let listener_id = listener.id;
        let event = match finding {
            Finding::Unanswered => Event::Unanswered { listener_id },
            Finding::Mapped { addr, behaviour } => {
                let address = address::to_multiaddr(addr);
                let is_of_use = behaviour != Some(MappingBehaviour::EndpointDependent);
                let offer = is_of_use.then(|| address.clone());
                if listener.offered != offer {
                    let expired = std::mem::replace(&mut listener.offered, offer.clone());
                    self.events
                        .extend(expired.map(ToSwarm::ExternalAddrExpired));
                    self.events
                        .extend(offer.map(ToSwarm::NewExternalAddrCandidate));
                }
                Event::Mapped {
                    listener_id,
                    address,
                    behaviour,
                }
            }
        };
        self.events.push_back(ToSwarm::GenerateEvent(event));
    }

    fn listener(&self, id: ListenerId) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.id == id)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, .. })
            | FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, .. }) => {
                self.ask_about(listener_id);
            }
            FromSwarm::ListenerClosed(ListenerClosed { listener_id, .. }) => {
                self.forget(listener_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, Infallible>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let now = clock::now();
            let registration = Arc::clone(&self.registration);
            let mut registered = registration.lock();
            registered.waker = Some(cx.waker().clone());
            while let Some(transmit) = registered.client.poll_transmit(now) {
                self.send(transmit);
            }
            while let Some((local_addr, finding)) = registered.client.poll_finding() {
                self.report(local_addr, finding);
            }
            let deadline = registered.client.next_timeout();
            let stats = registered.client.take_stats();
            drop(registered);
            self.drivers.stun().post(stats);
            if self.events.is_empty() && self.timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour")
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}
