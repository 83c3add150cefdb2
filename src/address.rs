//! Conversion between `Multiaddr` and QUIC addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

/// A parsed `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`, with an optional `/ip6zone/…` in front of an IPv6
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuicAddress {
    pub(crate) socket_addr: SocketAddr,
    pub(crate) peer_id: Option<PeerId>,
}

impl QuicAddress {
    /// Parses an address to listen on or to dial. Returns `None` for an address that does not match
    /// the grammar above.
    ///
    /// `zone_index` returns the index of the interface with this name. It is called if the address
    /// has a zone that is not a number.
    pub(crate) fn parse(
        addr: &Multiaddr,
        zone_index: impl FnOnce(&str) -> Option<u32>,
    ) -> Option<Self> {
        let mut protocols = addr.iter();
        let mut scope_id = 0;
        let mut first = protocols.next()?;
        if let Protocol::Ip6zone(zone) = &first {
            // An IPv4 address has no zone: RFC 6874 is about IPv6 only.
            let index = zone.parse().ok().or_else(|| zone_index(zone))?;
            scope_id = index;
            first = protocols.next()?;
            if !matches!(first, Protocol::Ip6(_)) {
                return None;
            }
        }
        let ip = match first {
            Protocol::Ip4(ip) => IpAddr::V4(ip),
            Protocol::Ip6(ip) => IpAddr::V6(ip),
            _ => return None,
        };
        let Protocol::Udp(port) = protocols.next()? else {
            return None;
        };
        let Protocol::QuicV1 = protocols.next()? else {
            return None;
        };
        // Programs add a peer ID to addresses that already have it, and no transport of libp2p
        // minds. An address of two different peers has no meaning.
        let mut peer_id = None;
        for protocol in protocols {
            let Protocol::P2p(named) = protocol else {
                return None;
            };
            if peer_id.replace(named).is_some_and(|other| other != named) {
                return None;
            }
        }
        let socket_addr = match ip {
            IpAddr::V6(ip) if needs_zone(ip.into()) => {
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope_id))
            }
            // Other addresses mean the same in every zone, so the zone is dropped. An IPv4-mapped
            // address becomes the IPv4 address (RFC 4291 §2.5.5.2), because packets from it carry
            // the IPv4 form.
            ip => SocketAddr::from((ip.to_canonical(), port)),
        };
        Some(Self {
            socket_addr,
            peer_id,
        })
    }

    /// Whether a packet can be sent to this address: it has a port and means one host.
    pub(crate) fn is_dialable(&self) -> bool {
        is_unicast(self.socket_addr)
    }
}

/// Whether the address means one host. A packet from any other address is forged, and the operating
/// system refuses to send an answer there, or would send it to many hosts.
pub(crate) fn is_unicast(addr: SocketAddr) -> bool {
    addr.port() != 0
        && !addr.ip().to_canonical().is_unspecified()
        && !is_multicast_or_broadcast(addr.ip())
}

/// Whether many hosts may receive a datagram to this address, judging by the address alone.
pub(crate) fn is_multicast_or_broadcast(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// The unspecified address in the family of `ip`.
pub(crate) fn wildcard(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A host, as limits on what we send count it: an IPv4 address, or the /64 of an IPv6 address.
///
/// A /64 is the smallest network in IPv6 (RFC 4291 §2.5.1). A host in it may use any number of its
/// addresses, and all of them are behind the same link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Host(IpAddr);

impl Host {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }

    /// Whether it is another host on each link.
    pub(crate) fn is_link_local(self) -> bool {
        is_link_local(self.0)
    }
}

/// Formats the address as `/ip4|ip6/…/udp/…/quic-v1`, with the index of its zone if it has one.
pub(crate) fn to_multiaddr(addr: SocketAddr) -> Multiaddr {
    let zone = match addr {
        SocketAddr::V6(addr) if addr.scope_id() != 0 => {
            Multiaddr::from(Protocol::Ip6zone(addr.scope_id().to_string().into()))
        }
        _ => Multiaddr::empty(),
    };
    zone.with(addr.ip().into())
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
}

/// Whether a listener bound to `local` (perhaps a wildcard) can send to `remote` and receive an
/// answer.
///
/// A loopback socket reaches only this host, and a link-local socket only its link. Neither reaches
/// a public address.
pub(crate) fn can_reach(local: SocketAddr, remote: SocketAddr) -> bool {
    let (local_ip, remote_ip) = (local.ip(), remote.ip());
    if local_ip.is_ipv4() != remote_ip.is_ipv4() {
        return false;
    }
    let is_same_link = match (zone(local), zone(remote)) {
        (Some(local), Some(remote)) => local == remote,
        _ => true,
    };
    local_ip.is_unspecified()
        || (local_ip.is_loopback() == remote_ip.is_loopback()
            && is_link_local(local_ip) == is_link_local(remote_ip)
            && is_same_link)
}

/// Whether the address means a different host on each link, so that it needs a zone (RFC 4007 §6).
/// No IPv4 address has a zone.
pub(crate) fn needs_zone(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The zone of an address that needs one and has one.
pub(crate) fn zone(addr: SocketAddr) -> Option<u32> {
    match addr {
        SocketAddr::V6(addr) if needs_zone((*addr.ip()).into()) => {
            Some(addr.scope_id()).filter(|&zone| zone != 0)
        }
        _ => None,
    }
}

/// Whether the address needs a zone and has none.
pub(crate) fn lacks_zone(addr: SocketAddr) -> bool {
    needs_zone(addr.ip()) && zone(addr).is_none()
}

/// Adds the zone that `find` returns to an address that needs one and has none.
pub(crate) fn in_zone(addr: SocketAddr, find: impl FnOnce() -> Option<u32>) -> SocketAddr {
    match addr {
        SocketAddr::V6(mut v6) if needs_zone(addr.ip()) && v6.scope_id() == 0 => {
            v6.set_scope_id(find().unwrap_or_default());
            v6.into()
        }
        _ => addr,
    }
}

/// Whether a dial of `dialled` may have reached `addr`: without a zone, it may have taken any.
pub(crate) fn reaches(dialled: SocketAddr, addr: SocketAddr) -> bool {
    dialled == addr || (lacks_zone(dialled) && without_zone(addr) == dialled)
}

fn without_zone(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(mut v6) => {
            v6.set_scope_id(0);
            v6.into()
        }
        SocketAddr::V4(_) => addr,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(addr: &str) -> Option<QuicAddress> {
        QuicAddress::parse(&addr.parse().unwrap(), |name| (name == "eth7").then_some(7))
    }

    #[test]
    fn reads_both_families_with_and_without_a_peer() {
        let peer = "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv";
        let v4 = parse("/ip4/192.0.2.7/udp/4001/quic-v1").unwrap();
        assert_eq!(v4.socket_addr, "192.0.2.7:4001".parse().unwrap());
        assert_eq!(v4.peer_id, None);
        let v6 = parse(&format!("/ip6/2001:db8::7/udp/4001/quic-v1/p2p/{peer}")).unwrap();
        assert_eq!(v6.socket_addr, "[2001:db8::7]:4001".parse().unwrap());
        assert_eq!(v6.peer_id, Some(peer.parse().unwrap()));
    }

    #[test]
    fn the_same_peer_may_be_named_twice_and_two_peers_not() {
        let one = "p2p/12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv";
        let other = "p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let quic = "/ip4/192.0.2.7/udp/4001/quic-v1";
        let twice = parse(&format!("{quic}/{one}/{one}"));
        assert_eq!(twice, parse(&format!("{quic}/{one}")));
        assert!(twice.unwrap().peer_id.is_some());
        assert_eq!(parse(&format!("{quic}/{one}/{other}")), None);
        assert_eq!(parse(&format!("{quic}/{one}/{one}/p2p-circuit")), None);
    }

    #[test]
    fn writes_what_it_reads() {
        for addr in [
            "/ip4/192.0.2.7/udp/4001/quic-v1",
            "/ip6/2001:db8::7/udp/1/quic-v1",
            "/ip6zone/3/ip6/fe80::7/udp/1/quic-v1",
        ] {
            let parsed = parse(addr).unwrap();
            assert_eq!(to_multiaddr(parsed.socket_addr).to_string(), addr);
        }
    }

    #[test]
    fn refuses_whatever_is_not_quic_v1_and_nothing_more() {
        for addr in [
            "/ip4/192.0.2.7/udp/4001",
            "/ip4/192.0.2.7/udp/4001/quic",
            "/ip4/192.0.2.7/tcp/4001",
            "/ip4/192.0.2.7/udp/4001/quic-v1/webtransport",
            "/ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv/p2p-circuit",
            "/dns/example.org/udp/4001/quic-v1",
            "/udp/4001/quic-v1",
            "/ip4/192.0.2.7/ip4/192.0.2.8/udp/4001/quic-v1",
            "/ip6zone/eth7/ip4/192.0.2.7/udp/4001/quic-v1",
            "/ip6zone/eth9/ip6/fe80::1/udp/4001/quic-v1",
        ] {
            assert_eq!(parse(addr), None, "{addr}");
        }
        assert_eq!(QuicAddress::parse(&Multiaddr::empty(), |_| None), None);
    }

    #[test]
    fn a_dial_without_a_zone_reaches_the_address_in_any_zone() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let here = addr("[fe80::1%3]:9");
        assert!(reaches(addr("[fe80::1]:9"), here));
        assert!(reaches(here, here));
        assert!(!reaches(addr("[fe80::1%4]:9"), here));
        assert!(!reaches(addr("[fe80::2]:9"), here));
        assert!(!reaches(addr("[fe80::1]:8"), here));
        assert!(reaches(addr("127.0.0.1:9"), addr("127.0.0.1:9")));
        assert!(!reaches(addr("127.0.0.2:9"), addr("127.0.0.1:9")));
    }

    #[test]
    fn a_zone_gives_the_scope_of_a_link_local_address() {
        let SocketAddr::V6(named) = parse("/ip6zone/eth7/ip6/fe80::1/udp/9/quic-v1")
            .unwrap()
            .socket_addr
        else {
            panic!("not IPv6");
        };
        assert_eq!(named.scope_id(), 7);
        let SocketAddr::V6(numbered) = parse("/ip6zone/3/ip6/fe80::1/udp/9/quic-v1")
            .unwrap()
            .socket_addr
        else {
            panic!("not IPv6");
        };
        assert_eq!(numbered.scope_id(), 3);
    }

    #[test]
    fn no_other_address_has_a_scope() {
        let addr = parse("/ip6zone/eth7/ip6/2001:db8::1/udp/9/quic-v1").unwrap();
        assert_eq!(addr.socket_addr, "[2001:db8::1]:9".parse().unwrap());
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        for addr in [
            "/ip6/::ffff:192.0.2.7/udp/9/quic-v1",
            "/ip6zone/eth7/ip6/::ffff:192.0.2.7/udp/9/quic-v1",
        ] {
            let addr = parse(addr).unwrap();
            assert_eq!(addr.socket_addr, "192.0.2.7:9".parse().unwrap());
        }
    }

    #[test]
    fn only_a_port_on_a_unicast_host_can_be_dialled() {
        for (addr, dialable) in [
            ("/ip4/192.0.2.7/udp/4001/quic-v1", true),
            ("/ip4/192.0.2.7/udp/0/quic-v1", false),
            ("/ip4/0.0.0.0/udp/4001/quic-v1", false),
            ("/ip6/::/udp/4001/quic-v1", false),
            ("/ip4/224.0.0.1/udp/4001/quic-v1", false),
            ("/ip4/255.255.255.255/udp/4001/quic-v1", false),
            ("/ip6/ff02::1/udp/4001/quic-v1", false),
            ("/ip6/::ffff:0.0.0.0/udp/4001/quic-v1", false),
            ("/ip6/::ffff:224.0.0.1/udp/4001/quic-v1", false),
            ("/ip6/::ffff:255.255.255.255/udp/4001/quic-v1", false),
        ] {
            assert_eq!(parse(addr).unwrap().is_dialable(), dialable, "{addr}");
        }
    }

    #[test]
    fn a_loopback_listener_does_not_reach_a_public_address() {
        let addr = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 4001);
        let reach = |local: &str, remote: &str| can_reach(addr(local), addr(remote));
        assert!(reach("0.0.0.0", "203.0.113.1"));
        assert!(reach("127.0.0.1", "127.0.0.2"));
        assert!(reach("192.0.2.1", "203.0.113.1"));
        assert!(reach("fe80::1", "fe80::2"));
        assert!(!reach("127.0.0.1", "203.0.113.1"));
        assert!(!reach("192.0.2.1", "127.0.0.1"));
        assert!(!reach("fe80::1", "2001:db8::1"));
        assert!(!reach("::", "127.0.0.1"));
    }

    #[test]
    fn only_link_local_addresses_have_a_zone_and_links_are_told_apart_by_it() {
        let addr = |ip: &str, scope_id| {
            SocketAddr::from(SocketAddrV6::new(ip.parse().unwrap(), 4001, 0, scope_id))
        };
        assert_eq!(zone(addr("fe80::1", 3)), Some(3));
        assert_eq!(zone(addr("fe80::1", 0)), None);
        assert_eq!(zone(addr("2001:db8::1", 3)), None);
        for (local, remote, reaches) in [
            (addr("fe80::1", 3), addr("fe80::2", 3), true),
            (addr("fe80::1", 3), addr("fe80::2", 4), false),
            (addr("fe80::1", 3), addr("fe80::2", 0), true),
            (addr("::", 0), addr("fe80::2", 4), true),
            (addr("2001:db8::1", 3), addr("2001:db8::2", 4), true),
        ] {
            assert_eq!(can_reach(local, remote), reaches, "{local} to {remote}");
        }
    }

    #[test]
    fn zone_is_looked_for_where_there_is_none_and_has_to_be_one() {
        let addr = |addr: &str| addr.parse::<SocketAddr>().unwrap();
        let found = in_zone(addr("[fe80::1]:9"), || Some(7));
        assert_eq!(found, addr("[fe80::1%7]:9"));
        for given in [
            "[fe80::1%3]:9",
            "[2001:db8::1]:9",
            "192.0.2.1:9",
            "169.254.0.1:9",
        ] {
            assert_eq!(in_zone(addr(given), || panic!("{given}")), addr(given));
        }
        assert_eq!(in_zone(addr("[fe80::1]:9"), || None), addr("[fe80::1]:9"));
    }

    #[test]
    fn a_host_has_one_address_or_a_64() {
        let host = |ip: &str| Host::of(ip.parse().unwrap());
        assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
        assert_eq!(host("192.0.2.1"), host("::ffff:192.0.2.1"));
        assert_ne!(host("::ffff:192.0.2.1"), host("::ffff:192.0.2.2"));
        assert_eq!(
            host("2001:db8:0:1::"),
            host("2001:db8:0:1:ffff:ffff:ffff:ffff")
        );
        assert_ne!(host("2001:db8:0:1::"), host("2001:db8:0:2::"));
    }
}
