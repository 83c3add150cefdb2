//! The addresses that wildcard listeners announce while the addresses of the host change.
//!
//! Each test has a host of its own, a network namespace. The tests are skipped, with the reason, if
//! namespaces are not available; `INTEROP_REQUIRE=namespaces` makes that a failure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::BTreeSet, net::IpAddr, pin::pin, sync::mpsc, time::Duration};

use futures::{channel::oneshot, future::select};
use libp2p_core::{
    Transport as _,
    transport::{ListenerId, TransportEvent},
};
use libp2p_quinn::{Connecting, Error, ListenError};
use multiaddr::Multiaddr;
use support::{
    home::{Home, at_home},
    node::{Node, socket_addr},
    required,
    sandbox::{self, Forbidden},
    visit::{block_on, outcome},
};

const WILDCARD_V4: &str = "/ip4/0.0.0.0/udp/0/quic-v1";
const WILDCARD_V6: &str = "/ip6/::/udp/0/quic-v1";

/// Two interfaces, with no address.
const CABLE: &str = "link add d0 type veth peer name d1\n\
                     link set d0 addrgenmode none\nlink set d1 addrgenmode none\n\
                     link set d0 up\nlink set d1 up\n";

#[test]
fn point_to_point_link_is_announced_by_our_own_end() {
    or_skip(at_home(CABLE, async |home: Home| {
        home.ip("address add 10.25.0.6 peer 10.25.0.5/32 dev d0");
        home.ip("address add 2001:db8:25::6 peer 2001:db8:25::5/128 dev d0 nodad");
        for (wildcard, loopback, own) in [
            (WILDCARD_V4, "127.0.0.1", "10.25.0.6"),
            (WILDCARD_V6, "::1", "2001:db8:25::6"),
        ] {
            let mut node = listening(wildcard);
            assert_eq!(announced(&mut node, 2).await, ips(&[loopback, own]));
        }
        let mut node = listening(WILDCARD_V4);
        announced(&mut node, 2).await;
        home.ip("address del 10.25.0.6 peer 10.25.0.5/32 dev d0");
        assert_eq!(change(&mut node).await, expired("10.25.0.6"));
    }));
}

#[test]
fn address_at_two_interfaces_expires_with_the_last() {
    or_skip(at_home(CABLE, async |home: Home| {
        let mut node = listening(WILDCARD_V4);
        announced(&mut node, 1).await;
        home.ip("address add 10.26.0.1/24 dev d0");
        assert_eq!(change(&mut node).await, new("10.26.0.1"));
        home.ip("address add 10.26.0.1/24 dev d1");
        home.ip("address del 10.26.0.1/24 dev d0");
        // Events about the first address would come before this one.
        home.ip("address add 10.26.0.2/24 dev d0");
        assert_eq!(change(&mut node).await, new("10.26.0.2"));
        home.ip("address del 10.26.0.1/24 dev d1");
        assert_eq!(change(&mut node).await, expired("10.26.0.1"));
    }));
}

#[test]
fn interface_that_is_down_has_no_address() {
    or_skip(at_home(CABLE, async |home: Home| {
        home.ip("address add 10.26.0.1/24 dev d0");
        let mut node = listening(WILDCARD_V4);
        announced(&mut node, 2).await;
        home.ip("link set d0 down");
        assert_eq!(change(&mut node).await, expired("10.26.0.1"));
        home.ip("link set d0 up");
        assert_eq!(change(&mut node).await, new("10.26.0.1"));
    }));
}

/// More changes than the kernel queues notifications for, while nothing of the node runs.
#[test]
fn burst_of_changes_that_nobody_heard_of_is_made_up_for() {
    const ADDRESSES: usize = 1_000;

    or_skip(at_home(CABLE, async |home: Home| {
        let (mut node, mut second) = (listening(WILDCARD_V4), listening(WILDCARD_V4));
        let handle = node.transport.handle();
        announced(&mut node, 1).await;
        announced(&mut second, 1).await;
        let burst_ip = |number: usize| format!("10.28.{}.{}", number / 250, number % 250 + 1);
        let mut kept = ips(&["127.0.0.1"]);
        let mut batch = String::new();
        for number in 0..ADDRESSES {
            batch.push_str(&format!("address add {}/32 dev d0\n", burst_ip(number)));
        }
        for number in 0..ADDRESSES {
            if number % 2 == 0 {
                batch.push_str(&format!("address del {}/32 dev d0\n", burst_ip(number)));
            } else {
                kept.insert(burst_ip(number).parse().unwrap());
            }
        }
        // This blocks the only thread of the runtime.
        home.ip(&batch);
        for node in [&mut node, &mut second] {
            let mut known = ips(&["127.0.0.1"]);
            while known != kept {
                apply(&mut known, change(node).await);
            }
        }
        let mut listed: Vec<_> = handle.stats().listeners[0]
            .addresses
            .iter()
            .map(|addr| socket_addr(addr).ip())
            .collect();
        listed.sort();
        assert_eq!(listed, Vec::from_iter(kept));

        // Later changes are still reported.
        home.ip("address add 10.29.0.1/24 dev d1");
        assert_eq!(change(&mut node).await, new("10.29.0.1"));
    }));
}

#[test]
fn without_netlink_addresses_are_polled_and_it_is_said() {
    or_skip(in_sandbox(&[Forbidden::Netlink], |home, events| {
        let mut known = BTreeSet::new();
        let mut polled = 0;
        while known.len() < 4 || polled < 2 {
            match events.next() {
                Seen::Polled => polled += 1,
                seen => apply(&mut known, seen),
            }
        }
        let all = ["127.0.0.1", "10.25.0.6", "::1", "2001:db8:25::6"];
        assert_eq!(known, ips(&all));
        home.ip("address add 10.27.0.1/24 dev d0");
        assert_eq!(events.next(), new("10.27.0.1"));
        home.ip("address del 10.25.0.6 peer 10.25.0.5/32 dev d0");
        assert_eq!(events.next(), expired("10.25.0.6"));
    }));
}

#[test]
fn listener_that_cannot_read_addresses_listens_and_says_so() {
    or_skip(in_sandbox(
        &[Forbidden::Netlink, Forbidden::Files],
        |_, events| {
            let mut seen: Vec<_> = (0..4).map(|_| events.next()).collect();
            seen.sort();
            // From both listeners.
            let expected = [Seen::Polled, Seen::Polled, Seen::Unknown, Seen::Unknown];
            assert_eq!(seen, expected);
        },
    ));
}

#[test]
fn link_local_addresses_are_not_announced_without_a_zone() {
    or_skip(at_home(CABLE, async |home: Home| {
        home.ip("address add fe80::1/64 dev d0 nodad");
        home.ip("address add 2001:db8::1/64 dev d0 nodad");
        let mut node = listening(WILDCARD_V6);
        let known = announced(&mut node, 2).await;
        assert_eq!(known, ips(&["::1", "2001:db8::1"]));
        home.ip("address add fe80::2/64 dev d0 nodad");
        home.ip("address add 2001:db8::2/64 dev d0 nodad");
        assert_eq!(change(&mut node).await, new("2001:db8::2"));
    }));
}

/// An interface without a carrier does not look for other hosts with its addresses (RFC 4862 §5.4).
#[test]
fn address_is_announced_once_no_other_host_is_known_to_have_it() {
    or_skip(at_home(CABLE, async |home: Home| {
        let mut node = listening(WILDCARD_V6);
        announced(&mut node, 1).await;
        home.ip("link set d1 down");
        home.ip("address add 2001:db8::1/64 dev d0");
        home.ip("link add d2 type veth peer name d3\nlink set d2 addrgenmode none\nlink set d2 up");
        home.ip("address add 2001:db8::2/64 dev d2 nodad");
        assert_eq!(change(&mut node).await, new("2001:db8::2"));
        home.ip("link set d1 up");
        assert_eq!(change(&mut node).await, new("2001:db8::1"));
    }));
}

/// An event of a wildcard listener.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    New(IpAddr),
    Expired(IpAddr),
    Polled,
    Unknown,
}

fn new(ip: &str) -> Seen {
    Seen::New(ip.parse().unwrap())
}

fn expired(ip: &str) -> Seen {
    Seen::Expired(ip.parse().unwrap())
}

fn ips(ips: &[&str]) -> BTreeSet<IpAddr> {
    ips.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn listening(wildcard: &str) -> Node {
    let mut node = Node::new();
    listen(&mut node, wildcard);
    node
}

fn listen(node: &mut Node, wildcard: &str) {
    let wildcard: Multiaddr = wildcard.parse().unwrap();
    node.transport
        .listen_on(ListenerId::next(), wildcard)
        .unwrap();
}

async fn change(node: &mut Node) -> Seen {
    seen(node.event().await)
}

fn seen(event: TransportEvent<Connecting, Error>) -> Seen {
    match event {
        TransportEvent::NewAddress { listen_addr, .. } => Seen::New(socket_addr(&listen_addr).ip()),
        TransportEvent::AddressExpired { listen_addr, .. } => {
            Seen::Expired(socket_addr(&listen_addr).ip())
        }
        TransportEvent::ListenerError {
            error: Error::Listen(error),
            ..
        } => match error {
            ListenError::AddressesPolled(_) => Seen::Polled,
            ListenError::AddressesUnknown(_) => Seen::Unknown,
            error => panic!("{error}"),
        },
        event => panic!("{event:?}"),
    }
}

fn apply(known: &mut BTreeSet<IpAddr>, seen: Seen) {
    match seen {
        Seen::New(ip) => assert!(known.insert(ip), "{ip} was known"),
        Seen::Expired(ip) => assert!(known.remove(&ip), "{ip} was not known"),
        seen => panic!("{seen:?}"),
    }
}

/// Waits for the first addresses.
async fn announced(node: &mut Node, count: usize) -> BTreeSet<IpAddr> {
    let mut known = BTreeSet::new();
    while known.len() < count {
        apply(&mut known, change(node).await);
    }
    known
}

/// The events of listeners in a sandbox.
struct Events(mpsc::Receiver<Seen>);

impl Events {
    fn next(&self) -> Seen {
        self.0.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

/// Makes a node listen at both wildcard addresses in a sandbox with these restrictions, and dials
/// it.
fn in_sandbox(
    forbidden: &'static [Forbidden],
    test: impl FnOnce(&Home, &Events),
) -> Result<(), String> {
    let home = Home::build(CABLE)?;
    home.ip("address add 10.25.0.6 peer 10.25.0.5/32 dev d0");
    home.ip("address add 2001:db8:25::6 peer 2001:db8:25::5/128 dev d0 nodad");
    let (report, events) = mpsc::sync_channel(64);
    let (over, is_over) = oneshot::channel::<()>();
    let inside = home.visit(move || {
        sandbox::enter(forbidden);
        block_on(async {
            let mut node = listening(WILDCARD_V4);
            listen(&mut node, WILDCARD_V6);
            let port = node.stats().listeners[0].local_addr.port();
            let addr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
            let dial = Node::new().dial(&addr.parse().unwrap());
            let serve = async {
                loop {
                    match node.event().await {
                        TransportEvent::Incoming { upgrade, .. } => {
                            tokio::spawn(upgrade);
                        }
                        event => report.send(seen(event)).unwrap(),
                    }
                }
            };
            let dialled = async {
                dial.await.unwrap();
                is_over.await.unwrap();
            };
            select(pin!(serve), pin!(dialled)).await;
        });
    });
    let events = Events(events);
    test(&home, &events);
    over.send(()).unwrap();
    outcome(inside)
}

fn or_skip(result: Result<(), String>) {
    required::or_skip("namespaces", result);
}
