//! Captures all packets at the attacker's end of its cable.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read},
    mem,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    hello::{self, Id},
    network::{self, Cable},
};

/// A packet socket that is read until this is dropped.
pub struct Wire {
    cable: Cable,
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// What the server has sent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// IP packets.
    pub packets: u64,
    /// Received packets by destination.
    pub received: HashMap<SocketAddrV4, Received>,
    /// IP packets that a router may fragment, or that are fragments.
    pub fragmentable: u64,
    /// Addresses whose first answer was an Initial packet in a datagram that is too small to show
    /// that the path supports QUIC (RFC 9000 §14.1).
    pub short: u64,
    /// By the client's ID, for IDs that begin with [`WATCHED`].
    pub watched: HashMap<Id, Received>,
    /// The last token of a Retry packet for each destination.
    pub tokens: HashMap<SocketAddrV4, Vec<u8>>,
}

/// The prefix of IDs whose connections are counted separately.
pub const WATCHED: [u8; 4] = *b"look";

/// Bytes of UDP payload, which RFC 9000 §8.1 limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    pub bytes: u64,
    pub datagrams: u64,
}

impl Wire {
    /// Starts capturing.
    pub fn tap(cable: Cable) -> Result<Self> {
        // A packet socket for one protocol captures only incoming packets.
        let protocol = Protocol::from(i32::from(ETHERTYPE_IPV4.to_be()));
        let mut socket =
            Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).context("no packet socket")?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        // The kernel may grant less.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let over = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
            move || {
                let mut packet = vec![0; LARGEST];
                while !over.load(Ordering::Relaxed) {
                    match socket.read(&mut packet) {
                        Ok(length) => lock(&seen).note(&packet[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => {
                            eprintln!("the wire cannot be read: {error}");
                            return;
                        }
                    }
                }
            }
        });
        Ok(Self {
            cable,
            seen,
            over,
            reader: Some(reader),
        })
    }

    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Takes the tokens of Retry packets received since the last call.
    pub fn take_tokens(&self) -> HashMap<SocketAddrV4, Vec<u8>> {
        mem::take(&mut lock(&self.seen).tokens)
    }

    /// Resets everything.
    pub fn forget(&self) {
        *lock(&self.seen) = Seen::default();
    }

    /// The packets that the interface has counted.
    pub fn packets_received(&self) -> Result<u64> {
        self.cable.packets_received()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Seen {
    fn note(&mut self, packet: &[u8]) {
        let Ok(sliced) = SlicedPacket::from_ip(packet) else {
            return;
        };
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else {
            return;
        };
        let header = ip.header();
        if header.source_addr() != network::ATTACKER.server {
            return;
        }
        self.packets += 1;
        if !header.dont_fragment() || header.is_fragmenting_payload() {
            self.fragmentable += 1;
        }
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else {
            return;
        };
        let payload = udp.payload();
        let to = SocketAddrV4::new(Ipv4Addr::from(header.destination()), udp.destination_port());
        let received = self.received.entry(to).or_default();
        if received.datagrams == 0 && is_initial(payload) && payload.len() < SMALLEST_INITIAL {
            self.short += 1;
        }
        received.add(payload);
        if let Some(id) = hello::destination(payload)
            && id.starts_with(&WATCHED)
        {
            self.watched.entry(id).or_default().add(payload);
        }
        if let Some((_, token)) = hello::retry(payload) {
            self.tokens.insert(to, token);
        }
    }
}

impl Received {
    fn add(&mut self, payload: &[u8]) {
        self.datagrams += 1;
        self.bytes += payload.len() as u64;
    }
}

/// RFC 9000 §17.2.2.
fn is_initial(payload: &[u8]) -> bool {
    payload.len() > 5 && payload[0] & 0xf0 == 0xc0 && payload[1..5] == [0, 0, 0, 1]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const ETHERTYPE_IPV4: u16 = 0x0800;

/// RFC 9000 §14.1.
const SMALLEST_INITIAL: usize = 1200;

const LARGEST: usize = 64 * 1024;

const LOOK_EVERY: Duration = Duration::from_millis(100);

const BUFFER: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flood::packets;

    fn answer(payload: &[u8]) -> Vec<u8> {
        let from = SocketAddrV4::new(network::ATTACKER.server, 4001);
        packets::packet(from, TO, payload).unwrap()
    }

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 5000);

    #[test]
    fn payload_is_counted_by_destination() {
        let mut seen = Seen::default();
        seen.note(&answer(&[0x40; 100]));
        seen.note(&answer(&[0x40; 50]));
        let other = SocketAddrV4::new(network::ATTACKER.other, 1);
        seen.note(&packets::packet(other, TO, &[0; 10]).unwrap());
        assert_eq!(seen.packets, 2);
        let received = seen.received[&TO];
        assert_eq!((received.bytes, received.datagrams), (150, 2));
        assert_eq!((seen.fragmentable, seen.short), (0, 0));
    }

    #[test]
    fn connections_are_told_apart_by_the_ids_of_their_clients() {
        let mut seen = Seen::default();
        let watched = *b"look1234";
        for id in [watched, watched, *b"nobody12"] {
            let long = [&[0xe0, 0, 0, 0, 1, 8][..], &id, &[0, 9]].concat();
            seen.note(&answer(&long));
            seen.note(&answer(&[&[0x40][..], &id, &[9]].concat()));
        }
        let received = seen.watched[&watched];
        assert_eq!((received.bytes, received.datagrams), (52, 4));
        assert_eq!(seen.watched.len(), 1);
    }

    #[test]
    fn the_last_token_of_each_address_is_kept() {
        let mut seen = Seen::default();
        for token in [b"first", b"other"] {
            let ids = [&[8][..], &[7; 8], &[2, 1, 1]].concat();
            let retry = [&[0xf0, 0, 0, 0, 1][..], &ids, token, &[0; 16]].concat();
            seen.note(&answer(&retry));
            assert_eq!(seen.tokens[&TO], token);
        }
        assert_eq!(seen.tokens.len(), 1);
    }

    #[test]
    fn fragments_and_short_initials_are_noticed() {
        let mut seen = Seen::default();
        seen.note(&answer(&[0xc0, 0, 0, 0, 1, 0, 0]));
        assert_eq!(seen.short, 1);
        let from = SocketAddrV4::new(network::ATTACKER.server, 4001);
        for part in packets::fragments(from, TO, &[0; 100], 48, 7).unwrap() {
            seen.note(&part);
        }
        assert_eq!(seen.fragmentable, 2);
    }
}
