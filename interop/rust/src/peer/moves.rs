//! Reports when a peer's address changes, from events that every behaviour gets from the Swarm.

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        AddressChange, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, ToSwarm, dummy,
    },
};

/// Observes the Swarm's events, and does nothing else.
#[derive(Default)]
pub struct Behaviour {
    moves: VecDeque<Moved>,
}

/// A peer has moved.
#[derive(Debug)]
pub struct Moved {
    pub peer_id: PeerId,
    /// Its current address.
    pub addr: Multiaddr,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Moved;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::AddressChange(AddressChange { peer_id, new, .. }) = event {
            self.moves.push_back(Moved {
                peer_id,
                addr: new.get_remote_address().clone(),
            });
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Moved, THandlerInEvent<Self>>> {
        self.moves.pop_front().map_or(Poll::Pending, |moved| {
            Poll::Ready(ToSwarm::GenerateEvent(moved))
        })
    }
}
