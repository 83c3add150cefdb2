//! Checks that settings refuse values that cannot work, alone and together.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use libp2p_identity::Keypair;
use libp2p_quinn::{BandwidthLimits, Config, ConfigBuilder, ConfigError};

const HOUR: Duration = Duration::from_secs(3600);

type Built = Result<ConfigBuilder, ConfigError>;

#[test]
fn every_setter_refuses_what_cannot_work_and_names_itself_and_what_can() {
    const LARGEST: u64 = (1 << 62) - 1;
    const MILLISECOND: Duration = Duration::from_millis(1);
    let keypair = Keypair::generate_ed25519();
    let config = || Config::builder(&keypair);
    let refuses = |name: &str, range: &str, built: Built| match built {
        Err(ConfigError::OutOfRange {
            name: named,
            expected,
        }) => assert_eq!((named, expected), (name, range)),
        other => panic!("{name}: {other:?}"),
    };
    let accepts = |built: Built| assert!(built.is_ok(), "{built:?}");

    let set = |rate| {
        let mut limits = BandwidthLimits::default();
        limits.send.each_peer = rate;
        config().bandwidth_limits(limits)
    };
    let range = "at least 1,000 bytes per second";
    refuses("bandwidth_limits", range, set(Some(999)));
    accepts(set(Some(1_000)));
    accepts(set(None));

    let set = |bytes| config().connection_receive_window_bytes(bytes);
    let range = "at least 1 and less than 2^62 bytes";
    refuses("connection_receive_window_bytes", range, set(0));
    accepts(set(1));
    accepts(set(LARGEST));
    refuses("connection_receive_window_bytes", range, set(LARGEST + 1));

    let set = |timeout| config().handshake_timeout(timeout);
    let range = "more than zero, at most an hour";
    refuses("handshake_timeout", range, set(Duration::ZERO));
    accepts(set(Duration::from_nanos(1)));
    accepts(set(HOUR));
    refuses("handshake_timeout", range, set(HOUR + MILLISECOND));

    let set = |timeout| config().idle_timeout(timeout);
    let range = "at least 1 ms and less than 2^62 ms";
    refuses("idle_timeout", range, set(Some(Duration::ZERO)));
    let short = Some(Duration::from_micros(999));
    refuses("idle_timeout", range, set(short));
    accepts(set(Some(MILLISECOND)));
    accepts(set(Some(Duration::from_millis(LARGEST))));
    let long = Some(Duration::from_millis(LARGEST + 1));
    refuses("idle_timeout", range, set(long));
    accepts(set(None));

    let set = |micros| config().initial_rtt(Duration::from_micros(micros));
    refuses("initial_rtt", "1 ms to 1 s", set(999));
    accepts(set(1_000));
    accepts(set(1_000_000));
    refuses("initial_rtt", "1 ms to 1 s", set(1_000_001));

    let set = |bytes| config().initial_window_bytes(bytes);
    refuses("initial_window_bytes", "2,400 to 10,000,000", set(2_399));
    accepts(set(2_400));
    accepts(set(10_000_000));
    let large = set(10_000_001);
    refuses("initial_window_bytes", "2,400 to 10,000,000", large);

    let set = |interval| config().keep_alive_interval(interval);
    refuses("keep_alive_interval", "1 ms to a day", set(short));
    accepts(set(Some(MILLISECOND)));
    accepts(set(Some(24 * HOUR)));
    let long = set(Some(24 * HOUR + MILLISECOND));
    refuses("keep_alive_interval", "1 ms to a day", long);
    let longest = set(Some(Duration::MAX));
    refuses("keep_alive_interval", "1 ms to a day", longest);
    accepts(set(None));

    let set = |timeout| config().linger_timeout(timeout);
    accepts(set(Duration::ZERO));
    accepts(set(HOUR));
    let long = set(HOUR + MILLISECOND);
    refuses("linger_timeout", "at most an hour", long);

    let set = |bytes| config().max_buffered_bytes(bytes);
    let little = set(Some((1 << 20) - 1));
    refuses("max_buffered_bytes", "at least 1 MiB", little);
    accepts(set(Some(1 << 20)));
    accepts(set(None));

    let set = |handshakes| config().max_handshakes_per_source(handshakes);
    refuses("max_handshakes_per_source", "at least 1", set(0));
    accepts(set(1));
    accepts(set(usize::MAX));

    let set = |handshakes| config().max_incoming_handshakes(handshakes);
    refuses("max_incoming_handshakes", "at least 1", set(0));
    accepts(set(1));
    accepts(set(usize::MAX));

    let set = |bytes| config().max_mtu_bytes(bytes);
    refuses("max_mtu_bytes", "1200 to 65500 bytes", set(1199));
    for bytes in [1200, 65_500] {
        set(bytes).unwrap().build().unwrap();
    }
    refuses("max_mtu_bytes", "1200 to 65500 bytes", set(65_501));

    let set = |streams| config().max_peer_streams(streams);
    refuses("max_peer_streams", "1 to 65536", set(0));
    accepts(set(1));
    accepts(set(65_536));
    refuses("max_peer_streams", "1 to 65536", set(65_537));

    let set = |connections| config().max_pending_incoming(connections);
    refuses("max_pending_incoming", "at least 1", set(0));
    accepts(set(1));
    accepts(set(usize::MAX));

    let set = |bytes| config().max_pending_incoming_bytes(bytes);
    let little = set(32 * 1024 - 1);
    refuses("max_pending_incoming_bytes", "at least 32 KiB", little);
    accepts(set(32 * 1024));
    accepts(set(usize::MAX));

    let set = |bytes| config().send_window_bytes(bytes);
    refuses("send_window_bytes", "at least 1", set(0));
    accepts(set(1));
    accepts(set(u64::MAX));

    let set = |shards| config().shards(shards);
    refuses("shards", "1 to 64", set(0));
    accepts(set(1));
    accepts(set(64));
    refuses("shards", "1 to 64", set(65));

    let set = |receive, send| config().socket_buffer_bytes(receive, send);
    let (least, most) = (64 << 10, 1 << 30);
    for (receive, send) in [
        (least - 1, least),
        (least, least - 1),
        (least, most + 1),
        (most + 1, least),
    ] {
        let built = set(receive, send);
        refuses("socket_buffer_bytes", "64 KiB to 1 GiB", built);
    }
    accepts(set(least, most));
    accepts(set(most, least));

    let set = |bytes| config().stream_receive_window_bytes(bytes);
    let range = "at least 1 and less than 2^62 bytes";
    refuses("stream_receive_window_bytes", range, set(0));
    accepts(set(1));
    accepts(set(LARGEST));
    refuses("stream_receive_window_bytes", range, set(LARGEST + 1));
}

#[test]
fn every_setter_that_may_refuse_is_tried_with_what_it_refuses() {
    let setters = include_str!("../src/config/builder.rs").split("    pub fn ");
    let (_, tried) = include_str!("refusals.rs")
        .split_once("fn every_setter_refuses_what_cannot_work_and_names_itself_and_what_can")
        .unwrap();
    let (tried, _) = tried.split_once("\n}\n").unwrap();
    let mut count = 0;
    for setter in setters.skip(1) {
        let (declaration, _) = setter.split_once('{').unwrap();
        let (name, rest) = declaration.split_once('(').unwrap();
        if rest.starts_with("mut self") && rest.contains("-> Result") {
            assert!(tried.contains(&format!("\"{name}\"")), "{name}");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn settings_that_contradict_each_other_are_refused_together() {
    let keypair = Keypair::generate_ed25519();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let keep_alive = |idle, keep_alive| {
        let config = Config::builder(&keypair).idle_timeout(idle).unwrap();
        config.keep_alive_interval(keep_alive).unwrap().build()
    };
    for (idle, interval) in [(seconds(10), seconds(6)), (seconds(4), seconds(5))] {
        let built = keep_alive(idle, interval);
        assert!(
            matches!(built, Err(ConfigError::KeepAliveTooLong)),
            "{built:?}"
        );
    }
    keep_alive(seconds(10), seconds(5)).unwrap();
    keep_alive(seconds(4), None).unwrap();
    keep_alive(None, seconds(1000)).unwrap();

    let windows = |stream, connection| {
        let config = Config::builder(&keypair).stream_receive_window_bytes(stream);
        let config = config.unwrap().connection_receive_window_bytes(connection);
        config.unwrap().build()
    };
    let built = windows(1001, 1000);
    assert!(
        matches!(built, Err(ConfigError::StreamWindowTooLarge)),
        "{built:?}"
    );
    windows(1000, 1000).unwrap();

    let initial_rtt = |rtt: u64, timeout: u64| {
        let config = Config::builder(&keypair).initial_rtt(Duration::from_millis(rtt));
        let config = config
            .unwrap()
            .handshake_timeout(Duration::from_millis(timeout));
        config.unwrap().build()
    };
    let built = initial_rtt(400, 1199);
    assert!(
        matches!(built, Err(ConfigError::InitialRttTooLong)),
        "{built:?}"
    );
    initial_rtt(400, 1200).unwrap();
    initial_rtt(333, 100).unwrap();
}
