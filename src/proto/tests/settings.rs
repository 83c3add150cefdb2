//! What the settings of congestion control and the presets come to. The figures of
//! docs/configuration.md are printed:
//!
//! ```text
//! cargo test --release --lib proto::tests::settings -- --nocapture
//! ```

use std::time::Duration;

use futures::{FutureExt, future::join_all};

use super::{link::Impairments, network::Network, node::Setup, wan::goodput_in_mbits};
use crate::config::{ConfigBuilder, Preset};

type Configure = fn(ConfigBuilder) -> ConfigBuilder;

const DEFAULT: Configure = |builder| builder;

fn pair(configure: Configure, round_trip: Duration) -> Network {
    let setup = Setup {
        configure,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    network.impair(Impairments {
        delay: round_trip / 2,
        ..Impairments::NONE
    });
    network
}

/// How long a handshake takes whose first datagrams are lost.
fn connecting_after_a_loss(configure: Configure, round_trip: Duration) -> Duration {
    let mut network = pair(configure, round_trip);
    let dialer = network.dial(0, 1);
    network.settle();
    assert!(!network.intercept().is_empty());
    network.block_on(async move { dialer.established().await.unwrap() });
    network.elapsed()
}

#[test]
fn lost_first_packet_is_sent_again_after_three_initial_round_trips() {
    let round_trip = Duration::from_millis(40);
    for (rtt, configure) in [
        (Duration::from_millis(333), DEFAULT),
        (Duration::from_millis(50), |builder| {
            builder.initial_rtt(Duration::from_millis(50)).unwrap()
        }),
    ] as [(Duration, Configure); 2]
    {
        let took = connecting_after_a_loss(configure, round_trip);
        assert!(took >= 3 * rtt + round_trip, "{took:?}");
        assert!(took < 3 * rtt + 3 * round_trip, "{took:?}");
    }
}

/// How long `bytes` bytes take, from the first of them on.
fn time_of(configure: Configure, bytes: usize) -> Duration {
    let mut network = pair(configure, Duration::from_millis(100));
    let (dialer, listener) = network.connect(0, 1);
    let began = network.elapsed();
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    network.block_on(async move {
        let received = async {
            let stream = listener.accept().await.unwrap();
            listener.read_to_end(stream).await.unwrap()
        };
        let sent = async {
            dialer.write_all(stream, &vec![7; bytes]).await.unwrap();
            dialer.finish(stream).unwrap();
        };
        let (received, ()) = futures::future::join(received, sent).await;
        assert_eq!(received.len(), bytes);
    });
    network.elapsed() - began
}

#[test]
fn initial_window_leaves_before_the_first_acknowledgement() {
    let round_trip = Duration::from_millis(100);
    let usual = time_of(DEFAULT, 60_000);
    let large = time_of(
        |builder| builder.initial_window_bytes(100_000).unwrap(),
        60_000,
    );
    assert!(usual > 2 * round_trip, "{usual:?}");
    assert!(large < round_trip, "{large:?}");
}

/// NewReno halves its window at a loss, and CUBIC takes three tenths from it.
#[test]
fn new_reno_leaves_a_short_queue_empty_for_longer_than_cubic() {
    let [cubic, reno] = [0, 1]
        .map(|reno| goodput_in_mbits(&format!("rate=20,rtt=63,queue=0.1,seconds=30,reno={reno}")));
    assert!(cubic > 15.0, "{cubic}");
    assert!(reno > 10.0 && reno < 0.95 * cubic, "{reno} {cubic}");
}

#[test]
fn preset_for_throughput_fills_a_long_path_sooner() {
    let [usual, preset] = [0, 1].map(|preset| {
        goodput_in_mbits(&format!("rate=1000,rtt=150,seconds=3,throughput={preset}"))
    });
    println!("1 Gbit/s, 150 ms, the first 3 s: {usual:.0} and {preset:.0} Mbit/s");
    assert!(preset > 1.3 * usual, "{preset} {usual}");
}

#[test]
fn preset_for_latency_repeats_a_lost_first_packet_sooner() {
    let round_trip = Duration::from_millis(40);
    let usual = connecting_after_a_loss(DEFAULT, round_trip);
    let preset = connecting_after_a_loss(|builder| builder.preset(Preset::LowLatency), round_trip);
    println!("a handshake over 40 ms whose first packet is lost: {usual:?} and {preset:?}");
    assert!(preset < usual / 2, "{preset:?} {usual:?}");
}

/// How long it takes to send 100 bytes on each of `streams` streams, and to have them back.
fn exchange_on(configure: Configure, streams: usize) -> Duration {
    let mut network = pair(configure, Duration::from_millis(50));
    let (dialer, listener) = network.connect(0, 1);
    let began = network.elapsed();
    network.spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let Ok(request) = listener.read_to_end(stream).await else {
                return;
            };
            if listener.write_all(stream, &request).await.is_err() {
                return;
            }
            let _ = listener.finish(stream);
        }
    });
    network.block_on(async move {
        // Only one task at a time can wait for a stream.
        let opening = futures::lock::Mutex::new(());
        let exchanges = (0..streams).map(|_| {
            let (dialer, opening) = (dialer.clone(), &opening);
            async move {
                let turn = opening.lock().await;
                let stream = dialer.open().await.unwrap();
                drop(turn);
                dialer.write_all(stream, &[7; 100]).await.unwrap();
                dialer.finish(stream).unwrap();
                let reply = dialer.read_to_end(stream).await.unwrap();
                assert_eq!(reply.len(), 100);
            }
        });
        join_all(exchanges).await;
    });
    network.elapsed() - began
}

#[test]
fn preset_for_streams_takes_a_crowd_of_requests_at_once() {
    const REQUESTS: usize = 2000;

    let usual = exchange_on(DEFAULT, REQUESTS);
    let preset = exchange_on(|builder| builder.preset(Preset::ManyStreams), REQUESTS);
    println!("{REQUESTS} requests at once over 50 ms: {usual:?} and {preset:?}");
    assert!(preset < usual / 2, "{preset:?} {usual:?}");
}

/// What a connection holds that nobody reads, in bytes.
fn held_for_nobody(configure: Configure) -> u64 {
    let mut network = pair(configure, Duration::from_millis(10));
    let (dialer, listener) = network.connect(0, 1);
    for _ in 0..4 {
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        for _ in 0..200 {
            dialer.write_now(stream, &[7; 60_000]);
            network.run_for(Duration::from_millis(20));
        }
    }
    listener.stats().held_bytes
}

#[test]
fn preset_for_little_memory_holds_little_for_a_reader_that_has_stalled() {
    let usual = held_for_nobody(DEFAULT);
    let preset = held_for_nobody(|builder| builder.preset(Preset::MemoryConstrained));
    println!("a reader that has stalled: {usual} and {preset} bytes are held");
    assert!(usual > 10_000_000, "{usual}");
    assert!(preset < 900_000, "{preset}");
}
