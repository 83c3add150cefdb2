//! What is traced of a connection and of what is dropped.
//!
//! Events are at `debug` or below, except those that happen once for a socket or a process: anyone
//! can send datagrams, and a log must not grow with them. Dropped datagrams, and requests for which
//! there is no room, are at `trace`; dials and incoming connections that are given up are at
//! `debug`. While nobody subscribes, an event costs a relaxed load, and a span a comparison.

use std::{net::SocketAddr, sync::Arc};

use libp2p_identity::PeerId;
use tracing::{
    Span, field,
    span::{Entered, Id},
};

/// The span of a connection, if somebody subscribes to it when the connection begins.
///
/// It is shared, because it stays entered while the connection changes. A clone of a [`Span`] would
/// do as well, but costs the subscriber a look-up, and its drop another: together 15 % of the CPU
/// time of a short stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionSpan(Option<Arc<Span>>);

impl ConnectionSpan {
    /// It has no parent, because a driver works for all tasks.
    pub(crate) fn new(number: u64, is_outbound: bool, remote_addr: SocketAddr) -> Self {
        let side = if is_outbound { "dialer" } else { "listener" };
        let span = tracing::debug_span!(
            parent: None,
            "connection",
            id = number,
            side,
            %remote_addr,
            peer = field::Empty,
        );
        Self((!span.is_disabled()).then(|| Arc::new(span)))
    }

    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        self.0.as_ref().map(|span| span.enter())
    }

    /// For events outside of it.
    pub(crate) fn id(&self) -> Option<Id> {
        self.0.as_ref().and_then(|span| span.id())
    }

    pub(crate) fn record_peer(&self, peer_id: &PeerId) {
        if let Some(span) = &self.0 {
            span.record("peer", field::display(peer_id));
        }
    }
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
