//! What the application keeps when the Swarm has taken the transport.

use std::{fmt, future::poll_fn, pin::pin, sync::Arc, time::Duration};

use futures::future::{Either, select};
use quinn_proto::VarInt;

use crate::{driver::Core, error::RebindError, net::sleep, stats::Stats};

/// Looks into a [`Transport`](crate::Transport) from outside, and moves its sockets; cheap to clone.
///
/// It keeps nothing alive: when the transport and its connections are gone, the figures stay as they were.
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
}

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The figures of now.
    ///
    /// Locks each connection for a moment; meant for every few seconds, not for every packet.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Starts all totals again from zero. What is counted as *now*, and what single connections count,
    /// stays.
    pub fn reset_stats(&self) {
        self.core.reset_stats();
    }

    /// Moves the connections that were dialled from sockets without a listener to new sockets, each at a port that the
    /// system chooses.
    ///
    /// For when the network has changed (another interface has the default route, the host was suspended) and the
    /// application knows before the connections would find out. It returns as soon as the new sockets are open; the
    /// connections move by themselves then. Peers see a connection migration (RFC 9000 §9), by another connection ID, and
    /// their muxer reports `StreamMuxerEvent::AddressChange`; streams go on. What is on its way to an old socket is still
    /// received for a second.
    ///
    /// Connections move only when the protocol lets them, and stay on the old socket until then:
    ///
    /// - One whose handshake is not confirmed moves as soon as it is (RFC 9000 §9).
    /// - One whose peer has sent `disable_active_migration` (RFC 9000 §18.2) does not move; the official libp2p
    ///   transport has its listeners send it.
    /// - One whose peer has not issued a new connection ID moves when it has (RFC 9000 §9.5).
    ///
    /// Listeners keep their sockets, because others know their ports; so do the connections that were dialled from them
    /// ([`PortUse::Reuse`](libp2p_core::transport::PortUse::Reuse)), and incoming ones. Without any other socket this does
    /// nothing. A socket that has failed is replaced without being asked for.
    ///
    /// It can be called from any thread, also outside of the runtime. It waits for nothing but system calls.
    ///
    /// # Errors
    ///
    /// [`RebindError`] if a socket cannot be opened, or nothing is driven any more. Everything goes on over the old
    /// sockets then, all of it.
    pub fn rebind(&self) -> Result<(), RebindError> {
        self.core.rebind()
    }

    /// Resolves when no connection is left: each peer is told, or has told us, or was given up.
    ///
    /// For the end of a program, after it has closed its connections or dropped its Swarm: what
    /// returns from `main` before that takes the rest of its connections along. Connections whose
    /// streams are [still to be delivered](crate::ConfigBuilder::linger_timeout) are left until
    /// they are.
    ///
    /// It can be dropped at any time; that changes nothing.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let core = Arc::clone(&self.core);
        poll_fn(move |cx| core.poll_idle(cx))
    }

    /// Closes all connections and listeners, and resolves when no connection is left. Returns
    /// whether that was so before the time was over.
    ///
    /// Peers are told `code` and `reason` (CONNECTION_CLOSE, RFC 9000 §10.2; libp2p uses code 0 for
    /// an ordinary end; codes of 2^62 and above count as the largest that is possible), each as
    /// soon as it has acknowledged the streams that were closed before. When `timeout` is over, the
    /// others are told without.
    ///
    /// From the call on dials fail with [`DialError::ShutDown`](crate::DialError::ShutDown),
    /// handshakes are abandoned, listeners are reported as closed, and none can be made. That does
    /// not depend on the future, which can be dropped at any time, only the timeout does.
    ///
    /// The future needs a tokio runtime with time enabled.
    pub fn shutdown(
        &self,
        code: u64,
        reason: &str,
        timeout: Duration,
    ) -> impl Future<Output = bool> + Send + use<> {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        self.core.shut_down(code, reason.to_owned().into());
        let handle = self.clone();
        async move {
            let in_time = match select(pin!(handle.closed()), pin!(sleep(timeout))).await {
                Either::Left(((), _)) => true,
                Either::Right(((), _)) => false,
            };
            if !in_time {
                handle.core.close_at_once();
                // Each takes no more than a second.
                handle.closed().await;
            }
            in_time
        }
    }

    #[cfg(feature = "nat")]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
