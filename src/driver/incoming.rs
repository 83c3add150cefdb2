//! Incoming connections on their way to the application.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::channel::oneshot;

use super::{
    connection::Handshake,
    mailbox::{Generation, Mailbox, Undeliverable},
    requests::{Accept, PacketRequest, Reply, Request},
    socket_group::SocketGroup,
    wakers,
};
use crate::{
    error::{ConnectionError, HandshakeError},
    net::interfaces,
    proto::{Incoming, IncomingKey},
    sync::{AtomicWaker, Mutex, lock},
};

/// An incoming connection that waits for the application's answer; dropping it refuses it.
pub(crate) struct IncomingConnection {
    key: IncomingKey,
    socket: Arc<SocketGroup>,
    remote_addr: SocketAddr,
    local_ip: Option<IpAddr>,
    mailbox: Arc<Mailbox>,
    /// The driver that issued the key. For a later driver, the same key may name another
    /// connection.
    generation: Generation,
    answered: bool,
}

impl IncomingConnection {
    pub(super) fn new(incoming: Incoming<Arc<SocketGroup>>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            key: incoming.key,
            socket: incoming.socket,
            remote_addr: incoming.remote_addr,
            local_ip: incoming.local_ip,
            generation: mailbox.generation(),
            mailbox,
            answered: false,
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn key(&self) -> IncomingKey {
        self.key
    }

    pub(crate) fn socket(&self) -> &Arc<SocketGroup> {
        &self.socket
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    /// The address that the peer has sent to, with the socket's port.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        let mut addr = self.socket.local_addr();
        if let Some(ip) = self.local_ip
            && ip.is_ipv4() == addr.is_ipv4()
        {
            addr.set_ip(ip);
        }
        addr
    }

    /// Asks the driver to begin the handshake. If the driver has too much to do, the connection is
    /// refused.
    pub(crate) fn accept(
        mut self,
    ) -> Result<oneshot::Receiver<Result<Handshake, HandshakeError>>, HandshakeError> {
        let (reply, receiver) = Reply::new();
        let accept = Accept {
            key: self.key,
            max_payload: interfaces::max_payload(self.local_addr(), self.remote_addr)
                .ok()
                .flatten(),
            reply,
        };
        let request = Request::Accept(accept);
        match self.mailbox.request_in(self.generation, request) {
            Ok(()) => {
                self.answered = true;
                Ok(receiver)
            }
            Err(Undeliverable::Overloaded) => Err(HandshakeError::Overloaded),
            Err(Undeliverable::Stopped) => Err(ConnectionError::DriverStopped.into()),
            Err(Undeliverable::ShutDown) => Err(HandshakeError::ShutDown),
        }
    }
}

impl Drop for IncomingConnection {
    fn drop(&mut self) {
        if !self.answered {
            let refusal = PacketRequest::Refuse { key: self.key };
            // If the request is not delivered, the connection is dropped after its timeout.
            let refusal = Request::Packet(refusal);
            let _ = self.mailbox.request_in(self.generation, refusal);
        }
    }
}

/// Incoming connections of all shards, for the transport to take.
pub(super) struct IncomingQueue {
    queue: Mutex<VecDeque<IncomingConnection>>,
    limit: usize,
    /// Of the transport, which waits for a connection, and for what else the drivers report.
    waker: AtomicWaker,
}

impl IncomingQueue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::default(),
            limit,
            waker: AtomicWaker::new(),
        }
    }

    /// Appends a connection, or drops and so refuses it if the queue is full.
    pub(super) fn push(&self, incoming: IncomingConnection) {
        let mut queue = lock(&self.queue);
        if queue.len() >= self.limit {
            drop(queue);
            drop(incoming);
            return;
        }
        queue.push_back(incoming);
        drop(queue);
        self.wake();
    }

    pub(super) fn wake(&self) {
        wakers::wake(self.waker.take());
    }

    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<IncomingConnection> {
        // Registered before checking, so that no change is missed in between.
        self.register(cx.waker());
        match lock(&self.queue).pop_front() {
            Some(incoming) => Poll::Ready(incoming),
            None => Poll::Pending,
        }
    }

    /// Drops, and so refuses, the connections that came in at this socket.
    pub(super) fn refuse_from(&self, socket: &Arc<SocketGroup>) {
        let mut queue = lock(&self.queue);
        let (refused, kept): (VecDeque<_>, VecDeque<_>) = queue
            .drain(..)
            .partition(|incoming| Arc::ptr_eq(&incoming.socket, socket));
        *queue = kept;
        drop(queue);
        drop(refused);
    }

    pub(super) fn clear(&self) {
        let refused = std::mem::take(&mut *lock(&self.queue));
        drop(refused);
    }
}
