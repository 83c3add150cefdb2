//! What the STUN client of the application needs of the drivers.

use std::{net::SocketAddr, sync::Arc};

use libp2p_core::transport::ListenerId;

use super::Drivers;
use crate::{
    driver::{
        requests::{PacketRequest, Request},
        socket_group::SocketGroup,
        stun::StunDispatcher,
    },
    sync::lock,
};

impl Drivers {
    pub(crate) fn stun(&self) -> &StunDispatcher {
        &self.stun
    }

    /// Sends a datagram that is not QUIC. It is lost if the driver has stopped or its queue is
    /// full.
    pub(crate) fn send(
        &self,
        socket: Arc<SocketGroup>,
        remote_addr: SocketAddr,
        contents: Vec<u8>,
    ) {
        let Ok(mailbox) = self.mailbox(0) else {
            return;
        };
        let _ = mailbox.request(Request::Packet(PacketRequest::Send {
            remote_addr,
            socket,
            contents,
        }));
    }

    /// The socket of a listener, if it belongs to this transport.
    pub(crate) fn listening_socket(&self, listener_id: ListenerId) -> Option<Arc<SocketGroup>> {
        lock(&self.listeners)
            .iter()
            .find(|listener| listener.stats.listener_id == listener_id)?
            .socket
            .upgrade()
    }
}
