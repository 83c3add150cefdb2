//! Connections that are alive at the time of the scrape: how many there are of each kind, and how
//! they are distributed.

use std::{collections::BTreeMap, fmt};

use libp2p_quinn::{ConnectionStats, Stats};
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::table::{gauge, gauges};

/// A figure of each authenticated connection.
pub(crate) struct Histogram {
    name: &'static str,
    help: &'static str,
    unit: Unit,
    /// The field.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests need the name"))]
    pub(crate) field: &'static str,
    value: fn(&ConnectionStats) -> f64,
    /// Upper bounds of all buckets but the last.
    bounds: &'static [f64],
}

pub(crate) const HISTOGRAMS: &[Histogram] = &[
    Histogram {
        name: "rtt",
        help: "Smoothed round-trip times of live connections",
        unit: Unit::Seconds,
        field: "rtt",
        value: |connection| connection.rtt.as_secs_f64(),
        bounds: ROUND_TRIPS,
    },
    Histogram {
        name: "min_rtt",
        help: "Smallest round-trip times of live connections",
        unit: Unit::Seconds,
        field: "min_rtt",
        value: |connection| connection.min_rtt.as_secs_f64(),
        bounds: ROUND_TRIPS,
    },
    Histogram {
        name: "mtu",
        help: "Largest UDP payloads that the paths of live connections carry",
        unit: Unit::Bytes,
        field: "mtu_bytes",
        value: |connection| connection.mtu_bytes.into(),
        // What QUIC needs at least; IPv6 at least; PPPoE and Ethernet, each with IPv6 and with
        // IPv4; jumbo frames; loopback. Prometheus interpolates within a bucket, so the first one
        // ends below what QUIC needs and is empty.
        bounds: &[
            1199.0, 1200.0, 1232.0, 1444.0, 1452.0, 1464.0, 1472.0, 8972.0, 16370.0,
        ],
    },
    Histogram {
        name: "congestion_window",
        help: "Congestion windows of live connections",
        unit: Unit::Bytes,
        field: "congestion_window_bytes",
        value: |connection| connection.congestion_window_bytes as f64,
        // 4 KiB to 64 MiB.
        bounds: &[
            4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0,
        ],
    },
];

/// From a loopback to a satellite.
const ROUND_TRIPS: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
];

/// Other fields that [`encode`] exports.
#[cfg(test)]
pub(crate) const FIELDS: [&str; 6] = [
    "cipher_suite",
    "held_bytes",
    "is_outbound",
    "key_exchange_group",
    "open_streams",
    "shard",
];

/// Fields that other tables export, as sums over all connections.
#[cfg(test)]
pub(crate) const SUMS: [&str; 5] = [
    "bytes_received",
    "bytes_sent",
    "datagrams_received",
    "datagrams_sent",
    "packets",
];

/// Fields that are not exported: a metric has no label for a peer or an address.
#[cfg(test)]
pub(crate) const LEFT_OUT: [&str; 3] = ["local_addr", "peer_id", "remote_addr"];

pub(crate) fn encode(stats: &Stats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let connections = &stats.connections;
    let outbound = connections
        .iter()
        .filter(|connection| connection.is_outbound)
        .count() as u64;
    let inbound = connections.len() as u64 - outbound;
    gauges(
        encoder,
        (
            "connections",
            "Connections that have not ended, including those in their handshake",
            None,
        ),
        [
            ([("direction", "Inbound")], inbound),
            ([("direction", "Outbound")], outbound),
        ],
    )?;

    let mut by_shard = vec![0; stats.transport.shards];
    for connection in connections {
        if let Some(count) = by_shard.get_mut(connection.shard) {
            *count += 1;
        }
    }
    let by_shard = (0_u64..).zip(by_shard);
    gauges(
        encoder,
        ("shard_connections", "Connections by shard", None),
        by_shard.map(|(shard, count)| ([("shard", shard)], count)),
    )?;

    let cipher_suites = tally(connections, |connection| connection.cipher_suite);
    gauges(
        encoder,
        ("cipher_suites", "Connections by TLS cipher suite", None),
        cipher_suites
            .into_iter()
            .map(|(name, count)| ([("cipher_suite", name)], count)),
    )?;
    let groups = tally(connections, |connection| connection.key_exchange_group);
    gauges(
        encoder,
        (
            "key_exchange_groups",
            "Connections by key-exchange group",
            None,
        ),
        groups
            .into_iter()
            .map(|(name, count)| ([("group", name)], count)),
    )?;

    let held = connections
        .iter()
        .map(|connection| connection.held_bytes)
        .sum();
    let help = "Upper bound on the memory used by data that was received and not read";
    gauge(encoder, ("held", help, Some(&Unit::Bytes)), held)?;
    let streams = connections.iter().map(|connection| connection.open_streams);
    let help = "Streams that the application holds, or whose last data is not sent yet";
    gauge(
        encoder,
        ("open_streams", help, None),
        streams.sum::<usize>() as u64,
    )?;

    for histogram in HISTOGRAMS {
        histogram.encode(connections, encoder)?;
    }
    Ok(())
}

impl Histogram {
    /// Leaves out connections in their handshake: their figures are only assumed.
    fn encode(
        &self,
        connections: &[ConnectionStats],
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let authenticated = connections
            .iter()
            .filter(|connection| connection.peer_id.is_some());
        let (sum, buckets) = distribute(self.bounds, authenticated.map(self.value));
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder
            .encode_descriptor(
                self.name,
                self.help,
                Some(&self.unit),
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Sums up the values, and counts how many are in each bucket. A value that is equal to a bound is
/// below it.
fn distribute(bounds: &[f64], values: impl Iterator<Item = f64>) -> (f64, Vec<(f64, u64)>) {
    let bounds = bounds.iter().copied().chain([f64::INFINITY]);
    let mut buckets: Vec<_> = bounds.map(|bound| (bound, 0)).collect();
    let mut sum = 0.0;
    for value in values {
        sum += value;
        let bucket = buckets.iter_mut().find(|(bound, _)| value <= *bound);
        if let Some((_, count)) = bucket {
            *count += 1;
        }
    }
    (sum, buckets)
}

/// Counts connections by what was negotiated.
fn tally(
    connections: &[ConnectionStats],
    name: fn(&ConnectionStats) -> Option<&'static str>,
) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for name in connections.iter().filter_map(name) {
        *counts.entry(name).or_default() += 1;
    }
    counts
}
