//! What Linux tells of the addresses of this host in files in `/proc`.
//!
//! They are read beside getifaddrs(3), which does not tell which IPv6 addresses cannot be used.
//! They replace it where netlink sockets are not permitted: systemd's `RestrictAddressFamilies=`
//! and other sandboxes refuse the socket, and getifaddrs(3) of glibc and musl has no alternative.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Reads the addresses in the network namespace of the calling thread.
pub(super) fn read() -> io::Result<BTreeSet<IpAddr>> {
    let mut ips = local_routes(&fs::read_to_string("/proc/thread-self/net/fib_trie")?);
    match fs::read_to_string(INET6) {
        Ok(text) => ips.extend(inet6_addresses(&text)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(ips)
}

/// The IPv6 addresses that no interface may use yet, or any more, as far as the file can be read.
pub(super) fn unusable() -> BTreeSet<IpAddr> {
    fs::read_to_string(INET6).map_or_else(|_| BTreeSet::new(), |text| unusable_in(&text))
}

const INET6: &str = "/proc/thread-self/net/if_inet6";

/// An address that was found at another host (RFC 4862 §5.4.5): `IFA_F_DADFAILED` of Linux.
const DUPLICATE: u8 = 0x08;

/// A tentative address that may be used nevertheless (RFC 4429): `IFA_F_OPTIMISTIC`.
const OPTIMISTIC: u8 = 0x04;

/// An address that is not known to be unique, so that packets to it are dropped (RFC 4862 §5.4):
/// `IFA_F_TENTATIVE`.
const TENTATIVE: u8 = 0x40;

/// The local IPv4 addresses in the routing table: a line has a prefix, and each line below it a
/// route for that prefix.
fn local_routes(text: &str) -> BTreeSet<IpAddr> {
    let mut ips = BTreeSet::new();
    let mut prefix = None;
    for line in text.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            prefix = leaf.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            ips.extend(prefix.map(IpAddr::V4));
        }
    }
    ips
}

/// The IPv6 addresses that an interface may use.
fn inet6_addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    let usable = inet6_lines(text).filter(|&(_, flags)| is_usable(flags));
    usable.map(|(ip, _)| ip)
}

fn unusable_in(text: &str) -> BTreeSet<IpAddr> {
    let unusable = inet6_lines(text).filter(|&(_, flags)| !is_usable(flags));
    let mut ips: BTreeSet<_> = unusable.map(|(ip, _)| ip).collect();
    if !ips.is_empty() {
        // Another interface may have the same address.
        for ip in inet6_addresses(text) {
            ips.remove(&ip);
        }
    }
    ips
}

fn is_usable(flags: u8) -> bool {
    flags & DUPLICATE == 0 && (flags & TENTATIVE == 0 || flags & OPTIMISTIC != 0)
}

/// The IPv6 addresses of all interfaces, with their flags. Each line has the address, in
/// hexadecimal digits without colons, the index of the interface, the length of the prefix, the
/// scope, the flags and the name of the interface.
fn inet6_lines(text: &str) -> impl Iterator<Item = (IpAddr, u8)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let digits = words.next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        let flags = u8::from_str_radix(words.nth(3)?, 16).ok()?;
        (digits.len() == 32).then(|| (Ipv6Addr::from_bits(bits).into(), flags))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(ips: &[&str]) -> BTreeSet<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn single_addresses_with_a_local_route_are_ours() {
        let text = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.25.0.4/30 2 0 2
        |-- 10.25.0.5
           /32 link UNICAST
        |-- 10.25.0.6
           /32 host LOCAL
        |-- 10.25.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
Local:
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 300.0.0.1
        /32 host LOCAL
";
        assert_eq!(local_routes(text), ips(&["10.25.0.6", "127.0.0.1"]));
        assert_eq!(local_routes("/32 host LOCAL"), BTreeSet::new());
    }

    #[test]
    fn lines_that_are_no_addresses_are_left_out() {
        let text = "\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000006 05 80 00 80     d0 x

1
+0000000000000000000000000000001 01 80 10 80       lo
zz000000000000000000000000000001 01 80 10 80       lo
";
        let read: BTreeSet<_> = inet6_addresses(text).collect();
        assert_eq!(read, ips(&["::1", "2001:db8::6"]));
    }

    #[test]
    fn addresses_that_no_interface_may_use_are_left_out() {
        let text = "\
20010db8000000000000000000000001 02 40 00 40       d0
20010db8000000000000000000000002 02 40 00 c8       d0
20010db8000000000000000000000003 02 40 00 44       d0
20010db8000000000000000000000004 02 40 00 20       d0
20010db8000000000000000000000005 02 40 00 48       d0
20010db8000000000000000000000005 03 40 00 80       d1
";
        let read: BTreeSet<_> = inet6_addresses(text).collect();
        let usable = ["2001:db8::3", "2001:db8::4", "2001:db8::5"];
        assert_eq!(read, ips(&usable));
        let unusable = ["2001:db8::1", "2001:db8::2"];
        assert_eq!(unusable_in(text), ips(&unusable));
        assert_eq!(unusable_in(""), BTreeSet::new());
    }
}
