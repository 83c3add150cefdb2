//! The attacker: begins connections from forged addresses, or from its own, and never continues
//! them. Its packets are prepared in advance, so that creating them takes no CPU time from other
//! processes during the attack.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use harness::process::{answer, limit_time, listen};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    SERVER, Sent,
    lines::{Line, Order},
    network,
    pace::Pace,
    packets,
    proving::prove,
    wire::{Seen, Wire},
};
use crate::LONGEST;

#[derive(Args)]
pub struct Options {
    /// The server's process ID.
    server: u32,
    /// Connections to begin.
    prepared: usize,
}

/// The kinds of attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Each Initial packet from another address that is not the attacker's.
    Spoofed,
    /// All of them from the attacker's own address.
    Unspoofed,
    /// From a few hundred addresses of the attacker, which it proves.
    Proven,
    /// From addresses that no host can have, or that are group addresses.
    Strange,
    /// In two IP packets, of which the second one is missing every other time.
    Fragments,
}

/// The result of an attack, as the attacker saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Attacked {
    /// Datagrams, complete or not.
    pub sent: u64,
    /// Those with a token.
    pub proven: u64,
    pub sent_per_second: f64,
    /// Addresses that got an answer, of those that had to send a whole datagram for it.
    pub answered_addresses: u64,
    pub answers: u64,
    /// The largest amplification: UDP payload sent to an address for each byte that came from it.
    /// If some connections prove the address: the largest for a connection that has not proven it.
    pub worst_ratio: f64,
    /// The same over all addresses.
    pub mean_ratio: f64,
    /// Answers to addresses from which nothing that may be answered had come.
    pub uncalled: u64,
    /// IP packets that may be fragmented.
    pub fragmentable: u64,
    /// Initial packets in datagrams that are too small.
    pub short: u64,
    /// IP packets that were captured, and that the interface counted in the same time.
    pub seen: u64,
    pub counted: u64,
}

/// The process of the attacker.
pub fn run(options: &Options) -> Result<()> {
    limit_time(LONGEST);
    network::leave()?;
    network::ATTACKER.lay(options.server)?;
    let mut attacker = Attacker::prepare(options.prepared)?;
    answer(&Line::Ready)?;
    loop {
        let Order::Attack {
            kind,
            count,
            per_second,
        } = listen()?
        else {
            bail!("attackers attack");
        };
        let shots = match kind {
            Kind::Proven => Vec::new(),
            kind => attacker.load(kind, count)?,
        };
        let counted = attacker.wire.packets_received()?;
        attacker.wire.forget();
        answer(&Line::Ready)?;
        let sent = match kind {
            Kind::Proven => attacker.prove(count, per_second)?,
            _ => attacker.fire(&shots, per_second)?,
        };
        answer(&Line::Ready)?;
        // The server keeps its handshakes until their timeout.
        thread::sleep(match kind {
            // These get no answer at once, and so no handshake.
            Kind::Strange => BRIEFLY,
            _ => LINGER,
        });
        let mut attacked = judge(&sent, &attacker.wire.seen());
        attacked.counted = attacker.wire.packets_received()? - counted;
        answer(&Line::Attacked(attacked))?;
    }
}

/// A prepared datagram.
struct Shot {
    packets: Vec<Vec<u8>>,
    from: SocketAddrV4,
    /// UDP payload that counts for the amplification limit.
    bytes: u64,
}

struct Attacker {
    initials: Vec<Vec<u8>>,
    rng: StdRng,
    raw: Socket,
    /// Never read. It keeps the kernel from sending ICMP errors to the server.
    own: UdpSocket,
    wire: Wire,
}

impl Attacker {
    fn prepare(count: usize) -> Result<Self> {
        // The protocol number for packets with their own IP header.
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("no raw socket")?;
        raw.set_header_included_v4(true)?;
        Ok(Self {
            initials: packets::initials(SERVER, count)?,
            rng: StdRng::seed_from_u64(SEED),
            raw,
            own: UdpSocket::bind((network::ATTACKER.other, 0))?,
            wire: Wire::tap(network::ATTACKER)?,
        })
    }

    fn load(&mut self, kind: Kind, count: usize) -> Result<Vec<Shot>> {
        let left = self.initials.len().checked_sub(count);
        let left = left.context("not enough packets were prepared")?;
        let own = SocketAddrV4::new(network::ATTACKER.other, self.own.local_addr()?.port());
        let mut shots = Vec::with_capacity(count);
        for (index, initial) in self.initials.drain(left..).enumerate() {
            let any = packets::any_source(&mut self.rng);
            let from = match kind {
                Kind::Spoofed | Kind::Fragments => any,
                Kind::Unspoofed => own,
                Kind::Proven => bail!("it is made while it is sent"),
                Kind::Strange => strange(any, index),
            };
            let (packets, whole) = if kind == Kind::Fragments {
                let identification = self.rng.random();
                let both = packets::fragments(from, SERVER, &initial, CUT, identification)?;
                let whole = index % 2 == 0;
                (both[..if whole { 2 } else { 1 }].to_vec(), whole)
            } else {
                (
                    vec![packets::packet(from, SERVER, &initial)?],
                    kind != Kind::Strange,
                )
            };
            shots.push(Shot {
                packets,
                from,
                bytes: if whole { initial.len() as u64 } else { 0 },
            });
        }
        Ok(shots)
    }

    /// Sends the datagrams at this rate.
    fn fire(&self, shots: &[Shot], per_second: u64) -> Result<Sent> {
        let to = SERVER.into();
        let mut sent = Sent::default();
        let mut pace = Pace::begin(per_second);
        for shot in shots {
            for packet in &shot.packets {
                self.raw.send_to(packet, &to)?;
            }
            pace.wait();
        }
        sent.time = pace.elapsed();
        for shot in shots {
            *sent.addresses.entry(shot.from).or_default() += shot.bytes;
        }
        sent.datagrams = shots.len() as u64;
        Ok(sent)
    }

    fn prove(&mut self, count: usize, per_second: u64) -> Result<Sent> {
        prove(&self.raw, &self.wire, &mut self.rng, count, per_second)
    }
}

/// An address that must not be answered (RFC 1122 §3.2.1.3), in turn.
fn strange(any: SocketAddrV4, index: usize) -> SocketAddrV4 {
    let sources = [
        SocketAddrV4::new(*any.ip(), 0),
        SocketAddrV4::new(Ipv4Addr::BROADCAST, any.port()),
        SocketAddrV4::new(network::BROADCAST, any.port()),
        SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), any.port()),
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, any.port()),
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, any.port()),
    ];
    sources[index % sources.len()]
}

fn judge(sent: &Sent, seen: &Seen) -> Attacked {
    let mut attacked = Attacked {
        sent: sent.datagrams,
        proven: sent.proven,
        sent_per_second: sent.datagrams as f64 / sent.time.as_secs_f64(),
        fragmentable: seen.fragmentable,
        short: seen.short,
        seen: seen.packets,
        ..Attacked::default()
    };
    // Bytes received and sent.
    let mut exchanged = Vec::new();
    for (address, received) in &seen.received {
        match sent.addresses.get(address) {
            None | Some(0) => attacked.uncalled += received.datagrams,
            Some(&sent) => {
                attacked.answered_addresses += 1;
                attacked.answers += received.datagrams;
                exchanged.push((sent, received.bytes));
            }
        }
    }
    let mut all: u64 = sent.addresses.values().sum();
    if sent.proven > 0 {
        let unproven = |(id, &bytes)| (bytes, seen.watched.get(id).map_or(0, |got| got.bytes));
        exchanged = sent.unproven.iter().map(unproven).collect();
        all = sent.unproven.values().sum();
    }
    let mut answered = 0;
    for (sent, received) in exchanged {
        answered += received;
        attacked.worst_ratio = attacked.worst_ratio.max(received as f64 / sent as f64);
    }
    attacked.mean_ratio = answered as f64 / all.max(1) as f64;
    attacked
}

/// Longer than the server's handshake timeout.
const LINGER: Duration = Duration::from_secs(6);

const BRIEFLY: Duration = Duration::from_secs(1);

/// Bytes of the UDP datagram in its first fragment.
const CUT: u16 = 600;

const IPPROTO_RAW: i32 = 255;

/// The seed of the addresses.
const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flood::wire::Received;

    fn address(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), port)
    }

    fn received(bytes: u64, datagrams: u64) -> Received {
        Received { bytes, datagrams }
    }

    #[test]
    fn each_address_is_judged_by_what_came_from_it() {
        let bytes = [(1, 2400), (2, 1200), (3, 0)];
        let sent = Sent {
            datagrams: 4,
            addresses: bytes.map(|(port, bytes)| (address(port), bytes)).into(),
            ..Sent::default()
        };
        let mut seen = Seen::default();
        for (port, bytes, datagrams) in [(1, 2400, 2), (2, 4800, 4), (3, 100, 1), (4, 100, 1)] {
            let got = received(bytes, datagrams);
            seen.received.insert(address(port), got);
        }
        let attacked = judge(&sent, &seen);
        assert_eq!(attacked.sent, 4);
        assert_eq!((attacked.answered_addresses, attacked.answers), (2, 6));
        assert_eq!(attacked.uncalled, 2);
        assert!((attacked.worst_ratio - 4.0).abs() < 1e-9);
        assert!((attacked.mean_ratio - 2.0).abs() < 1e-9);
    }

    #[test]
    fn where_addresses_are_proven_those_connections_are_judged_that_have_not_done_it() {
        let sent = Sent {
            datagrams: 3,
            proven: 1,
            addresses: [(address(1), 3600)].into(),
            unproven: [1, 2].map(|number| ([number; 8], 1200)).into(),
            ..Sent::default()
        };
        let mut seen = Seen::default();
        seen.received.insert(address(1), received(9000, 8));
        seen.watched.insert([1; 8], received(3000, 3));
        let attacked = judge(&sent, &seen);
        assert_eq!((attacked.answered_addresses, attacked.answers), (1, 8));
        assert!((attacked.worst_ratio - 2.5).abs() < 1e-9);
        assert!((attacked.mean_ratio - 1.25).abs() < 1e-9);
    }
}
