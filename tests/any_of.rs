//! A Swarm that dials a peer at several addresses: what is left of those that lose, which transport
//! goes first, and how it tries again.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "../examples/dial/connect.rs"]
mod connect;
mod support;

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU8,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use backon::ExponentialBuilder;
use connect::connect;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use libp2p::{
    Swarm, SwarmBuilder, noise,
    swarm::{DialError, SwarmEvent, dial_opts::DialOpts, dummy},
    tcp, yamux,
};
use libp2p_core::{
    Transport as _,
    transport::{self, ListenerId, TransportError, TransportEvent},
    upgrade::Version,
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{Config, Handle, RegistryStats, Transport};
use multiaddr::{Multiaddr, Protocol};
use support::node::{LOOPBACK_V4, Node, bounded, is_over, port, silent, until};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, UdpSocket},
};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// More than any test has addresses.
const ALL_AT_ONCE: NonZeroU8 = NonZeroU8::new(32).unwrap();

/// libp2p takes it for an address of the Internet. [`Watched`] dials loopback instead.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

/// A node that speaks QUIC and TCP.
struct Both {
    swarm: Swarm<dummy::Behaviour>,
    peer_id: PeerId,
    handle: Handle,
    /// The transports that have begun to dial, in this order.
    dials: Arc<Mutex<Vec<&'static str>>>,
}

impl Both {
    /// The handshakes of this node never time out.
    fn new(config: fn(libp2p::swarm::Config) -> libp2p::swarm::Config) -> Self {
        let keypair = Keypair::generate_ed25519();
        let quic = Config::builder(&keypair).handshake_timeout(NEVER).unwrap();
        let quic = Transport::new(quic.build().unwrap());
        let handle = quic.handle();
        let dials = Arc::new(Mutex::new(Vec::new()));
        let watched = Arc::clone(&dials);
        let swarm = SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_other_transport(|key| Watched {
                transport: tcp::tokio::Transport::new(tcp::Config::default())
                    .upgrade(Version::V1)
                    .authenticate(noise::Config::new(key).unwrap())
                    .multiplex(yamux::Config::default()),
                name: "tcp",
                dials: Arc::clone(&watched),
            })
            .unwrap()
            .with_other_transport(|_| Watched {
                transport: quic,
                name: "quic",
                dials: Arc::clone(&watched),
            })
            .unwrap()
            .with_behaviour(|_| dummy::Behaviour)
            .unwrap()
            .with_swarm_config(|default| config(default.with_idle_connection_timeout(NEVER)))
            .with_connection_timeout(NEVER)
            .build();
        Self {
            swarm,
            peer_id: keypair.public().to_peer_id(),
            handle,
            dials,
        }
    }

    async fn listen(&mut self, addr: &str) -> Multiaddr {
        self.swarm.listen_on(addr.parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = self.swarm.select_next_some().await {
                return address;
            }
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let opts = DialOpts::peer_id(peer).addresses(addresses).build();
        self.swarm.dial(opts).unwrap();
    }

    /// Polls the node until it has a connection, and returns its address.
    async fn connected(&mut self) -> Multiaddr {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { endpoint, .. } => {
                    return endpoint.get_remote_address().clone();
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error:?}"),
                _ => {}
            }
        }
    }

    /// Polls the node for ever.
    async fn serve(mut self) {
        loop {
            self.swarm.select_next_some().await;
        }
    }
}

/// A transport of which each dial is noted when it begins.
struct Watched<T> {
    transport: T,
    name: &'static str,
    dials: Arc<Mutex<Vec<&'static str>>>,
}

impl<T> libp2p_core::Transport for Watched<T>
where
    T: libp2p_core::Transport<Dial: Send + 'static> + Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<T::Error>> {
        self.transport.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: transport::DialOpts,
    ) -> Result<Self::Dial, TransportError<T::Error>> {
        let here = |part| match part {
            Protocol::Ip4(PUBLIC) => Protocol::Ip4(Ipv4Addr::LOCALHOST),
            part => part,
        };
        let dial = self.transport.dial(addr.iter().map(here).collect(), opts)?;
        let (name, dials) = (self.name, Arc::clone(&self.dials));
        let dial = async move {
            dials.lock().unwrap().push(name);
            dial.await
        };
        Ok(dial.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.transport).poll(cx)
    }
}

/// From where a node dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    ItsListener,
    SharedSocket,
    NewPorts,
}

/// Ports that no program binds.
const CLOSED: [&str; 2] = [
    "/ip4/127.0.0.1/udp/9/quic-v1",
    "/ip4/127.0.0.1/udp/11/quic-v1",
];

/// Addresses at which nobody answers in time.
struct Losers {
    silent: Vec<UdpSocket>,
    tcp: TcpListener,
    /// Another peer. It answers nobody before it is polled.
    late: Both,
    addresses: Vec<Multiaddr>,
}

impl Losers {
    async fn new() -> Self {
        // Closed ports.
        let mut addresses = CLOSED.map(|addr| addr.parse().unwrap()).to_vec();
        let mut holes = Vec::new();
        for _ in 0..3 {
            let (socket, addr) = silent("127.0.0.1");
            holes.push(UdpSocket::from_std(socket).unwrap());
            addresses.push(addr);
        }
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        addresses.push(tcp_addr(tcp.local_addr().unwrap()));
        let mut late = Both::new(|config| config);
        addresses.push(late.listen(LOOPBACK_V4).await);
        Self {
            silent: holes,
            tcp,
            late,
            addresses,
        }
    }

    /// Waits until all of them are being dialled: the connection over TCP, and from where the
    /// silent ones are dialled.
    async fn dialled(&mut self) -> (TcpStream, Vec<SocketAddr>) {
        let (tcp, _) = self.tcp.accept().await.unwrap();
        let mut from = Vec::new();
        for silent in &self.silent {
            let (length, sender) = silent.recv_from(&mut [0; 2048]).await.unwrap();
            assert!(length >= 1200);
            from.push(sender);
        }
        until(|| self.late.handle.stats().registry.pending_incoming == 1).await;
        (tcp, from)
    }
}

fn tcp_addr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

fn is_quic(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::QuicV1)
}

/// Whether the transport has this many connections and nothing of others.
fn has_only(handle: &Handle, connections: usize) -> bool {
    let stats = handle.stats();
    let RegistryStats {
        closing,
        handshake_sources,
        handshaking,
        initial_ids,
        peers,
        pending_incoming,
        pending_incoming_bytes,
        remote_addresses,
        ..
    } = stats.registry;
    stats.connections.len() == connections
        && stats.registry.connections == connections
        && (peers, remote_addresses) == (connections, connections)
        && (closing, handshaking, handshake_sources, initial_ids) == (0, 0, 0, 0)
        && (pending_incoming, pending_incoming_bytes) == (0, 0)
        && stats.transport.buffered_bytes == 0
}

#[tokio::test]
async fn losers_of_a_race_leave_nothing() {
    for source in [Source::ItsListener, Source::SharedSocket, Source::NewPorts] {
        bounded(losers_leave_nothing(source)).await;
    }
}

async fn losers_leave_nothing(source: Source) {
    let (mut dialer, mut target) = (Both::new(|config| config), Both::new(|config| config));
    let at_target = target.listen(LOOPBACK_V4).await;
    let mut losers = Losers::new().await;
    let mut own_port = None;
    if source == Source::ItsListener {
        own_port = Some(port(&dialer.listen(LOOPBACK_V4).await));
    }
    let mut addresses = losers.addresses.clone();
    addresses.push(at_target.clone());
    let mut opts = DialOpts::peer_id(target.peer_id)
        .addresses(addresses)
        .override_dial_concurrency_factor(ALL_AT_ONCE);
    if source == Source::NewPorts {
        opts = opts.allocate_new_port();
    }
    dialer.swarm.dial(opts.build()).unwrap();
    // The target does not answer before it is polled.
    let (mut tcp, senders) = tokio::select! {
        dialled = losers.dialled() => dialled,
        addr = dialer.connected() => panic!("{addr} has answered"),
    };
    assert!(!has_only(&dialer.handle, 1));
    let peer = target.peer_id;
    tokio::spawn(target.serve());
    assert_eq!(
        dialer.connected().await,
        at_target.clone().with_p2p(peer).unwrap()
    );

    until(|| has_only(&dialer.handle, 1)).await;
    until(|| dialer.handle.stats().transport.sockets == 1).await;
    let mut alone = Both::new(|config| config);
    alone.dial(peer, vec![at_target]);
    alone.connected().await;
    let ids = |node: &Both| node.handle.stats().registry.active_ids;
    until(|| ids(&dialer) == ids(&alone)).await;
    // Its end, or that it was reset.
    let _ = tcp.read_to_end(&mut Vec::new()).await;
    for sender in &senders {
        match own_port {
            Some(port) => assert_eq!(sender.port(), port),
            None if source == Source::NewPorts => {
                // The system has the port back.
                let addr = (Ipv4Addr::LOCALHOST, sender.port());
                until(|| std::net::UdpSocket::bind(addr).is_ok()).await;
            }
            None => assert_eq!(sender, &senders[0]),
        }
    }
    let late = losers.late.handle.clone();
    tokio::spawn(losers.late.serve());
    until(|| has_only(&late, 0)).await;

    let handle = dialer.handle.clone();
    drop(dialer);
    until(|| is_over(&handle)).await;
}

/// The address of a listener, as on a host of the Internet.
fn public(addr: &Multiaddr) -> Multiaddr {
    let there = |part| match part {
        Protocol::Ip4(_) => Protocol::Ip4(PUBLIC),
        part => part,
    };
    addr.iter().map(there).collect()
}

#[tokio::test]
async fn a_smart_dial_uses_quic_if_it_answers() {
    bounded(async {
        let mut target = Both::new(|config| config);
        let quic = public(&target.listen(LOOPBACK_V4).await);
        let tcp = public(&target.listen("/ip4/127.0.0.1/tcp/0").await);
        let peer = target.peer_id;
        tokio::spawn(target.serve());
        // On a machine that stands still for 250 ms, TCP has its turn.
        for _ in 0..10 {
            let mut dialer = Both::new(|config| config.with_smart_dial());
            dialer.dial(peer, vec![tcp.clone(), quic.clone()]);
            let addr = dialer.connected().await;
            let dials = dialer.dials.lock().unwrap().clone();
            assert_eq!(dials[0], "quic");
            if dials.len() == 1 {
                assert!(is_quic(&addr), "{addr}");
                return;
            }
        }
        panic!("TCP was dialled each time");
    })
    .await;
}

#[tokio::test]
async fn a_smart_dial_uses_tcp_if_quic_is_a_black_hole() {
    bounded(async {
        let mut target = Both::new(|config| config);
        let tcp = public(&target.listen("/ip4/127.0.0.1/tcp/0").await);
        let peer = target.peer_id;
        tokio::spawn(target.serve());
        let (hole, addr) = silent("127.0.0.1");

        let mut dialer = Both::new(|config| config.with_smart_dial());
        dialer.dial(peer, vec![tcp, public(&addr)]);
        let addr = dialer.connected().await;
        assert!(!is_quic(&addr), "{addr}");
        assert_eq!(*dialer.dials.lock().unwrap(), ["quic", "tcp"]);
        assert!(hole.recv(&mut [0; 2048]).unwrap() >= 1200, "QUIC was first");
        until(|| has_only(&dialer.handle, 0)).await;
    })
    .await;
}

/// Refuses some connections, and accepts the next one.
async fn refuse(mut node: Node, refusals: u64) {
    for _ in 0..refusals {
        drop(node.knock().await.upgrade);
    }
    let _accepted = node.accept().await;
    pending().await
}

fn quickly() -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(Duration::from_millis(1))
}

#[tokio::test]
async fn a_dial_that_fails_is_repeated_with_backoff() {
    bounded(async {
        let mut target = Node::new();
        let addresses = [target.listen().await];
        let peer = target.peer_id;
        tokio::spawn(refuse(target, 3));
        let mut dialer = Both::new(|config| config);
        let mut failures = 0;
        let backoff = quickly().with_max_times(3);
        connect(&mut dialer.swarm, peer, &addresses, backoff, |event| {
            failures += usize::from(matches!(event, SwarmEvent::OutgoingConnectionError { .. }));
        })
        .await
        .unwrap();
        assert_eq!(failures, 3);
        assert_eq!(dialer.handle.stats().transport.dials, 4);
    })
    .await;
}

#[tokio::test]
async fn a_dial_that_always_fails_ends_with_its_last_attempt() {
    bounded(async {
        let (closed, peer) = (CLOSED[0].parse().unwrap(), PeerId::random());
        let mut dialer = Both::new(|config| config);
        let backoff = quickly().with_max_times(2);
        let error = connect(&mut dialer.swarm, peer, &[closed], backoff, |_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Transport(_)), "{error:?}");
        assert_eq!(*dialer.dials.lock().unwrap(), ["quic"; 3]);
    })
    .await;
}

#[tokio::test]
async fn a_dial_that_reaches_another_peer_is_repeated_without_that_address() {
    bounded(async {
        let (mut stranger, mut target) = (Both::new(|config| config), Both::new(|config| config));
        let at_stranger = stranger.listen(LOOPBACK_V4).await;
        let at_target = target.listen(LOOPBACK_V4).await;
        let (peer, answered) = (target.peer_id, stranger.handle.clone());
        tokio::spawn(stranger.serve());
        let first = answered.clone();
        tokio::spawn(async move {
            until(|| first.stats().transport.handshakes_failed == 1).await;
            target.serve().await;
        });
        let mut dialer = Both::new(|config| config);
        let addresses = [at_stranger, at_target];
        let mut wrong = 0;
        connect(&mut dialer.swarm, peer, &addresses, quickly(), |event| {
            if let SwarmEvent::OutgoingConnectionError { error, .. } = event {
                assert!(matches!(error, DialError::WrongPeerId { .. }), "{error:?}");
                wrong += 1;
            }
        })
        .await
        .unwrap();
        assert_eq!(wrong, 1);
        assert_eq!(dialer.dials.lock().unwrap().len(), 3);
        until(|| has_only(&dialer.handle, 1)).await;
        until(|| has_only(&answered, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn a_dial_that_reaches_only_another_peer_ends() {
    bounded(async {
        let mut stranger = Both::new(|config| config);
        let addresses = [stranger.listen(LOOPBACK_V4).await];
        tokio::spawn(stranger.serve());
        let mut dialer = Both::new(|config| config);
        let peer = PeerId::random();
        let error = connect(&mut dialer.swarm, peer, &addresses, quickly(), |_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::WrongPeerId { .. }), "{error:?}");
        assert_eq!(dialer.dials.lock().unwrap().len(), 1);
    })
    .await;
}
