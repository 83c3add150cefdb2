//! The addresses of this host, as the operating system lists them.

use std::{collections::BTreeSet, io, net::IpAddr};

use crate::address;

/// Reads the addresses of all interfaces that are up. May block.
///
/// # Errors
///
/// The first error of the system, if no alternative works either.
pub(super) fn read() -> io::Result<BTreeSet<IpAddr>> {
    let ips = match listed() {
        Ok(listed) => usable(listed.into_iter().map(|listed| listed.ip).collect()),
        // If getifaddrs(3) may not open a netlink socket.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Err(refusal) => super::proc_net::read().map_err(|_| refusal)?,
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        Err(refusal) => return Err(refusal),
    };
    Ok(announced(ips))
}

/// Leaves out the addresses that the kernel does not use yet, or any more: another host may have
/// them. getifaddrs(3) does not tell.
fn usable(mut ips: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    for ip in super::proc_net::unusable() {
        ips.remove(&ip);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = &mut ips;
    ips
}

/// The addresses that other hosts can dial without a zone.
fn announced(mut ips: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    ips.retain(|&ip| !ip.is_unspecified() && !address::needs_zone(ip));
    ips
}

/// The zone of link-local addresses, if only one link that is up has such addresses. May block.
pub(super) fn only_link() -> Option<u32> {
    let links: BTreeSet<u32> = listed()
        .ok()?
        .into_iter()
        .filter(|listed| address::needs_zone(listed.ip))
        .filter_map(|listed| listed.zone)
        .collect();
    let mut links = links.into_iter();
    links.next().filter(|_| links.next().is_none())
}

/// An address of an interface that is up. For a point-to-point link, it is our address and not the
/// peer's.
struct Listed {
    ip: IpAddr,
    /// The index of the interface; only for IPv6 addresses.
    zone: Option<u32>,
}

#[cfg(unix)]
fn listed() -> io::Result<Vec<Listed>> {
    use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

    let listed = getifaddrs()?
        .filter(|listed| listed.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|listed| {
            let addr = listed.address?;
            let v4 = addr.as_sockaddr_in().map(|addr| Listed {
                ip: addr.ip().into(),
                zone: None,
            });
            v4.or_else(|| {
                addr.as_sockaddr_in6().map(|addr| Listed {
                    ip: addr.ip().into(),
                    zone: Some(addr.scope_id()),
                })
            })
        });
    Ok(listed.collect())
}

#[cfg(windows)]
fn listed() -> io::Result<Vec<Listed>> {
    let listed = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(if_addrs::Interface::is_oper_up)
        .map(|listed| Listed {
            ip: listed.ip(),
            zone: listed.index.filter(|_| listed.ip().is_ipv6()),
        });
    Ok(listed.collect())
}

#[cfg(not(any(unix, windows)))]
fn listed() -> io::Result<Vec<Listed>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_dial_as_it_stands_is_not_announced() {
        let ips = |ips: &[&str]| -> BTreeSet<IpAddr> {
            ips.iter().map(|ip| ip.parse().unwrap()).collect()
        };
        let all = ips(&[
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "192.0.2.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
        ]);
        let kept = [
            "127.0.0.1",
            "169.254.1.1",
            "192.0.2.1",
            "::1",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
        ];
        assert_eq!(announced(all), ips(&kept));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn both_ways_of_reading_find_the_same() {
        // The addresses may change between the two readings, hence several attempts.
        let agree = || {
            let listed = listed().unwrap().into_iter().map(|listed| listed.ip);
            announced(usable(listed.collect()))
                == announced(super::super::proc_net::read().unwrap())
        };
        assert!((0..10).any(|_| agree()));
    }
}
