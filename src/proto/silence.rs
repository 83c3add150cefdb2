//! What a connection sends because nothing is heard of its peer.

use std::time::{Duration, Instant};

/// Since when a peer owes an answer, and when it is asked for another one.
///
/// quinn-proto asks as well, but waits twice as long each time (RFC 9002 §6.2.1), so that an outage
/// is noticed to be over only after as long again. And its keep-alive knows nothing of the idle
/// timeout of the peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    /// When to send a probe, because something was sent that has to be acknowledged, and nothing
    /// was heard since.
    probe_at: Option<Instant>,
    /// When something was last sent to keep the connection alive.
    kept_alive_at: Option<Instant>,
}

impl Silence {
    /// Something has arrived.
    pub(super) fn note_received(&mut self) {
        self.probe_at = None;
    }

    /// Whether nothing was sent yet, since the peer was heard, that has to be acknowledged.
    pub(super) fn owes_nothing(&self) -> bool {
        self.probe_at.is_none()
    }

    /// Something was sent that has to be acknowledged.
    pub(super) fn note_sent(&mut self, now: Instant) {
        self.probe_at.get_or_insert(now + PROBE_INTERVAL);
    }

    /// When to send a probe.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    pub(super) fn note_probed(&mut self, now: Instant) {
        self.probe_at = Some(now + PROBE_INTERVAL);
    }

    /// When to send something to keep the connection alive. `idle_since` is when it was last
    /// otherwise.
    pub(super) fn keep_alive_at(&self, idle_since: Instant, interval: Duration) -> Instant {
        self.kept_alive_at.unwrap_or(idle_since).max(idle_since) + interval
    }

    pub(super) fn note_kept_alive(&mut self, now: Instant) {
        self.kept_alive_at = Some(now);
    }
}

/// How often to keep a connection alive whose peer has this idle timeout, unless it is done often
/// enough. Two of them may be lost, where the timeout is not too short for that.
pub(super) fn keep_alive_interval(ours: Duration, idle_timeout: Duration) -> Option<Duration> {
    let interval = (idle_timeout / 3).max(SHORTEST_INTERVAL);
    (interval < ours).then_some(interval)
}

/// The peer chooses its idle timeout, and does not choose how much there is to do for it.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(250);

/// Bytes flow again after an outage when the next probe is answered, so within this and a round
/// trip.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
