//! What a subscriber of `tracing` learns of connections, and of what is dropped.
//!
//! Each test runs on one thread, because it subscribes for its thread.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{future::poll_fn, net::UdpSocket};

use libp2p_core::muxing::{StreamMuxerEvent, StreamMuxerExt};
use libp2p_identity::PeerId;
use libp2p_quinn::RetryPolicy;
use multiaddr::Protocol;
use support::{
    node::{Node, bounded, connect, connect_at, socket_addr, until},
    streams::ask,
    trace::{Traced, TracedEvent},
};
use tracing::{Level, level_filters::LevelFilter};

#[tokio::test]
async fn each_connection_has_a_span_on_each_side() {
    let traced = Traced::up_to(LevelFilter::TRACE);
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let first = connect_at(&mut dialer, &mut listener, &addr).await;
        let (dialled, _accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let spans = traced.connections();
        let of_side = |side| {
            let of_side = spans.iter().filter(move |span| span.fields["side"] == side);
            of_side.map(|span| &span.fields)
        };
        for (index, fields) in of_side("dialer").enumerate() {
            assert_eq!(fields["id"], index.to_string());
            assert_eq!(fields["peer"], listener.peer_id.to_string());
            assert_eq!(fields["remote_addr"], socket_addr(&addr).to_string());
        }
        for (index, fields) in of_side("listener").enumerate() {
            assert_eq!(fields["id"], index.to_string());
            assert_eq!(fields["peer"], dialer.peer_id.to_string());
            let found = dialer.transport.handle().connections();
            let port = support::node::port(&found[0].local_address());
            assert!(fields["remote_addr"].ends_with(&format!(":{port}")));
        }
        assert_eq!(
            (of_side("dialer").count(), of_side("listener").count()),
            (2, 2)
        );

        // quinn-proto's own events belong to the connection too.
        let events = traced.all_events();
        let mut theirs = events
            .iter()
            .filter(|event| event.target.starts_with("quinn_proto"));
        assert!(theirs.any(|event| event.side() == Some("dialer")));
        let begun = traced.events("the connection begins");
        assert_eq!(sides(&begun), ["dialer", "dialer", "listener", "listener"]);
        assert!(
            begun
                .iter()
                .all(|event| !event.field("local_addr").is_empty())
        );
        assert_eq!(
            sides(&traced.events("the peer is authenticated")),
            ["dialer", "dialer", "listener", "listener"]
        );

        drop(first);
        dialled.close().await.unwrap();
        until(|| traced.connections().iter().all(|span| span.is_closed)).await;
        let ended = traced.events("the connection has ended");
        let reason = |side, id: &str| {
            let mut of_it = ended.iter().filter(|event| {
                let span = event.span.as_ref().unwrap();
                span["side"] == side && span["id"] == id
            });
            of_it.next().unwrap().field("reason")
        };
        assert_eq!(reason("dialer", "1"), "closed");
        assert_eq!(reason("listener", "1"), "closed by the peer");
        assert_eq!(ended.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_traced_of_a_connection_below_the_level_debug() {
    let traced = Traced::up_to(LevelFilter::INFO);
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let echo = tokio::spawn(support::node::echo(accepted));
        ask(&mut dialled).await;
        drop(dialled);
        echo.await.unwrap();
        assert!(traced.connections().is_empty());
        let mut events = traced.all_events();
        events.retain(|event| event.field("sysctl").is_empty());
        assert!(events.is_empty(), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn each_datagram_that_is_dropped_is_traced_with_the_name_of_its_counter() {
    let traced = Traced::up_to(LevelFilter::TRACE);
    bounded(async {
        let mut listener = Node::with(|config| {
            let config = config.max_pending_incoming(1)?;
            Ok(config.retry_policy(RetryPolicy::Never))
        });
        let addr = listener.listen().await;
        let handle = listener.transport.handle();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = socket_addr(&addr);
        let send = |datagram: &[u8]| {
            for _ in 0..3 {
                stranger.send_to(datagram, target).unwrap();
            }
        };
        send(&[0, 1, 0, 0]);
        send(&[]);
        send(&[0x40; 30]);
        until(|| handle.registry_stats().unknown == 3).await;
        // Nobody takes them, so the second one finds no place.
        let (mut first, mut second) = (Node::new(), Node::new());
        let dials = [first.dial(&addr), second.dial(&addr)].map(|dial| tokio::spawn(dial));
        until(|| handle.registry_stats().dropped_overload > 0).await;

        let stats = handle.registry_stats();
        let dropped = traced.events("dropped a datagram");
        for (reason, count) in [
            ("non_quic", stats.non_quic),
            ("malformed", stats.malformed),
            ("unknown", stats.unknown),
            ("dropped_overload", stats.dropped_overload),
        ] {
            let of_it = || {
                dropped
                    .iter()
                    .filter(|event| event.field("reason") == reason)
            };
            assert!(count > 0, "{reason}");
            assert_eq!(of_it().count() as u64, count, "{reason}");
            assert!(of_it().all(|event| event.level == Level::TRACE));
            assert!(of_it().all(|event| event.field("remote_addr").starts_with("127.0.0.1:")));
        }
        let answered = traced.events("answered a datagram of no connection");
        assert_eq!(answered.len() as u64, stats.responses_sent);
        for dial in dials {
            dial.abort();
        }
    })
    .await;
}

#[tokio::test]
async fn retries_and_refusals_are_traced() {
    let traced = Traced::up_to(LevelFilter::TRACE);
    bounded(async {
        let mut listener = Node::with(|config| Ok(config.retry_policy(RetryPolicy::Always)));
        let mut dialer = Node::new();
        let addr = listener.listen().await;
        let dial = tokio::spawn(dialer.dial(&addr));
        drop(listener.knock().await.upgrade);
        dial.await.unwrap().unwrap_err();
        let retries = traced.events("sent a Retry");
        assert_eq!(reasons(&retries), ["unproven"]);
        assert_eq!(retries[0].level, Level::TRACE);
        let refused = traced.events("refused an incoming connection");
        assert_eq!(reasons(&refused), ["not_accepted"]);
        assert_eq!(refused[0].level, Level::DEBUG);
        let failed = traced.events("the handshake has failed");
        assert_eq!(reasons(&failed), ["refused by the peer"]);
        assert_eq!(sides(&failed), ["dialer"]);

        // Another peer than the one that was dialled.
        let stranger = addr.with(Protocol::P2p(PeerId::random()));
        let dial = tokio::spawn(dialer.dial(&stranger));
        assert!(listener.knock().await.upgrade.await.is_err());
        let _ = dial.await.unwrap();
        until(|| traced.events("the handshake has failed").len() == 3).await;
    })
    .await;
}

#[tokio::test]
async fn moves_and_changes_of_the_mtu_are_traced() {
    let traced = Traced::up_to(LevelFilter::DEBUG);
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (dialled, mut accepted) = connect(&mut dialer, &mut listener).await;
        let handle = dialer.transport.handle();
        let mtu = |handle: &libp2p_quinn::Handle| handle.stats().connections[0].mtu_bytes;
        let of_listener = listener.transport.handle();
        until(|| mtu(&handle) > 1452 && mtu(&of_listener) > 1452).await;
        let changes = traced.events("the MTU has changed");
        assert_eq!(sides(&changes), ["dialer", "listener"]);
        assert_eq!(reasons(&changes), ["probe_acknowledged"; 2]);
        assert_eq!(
            (changes[0].field("from"), changes[0].field("to")),
            ("1452", "16370")
        );

        handle.rebind().unwrap();
        let moved = poll_fn(|cx| accepted.poll_unpin(cx)).await.unwrap();
        let StreamMuxerEvent::AddressChange(to) = moved;
        let to = socket_addr(&to).to_string();
        let replaced = traced.events("replaced a socket");
        assert_eq!(reasons(&replaced), ["rebind"]);
        let moved = traced.events("moved to another address");
        assert_eq!(reasons(&moved), ["socket_replaced"]);
        assert_eq!(sides(&moved), ["dialer"]);
        let followed = traced.events("the peer's address has changed");
        assert_eq!(reasons(&followed), ["authenticated_packet"]);
        assert_eq!(
            (followed[0].side(), followed[0].field("to")),
            (Some("listener"), &*to)
        );
        let validated = traced.events("the peer's new address is validated");
        assert_eq!(validated[0].field("remote_addr"), to);
        dialled.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn datagrams_that_are_too_large_are_traced_together() {
    const LARGEST: usize = 1472;

    let traced = Traced::up_to(LevelFilter::TRACE);
    bounded(async {
        let mut node = Node::with(|config| config.max_mtu_bytes(LARGEST as u16));
        let addr = socket_addr(&node.listen().await);
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&[0x40; LARGEST + 1], addr).unwrap();
        until(|| node.stats().registry.oversized == 1).await;
        let dropped = traced.events("dropped datagrams");
        assert_eq!(reasons(&dropped), ["oversized"]);
        assert_eq!(dropped[0].level, Level::TRACE);
        assert_eq!(dropped[0].field("count"), "1");
    })
    .await;
}

#[cfg(target_os = "linux")]
mod system {
    use support::{
        sandbox::{self, Forbidden},
        sockets::shut_down,
        visit::block_on,
    };

    use super::*;

    #[tokio::test]
    async fn failure_of_a_socket_and_its_replacement_are_traced() {
        let traced = Traced::up_to(LevelFilter::DEBUG);
        bounded(async {
            let (mut dialer, mut listener) = (Node::new(), Node::new());
            let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
            let _echo = tokio::spawn(support::node::echo(accepted));
            let handle = dialer.transport.handle();
            let before = handle.stats().connections[0].local_addr.port();
            assert_eq!(shut_down(before, 1), 1);
            ask(&mut dialled).await;
            until(|| handle.stats().transport.sockets_rebound == 2).await;
            let failed = traced.events("a socket has failed");
            assert_eq!(failed[0].level, Level::WARN);
            assert_eq!(port(&failed[0], "addr"), before);
            let after = handle.stats().connections[0].local_addr.port();
            let replaced = traced.events("replaced a socket");
            assert_eq!(reasons(&replaced), ["failed"]);
            assert_eq!(port(&replaced[0], "from"), before);
            assert_eq!(port(&replaced[0], "to"), after);
            let bound = traced.events("bound a socket again");
            assert_eq!(reasons(&bound), ["failed"]);
            assert_eq!(port(&bound[0], "addr"), before);
        })
        .await;
    }

    #[test]
    fn socket_that_cannot_receive_says_so() {
        in_sandbox(Forbidden::Receiving, async |traced| {
            let mut node = Node::new();
            // Announcing the address needs no datagram.
            let addr = socket_addr(&node.listen().await);
            let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
            stranger.send_to(&[0x40; 30], addr).unwrap();
            until(|| node.stats().transport.receive_errors > 0).await;
            let failed = traced.events("could not receive");
            assert_eq!(failed[0].level, Level::DEBUG);
            assert_eq!(failed[0].field("addr"), addr.to_string());
            assert!(!failed[0].field("error").is_empty());
        });
    }

    #[test]
    fn shards_that_have_to_share_a_socket_say_so() {
        in_sandbox(Forbidden::Steering, async |traced| {
            let mut node = Node::with(|config| config.shards(2));
            node.listen().await;
            assert_eq!(node.stats().transport.sockets, 1);
            let shared = traced.events("one socket has to do for all shards");
            assert_eq!(shared.len(), 1);
            assert_eq!(shared[0].level, Level::DEBUG);
            assert!(!shared[0].field("error").is_empty());
        });
    }

    /// Runs a test on a thread of its own, because a thread cannot leave a sandbox.
    fn in_sandbox(forbidden: Forbidden, test: impl AsyncFnOnce(&Traced) + Send + 'static) {
        let inside = std::thread::spawn(move || {
            let traced = Traced::up_to(LevelFilter::DEBUG);
            sandbox::enter(&[forbidden]);
            block_on(bounded(test(&traced)));
        });
        inside.join().unwrap();
    }

    fn port(event: &TracedEvent, field: &str) -> u16 {
        let addr: std::net::SocketAddr = event.field(field).parse().unwrap();
        addr.port()
    }
}

fn reasons(events: &[TracedEvent]) -> Vec<&str> {
    events.iter().map(|event| event.field("reason")).collect()
}

/// The sides of connections with these events, sorted.
fn sides(events: &[TracedEvent]) -> Vec<&str> {
    let mut sides: Vec<_> = events.iter().filter_map(TracedEvent::side).collect();
    sides.sort_unstable();
    sides
}
