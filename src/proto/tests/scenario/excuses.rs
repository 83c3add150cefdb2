//! Ends of connections that may have an external reason.

use std::time::Duration;

use super::super::{peer::Peer, tasks::Alarms};
use crate::error::{ConnectionError, HandshakeError};

/// Whether a handshake did not complete: for the dialer; or for the listener, which reports that or
/// has given it up.
pub(super) fn is_unfinished(error: &HandshakeError, given_up: bool) -> bool {
    match error {
        HandshakeError::TimedOut => true,
        HandshakeError::Connection(error) => {
            let aborted = ConnectionError::AbortedByPeer {
                code: APPLICATION_ERROR,
                reason: String::new(),
            };
            // The listener's close may be lost, or need keys that the dialer does not have yet.
            let is_over = matches!(
                error,
                ConnectionError::ClosedByPeer { code: 0, .. }
                    | ConnectionError::Reset
                    | ConnectionError::TimedOut
            );
            *error == aborted || is_over && given_up
        }
        _ => false,
    }
}

/// Whether an established connection has fallen silent: for its dialer, or for its listener before
/// that.
pub(super) fn is_silence(error: &HandshakeError) -> bool {
    matches!(
        error,
        HandshakeError::Connection(ConnectionError::Reset | ConnectionError::TimedOut)
    )
}

/// quinn-proto's error after a Retry from a dialer, or after a Version Negotiation packet.
pub(super) fn is_misread(error: &HandshakeError) -> bool {
    matches!(
        error,
        HandshakeError::Connection(
            ConnectionError::AbortedByPeer {
                code: PROTOCOL_VIOLATION,
                ..
            } | ConnectionError::VersionMismatch
        )
    )
}

pub(super) fn is_invalid_token(error: &HandshakeError) -> bool {
    let invalid = ConnectionError::AbortedByPeer {
        code: INVALID_TOKEN,
        reason: String::new(),
    };
    *error == invalid.into()
}

/// Watches a connection to its end. Returns whether data was not acknowledged for seconds.
///
/// quinn-proto 0.11.19 sends no acknowledgement while the congestion window is full and there is
/// data to send, although acknowledgements are not subject to the window (RFC 9002 §7). If both
/// sides are in this state, only probes end it, and these become rare if they are lost.
pub(super) async fn watch(peer: Peer, alarms: Alarms) -> bool {
    /// Acknowledgements are due after 25 ms (RFC 9000 §18.2).
    const LONG: Duration = Duration::from_secs(5);
    /// A peer that has received this many bytes has received data.
    const DATA: u64 = 1200;

    let mut before = peer.stats();
    let mut is_due = false;
    let mut is_silent = false;
    while peer.loss().is_none() {
        alarms.after(LONG).await;
        let now = peer.stats();
        let has_sent = now.datagrams_sent > before.datagrams_sent;
        is_silent |= is_due && !has_sent;
        is_due = !has_sent && now.bytes_received >= before.bytes_received + DATA;
        before = now;
    }
    is_silent
}

/// RFC 9000 §20.1. An application's close has this code before the handshake is complete (§10.2.3).
const APPLICATION_ERROR: u64 = 0xc;
const INVALID_TOKEN: u64 = 0xb;
const PROTOCOL_VIOLATION: u64 = 0xa;
