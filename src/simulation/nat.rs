//! Network address translation.

use std::{collections::BTreeMap, net::SocketAddr};

/// The external address of each node. An address is never assigned twice.
#[derive(Default)]
pub(crate) struct Nat {
    public: BTreeMap<SocketAddr, SocketAddr>,
    own: BTreeMap<SocketAddr, SocketAddr>,
    given: u32,
}

impl Nat {
    /// Assigns a new external address to a node; the previous one becomes invalid.
    pub(crate) fn rebind(&mut self, own: SocketAddr) -> SocketAddr {
        // The first 254 addresses are of different hosts, later ones have other ports.
        let [host, port] = [1 + self.given % 254, 1024 + self.given / 254];
        self.given += 1;
        let public = SocketAddr::from(([203, 0, 113, host as u8], port as u16));
        if let Some(before) = self.public.insert(own, public) {
            self.own.remove(&before);
        }
        self.own.insert(public, own);
        public
    }

    pub(crate) fn outward(&self, own: SocketAddr) -> SocketAddr {
        self.public.get(&own).copied().unwrap_or(own)
    }

    /// `None` for a node's own address if it has an external one.
    pub(crate) fn inward(&self, to: SocketAddr) -> Option<SocketAddr> {
        if self.public.contains_key(&to) {
            return None;
        }
        Some(self.own.get(&to).copied().unwrap_or(to))
    }
}
