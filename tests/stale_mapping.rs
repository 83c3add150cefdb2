//! Routers that keep a mapping of a listener's port that no longer works.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::time::Duration;

use libp2p_quinn::{Connection, Error, HandshakeError};
use multiaddr::Multiaddr;
use support::{
    cables::{Near, at_near},
    node::{Node, handshake_error, socket_addr, until},
    streams::ask,
    trace::Traced,
};
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;

/// Handshake timeout: enough for a slow machine, and longer than the first port is tried.
const TIMEOUT: Duration = Duration::from_secs(4);

fn or_skip(result: Result<(), String>) {
    support::required::or_skip("namespaces", result);
}

/// The direction in which the mapping for one host loses datagrams.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Ours,
    Answers,
}

impl Lost {
    fn begin(self, near: &Near, port: u16) {
        let ruleset = |what: &str| {
            format!(
                "table ip f {{
                    chain i {{
                        type filter hook input priority 0;
                        {what} {port} drop
                    }}
                }}"
            )
        };
        match self {
            Self::Ours => near.nft_at_far(&ruleset("ip saddr 10.1.0.1 udp sport")),
            Self::Answers => near.nft(&ruleset("ip saddr 10.1.0.2 udp dport")),
        }
    }
}

#[test]
fn dial_leaves_from_another_port_after_two_that_were_silent() {
    for lost in [Lost::Ours, Lost::Answers] {
        or_skip(at_near(async move |near: Near| {
            let traced = Traced::up_to(LevelFilter::DEBUG);
            let (mut node, port) = listening().await;
            lost.begin(&near, port);
            for _ in 0..2 {
                assert_silent(node.dial(&near.far[0]).await);
            }
            assert_eq!(node.stats().transport.dials_from_other_port, 0);
            for dials in 1..=2 {
                let before = node.stats().transport.dials;
                let (_, mut connection) = node.dial(&near.far[0]).await.unwrap();
                ask(&mut connection).await;
                assert_ne!(node.stats().connections[0].local_addr.port(), port);
                let after = node.stats().transport;
                assert_eq!(after.dials_from_other_port, dials);
                // The first dial tries the listener's port as well; once another port has answered,
                // no dial does.
                assert_eq!(after.dials - before, 3 - dials, "{lost:?}");
                // Those of the two silent dials; a dial that begins again has one handshake.
                assert_eq!(after.handshakes_failed, 2, "{lost:?}");
                drop(connection);
                until(|| node.stats().registry.connections == 0).await;
            }
            let again = "the dial begins again from another port";
            assert_eq!(traced.reasons(again), ["heard_nothing"]);
            // Other hosts are still dialled from the listener's port.
            let (_, _connection) = node.dial(&near.far[1]).await.unwrap();
            assert_eq!(node.stats().connections[0].local_addr.port(), port);
        }));
    }
}

/// The peer's router opens a little later, as in a hole punch.
#[test]
fn hole_that_is_punched_for_the_port_is_used_after_silent_dials_too() {
    or_skip(at_near(async |near: Near| {
        let (mut node, port) = listening().await;
        Lost::Ours.begin(&near, port);
        for _ in 0..2 {
            assert_silent(node.dial(&near.far[0]).await);
        }
        let dial = node.dial(&near.far[0]);
        let punch = async {
            sleep(Duration::from_millis(300)).await;
            near.nft_at_far("flush ruleset");
        };
        let (dialled, ()) = tokio::join!(dial, punch);
        let (_, mut connection) = dialled.unwrap();
        ask(&mut connection).await;
        assert_eq!(node.stats().connections[0].local_addr.port(), port);
        assert_eq!(node.stats().transport.dials_from_other_port, 0);
    }));
}

#[test]
fn port_is_kept_where_the_host_reaches_it() {
    or_skip(at_near(async |near: Near| {
        let (mut node, port) = listening().await;
        let addr: Multiaddr = format!("/ip4/10.1.0.1/udp/{port}/quic-v1").parse().unwrap();
        let (go_on, mut goes_on) = tokio::sync::mpsc::channel::<()>(1);
        let far = near.spawn_at_far(async move || {
            let mut dialer = Node::new();
            let (_, _connection): (_, Connection) = dialer.dial(&addr).await.unwrap();
            let _ = goes_on.recv().await;
        });
        let (_, _accepted) = accepted(&mut node).await;
        // Only the dialled port does not answer.
        let dead: Multiaddr = "/ip4/10.1.0.2/udp/9/quic-v1".parse().unwrap();
        near.nft_at_far(
            "table ip f {
                chain i {
                    type filter hook input priority 0;
                    udp dport 9 drop
                }
            }",
        );
        for _ in 0..3 {
            assert_silent(node.dial(&dead).await);
        }
        assert_eq!(node.stats().transport.dials_from_other_port, 0);
        drop(go_on);
        until(|| far.is_finished()).await;
        far.join().unwrap().unwrap();
    }));
}

async fn listening() -> (Node, u16) {
    let mut node = Node::with(|config| config.handshake_timeout(TIMEOUT));
    let addr = node.listen_at("/ip4/0.0.0.0/udp/0/quic-v1").await.1;
    (node, socket_addr(&addr).port())
}

/// The next incoming connection, ignoring events about addresses.
async fn accepted(node: &mut Node) -> (libp2p_identity::PeerId, Connection) {
    use libp2p_core::transport::TransportEvent;
    loop {
        if let TransportEvent::Incoming { upgrade, .. } = node.event().await {
            return upgrade.await.unwrap();
        }
    }
}

fn assert_silent<T: std::fmt::Debug>(dialled: Result<T, Error>) {
    assert_eq!(handshake_error(dialled), HandshakeError::TimedOut);
}
