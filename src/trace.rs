//! What is traced of a connection and of what is dropped.
//!
//! Events are at `debug` or below, except those that happen once for a
//! socket or a process: anyone can send
//! datagrams, and a log must not grow with them. Dropped datagrams, and requests for which there is
//! no room, are at `trace`; dials and incoming connections that are given up are at `debug`. While
//! nobody subscribes, an event costs a relaxed load, and a span a comparison.

use std::net::SocketAddr;

use tracing::{Span, field};

/// The span of a connection; disabled unless somebody subscribes to it when the connection begins.
///
/// It has no parent, because a driver works for all tasks.
pub(crate) fn connection_span(number: u64, is_outbound: bool, remote_addr: SocketAddr) -> Span {
    let side = if is_outbound { "dialer" } else { "listener" };
    tracing::debug_span!(
        parent: None,
        "connection",
        id = number,
        side,
        %remote_addr,
        peer = field::Empty,
    )
}

/// Counts what was dropped, and traces it. The reason of the event is the name of the counter in
/// [`RegistryStats`](crate::RegistryStats) or [`TransportStats`](crate::TransportStats).
macro_rules! dropped {
    ($totals:expr, $counter:ident, $remote_addr:expr) => {{
        $totals.$counter += 1;
        tracing::trace!(
            reason = stringify!($counter),
            remote_addr = %$remote_addr,
            "dropped a datagram"
        );
    }};
    ($totals:expr, $counter:ident += $count:expr) => {{
        let count: u64 = $count;
        if count > 0 {
            $totals.$counter += count;
            tracing::trace!(reason = stringify!($counter), count, "dropped datagrams");
        }
    }};
}

pub(crate) use dropped;

/// Collects in tests what is traced.
#[cfg(test)]
#[path = "../tests/support/trace.rs"]
pub(crate) mod collected;
