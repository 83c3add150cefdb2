//! Limits on bandwidth, on real sockets. Rates, fairness and pings are tested in virtual time
//! (`src/proto/tests/bandwidth.rs`).

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_quinn::{BandwidthLimits, ConfigError};
use support::{
    node::{Node, bounded, connect},
    streams::open_between,
};

const BYTES: usize = 500_000;
const RATE: u64 = 1_000_000;

/// What may pass at once, see `proto/bandwidth`.
const AT_ONCE: Duration = Duration::from_millis(50);

/// How long a transfer of [`BYTES`] takes.
#[allow(clippy::disallowed_methods, reason = "real time is measured")]
async fn transfer(dialer: &mut Node, listener: &mut Node) -> Duration {
    let (mut dialled, mut accepted) = connect(dialer, listener).await;
    let (mut near, mut far) = open_between(&mut dialled, &mut accepted).await;
    let began = Instant::now();
    let sent = async {
        near.write_all(&vec![7; BYTES]).await.unwrap();
        near.close().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(sent, far.read_to_end(&mut received));
    assert_eq!(read.unwrap(), BYTES);
    began.elapsed()
}

fn limited(change: impl FnOnce(&mut BandwidthLimits)) -> BandwidthLimits {
    let mut limits = BandwidthLimits::default();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn limits_of_the_configuration_hold_in_both_directions() {
    bounded(async {
        let least = Duration::from_millis(BYTES as u64 * 1000 / RATE) - AT_ONCE;
        for limits in [
            limited(|limits| limits.send.total = Some(RATE)),
            limited(|limits| limits.receive.each_peer = Some(RATE)),
        ] {
            let with_limits = || Node::with(|config| config.bandwidth_limits(limits));
            let (mut dialer, mut listener) = (with_limits(), with_limits());
            let took = transfer(&mut dialer, &mut listener).await;
            assert!(took >= least, "{took:?}");
            let [dialer, listener] = [&dialer, &listener].map(|node| node.stats().transport);
            let is_send = limits.send.total.is_some();
            assert_eq!(dialer.writes_limited > 0, is_send);
            assert_eq!(listener.reads_limited > 0, !is_send);
        }
    })
    .await;
}

#[tokio::test]
async fn limits_that_are_lifted_let_a_transfer_go_on() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handle = dialer.transport.handle();
        let slow = limited(|limits| limits.send.each_connection = Some(1_000));
        handle.set_bandwidth_limits(slow).unwrap();
        assert_eq!(handle.bandwidth_limits(), slow);
        let lift = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            handle
                .set_bandwidth_limits(BandwidthLimits::default())
                .unwrap();
        };
        // With the limit it would take 500 s.
        tokio::join!(transfer(&mut dialer, &mut listener), lift);
    })
    .await;
}

#[tokio::test]
async fn limit_that_lets_nothing_through_is_refused() {
    let handle = Node::new().transport.handle();
    let before = limited(|limits| limits.receive.total = Some(1_000));
    handle.set_bandwidth_limits(before).unwrap();
    for limits in [
        limited(|limits| limits.receive.total = Some(999)),
        limited(|limits| limits.send.each_peer = Some(0)),
    ] {
        let refused = handle.set_bandwidth_limits(limits).unwrap_err();
        assert!(matches!(
            refused,
            ConfigError::OutOfRange {
                name: "bandwidth_limits",
                ..
            }
        ));
        assert_eq!(handle.bandwidth_limits(), before);
    }
}
