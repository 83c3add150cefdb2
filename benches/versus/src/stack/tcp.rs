//! The kernel's TCP, without encryption: a measure of what congestion control makes of a link.
//!
//! A connection is one stream.

use std::{
    fs,
    future::{Ready, ready},
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use libp2p_identity::Keypair;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::{Address, Endpoint, Facts, Setup};

/// The kernel's name of a congestion control, as a type.
pub trait Control: Send + Sync + 'static {
    const NAME: &str;
}

pub struct Cubic;

pub struct Bbr;

impl Control for Cubic {
    const NAME: &str = "cubic";
}

impl Control for Bbr {
    const NAME: &str = "bbr";
}

pub struct Tcp<C> {
    listener: TcpListener,
    address: Address,
    control: PhantomData<C>,
}

impl<C: Control> Tcp<C> {
    /// A socket that is bound to a free port.
    fn socket(ip: IpAddr) -> Result<TcpSocket> {
        let socket = TcpSocket::new_v4()?;
        SockRef::from(&socket)
            .set_tcp_congestion(C::NAME.as_bytes())
            .with_context(|| format!("no congestion control {}", C::NAME))?;
        socket.bind(SocketAddr::new(ip, 0))?;
        Ok(socket)
    }
}

impl<C: Control> Endpoint for Tcp<C> {
    type Connection = Connection;
    type Incoming = Ready<Result<Connection>>;

    async fn bind(identity: &Keypair, setup: Setup) -> Result<Self> {
        // Accepted sockets inherit the congestion control.
        let listener = Self::socket(setup.ip.into())?.listen(BACKLOG)?;
        let address = Address {
            socket: listener.local_addr()?,
            peer: identity.public().to_peer_id(),
        };
        Ok(Self {
            listener,
            address,
            control: PhantomData,
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }

    async fn connect(&self, to: &Address) -> Result<Connection> {
        let socket = Self::socket(self.address.socket.ip())?;
        Ok(Connection::new(socket.connect(to.socket).await?))
    }

    async fn accept(&self) -> Result<Self::Incoming> {
        let (stream, _) = self.listener.accept().await?;
        Ok(ready(Ok(Connection::new(stream))))
    }

    fn facts(&self, _: &Connection) -> Facts {
        let largest = |limits: &str| {
            let limits = fs::read_to_string(format!("/proc/sys/net/ipv4/{limits}"));
            let limits = limits.unwrap_or_default();
            limits.split_whitespace().last().unwrap_or("?").to_owned()
        };
        Facts {
            suite: "none".to_owned(),
            group: "none".to_owned(),
            mtu: "that of the interface".to_owned(),
            windows: format!(
                "tcp_rmem {}, tcp_wmem {}",
                largest("tcp_rmem"),
                largest("tcp_wmem")
            ),
            segments: "as many as the kernel chooses".to_owned(),
        }
    }
}

/// A connection, with its stream until somebody takes it.
#[derive(Clone)]
pub struct Connection(Arc<Mutex<Option<Stream>>>);

type Stream = Compat<TcpStream>;

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Some(stream.compat()))))
    }

    fn take(&self) -> Result<Stream> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream
            .take()
            .context("a TCP connection has only one stream")
    }
}

impl super::Connection for Connection {
    type Stream = Stream;

    async fn open(&self) -> Result<Stream> {
        self.take()
    }

    async fn accept(&self) -> Result<Stream> {
        self.take()
    }
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 16;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::stack::{Connection as _, Profile};

    #[tokio::test]
    async fn a_connection_is_one_stream_with_the_chosen_congestion_control() {
        let setup = Setup {
            profile: Profile::Shipped,
            ip: Ipv4Addr::LOCALHOST,
        };
        let bind = || async {
            let identity = Keypair::generate_ed25519();
            Tcp::<Cubic>::bind(&identity, setup).await.unwrap()
        };
        let (server, client) = (bind().await, bind().await);
        let connection = client.connect(&server.address()).await.unwrap();
        let accepted = server.accept().await.unwrap().await.unwrap();
        let (mut near, mut far) = (
            connection.open().await.unwrap(),
            accepted.accept().await.unwrap(),
        );
        near.write_all(b"there").await.unwrap();
        let mut read = [0; 5];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"there");
        for stream in [&near, &far] {
            let control = SockRef::from(stream.get_ref()).tcp_congestion().unwrap();
            assert_eq!(control.split(|byte| *byte == 0).next().unwrap(), b"cubic");
        }
        assert!(connection.open().await.is_err());
    }
}
