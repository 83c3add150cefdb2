//! Checks the effects of settings. Tests that need virtual time are in
//! `src/proto/tests/settings.rs`, and those of what the authenticator gets in
//! `src/authenticator/tests.rs`.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeSet,
    future::poll_fn,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{AsyncWriteExt, future::poll_immediate};
use libp2p_core::muxing::{StreamMuxerEvent, StreamMuxerExt};
use libp2p_quinn::{
    ConfigBuilder, ConfigError, CongestionControl, Connection, ConnectionError, Error,
    HandshakeError, RetryPolicy,
};
use support::{
    node::{Node, bounded, connect, connect_at, echo, quic_addr, socket_addr, until},
    relay::Relay,
    streams::{ask, fill, open, open_between, transfer_through_echo},
};
use tokio::task::unconstrained;

const SHORT: Duration = Duration::from_millis(600);

type Built = Result<ConfigBuilder, ConfigError>;

/// Connects two nodes with the same settings.
async fn connect_with(
    set: impl Fn(ConfigBuilder) -> Built,
) -> (Node, Node, Connection, Connection) {
    let (mut dialer, mut listener) = (Node::with(&set), Node::with(&set));
    let (dialled, accepted) = connect(&mut dialer, &mut listener).await;
    (dialer, listener, dialled, accepted)
}

/// Connects two nodes with the same settings through a relay.
async fn connect_through_relay(
    set: impl Fn(ConfigBuilder) -> Built,
) -> (Relay, Node, Node, Connection, Connection) {
    let (mut dialer, mut listener) = (Node::with(&set), Node::with(&set));
    let relay = Relay::to(&[socket_addr(&listener.listen().await)]).await;
    let addr = quic_addr(relay.addr());
    let (dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
    (relay, dialer, listener, dialled, accepted)
}

async fn end_of(muxer: &mut Connection) -> ConnectionError {
    poll_fn(|cx| muxer.poll_unpin(cx)).await.unwrap_err()
}

#[tokio::test]
async fn handshake_timeout_ends_a_dial() {
    bounded(async {
        let mut dialer = Node::with(|config| config.handshake_timeout(SHORT));
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dialled = dialer.dial(&quic_addr(silent.local_addr().unwrap())).await;
        assert!(
            matches!(dialled, Err(Error::Handshake(HandshakeError::TimedOut))),
            "{dialled:?}"
        );
        assert_eq!(dialer.stats().transport.handshakes_timed_out, 1);
    })
    .await;
}

#[tokio::test]
async fn handshake_timeout_ends_the_wait_for_the_applications_answer() {
    bounded(async {
        let mut dialer = Node::new();
        let mut listener = Node::with(|config| config.handshake_timeout(SHORT));
        let addr = listener.listen().await;
        let dial = tokio::spawn(dialer.dial(&addr));
        let upgrade = listener.knock().await.upgrade;
        until(|| listener.stats().registry.pending_incoming == 0).await;
        dial.abort();
        let accepted = upgrade.await;
        assert!(
            matches!(accepted, Err(Error::Handshake(HandshakeError::TimedOut))),
            "{accepted:?}"
        );
        assert_eq!(listener.stats().transport.incoming_refused, 1);
    })
    .await;
}

#[tokio::test]
async fn idle_timeout_ends_a_connection_that_has_lost_its_peer() {
    bounded(async {
        let (relay, dialer, listener, mut dialled, mut accepted) =
            connect_through_relay(|config| {
                config
                    .idle_timeout(Some(SHORT))?
                    .keep_alive_interval(Some(SHORT / 4))
            })
            .await;
        relay.cut();
        assert_eq!(end_of(&mut dialled).await, ConnectionError::TimedOut);
        assert_eq!(end_of(&mut accepted).await, ConnectionError::TimedOut);
        until(|| dialer.stats().registry.connections == 0).await;
        until(|| listener.stats().registry.connections == 0).await;
    })
    .await;
}

#[tokio::test]
async fn without_keep_alive_an_idle_connection_ends() {
    bounded(async {
        let (_dialer, _listener, mut dialled, mut accepted) =
            connect_with(|config| config.idle_timeout(Some(SHORT))?.keep_alive_interval(None))
                .await;
        assert_eq!(end_of(&mut dialled).await, ConnectionError::TimedOut);
        assert_eq!(end_of(&mut accepted).await, ConnectionError::TimedOut);
    })
    .await;
}

#[tokio::test]
async fn keep_alive_of_one_side_keeps_an_idle_connection() {
    bounded(async {
        let interval = SHORT / 8;
        let mut dialer = Node::with(|config| {
            config
                .idle_timeout(Some(SHORT))?
                .keep_alive_interval(Some(interval))
        });
        let mut listener =
            Node::with(|config| config.idle_timeout(Some(SHORT))?.keep_alive_interval(None));
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        // Nothing else is sent meanwhile. This many packets take more than twice the idle timeout.
        let sent = |dialer: &Node| dialer.stats().connections[0].datagrams_sent;
        let before = sent(&dialer);
        until(|| sent(&dialer) >= before + 24).await;
        let echo = tokio::spawn(echo(accepted));
        ask(&mut dialled).await;
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn max_peer_streams_limits_the_peer() {
    bounded(async {
        let mut dialer = Node::with(|config| config.max_peer_streams(5));
        let mut listener = Node::with(|config| config.max_peer_streams(3));
        let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        for (muxer, limit) in [(&mut dialled, 3), (&mut accepted, 5)] {
            let mut streams = Vec::new();
            while let Some(stream) =
                poll_immediate(poll_fn(|cx| muxer.poll_outbound_unpin(cx))).await
            {
                streams.push(stream.unwrap());
            }
            assert_eq!(streams.len(), limit);
        }
    })
    .await;
}

#[tokio::test]
async fn stream_receive_window_limits_what_a_peer_sends_unread_on_one_stream() {
    const SEND_WINDOW: usize = 20_000;
    bounded(async {
        for window in [10_000, 200_000] {
            let mut dialer = Node::with(|config| config.send_window_bytes(SEND_WINDOW as u64));
            let mut listener =
                Node::with(|config| config.stream_receive_window_bytes(window as u64));
            let (mut dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
            let (mut near, _far) = open_between(&mut dialled, &mut accepted).await;
            let echo = tokio::spawn(echo(accepted));
            let unread = 1 + fill(&mut near, &mut dialled).await;
            assert!(
                (window..=window + SEND_WINDOW + 64 * 1024).contains(&unread),
                "{unread}"
            );
            drop(dialled);
            echo.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn connection_receive_window_limits_what_a_peer_sends_unread_on_all_streams() {
    const SEND_WINDOW: usize = 20_000;
    const STREAMS: usize = 4;
    bounded(async {
        let window = 100_000;
        let mut dialer = Node::with(|config| config.send_window_bytes(SEND_WINDOW as u64));
        let mut listener = Node::with(|config| {
            config
                .connection_receive_window_bytes(window as u64)?
                .stream_receive_window_bytes(window as u64)
        });
        let (mut dialled, _accepted) = connect(&mut dialer, &mut listener).await;
        let taken = Arc::new(AtomicUsize::new(0));
        let mut writers = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = open(&mut dialled).await;
            let taken = Arc::clone(&taken);
            writers.push(tokio::spawn(async move {
                while let Ok(written) = stream.write(&[0; 5000]).await {
                    taken.fetch_add(written, Ordering::Relaxed);
                }
            }));
        }
        until(|| taken.load(Ordering::Relaxed) >= window).await;
        // Waits until everything that the window permits is sent and acknowledged.
        let sent = || dialer.stats().connections[0].datagrams_sent;
        let (mut before, mut quiet) = (sent(), 0);
        until(|| {
            let now = sent();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            quiet == 50
        })
        .await;
        let unread = taken.load(Ordering::Relaxed);
        assert!(unread <= window + SEND_WINDOW + 64 * 1024, "{unread}");
        drop(dialled);
        for writer in writers {
            writer.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn send_window_limits_what_is_not_acknowledged() {
    const WRITE_BYTES: usize = 2000;
    bounded(async {
        for window in [5_000, 300_000] {
            let (relay, _dialer, _listener, mut dialled, _accepted) =
                connect_through_relay(|config| config.send_window_bytes(window)).await;
            let mut stream = open(&mut dialled).await;
            relay.cut();
            let mut taken = 0;
            // The window must end this loop, not tokio's cooperative budget.
            unconstrained(async {
                while let Some(written) = poll_immediate(stream.write(&[0; WRITE_BYTES])).await {
                    taken += written.unwrap() as u64;
                }
            })
            .await;
            // And the data that waits to be sent.
            let most = window + window / 8 + WRITE_BYTES as u64;
            assert!((window..=most).contains(&taken), "{taken} for {window}");
        }
    })
    .await;
}

async fn mtu_bytes_after_transfer(
    set: impl Fn(ConfigBuilder) -> Built,
    is_found: impl Fn(u16) -> bool,
) {
    let (dialer, _listener, mut dialled, accepted) = connect_with(set).await;
    let echo = tokio::spawn(echo(accepted));
    transfer_through_echo(&mut dialled, 500_000).await;
    until(|| is_found(dialer.stats().connections[0].mtu_bytes)).await;
    drop(dialled);
    echo.await.unwrap();
}

#[tokio::test]
async fn mtu_discovery_goes_up_to_its_limit() {
    bounded(async {
        // Far larger than on Ethernet, even with the smallest usual receive buffer.
        mtu_bytes_after_transfer(Ok, |mtu| mtu > 10_000).await;
        mtu_bytes_after_transfer(|config| config.max_mtu_bytes(1452), |mtu| mtu == 1452).await;
        mtu_bytes_after_transfer(|config| config.max_mtu_bytes(1300), |mtu| mtu == 1300).await;
        // The search stops when the rest is not worth another probe.
        mtu_bytes_after_transfer(
            |config| config.max_mtu_bytes(9000),
            |mtu| (8900..=9000).contains(&mtu),
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn every_congestion_control_delivers_what_is_sent() {
    bounded(async {
        for control in [
            CongestionControl::Cubic,
            CongestionControl::Bbr,
            CongestionControl::NewReno,
        ] {
            let set = |config: ConfigBuilder| Ok(config.congestion_control(control));
            let (_relay, dialer, _listener, mut dialled, accepted) =
                connect_through_relay(set).await;
            let echo = tokio::spawn(echo(accepted));
            transfer_through_echo(&mut dialled, 1_000_000).await;
            let window = dialer.stats().connections[0].congestion_window_bytes;
            assert!((1..1 << 32).contains(&window), "{control:?}: {window}");
            drop(dialled);
            echo.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn without_mtu_discovery_datagrams_stay_small() {
    bounded(async {
        let mtu_bytes = |mtu| {
            assert_eq!(mtu, 1200);
            true
        };
        mtu_bytes_after_transfer(|config| Ok(config.mtu_discovery(false)), mtu_bytes).await;
        mtu_bytes_after_transfer(|config| config.max_mtu_bytes(1200), mtu_bytes).await;
    })
    .await;
}

#[tokio::test]
async fn max_pending_incoming_drops_what_is_more() {
    bounded(async {
        let mut dialer = Node::new();
        let mut listener = Node::with(|config| config.max_pending_incoming(2));
        let addr = listener.listen().await;
        let dials: Vec<_> = (0..5).map(|_| tokio::spawn(dialer.dial(&addr))).collect();
        // Each of the three others has sent at least one packet, which was dropped unread.
        until(|| {
            let registry = listener.stats().registry;
            registry.dropped_overload >= 3
        })
        .await;
        assert_eq!(listener.stats().registry.pending_incoming, 2);
        assert_eq!(listener.stats().transport.incoming, 2);
        // An answer makes room.
        drop(listener.knock().await);
        drop(listener.knock().await);
        let _third = listener.knock().await;
        for dial in dials {
            dial.abort();
        }
    })
    .await;
}

/// Dials that are not answered, until the listener has dropped a packet for this reason.
async fn knock_until_dropped(
    set: impl FnOnce(ConfigBuilder) -> Built,
    dropped: impl Fn(&libp2p_quinn::RegistryStats) -> u64,
) -> (Node, Node) {
    let mut dialer = Node::new();
    let mut listener = Node::with(set);
    let addr = listener.listen().await;
    let dials: Vec<_> = (0..12).map(|_| tokio::spawn(dialer.dial(&addr))).collect();
    until(|| dropped(&listener.stats().registry) > 0).await;
    for dial in dials {
        dial.abort();
    }
    (dialer, listener)
}

#[tokio::test]
async fn max_incoming_handshakes_drops_what_is_more() {
    bounded(async {
        let (_dialer, listener) = knock_until_dropped(
            |config| config.max_incoming_handshakes(4),
            |registry| registry.dropped_overload,
        )
        .await;
        let stats = listener.stats();
        assert_eq!(stats.registry.pending_incoming, 4);
        // From a quarter of the limit on, addresses have to be proven.
        assert!(stats.transport.retries_sent > 0);
    })
    .await;
}

#[tokio::test]
async fn max_handshakes_per_source_asks_for_a_proof_and_then_drops_what_is_more() {
    bounded(async {
        let (_dialer, listener) = knock_until_dropped(
            |config| config.max_handshakes_per_source(2),
            |registry| registry.dropped_source_full,
        )
        .await;
        let stats = listener.stats();
        // Two without a proof, and two with one.
        assert_eq!(stats.registry.pending_incoming, 4);
        assert!(stats.transport.retries_sent > 0);
        assert_eq!(stats.registry.handshake_sources, 1);
        assert_eq!(stats.registry.dropped_overload, 0);
    })
    .await;
}

#[tokio::test]
async fn max_pending_incoming_bytes_drops_what_is_more() {
    const LIMIT: usize = 32 * 1024;
    // Half of the limit, for senders that have not proven their address, less what did not fit.
    const LEAST: usize = LIMIT / 2 - 1200;
    bounded(async {
        let (_dialer, listener) = knock_until_dropped(
            |config| config.max_pending_incoming_bytes(LIMIT),
            |registry| registry.dropped_overload,
        )
        .await;
        let registry = listener.stats().registry;
        let bytes = registry.pending_incoming_bytes;
        assert!((LEAST..=LIMIT).contains(&bytes), "{bytes}");
    })
    .await;
}

#[tokio::test]
async fn with_migration_a_peer_goes_on_from_another_port() {
    bounded(async {
        let (relay, _dialer, listener, mut dialled, mut accepted) = connect_through_relay(Ok).await;
        relay.rebind().await;
        let (mut near, far) = open_between(&mut dialled, &mut accepted).await;
        let expected = relay.outside_addr();
        match poll_fn(|cx| accepted.poll_unpin(cx)).await.unwrap() {
            StreamMuxerEvent::AddressChange(addr) => assert_eq!(addr, quic_addr(expected)),
        }
        assert_eq!(listener.stats().connections[0].remote_addr, expected);
        near.close().await.unwrap();
        drop(far);
        let echo = tokio::spawn(echo(accepted));
        transfer_through_echo(&mut dialled, 200_000).await;
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn without_migration_a_peer_on_another_port_is_not_heard() {
    bounded(async {
        let (relay, _dialer, listener, mut dialled, mut accepted) =
            connect_through_relay(|config| {
                config
                    .migration(false)
                    .idle_timeout(Some(SHORT))?
                    .keep_alive_interval(Some(SHORT / 4))
            })
            .await;
        let before = listener.stats().connections[0].remote_addr;
        relay.rebind().await;
        let (carried, mut stream) = (relay.carried(), open(&mut dialled).await);
        stream.write_all(b"?").await.unwrap();
        until(|| relay.carried() > carried).await;
        assert_eq!(end_of(&mut accepted).await, ConnectionError::TimedOut);
        assert_eq!(end_of(&mut dialled).await, ConnectionError::TimedOut);
        let after = listener.stats().connections;
        assert!(
            after
                .iter()
                .all(|connection| connection.remote_addr == before)
        );
    })
    .await;
}

#[tokio::test]
async fn shards_share_the_connections() {
    bounded(async {
        let mut dialer = Node::with(|config| config.shards(4));
        let mut listener = Node::new();
        let addr = listener.listen().await;
        let mut connections = Vec::new();
        for _ in 0..4 {
            connections.push(connect_at(&mut dialer, &mut listener, &addr).await);
        }
        let shards = |node: &Node| -> BTreeSet<usize> {
            let connections = node.stats().connections.into_iter();
            connections.map(|connection| connection.shard).collect()
        };
        assert_eq!(dialer.stats().transport.shards, 4);
        assert_eq!(shards(&dialer), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(listener.stats().transport.shards, 1);
        assert_eq!(shards(&listener), BTreeSet::from([0]));
    })
    .await;
}

#[tokio::test]
async fn socket_buffers_are_asked_for_and_reported() {
    bounded(async {
        let (receive, send) = (96 * 1024, 160 * 1024);
        // The sizes that the kernel grants.
        let socket = socket2::Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.set_recv_buffer_size(receive).unwrap();
        socket.set_send_buffer_size(send).unwrap();

        let mut node = Node::with(|config| config.socket_buffer_bytes(receive, send));
        node.listen().await;
        let stats = &node.stats().listeners[0];
        assert_eq!(
            stats.receive_buffer_bytes,
            socket.recv_buffer_size().unwrap()
        );
        assert_eq!(stats.send_buffer_bytes, socket.send_buffer_size().unwrap());
        assert_ne!(stats.receive_buffer_bytes, stats.send_buffer_bytes);
    })
    .await;
}

#[tokio::test]
async fn measure_routing_times_every_datagram() {
    bounded(async {
        for enabled in [true, false] {
            let (_dialer, listener, mut dialled, accepted) =
                connect_with(|config| Ok(config.measure_routing(enabled))).await;
            let echo = tokio::spawn(echo(accepted));
            ask(&mut dialled).await;
            drop(dialled);
            echo.await.unwrap();
            let stats = listener.stats();
            let timed = stats.registry.timed_datagrams;
            if enabled {
                assert_eq!(timed, stats.transport.datagrams_received);
                assert!(timed > 0);
            } else {
                assert_eq!((timed, stats.registry.routing_time), (0, Duration::ZERO));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn retry_policy_decides_who_has_to_prove_an_address() {
    bounded(async {
        for (policy, asks) in [
            (RetryPolicy::Always, true),
            (RetryPolicy::Never, false),
            (RetryPolicy::UnderLoad { handshakes: 0 }, true),
            (RetryPolicy::UnderLoad { handshakes: 64 }, false),
        ] {
            let mut dialer = Node::new();
            let mut listener = Node::with(|config| Ok(config.retry_policy(policy)));
            let (_dialled, _accepted) = connect(&mut dialer, &mut listener).await;
            let transport = listener.stats().transport;
            assert_eq!(transport.retries_sent > 0, asks, "{policy:?}");
            assert_eq!(transport.handshakes_completed, 1, "{policy:?}");
        }
    })
    .await;
}
