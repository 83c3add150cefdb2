//! One listener: its socket, its announced addresses and its events.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use libp2p_core::transport::ListenerId;
use multiaddr::Multiaddr;

use crate::{
    address,
    driver::{IncomingConnection, SocketGroup},
    error::ListenError,
    net::host_addresses::HostAddresses,
};

/// An event to report about a listener.
#[derive(Debug)]
pub(crate) enum ListenerEvent {
    NewAddress(Multiaddr),
    AddressExpired(Multiaddr),
    Error(ListenError),
}

/// A listener of a transport.
pub(crate) struct Listener {
    id: ListenerId,
    socket: Arc<SocketGroup>,
    addresses: Announcements,
    /// Errors to report after all changes of addresses.
    errors: VecDeque<ListenError>,
    /// Whether it has reported that addresses are polled (`is_polled`), or that they cannot be read
    /// (`is_unread`).
    is_polled: bool,
    is_unread: bool,
}

impl Listener {
    pub(crate) fn new(id: ListenerId, socket: Arc<SocketGroup>) -> Self {
        let mut listener = Self {
            id,
            addresses: Announcements::default(),
            errors: VecDeque::new(),
            is_polled: false,
            is_unread: false,
            socket,
        };
        if !listener.is_wildcard() {
            let ip = listener.local_addr().ip();
            listener.addresses.become_these(&BTreeSet::from([ip]));
        }
        listener
    }

    pub(crate) fn id(&self) -> ListenerId {
        self.id
    }

    pub(crate) fn socket(&self) -> &Arc<SocketGroup> {
        &self.socket
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Whether it listens at every address of the host.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.local_addr().ip().is_unspecified()
    }

    /// Whether a dial to `remote` may leave from this listener's socket.
    pub(crate) fn can_reach(&self, remote: SocketAddr) -> bool {
        // A dial to loopback shows the peer our loopback address. A wildcard listener announces
        // that address first; before, the application does not know it.
        let known = !self.is_wildcard()
            || !remote.ip().is_loopback()
            || self.addresses.announced().any(IpAddr::is_loopback);
        address::can_reach(self.local_addr(), remote) && known
    }

    /// The local address at which a connection came in, or the bound address if that one is not
    /// announced.
    pub(crate) fn incoming_addr(&self, incoming: &IncomingConnection) -> Multiaddr {
        let addr = incoming.local_addr();
        if self.addresses.is_announced(addr.ip()) {
            address::to_multiaddr(addr)
        } else {
            address::to_multiaddr(self.local_addr())
        }
    }

    /// The next event to report.
    pub(crate) fn next_event(&mut self) -> Option<ListenerEvent> {
        Some(match self.addresses.next_change() {
            Some(Change::New(ip)) => ListenerEvent::NewAddress(self.multiaddr(ip)),
            Some(Change::Expired(ip)) => ListenerEvent::AddressExpired(self.multiaddr(ip)),
            None => ListenerEvent::Error(self.errors.pop_front()?),
        })
    }

    /// Queues an error to be reported.
    pub(crate) fn report(&mut self, error: ListenError) {
        self.errors.push_back(error);
    }

    /// Makes a wildcard listener announce the addresses of this host.
    pub(crate) fn follow(&mut self, host: &HostAddresses) {
        if !self.is_wildcard() {
            return;
        }
        let is_v4 = self.local_addr().is_ipv4();
        let ips = host.ips.iter().copied();
        self.addresses
            .become_these(&ips.filter(|ip| ip.is_ipv4() == is_v4).collect());
        // Each condition is reported once, when it begins.
        let was_polled = std::mem::replace(&mut self.is_polled, host.polled.is_some());
        if let Some(reason) = host.polled.as_ref().filter(|_| !was_polled) {
            self.report(ListenError::AddressesPolled(Arc::clone(reason)));
        }
        let was_unread = std::mem::replace(&mut self.is_unread, host.unread.is_some());
        if let Some(reason) = host.unread.as_ref().filter(|_| !was_unread) {
            self.report(ListenError::AddressesUnknown(Arc::clone(reason)));
        }
    }

    /// The address of this socket at `ip`, in the zone to which the socket is bound.
    fn multiaddr(&self, ip: IpAddr) -> Multiaddr {
        let mut addr = self.local_addr();
        addr.set_ip(ip);
        address::to_multiaddr(addr)
    }
}

/// The announced addresses, and the changes that are still to be announced.
#[derive(Default)]
struct Announcements {
    /// Addresses that were announced and have not expired.
    announced: BTreeSet<IpAddr>,
    /// The changes still to be announced. Applied to `announced`, they give the current addresses.
    changes: VecDeque<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    New(IpAddr),
    Expired(IpAddr),
}

impl Announcements {
    /// Replaces the changes still to be announced by those that lead to `ips`.
    fn become_these(&mut self, ips: &BTreeSet<IpAddr>) {
        // Expired addresses first, so that we never announce more addresses than there are.
        let expired = self
            .announced
            .difference(ips)
            .map(|&ip| Change::Expired(ip));
        let new = ips.difference(&self.announced).map(|&ip| Change::New(ip));
        self.changes = expired.chain(new).collect();
    }

    fn next_change(&mut self) -> Option<Change> {
        let change = self.changes.pop_front()?;
        match change {
            Change::New(ip) => self.announced.insert(ip),
            Change::Expired(ip) => self.announced.remove(&ip),
        };
        Some(change)
    }

    fn announced(&self) -> impl Iterator<Item = &IpAddr> {
        self.announced.iter()
    }

    fn is_announced(&self, ip: IpAddr) -> bool {
        self.announced.contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ips(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<IpAddr> {
        let ip = |number| IpAddr::from([192, 0, 2, number]);
        numbers.into_iter().map(ip).collect()
    }

    fn changes(announcements: &mut Announcements) -> Vec<Change> {
        std::iter::from_fn(|| announcements.next_change()).collect()
    }

    fn is_news(change: Change, told: &mut BTreeSet<IpAddr>) -> bool {
        match change {
            Change::New(ip) => told.insert(ip),
            Change::Expired(ip) => told.remove(&ip),
        }
    }

    #[test]
    fn difference_is_told_with_what_is_gone_first() {
        let mut announcements = Announcements::default();
        announcements.become_these(&ips([1, 2]));
        assert_eq!(changes(&mut announcements).len(), 2);
        announcements.become_these(&ips([2, 3]));
        let [one, three] = [1, 3].map(|number| IpAddr::from([192, 0, 2, number]));
        let told = changes(&mut announcements);
        assert_eq!(told, [Change::Expired(one), Change::New(three)]);
        announcements.become_these(&ips([2, 3]));
        assert_eq!(changes(&mut announcements), []);
    }

    #[test]
    fn address_that_is_gone_before_it_was_told_is_never_told() {
        let mut announcements = Announcements::default();
        announcements.become_these(&ips([1]));
        announcements.become_these(&ips([]));
        assert_eq!(changes(&mut announcements), []);
    }

    proptest! {
        /// Holds however often the addresses change, and however many changes are announced in
        /// between.
        #[test]
        fn what_was_told_adds_up_to_what_there_is(
            steps in prop::collection::vec((prop::collection::btree_set(0..8_u8, 0..8), 0..10_usize), 1..20)
        ) {
            let mut announcements = Announcements::default();
            let mut told = BTreeSet::new();
            let mut last = BTreeSet::new();
            for (numbers, tell) in steps {
                last = ips(numbers);
                announcements.become_these(&last);
                for change in (0..tell).map_while(|_| announcements.next_change()) {
                    prop_assert!(is_news(change, &mut told));
                }
            }
            for change in changes(&mut announcements) {
                prop_assert!(is_news(change, &mut told));
            }
            prop_assert_eq!(&told, &last);
            prop_assert_eq!(announcements.announced, last);
        }
    }
}
