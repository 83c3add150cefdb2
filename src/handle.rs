//! Statistics and control of a transport that a Swarm has taken.

use std::{fmt, future::poll_fn, pin::pin, sync::Arc, time::Duration};

use futures::future::{Either, select};
use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use quinn_proto::VarInt;

use crate::{
    address::{self, QuicAddress},
    bandwidth::BandwidthLimits,
    connection_handle::ConnectionHandle,
    driver::Drivers,
    error::{ConfigError, RebindError},
    net::{interfaces, sleep},
    proto::Established,
    stats::{RegistryStats, Stats, TransportStats},
};

/// Reads the statistics of a [`Transport`](crate::Transport), moves its sockets and shuts it down;
/// cheap to clone.
///
/// It keeps no connection and no socket alive: when the transport and its connections are gone, the
/// statistics stay as they were.
///
/// # Example
///
/// ```
/// use libp2p_core::Transport as _;
/// use libp2p_identity::Keypair;
/// use libp2p_quinn::{Config, Transport};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let transport = Transport::new(Config::new(&Keypair::generate_ed25519()));
/// let handle = transport.handle();
/// // A Swarm takes `transport`; the handle stays.
/// drop(transport);
/// assert_eq!(handle.transport_stats().dials, 0);
/// assert!(handle.stats().connections.is_empty());
/// handle.closed().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    pub(crate) drivers: Arc<Drivers>,
}

impl Handle {
    pub(crate) fn new(drivers: Arc<Drivers>) -> Self {
        Self { drivers }
    }

    /// Returns the current statistics.
    ///
    /// It locks each connection briefly, so call it every few seconds rather than for every packet.
    /// [`transport_stats`](Self::transport_stats) and [`registry_stats`](Self::registry_stats) are
    /// cheaper.
    pub fn stats(&self) -> Stats {
        self.drivers.stats()
    }

    /// Returns the statistics of the transport as a whole. It locks no connection, but its cost
    /// grows with their number.
    pub fn transport_stats(&self) -> TransportStats {
        self.drivers.totals().transport
    }

    /// Returns the statistics of the connection-ID registry. It locks no connection, but its cost
    /// grows with their number.
    pub fn registry_stats(&self) -> RegistryStats {
        self.drivers.totals().registry
    }

    /// Returns the connections that have not ended and whose peer is authenticated. It locks none
    /// of them. Its cost, and that of the two methods below, grows with the number of connections.
    ///
    /// A connection that the application has closed is among them while its streams are
    /// [still being delivered](crate::ConfigBuilder::linger_timeout).
    pub fn connections(&self) -> Vec<ConnectionHandle> {
        self.connections_where(|_| true)
    }

    /// Returns those of the [`connections`](Self::connections) that lead to this peer.
    pub fn connections_with(&self, peer_id: &PeerId) -> Vec<ConnectionHandle> {
        self.connections_where(|connection| connection.peer_id == *peer_id)
    }

    /// Returns those of the [`connections`](Self::connections) whose peer is at this address; with
    /// a `/p2p/…` at its end, those that also lead to that peer. A link-local address without a
    /// zone is that address on any link. Empty for an address that is not QUIC.
    ///
    /// # The connections of a Swarm
    ///
    /// libp2p numbers connections (`ConnectionId`), and the transport does not get the number, so
    /// this is how the connection of a `SwarmEvent` is found. Two dials to the same address of a
    /// peer cannot be told apart by their events. If a name was dialled, the event has the name
    /// instead of an address: compare peer and [direction](ConnectionHandle::is_outbound) then.
    ///
    /// ```
    /// use futures::StreamExt;
    /// use libp2p::{identity::PeerId, ping, swarm::SwarmEvent};
    /// use libp2p_core::ConnectedPoint;
    /// use libp2p_quinn::{Config, ConnectionHandle, Handle, Transport};
    ///
    /// fn find(
    ///     handle: &Handle,
    ///     peer: PeerId,
    ///     endpoint: &ConnectedPoint,
    /// ) -> Option<ConnectionHandle> {
    ///     let mut found = handle.connections_at(endpoint.get_remote_address());
    ///     found.retain(|connection| {
    ///         connection.peer_id() == peer && connection.is_outbound() == endpoint.is_dialer()
    ///     });
    ///     found.pop()
    /// }
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut handle = None;
    /// let mut swarm = libp2p::SwarmBuilder::with_new_identity()
    ///     .with_tokio()
    ///     .with_other_transport(|key| {
    ///         let transport = Transport::new(Config::new(key));
    ///         handle = Some(transport.handle());
    ///         transport
    ///     })?
    ///     .with_behaviour(|_| ping::Behaviour::default())?
    ///     .build();
    /// let handle = handle.expect("a transport");
    /// # let mut other = libp2p::SwarmBuilder::with_new_identity()
    /// #     .with_tokio()
    /// #     .with_other_transport(|key| Transport::new(Config::new(key)))?
    /// #     .with_behaviour(|_| ping::Behaviour::default())?
    /// #     .build();
    /// # other.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
    /// # let addr = loop {
    /// #     if let SwarmEvent::NewListenAddr { address, .. } = other.select_next_some().await {
    /// #         break address.with_p2p(*other.local_peer_id()).expect("an address");
    /// #     }
    /// # };
    /// # tokio::spawn(async move { loop { other.select_next_some().await; } });
    /// # swarm.dial(addr)?;
    /// loop {
    ///     match swarm.select_next_some().await {
    ///         SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
    ///             let connection = find(&handle, peer_id, &endpoint).expect("it has not ended");
    ///             println!("{peer_id} is {:?} away", connection.stats().map(|stats| stats.rtt));
    ///             connection.close(7, "no more of it");
    ///         }
    ///         SwarmEvent::ConnectionClosed { cause, .. } => {
    ///             println!("closed: {cause:?}");
    ///             break;
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn connections_at(&self, addr: &Multiaddr) -> Vec<ConnectionHandle> {
        let Some(addr) = QuicAddress::parse(addr, interfaces::index_of) else {
            return Vec::new();
        };
        self.connections_where(|connection| {
            address::reaches(addr.socket_addr, connection.remote_addr)
                && (addr.peer_id).is_none_or(|peer_id| connection.peer_id == peer_id)
        })
    }

    fn connections_where(&self, is_wanted: impl Fn(&Established) -> bool) -> Vec<ConnectionHandle> {
        let established = self.drivers.established(is_wanted).into_iter();
        established
            .map(|(shard, found)| ConnectionHandle::new(Arc::clone(&self.drivers), shard, found))
            .collect()
    }

    /// Resets all totals to zero. It does not reset figures marked *now*, nor those of single
    /// connections.
    ///
    /// A counter that goes down is misread by programs that poll it, such as Prometheus: then take
    /// differences instead. Transports with clones of one configuration share
    /// [`qlog_dropped`](TransportStats::qlog_dropped).
    pub fn reset_stats(&self) {
        self.drivers.reset_stats();
    }

    /// The limits on bandwidth that hold now.
    pub fn bandwidth_limits(&self) -> BandwidthLimits {
        self.drivers.bandwidth().get()
    }

    /// Changes the limits on bandwidth. All connections follow within a second.
    ///
    /// What was written before is sent without the new limit, up to the send window of a
    /// connection. A limit on what is received slows down what the application reads; peers may be
    /// ahead by the receive windows of the [configuration](crate::ConfigBuilder::bandwidth_limits).
    /// This holds for new connections too.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] if a limit is below 1,000 bytes per second. Then nothing
    /// changes.
    pub fn set_bandwidth_limits(&self, limits: BandwidthLimits) -> Result<(), ConfigError> {
        self.drivers.bandwidth().set(limits.check()?);
        Ok(())
    }

    /// Moves the connections that were dialled from sockets without a listener to new sockets, each
    /// at a port that the operating system chooses.
    ///
    /// Use it when the network has changed (another interface has the default route, or the host
    /// was suspended) and the application learns that before packets are lost. It returns as
    /// soon as the new sockets are open, and the connections then move on their own. Peers see a
    /// connection migration (RFC 9000 §9) with another connection ID, and their muxer reports
    /// `StreamMuxerEvent::AddressChange`. Streams go on. Datagrams that are under way to an old
    /// socket are still received for one second.
    ///
    /// A connection moves only when the protocol permits it, and stays on the old socket until
    /// then:
    ///
    /// - A connection whose handshake is not confirmed moves once it is confirmed (RFC 9000 §9).
    /// - A connection whose peer has sent `disable_active_migration` (RFC 9000 §18.2) does not
    ///   move. Listeners of the official libp2p transport send it.
    /// - A connection whose peer has issued no unused connection ID moves once the peer has issued
    ///   one (RFC 9000 §9.5).
    ///
    /// Listeners keep their sockets, because other nodes have their addresses. So do incoming
    /// connections and those dialled from a listener's socket
    /// ([`PortUse::Reuse`](libp2p_core::transport::PortUse::Reuse)). If there is no other socket,
    /// the call does nothing. A socket that has failed is replaced without this call.
    ///
    /// It may be called from any thread, even outside of the runtime. It blocks on nothing but
    /// system calls.
    ///
    /// # Errors
    ///
    /// [`RebindError`] if a socket cannot be opened, or if all drivers have stopped. In that case
    /// no connection moves: all of them stay on the old sockets.
    pub fn rebind(&self) -> Result<(), RebindError> {
        self.drivers.rebind()
    }

    /// Resolves when no connection is left: each peer was told of the close, has closed the
    /// connection itself, or was given up.
    ///
    /// Use it at the end of a program, after closing all connections or dropping the Swarm. A
    /// process that exits earlier may leave peers untold. The future waits for connections whose
    /// streams are [still being delivered](crate::ConfigBuilder::linger_timeout), but not for the
    /// last packets that wait for a socket that is not writable.
    ///
    /// # Cancellation safety
    ///
    /// The future may be dropped at any time; that changes nothing.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let drivers = Arc::clone(&self.drivers);
        let waker = Arc::default();
        poll_fn(move |cx| drivers.poll_idle(cx, &waker))
    }

    /// Closes all connections and listeners, and resolves when no connection is left. Returns
    /// whether that happened before the timeout.
    ///
    /// Peers receive `code` and `reason` (CONNECTION_CLOSE, RFC 9000 §10.2). libp2p uses code 0 for
    /// an ordinary end; codes of 2^62 and above cannot be encoded and are replaced by 2^62 − 1.
    /// Each peer is told as soon as it has acknowledged all data of the streams that were closed
    /// before. After `timeout`, the remaining connections are closed without waiting for that.
    ///
    /// From the call on, dials fail with [`DialError::ShutDown`](crate::DialError::ShutDown),
    /// handshakes are abandoned, listeners are reported as closed, and no new listener can be made.
    ///
    /// The future needs a tokio runtime with time enabled.
    ///
    /// # Cancellation safety
    ///
    /// The future may be dropped at any time. Everything above still happens, except that `timeout`
    /// no longer has an effect.
    pub fn shutdown(
        &self,
        code: u64,
        reason: &str,
        timeout: Duration,
    ) -> impl Future<Output = bool> + Send + use<> {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        self.drivers.shut_down(code, reason.to_owned().into());
        let handle = self.clone();
        async move {
            let in_time = match select(pin!(handle.closed()), pin!(sleep(timeout))).await {
                Either::Left(((), _)) => true,
                Either::Right(((), _)) => false,
            };
            if !in_time {
                handle.drivers.close_at_once();
                // This takes at most a second: connections are now closed whether peers answer or
                // not.
                handle.closed().await;
            }
            in_time
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
