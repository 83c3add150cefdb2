//! What the path to a host may drop silently: packets with ECN marks, and batches that the
//! interface should cut into datagrams.

use std::time::{Duration, Instant};

use crate::known_hosts::{KnownHosts, Passing};

/// Whether packets on a path are marked for ECN (RFC 9000 §13.4), and sent in batches that the
/// operating system or the interface cuts into datagrams.
///
/// Some routers drop marked packets, and some drivers and tunnels drop batches, without any report.
/// If nothing is acknowledged any more, a connection goes on without both, and tries them again
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathDoubts {
    marks: Doubt,
    batches: Doubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// Not used before this time.
    until: Option<Instant>,
    /// The time without use after the next doubt.
    pause: Duration,
}

impl PathDoubts {
    pub(super) const NONE: Self = Self {
        marks: Doubt::new(FIRST_PAUSE_OF_MARKS),
        batches: Doubt::new(FIRST_PAUSE_OF_BATCHES),
    };

    pub(super) fn may_mark(&self, now: Instant) -> bool {
        self.marks.is_over(now)
    }

    pub(super) fn may_batch(&self, now: Instant) -> bool {
        self.batches.is_over(now)
    }

    /// Begins a doubt in everything that is in use, because nothing was acknowledged for a while.
    pub(super) fn begin(&mut self, now: Instant) {
        self.marks.begin(now);
        self.batches.begin(now);
    }
}

impl Doubt {
    const fn new(pause: Duration) -> Self {
        Self { until: None, pause }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    fn begin(&mut self, now: Instant) {
        if self.is_over(now) {
            self.until = Some(now + self.pause);
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
    }
}

/// A doubt that may prove to be unfounded.
#[derive(Clone, Copy, Debug)]
struct Unproved {
    /// The doubts before it.
    before: PathDoubts,
    /// Whether a port has changed since. That explains the silence as well: a NAT drops what is
    /// sent to a port that it no longer maps.
    has_port_changed: bool,
}

/// The doubts of one connection, and whether there is a reason for a new one.
#[derive(Debug)]
pub(super) struct Doubter {
    doubts: PathDoubts,
    /// The last doubt, until something is acknowledged.
    unproved: Option<Unproved>,
    /// Since when something has been unacknowledged.
    unacknowledged_since: Option<Instant>,
    acknowledged: u64,
}

impl Doubter {
    /// `doubts` are those about the host so far.
    pub(super) fn new(doubts: PathDoubts) -> Self {
        Self {
            doubts,
            unproved: None,
            unacknowledged_since: None,
            acknowledged: 0,
        }
    }

    pub(super) fn doubts(&self) -> PathDoubts {
        self.doubts
    }

    /// Whether the caller should report the next ack-eliciting packet.
    pub(super) fn wants_to_know(&self) -> bool {
        self.unacknowledged_since.is_none()
    }

    pub(super) fn note_sent(&mut self, now: Instant) {
        self.unacknowledged_since.get_or_insert(now);
    }

    /// Begins anew on another path, on which this many bytes were acknowledged so far. Why nothing
    /// was acknowledged on the path before is not known, and does not matter any more.
    pub(super) fn begin_path(&mut self, acknowledged: u64) {
        if let Some(unproved) = self.unproved.take() {
            self.doubts = unproved.before;
        }
        self.unacknowledged_since = None;
        self.acknowledged = acknowledged;
    }

    /// Continues on a path of which only a port, ours or the peer's, is another one. The path is
    /// most likely the same, so a doubt stays until something is acknowledged. But what was sent
    /// before the change proves nothing, because it may have been lost with the port.
    pub(super) fn note_port_changed(&mut self) {
        match &mut self.unproved {
            Some(unproved) => unproved.has_port_changed = true,
            None => self.unacknowledged_since = None,
        }
    }

    /// Notes what was acknowledged so far.
    ///
    /// Returns the doubts about the host if they have changed.
    pub(super) fn note_acknowledged(
        &mut self,
        now: Instant,
        acknowledged: Acknowledged,
    ) -> Option<PathDoubts> {
        if acknowledged.bytes == self.acknowledged {
            return None;
        }
        self.acknowledged = acknowledged.bytes;
        self.unacknowledged_since = (!acknowledged.is_all).then_some(now);
        let unproved = self.unproved.take()?;
        if acknowledged.is_late || unproved.has_port_changed {
            self.doubts = unproved.before;
            return None;
        }
        Some(self.doubts)
    }

    /// Whether a doubt begins now, because nothing was acknowledged for too long.
    pub(super) fn begins(&mut self, now: Instant, rtt: Duration) -> bool {
        let is_silent = self
            .unacknowledged_since
            .is_some_and(|since| now - since >= patience(rtt));
        let begins = is_silent && self.unproved.is_none();
        if begins {
            self.unproved = Some(Unproved {
                before: self.doubts,
                has_port_changed: false,
            });
            self.doubts.begin(now);
        }
        begins
    }
}

/// What a peer has acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// Bytes since the connection uses this path.
    pub(super) bytes: u64,
    pub(super) is_all: bool,
    /// Whether they include packets sent before the last doubt, which were therefore late and not
    /// dropped.
    pub(super) is_late: bool,
}

/// The time without an acknowledgement after which a doubt begins.
fn patience(rtt: Duration) -> Duration {
    (PATIENCE_RTTS * rtt).max(LEAST_PATIENCE)
}

/// Doubts about hosts, for later connections.
pub(super) type DoubtfulHosts = KnownHosts<PathDoubts>;

impl Passing for PathDoubts {
    fn is_over(&self, now: Instant) -> bool {
        self.may_mark(now) && self.may_batch(now)
    }
}

/// Before the first measurement the RTT counts as 333 ms (RFC 9002 §6.2.2); the first
/// retransmission is sent after this many.
const PATIENCE_RTTS: u32 = 3;

/// With short round trips, a peer is late because its machine is busy with other work.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// Doing without marks costs little.
const FIRST_PAUSE_OF_MARKS: Duration = Duration::from_secs(10);

/// Without batches each byte costs several times as much CPU time; a batch that is lost costs three
/// round trips.
const FIRST_PAUSE_OF_BATCHES: Duration = Duration::from_secs(1);

/// An upper bound, because paths change.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    const RTT: Duration = Duration::from_millis(100);
    const SECOND: Duration = Duration::from_secs(1);

    fn all(bytes: u64) -> Acknowledged {
        Acknowledged {
            bytes,
            is_all: true,
            is_late: false,
        }
    }

    #[test]
    fn silence_of_three_round_trips_is_a_doubt_and_another_one_lasts_longer() {
        let now = clock::now();
        let mut doubter = Doubter::new(PathDoubts::NONE);
        assert!(!doubter.begins(now + SECOND, RTT), "nothing was sent");
        doubter.note_sent(now);
        assert!(!doubter.begins(now + 2 * RTT, RTT));
        assert!(doubter.begins(now + 3 * RTT, RTT));
        assert!(!doubter.begins(now + 4 * RTT, RTT), "once");
        let begun = now + 3 * RTT;
        let doubts = doubter.note_acknowledged(begun, all(1)).unwrap();
        assert!(!doubts.may_mark(begun + FIRST_PAUSE_OF_MARKS - RTT));
        assert!(!doubts.may_batch(begun + FIRST_PAUSE_OF_BATCHES - RTT));
        assert!(doubts.may_batch(begun + FIRST_PAUSE_OF_BATCHES));
        // Only batches are doubted now, because marks are not in use.
        let begun = begun + FIRST_PAUSE_OF_BATCHES;
        doubter.note_sent(begun - 3 * RTT);
        assert!(doubter.begins(begun, RTT));
        let doubts = doubter.note_acknowledged(begun, all(2)).unwrap();
        assert!(!doubts.may_batch(begun + FIRST_PAUSE_OF_BATCHES));
        assert!(doubts.may_batch(begun + 2 * FIRST_PAUSE_OF_BATCHES));
        assert!(doubts.may_mark(now + 3 * RTT + FIRST_PAUSE_OF_MARKS));
    }

    #[test]
    fn what_was_only_late_is_no_reason() {
        let now = clock::now();
        let mut doubter = Doubter::new(PathDoubts::NONE);
        doubter.note_sent(now);
        assert!(doubter.begins(now + SECOND, RTT));
        assert!(!doubter.doubts().may_batch(now + SECOND));
        let late = Acknowledged {
            is_late: true,
            ..all(1)
        };
        assert_eq!(doubter.note_acknowledged(now + SECOND, late), None);
        assert_eq!(doubter.doubts(), PathDoubts::NONE);
    }

    #[test]
    fn doubt_ends_with_the_path() {
        let now = clock::now();
        let mut doubter = Doubter::new(PathDoubts::NONE);
        doubter.note_sent(now);
        assert!(doubter.begins(now + SECOND, RTT));
        doubter.begin_path(7);
        assert_eq!(doubter.doubts(), PathDoubts::NONE);
        assert!(!doubter.begins(now + 2 * SECOND, RTT), "nothing was sent");
        assert_eq!(doubter.note_acknowledged(now + 2 * SECOND, all(8)), None);
    }

    #[test]
    fn doubt_ends_with_the_first_acknowledgement_after_a_change_of_the_port() {
        let now = clock::now();
        let mut doubter = Doubter::new(PathDoubts::NONE);
        doubter.note_sent(now);
        assert!(doubter.begins(now + SECOND, RTT));
        let doubts = doubter.doubts();
        doubter.note_port_changed();
        assert_eq!(doubter.doubts(), doubts);
        assert!(!doubts.may_mark(now + SECOND) && !doubts.may_batch(now + SECOND));
        assert_eq!(doubter.note_acknowledged(now + SECOND, all(1)), None);
        assert_eq!(doubter.doubts(), PathDoubts::NONE);
        // The next one has no such explanation.
        doubter.note_sent(now + SECOND);
        assert!(doubter.begins(now + 2 * SECOND, RTT));
        let doubts = doubter.note_acknowledged(now + 2 * SECOND, all(2));
        assert_eq!(doubts, Some(doubter.doubts()));
        assert!(!doubter.doubts().may_batch(now + 2 * SECOND));
    }

    #[test]
    fn silence_before_a_change_of_the_port_counts_for_no_doubt() {
        let now = clock::now();
        let mut doubter = Doubter::new(PathDoubts::NONE);
        doubter.note_sent(now);
        doubter.note_port_changed();
        assert!(!doubter.begins(now + SECOND, RTT), "nothing was sent");
        assert!(doubter.wants_to_know());
        doubter.note_sent(now + SECOND);
        assert!(!doubter.begins(now + SECOND + 2 * RTT, RTT));
        assert!(doubter.begins(now + SECOND + 3 * RTT, RTT));
    }

    #[test]
    fn no_doubt_lasts_for_more_than_longest_pause() {
        let mut now = clock::now();
        let mut doubts = PathDoubts::NONE;
        for _ in 0..20 {
            now += LONGEST_PAUSE;
            doubts.begin(now);
        }
        let nearly = now + LONGEST_PAUSE - SECOND;
        assert!(!doubts.may_mark(nearly) && !doubts.may_batch(nearly));
        assert!(doubts.is_over(now + LONGEST_PAUSE));
    }
}
