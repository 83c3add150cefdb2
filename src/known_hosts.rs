//! A bounded map of what we have learned about hosts, with an expiry.

use std::{collections::HashMap, time::Instant};

use crate::address::Host;

/// One value for each host. Expired values make room for new ones; beyond the limit, new hosts are
/// not remembered.
///
/// Others choose the addresses, hence the standard hasher.
#[derive(Debug)]
pub(crate) struct KnownHosts<T>(HashMap<Host, T>);

/// A value that expires.
pub(crate) trait Passing {
    fn is_over(&self, now: Instant) -> bool;
}

/// A time at which something expires.
impl Passing for Instant {
    fn is_over(&self, now: Instant) -> bool {
        *self <= now
    }
}

impl<T> Default for KnownHosts<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Passing> KnownHosts<T> {
    /// The value noted last, even if it has expired.
    pub(crate) fn get(&self, host: Host) -> Option<&T> {
        // The map is almost always empty.
        (!self.0.is_empty()).then(|| self.0.get(&host)).flatten()
    }

    pub(crate) fn note(&mut self, now: Instant, host: Host, known: T) {
        let has_room = |hosts: &HashMap<_, _>| hosts.len() < MAX_HOSTS || hosts.contains_key(&host);
        if !has_room(&self.0) {
            self.0.retain(|_, known| !known.is_over(now));
        }
        if has_room(&self.0) {
            self.0.insert(host, known);
        }
    }

    pub(crate) fn forget(&mut self, host: Host) {
        if !self.0.is_empty() {
            self.0.remove(&host);
        }
    }
}

/// The most hosts remembered at once.
const MAX_HOSTS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::net::clock;

    #[test]
    fn so_many_hosts_are_remembered() {
        let now = clock::now();
        let mut hosts = KnownHosts::default();
        let host = |number: usize| Host::of(Ipv4Addr::from_bits(number as u32).into());
        let until = now + Duration::from_secs(10);
        for number in 0..=MAX_HOSTS {
            hosts.note(now, host(number), until);
        }
        assert_eq!(hosts.get(host(0)), Some(&until));
        assert_eq!(hosts.get(host(MAX_HOSTS)), None);
        // A host that is already there needs no room.
        let later = until + Duration::from_secs(1);
        hosts.note(now, host(0), later);
        assert_eq!(hosts.get(host(0)), Some(&later));
        hosts.forget(host(0));
        assert_eq!(hosts.get(host(0)), None);
        hosts.note(now, host(0), until);
        // Expired values make room.
        hosts.note(until, host(MAX_HOSTS), later);
        assert_eq!(hosts.get(host(MAX_HOSTS)), Some(&later));
        assert_eq!(hosts.0.len(), 1);
    }
}
