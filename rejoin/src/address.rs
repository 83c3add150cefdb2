//! Which addresses are remembered, and which network one belongs to.

use libp2p_core::{ConnectedPoint, Endpoint, Multiaddr, multiaddr::Protocol, transport::PortUse};
use libp2p_identity::PeerId;

/// Longest text of an address that is remembered. The longest in use, a DNS name with hashes of
/// certificates, has fewer than 450 bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 512;

/// The address that was dialled, if this was our choice. It was not
///
/// - in a hole punch, where we act as the listener or have a relayed connection as well;
/// - from a new port: this is how AutoNAT servers dial what a peer has asked them to.
///
/// A peer that brings about such a connection neither counts nor is remembered.
pub(crate) fn chosen(endpoint: &ConnectedPoint, relayed_too: bool) -> Option<&Multiaddr> {
    match endpoint {
        ConnectedPoint::Dialer {
            address,
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        } if !relayed_too => Some(address),
        _ => None,
    }
}

/// `address` without its peer ID, unless it is relayed, too long, or not plain text.
///
/// A reservation at a relay ends, and the relay would carry the load of all who remember it.
pub(crate) fn acceptable(address: &Multiaddr) -> Option<Multiaddr> {
    let address = without_peer(address);
    let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
    let text = address.to_string();
    let plain = text.len() <= MAX_TEXT_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
    (!relayed && plain && !address.is_empty()).then_some(address)
}

/// `address` without a peer ID at its end. The Swarm adds that of the peer that it dials.
pub(crate) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

/// The peer that `address` ends with.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Addresses that one party can easily have many of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// A /24.
    V4([u8; 3]),
    /// A /48, which providers give to one customer.
    V6([u16; 3]),
    /// The last two labels, in small letters: one party can have any number of names below them.
    Name(String),
    /// All others.
    Other,
}

/// The network of the host that `address` begins with, if it is a public one.
pub(crate) fn public_network(address: &Multiaddr) -> Option<Network> {
    match address
        .iter()
        .find(|part| !matches!(part, Protocol::Ip6zone(_)))?
    {
        Protocol::Ip4(ip) => {
            let local = ip.is_private() || ip.is_loopback() || ip.is_link_local();
            let [a, b, c, _] = ip.octets();
            (!local).then_some(Network::V4([a, b, c]))
        }
        Protocol::Ip6(ip) => {
            let local = ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local();
            let [a, b, c, ..] = ip.segments();
            (!local).then_some(Network::V6([a, b, c]))
        }
        Protocol::Dns(name)
        | Protocol::Dns4(name)
        | Protocol::Dns6(name)
        | Protocol::Dnsaddr(name) => Some(Network::Name(domain(&name))),
        Protocol::Memory(_) | Protocol::Unix(_) => None,
        _ => Some(Network::Other),
    }
}

/// Whether `address` begins with a name.
pub(crate) fn is_name(address: &Multiaddr) -> bool {
    address.iter().next().is_some_and(|part| {
        matches!(
            part,
            Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)
        )
    })
}

/// The last two labels of a name.
fn domain(name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let mut dots = name.rmatch_indices('.').map(|(index, _)| index);
    match dots.nth(1) {
        Some(index) => name[index + 1..].to_owned(),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled(address: &str, role_override: Endpoint, port_use: PortUse) -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override,
            port_use,
        }
    }

    #[test]
    fn an_ordinary_dial_is_worth_remembering_without_the_peer() {
        let peer = PeerId::random();
        let address = format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}");
        let endpoint = dialled(&address, Endpoint::Dialer, PortUse::Reuse);
        let remembered = acceptable(chosen(&endpoint, false).unwrap()).unwrap();
        assert_eq!(remembered.to_string(), "/ip4/192.0.2.1/tcp/4001");
    }

    #[test]
    fn relays_punched_holes_and_dials_on_request_are_not() {
        let relayed = format!("/ip4/192.0.2.1/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        let direct = "/ip4/192.0.2.1/tcp/1";
        let reuse = PortUse::Reuse;
        for (endpoint, relayed_too) in [
            (dialled(&relayed, Endpoint::Dialer, reuse), false),
            (dialled(direct, Endpoint::Listener, reuse), false),
            (dialled(direct, Endpoint::Dialer, reuse), true),
            (dialled(direct, Endpoint::Dialer, PortUse::New), false),
        ] {
            let address = chosen(&endpoint, relayed_too).and_then(acceptable);
            assert_eq!(address, None, "{endpoint:?}");
        }
    }

    #[test]
    fn inbound_connections_are_not() {
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let endpoint = ConnectedPoint::Listener {
            local_addr: address.clone(),
            send_back_addr: address,
        };
        assert_eq!(chosen(&endpoint, false), None);
    }

    #[test]
    fn an_address_that_is_too_long_is_not() {
        let name = |length| format!("/dns4/{}/tcp/1", "a".repeat(length));
        let longest = MAX_TEXT_BYTES - name(0).len();
        assert!(acceptable(&name(longest).parse().unwrap()).is_some());
        assert!(acceptable(&name(longest + 1).parse().unwrap()).is_none());
        assert!(acceptable(&Multiaddr::empty()).is_none());
    }

    #[test]
    fn neighbours_share_a_network_and_private_ones_have_none() {
        let network = |address: &str| public_network(&address.parse().unwrap());
        assert_eq!(
            network("/ip4/192.0.2.1/tcp/1"),
            network("/ip4/192.0.2.200/udp/2/quic-v1")
        );
        assert_ne!(
            network("/ip4/192.0.2.1/tcp/1"),
            network("/ip4/192.0.3.1/tcp/1")
        );
        assert_eq!(
            network("/ip6/2001:db8::1/tcp/1"),
            network("/ip6/2001:db8:0:9::1/tcp/1")
        );
        assert_eq!(
            network("/dns4/A.example/tcp/1"),
            network("/dns6/a.example/tcp/2")
        );
        assert_eq!(
            network("/dns4/one.a.example/tcp/1"),
            network("/dns4/x.two.a.example./tcp/1")
        );
        assert_ne!(
            network("/dns4/a.example/tcp/1"),
            network("/dns4/b.example/tcp/1")
        );
        for local in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/memory/1",
        ] {
            assert_eq!(network(local), None, "{local}");
        }
    }
}
