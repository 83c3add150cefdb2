//! When a client has to prove its address.

use crate::proto::ShardCount;

/// When an incoming connection has to prove its address before we spend resources on it.
///
/// Anyone can send a first packet with a forged source address. A Retry packet ([RFC 9000 §8.1.2])
/// makes the sender prove that it receives packets at that address. It costs the sender one round
/// trip, and we keep no state for it. Clients of every libp2p implementation answer it
/// automatically.
///
/// [RFC 9000 §8.1.2]: https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryPolicy {
    /// Always. Each handshake takes one round trip longer.
    Always,
    /// Never. A flood of packets with forged addresses then takes all places of
    /// [`max_incoming_handshakes`](crate::ConfigBuilder::max_incoming_handshakes) and keeps out
    /// every other client.
    Never,
    /// While at least `handshakes` incoming connections wait for the application's answer or are in
    /// their handshake.
    UnderLoad {
        /// The number for the whole transport; shards divide it equally. 0 means always. More than
        /// a quarter of [`max_incoming_handshakes`](crate::ConfigBuilder::max_incoming_handshakes)
        /// has the same effect as that quarter.
        handshakes: usize,
    },
}

impl RetryPolicy {
    /// The number of unfinished handshakes from which on a shard asks for a Retry; `None` never
    /// asks.
    pub(super) fn threshold(self, shards: ShardCount) -> Option<usize> {
        match self {
            Self::Always => Some(0),
            Self::Never => None,
            Self::UnderLoad { handshakes } => Some(handshakes.div_ceil(shards.count())),
        }
    }
}

/// [`UnderLoad`](RetryPolicy::UnderLoad) with 256 handshakes: more than honest clients begin at
/// once, and 40 ms of TLS work.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self::UnderLoad { handshakes: 256 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_the_threshold() {
        let four = ShardCount::new(4).unwrap();
        let threshold = |handshakes| RetryPolicy::UnderLoad { handshakes }.threshold(four);
        assert_eq!(threshold(0), Some(0));
        assert_eq!(threshold(1), Some(1));
        assert_eq!(threshold(256), Some(64));
        assert_eq!(RetryPolicy::Always.threshold(four), Some(0));
        assert_eq!(RetryPolicy::Never.threshold(four), None);
    }
}
