//! Routes of this host, and the interfaces at which they begin.

#[cfg(target_os = "linux")]
mod linux;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use super::fault::Fault;
use crate::address;

/// The source address that the kernel would choose to send to `remote`.
pub(crate) fn source_ip(remote: SocketAddr) -> Option<IpAddr> {
    let wildcard = SocketAddr::new(address::wildcard(remote.ip()), 0);
    let socket = towards(wildcard, remote).ok()??;
    socket.local_addr().ok().map(|addr| addr.ip())
}

/// Whether an interface has this source address of datagrams to `remote`. A deprecated address
/// counts until it is removed (RFC 4862 §5.5.4).
pub(crate) fn is_ours(ip: IpAddr, remote: SocketAddr) -> bool {
    let mut local = SocketAddr::new(ip, 0);
    if let (SocketAddr::V6(local), SocketAddr::V6(remote)) = (&mut local, remote)
        && local.ip().is_unicast_link_local()
    {
        local.set_scope_id(remote.scope_id());
    }
    // Any other error is not about the address.
    !UdpSocket::bind(local).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The largest UDP payload that the kernel would send unfragmented from `local`, which may be a
/// wildcard, to `remote`; `None` if it does not tell.
///
/// This is the limit of the interface, which nobody on the network can change. The limit of the
/// path is found by path MTU discovery. It is more than [`WIDEST_NETWORK_BYTES`] only if `remote`
/// is an address of this host.
///
/// # Errors
///
/// If the kernel has no route to the address. Only the kernel reports that, so no host on the
/// network can forge it.
pub(crate) fn max_payload(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u16>> {
    let socket = towards(local, remote)?;
    #[cfg(target_os = "linux")]
    {
        Ok(socket.and_then(|socket| {
            let headers = if remote.is_ipv4() { 28 } else { 48 };
            let payload = linux::mtu(&socket, remote.is_ipv4())?.saturating_sub(headers);
            let payload = u16::try_from(payload).unwrap_or(u16::MAX);
            // The kernel sends from the same address to one of its own.
            let is_same_host = remote.ip().is_loopback()
                || socket
                    .local_addr()
                    .is_ok_and(|local| local.ip() == remote.ip());
            Some(if is_same_host {
                payload
            } else {
                payload.min(WIDEST_NETWORK_BYTES)
            })
        }))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Ok(None)
    }
}

/// Most UDP payload that is tried on a network, in bytes. The networks of some containers claim to
/// carry as much as loopback does.
pub(crate) const WIDEST_NETWORK_BYTES: u16 = 16 * 1024;

/// A socket for which the kernel has chosen the route to `remote`, or `None` if it does not tell.
/// No packet is sent.
fn towards(mut local: SocketAddr, remote: SocketAddr) -> io::Result<Option<UdpSocket>> {
    local.set_port(0);
    // If no socket can be opened, the route is unknown.
    let Ok(socket) = UdpSocket::bind(local) else {
        return Ok(None);
    };
    match socket.connect(remote) {
        Ok(()) => Ok(Some(socket)),
        Err(error) if matches!(Fault::of(&error), Fault::Refused | Fault::Unreachable) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

/// The index of the interface with this name, for `/ip6zone`. On systems without such a call, zones
/// have only numbers.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    #[cfg(unix)]
    {
        nix::net::if_::if_nametoindex(name).ok()
    }
    #[cfg(not(unix))]
    {
        let _ = name;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:1";

    fn addr(addr: &str) -> SocketAddr {
        addr.parse().unwrap()
    }

    #[test]
    fn only_addresses_of_this_host_are_ours() {
        let remote = addr(LOOPBACK);
        assert!(is_ours(remote.ip(), remote));
        // Reserved for documentation.
        assert!(!is_ours([192, 0, 2, 1].into(), remote));
    }

    #[test]
    fn loopback_is_reached_from_itself() {
        let remote = addr(LOOPBACK);
        assert_eq!(source_ip(remote), Some(remote.ip()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_what_stays_on_this_host_may_be_wider_than_networks_are() {
        let remote = addr(LOOPBACK);
        let payload = max_payload(addr("0.0.0.0:0"), remote).unwrap().unwrap();
        assert!(payload > WIDEST_NETWORK_BYTES, "{payload}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn interface_has_the_index_that_belongs_to_its_name() {
        assert_eq!(
            index_of("lo"),
            Some(1),
            "the first of each network namespace"
        );
        assert_eq!(index_of("none"), None);
    }
}
