//! Peers that are silent for a while, or for ever.

use std::time::Duration;

use futures::future::FutureExt;

use super::{link::Impairments, network::Network, node::Setup, seeds};
use crate::{
    config::{ConfigBuilder, CongestionControl},
    proto::Connection,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn bytes_flow_again_within_a_second_of_the_end_of_an_outage() {
    for seed in seeds().take(10) {
        // Including outages that end right after an unanswered probe of quinn-proto.
        for outage in [1_000, 2_300, 4_600, 7_000].map(Duration::from_millis) {
            let waited = stall_after(seed, outage, SECOND);
            let most = SECOND + Duration::from_millis(300);
            assert!(waited < most, "{waited:?} after {outage:?}");
        }
    }
}

/// Congestion control does not hold a probe back, but counts it.
#[test]
fn probe_takes_its_part_of_the_window_of_a_paced_connection() {
    let setup = Setup {
        configure: |builder| builder.congestion_control(CongestionControl::Bbr),
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup, Setup::default());
    let (dialer, _) = network.connect(0, 1);
    network.run_for(SECOND);
    let now = network.now;
    dialer.with(|connection| {
        let room = |connection: &Connection| connection.path_control().paced().unwrap().room();
        let before = room(connection);
        connection.ping();
        let probe = connection.poll_probe(now, &mut Vec::new()).unwrap();
        assert_eq!(before - room(connection), probe.size as u64);
    });
}

/// The time from the end of an outage during an upload to the end of the upload, most of which was
/// in flight before.
fn stall_after(seed: u64, outage: Duration, warm_up: Duration) -> Duration {
    static CONTENTS: [u8; 100_000] = [7; 100_000];
    let mut network = Network::pair(seed, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(warm_up);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    network.impair(Impairments::DEAD);
    let writer = dialer.clone();
    network.block_on(async move {
        writer.write_all(stream, &CONTENTS).await.unwrap();
        writer.finish(stream).unwrap();
    });
    network.run_for(outage);
    network.impair(Impairments::NONE);
    let begun = network.elapsed();
    let read = network.block_on(async move {
        let stream = listener.accept().await.unwrap();
        listener.read_to_end(stream).await
    });
    assert_eq!(read.map(|read| read.len()), Ok(CONTENTS.len()));
    network.elapsed() - begun
}

#[test]
fn silent_peer_is_probed_once_a_second_until_it_is_given_up() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, _) = network.connect(0, 1);
    network.run_for(SECOND);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    network.impair(Impairments::DEAD);
    assert_eq!(dialer.write_now(stream, b"hello"), 5);
    network.run_for(SECOND * 3 / 2);
    for second in 2..9 {
        let before = dialer.stats().datagrams_sent;
        network.run_for(SECOND);
        // Our probes, and those of quinn-proto in pairs, at increasing intervals.
        let sent = dialer.stats().datagrams_sent - before;
        assert!((1..=4).contains(&sent), "{sent} in second {second}");
    }
    network.run_for(5 * SECOND);
    assert!(dialer.loss().is_some());
}

#[test]
fn idle_peers_are_not_probed() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, b"hello"), 5);
    network.run_for(10 * SECOND);
    let before = network.datagrams_sent();
    network.run_for(50 * SECOND);
    let sent = network.datagrams_sent() - before;
    // A keep-alive of each side, and their acknowledgements, every five seconds.
    assert!(sent <= 40, "{sent}");
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

/// Our interval is 5 s, and the peer's idle timeout is shorter.
#[test]
fn keep_alive_follows_the_idle_timeout_of_the_peer() {
    for idle in [1, 4] {
        for dials in [false, true] {
            let short = Setup {
                configure: match idle {
                    1 => |builder| without_keep_alive(builder, SECOND),
                    _ => |builder| without_keep_alive(builder, 4 * SECOND),
                },
                ..Setup::default()
            };
            let mut network = if dials {
                Network::pair(1, short, Setup::default())
            } else {
                Network::pair(1, Setup::default(), short)
            };
            let (dialer, listener) = network.connect(0, 1);
            network.run_for(2 * SECOND);
            let before = network.datagrams_sent();
            network.run_for(60 * SECOND);
            assert_eq!((dialer.loss(), listener.loss()), (None, None));
            let sent = network.datagrams_sent() - before;
            let expected = 60 * 3 * 2 / idle;
            assert!(sent <= expected + 10, "{sent} of {expected}");
        }
    }
}

/// An attacker who sees packets can replay them, but cannot keep a silent connection alive by that.
#[test]
fn replayed_packets_are_no_sign_of_life() {
    let short = Setup {
        configure: |builder| without_keep_alive(builder, 4 * SECOND),
        ..Setup::default()
    };
    let mut network = Network::pair(1, Setup::default(), short);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(2 * SECOND);
    let [to, from] = [0, 1].map(|node| network.nodes[node].addr());
    let stream = listener.open().now_or_never().unwrap().unwrap();
    assert_eq!(listener.write_now(stream, b"hello"), 5);
    network.settle();
    let recorded = network.in_flight_to(to);
    assert_eq!(recorded.len(), 1);
    for _ in 0..30 {
        network.run_for(SECOND);
        let now = network.now;
        network.nodes[0].receive(now, from, &recorded[0]);
        network.settle();
    }
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

/// A peer with an idle timeout of a millisecond does not get thousands of packets a second.
#[test]
fn peer_does_not_choose_to_be_sent_keep_alives_all_the_time() {
    let hasty = Setup {
        configure: |builder| without_keep_alive(builder, Duration::from_millis(1)),
        ..Setup::default()
    };
    let mut network = Network::pair(1, hasty, Setup::default());
    let (hasty, listener) = network.connect(0, 1);
    let before = listener.stats().datagrams_sent;
    let stream = hasty.open().now_or_never().unwrap().unwrap();
    for _ in 0..100 {
        // Otherwise it would time out.
        assert_eq!(hasty.write_now(stream, b"x"), 1);
        network.run_for(SECOND / 20);
    }
    assert_eq!(listener.loss(), None);
    let sent = listener.stats().datagrams_sent - before;
    // Acknowledgements, and four keep-alives a second.
    assert!(sent <= 130, "{sent}");
}

fn without_keep_alive(builder: ConfigBuilder, idle: Duration) -> ConfigBuilder {
    builder
        .keep_alive_interval(None)
        .and_then(|builder| builder.idle_timeout(Some(idle)))
        .unwrap()
}
