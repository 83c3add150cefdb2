//! An attack from addresses that are the attacker's: it receives what is sent to them, answers each Retry packet with
//! its token, and goes on with no handshake.

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

/// Begins so many connections in each second, as many as it can with proof.
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
            // The newer, the longer it is good.
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

/// Addresses for benchmarks (RFC 2544), one after the other.
fn address(number: usize) -> SocketAddrV4 {
    let first = u32::from(Ipv4Addr::new(198, 19, 0, 1));
    SocketAddrV4::new(Ipv4Addr::from(first + number as u32), PORT)
}

/// As a small botnet has them. Eight of them would take all places of a listener that gave each as many as one may have.
pub const ADDRESSES: usize = 300;

/// Every so many rounds a connection begins without a token, so that there is a new one. The server's are good for 15 s.
const RENEW_EVERY: usize = 8;

const LOOK_EVERY: usize = 16;

const PORT: u16 = 5000;
