//! Errors of the operating system must affect only the connections that they concern.
//!
//! Most tests use two hosts in network namespaces. They are skipped, with the reason, if these
//! cannot be created; `INTEROP_REQUIRE=namespaces` makes that a failure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use libp2p_core::{
    Transport as _,
    transport::{ListenerId, TransportEvent},
};
use libp2p_quinn::{DialError, Error, Handle, TransportStats};
use multiaddr::Multiaddr;
use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use support::{
    cables::{Near, at_near},
    icmp,
    node::{NEW_PORT, Node, bounded, until},
    required,
    sockets::{bound_to, shut_down},
    streams::{ask, transfer_through_echo},
};

#[test]
fn batches_that_cannot_be_cut_are_sent_one_by_one() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let handle = node.transport.handle();
        let [mut uncut, _] = dial_both(&mut node, &near).await;
        transfer_through_echo(&mut uncut, MIB).await;
        assert_eq!(handle.stats().transport.segmentation_fallbacks, 0);

        // Linux does not segment batches without checksums: it returns `EINVAL`, as for an
        // interface without segmentation.
        let sockets = bound_to(handle.stats().connections[0].local_addr.port());
        assert!(!sockets.is_empty());
        for socket in &sockets {
            setsockopt(socket, NoChecksum, &true).unwrap();
        }
        transfer_through_echo(&mut uncut, 8 * MIB).await;
        let stats = handle.stats().transport;
        // One fallback is enough for some time.
        assert!((1..10).contains(&stats.segmentation_fallbacks), "{stats:?}");
        assert_eq!(refused(&stats), 0, "{stats:?}");
    }));
}

#[test]
fn full_interface_is_tried_again() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let handle = node.transport.handle();
        let mut muxers = dial_both(&mut node, &near).await;
        // Room for one large batch, and no more until it is sent.
        near.run("tc qdisc add dev a0 root tbf rate 100mbit burst 70kb limit 80kb");
        let [full, free] = &mut muxers;
        tokio::join!(
            transfer_through_echo(full, 8 * MIB),
            transfer_through_echo(free, 8 * MIB)
        );
        let stats = handle.stats().transport;
        assert!(stats.send_backoffs > 0, "{stats:?}");
        assert_eq!(refused(&stats), 0, "{stats:?}");
        assert_eq!(near.far_handle.stats().transport.send_backoffs, 0);
    }));
}

#[test]
fn interface_that_takes_nothing_holds_up_nobody_else() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let handle = node.transport.handle();
        let [mut full, mut free] = dial_both(&mut node, &near).await;
        near.run("tc qdisc add dev a0 root pfifo limit 0");
        let recover = async {
            // Datagrams are dropped although they were tried again.
            until(|| handle.stats().transport.send_errors > 0).await;
            transfer_through_echo(&mut free, 8 * MIB).await;
            near.run("tc qdisc del dev a0 root");
        };
        tokio::join!(ask(&mut full), recover);
        let stats = handle.stats().transport;
        assert!(stats.send_backoffs > stats.send_errors, "{stats:?}");
    }));
}

/// As in some containers.
#[test]
fn interface_that_claims_to_be_as_wide_as_loopback_is_a_network() {
    or_skip(at_near(async |near: Near| {
        near.run("ip link set a0 mtu 65520");
        let mut node = Node::new();
        let handle = node.transport.handle();
        let _muxer = node.dial(&near.far[0]).await.unwrap();
        // On the same host it would begin with 1452.
        assert_eq!(mtus(&handle), [1200]);
    }));
}

#[test]
fn interface_that_takes_less_than_before_loses_nothing() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let handle = node.transport.handle();
        let mut muxers = dial_both(&mut node, &near).await;
        let shrink = async {
            // As large as the interface permits.
            until(|| mtus(&handle) == [1472, 1472] && sent(&handle) > 2 * MIB).await;
            near.run("ip link set a0 mtu 1300");
        };
        let [less, same] = &mut muxers;
        tokio::join!(
            transfer_through_echo(less, 16 * MIB),
            transfer_through_echo(same, 16 * MIB),
            shrink
        );
        let stats = handle.stats().transport;
        assert!(stats.sends_too_large > 0, "{stats:?}");
        assert_eq!(
            (stats.sends_unreachable, stats.send_errors),
            (0, 0),
            "{stats:?}"
        );
        let mut mtus = mtus(&handle);
        mtus.sort_unstable();
        assert!(mtus[0] <= 1272, "{mtus:?}");
        // The other connection shares the socket, and is not affected.
        assert_eq!(mtus[1], 1472);
    }));
}

#[test]
fn interface_that_goes_and_comes_back_keeps_connections() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let handle = node.transport.handle();
        let [mut gone, mut there] = dial_both(&mut node, &near).await;
        let interrupt = async {
            until(|| sent(&handle) > MIB).await;
            near.run("ip link set a0 down");
            until(|| handle.stats().transport.sends_unreachable > 0).await;
            let down = tokio::time::sleep(Duration::from_secs(2));
            tokio::pin!(down);
            while futures::future::poll_immediate(&mut down).await.is_none() {
                transfer_through_echo(&mut there, MIB).await;
            }
            near.run("ip link set a0 up");
        };
        tokio::join!(transfer_through_echo(&mut gone, 32 * MIB), interrupt);
        ask(&mut there).await;
        let stats = handle.stats();
        assert_eq!(stats.transport.send_errors, 0, "{stats:?}");
        assert_eq!(stats.connections.len(), 2);
    }));
}

#[tokio::test]
async fn socket_that_is_dead_harms_no_other() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handle = dialer.transport.handle();
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let mut dead = dialer.try_dial(&addr, NEW_PORT).unwrap().await.unwrap().1;
        let port = handle.stats().connections[0].local_addr.port();
        assert_eq!(shut_down(port, usize::MAX), 1);
        let (_, mut other) = dialer.try_dial(&addr, NEW_PORT).unwrap().await.unwrap();
        transfer_through_echo(&mut other, MIB).await;
        until(|| {
            let stats = handle.stats().transport;
            stats.receive_errors + stats.send_errors > 0
        })
        .await;
        // The connection goes on over another socket.
        ask(&mut dead).await;
        ask(&mut other).await;
    })
    .await;
}

#[test]
fn interfaces_that_go_expire_their_addresses() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let wildcard = "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap();
        node.transport
            .listen_on(ListenerId::next(), wildcard)
            .unwrap();
        let mut announced = Vec::new();
        while announced.len() < 3 {
            announced.push(new_addr(&mut node).await);
        }
        near.run("ip address add 10.3.0.1/24 dev a0");
        let addr = new_addr(&mut node).await;
        assert!(addr.to_string().starts_with("/ip4/10.3.0.1/"), "{addr}");
        near.run("ip address del 10.3.0.1/24 dev a0");
        match node.event().await {
            TransportEvent::AddressExpired { listen_addr, .. } => assert_eq!(listen_addr, addr),
            event => panic!("{event:?} instead of an expired address"),
        }
        assert_eq!(node.stats().listeners[0].addresses.len(), 3);
        near.run("ip address add 10.3.0.1/24 dev a0");
        assert_eq!(new_addr(&mut node).await, addr);
    }));
}

#[test]
fn unreachable_peers_do_not_disturb_others_of_the_same_socket() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::with(|builder| builder.handshake_timeout(Duration::from_secs(2)));
        let handle = node.transport.handle();
        let [mut there, mut forbidden] = dial_both(&mut node, &near).await;
        near.run("ip route add blackhole 10.4.0.0/24");
        near.run("ip route add prohibit 10.5.0.0/24");
        near.run("ip route add unreachable 10.6.0.0/24");
        near.nft(
            "table inet filter { chain output {
                type filter hook output priority filter
                oifname b0 drop
            }
            }",
        );
        let dials: Vec<_> = (4..8)
            .map(|net| {
                node.dial(
                    &format!("/ip4/10.{net}.0.1/udp/4001/quic-v1")
                        .parse()
                        .unwrap(),
                )
            })
            .collect();
        let lost = tokio::spawn(async move {
            ask(&mut forbidden).await;
            forbidden
        });
        let disturb = async {
            for dialled in futures::future::join_all(dials).await {
                assert!(
                    matches!(dialled, Err(Error::Dial(DialError::NoRoute(_)))),
                    "{dialled:?}"
                );
            }
        };
        tokio::join!(transfer_through_echo(&mut there, 16 * MIB), disturb);
        let stats = handle.stats().transport;
        assert!(stats.sends_unreachable >= 1, "{stats:?}");
        assert_eq!(stats.send_errors, 0, "{stats:?}");
        assert_eq!(stats.segmentation_fallbacks, 0, "{stats:?}");
        assert_eq!(stats.sockets, 1);

        near.nft("flush ruleset");
        let mut forbidden = lost.await.unwrap();
        ask(&mut forbidden).await;
    }));
}

#[test]
fn forged_icmp_is_not_believed() {
    or_skip(at_near(async |near: Near| {
        let mut node = Node::new();
        let handle = node.transport.handle();
        let mut muxers = dial_both(&mut node, &near).await;
        for muxer in &mut muxers {
            transfer_through_echo(muxer, MIB).await;
        }
        assert_eq!(mtus(&handle), [1472, 1472]);
        let connections = handle.stats().connections;
        let forger = Forger::begin(
            connections[0].local_addr.port(),
            connections.iter().map(|connection| connection.remote_addr),
        );
        let [one, other] = &mut muxers;
        // Independent of the speed of the machine.
        while forger.sent() <= 10_000 {
            tokio::join!(
                transfer_through_echo(one, 16 * MIB),
                transfer_through_echo(other, 16 * MIB)
            );
        }
        forger.end();
        // ICMP has claimed an MTU of 576 bytes.
        assert_eq!(mtus(&handle), [1472, 1472]);
    }));
}

sockopt_impl!(
    /// Sends datagrams without checksum.
    NoChecksum,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_NO_CHECK,
    bool
);

/// Sends ICMP messages about datagrams of a socket, as anyone can who knows its port.
struct Forger {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Forger {
    fn begin(port: u16, remote_addrs: impl Iterator<Item = SocketAddr>) -> Self {
        let mut reports = Vec::new();
        for remote_addr in remote_addrs {
            let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
            probe.connect(remote_addr).unwrap();
            let local_ip = probe.local_addr().unwrap().ip();
            for (code, mtu) in CODES {
                let local_addr = SocketAddr::new(local_ip, port);
                reports.push((
                    local_ip,
                    icmp::unreachable(code, mtu, local_addr, remote_addr),
                ));
            }
        }
        let protocol = Some(ipproto::ICMP);
        let socket = socket(AddressFamily::INET, SocketType::RAW, protocol).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            move || {
                while !over.load(Ordering::Relaxed) {
                    for (ip, report) in reports.iter().cycle().take(BURST) {
                        sendto(
                            &socket,
                            report,
                            SendFlags::empty(),
                            &SocketAddr::new(*ip, 0),
                        )
                        .unwrap();
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { over, sent, thread }
    }

    /// The number of messages so far.
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Network, host, protocol and port unreachable; too big for 576 bytes; prohibited.
const CODES: [(u8, u16); 6] = [
    (0, 0),
    (1, 0),
    (2, 0),
    (3, 0),
    (icmp::TOO_BIG, 576),
    (13, 0),
];

/// Messages in a millisecond: more than a driver reads in a round.
const BURST: usize = 192;

/// Connects to the far node over both cables, from the same socket.
async fn dial_both(node: &mut Node, near: &Near) -> [libp2p_quinn::Connection; 2] {
    let mut muxers = Vec::new();
    for addr in &near.far {
        muxers.push(node.dial(addr).await.unwrap().1);
    }
    assert_eq!(node.stats().transport.sockets, 1);
    muxers.try_into().unwrap()
}

async fn new_addr(node: &mut Node) -> Multiaddr {
    match node.event().await {
        TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
        event => panic!("{event:?} instead of an address"),
    }
}

fn mtus(handle: &Handle) -> Vec<u16> {
    let connections = handle.stats().connections;
    connections
        .iter()
        .map(|connection| connection.mtu_bytes)
        .collect()
}

fn sent(handle: &Handle) -> u64 {
    handle.stats().transport.bytes_sent
}

/// Datagrams that were not sent, and not tried again.
fn refused(stats: &TransportStats) -> u64 {
    stats.send_errors + stats.sends_too_large + stats.sends_unreachable
}

/// Prints the reason if a test cannot run here.
fn or_skip(result: Result<(), String>) {
    required::or_skip("namespaces", result);
}

const MIB: u64 = 1024 * 1024;
