//! Sends datagrams from any source address, and captures the answers.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rand::RngExt;
use socket2::{Domain, Protocol, Socket, Type};

use super::Amplified;
use crate::flood::{SERVER, network, packets, wire::Wire};

pub struct Forger {
    raw: Socket,
    wire: Wire,
    counted: u64,
    /// UDP payload that was sent, by source address.
    sent: HashMap<SocketAddrV4, u64>,
    identification: u16,
}

impl Forger {
    pub fn new() -> Result<Self> {
        // The protocol number for packets with their own IP header.
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("no raw socket")?;
        raw.set_header_included_v4(true)?;
        let wire = Wire::tap(network::ATTACKER)?;
        Ok(Self {
            raw,
            counted: wire.packets_received()?,
            wire,
            sent: HashMap::new(),
            identification: 0,
        })
    }

    /// Sends a datagram, in fragments if it is large.
    pub fn send(&mut self, from: SocketAddrV4, payload: &[u8]) -> Result<()> {
        *self.sent.entry(from).or_default() += payload.len() as u64;
        self.identification = self.identification.wrapping_add(1);
        let to = SERVER.into();
        for packet in packets::pieces(from, SERVER, payload, self.identification)? {
            // Packets without room are lost, as on any network.
            let _ = self.raw.send_to(&packet, &to);
        }
        Ok(())
    }

    /// The amplification towards the source addresses.
    pub fn amplified(&self, linger: Duration) -> Result<Amplified> {
        thread::sleep(linger);
        let seen = self.wire.seen();
        let mut amplified = Amplified {
            seen: seen.packets,
            counted: self.wire.packets_received()? - self.counted,
            ..Amplified::default()
        };
        let (mut all, mut answered) = (0, 0);
        for (source, &sent) in &self.sent {
            all += sent;
            let Some(received) = seen.received.get(source) else {
                continue;
            };
            amplified.addresses += 1;
            answered += received.bytes;
            let ratio = received.bytes as f64 / sent as f64;
            amplified.worst = amplified.worst.max(ratio);
        }
        amplified.mean = answered as f64 / all.max(1) as f64;
        Ok(amplified)
    }
}

/// A benchmark address (RFC 2544) of no host.
pub fn any_source() -> SocketAddrV4 {
    let mut rng = rand::rng();
    let host: u32 = rng.random_range(1..(1 << 16) - 1);
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + host);
    SocketAddrV4::new(ip, rng.random_range(1024..=u16::MAX))
}

/// An address of the attacker. Packets to it arrive at its [`ears`].
pub fn owned_source(number: u16) -> SocketAddrV4 {
    let [high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 19, high, low), EARS_PORT)
}

/// A non-blocking socket for all of these addresses.
pub fn ears() -> Result<UdpSocket> {
    network::own_all_of(OWNED)?;
    let ears = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, EARS_PORT))?;
    ears.set_nonblocking(true)?;
    Ok(ears)
}

/// Half of the addresses for benchmarks (RFC 2544).
const OWNED: &str = "198.19.0.0/16";

const EARS_PORT: u16 = 4003;

const IPPROTO_RAW: i32 = 255;
