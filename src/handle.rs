//! Statistics and control of a transport that a Swarm has taken.

use std::{fmt, future::poll_fn, pin::pin, sync::Arc, time::Duration};

use futures::future::{Either, select};
use quinn_proto::VarInt;

use crate::{driver::Drivers, error::RebindError, net::sleep, stats::Stats};

/// Reads the statistics of a [`Transport`](crate::Transport), moves its sockets and shuts it down;
/// cheap to clone.
///
/// It keeps nothing alive: when the transport and its connections are gone, the statistics stay as
/// they were.
#[derive(Clone)]
pub struct Handle {
    drivers: Arc<Drivers>,
}

impl Handle {
    pub(crate) fn new(drivers: Arc<Drivers>) -> Self {
        Self { drivers }
    }

    /// Returns the current statistics.
    ///
    /// It locks each connection briefly, so call it every few seconds rather than for every packet.
    pub fn stats(&self) -> Stats {
        self.drivers.stats()
    }

    /// Resets all totals to zero. It does not reset figures marked *now*, nor those of single
    /// connections.
    pub fn reset_stats(&self) {
        self.drivers.reset_stats();
    }

    /// Moves the connections that were dialled from sockets without a listener to new sockets, each
    /// at a port that the operating system chooses.
    ///
    /// Use it when the network has changed (another interface has the default route, or the host
    /// was suspended) and the application learns that before the connections notice. It returns as
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
    /// Listeners keep their sockets, because other nodes know their ports. So do incoming
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
    /// Use it at the end of a program, after closing all connections or dropping the Swarm. If
    /// `main` returns earlier, the peers of the remaining connections are not told. The future
    /// waits for connections whose streams are [still being
    /// delivered](crate::ConfigBuilder::linger_timeout).
    ///
    /// # Cancellation safety
    ///
    /// The future may be dropped at any time; that changes nothing.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let drivers = Arc::clone(&self.drivers);
        poll_fn(move |cx| drivers.poll_idle(cx))
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

    #[cfg(feature = "nat")]
    pub(crate) fn drivers(&self) -> &Arc<Drivers> {
        &self.drivers
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
