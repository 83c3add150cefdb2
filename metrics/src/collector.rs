//! The collector: it reads the statistics once for each scrape.

use std::fmt;

use libp2p_quinn::{Handle, Stats};
use prometheus_client::encoding::DescriptorEncoder;

use crate::{connections, listeners, packets, registry, table::Metric, transport};

/// Reads the statistics of a transport whenever the registry is encoded.
///
/// [`register`](crate::register) registers one under the usual prefix.
#[derive(Clone, Debug)]
pub struct Collector {
    handle: Handle,
}

impl Collector {
    /// A collector for this transport.
    pub fn new(handle: &Handle) -> Self {
        Self {
            handle: handle.clone(),
        }
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&self.handle.stats(), &mut encoder)
    }
}

/// Metrics whose values are fields of the statistics.
pub(crate) const TABLES: &[&[Metric]] = &[
    transport::METRICS,
    registry::METRICS,
    packets::METRICS,
    #[cfg(feature = "nat")]
    crate::stun::METRICS,
];

pub(crate) fn encode(stats: &Stats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for metric in TABLES.iter().copied().flatten() {
        metric.encode(stats, encoder)?;
    }
    registry::encode(&stats.registry, encoder)?;
    listeners::encode(&stats.listeners, encoder)?;
    connections::encode(stats, encoder)
}
