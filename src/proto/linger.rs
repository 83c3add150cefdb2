//! How long a closed connection still delivers streams that were closed before it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionHandle;

/// How long a closed connection still waits for its peer to acknowledge the streams that were
/// closed before.
#[derive(Debug)]
pub(super) struct Linger {
    until: Instant,
    /// At the last progress.
    acknowledged: Acknowledged,
    progress_by: Instant,
    asks_at: Instant,
}

/// What the peer has acknowledged on the current path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) bytes: u64,
    pub(super) times: u64,
}

impl Linger {
    /// `timeout` is the longest time, and `acknowledged` what was acknowledged so far.
    pub(super) fn begin(
        now: Instant,
        timeout: Duration,
        acknowledged: Acknowledged,
        rtt: Duration,
    ) -> Self {
        Self {
            until: now + timeout,
            acknowledged,
            progress_by: now + patience(rtt),
            asks_at: now + ASKED,
        }
    }

    /// Notes what was acknowledged so far.
    ///
    /// Any acknowledgement is progress: while a reader pauses, and the peer gives no credit, there
    /// is nothing to acknowledge but [what it is asked](Self::asks).
    pub(super) fn note_acknowledged(
        &mut self,
        now: Instant,
        acknowledged: Acknowledged,
        rtt: Duration,
    ) {
        // The numbers are smaller after a migration, because each path counts from zero.
        if acknowledged != self.acknowledged {
            self.acknowledged = acknowledged;
            self.progress_by = now + patience(rtt);
        }
    }

    /// Whether to ask the peer for an acknowledgement now.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        let is_due = self.asks_at <= now;
        if is_due {
            self.asks_at = now + ASKED;
        }
        is_due
    }

    /// When to look again, or to end although something is undelivered.
    pub(super) fn next_timeout(&self) -> Instant {
        self.deadline().min(self.asks_at)
    }

    /// When it ends, even if not everything is delivered.
    pub(super) fn deadline(&self) -> Instant {
        self.until.min(self.progress_by)
    }
}

/// The lingering connections of a shard, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct LingeringConnections(BTreeSet<(Instant, usize)>);

impl LingeringConnections {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a connection. If there are too many, returns the one that has to stop lingering.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        since: &mut Option<Instant>,
    ) -> Option<ConnectionHandle> {
        if since.is_none() {
            *since = Some(now);
            self.0.insert((now, handle.0));
        }
        if self.0.len() <= MAX_LINGERING {
            return None;
        }
        self.0.first().map(|&(_, index)| ConnectionHandle(index))
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, handle: ConnectionHandle, since: &mut Option<Instant>) {
        if let Some(began) = since.take() {
            self.0.remove(&(began, handle.0));
        }
    }
}

/// The most lingering connections of a shard. Applications no longer count them as connections, and
/// so do not limit them. Beyond it, the one that has lingered longest is closed.
const MAX_LINGERING: usize = 1024;

/// The longest time in which a peer may acknowledge nothing.
fn patience(rtt: Duration) -> Duration {
    (PATIENCE_RTTS * rtt).max(LEAST_PATIENCE)
}

/// How often the peer is asked whether it is still there.
const ASKED: Duration = Duration::from_secs(1);

/// Two retransmissions and their answers, if the RTT variation is half of the RTT.
const PATIENCE_RTTS: u32 = 9;

/// Radio links are interrupted for a second now and then. After that, the next retransmission may
/// take as long again.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_one_that_has_lingered_for_longest_makes_room() {
        let now = clock::now();
        let mut lingering = LingeringConnections::default();
        let mut begin = |number: usize| {
            let at = now + Duration::from_millis(number as u64);
            let mut since = None;
            let evicted = lingering.insert(at, ConnectionHandle(number), &mut since);
            (evicted, since)
        };
        for number in 0..MAX_LINGERING {
            assert_eq!(begin(number).0, None);
        }
        let (evicted, mut since) = begin(MAX_LINGERING);
        assert_eq!(evicted, Some(ConnectionHandle(0)));
        lingering.remove(ConnectionHandle(MAX_LINGERING), &mut since);
        assert_eq!(since, None);
        let evicted = lingering.insert(now, ConnectionHandle(0), &mut Some(now));
        assert_eq!(evicted, None, "there is room again");
    }

    #[test]
    fn it_is_over_without_progress_and_in_any_case_after_the_timeout() {
        let rtt = Duration::from_millis(10);
        let began = clock::now();
        let acknowledged = |bytes, times| Acknowledged { bytes, times };
        let mut linger = Linger::begin(began, 10 * SECOND, acknowledged(1_000, 9), rtt);
        assert_eq!(linger.deadline(), began + 3 * SECOND);
        linger.note_acknowledged(began + SECOND, acknowledged(1_000, 9), rtt);
        assert_eq!(linger.deadline(), began + 3 * SECOND, "nothing new");
        linger.note_acknowledged(began + 2 * SECOND, acknowledged(1_000, 10), rtt);
        assert_eq!(linger.deadline(), began + 5 * SECOND);
        linger.note_acknowledged(began + 4 * SECOND, acknowledged(1_002, 11), SECOND);
        assert_eq!(linger.deadline(), began + 10 * SECOND);
    }

    #[test]
    fn peer_is_asked_once_a_second_while_it_is_waited_for() {
        let began = clock::now();
        let nothing = Acknowledged { bytes: 0, times: 0 };
        let mut linger = Linger::begin(began, 10 * SECOND, nothing, SECOND);
        assert!(!linger.asks(began + ASKED - SECOND / 1000));
        assert_eq!(linger.next_timeout(), began + ASKED);
        assert!(linger.asks(began + ASKED));
        assert!(!linger.asks(began + ASKED));
        // Late by half a second, so the next time is later as well.
        assert!(linger.asks(began + 5 * ASKED / 2));
        assert_eq!(linger.next_timeout(), began + 7 * ASKED / 2);
        // The end comes before the question.
        linger.asks(began + 19 * ASKED / 2);
        assert_eq!(linger.next_timeout(), linger.deadline());
    }
}
