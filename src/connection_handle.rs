//! Statistics and control of one connection that a Swarm has taken.

use std::{fmt, sync::Arc};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use quinn_proto::VarInt;

use crate::{
    address,
    driver::{DrivenConnection, Drivers},
    proto::Established,
    stats::ConnectionStats,
};

/// Reads the statistics of one connection and closes it; cheap to clone.
///
/// [`Handle::connections`](crate::Handle::connections) and its relatives make it. It does not keep
/// the connection alive, nor its memory. Its addresses are those of the moment when it was made;
/// the [`stats`](Self::stats) have the current ones.
#[derive(Clone)]
pub struct ConnectionHandle {
    drivers: Arc<Drivers>,
    shard: usize,
    found: Established,
}

impl ConnectionHandle {
    pub(crate) fn new(drivers: Arc<Drivers>, shard: usize, found: Established) -> Self {
        Self {
            drivers,
            shard,
            found,
        }
    }

    /// The authenticated peer.
    pub fn peer_id(&self) -> PeerId {
        self.found.peer_id
    }

    /// The peer's address, without its peer ID.
    pub fn remote_address(&self) -> Multiaddr {
        address::to_multiaddr(self.found.remote_addr)
    }

    /// Our address, as [`ConnectionStats::local_addr`] explains it.
    pub fn local_address(&self) -> Multiaddr {
        address::to_multiaddr(self.found.local_addr)
    }

    /// Whether we dialled.
    pub fn is_outbound(&self) -> bool {
        self.found.is_outbound
    }

    /// The number of the connection, which is the `id` of its span. No other connection of the
    /// transport has or had the same one.
    pub fn number(&self) -> u64 {
        self.found.number
    }

    /// The statistics of the connection now; `None` if it has ended. It locks the connection
    /// briefly.
    pub fn stats(&self) -> Option<ConnectionStats> {
        let connection = self.find()?;
        Some(connection.with(|connection| connection.stats()))
    }

    /// Closes the connection, with an error code and a reason for the peer (CONNECTION_CLOSE, RFC
    /// 9000 §10.2). If it has ended, or is closed already, the call does nothing.
    ///
    /// The connection ends for the application at once: its muxer reports
    /// [`ConnectionError::LocallyClosed`](crate::ConnectionError::LocallyClosed), and a Swarm
    /// reports it as closed. The peer is told as soon as it has acknowledged all data of the
    /// streams that were closed before, or after
    /// [`linger_timeout`](crate::ConfigBuilder::linger_timeout). libp2p uses code 0 for an ordinary
    /// end; codes of 2^62 and above cannot be encoded and are replaced by 2^62 − 1.
    pub fn close(&self, code: u64, reason: &str) {
        let Some(connection) = self.find() else {
            return;
        };
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        let reason = reason.to_owned().into();
        connection.with(|connection| connection.close_in_order(code, reason));
    }

    fn find(&self) -> Option<DrivenConnection> {
        let Established { handle, number, .. } = self.found;
        self.drivers.find(self.shard, handle, number)
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("number", &self.found.number)
            .field("peer_id", &self.found.peer_id)
            .field("remote_addr", &self.found.remote_addr)
            .finish_non_exhaustive()
    }
}
