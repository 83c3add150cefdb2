//! What a connection sends because its peer is silent.

use std::time::{Duration, Instant};

use super::connection::Connection;

/// When to probe a silent peer, and when to send keep-alives.
///
/// quinn-proto sends probes as well, but doubles the interval each time (RFC 9002 §6.2.1), so that
/// it notices the end of an outage only after as long again. And its keep-alive ignores the peer's
/// idle timeout.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    /// When to send a probe, because no packet came since the first ack-eliciting packet was sent.
    probe_at: Option<Instant>,
    /// When a keep-alive was last sent.
    kept_alive_at: Option<Instant>,
}

impl Silence {
    /// Notes a packet from the peer.
    pub(super) fn note_received(&mut self) {
        self.probe_at = None;
    }

    /// Whether no ack-eliciting packet was sent since the peer's last packet.
    pub(super) fn owes_nothing(&self) -> bool {
        self.probe_at.is_none()
    }

    /// Notes an ack-eliciting packet.
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

    /// When to send a keep-alive. `idle_since` is the start of the idle period, without
    /// keep-alives.
    pub(super) fn keep_alive_at(&self, idle_since: Instant, interval: Duration) -> Instant {
        self.kept_alive_at.unwrap_or(idle_since).max(idle_since) + interval
    }

    pub(super) fn note_kept_alive(&mut self, now: Instant) {
        self.kept_alive_at = Some(now);
    }
}

/// How long an established connection waits for a silent peer, if its idle timeout is at most
/// `idle_timeout`. `None` if it waits for ever, or is over.
///
/// quinn-proto has its own deadline, which is earlier unless the peer has prolonged it: it is at
/// least three probe timeouts, and the peer's `max_ack_delay` is part of them.
pub(super) fn patience(
    connection: &Connection,
    idle_timeout: Option<Duration>,
) -> Option<Duration> {
    let theirs = connection.authenticated()?.negotiated.max_idle_timeout;
    let timeout = idle_timeout.into_iter().chain(theirs).min()?;
    if connection.loss().is_some() {
        return None;
    }
    // The peer can make round trips seem longer than they are.
    let round_trips = (PATIENCE_RTTS * connection.rtt()).min(timeout * 3 / 2);
    Some(timeout.max(round_trips) + IDLE_SLACK)
}

/// Three probe timeouts in round trips. A probe timeout is the RTT and four times its variation
/// (RFC 9002 §6.2.1), which makes three round trips if the variation is half of the RTT.
const PATIENCE_RTTS: u32 = 9;

/// Tolerance for late acknowledgements and timers.
const IDLE_SLACK: Duration = Duration::from_secs(1);

/// The interval of keep-alives for a peer with this idle timeout, unless `ours` is shorter anyway.
/// Two of them may be lost, unless the timeout is too short for that.
pub(super) fn keep_alive_interval(ours: Duration, idle_timeout: Duration) -> Option<Duration> {
    let interval = (idle_timeout / 3).max(SHORTEST_INTERVAL);
    (interval < ours).then_some(interval)
}

/// The peer chooses its idle timeout, but must not choose how much work it causes.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(250);

/// After an outage, data flows again when the next probe is answered: within this time and a round
/// trip.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keep_alives_are_three_in_an_idle_timeout_and_four_a_second_at_most() {
        let ours = 5 * SECOND;
        assert_eq!(keep_alive_interval(ours, 3 * SECOND), Some(SECOND));
        assert_eq!(
            keep_alive_interval(ours, SECOND / 1000),
            Some(SHORTEST_INTERVAL)
        );
        assert_eq!(keep_alive_interval(ours, 15 * SECOND), None);
        assert_eq!(keep_alive_interval(SHORTEST_INTERVAL, SECOND / 1000), None);
    }

    #[test]
    fn keep_alive_comes_an_interval_after_the_last_one_and_after_the_last_packet() {
        let began = crate::net::clock::now();
        let mut silence = Silence::default();
        assert_eq!(silence.keep_alive_at(began, SECOND), began + SECOND);
        silence.note_kept_alive(began + 2 * SECOND);
        for (idle_since, last) in [(1, 2), (3, 3)] {
            let idle_since = began + idle_since * SECOND;
            let at = silence.keep_alive_at(idle_since, SECOND);
            assert_eq!(at, began + (last + 1) * SECOND);
        }
    }

    #[test]
    fn probe_comes_a_second_after_the_first_packet_without_an_answer() {
        let began = crate::net::clock::now();
        let mut silence = Silence::default();
        for late in [0, 1] {
            silence.note_sent(began + late * SECOND / 2);
            assert_eq!(silence.probe_at(), Some(began + PROBE_INTERVAL));
        }
        silence.note_probed(began + PROBE_INTERVAL);
        assert_eq!(silence.probe_at(), Some(began + 2 * PROBE_INTERVAL));
        silence.note_received();
        assert!(silence.owes_nothing());
    }
}
