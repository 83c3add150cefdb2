//! Prometheus metrics of [`libp2p_quinn`], a QUIC transport for libp2p.
//!
//! ```
//! use libp2p_quinn::{Config, Transport};
//! use libp2p_quinn_metrics::Registry;
//!
//! # let key = libp2p_identity::Keypair::generate_ed25519();
//! let transport = Transport::new(Config::new(&key));
//! let mut registry = Registry::default();
//! // Before a Swarm takes the transport.
//! libp2p_quinn_metrics::register(&transport.handle(), &mut registry);
//! ```
//!
//! The registry may be the one that `libp2p_metrics::Metrics` and `with_bandwidth_metrics` use. All
//! names begin with `libp2p_quic_`. They carry no label for a peer or an address, so the number of
//! series does not grow with the number of peers.
//!
//! # What is exported
//!
//! Every figure of [`Stats`](libp2p_quinn::Stats): totals as counters, figures marked *now* as
//! gauges. The help text of a metric says what it counts, and the field in `Stats` says it in
//! detail. Drops have a label `reason`, closes a label `cause`, and so on; the values of all labels
//! are fixed.
//!
//! Histograms show how the connections that are alive *at the time of the scrape* are distributed.
//! They may shrink, so `rate` has no meaning for them; take quantiles of the buckets as they are:
//! `histogram_quantile(0.9, libp2p_quic_rtt_seconds_bucket)`.
//!
//! [`Handle::reset_stats`](libp2p_quinn::Handle::reset_stats) resets the counters here as well, and
//! Prometheus takes that for a restart.
//!
//! A scrape calls [`Handle::stats`](libp2p_quinn::Handle::stats), which locks each connection
//! briefly.

#![warn(missing_docs, unnameable_types, unreachable_pub)]

mod collector;
mod connections;
mod listeners;
mod packets;
mod registry;
#[cfg(feature = "nat")]
mod stun;
mod table;
#[cfg(test)]
mod tests;
mod transport;

use libp2p_quinn::Handle;
pub use prometheus_client::registry::Registry;

pub use self::collector::Collector;

/// Registers the metrics of one transport, as `libp2p_quic_…`.
///
/// A registry takes one transport: two would have the same names. To choose another prefix,
/// register a [`Collector`].
pub fn register(handle: &Handle, registry: &mut Registry) {
    registry
        .sub_registry_with_prefix("libp2p")
        .sub_registry_with_prefix("quic")
        .register_collector(Box::new(Collector::new(handle)));
}
