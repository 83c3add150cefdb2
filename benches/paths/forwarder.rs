//! Transfers through a forwarder on loopback, before a path of 20 Mbit/s with a round trip of
//! 100 ms.

use std::{
    future::poll_fn,
    sync::mpsc,
    time::{Duration, Instant},
};

use futures::AsyncReadExt;
use libp2p_core::muxing::StreamMuxerExt;
use libp2p_quinn::Transport;
use multiaddr::Multiaddr;
use tokio::sync::oneshot;

use crate::support::{
    cables::{Near, at_near},
    forwarder::Forwarder,
    node::{Peer, Quic, quic_addr, socket_addr, until},
    streams::{accept, open, receive, send},
};

/// Measures each way three times, with both transports in turn.
pub fn compare() -> Result<(), String> {
    for _ in 0..3 {
        at_near(async |near: Near| {
            for way in Way::ALL {
                measure::<Transport>("ours", way, &near).await;
            }
        })?;
        at_near(async |near: Near| {
            for way in Way::ALL {
                measure::<libp2p_quic::tokio::Transport>("official", way, &near).await;
            }
        })?;
    }
    Ok(())
}

/// What the dialer does.
#[derive(Clone, Copy, Debug)]
enum Way {
    Up,
    Down,
    /// Both at the same time.
    Both,
}

impl Way {
    const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Both];

    /// The bytes that the dialer sends, and those that the listener sends.
    fn lengths(self) -> [u64; 2] {
        const LENGTH: u64 = 10 * MIB;
        match self {
            Self::Up => [LENGTH, 0],
            Self::Down => [0, LENGTH],
            Self::Both => [LENGTH, LENGTH],
        }
    }
}

/// Measures a transfer between two nodes with this transport.
async fn measure<T: Quic>(name: &str, way: Way, near: &Near) {
    let [up, down] = way.lengths();
    let (tell, told) = mpsc::sync_channel::<Multiaddr>(1);
    let (arrived, has_arrived) = oneshot::channel();
    let far = near.spawn_at_far(async move || {
        let mut node = Peer::<T>::new();
        let _ = tell.send(node.listen_at("/ip4/10.1.0.2/udp/0/quic-v1").await.1);
        let (_, mut connection) = node.accept().await;
        let (mut reader, mut writer) = accept(&mut connection).await.split();
        tokio::join!(send(&mut writer, down), receive(&mut reader));
        let _ = arrived.send(());
        // The dialer closes.
        let _ = poll_fn(|cx| connection.poll_inbound_unpin(cx)).await;
    });
    let server = socket_addr(&told.recv().unwrap());
    slow_down(near);
    let forwarder = Forwarder::to(server, DELAY).await;
    let mut node = Peer::<T>::new();
    let dialled = node.dial(&quic_addr(forwarder.addr())).await;
    let (_, mut connection) = dialled.unwrap_or_else(|error| panic!("not dialled: {error}"));
    let began = Instant::now();
    let (mut reader, mut writer) = open(&mut connection).await.split();
    tokio::join!(send(&mut writer, up), receive(&mut reader));
    has_arrived.await.unwrap();
    let rate = 8.0 * up.max(down) as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("{name}, {way:?}: {rate:.1} Mbit/s");
    drop((reader, writer, connection));
    until(|| far.is_finished()).await;
    far.join().unwrap().unwrap();
}

/// Gives the first cable 20 Mbit/s, and a queue of a round trip.
fn slow_down(near: &Near) {
    let command = "tc qdisc replace dev a0 root tbf rate 20mbit burst 20kb latency 100ms";
    near.run(command);
    near.run_at_far(command);
}

/// In each direction.
const DELAY: Duration = Duration::from_millis(50);

const MIB: u64 = 1024 * 1024;
