//! Which congestion control connections use.

use std::sync::Arc;

use quinn_proto::congestion::{ControllerFactory, NewRenoConfig};

use crate::proto::{BbrFactory, CubicFactory};

/// The algorithm that decides how much may be in flight (RFC 9002 §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CongestionControl {
    /// CUBIC ([RFC 9438]), with a slow start that ends before a queue of the path overflows.
    ///
    /// [RFC 9438]: https://www.rfc-editor.org/rfc/rfc9438
    #[default]
    Cubic,
    /// The algorithm of [RFC 9002 §7.3], as quinn-proto implements it. It grows by one datagram in
    /// a round trip, so it takes minutes to fill a long and fast path again after a loss. Use it to
    /// compare, or where others on the path use it and must not be displaced.
    ///
    /// [RFC 9002 §7.3]: https://www.rfc-editor.org/rfc/rfc9002#section-7.3
    NewReno,
    /// BBR, version 3 ([draft-ietf-ccwg-bbr]): it models what the path delivers, and paces what is
    /// sent. Use it on paths that lose packets at random, or where queues have to stay short: 1 %
    /// of loss costs it a part of the rate and not nearly all of it. Without loss, CUBIC makes some
    /// percent more, and where a queue holds only a few packets, a seventh more. It displaces
    /// others: a flow of CUBIC, such as TCP, that begins after it on a path of 63 ms keeps only 15
    /// to 19 of 94 Mb/s where the queue holds half a round trip or a whole one. Eight flows of BBR
    /// on such a path share it less evenly than eight of CUBIC.
    ///
    /// [draft-ietf-ccwg-bbr]: https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/
    Bbr,
}

impl CongestionControl {
    /// Makes controllers with this initial window, in bytes.
    pub(super) fn factory(self, initial_window: u64) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => Arc::new(CubicFactory { initial_window }),
            Self::Bbr => Arc::new(BbrFactory { initial_window }),
            Self::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
        }
    }
}

/// BBR for each second connection and CUBIC for the others.
#[cfg(test)]
pub(super) struct Rivals {
    /// Odd if the next one has BBR.
    pub(super) count: Arc<std::sync::atomic::AtomicU32>,
    pub(super) initial_window: u64,
}

#[cfg(test)]
impl ControllerFactory for Rivals {
    fn build(
        self: Arc<Self>,
        now: std::time::Instant,
        mtu: u16,
    ) -> Box<dyn quinn_proto::congestion::Controller> {
        let count = (self.count).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let control = if count % 2 == 1 {
            CongestionControl::Bbr
        } else {
            CongestionControl::Cubic
        };
        control.factory(self.initial_window).build(now, mtu)
    }
}
