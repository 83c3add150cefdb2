//! Link-local addresses: the zone tells on which link a host is.
//!
//! Two hosts with two cables between them, and the same addresses on both cables. The tests are
//! skipped, with the reason, if these cannot be created; `INTEROP_REQUIRE=namespaces` makes that a
//! failure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::sync::mpsc;

use futures::channel::oneshot;
use libp2p_quinn::{DialError, Error};
use multiaddr::Multiaddr;
use support::{
    home::Home,
    node::{Node, poll_now, port},
    required,
    streams::ask,
    visit::{block_on, outcome},
};

#[test]
fn listener_with_a_zone_announces_it_and_is_dialled_with_it() {
    or_skip(at_near(async |near: Near| {
        let mut listener = Node::new();
        let (_, addr) = listener
            .listen_at("/ip6zone/a0/ip6/fe80::1/udp/0/quic-v1")
            .await;
        let index = nix::net::if_::if_nametoindex("a0").unwrap();
        let start = format!("/ip6zone/{index}/ip6/fe80::1/udp/");
        assert!(addr.to_string().starts_with(&start), "{addr}");
        assert_eq!(
            listener.stats().listeners[0].addresses,
            std::slice::from_ref(&addr)
        );

        let mut dialer = Node::new();
        let dial = tokio::spawn(dialer.dial(&addr));
        assert_eq!(listener.knock().await.local_addr, addr);
        drop(dial);
        drop(near);
    }));
}

#[test]
fn dial_without_a_zone_takes_that_of_the_listener_or_of_the_only_link() {
    or_skip(at_near(async |near: Near| {
        let anywhere = near.far_at(None);
        // The address is ambiguous. To find that out may block, so the first poll does not.
        let mut dial = Node::new().dial(&anywhere);
        assert!(poll_now(&mut dial).is_pending());
        match dial.await {
            Err(Error::Dial(DialError::NoRoute(_))) => {}
            other => panic!("{other:?}"),
        }

        let mut listening = Node::new();
        let (_, addr) = listening
            .listen_at("/ip6zone/a0/ip6/fe80::1/udp/0/quic-v1")
            .await;
        let (_, mut muxer) = listening.dial(&anywhere).await.unwrap();
        ask(&mut muxer).await;
        let local_addr = listening.stats().connections[0].local_addr;
        assert_eq!(local_addr.port(), port(&addr));

        near.ip("link set b0 down");
        let (_, mut muxer) = Node::new().dial(&anywhere).await.unwrap();
        ask(&mut muxer).await;
    }));
}

#[test]
fn listener_at_another_link_is_not_dialled_from() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let (_, addr) = node
            .listen_at("/ip6zone/b0/ip6/fe80::1/udp/0/quic-v1")
            .await;
        let (_, mut muxer) = node.dial(&near.far_at(Some("a0"))).await.unwrap();
        ask(&mut muxer).await;
        let local_addr = node.stats().connections[0].local_addr;
        assert_ne!(local_addr.port(), port(&addr));
    }));
}

/// The environment of a test at the near host.
struct Near {
    home: Home,
    /// The far host's port on the first cable.
    port: u16,
}

impl Near {
    fn ip(&self, batch: &str) {
        self.home.ip(batch);
    }

    /// The address of the far host.
    fn far_at(&self, zone: Option<&str>) -> Multiaddr {
        let zone = zone.map_or_else(String::new, |zone| format!("/ip6zone/{zone}"));
        let addr = format!("{zone}/ip6/fe80::2/udp/{}/quic-v1", self.port);
        addr.parse().unwrap()
    }
}

/// Runs a test at the near host, while a node echoes at the far one.
fn at_near<F: Future<Output = ()>>(
    test: impl FnOnce(Near) -> F + Send + 'static,
) -> Result<(), String> {
    let addressed = |last: u8| -> String {
        ["a0", "b0"]
            .map(|link| {
                format!(
                    "link set {link} addrgenmode none\nlink set {link} up\n\
                     address add fe80::{last}/64 dev {link} nodad\n"
                )
            })
            .concat()
    };
    let near = Home::build("")?;
    let far = Home::build("")?;
    let id = far.id();
    near.ip(&format!(
        "link add a0 type veth peer name a0 netns {id}\nlink add b0 type veth peer name b0 netns {id}\n"
    ));
    near.ip(&addressed(1));
    far.ip(&addressed(2));
    let (report, reported) = mpsc::sync_channel(1);
    // Dropping it ends the far node.
    let (_over, is_over) = oneshot::channel::<()>();
    let echo = far.visit(move || {
        block_on(async move {
            let mut node = Node::new();
            let (_, addr) = node
                .listen_at("/ip6zone/a0/ip6/fe80::2/udp/0/quic-v1")
                .await;
            let _echo = node.spawn_echo();
            let _ = report.send(port(&addr));
            let _ = is_over.await;
        });
    });
    let Ok(port) = reported.recv() else {
        return Err(outcome(echo).err().unwrap_or_default());
    };
    near.run(move |home| test(Near { home, port }))
}

fn or_skip(result: Result<(), String>) {
    required::or_skip("namespaces", result);
}
