//! Limits on how fast data moves, as the application sets them.

use crate::error::ConfigError;

/// How much stream data may be sent and received in a second.
///
/// Only what streams carry counts, as the application writes and reads it. Handshakes,
/// acknowledgements, closes, and the headers of packets are not limited, nor is what is sent again
/// because it was lost. In a transfer they take some percent on top of a limit.
///
/// A write beyond the limit is pending until there is room. A read beyond it is pending too, and so
/// flow control gives the peer no further credit for the connection (RFC 9000 §4): the peer slows
/// down, and may be ahead by the receive window. That works with peers that have something to say.
/// It is no defence: data of streams that the application drops, or that is read after the end of
/// a connection, does not count.
///
/// The streams of a connection get equal parts, and each may move a datagram's worth although
/// others use all there is, so a ping does not wait for a transfer. If several transfers fill the
/// receive window of the connection, all its streams wait for the peer's credit.
///
/// # Example
///
/// ```
/// use libp2p_identity::Keypair;
/// use libp2p_quinn::{BandwidthLimits, Config, Transport};
///
/// # fn main() -> Result<(), libp2p_quinn::ConfigError> {
/// let mut limits = BandwidthLimits::default();
/// limits.send.total = Some(10_000_000);
/// limits.receive.each_peer = Some(1_000_000);
/// let config = Config::builder(&Keypair::generate_ed25519())
///     .bandwidth_limits(limits)?
///     .build()?;
/// let handle = Transport::new(config).handle();
///
/// // At run time:
/// limits.send.total = None;
/// handle.set_bandwidth_limits(limits)?;
/// assert_eq!(handle.bandwidth_limits(), limits);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BandwidthLimits {
    /// Data that we receive.
    pub receive: RateLimits,
    /// Data that we send.
    pub send: RateLimits,
}

/// Limits in one direction, in bytes per second; `None` means that there is none. If several apply,
/// the lowest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimits {
    /// Of each connection.
    pub each_connection: Option<u64>,
    /// Of all connections with one peer together.
    pub each_peer: Option<u64>,
    /// Of all connections of the transport together. They get equal parts.
    pub total: Option<u64>,
}

/// The lowest limit, in bytes per second: about a datagram.
const LOWEST: u64 = 1_000;

impl BandwidthLimits {
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        if [self.receive, self.send]
            .into_iter()
            .all(RateLimits::is_valid)
        {
            Ok(self)
        } else {
            Err(ConfigError::OutOfRange {
                name: "bandwidth_limits",
                expected: "at least 1,000 bytes per second",
            })
        }
    }
}

impl RateLimits {
    /// Whether there is any limit.
    pub(crate) fn is_limited(self) -> bool {
        self.lowest().is_some()
    }

    /// The lowest limit, which is the most that one connection can have.
    pub(crate) fn lowest(self) -> Option<u64> {
        self.all().into_iter().flatten().min()
    }

    /// Whether any limit is new, or is less than half of what it was.
    pub(crate) fn fall_far_below(self, before: Self) -> bool {
        let mut limits = self.all().into_iter().zip(before.all());
        limits.any(|(limit, before)| match (limit, before) {
            (Some(limit), Some(before)) => limit < before / 2,
            (Some(_), None) => true,
            (None, _) => false,
        })
    }

    /// The higher of each two limits, and the only one where the other has none.
    pub(crate) fn or_higher(self, other: Self) -> Self {
        Self {
            each_connection: self.each_connection.max(other.each_connection),
            each_peer: self.each_peer.max(other.each_peer),
            total: self.total.max(other.total),
        }
    }

    fn is_valid(self) -> bool {
        self.all()
            .into_iter()
            .flatten()
            .all(|limit| limit >= LOWEST)
    }

    fn all(self) -> [Option<u64>; 3] {
        let Self {
            each_connection,
            each_peer,
            total,
        } = self;
        [each_connection, each_peer, total]
    }
}
