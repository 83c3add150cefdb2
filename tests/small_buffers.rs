//! What a process says of socket buffers that the kernel does not grant. It is a single test,
//! because every socket of the process takes part.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]
#![cfg(target_os = "linux")]

mod support;

use std::fs;

use support::{
    node::{Node, bounded, socket_addr},
    trace::{Traced, TracedEvent},
};
use tracing::{Level, level_filters::LevelFilter};

const SMALLEST: usize = 64 * 1024;
const LARGEST: usize = 1024 * 1024 * 1024;

#[tokio::test]
async fn each_kind_of_buffer_that_the_kernel_does_not_grant_is_told_of_once_in_a_process() {
    let [most_received, most_sent] = ["rmem_max", "wmem_max"].map(most_granted);
    if [most_received, most_sent]
        .iter()
        .any(|most| !(SMALLEST..LARGEST).contains(most))
    {
        println!("skipped: the kernel grants every size");
        return;
    }
    bounded(async {
        // Nobody has heard what is said before the program begins to log.
        asking(most_received + 1, most_sent).listen().await;
        let traced = Traced::up_to(LevelFilter::DEBUG);
        asking(most_received, most_sent).listen().await;
        assert!(of_buffers(&traced).is_empty());

        let mut node = asking(most_received + 1, most_sent);
        let addr = node.listen().await;
        node.listen().await;
        // These have a transport of their own, and a socket to dial from.
        let mut dialer = asking(most_received + 2, most_sent);
        let dial = tokio::spawn(dialer.dial(&addr));
        node.knock().await.upgrade.await.unwrap();
        dial.await.unwrap().unwrap();
        let told = of_buffers(&traced);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].level, Level::WARN);
        for (field, value) in [
            ("addr", socket_addr(&addr).to_string()),
            ("asked", (most_received + 1).to_string()),
            ("granted", most_received.to_string()),
            ("sysctl", "net.core.rmem_max".to_owned()),
        ] {
            assert_eq!(told[0].field(field), value);
        }

        asking(most_received + 1, most_sent + 1).listen().await;
        let told = of_buffers(&traced);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[1].level, Level::WARN);
        assert_eq!(told[1].field("sysctl"), "net.core.wmem_max");
        assert_eq!(told[1].field("granted"), most_sent.to_string());
    })
    .await;
}

fn asking(receive: usize, send: usize) -> Node {
    Node::with(move |config| config.socket_buffer_bytes(receive, send))
}

/// The most that the kernel grants, in bytes.
fn most_granted(limit: &str) -> usize {
    let most = fs::read_to_string(format!("/proc/sys/net/core/{limit}")).unwrap();
    most.trim().parse().unwrap()
}

fn of_buffers(traced: &Traced) -> Vec<TracedEvent> {
    let mut events = traced.all_events();
    events.retain(|event| event.message().contains("socket buffer"));
    events
}
