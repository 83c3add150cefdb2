//! The addresses of this host, read from files in `/proc` on Linux if netlink sockets are not
//! permitted.
//!
//! Systemd's `RestrictAddressFamilies=` and other sandboxes refuse the socket, and getifaddrs(3) of
//! glibc and musl has no alternative.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Reads the addresses in the network namespace of the calling thread.
pub(super) fn read() -> io::Result<BTreeSet<IpAddr>> {
    let mut ips = local_routes(&fs::read_to_string("/proc/thread-self/net/fib_trie")?);
    match fs::read_to_string("/proc/thread-self/net/if_inet6") {
        Ok(text) => ips.extend(inet6_addresses(&text)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(ips)
}

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

/// The IPv6 addresses of all interfaces: one in each line, in hexadecimal digits without colons.
fn inet6_addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        (digits.len() == 32).then(|| Ipv6Addr::from_bits(bits).into())
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
}
