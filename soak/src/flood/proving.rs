//! An attack from the attacker's own addresses: it answers each Retry packet with its token, and
//! continues no handshake.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::Result;
use rand::{Rng, RngExt};
use socket2::Socket;

use super::{
    SERVER, Sent,
    hello::{Hello, Id},
    pace::Pace,
    packets,
    wire::{WATCHED, Wire},
};

/// Begins this many connections in each second, with a token whenever possible.
pub fn prove(
    raw: &Socket,
    wire: &Wire,
    rng: &mut impl Rng,
    count: usize,
    per_second: u64,
) -> Result<Sent> {
    let hello = Hello::new()?;
    let mut tokens = HashMap::new();
    let mut sent = Sent::default();
    let mut pace = Pace::begin(per_second);
    let to = SERVER.into();
    for number in 0..count {
        if number % LOOK_EVERY == 0 {
            // Newer tokens are valid for longer.
            tokens.extend(wire.take_tokens());
        }
        let from = address(number % ADDRESSES);
        let token = tokens
            .get(&from)
            .filter(|_| !(number / ADDRESSES).is_multiple_of(RENEW_EVERY));
        let mut id: Id = rng.random();
        if token.is_none() {
            id[..WATCHED.len()].copy_from_slice(&WATCHED);
            id[WATCHED.len()..].copy_from_slice(&(number as u32).to_be_bytes());
        }
        let payload = hello.initial(rng.random(), id, token.map_or(&[], Vec::as_slice))?;
        raw.send_to(&packets::packet(from, SERVER, &payload)?, &to)?;
        let bytes = payload.len() as u64;
        if token.is_none() {
            sent.unproven.insert(id, bytes);
        } else {
            sent.proven += 1;
        }
        *sent.addresses.entry(from).or_default() += bytes;
        sent.datagrams += 1;
        pace.wait();
    }
    sent.time = pace.elapsed();
    Ok(sent)
}

/// Benchmark addresses (RFC 2544), one after another.
fn address(number: usize) -> SocketAddrV4 {
    let first = u32::from(Ipv4Addr::new(198, 19, 0, 1));
    SocketAddrV4::new(Ipv4Addr::from(first + number as u32), PORT)
}

/// As many as a small botnet has. Eight would take all places of a listener that gave each address
/// the maximum.
pub const ADDRESSES: usize = 300;

/// After this many rounds, a connection begins without a token, to get a new one. The server's
/// tokens are valid for 15 s.
const RENEW_EVERY: usize = 8;

const LOOK_EVERY: usize = 16;

const PORT: u16 = 5000;
