//! One listener: its socket, the addresses it is known by, and the events about them.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use libp2p_core::transport::ListenerId;
use multiaddr::Multiaddr;

use crate::{
    address,
    driver::{IncomingConnection, Socket},
    error::ListenError,
    net::host_addresses::HostAddresses,
};

/// Something to be reported about a listener.
#[derive(Debug)]
pub(crate) enum ListenerEvent {
    NewAddress(Multiaddr),
    AddressExpired(Multiaddr),
    Error(ListenError),
}

/// A listener of a transport.
pub(crate) struct Listener {
    id: ListenerId,
    socket: Arc<Socket>,
    addresses: Announcements,
    /// What is wrong, to be reported when all addresses are.
    errors: VecDeque<ListenError>,
    /// Whether it was reported that addresses are polled, and that they cannot be read.
    is_polled: bool,
    is_unread: bool,
}

impl Listener {
    pub(crate) fn new(id: ListenerId, socket: Arc<Socket>) -> Self {
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

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Whether it listens at whatever addresses the host has.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.local_addr().ip().is_unspecified()
    }

    /// Whether a dial to `remote` may leave from here.
    pub(crate) fn can_reach(&self, remote: SocketAddr) -> bool {
        // A wildcard listener is known by its loopback address only once that was announced; before,
        // the peer would see an address that the application does not know.
        let known =
            !remote.ip().is_loopback() || self.addresses.announced().any(IpAddr::is_loopback);
        address::can_reach(self.local_addr(), remote) && known
    }

    /// The address that a connection came in at, as far as it was announced.
    pub(crate) fn incoming_addr(&self, incoming: &IncomingConnection) -> Multiaddr {
        let addr = incoming.local_addr();
        if self.addresses.is_announced(addr.ip()) {
            address::to_multiaddr(addr)
        } else {
            address::to_multiaddr(self.local_addr())
        }
    }

    /// What there is to report next.
    pub(crate) fn next_event(&mut self) -> Option<ListenerEvent> {
        Some(match self.addresses.next_change() {
            Some(Change::New(ip)) => ListenerEvent::NewAddress(self.multiaddr(ip)),
            Some(Change::Expired(ip)) => ListenerEvent::AddressExpired(self.multiaddr(ip)),
            None => ListenerEvent::Error(self.errors.pop_front()?),
        })
    }

    /// Has something reported that is wrong.
    pub(crate) fn report(&mut self, error: ListenError) {
        self.errors.push_back(error);
    }

    /// Has a wildcard listener announce the addresses of this host.
    pub(crate) fn follow(&mut self, host: &HostAddresses) {
        if !self.is_wildcard() {
            return;
        }
        let is_v4 = self.local_addr().is_ipv4();
        let ips = host.ips.iter().copied();
        self.addresses
            .become_these(&ips.filter(|ip| ip.is_ipv4() == is_v4).collect());
        // Once for as long as it lasts.
        let was_polled = std::mem::replace(&mut self.is_polled, host.polled.is_some());
        if let Some(reason) = host.polled.as_ref().filter(|_| !was_polled) {
            self.report(ListenError::AddressesPolled(Arc::clone(reason)));
        }
        let was_unread = std::mem::replace(&mut self.is_unread, host.unread.is_some());
        if let Some(reason) = host.unread.as_ref().filter(|_| !was_unread) {
            self.report(ListenError::AddressesUnknown(Arc::clone(reason)));
        }
    }

    /// The address of this socket at `ip`, in the zone that it is bound to.
    fn multiaddr(&self, ip: IpAddr) -> Multiaddr {
        let mut addr = self.local_addr();
        addr.set_ip(ip);
        address::to_multiaddr(addr)
    }
}

/// The addresses that are announced, and how they become those that should be.
#[derive(Default)]
struct Announcements {
    /// Those that were announced and did not expire.
    announced: BTreeSet<IpAddr>,
    /// What is to be told next. It turns `announced` into what there should be.
    changes: VecDeque<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    New(IpAddr),
    Expired(IpAddr),
}

impl Announcements {
    /// What was not told yet is not told any more unless it still holds.
    fn become_these(&mut self, ips: &BTreeSet<IpAddr>) {
        // Those that are gone first: at no time more are announced than there are.
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
        /// However often they change, and however much of it is told in between.
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
