//! quinn-proto and a blocking socket in one thread: the least CPU time of a transport that uses
//! quinn-proto.
//!
//! Its streams are never pending: a read or a write drives the connection until it has a result.

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use futures::{AsyncRead, AsyncWrite};
use libp2p_identity::Keypair;
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionEvent, ConnectionHandle, DatagramEvent, Dir,
    EcnCodepoint, EndpointConfig, Event, FinishError, ReadError, ReadableError, ServerConfig,
    StreamId, Transmit, WriteError,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::{
    Address, Connection, Endpoint, Facts, Setup, equalised,
    tls::{First, Tls},
};
use crate::udp::Udp;

pub struct Floor {
    node: Node,
    tls: Tls,
    address: Address,
}

impl Endpoint for Floor {
    type Connection = Node;
    type Incoming = Ready<Result<Node>>;

    const ONE_AT_A_TIME: bool = true;

    async fn bind(identity: &Keypair, setup: Setup) -> Result<Self> {
        let tls = Tls::new(identity, First::Aes)?;
        let crypto = QuicServerConfig::try_from(tls.server()?)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(equalised::transport()?));
        let endpoint = quinn_proto::Endpoint::new(
            Arc::new(EndpointConfig::default()),
            Some(Arc::new(server)),
            true,
            None,
        );
        let socket = Udp::bind(setup.ip)?;
        Ok(Self {
            address: Address {
                socket: socket.local_addr()?,
                peer: identity.public().to_peer_id(),
            },
            tls,
            node: Node(Arc::new(Mutex::new(Inner {
                socket,
                endpoint,
                connection: None,
                established: false,
                closed: None,
                buffer: Vec::new(),
            }))),
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }

    async fn connect(&self, to: &Address) -> Result<Node> {
        let crypto = QuicClientConfig::try_from(self.tls.client(to.peer)?)?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(equalised::transport()?));
        let mut inner = self.node.lock();
        // TLS sends no server name here, but the function needs a valid one.
        let connection = inner
            .endpoint
            .connect(Instant::now(), client, to.socket, "l")?;
        inner.connection = Some(connection);
        inner.until(|inner| inner.established.then_some(()))?;
        Ok(self.node.clone())
    }

    async fn accept(&self) -> Result<Self::Incoming> {
        self.node
            .lock()
            .until(|inner| inner.established.then_some(()))?;
        Ok(ready(Ok(self.node.clone())))
    }

    fn facts(&self, node: &Node) -> Facts {
        let mtu = node
            .lock()
            .connection()
            .map(|connection| connection.current_mtu());
        Facts {
            suite: "TLS13_AES_128_GCM_SHA256 (configured)".to_owned(),
            group: "X25519MLKEM768 (configured)".to_owned(),
            mtu: mtu.map_or_else(|_| "?".to_owned(), |mtu| mtu.to_string()),
            windows: equalised::WINDOWS.to_owned(),
            segments: format!("up to {SEGMENTS}"),
        }
    }
}

/// An endpoint with its only connection.
#[derive(Clone)]
pub struct Node(Arc<Mutex<Inner>>);

impl Node {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection for Node {
    type Stream = Stream;

    async fn open(&self) -> Result<Stream> {
        self.stream(|connection| connection.streams().open(Dir::Bi))
    }

    async fn accept(&self) -> Result<Stream> {
        self.stream(|connection| connection.streams().accept(Dir::Bi))
    }
}

impl Node {
    fn stream(
        &self,
        get: impl Fn(&mut quinn_proto::Connection) -> Option<StreamId>,
    ) -> Result<Stream> {
        let id = self
            .lock()
            .until(|inner| inner.connection().ok().and_then(&get))?;
        Ok(Stream {
            id,
            node: self.clone(),
        })
    }
}

struct Inner {
    socket: Udp,
    endpoint: quinn_proto::Endpoint,
    connection: Option<(ConnectionHandle, quinn_proto::Connection)>,
    established: bool,
    closed: Option<ConnectionError>,
    buffer: Vec<u8>,
}

impl Inner {
    fn connection(&mut self) -> Result<&mut quinn_proto::Connection> {
        let (_, connection) = self.connection.as_mut().context("no connection")?;
        Ok(connection)
    }

    /// Drives the connection until `get` returns something.
    fn until<T>(&mut self, mut get: impl FnMut(&mut Self) -> Option<T>) -> Result<T> {
        loop {
            if let Some(value) = get(self) {
                return Ok(value);
            }
            if let Some(error) = &self.closed {
                bail!("the connection is closed: {error}");
            }
            self.turn()?;
        }
    }

    /// Sends all pending packets, then receives. Blocks if there was nothing to send.
    fn turn(&mut self) -> Result<()> {
        let sent_all = self.send()?;
        let wait = if sent_all {
            self.connection
                .as_mut()
                .and_then(|(_, connection)| connection.poll_timeout())
                .map(|timeout| timeout.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        self.receive(wait)?;
        if let Some((handle, connection)) = &mut self.connection {
            let now = Instant::now();
            if connection
                .poll_timeout()
                .is_some_and(|timeout| timeout <= now)
            {
                connection.handle_timeout(now);
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
            while let Some(event) = connection.poll() {
                match event {
                    Event::Connected => self.established = true,
                    Event::ConnectionLost { reason } => self.closed = Some(reason),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Sends a few batches. Returns whether nothing is left.
    fn send(&mut self) -> Result<bool> {
        let Some((_, connection)) = &mut self.connection else {
            return Ok(true);
        };
        let now = Instant::now();
        for _ in 0..BATCHES {
            self.buffer.clear();
            let Some(transmit) = connection.poll_transmit(now, SEGMENTS, &mut self.buffer) else {
                return Ok(true);
            };
            send(&self.socket, &transmit, &self.buffer)?;
        }
        Ok(false)
    }

    fn receive(&mut self, wait: Option<Duration>) -> Result<()> {
        let messages = self.socket.receive(wait)?;
        let now = Instant::now();
        let mut answers = Vec::new();
        for (meta, contents) in messages {
            let mut contents = BytesMut::from(&*contents);
            while !contents.is_empty() {
                let datagram = contents.split_to(meta.stride.min(contents.len()));
                let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
                self.buffer.clear();
                match self.endpoint.handle(
                    now,
                    meta.addr,
                    meta.dst_ip,
                    ecn,
                    datagram,
                    &mut self.buffer,
                ) {
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        hand_on(&mut self.connection, handle, event);
                    }
                    Some(DatagramEvent::NewConnection(incoming)) if self.connection.is_none() => {
                        let accepted = self.endpoint.accept(incoming, now, &mut self.buffer, None);
                        self.connection = Some(accepted.map_err(|error| error.cause)?);
                    }
                    Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
                    Some(DatagramEvent::Response(transmit)) => {
                        answers.push((transmit, self.buffer.clone()));
                    }
                    None => {}
                }
            }
        }
        for (transmit, contents) in answers {
            send(&self.socket, &transmit, &contents)?;
        }
        Ok(())
    }
}

fn hand_on(
    connection: &mut Option<(ConnectionHandle, quinn_proto::Connection)>,
    handle: ConnectionHandle,
    event: ConnectionEvent,
) {
    if let Some((ours, connection)) = connection
        && *ours == handle
    {
        connection.handle_event(event);
    }
}

/// Sends a transmit of quinn-proto through the socket.
pub fn send(socket: &Udp, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    socket.send(&quinn_udp::Transmit {
        destination: transmit.destination,
        ecn: transmit
            .ecn
            .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
        contents: &contents[..transmit.size],
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    })
}

/// A stream. Each call drives the connection until it has a result.
pub struct Stream {
    id: StreamId,
    node: Node,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let id = self.id;
        let mut inner = self.node.lock();
        let read = inner.until(|inner| match inner.connection() {
            Ok(connection) => read(connection, id, buf).transpose(),
            Err(error) => Some(Err(io::Error::other(error))),
        });
        Poll::Ready(read.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let id = self.id;
        let mut inner = self.node.lock();
        let written = inner.until(|inner| match inner.connection() {
            Ok(connection) => match connection.send_stream(id).write(buf) {
                Err(WriteError::Blocked) => None,
                result => Some(result.map_err(io::Error::other)),
            },
            Err(error) => Some(Err(io::Error::other(error))),
        });
        Poll::Ready(written.unwrap_or_else(|error| Err(io::Error::other(error))))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our half. The next call that drives the connection sends what is left.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.node.lock();
        let finished = inner
            .connection()
            .map_err(io::Error::other)?
            .send_stream(self.id)
            .finish();
        match finished {
            Ok(()) | Err(FinishError::ClosedStream) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }
}

/// Reads the available data. Returns `Some(0)` at the end, and `None` if there is none yet.
fn read(
    connection: &mut quinn_proto::Connection,
    id: StreamId,
    buf: &mut [u8],
) -> io::Result<Option<usize>> {
    let mut stream = connection.recv_stream(id);
    let mut chunks = match stream.read(true) {
        Ok(chunks) => chunks,
        Err(ReadableError::ClosedStream) => return Ok(Some(0)),
        Err(error) => return Err(io::Error::other(error)),
    };
    let mut filled = 0;
    let ended = loop {
        if filled == buf.len() {
            break false;
        }
        match chunks.next(buf.len() - filled) {
            Ok(Some(chunk)) => {
                buf[filled..][..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                filled += chunk.bytes.len();
            }
            Ok(None) => break true,
            Err(ReadError::Blocked) => break false,
            Err(error) => return Err(io::Error::other(error)),
        }
    };
    // The next turn sends the window update, if one is due.
    let _ = chunks.finalize();
    Ok((filled > 0 || ended).then_some(filled))
}

/// The most segments of a GSO batch, as in our transport: 65,507 bytes in datagrams of 1452.
const SEGMENTS: usize = 44;

/// The most batches to send before the next receive.
const BATCHES: usize = 4;
