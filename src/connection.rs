//! The libp2p stream muxer.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use libp2p_core::{
    Multiaddr,
    muxing::{StreamMuxer, StreamMuxerEvent},
};
use libp2p_identity::PeerId;
use quinn_proto::VarInt;

use crate::{
    address, driver::DrivenConnection, error::ConnectionError, stats::ConnectionStats,
    stream::Stream,
};

/// An authenticated connection, which carries streams.
///
/// [`poll_close`](StreamMuxer::poll_close) or dropping the connection ends it for the application
/// at once: its streams fail from then on, except that data which has already arrived can still be
/// read. The peer is told (CONNECTION_CLOSE with code 0) as soon as it has acknowledged all data of
/// the streams that were closed before. The driver waits for that in the background, for at most
/// [`linger_timeout`](crate::ConfigBuilder::linger_timeout). `poll_close` is ready when the
/// CONNECTION_CLOSE has been sent or, if closed streams are still being delivered, at once.
///
/// After the peer has ended the connection, streams that it opened before can still be taken for
/// one second, and read as long as the application holds them. Until then their data counts for
/// [`max_buffered_bytes`](crate::ConfigBuilder::max_buffered_bytes). Written data that the peer has
/// not acknowledged, and what QUIC keeps for pieces of data, count until the connection and all of
/// its streams are dropped.
/// [`poll`](StreamMuxer::poll) reports the end when no stream is left to take.
///
/// # Cancellation safety
///
/// A pending `poll_…` may be abandoned at any time: nothing is lost. After an error, a repeated
/// call returns the same error.
///
/// # Example
///
/// Without a Swarm, a node dials itself and opens a stream:
///
/// ```
/// use std::{future::poll_fn, pin::Pin, task::Poll};
///
/// use futures::{AsyncReadExt, AsyncWriteExt};
/// use libp2p_core::{
///     Endpoint, StreamMuxer, Transport as _,
///     transport::{DialOpts, ListenerId, PortUse, TransportEvent},
/// };
/// use libp2p_identity::Keypair;
/// use libp2p_quinn::{Config, Transport};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut transport = Transport::new(Config::new(&Keypair::generate_ed25519()));
/// transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
/// let (incoming, addr) = tokio::sync::oneshot::channel();
/// tokio::spawn(async move {
///     let mut addr = Some(incoming);
///     loop {
///         match poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
///             TransportEvent::NewAddress { listen_addr, .. } => {
///                 let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
///                 let dial = transport.dial(listen_addr, options);
///                 let _ = addr.take().map(|addr| addr.send(dial));
///             }
///             TransportEvent::Incoming { upgrade, .. } => {
///                 tokio::spawn(async move {
///                     let (_peer, mut connection) = upgrade.await.expect("a handshake");
///                     let inbound = poll_fn(|cx| Pin::new(&mut connection).poll_inbound(cx));
///                     let mut stream = inbound.await.expect("a stream");
///                     stream.write_all(b"hello").await.expect("room");
///                     stream.close().await.expect("an open stream");
///                     poll_fn(|cx| Pin::new(&mut connection).poll_close(cx)).await
///                 });
///             }
///             _ => {}
///         }
///     }
/// });
/// let (peer, mut connection) = addr.await??.await?;
/// assert_eq!(connection.peer_id(), Some(peer));
/// let mut stream = poll_fn(|cx| Pin::new(&mut connection).poll_outbound(cx)).await?;
/// stream.write_all(b"?").await?;
/// let mut answer = String::new();
/// stream.read_to_string(&mut answer).await?;
/// assert_eq!(answer, "hello");
/// println!("{} is {:?} away", connection.remote_address(), connection.stats().rtt);
/// # Ok(())
/// # }
/// ```
pub struct Connection {
    inner: DrivenConnection,
}

impl Connection {
    pub(crate) fn new(inner: DrivenConnection) -> Self {
        Self { inner }
    }

    /// The authenticated peer; `None` if the connection ended without one, because a dial has
    /// reached another peer than its address names.
    pub fn peer_id(&self) -> Option<PeerId> {
        self.inner.with(|connection| {
            let authenticated = connection.authenticated();
            authenticated.map(|authenticated| authenticated.peer_id)
        })
    }

    /// The peer's current address, without its peer ID. It changes when the peer migrates.
    pub fn remote_address(&self) -> Multiaddr {
        let addr = self.inner.with(|connection| connection.remote_addr());
        address::to_multiaddr(addr)
    }

    /// The statistics of this connection. After its end they stay as they were.
    pub fn stats(&self) -> ConnectionStats {
        self.inner.with(|connection| connection.stats())
    }

    /// Closes the connection at once, with an error code and a reason for the peer (RFC 9000
    /// §10.2).
    ///
    /// Data that the peer has not acknowledged may be lost, even on streams that were closed.
    /// `code` is an application error code; libp2p uses 0 for an ordinary close. Codes of 2^62 and
    /// above cannot be encoded and are replaced by 2^62 − 1.
    pub fn close_with(&self, code: u64, reason: &str) {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        let reason = reason.to_owned().into();
        self.inner.with(|connection| connection.close(code, reason));
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let accepted = self
            .inner
            .with(|connection| connection.poll_accept(cx.waker()));
        accepted.map_ok(|id| Stream::new(id, self.inner.clone()))
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let opened = self
            .inner
            .with(|connection| connection.streams().poll_open(cx.waker()));
        opened.map_ok(|id| Stream::new(id, self.inner.clone()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.inner
            .with(|connection| connection.poll_close(cx.waker()))
    }

    /// Reports a change of the peer's address. After the end of the connection, reports the end as
    /// soon as no stream waits to be taken.
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        self.inner
            .with(|connection| connection.poll_address_change(cx.waker()))
            .map_ok(|addr| StreamMuxerEvent::AddressChange(address::to_multiaddr(addr)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        (self.inner)
            .with(|connection| connection.close_in_order(VarInt::from_u32(0), Bytes::new()));
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote_addr = self.inner.with(|connection| connection.remote_addr());
        f.debug_struct("Connection")
            .field("remote_addr", &remote_addr)
            .finish_non_exhaustive()
    }
}
