//! Fuzz target: arbitrary addresses.

use std::net::SocketAddr;

use multiaddr::{Multiaddr, Protocol};

use crate::address::{QuicAddress, can_reach, to_multiaddr, wildcard};

/// Parses an address in binary form or as text. An accepted address is formatted as it was parsed,
/// except for zone names, IPv4-mapped IPv6 addresses and a peer that is named twice.
pub fn multiaddr(data: &[u8]) {
    let binary = Multiaddr::try_from(data.to_vec()).ok();
    let text = std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse().ok());
    for addr in binary.into_iter().chain(text) {
        check(&addr);
    }
}

fn check(addr: &Multiaddr) {
    // Maps each zone name to its length. The empty name has no index.
    let zone_index = |name: &str| u32::try_from(name.len()).ok().filter(|&index| index > 0);
    let Some(parsed) = QuicAddress::parse(addr, zone_index) else {
        return;
    };
    let written = parsed
        .peer_id
        .into_iter()
        .fold(to_multiaddr(parsed.socket_addr), |written, peer_id| {
            written.with(Protocol::P2p(peer_id))
        });
    assert_eq!(QuicAddress::parse(&written, |_| None), Some(parsed));
    let has_zone = matches!(addr.iter().next(), Some(Protocol::Ip6zone(_)));
    let mut parts: Vec<_> = addr
        .iter()
        .map(|part| match part {
            Protocol::Ip6(ip) => ip.to_canonical().into(),
            part => part,
        })
        .collect();
    parts.dedup();
    assert!(
        has_zone || written == Multiaddr::from_iter(parts),
        "{addr} was written as {written}"
    );

    let (ip, port) = (parsed.socket_addr.ip(), parsed.socket_addr.port());
    assert!(!parsed.is_dialable() || (port != 0 && !ip.is_multicast() && !ip.is_unspecified()));
    // A wildcard address reaches every address of its family, and a host reaches itself.
    let wildcard = SocketAddr::new(wildcard(ip), port);
    assert!(can_reach(wildcard, parsed.socket_addr));
    assert!(can_reach(parsed.socket_addr, parsed.socket_addr));
}

/// Addresses of every accepted form, and some that are refused.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "/ip4/192.0.2.7/udp/4001/quic-v1",
        "/ip4/255.255.255.255/udp/0/quic-v1",
        "/ip6/2001:db8::7/udp/4001/quic-v1/p2p/12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv",
        "/ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv/p2p/12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv",
        "/ip6/::ffff:192.0.2.7/udp/4001/quic-v1",
        "/ip6zone/eth7/ip6/fe80::1/udp/9/quic-v1",
        "/ip6zone/3/ip6/fe80::1/udp/9/quic-v1",
        "/ip4/192.0.2.7/udp/4001/quic-v1/webtransport",
        "/dns4/example.org/tcp/443/wss",
    ]
    .iter()
    .flat_map(|text| {
        let binary = text.parse::<Multiaddr>().ok().map(|addr| addr.to_vec());
        [text.as_bytes().to_vec()].into_iter().chain(binary)
    })
    .collect()
}
