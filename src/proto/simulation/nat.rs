//! Address translation, for those whom the network has given another address than their own.

use std::{collections::BTreeMap, net::SocketAddr};

/// Who is seen under which address. An address that was given once is not given again.
#[derive(Default)]
pub(crate) struct Nat {
    public: BTreeMap<SocketAddr, SocketAddr>,
    own: BTreeMap<SocketAddr, SocketAddr>,
    given: u32,
}

impl Nat {
    /// Gives a node another address; the one before it leads nowhere from now on.
    pub(crate) fn rebind(&mut self, own: SocketAddr) -> SocketAddr {
        // The first 254 have a host of their own, and those after them another port of it.
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

    /// `None` for addresses that lead nowhere any more.
    pub(crate) fn inward(&self, to: SocketAddr) -> Option<SocketAddr> {
        if self.public.contains_key(&to) {
            return None;
        }
        Some(self.own.get(&to).copied().unwrap_or(to))
    }
}
