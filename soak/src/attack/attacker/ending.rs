//! Connections that end, and peers that fall silent.

use std::{net::UdpSocket, sync::Arc, thread, time::Duration};

use anyhow::Result;

use super::{
    OWN, Prepared, VICTIM,
    holding::send_window,
    peer::{Introduction, Peer},
    session::MAX_IDLE_TIMEOUT,
};

/// Ends this many connections, on each of which `bytes` unread bytes were sent.
pub fn ended(connections: usize, bytes: u64) -> Result<Prepared> {
    let introduction = Introduction::of_a_peer(VICTIM)?.patient();
    let socket = Arc::new(UdpSocket::bind((OWN, 0))?);
    let mut peers = Vec::new();
    for _ in 0..connections {
        peers.push(Peer::connect(&socket, &introduction)?);
    }
    socket.set_nonblocking(true)?;
    Ok(Box::new(move |run| {
        run.attacked.begun = connections as u64;
        for peer in &mut peers {
            send_window(run, peer, bytes);
        }
        // Repeated a little later, in case it is lost in a full buffer.
        for _ in 0..3 {
            for peer in &mut peers {
                peer.close();
                run.sent(1, 100);
            }
            thread::sleep(CLOSE_AGAIN);
        }
        Ok(peers)
    }))
}

/// Peers that fall silent.
pub fn silent(idle_timeout: Option<u64>) -> Result<Prepared> {
    let mut introduction = Introduction::of_a_peer(VICTIM)?.patient();
    introduction
        .parameters
        .extend(idle_timeout.map(|millis| (MAX_IDLE_TIMEOUT, millis)));
    let peers: Result<Vec<_>> = (0..SILENT).map(|_| Peer::dial(&introduction)).collect();
    let peers = peers?;
    Ok(Box::new(move |run| {
        run.attacked.begun = peers.len() as u64;
        // Their sockets stay open, because a closed port would cause ICMP errors.
        run.wait();
        Ok(peers)
    }))
}

const SILENT: usize = 8;

/// The time in which a full buffer is read.
const CLOSE_AGAIN: Duration = Duration::from_millis(50);
