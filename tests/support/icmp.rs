//! ICMP messages, as anyone can send them.

use std::net::SocketAddr;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

/// "Destination unreachable" (RFC 792) about a datagram of ours that a router claims to have seen.
pub(crate) fn unreachable(code: u8, mtu: u16, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        panic!("IPv4 only");
    };
    let [mtu_high, mtu_low] = mtu.to_be_bytes();
    let mut report = vec![3, code, 0, 0, 0, 0, mtu_high, mtu_low];
    // The IP header: don't fragment, UDP.
    report.extend([0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    report.extend(from.ip().octets());
    report.extend(to.ip().octets());
    add_datagram(&mut report, from.port(), to.port());
    let sum: u32 = report
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    report[2..4].copy_from_slice(&checksum.to_be_bytes());
    report
}

/// Reports to the host of `from` that its datagram to `to` was too big for a path with this MTU.
pub(crate) fn send_too_big(mtu: u16, from: SocketAddr, to: SocketAddr) {
    let (family, protocol, report) = match (from, to) {
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            // The kernel adds the checksum.
            let mut report = vec![2, 0, 0, 0, 0, 0];
            report.extend(mtu.to_be_bytes());
            // The IPv6 header: UDP.
            report.extend([0x60, 0, 0, 0, 0x05, 0xc8, 17, 64]);
            report.extend(from.ip().octets());
            report.extend(to.ip().octets());
            add_datagram(&mut report, from.port(), to.port());
            (AddressFamily::INET6, ipproto::ICMPV6, report)
        }
        _ => {
            let report = unreachable(TOO_BIG, mtu, from, to);
            (AddressFamily::INET, ipproto::ICMP, report)
        }
    };
    let socket = socket(family, SocketType::RAW, Some(protocol)).unwrap();
    let host = SocketAddr::new(from.ip(), 0);
    sendto(&socket, &report, SendFlags::empty(), &host).unwrap();
}

/// The code of "fragmentation needed and DF set".
pub(crate) const TOO_BIG: u8 = 4;

/// The UDP header, and a short QUIC header with what looks like an ID.
fn add_datagram(report: &mut Vec<u8>, from_port: u16, to_port: u16) {
    for word in [from_port, to_port, 1480, 0] {
        report.extend(word.to_be_bytes());
    }
    report.extend([0x40; 40]);
}
