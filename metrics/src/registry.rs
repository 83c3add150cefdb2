//! Connection IDs, and what became of datagrams.

use std::fmt;

use libp2p_quinn::{RegistryStats, SEQUENCE_BUCKETS};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use crate::table::{Metric, counter, table};

pub(crate) const METRICS: &[Metric] = table! {
    Counter "drops": "Datagrams or packets that were received and reached no connection, by reason" {
        registry.dropped_budget [reason = "Budget"];
        registry.dropped_handshake_full [reason = "HandshakeFull"];
        registry.dropped_inbox_full [reason = "InboxFull"];
        registry.dropped_late_handshake [reason = "LateHandshake"];
        registry.dropped_overload [reason = "Overload"];
        registry.dropped_source_full [reason = "SourceFull"];
        registry.foreign [reason = "Foreign"];
        registry.malformed [reason = "Malformed"];
        registry.martian [reason = "Martian"];
        registry.non_quic [reason = "NonQuic"];
        registry.oversized [reason = "Oversized"];
        registry.unknown [reason = "Unknown"];
        transport.dropped_crypto [reason = "Crypto"];
    }
    Counter "routed": "Datagrams that belong to a connection or began one, by their first header" {
        registry.routed_long [header = "Long"];
        registry.routed_short [header = "Short"];
    }
    Counter "forwarded": "Datagrams that one shard read for another" {
        registry.forwarded;
    }
    Counter "routing" in Seconds: "Time spent on routing the timed datagrams" {
        registry.routing_time;
    }
    Counter "timed_datagrams": "Datagrams whose routing was timed" {
        registry.timed_datagrams;
    }
    Counter "responses": "Stateless resets and Version Negotiation packets sent" {
        registry.responses_sent;
    }
    Gauge "handshakes_in_progress": "Connections whose handshake is not complete" {
        registry.handshaking;
    }
    Gauge "handshake_sources": "Networks with unfinished handshakes of incoming connections" {
        registry.handshake_sources;
    }
    Gauge "pending_incoming": "Incoming connections that wait for the answer of the application" {
        registry.pending_incoming;
    }
    Gauge "pending_incoming_datagrams" in Bytes: "Datagrams held by pending incoming connections" {
        registry.pending_incoming_bytes;
    }
    Gauge "closing": "Connections that have ended and whose IDs are kept for a while" {
        registry.closing;
    }
    Gauge "peers": "Distinct authenticated peers" {
        registry.peers;
    }
    Gauge "remote_addresses": "Distinct remote addresses of connections" {
        registry.remote_addresses;
    }
    Gauge "active_ids": "Connection IDs that we have issued and peers may use" {
        registry.active_ids;
    }
    Gauge "initial_ids": "IDs that clients chose for their first packets and that still lead to a connection" {
        registry.initial_ids;
    }
    Counter "retired_ids": "Connection IDs that peers retired, or that were discarded with their connection" {
        registry.retired_ids;
    }
};

/// Fields that [`encode`] exports. Their sum is [`RegistryStats::issued_ids`].
#[cfg(test)]
pub(crate) const SEQUENCES: [&str; 2] = ["registry.issued_ids", "registry.issued_sequence_numbers"];

/// Encodes the issued IDs by sequence number.
pub(crate) fn encode(stats: &RegistryStats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "issued_ids",
        "Connection IDs issued, by the smallest sequence number of the bucket",
        None,
        MetricType::Counter,
    )?;
    for bucket in 0..SEQUENCE_BUCKETS {
        // 0, 1, 2–3, 4–7, …
        let least = if bucket == 0 {
            0
        } else {
            1_u64 << (bucket - 1)
        };
        let count = stats.issued_sequence_numbers[bucket];
        counter(
            &mut metric.encode_family(&[("sequence_from", least)])?,
            count,
        )?;
    }
    Ok(())
}
