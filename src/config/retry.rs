//! When a stranger has to prove its address.

use crate::proto::Shards;

/// When an incoming connection has to prove its address before it costs anything.
///
/// Anyone can send a first packet with somebody else's address on it. A Retry packet ([RFC 9000 §8.1.2])
/// makes the sender show that it receives what is sent there, which costs it one round trip and us nothing
/// that would have to be remembered. Dialers on every libp2p implementation answer it by themselves.
///
/// [RFC 9000 §8.1.2]: https://www.rfc-editor.org/rfc/rfc9000#section-8.1.2
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryPolicy {
    /// Always. Each connection takes one round trip longer.
    Always,
    /// Never. A flood of forged addresses then takes all of
    /// [`max_incoming_handshakes`](crate::ConfigBuilder::max_incoming_handshakes), and keeps everyone else out.
    Never,
    /// While so many incoming connections wait for an answer or are in the middle of their handshake.
    UnderLoad {
        /// How many, over the whole transport; its shards share the number equally. 0 means always. More than a
        /// quarter of [`max_incoming_handshakes`](crate::ConfigBuilder::max_incoming_handshakes) is the same as that
        /// quarter.
        handshakes: usize,
    },
}

impl RetryPolicy {
    /// How many unfinished handshakes one shard may have before it asks for a Retry; `None` never does.
    pub(super) fn threshold(self, shards: Shards) -> Option<usize> {
        match self {
            Self::Always => Some(0),
            Self::Never => None,
            Self::UnderLoad { handshakes } => Some(handshakes.div_ceil(shards.count())),
        }
    }
}

/// [`UnderLoad`](RetryPolicy::UnderLoad) with 256 handshakes: more than honest dialers begin at once, and 40 ms
/// of TLS work.
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
        let four = Shards::new(4).unwrap();
        let threshold = |handshakes| RetryPolicy::UnderLoad { handshakes }.threshold(four);
        assert_eq!(threshold(0), Some(0));
        assert_eq!(threshold(1), Some(1));
        assert_eq!(threshold(256), Some(64));
        assert_eq!(RetryPolicy::Always.threshold(four), Some(0));
        assert_eq!(RetryPolicy::Never.threshold(four), None);
    }
}
