//! A forwarder on loopback, such as a proxy or a user-space VPN, before a path of 20 Mbit/s with a
//! round trip of 100 ms.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::time::Duration;

use support::{
    cables::{Near, at_near},
    forwarder::Forwarder,
    node::{Node, quic_addr, socket_addr},
    streams::transfer_through_echo,
};

/// In each direction.
const DELAY: Duration = Duration::from_millis(50);

/// The window that the way back to the same host has at least.
const SAME_HOST_WINDOW: u64 = 512 * 1024;

const MIB: u64 = 1024 * 1024;

#[test]
fn path_behind_a_forwarder_is_not_taken_for_the_way_back_to_the_same_host() {
    or_skip(at_near(async |near: Near| {
        slow_down(&near);
        let forwarder = Forwarder::to(socket_addr(&near.far[0]), DELAY).await;
        let mut node = Node::new();
        let (_, mut connection) = node.dial(&quic_addr(forwarder.addr())).await.unwrap();
        let connections = node.stats().connections;
        let begun = &connections[0];
        assert!(begun.remote_addr.ip().is_loopback());
        assert!(begun.min_rtt >= 2 * DELAY, "{begun:?}");
        assert!(
            begun.congestion_window_bytes < SAME_HOST_WINDOW,
            "{begun:?}"
        );
        transfer_through_echo(&mut connection, 4 * MIB).await;
    }));
}

/// Gives the first cable 20 Mbit/s, and a queue of a round trip.
fn slow_down(near: &Near) {
    let command = "tc qdisc replace dev a0 root tbf rate 20mbit burst 20kb latency 100ms";
    near.run(command);
    near.run_at_far(command);
}

fn or_skip(result: Result<(), String>) {
    support::required::or_skip("namespaces", result);
}
