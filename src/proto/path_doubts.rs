//! What the path to a host may swallow without a word: marked packets, and batches that the
//! interface was to cut.

use std::time::{Duration, Instant};

use crate::known_hosts::{KnownHosts, Passing};

/// Whether packets on a path are marked for ECN (RFC 9000 §13.4), and leave in batches that are cut
/// into segments behind our back.
///
/// Some routers drop the one, some drivers and tunnels the other, and nobody says so. Where nothing
/// is acknowledged any more, a connection goes on without both, and tries them again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathDoubts {
    marks: Doubt,
    batches: Doubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// Not used before this time.
    until: Option<Instant>,
    /// How long it is not used when it is in doubt the next time.
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

    /// Whatever is used is in doubt, because nothing was acknowledged for a while.
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

/// One connection's doubts, and whether there is a reason for more.
#[derive(Debug)]
pub(super) struct Doubter {
    doubts: PathDoubts,
    /// As they were before the last one, which may turn out to be unfounded.
    before: Option<PathDoubts>,
    /// Since when something is unacknowledged.
    unacknowledged_since: Option<Instant>,
    acknowledged: u64,
}

impl Doubter {
    /// `doubts` is what is known of the host.
    pub(super) fn new(doubts: PathDoubts) -> Self {
        Self {
            doubts,
            before: None,
            unacknowledged_since: None,
            acknowledged: 0,
        }
    }

    pub(super) fn doubts(&self) -> PathDoubts {
        self.doubts
    }

    /// Whether to say when something was sent that has to be acknowledged.
    pub(super) fn wants_to_know(&self) -> bool {
        self.unacknowledged_since.is_none()
    }

    pub(super) fn note_sent(&mut self, now: Instant) {
        self.unacknowledged_since.get_or_insert(now);
    }

    /// So many bytes are acknowledged by now, and perhaps not all that was sent.
    ///
    /// Returns what is known of the host now, if that is news.
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
        let before = self.before.take()?;
        if acknowledged.is_late {
            self.doubts = before;
            return None;
        }
        Some(self.doubts)
    }

    /// Whether a doubt begins now, because nothing was acknowledged for too long.
    pub(super) fn begins(&mut self, now: Instant, rtt: Duration) -> bool {
        let is_silent = self
            .unacknowledged_since
            .is_some_and(|since| now - since >= patience(rtt));
        let begins = is_silent && self.before.is_none();
        if begins {
            self.before = Some(self.doubts);
            self.doubts.begin(now);
        }
        begins
    }
}

/// What a peer has acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// Since the path is used.
    pub(super) bytes: u64,
    pub(super) is_all: bool,
    /// Packets are among them that were sent before the last doubt: they were late, and not
    /// swallowed.
    pub(super) is_late: bool,
}

/// How long nothing may be acknowledged.
fn patience(rtt: Duration) -> Duration {
    (PATIENCE_RTTS * rtt).max(LEAST_PATIENCE)
}

/// What the paths to hosts have swallowed, for the connections that are still to come.
pub(super) type DoubtfulHosts = KnownHosts<PathDoubts>;

impl Passing for PathDoubts {
    fn is_over(&self, now: Instant) -> bool {
        self.may_mark(now) && self.may_batch(now)
    }
}

/// Before a round trip was measured it counts as 333 ms (RFC 9002 §6.2.2), and this is what the
/// first retransmission waits for.
const PATIENCE_RTTS: u32 = 3;

/// Where round trips are short, what makes a peer late is a machine that has other things to do.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// Little is lost without marks.
const FIRST_PAUSE_OF_MARKS: Duration = Duration::from_secs(10);

/// Without batches each byte costs several times as much CPU time; a train that is lost costs three
/// round trips.
const FIRST_PAUSE_OF_BATCHES: Duration = Duration::from_secs(1);

/// Paths change.
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
        // Batches only: marks are not used at the time.
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
}
