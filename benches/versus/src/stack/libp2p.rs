//! Both libp2p transports, driven through libp2p's traits by the same code.

use std::{
    future::poll_fn,
    marker::PhantomData,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use anyhow::{Context, Result, bail};
use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use libp2p_core::{
    Endpoint as Role, StreamMuxer, Transport,
    transport::{DialOpts, ListenerId, PortUse, TransportEvent},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::CongestionControl;
use multiaddr::{Multiaddr, Protocol};

use super::{Address, Connection, Endpoint, Facts, Profile, STOCK_BUFFER, Setup, equalised};

/// One of the two transports.
pub trait Flavour: Send + Sync + 'static {
    type Muxer: StreamMuxer<
            Substream: AsyncRead + AsyncWrite + Send + Unpin + 'static,
            Error: Send + Sync + 'static,
        > + Send
        + Unpin
        + 'static;
    type Transport: Transport<
            Output = (PeerId, Self::Muxer),
            Error: Send + Sync + 'static,
            Dial: Send + 'static,
            ListenerUpgrade: Send + 'static,
        > + Send
        + Unpin
        + 'static;
    /// A handle that reads the state of the transport.
    type Probe: Send + Sync + 'static;

    fn transport(identity: &Keypair, profile: Profile) -> Result<(Self::Transport, Self::Probe)>;

    fn facts(probe: &Self::Probe) -> Facts;
}

/// libp2p-quinn.
pub struct Ours;

/// libp2p-quinn with BBR.
pub struct OursBbr;

/// libp2p-quic.
pub struct Official;

impl Flavour for Ours {
    type Muxer = libp2p_quinn::Connection;
    type Transport = libp2p_quinn::Transport;
    type Probe = libp2p_quinn::Handle;

    fn transport(identity: &Keypair, profile: Profile) -> Result<(Self::Transport, Self::Probe)> {
        ours(identity, profile, CongestionControl::Cubic)
    }

    fn facts(handle: &Self::Probe) -> Facts {
        let stats = handle.stats();
        let connection = stats.connections.first();
        let text = |value: Option<&str>| value.unwrap_or("?").to_owned();
        let mtu = connection.map(|connection| connection.mtu_bytes);
        Facts {
            suite: text(connection.and_then(|connection| connection.cipher_suite)),
            group: text(connection.and_then(|connection| connection.key_exchange_group)),
            mtu: mtu.map_or_else(|| "?".to_owned(), |mtu| mtu.to_string()),
            windows: equalised::WINDOWS.to_owned(),
            // As many segments as the largest UDP payload holds.
            segments: mtu.map_or_else(
                || "?".to_owned(),
                |mtu| format!("up to {}", (65_507 / mtu.max(1)).clamp(1, 44)),
            ),
        }
    }
}

impl Flavour for OursBbr {
    type Muxer = <Ours as Flavour>::Muxer;
    type Transport = <Ours as Flavour>::Transport;
    type Probe = <Ours as Flavour>::Probe;

    fn transport(identity: &Keypair, profile: Profile) -> Result<(Self::Transport, Self::Probe)> {
        ours(identity, profile, CongestionControl::Bbr)
    }

    fn facts(handle: &Self::Probe) -> Facts {
        Ours::facts(handle)
    }
}

fn ours(
    identity: &Keypair,
    profile: Profile,
    control: CongestionControl,
) -> Result<(libp2p_quinn::Transport, libp2p_quinn::Handle)> {
    let builder = libp2p_quinn::Config::builder(identity).congestion_control(control);
    let builder = match profile {
        Profile::Shipped => builder,
        Profile::StockBuffers => builder.socket_buffer_bytes(STOCK_BUFFER, STOCK_BUFFER)?,
        Profile::Equalised => builder
            .max_mtu_bytes(equalised::MTU)?
            .stream_receive_window_bytes(equalised::STREAM_WINDOW.into())?
            .connection_receive_window_bytes(equalised::CONNECTION_WINDOW.into())?
            .send_window_bytes(equalised::SEND_WINDOW)?
            .max_peer_streams(equalised::STREAMS)?
            .idle_timeout(Some(equalised::IDLE_TIMEOUT))?
            .keep_alive_interval(Some(equalised::KEEP_ALIVE))?,
    };
    let transport = libp2p_quinn::Transport::new(builder.build()?);
    let handle = transport.handle();
    Ok((transport, handle))
}

impl Flavour for Official {
    type Muxer = libp2p_quic::Connection;
    type Transport = libp2p_quic::tokio::Transport;
    type Probe = Profile;

    fn transport(identity: &Keypair, profile: Profile) -> Result<(Self::Transport, Self::Probe)> {
        let mut config = libp2p_quic::Config::new(identity);
        if profile == Profile::Equalised {
            config = config.mtu_upper_bound(equalised::MTU);
            config.max_stream_data = equalised::STREAM_WINDOW;
            config.max_connection_data = equalised::CONNECTION_WINDOW;
            config.max_concurrent_stream_limit = equalised::STREAMS;
            config.max_idle_timeout = u32::try_from(equalised::IDLE_TIMEOUT.as_millis())?;
            config.keep_alive_interval = equalised::KEEP_ALIVE;
        }
        Ok((libp2p_quic::tokio::Transport::new(config), profile))
    }

    /// This transport reports nothing. These facts follow from its configuration.
    fn facts(_: &Self::Probe) -> Facts {
        Facts {
            suite: "TLS13_CHACHA20_POLY1305_SHA256 (configured)".to_owned(),
            group: "X25519MLKEM768 (configured)".to_owned(),
            mtu: "up to 1452 (configured)".to_owned(),
            windows: equalised::WINDOWS.to_owned(),
            segments: "up to 10 (quinn)".to_owned(),
        }
    }
}

/// A transport that listens, so that it dials from the same socket.
pub struct Libp2p<F: Flavour> {
    transport: Mutex<F::Transport>,
    probe: F::Probe,
    address: Address,
}

impl<F: Flavour> Endpoint for Libp2p<F> {
    type Connection = Muxed<F>;
    type Incoming = BoxFuture<'static, Result<Muxed<F>>>;

    async fn bind(identity: &Keypair, setup: Setup) -> Result<Self> {
        let (mut transport, probe) = F::transport(identity, setup.profile)?;
        transport.listen_on(ListenerId::next(), free_port(setup.ip))?;
        let listen_addr = poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await;
        let Some(listen_addr) = listen_addr.into_new_address() else {
            bail!("the first event of a listener is no address");
        };
        let address = Address {
            socket: socket_addr(&listen_addr).context("no socket in the listener's address")?,
            peer: identity.public().to_peer_id(),
        };
        Ok(Self {
            transport: Mutex::new(transport),
            probe,
            address,
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }

    async fn connect(&self, to: &Address) -> Result<Muxed<F>> {
        let opts = DialOpts {
            role: Role::Dialer,
            port_use: PortUse::Reuse,
        };
        let dial = lock(&self.transport).dial(multiaddr(to), opts)?;
        let (peer, muxer) = dial.await?;
        if peer != to.peer {
            bail!("{peer} has answered instead of {}", to.peer);
        }
        Ok(Muxed::new(muxer))
    }

    async fn accept(&self) -> Result<Self::Incoming> {
        loop {
            let event = poll_fn(|cx| Pin::new(&mut *lock(&self.transport)).poll(cx)).await;
            match event {
                TransportEvent::Incoming { upgrade, .. } => {
                    return Ok(async move { Ok(Muxed::new(upgrade.await?.1)) }.boxed());
                }
                TransportEvent::ListenerError { error, .. } => return Err(error.into()),
                TransportEvent::ListenerClosed { .. } => bail!("the listener is closed"),
                TransportEvent::NewAddress { .. } | TransportEvent::AddressExpired { .. } => {}
            }
        }
    }

    fn facts(&self, _: &Muxed<F>) -> Facts {
        F::facts(&self.probe)
    }
}

/// A muxer that several tasks can use.
pub struct Muxed<F: Flavour> {
    muxer: Arc<Mutex<F::Muxer>>,
    /// Serialises the tasks that open streams, because the trait keeps only one waker.
    opening: Arc<tokio::sync::Mutex<()>>,
    flavour: PhantomData<F>,
}

impl<F: Flavour> Muxed<F> {
    fn new(muxer: F::Muxer) -> Self {
        Self {
            muxer: Arc::new(Mutex::new(muxer)),
            opening: Arc::default(),
            flavour: PhantomData,
        }
    }

    /// Closes the connection with `poll_close`, as a Swarm does, and waits until that is complete.
    pub async fn close(self) -> Result<()> {
        Ok(poll_fn(|cx| Pin::new(&mut *lock(&self.muxer)).poll_close(cx)).await?)
    }
}

impl<F: Flavour> Clone for Muxed<F> {
    fn clone(&self) -> Self {
        Self {
            muxer: Arc::clone(&self.muxer),
            opening: Arc::clone(&self.opening),
            flavour: PhantomData,
        }
    }
}

impl<F: Flavour> Connection for Muxed<F> {
    type Stream = <F::Muxer as StreamMuxer>::Substream;

    async fn open(&self) -> Result<Self::Stream> {
        let _turn = self.opening.lock().await;
        Ok(poll_fn(|cx| Pin::new(&mut *lock(&self.muxer)).poll_outbound(cx)).await?)
    }

    /// Polls the muxer for events first, as a Swarm does.
    async fn accept(&self) -> Result<Self::Stream> {
        let stream = poll_fn(|cx| {
            let mut muxer = lock(&self.muxer);
            while let Poll::Ready(event) = Pin::new(&mut *muxer).poll(cx) {
                event?;
            }
            Pin::new(&mut *muxer).poll_inbound(cx)
        });
        Ok(stream.await?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn free_port(ip: Ipv4Addr) -> Multiaddr {
    Multiaddr::from(ip)
        .with(Protocol::Udp(0))
        .with(Protocol::QuicV1)
}

pub(super) fn multiaddr(to: &Address) -> Multiaddr {
    Multiaddr::from(to.socket.ip())
        .with(Protocol::Udp(to.socket.port()))
        .with(Protocol::QuicV1)
        .with(Protocol::P2p(to.peer))
}

pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut protocols = addr.iter();
    match (protocols.next()?, protocols.next()?) {
        (Protocol::Ip4(ip), Protocol::Udp(port)) => Some((ip, port).into()),
        _ => None,
    }
}
