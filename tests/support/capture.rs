//! Captures packets on the interfaces of a host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with, sockopt,
};

use super::relay::ConnectionId;

/// Captures packets on the host of the thread that starts it.
pub(crate) struct Capture(OwnedFd);

/// The destination IDs of packets with short headers, by source address.
pub(crate) type IdsBySource = BTreeMap<IpAddr, BTreeSet<ConnectionId>>;

impl Capture {
    /// Requires root.
    pub(crate) fn begin() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let family = AddressFamily::PACKET;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(eth::ALL)).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 8 * 1024 * 1024).unwrap();
        Self(socket)
    }

    /// The IDs of packets to `destination` since the last call.
    pub(crate) fn ids_to(&self, destination: IpAddr) -> IdsBySource {
        let mut ids = IdsBySource::new();
        let mut packet = vec![0; 65_536];
        while let Ok((read, _)) = recv(&self.0, &mut packet[..], RecvFlags::empty()) {
            if let Some((source, to, id)) = short_header(&packet[..read])
                && to == destination
            {
                ids.entry(source).or_default().insert(id);
            }
        }
        ids
    }
}

/// Asserts that no ID was used with two addresses (RFC 9000 §9.5), and returns the addresses.
pub(crate) fn apart(ids: &IdsBySource) -> BTreeSet<IpAddr> {
    let all: Vec<_> = ids.values().flatten().collect();
    let different: BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{ids:?}");
    ids.keys().copied().collect()
}

/// Source, destination and connection ID of a QUIC packet with a short header, in an IP packet.
fn short_header(packet: &[u8]) -> Option<(IpAddr, IpAddr, ConnectionId)> {
    const UDP: u8 = 17;

    let (source, destination, protocol, udp): (IpAddr, IpAddr, _, _) = match packet.first()? >> 4 {
        4 => {
            let ip = |from: usize| <[u8; 4]>::try_from(packet.get(from..from + 4)?).ok();
            let [source, destination] = [ip(12)?, ip(16)?].map(Ipv4Addr::from);
            (source.into(), destination.into(), *packet.get(9)?, 20)
        }
        6 => {
            let ip = |from: usize| <[u8; 16]>::try_from(packet.get(from..from + 16)?).ok();
            let [source, destination] = [ip(8)?, ip(24)?].map(Ipv6Addr::from);
            (source.into(), destination.into(), *packet.get(6)?, 40)
        }
        _ => return None,
    };
    let payload = packet.get(udp + 8..)?;
    let is_short = payload.first()? & 0xc0 == 0x40;
    let id = payload.get(1..9)?.try_into().ok()?;
    (protocol == UDP && is_short).then_some((source, destination, id))
}
