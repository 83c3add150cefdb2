//! What can go wrong, one enum for each moment at which it does.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use crate::authenticator::{CertificateError, GenerateError};

/// What the [`Transport`](crate::Transport) reports: a failed dial, listener or handshake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A dial failed before its first packet.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The peer was not reached, or did not authenticate.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A listener could not be made, or is in trouble.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A [`Config`](crate::Config) that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The certificate that carries our identity could not be made.
    #[error("could not generate the TLS certificate")]
    Certificate(#[source] GenerateError),
    /// Keep-alive packets would come too late to keep the connection alive.
    ///
    /// One of them may be lost, so the interval must not exceed half of the idle timeout.
    #[error("keep-alive interval exceeds half of the idle timeout")]
    KeepAliveTooLong,
    /// A value that the protocol or its purpose does not allow.
    #[error("{name} is out of range: {expected}")]
    OutOfRange {
        /// The setter that refused its value.
        name: &'static str,
        /// What it would have taken.
        expected: &'static str,
    },
    /// The receive window of one stream exceeds that of the whole connection.
    #[error("stream receive window exceeds the connection's receive window")]
    StreamWindowTooLarge,
}

/// A dial that failed before its first packet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No socket could be opened to dial from.
    #[error("could not open a socket to dial from")]
    Bind(#[source] io::Error),
    /// Our own certificate could not be made.
    #[error("could not generate the TLS certificate")]
    Certificate(#[source] Arc<GenerateError>),
    /// The task that would dial has stopped, for instance with its runtime or in a panic.
    #[error("the driver of the transport has stopped")]
    DriverStopped,
    /// Another dial as listener waits for the same peer at the same address.
    #[error("a hole is being punched for this peer already")]
    HolePunchInProgress,
    /// The interface on the way to the address carries smaller packets than QUIC needs: 1200 bytes
    /// of UDP payload (RFC 9000 §14), so an MTU of 1228 for IPv4 and of 1248 for IPv6.
    #[error("the interface takes {max_payload} bytes of UDP payload, and QUIC needs 1200")]
    InterfaceTooNarrow {
        /// What the interface takes, in bytes of UDP payload.
        max_payload: u16,
    },
    /// A dial as listener needs a listener whose socket can reach the address; there is none.
    #[error("no listener can reach the address")]
    NoListener,
    /// The operating system has no way to the address: no route, one that forbids it, no address of
    /// the family, or a link-local address without its zone.
    #[error("there is no way to the address")]
    NoRoute(#[source] io::Error),
    /// The future was polled outside of a tokio runtime.
    #[error("no tokio runtime is running here")]
    NoRuntime,
    /// There are so many connections that another one would find no connection IDs: two million for each shard.
    #[error("out of connection IDs")]
    OutOfConnectionIds,
    /// So many dials wait already that another one would hardly begin before its time is over:
    /// 65,536 for each [shard](crate::ConfigBuilder::shards). For a dial as listener: so many
    /// packets wait to be sent.
    #[error("too many dials wait")]
    Overloaded,
    /// The QUIC endpoint refused to begin.
    #[error("the endpoint refused to connect: {0}")]
    Refused(String),
    /// The transport was [shut down](crate::Handle::shutdown).
    #[error("the transport is shut down")]
    ShutDown,
    /// So many dials as listener are under way, in all or to this host, that there is no place for another one.
    #[error("too many holes are being punched")]
    TooManyHolePunches,
}

/// A listener that could not be made, or is in trouble.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address could not be bound, for instance because the port is taken.
    #[error("could not listen on {addr}")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Our own certificate could not be made.
    #[error("could not generate the TLS certificate")]
    Certificate(#[source] Arc<GenerateError>),
    /// The task that would hear of connections has stopped, for instance with its runtime or in a panic.
    ///
    /// The listener is closed where no task is left. Where a transport has several
    /// [`shards`](crate::ConfigBuilder::shards), and others go on, it loses the part of what comes in that was for
    /// this one.
    #[error("a driver of the transport has stopped")]
    DriverStopped,
    /// The system does not tell when an address of this host comes or goes, for instance because a sandbox forbids it.
    ///
    /// The listener goes on, and reads the addresses every five seconds.
    #[error("no notice of changes of this host's addresses: they are polled")]
    AddressesPolled(#[source] Arc<io::Error>),
    /// The addresses of this host cannot be read.
    ///
    /// The listener goes on, announces what was read last, which may be nothing, and tries again every five seconds.
    #[error("could not read the addresses of this host")]
    AddressesUnknown(#[source] Arc<io::Error>),
    /// `listen_on` was called outside of a tokio runtime.
    #[error("no tokio runtime is running here")]
    NoRuntime,
    /// The transport was [shut down](crate::Handle::shutdown).
    #[error("the transport is shut down")]
    ShutDown,
    /// The listener's socket has failed, and not only the way to one peer.
    ///
    /// The listener goes on: the same address and port are bound again, which is tried every second until it succeeds
    /// or the listener is removed. Connections that came in at the socket, or were dialled from it, live on if that
    /// takes less than their idle timeout.
    #[error("the socket that listens on {addr} has failed")]
    Socket {
        /// The address that it was bound to.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// [`Handle::rebind`](crate::Handle::rebind) that has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebindError {
    /// A new socket could not be opened.
    #[error("could not open another socket to dial from")]
    Bind(#[source] io::Error),
    /// All tasks of the transport have stopped, so there is nothing left that could move.
    #[error("the drivers of the transport have stopped")]
    DriverStopped,
}

/// A handshake that did not end with an authenticated peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's certificate was refused, by us.
    #[error("peer not authenticated")]
    Certificate(#[from] CertificateError),
    /// The connection ended before the handshake did.
    #[error("connection lost during the handshake")]
    Connection(#[from] ConnectionError),
    /// Nobody on the link has the address, or the router's that leads there: neither ARP nor Neighbor
    /// Discovery has found anyone, for which the operating system usually takes three seconds.
    ///
    /// Only where it reports that to the socket (Linux); elsewhere such a dial ends with
    /// [`TimedOut`](Self::TimedOut).
    #[error("nobody answers on the link")]
    HostUnreachable,
    /// So many accepted connections wait for their handshake to begin that this one was refused:
    /// 16,384 for each [shard](crate::ConfigBuilder::shards).
    #[error("too many handshakes wait")]
    Overloaded,
    /// The operating system does not let our packets out, most likely because of a firewall on this
    /// host. It has said so twice, a second apart.
    #[error("the operating system does not permit to send there")]
    NotPermitted,
    /// The peer does not take connections now (CONNECTION_REFUSED, RFC 9000 §20.1).
    #[error("refused by the peer")]
    Refused,
    /// The listener was removed, the transport was shut down, or the attempt had waited too long,
    /// before the handshake began.
    #[error("the incoming connection is gone")]
    Stale,
    /// The handshake took longer than
    /// [`handshake_timeout`](crate::ConfigBuilder::handshake_timeout), its wait for the transport
    /// included, or nothing was heard of the peer for
    /// [`idle_timeout`](crate::ConfigBuilder::idle_timeout).
    #[error("handshake timed out")]
    TimedOut,
    /// The packets of the peer took more CPU time than a handshake may take.
    #[error("the handshake costs too much")]
    TooCostly,
    /// The host of the peer answered that nobody listens there.
    ///
    /// A dial that leaves from a listener's socket may be half of a hole punch, where a router says so until the peer
    /// has sent something. It takes the answer to its first packet for that, and believes the one to what it sends again a
    /// second later. Not on loopback.
    ///
    /// Only where the operating system reports it to the socket (Linux); elsewhere such a dial ends
    /// with [`TimedOut`](Self::TimedOut).
    #[error("nobody listens at the address")]
    Unreachable,
}

/// The end of a connection.
///
/// A Swarm reports it as the cause of `SwarmEvent::ConnectionClosed`, in an [`io::Error`];
/// [`io::Error::get_ref`] and a downcast give it back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The QUIC implementation of the peer aborted (CONNECTION_CLOSE of type 0x1c, RFC 9000 §19.19).
    #[error("aborted by the peer with transport error {code:#x}: {reason}")]
    AbortedByPeer {
        /// Transport error code (RFC 9000 §20.1); 0x100 and above carry a TLS alert.
        code: u64,
        /// What the peer says about it.
        reason: String,
    },
    /// The peer closed the connection (CONNECTION_CLOSE of type 0x1d, RFC 9000 §19.19).
    #[error("closed by the peer{}", Goodbye { code, reason })]
    ClosedByPeer {
        /// Application error code; 0 is an ordinary close.
        code: u64,
        /// What the peer says about it.
        reason: String,
    },
    /// The task that drives this connection has stopped, for instance with its runtime or in a panic.
    #[error("the driver of the connection has stopped")]
    DriverStopped,
    /// We closed the connection.
    #[error("closed")]
    LocallyClosed,
    /// The peer has forgotten this connection (stateless reset, RFC 9000 §10.3).
    #[error("reset by the peer")]
    Reset,
    /// Nothing was heard of the peer for the negotiated idle timeout (RFC 9000 §10.1).
    #[error("idle for too long")]
    TimedOut,
    /// The peer broke the protocol, or we could not go on.
    #[error("transport error {code:#x}: {reason}")]
    Violation {
        /// Transport error code (RFC 9000 §20.1) that we closed the connection with.
        code: u64,
        /// What was wrong.
        reason: String,
    },
    /// The peer speaks no version of QUIC that we do.
    #[error("no common version of QUIC")]
    VersionMismatch,
}

/// What a peer has said about its close, if it is more than that.
struct Goodbye<'a> {
    code: &'a u64,
    reason: &'a str,
}

impl fmt::Display for Goodbye<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.code != 0 {
            write!(f, " with code {:#x}", self.code)?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

/// The end of a stream before its time.
///
/// [`Stream`](crate::Stream) puts it into the [`io::Error`] that `AsyncRead` and `AsyncWrite` want;
/// [`io::Error::get_ref`] and a downcast give it back, also behind libp2p's boxed streams.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// This half was closed, by us.
    #[error("the stream is closed")]
    Closed,
    /// The connection ended.
    #[error("connection lost")]
    Connection(#[from] ConnectionError),
    /// The peer abandoned its sending half (RESET_STREAM, RFC 9000 §19.4).
    #[error("reset by the peer with code {0:#x}")]
    Reset(u64),
    /// The peer does not read any further (STOP_SENDING, RFC 9000 §19.5).
    #[error("stopped by the peer with code {0:#x}")]
    Stopped(u64),
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match &error {
            StreamError::Closed => io::ErrorKind::BrokenPipe,
            StreamError::Connection(_) => io::ErrorKind::NotConnected,
            StreamError::Reset(_) | StreamError::Stopped(_) => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}
