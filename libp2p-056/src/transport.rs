//! The `Transport` of libp2p-core 0.43.

use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll, ready},
};

use libp2p_core::{
    Endpoint,
    transport::{self, DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};
use libp2p_core_044::{
    Endpoint as NewerEndpoint, Transport as _,
    transport::{
        DialOpts as NewerDialOpts, ListenerId as NewerListenerId, PortUse as NewerPortUse,
        TransportError as NewerTransportError, TransportEvent as NewerTransportEvent,
    },
};
use libp2p_identity::PeerId;
use libp2p_quinn::{Config, Error, Handle};
use multiaddr::Multiaddr;

use crate::{Connecting, Connection, newer, older};

/// A [`libp2p_quinn::Transport`] for libp2p 0.56, which takes the same addresses and does the same.
#[derive(Debug)]
pub struct Transport {
    inner: libp2p_quinn::Transport,
    /// The number that libp2p 0.56 has given each listener that is not reported as closed.
    listeners: HashMap<NewerListenerId, ListenerId>,
}

impl Transport {
    /// Creates a transport with this configuration. It opens no socket yet.
    pub fn new(config: Config) -> Self {
        Self {
            inner: libp2p_quinn::Transport::new(config),
            listeners: HashMap::new(),
        }
    }

    /// Returns a handle to the transport, which also works after a Swarm has taken the transport.
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    fn older_id(&self, id: NewerListenerId) -> ListenerId {
        *(self.listeners.get(&id)).expect("there is no event of a listener after its end")
    }

    fn older_event(
        &mut self,
        event: NewerTransportEvent<libp2p_quinn::Connecting, Error>,
    ) -> TransportEvent<Connecting, Error> {
        match event {
            NewerTransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => TransportEvent::NewAddress {
                listener_id: self.older_id(listener_id),
                listen_addr: older_addr(&listen_addr),
            },
            NewerTransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            } => TransportEvent::AddressExpired {
                listener_id: self.older_id(listener_id),
                listen_addr: older_addr(&listen_addr),
            },
            NewerTransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => TransportEvent::Incoming {
                listener_id: self.older_id(listener_id),
                upgrade: Connecting::new(upgrade),
                local_addr: older_addr(&local_addr),
                send_back_addr: older_addr(&send_back_addr),
            },
            NewerTransportEvent::ListenerClosed {
                listener_id: id,
                reason,
            } => {
                let listener_id = self.older_id(id);
                self.listeners.remove(&id);
                TransportEvent::ListenerClosed {
                    listener_id,
                    reason,
                }
            }
            NewerTransportEvent::ListenerError { listener_id, error } => {
                TransportEvent::ListenerError {
                    listener_id: self.older_id(listener_id),
                    error,
                }
            }
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
        let Ok(newer_addr) = newer::multiaddr(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let newer_id = NewerListenerId::next();
        (self.inner.listen_on(newer_id, newer_addr)).map_err(|error| older_error(error, addr))?;
        self.listeners.insert(newer_id, id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let found = self.listeners.iter().find(|(_, older)| **older == id);
        // The number stays until `poll` reports the end.
        found.is_some_and(|(newer, _)| self.inner.remove_listener(*newer))
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let Ok(newer_addr) = newer::multiaddr(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let opts = NewerDialOpts {
            role: match opts.role {
                Endpoint::Dialer => NewerEndpoint::Dialer,
                Endpoint::Listener => NewerEndpoint::Listener,
            },
            port_use: match opts.port_use {
                PortUse::New => NewerPortUse::New,
                PortUse::Reuse => NewerPortUse::Reuse,
            },
        };
        let dial = self.inner.dial(newer_addr, opts);
        dial.map(Connecting::new)
            .map_err(|error| older_error(error, addr))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let event = ready!(Pin::new(&mut self.inner).poll(cx));
        Poll::Ready(self.older_event(event))
    }
}

/// Converts the error of a call that was made with `addr`.
fn older_error(error: NewerTransportError<Error>, addr: Multiaddr) -> TransportError<Error> {
    match error {
        NewerTransportError::MultiaddrNotSupported(_) => {
            TransportError::MultiaddrNotSupported(addr)
        }
        NewerTransportError::Other(error) => TransportError::Other(error),
    }
}

/// Converts an address that libp2p-quinn has made.
pub(crate) fn older_addr(addr: &newer::Multiaddr) -> Multiaddr {
    older::multiaddr(addr).expect("IP, UDP and QUIC are known to both versions")
}
