//! Pacing beside what the peer sends.

use std::time::Duration;

use futures::FutureExt;

use super::{
    super::{network::Network, peer::Peer},
    path::WanPath,
    run,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A path with BBR, and both sides of a connection over it.
fn connected(asked: &str) -> (Network, [Peer; 2]) {
    let path = WanPath::parse(asked);
    let mut network = run::network(&path);
    network.impair(path.impairments());
    let (dialer, listener) = network.connect(0, 1);
    (network, [dialer, listener])
}

/// Reads all that comes, one stream after another.
fn read_all(network: &mut Network, peer: &Peer) {
    network.spawn(peer.clone().read_all_streams());
}

fn write_for_ever(network: &mut Network, peer: &Peer) {
    let writer = peer.clone();
    network.spawn(async move {
        let stream = writer.open().await.unwrap();
        while writer.write_all(stream, &[0; 20_000]).await.is_ok() {}
    });
}

/// RFC 9000 §13.2.1, although datagrams full of data are 40 ms apart, and most are sent in twos.
/// What waits while the window is full does not count: quinn-proto holds it back with any
/// controller.
#[test]
fn one_packet_is_acknowledged_in_time_although_nothing_may_be_sent() {
    let (mut network, [dialer, listener]) = connected("bbr=1,rate=0.3,rtt=400,queue=4");
    read_all(&mut network, &dialer);
    read_all(&mut network, &listener);
    write_for_ever(&mut network, &dialer);
    network.run_for(Duration::from_secs(10));
    let frames = |peer: &Peer| peer.with(|connection| connection.quic_stats());
    let has_room = |peer: &Peer| {
        let room = peer.with(|connection| connection.path_control().paced().unwrap().room());
        room >= 1_500
    };
    for round in 0..20 {
        let stream = listener.open().now_or_never().unwrap().unwrap();
        let before = frames(&dialer);
        assert_eq!(listener.write_now(stream, &[0; 100]), 100);
        listener.finish(stream).unwrap();
        while frames(&dialer).frame_rx.stream == before.frame_rx.stream {
            network.run_for(MILLISECOND);
        }
        let mut waited = Duration::ZERO;
        while frames(&dialer).frame_tx.acks == before.frame_tx.acks {
            network.run_for(MILLISECOND);
            waited += if has_room(&dialer) {
                MILLISECOND
            } else {
                Duration::ZERO
            };
        }
        assert!(waited <= 28 * MILLISECOND, "{round}: {waited:?}");
        network.run_for(Duration::from_millis(910));
    }
}

/// No timer is served before something was sent to it, so time would stand still.
#[test]
fn peer_with_another_address_is_challenged_although_nothing_may_be_sent() {
    let (mut network, [dialer, listener]) = connected("bbr=1,rate=0.1,rtt=100,queue=4");
    read_all(&mut network, &dialer);
    write_for_ever(&mut network, &listener);
    network.run_for(Duration::from_secs(10));
    let challenges =
        |peer: &Peer| peer.with(|connection| connection.quic_stats().frame_tx.path_challenge);
    for _ in 0..5 {
        let before = challenges(&listener);
        network.move_socket(0);
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        assert_eq!(dialer.write_now(stream, &[0; 100]), 100);
        network.run_for(Duration::from_millis(400));
        assert!(challenges(&listener) > before);
        network.run_for(Duration::from_secs(5));
        assert_eq!((dialer.loss(), listener.loss()), (None, None));
    }
}
