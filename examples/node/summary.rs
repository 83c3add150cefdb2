//! The summary at the end.

use std::{fmt::Write as _, time::Duration};

use libp2p::{Multiaddr, PeerId};
use libp2p_quinn::{ConnectionStats, Stats};

use crate::transfer::{Outcome, Request};

/// A talk with a peer, seen from the dialer.
pub(crate) struct Summary {
    pub(crate) local_peer_id: PeerId,
    pub(crate) peer_id: PeerId,
    pub(crate) addr: Multiaddr,
    pub(crate) agent: Option<String>,
    pub(crate) ping: Option<Duration>,
    /// The statistics before the connection was closed.
    pub(crate) connection: Option<ConnectionStats>,
    pub(crate) echo: Outcome,
    pub(crate) upload: Outcome,
    pub(crate) download: Outcome,
}

impl Summary {
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![
            ("dialer", self.local_peer_id.to_string()),
            ("listener", self.peer_id.to_string()),
            ("dialled", self.addr.to_string()),
        ];
        if let Some(agent) = &self.agent {
            // The peer has chosen it: nothing in it may move the cursor.
            rows.push(("agent", agent.escape_debug().to_string()));
        }
        if let Some(connection) = &self.connection {
            let unknown = "unknown";
            rows.extend([
                ("from", connection.local_addr.to_string()),
                (
                    "cipher",
                    connection.cipher_suite.unwrap_or(unknown).to_owned(),
                ),
                (
                    "key group",
                    connection.key_exchange_group.unwrap_or(unknown).to_owned(),
                ),
                ("path MTU", format!("{} bytes", connection.mtu_bytes)),
                (
                    "packets",
                    format!(
                        "{} sent, {} received, {} lost",
                        connection.datagrams_sent,
                        connection.datagrams_received,
                        connection.packets.lost_packets
                    ),
                ),
            ]);
        }
        if let Some(ping) = self.ping {
            rows.push(("ping", milliseconds(ping)));
        }
        rows.push(("RTT", round_trips(&self.echo.round_trips)));
        rows.push(("upload", speed(&self.upload)));
        rows.push(("download", speed(&self.download)));

        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a `String` cannot fail.
            let _ = writeln!(table, "{name:10} {value}");
        }
        table
    }
}

/// What the transports have counted, side by side, after connections are closed.
pub(crate) fn totals(nodes: &[(&str, Stats)]) -> String {
    type Figure = (&'static str, fn(&Stats) -> u64);
    const FIGURES: [Figure; 17] = [
        ("connections now", |stats| stats.registry.connections as u64),
        ("active IDs now", |stats| stats.registry.active_ids),
        ("IDs issued", |stats| stats.registry.issued_ids),
        ("IDs retired", |stats| stats.registry.retired_ids),
        ("routed, short header", |stats| stats.registry.routed_short),
        ("routed, long header", |stats| stats.registry.routed_long),
        ("unknown ID", |stats| stats.registry.unknown),
        ("not QUIC", |stats| stats.registry.non_quic),
        ("malformed", |stats| stats.registry.malformed),
        ("packets sent", |stats| stats.packets.packets_sent),
        ("packets lost", |stats| stats.packets.lost_packets),
        ("MTU probes", |stats| stats.packets.mtu_probes_sent),
        ("MTU probes lost", |stats| stats.packets.mtu_probes_lost),
        ("black holes", |stats| stats.packets.black_holes),
        ("closed by us", |stats| stats.transport.ended_locally_closed),
        ("closed by the peer", |stats| {
            stats.transport.ended_closed_by_peer
        }),
        ("timed out", |stats| stats.transport.ended_timed_out),
    ];
    let mut table = format!("{:21}", "totals");
    for (name, _) in nodes {
        let _ = write!(table, " {name:>10}");
    }
    table.push('\n');
    for (name, figure) in FIGURES {
        let _ = write!(table, "  {name:19} ");
        for (_, stats) in nodes {
            let _ = write!(table, " {:>10}", figure(stats));
        }
        table.push('\n');
    }
    table
}

/// A request, seen from the responder.
pub(crate) fn served(outcome: &Outcome) -> String {
    match outcome.request {
        Request::Echo(rounds) => format!("made {rounds} round trips"),
        Request::Download(_) => format!("downloads {}", speed(outcome)),
        Request::Upload(_) => format!("uploads {}", speed(outcome)),
    }
}

fn speed(outcome: &Outcome) -> String {
    let bytes = outcome.request.bytes() as f64;
    let seconds = outcome.elapsed.as_secs_f64();
    format!(
        "{:.0} MiB in {seconds:.2} s, {:.0} MB/s, content as expected",
        bytes / (1024.0 * 1024.0),
        bytes / 1e6 / seconds,
    )
}

fn round_trips(round_trips: &[Duration]) -> String {
    let mut sorted = round_trips.to_vec();
    sorted.sort_unstable();
    let [min, .., max] = sorted[..] else {
        return "not measured".to_owned();
    };
    format!(
        "{} median of {}, {} to {}",
        milliseconds(sorted[sorted.len() / 2]),
        sorted.len(),
        milliseconds(min),
        milliseconds(max),
    )
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}
