//! quinn with our TLS settings.

use std::{
    io,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use libp2p_identity::Keypair;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use super::{
    Address, Connection, Endpoint, Facts, Profile, Setup, equalised,
    tls::{First, Tls},
};

/// The preferred cipher suite, as a type.
pub trait Preference: Send + Sync + 'static {
    const FIRST: First;
}

pub struct Aes;

pub struct Chacha;

impl Preference for Aes {
    const FIRST: First = First::Aes;
}

impl Preference for Chacha {
    const FIRST: First = First::Chacha;
}

pub struct Quinn<P> {
    endpoint: quinn::Endpoint,
    transport: Arc<quinn::TransportConfig>,
    tls: Tls,
    profile: Profile,
    address: Address,
    preference: PhantomData<P>,
}

impl<P: Preference> Endpoint for Quinn<P> {
    type Connection = quinn::Connection;
    type Incoming = BoxFuture<'static, Result<quinn::Connection>>;

    async fn bind(identity: &Keypair, setup: Setup) -> Result<Self> {
        let tls = Tls::new(identity, P::FIRST)?;
        let transport = Arc::new(match setup.profile {
            Profile::Equalised => equalised::transport()?,
            Profile::Shipped | Profile::StockBuffers => quinn::TransportConfig::default(),
        });
        let crypto = QuicServerConfig::try_from(tls.server()?)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::clone(&transport));
        let endpoint = quinn::Endpoint::server(server, (setup.ip, 0).into())?;
        let address = Address {
            socket: endpoint.local_addr()?,
            peer: identity.public().to_peer_id(),
        };
        Ok(Self {
            endpoint,
            transport,
            tls,
            profile: setup.profile,
            address,
            preference: PhantomData,
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }

    async fn connect(&self, to: &Address) -> Result<quinn::Connection> {
        let crypto = QuicClientConfig::try_from(self.tls.client(to.peer)?)?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::clone(&self.transport));
        // TLS sends no server name here, but the function needs a valid one.
        let connecting = self.endpoint.connect_with(client, to.socket, "l")?;
        Ok(connecting.await?)
    }

    async fn accept(&self) -> Result<Self::Incoming> {
        let incoming = self
            .endpoint
            .accept()
            .await
            .context("the endpoint is closed")?;
        Ok(async move { Ok(incoming.accept()?.await?) }.boxed())
    }

    fn facts(&self, connection: &quinn::Connection) -> Facts {
        let suite = match P::FIRST {
            First::Aes => "TLS13_AES_128_GCM_SHA256 (configured)",
            First::Chacha => "TLS13_CHACHA20_POLY1305_SHA256 (configured)",
        };
        Facts {
            suite: suite.to_owned(),
            group: "X25519MLKEM768 (configured)".to_owned(),
            mtu: connection.stats().path.current_mtu.to_string(),
            windows: match self.profile {
                Profile::Equalised => equalised::WINDOWS,
                Profile::Shipped | Profile::StockBuffers => {
                    "1.25 MB stream, no limit for the connection, 10 MB send"
                }
            }
            .to_owned(),
            segments: "up to 10".to_owned(),
        }
    }
}

impl Connection for quinn::Connection {
    type Stream = Stream;

    async fn open(&self) -> Result<Stream> {
        let (send, recv) = self.open_bi().await?;
        Ok(Stream { send, recv })
    }

    async fn accept(&self) -> Result<Stream> {
        let (send, recv) = self.accept_bi().await?;
        Ok(Stream { send, recv })
    }
}

/// Both halves of a stream.
pub struct Stream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.recv.poll_read(cx, buf).map_err(io::Error::from)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send)
            .poll_write(cx, buf)
            .map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our half, without waiting for the peer's acknowledgement.
    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.finish().map_err(io::Error::from))
    }
}
