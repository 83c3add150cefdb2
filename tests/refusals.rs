//! Checks that settings refuse values that cannot work, alone and together.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use libp2p_identity::Keypair;
use libp2p_quinn::{BandwidthLimits, Config, ConfigBuilder, ConfigError};

/// Longer than any handshake takes.
const NEVER: Duration = Duration::from_secs(3600);

type Built = Result<ConfigBuilder, ConfigError>;

#[test]
fn every_setter_refuses_what_cannot_work_and_names_itself() {
    const LARGEST: u64 = (1 << 62) - 1;
    let keypair = Keypair::generate_ed25519();
    let refuses = |name: &'static str, built: Built| match built {
        Err(ConfigError::OutOfRange { name: named, .. }) => assert_eq!(named, name),
        other => panic!("{name}: {other:?}"),
    };
    let accepts = |built: Built| assert!(built.is_ok(), "{built:?}");
    let config = || Config::builder(&keypair);
    let name = "bandwidth_limits";
    let mut limits = BandwidthLimits::default();
    limits.send.each_peer = Some(999);
    refuses(name, config().bandwidth_limits(limits));
    limits.send.each_peer = Some(1_000);
    accepts(config().bandwidth_limits(limits));
    let name = "connection_receive_window_bytes";
    refuses(name, config().connection_receive_window_bytes(0));
    refuses(name, config().connection_receive_window_bytes(LARGEST + 1));
    accepts(config().connection_receive_window_bytes(LARGEST));
    let name = "handshake_timeout";
    refuses(name, config().handshake_timeout(Duration::ZERO));
    refuses(
        name,
        config().handshake_timeout(NEVER + Duration::from_millis(1)),
    );
    accepts(config().handshake_timeout(NEVER));
    let name = "initial_rtt";
    refuses(name, config().initial_rtt(Duration::from_micros(999)));
    refuses(name, config().initial_rtt(Duration::from_millis(1001)));
    accepts(config().initial_rtt(Duration::from_millis(1)));
    accepts(config().initial_rtt(Duration::from_secs(1)));
    let name = "initial_window_bytes";
    refuses(name, config().initial_window_bytes(2_399));
    refuses(name, config().initial_window_bytes(10_000_001));
    accepts(config().initial_window_bytes(2_400));
    accepts(config().initial_window_bytes(10_000_000));
    let name = "idle_timeout";
    refuses(name, config().idle_timeout(Some(Duration::ZERO)));
    refuses(
        name,
        config().idle_timeout(Some(Duration::from_micros(999))),
    );
    refuses(
        name,
        config().idle_timeout(Some(Duration::from_millis(LARGEST + 1))),
    );
    accepts(config().idle_timeout(Some(Duration::from_millis(1))));
    let name = "keep_alive_interval";
    refuses(name, config().keep_alive_interval(Some(Duration::ZERO)));
    refuses(
        name,
        config().keep_alive_interval(Some(Duration::from_nanos(1))),
    );
    let name = "linger_timeout";
    refuses(
        name,
        config().linger_timeout(NEVER + Duration::from_millis(1)),
    );
    accepts(config().linger_timeout(NEVER));
    accepts(config().linger_timeout(Duration::ZERO));
    let name = "max_buffered_bytes";
    refuses(name, config().max_buffered_bytes(Some((1 << 20) - 1)));
    accepts(config().max_buffered_bytes(Some(1 << 20)));
    let name = "max_handshakes_per_source";
    refuses(name, config().max_handshakes_per_source(0));
    accepts(config().max_handshakes_per_source(usize::MAX));
    let name = "max_incoming_handshakes";
    refuses(name, config().max_incoming_handshakes(0));
    accepts(config().max_incoming_handshakes(usize::MAX));
    let name = "max_pending_incoming_bytes";
    refuses(name, config().max_pending_incoming_bytes(32 * 1024 - 1));
    accepts(config().max_pending_incoming_bytes(usize::MAX));
    let name = "max_mtu_bytes";
    refuses(name, config().max_mtu_bytes(1199));
    refuses(name, config().max_mtu_bytes(65_501));
    for bytes in [1200, 65_500] {
        config().max_mtu_bytes(bytes).unwrap().build().unwrap();
    }
    refuses("max_peer_streams", config().max_peer_streams(0));
    refuses("max_pending_incoming", config().max_pending_incoming(0));
    refuses("max_peer_streams", config().max_peer_streams(65_537));
    refuses(
        "keep_alive_interval",
        config().keep_alive_interval(Some(Duration::MAX)),
    );
    refuses("send_window_bytes", config().send_window_bytes(0));
    refuses("shards", config().shards(0));
    refuses("shards", config().shards(65));
    accepts(config().shards(64));
    let name = "socket_buffer_bytes";
    refuses(name, config().socket_buffer_bytes(65_535, 65_536));
    refuses(name, config().socket_buffer_bytes(65_536, 65_535));
    refuses(name, config().socket_buffer_bytes(65_536, (1 << 30) + 1));
    accepts(config().socket_buffer_bytes(65_536, 1 << 30));
    let name = "stream_receive_window_bytes";
    refuses(name, config().stream_receive_window_bytes(0));
    refuses(name, config().stream_receive_window_bytes(LARGEST + 1));
}

#[test]
fn every_setter_that_may_refuse_is_tried_with_what_it_refuses() {
    let setters = include_str!("../src/config/builder.rs").split("    pub fn ");
    let (_, tried) = include_str!("refusals.rs")
        .split_once("fn every_setter_refuses_what_cannot_work_and_names_itself")
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
