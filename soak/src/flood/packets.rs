//! The attacker's packets: first packets of QUIC connections, in IP packets with any source
//! address.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, UdpHeader};
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, crypto::rustls::QuicClientConfig};
use rand::{Rng, RngExt};

use super::hello;

/// UDP payloads that each begin a connection: an Initial packet with a complete ClientHello (RFC
/// 9000 §17.2.2).
pub fn initials(server: SocketAddrV4, count: usize) -> Result<Vec<Vec<u8>>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let count = count * (part + 1) / threads - count * part / threads;
                scope.spawn(move || begin(server, count))
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for part in parts {
            let part = part.join().ok().context("a thread has panicked")?;
            all.extend(part?);
        }
        Ok(all)
    })
}

fn begin(server: SocketAddrV4, count: usize) -> Result<Vec<Vec<u8>>> {
    let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(hello::client()?)?));
    let mut initials = Vec::with_capacity(count);
    while initials.len() < count {
        // A new endpoint from time to time, because an endpoint keeps the connections that it has
        // begun.
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        for _ in 0..(count - initials.len()).min(ENDPOINT) {
            let now = Instant::now();
            let (_, mut connection) =
                endpoint.connect(now, client.clone(), server.into(), "libp2p")?;
            let mut payload = Vec::new();
            let first = connection.poll_transmit(now, 1, &mut payload);
            ensure!(first.is_some(), "no first packet");
            let more = connection.poll_transmit(now, 1, &mut Vec::new());
            ensure!(more.is_none(), "the ClientHello takes two packets");
            initials.push(payload);
        }
    }
    Ok(initials)
}

/// A UDP datagram in an IP packet.
pub fn packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let datagram = datagram(from, to, payload)?;
    let mut header = header(from, to, datagram.len())?;
    header.dont_fragment = true;
    assemble(header, &datagram)
}

/// The same in two IP packets, of which the second one begins after this many bytes, a multiple of
/// 8.
pub fn fragments(
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
    cut: u16,
    identification: u16,
) -> Result<[Vec<u8>; 2]> {
    let datagram = datagram(from, to, payload)?;
    let (first, second) = datagram.split_at(cut.into());
    let fragment = |contents: &[u8], offset: u16, more: bool| {
        let mut header = header(from, to, contents.len())?;
        header.identification = identification;
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset / 8)?;
        assemble(header, contents)
    };
    Ok([fragment(first, 0, true)?, fragment(second, cut, false)?])
}

/// A UDP datagram in as many fragments as Ethernet requires.
pub fn pieces(
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
    identification: u16,
) -> Result<Vec<Vec<u8>>> {
    let datagram = datagram(from, to, payload)?;
    let pieces = datagram
        .chunks(FRAGMENT)
        .zip(0_u16..)
        .map(|(contents, index)| {
            let mut header = header(from, to, contents.len())?;
            header.identification = identification;
            header.more_fragments = (usize::from(index) + 1) * FRAGMENT < datagram.len();
            header.fragment_offset = IpFragOffset::try_new(index * (FRAGMENT as u16 / 8))?;
            assemble(header, contents)
        });
    pieces.collect()
}

/// A benchmark address (RFC 2544) of no host.
pub fn any_source(rng: &mut impl Rng) -> SocketAddrV4 {
    let host: u32 = rng.random_range(1..(1 << 17) - 1);
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + host);
    SocketAddrV4::new(ip, rng.random_range(1024..=u16::MAX))
}

fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let ip = header(from, to, UdpHeader::LEN + payload.len())?;
    let udp = UdpHeader::with_ipv4_checksum(from.port(), to.port(), &ip, payload)?;
    Ok([&udp.to_bytes(), payload].concat())
}

fn header(from: SocketAddrV4, to: SocketAddrV4, length: usize) -> Result<Ipv4Header> {
    Ok(Ipv4Header::new(
        length.try_into()?,
        TTL,
        IpNumber::UDP,
        from.ip().octets(),
        to.ip().octets(),
    )?)
}

fn assemble(mut header: Ipv4Header, contents: &[u8]) -> Result<Vec<u8>> {
    header.header_checksum = header.calc_header_checksum();
    Ok([&header.to_bytes(), contents].concat())
}

const TTL: u8 = 64;

/// The payload of an IP fragment on Ethernet; a multiple of 8.
const FRAGMENT: usize = 1480;

/// Connections begun in one endpoint.
const ENDPOINT: usize = 4096;

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 4001);

    #[test]
    fn initials_are_whole_and_all_different() {
        let initials = initials(SERVER, 9).unwrap();
        assert_eq!(initials.len(), 9);
        for initial in &initials {
            assert_eq!(initial.len(), 1200);
            // A long header, an Initial, of version 1 (RFC 9000 §17.2.2).
            assert_eq!(initial[0] & 0xf0, 0xc0);
            assert_eq!(initial[1..5], [0, 0, 0, 1]);
            let same = initials.iter().filter(|other| *other == initial);
            assert_eq!(same.count(), 1);
        }
    }

    #[test]
    fn packets_are_what_they_say() {
        let from = any_source(&mut StdRng::seed_from_u64(1));
        let packet = packet(from, SERVER, b"something").unwrap();
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) =
            (&sliced.net, &sliced.transport)
        else {
            panic!("no datagram");
        };
        assert_eq!(ip.header().source_addr(), *from.ip());
        assert_eq!(ip.header().destination_addr(), *SERVER.ip());
        assert!(ip.header().dont_fragment());
        assert_eq!(
            (udp.source_port(), udp.destination_port()),
            (from.port(), 4001)
        );
        assert_eq!(udp.payload(), b"something");
        let header = Ipv4Header::from_slice(&packet).unwrap().0;
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }

    #[test]
    fn pieces_hold_the_datagram_once() {
        let from = any_source(&mut StdRng::seed_from_u64(1));
        for (length, count) in [(1472, 1), (1473, 2), (65_000, 44)] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let pieces = pieces(from, SERVER, &payload, 7).unwrap();
            assert_eq!(pieces.len(), count);
            let mut whole: Vec<u8> = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let (header, contents) = Ipv4Header::from_slice(piece).unwrap();
                assert!(piece.len() <= 1500);
                assert_eq!(header.more_fragments, index + 1 < count);
                assert_eq!(usize::from(header.fragment_offset.value()) * 8, whole.len());
                whole.extend(contents);
            }
            assert_eq!(whole[UdpHeader::LEN..], payload);
        }
    }

    #[test]
    fn fragments_hold_the_datagram_once() {
        let from = any_source(&mut StdRng::seed_from_u64(1));
        let payload: Vec<u8> = (0..100).collect();
        let [first, second] = fragments(from, SERVER, &payload, 48, 7).unwrap();
        let [head, tail] = [&first, &second].map(|part| Ipv4Header::from_slice(part).unwrap());
        assert!(head.0.more_fragments && !tail.0.more_fragments);
        assert_eq!(tail.0.fragment_offset.value(), 6);
        assert_eq!(head.0.identification, tail.0.identification);
        let whole = [head.1, tail.1].concat();
        assert_eq!(whole[UdpHeader::LEN..], payload);
    }
}
