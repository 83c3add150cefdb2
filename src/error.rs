//! The errors, one enum for each moment at which they occur.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use crate::authenticator::{CertificateError, GenerateError};

/// The errors that the [`Transport`](crate::Transport) reports: a failed dial, listener or
/// handshake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A dial failed before its first packet.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The handshake failed: the peer did not answer, refused, or did not authenticate.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A listener could not be opened, or has a problem.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A [`Config`](crate::Config) that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The certificate that carries our identity could not be generated.
    #[error("could not generate the TLS certificate")]
    Certificate(#[source] GenerateError),
    /// Keep-alive packets would come too late to keep the connection alive.
    ///
    /// One keep-alive packet may be lost, so the interval must not exceed half of the idle timeout.
    #[error("keep-alive interval exceeds half of the idle timeout")]
    KeepAliveTooLong,
    /// A handshake would end before its first packet is sent again.
    ///
    /// That happens after three times the initial round-trip time.
    #[error("three initial round-trip times exceed the handshake timeout")]
    InitialRttTooLong,
    /// The file for TLS secrets cannot be opened.
    #[error("no TLS secrets can be written to {}", path.display())]
    KeyLog {
        /// The file.
        path: std::path::PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A value that the protocol or the purpose of the setting does not allow.
    #[error("{name} is out of range: {expected}")]
    OutOfRange {
        /// The setter that refused its value.
        name: &'static str,
        /// The values that the setter accepts.
        expected: &'static str,
    },
    /// There is no directory for qlog files, and none can be made.
    #[cfg(feature = "qlog")]
    #[error("no qlog files can be written to {}", directory.display())]
    Qlog {
        /// The directory.
        directory: std::path::PathBuf,
        /// The reason.
        source: io::Error,
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
    /// Our own certificate could not be generated.
    #[error("could not generate the TLS certificate")]
    Certificate(#[source] Arc<GenerateError>),
    /// The driver, the task that would dial, has stopped: for instance because its runtime shut
    /// down or because it panicked.
    #[error("the driver of the transport has stopped")]
    DriverStopped,
    /// Another hole punch already waits for the same peer at the same address.
    #[error("a hole is being punched for this peer already")]
    HolePunchInProgress,
    /// The interface towards the address carries smaller packets than QUIC needs. QUIC needs 1200
    /// bytes of UDP payload (RFC 9000 §14), that is an MTU of 1228 for IPv4 and of 1248 for IPv6.
    #[error("the interface takes {max_payload} bytes of UDP payload, and QUIC needs 1200")]
    InterfaceTooNarrow {
        /// The largest UDP payload of the interface, in bytes.
        max_payload: u16,
    },
    /// A hole punch needs a listener whose socket can reach the address, and there is none.
    #[error("no listener can reach the address")]
    NoListener,
    /// The operating system cannot send to the address: there is no route, or one that prohibits
    /// it, or no local address of the family, or a link-local address lacks its zone.
    #[error("there is no way to the address")]
    NoRoute(#[source] io::Error),
    /// The future was polled outside of a tokio runtime.
    #[error("no tokio runtime is running here")]
    NoRuntime,
    /// All connection IDs are in use. The limit is two million connections for each shard.
    #[error("out of connection IDs")]
    OutOfConnectionIds,
    /// Too many dials wait to begin, so that this one would hardly begin before its timeout. The
    /// limit is 65,536 for each [shard](crate::ConfigBuilder::shards). For a hole punch: too many
    /// packets wait to be sent.
    #[error("too many dials wait")]
    Overloaded,
    /// The QUIC implementation refused to create the connection.
    #[error("the endpoint refused to connect")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The transport was [shut down](crate::Handle::shutdown).
    #[error("the transport is shut down")]
    ShutDown,
    /// Too many hole punches are in progress: 20 for this peer; or 20 to this host, or 256 in
    /// all, and no other peer has more of them than this one. A hole punch that has begun fails
    /// with this error when a peer that has fewer needs its place.
    #[error("too many holes are being punched")]
    TooManyHolePunches,
}

/// A listener that could not be opened, or has a problem.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address could not be bound, for instance because the port is taken.
    #[error("could not listen on {addr}")]
    Bind {
        /// The address to listen on.
        addr: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Our own certificate could not be generated.
    #[error("could not generate the TLS certificate")]
    Certificate(#[source] Arc<GenerateError>),
    /// A driver, a task that receives for this listener, has stopped: for instance because its
    /// runtime shut down or because it panicked.
    ///
    /// The listener is closed if no driver is left. If a transport has several
    /// [`shards`](crate::ConfigBuilder::shards) and other drivers go on, the listener loses the
    /// incoming connections that belong to the stopped driver's shard.
    #[error("a driver of the transport has stopped")]
    DriverStopped,
    /// The operating system does not notify us of changes of this host's addresses, for instance
    /// because a sandbox forbids it.
    ///
    /// The listener goes on, and reads the addresses every five seconds.
    #[error("no notice of changes of this host's addresses: they are polled")]
    AddressesPolled(#[source] Arc<io::Error>),
    /// The addresses of this host cannot be read.
    ///
    /// The listener goes on, announces the addresses that were read last (possibly none), and tries
    /// again every five seconds.
    #[error("could not read the addresses of this host")]
    AddressesUnknown(#[source] Arc<io::Error>),
    /// `listen_on` was called outside of a tokio runtime.
    #[error("no tokio runtime is running here")]
    NoRuntime,
    /// The transport was [shut down](crate::Handle::shutdown).
    #[error("the transport is shut down")]
    ShutDown,
    /// The listener's socket has failed, not only the route to one peer.
    ///
    /// The listener goes on: it binds the same address and port again, and tries that every second
    /// until it succeeds or the listener is removed. Connections that came in at the socket, or
    /// were dialled from it, survive if that takes less than their idle timeout.
    #[error("the socket that listens on {addr} has failed")]
    Socket {
        /// The address to which it was bound.
        addr: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A call of [`Handle::rebind`](crate::Handle::rebind) that failed and changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebindError {
    /// A new socket could not be opened.
    #[error("could not open another socket to dial from")]
    Bind(#[source] io::Error),
    /// All drivers of the transport have stopped, so there is no connection left to move.
    #[error("the drivers of the transport have stopped")]
    DriverStopped,
}

/// A handshake that ended without an authenticated peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// This side has abandoned the handshake, for instance because the [`Connecting`] was dropped.
    ///
    /// [`Connecting`]: crate::Connecting
    #[error("the handshake was abandoned")]
    Abandoned,
    /// We refused the peer's certificate.
    #[error("peer not authenticated")]
    Certificate(#[from] CertificateError),
    /// The connection ended before the handshake was complete.
    #[error("connection lost during the handshake")]
    Connection(#[from] ConnectionError),
    /// No host on the link has the address, or the address of the router towards it: ARP or
    /// Neighbor Discovery got no answer. The operating system usually takes three seconds to find
    /// that out.
    ///
    /// Only if the operating system reports it to the socket (Linux). Elsewhere such a dial ends
    /// with [`TimedOut`](Self::TimedOut).
    #[error("nobody answers on the link")]
    HostUnreachable,
    /// Too many accepted connections wait for their handshake to begin, so this one was refused.
    /// The limit is 16,384 for each [shard](crate::ConfigBuilder::shards).
    #[error("too many handshakes wait")]
    Overloaded,
    /// The operating system does not permit our packets to leave, most likely because of a firewall
    /// on this host. It has refused two packets, sent a second apart.
    #[error("the operating system does not permit to send there")]
    NotPermitted,
    /// The peer does not accept connections now (CONNECTION_REFUSED, RFC 9000 §20.1).
    #[error("refused by the peer")]
    Refused,
    /// The transport was [shut down](crate::Handle::shutdown).
    #[error("the transport is shut down")]
    ShutDown,
    /// The handshake took longer than
    /// [`handshake_timeout`](crate::ConfigBuilder::handshake_timeout), including the time it waited
    /// to begin or to be accepted; or no packet came from the peer for
    /// [`idle_timeout`](crate::ConfigBuilder::idle_timeout).
    #[error("handshake timed out")]
    TimedOut,
    /// Processing the peer's packets took more CPU time than a handshake may take.
    #[error("the handshake costs too much")]
    TooCostly,
    /// The peer's host reported with ICMP that its port is unreachable.
    ///
    /// A dial from a listener's socket may be one side of a hole punch. Then the peer's router may
    /// reject our packets until the peer has sent one. Such a dial ignores an ICMP error for its
    /// first packet, and fails on one for the retransmission a second later. Dials to loopback fail
    /// on the first error.
    ///
    /// Only if the operating system reports it to the socket (Linux). Elsewhere such a dial ends
    /// with [`TimedOut`](Self::TimedOut).
    #[error("nobody listens at the address")]
    Unreachable,
}

/// The reason why a connection ended.
///
/// A Swarm reports it as the cause of `SwarmEvent::ConnectionClosed`, in an [`io::Error`], or in
/// two, one inside the other, if bandwidth is metered. Use [`io::Error::get_ref`] and a downcast to
/// get it back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer's QUIC implementation aborted the connection (CONNECTION_CLOSE of type 0x1c, RFC
    /// 9000 §19.19).
    #[error("aborted by the peer with transport error {code:#x}: {}", reason.escape_debug())]
    AbortedByPeer {
        /// Transport error code (RFC 9000 §20.1). Codes of 0x100 and above carry a TLS alert.
        code: u64,
        /// The peer's reason phrase.
        reason: String,
    },
    /// The peer's application closed the connection (CONNECTION_CLOSE of type 0x1d, RFC 9000
    /// §19.19).
    #[error("closed by the peer{}", Goodbye { code, reason })]
    ClosedByPeer {
        /// Application error code; 0 is an ordinary close.
        code: u64,
        /// The peer's reason phrase.
        reason: String,
    },
    /// The driver, the task that drives this connection, has stopped: for instance because its
    /// runtime shut down or because it panicked.
    #[error("the driver of the connection has stopped")]
    DriverStopped,
    /// We closed the connection.
    #[error("closed")]
    LocallyClosed,
    /// The peer has no state for this connection (stateless reset, RFC 9000 §10.3).
    #[error("reset by the peer")]
    Reset,
    /// No packet came from the peer for the negotiated idle timeout (RFC 9000 §10.1).
    #[error("idle for too long")]
    TimedOut,
    /// The peer violated the protocol, or an internal error ended the connection.
    #[error("transport error {code:#x}: {reason}")]
    Violation {
        /// Transport error code (RFC 9000 §20.1) with which we closed the connection.
        code: u64,
        /// A description of the error.
        reason: String,
    },
    /// The peer supports no version of QUIC that we support.
    #[error("no common version of QUIC")]
    VersionMismatch,
}

/// Formats code and reason of a peer's close, without a code of 0 or an empty reason.
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
            // It is the peer's text: a line break in it must not forge a line of a log.
            write!(f, ": {}", self.reason.escape_debug())?;
        }
        Ok(())
    }
}

/// The reason why a stream ended early.
///
/// [`Stream`](crate::Stream) puts it into the [`io::Error`] that `AsyncRead` and `AsyncWrite`
/// return. Use [`io::Error::get_ref`] and a downcast to get it back, even behind libp2p's boxed
/// streams.
///
/// # Example
///
/// ```
/// use std::io;
///
/// use libp2p_quinn::StreamError;
///
/// /// The code with which the peer has reset a stream.
/// fn reset_code(error: &io::Error) -> Option<u64> {
///     match error.get_ref()?.downcast_ref()? {
///         StreamError::Reset(code) => Some(*code),
///         _ => None,
///     }
/// }
///
/// assert_eq!(reset_code(&StreamError::Reset(7).into()), Some(7));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// We closed this half.
    #[error("the stream is closed")]
    Closed,
    /// The connection ended.
    #[error("connection lost")]
    Connection(#[from] ConnectionError),
    /// The peer abandoned its sending half (RESET_STREAM, RFC 9000 §19.4).
    #[error("reset by the peer with code {0:#x}")]
    Reset(u64),
    /// The peer asked us to stop sending (STOP_SENDING, RFC 9000 §19.5).
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
