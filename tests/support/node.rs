//! Raw transports: ours and the official one, listening, dialling, serving.

use std::{
    future::poll_fn,
    net::{IpAddr, UdpSocket},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, task::noop_waker_ref};
use libp2p_core::{
    Endpoint, StreamMuxer,
    muxing::StreamMuxerExt,
    transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{
    Config, ConfigBuilder, ConfigError, Connection, Error, Handle, HandshakeError, Stats, Transport,
};
use multiaddr::{Multiaddr, Protocol};

use super::streams;

pub(crate) const LOOPBACK_V4: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
pub(crate) const LOOPBACK_V6: &str = "/ip6/::1/udp/0/quic-v1";

pub(crate) const REUSE_PORT: DialOpts = DialOpts {
    role: Endpoint::Dialer,
    port_use: PortUse::Reuse,
};
pub(crate) const NEW_PORT: DialOpts = DialOpts {
    role: Endpoint::Dialer,
    port_use: PortUse::New,
};

/// Far longer than any test takes unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Interval of checks of conditions that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs a test that must not hang.
///
/// # Panics
///
/// If it hangs.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test)
        .await
        .expect("the test hangs")
}

/// Waits for a condition on statistics, which have no notifications.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Polls once.
pub(crate) fn poll_now<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(noop_waker_ref()))
}

/// A QUIC transport under test: ours or the official one.
pub(crate) trait Quic:
    libp2p_core::Transport<
        Output = (PeerId, Self::Muxer),
        Error: Send + Sync + 'static,
        Dial: Send + Unpin + 'static,
        ListenerUpgrade: Send + Unpin + 'static,
    > + Unpin
    + Send
    + 'static
{
    type Muxer: StreamMuxer<
            Substream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
            Error: Send + Sync + 'static,
        > + Unpin
        + Send
        + 'static;

    /// A transport with the default configuration.
    fn of(keypair: &Keypair) -> Self;
}

impl Quic for Transport {
    type Muxer = Connection;

    fn of(keypair: &Keypair) -> Self {
        Self::new(Config::new(keypair))
    }
}

impl Quic for libp2p_quic::tokio::Transport {
    type Muxer = libp2p_quic::Connection;

    fn of(keypair: &Keypair) -> Self {
        Self::new(libp2p_quic::Config::new(keypair))
    }
}

/// A transport and its peer ID.
pub(crate) struct Peer<T> {
    pub(crate) transport: T,
    pub(crate) peer_id: PeerId,
}

/// Our transport.
pub(crate) type Node = Peer<Transport>;

/// The official transport.
pub(crate) type OfficialNode = Peer<libp2p_quic::tokio::Transport>;

/// An incoming connection before its handshake.
pub(crate) struct Knock<T: Quic> {
    pub(crate) listener_id: ListenerId,
    pub(crate) upgrade: T::ListenerUpgrade,
    pub(crate) local_addr: Multiaddr,
    pub(crate) send_back_addr: Multiaddr,
}

impl<T: Quic> Peer<T> {
    pub(crate) fn new() -> Self {
        Self::of(&Keypair::generate_ed25519())
    }

    pub(crate) fn of(keypair: &Keypair) -> Self {
        Self {
            transport: T::of(keypair),
            peer_id: keypair.public().to_peer_id(),
        }
    }

    pub(crate) async fn event(&mut self) -> TransportEvent<T::ListenerUpgrade, T::Error> {
        poll_fn(|cx| Pin::new(&mut self.transport).poll(cx)).await
    }

    /// The next event, if there is one now.
    pub(crate) fn event_now(&mut self) -> Option<TransportEvent<T::ListenerUpgrade, T::Error>> {
        let mut cx = Context::from_waker(noop_waker_ref());
        match Pin::new(&mut self.transport).poll(&mut cx) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        }
    }

    /// Listens at an address that is not a wildcard.
    pub(crate) async fn listen_at(&mut self, addr: &str) -> (ListenerId, Multiaddr) {
        let id = ListenerId::next();
        self.transport.listen_on(id, addr.parse().unwrap()).unwrap();
        match self.event().await {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => {
                assert_eq!(listener_id, id);
                (id, listen_addr)
            }
            event => panic!("{event:?} instead of an address"),
        }
    }

    pub(crate) async fn listen(&mut self) -> Multiaddr {
        self.listen_at(LOOPBACK_V4).await.1
    }

    pub(crate) fn try_dial(
        &mut self,
        addr: &Multiaddr,
        opts: DialOpts,
    ) -> Result<T::Dial, TransportError<T::Error>> {
        self.transport.dial(addr.clone(), opts)
    }

    pub(crate) fn dial(&mut self, addr: &Multiaddr) -> T::Dial {
        match self.try_dial(addr, REUSE_PORT) {
            Ok(dial) => dial,
            Err(error) => panic!("{addr} is not dialled: {error}"),
        }
    }

    pub(crate) async fn knock(&mut self) -> Knock<T> {
        match self.event().await {
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => Knock {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            },
            event => panic!("{event:?} instead of an incoming connection"),
        }
    }

    /// Accepts the next connection, and authenticates it.
    pub(crate) async fn accept(&mut self) -> (PeerId, T::Muxer) {
        match self.knock().await.upgrade.await {
            Ok(accepted) => accepted,
            Err(error) => panic!("not accepted: {error}"),
        }
    }

    /// Accepts every connection, and echoes every stream, until the test ends.
    pub(crate) fn spawn_echo(mut self) -> Echo {
        Echo(tokio::spawn(async move {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } = self.event().await {
                    tokio::spawn(async move {
                        if let Ok((_, muxer)) = upgrade.await {
                            echo(muxer).await;
                        }
                    });
                }
            }
        }))
    }
}

impl Node {
    /// A node with these settings.
    pub(crate) fn with(
        set: impl FnOnce(ConfigBuilder) -> Result<ConfigBuilder, ConfigError>,
    ) -> Self {
        let keypair = Keypair::generate_ed25519();
        let config = set(Config::builder(&keypair)).unwrap().build().unwrap();
        Self {
            transport: Transport::new(config),
            peer_id: keypair.public().to_peer_id(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.transport.handle().stats()
    }
}

/// A runtime with two threads, time and I/O.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Whether every figure that counts *now* is zero.
pub(crate) fn is_over(handle: &Handle) -> bool {
    let stats = handle.stats();
    let registry = &stats.registry;
    stats.connections.is_empty()
        && stats.listeners.is_empty()
        && stats.transport.sockets == 0
        && registry.active_ids == 0
        && registry.connections == 0
        && registry.handshaking == 0
        && registry.initial_ids == 0
        && registry.peers == 0
        && registry.pending_incoming == 0
        && registry.remote_addresses == 0
}

/// The number of open descriptors of this process, if they can be listed.
pub(crate) fn descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

/// A server that ends with the test.
pub(crate) struct Echo(tokio::task::JoinHandle<()>);

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Echoes every stream of a connection until its end.
pub(crate) async fn echo<M>(mut muxer: M)
where
    M: StreamMuxer<Substream: AsyncRead + AsyncWrite + Unpin + Send + 'static> + Unpin,
{
    while let Ok(stream) = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await {
        tokio::spawn(streams::echo(stream));
    }
}

/// Connects two nodes, of which the second one listens: the dialer's muxer and the listener's.
pub(crate) async fn connect<D: Quic, L: Quic>(
    dialer: &mut Peer<D>,
    listener: &mut Peer<L>,
) -> (D::Muxer, L::Muxer) {
    let addr = listener.listen().await;
    connect_at(dialer, listener, &addr).await
}

/// Connects two nodes, of which the second one is reached at `addr`.
pub(crate) async fn connect_at<D: Quic, L: Quic>(
    dialer: &mut Peer<D>,
    listener: &mut Peer<L>,
    addr: &Multiaddr,
) -> (D::Muxer, L::Muxer) {
    let dial = dialer.dial(addr);
    let (dialled, (dialer_id, accepted)) = tokio::join!(dial, listener.accept());
    let (listener_id, dialled) = match dialled {
        Ok(dialled) => dialled,
        Err(error) => panic!("not dialled: {error}"),
    };
    assert_eq!(listener_id, listener.peer_id);
    assert_eq!(dialer_id, dialer.peer_id);
    (dialled, accepted)
}

/// The UDP port in an address.
pub(crate) fn port(addr: &Multiaddr) -> u16 {
    addr.iter()
        .find_map(|protocol| match protocol {
            Protocol::Udp(port) => Some(port),
            _ => None,
        })
        .expect("an address with a port")
}

/// The address of a UDP socket, as libp2p writes it.
pub(crate) fn quic_addr(addr: std::net::SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(addr.ip().into())
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
}

/// The UDP socket that an address names.
pub(crate) fn socket_addr(addr: &Multiaddr) -> std::net::SocketAddr {
    let ip = addr.iter().find_map(|protocol| match protocol {
        Protocol::Ip4(ip) => Some(IpAddr::from(ip)),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    });
    (ip.expect("an address with an IP"), port(addr)).into()
}

/// A UDP socket that sends nothing.
pub(crate) fn silent(ip: &str) -> (UdpSocket, Multiaddr) {
    let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let addr = quic_addr(socket.local_addr().unwrap());
    (socket, addr)
}

/// The error of a handshake that must have failed.
pub(crate) fn handshake_error<T: std::fmt::Debug>(result: Result<T, Error>) -> HandshakeError {
    match result {
        Err(Error::Handshake(error)) => error,
        other => panic!("{other:?} instead of a handshake error"),
    }
}
