//! The sockets that dials leave from.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Instant,
};

use super::Sockets;
use crate::{address, driver::socket_group::SocketGroup, sync::lock};

impl Sockets {
    /// Returns the socket that dials of this family share, or a new one for a single dial if
    /// `unshared` is set. `open` opens it if necessary.
    pub(in crate::driver) fn to_dial_from<E>(
        &self,
        remote: IpAddr,
        unshared: bool,
        open: impl FnOnce(SocketAddr) -> Result<Arc<SocketGroup>, E>,
    ) -> Result<Arc<SocketGroup>, E> {
        let wildcard = address::wildcard(remote);
        let addr = SocketAddr::new(wildcard, 0);
        let mut dialling = lock(&self.dialling);
        if unshared {
            let socket = open(addr)?;
            dialling.add_unshared(&socket);
            return Ok(socket);
        }
        let dial_socket = match wildcard {
            IpAddr::V4(_) => &mut dialling.v4,
            IpAddr::V6(_) => &mut dialling.v6,
        };
        let socket = match dial_socket.current.upgrade() {
            Some(socket) => socket,
            None => {
                let socket = open(addr)?;
                *dial_socket = DialSocket::of(&socket);
                socket
            }
        };
        self.keep(&socket);
        Ok(socket)
    }
}

/// Sockets that dial and do not listen, while they are used.
#[derive(Default)]
pub(super) struct Dialling {
    /// The socket that all dials of a family share.
    v4: DialSocket,
    v6: DialSocket,
    /// Sockets of a single dial each.
    unshared: Vec<DialSocket>,
}

impl Dialling {
    pub(super) fn sockets(&mut self) -> impl Iterator<Item = &mut DialSocket> {
        [&mut self.v4, &mut self.v6]
            .into_iter()
            .chain(&mut self.unshared)
    }

    fn add_unshared(&mut self, socket: &Arc<SocketGroup>) {
        // Closed sockets are removed before the vector grows.
        if self.unshared.len() == self.unshared.capacity() {
            self.unshared
                .retain(|dial_socket| dial_socket.current.strong_count() > 0);
        }
        self.unshared.push(DialSocket::of(socket));
    }
}

/// A socket, and those that it has replaced.
#[derive(Default)]
pub(super) struct DialSocket {
    pub(super) current: Weak<SocketGroup>,
    /// The replaced sockets, as long as connections that cannot move yet use them. Each keeps the
    /// current one open as its successor.
    replaced: Vec<Weak<SocketGroup>>,
    /// When the current socket replaced a failed one.
    pub(super) replaced_at: Option<Instant>,
}

impl DialSocket {
    fn of(socket: &Arc<SocketGroup>) -> Self {
        Self {
            current: Arc::downgrade(socket),
            replaced: Vec::new(),
            replaced_at: None,
        }
    }

    /// Whether anyone uses the current socket, apart from the sockets that it has replaced and from
    /// [`Sockets::kept`].
    pub(super) fn is_used(&self, is_kept: bool) -> bool {
        let replaced = self.replaced.iter();
        let open = replaced.filter(|replaced| replaced.strong_count() > 0);
        self.current.strong_count() > open.count() + usize::from(is_kept)
    }

    pub(super) fn give_up(&mut self, socket: &Arc<SocketGroup>, successor: &Arc<SocketGroup>) {
        self.replaced.retain(|replaced| replaced.strong_count() > 0);
        self.replaced.push(Arc::downgrade(socket));
        for replaced in self.replaced.iter().filter_map(Weak::upgrade) {
            replaced.give_up_for(successor);
        }
        self.current = Arc::downgrade(successor);
    }
}
