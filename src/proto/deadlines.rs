//! The timers of all connections of a shard.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionHandle;

/// Deadlines at least this far away may fire late: keep-alives, idle timeouts, and long probe
/// timeouts.
const FAR: Duration = Duration::from_secs(1);

/// The most by which far deadlines fire late. So the keep-alives of a thousand connections are sent
/// in 20 rounds a second, and not in a round for each.
pub(super) const SLACK: Duration = Duration::from_millis(50);

/// At most one deadline for each connection, in two ordered sets.
///
/// If a deadline moves to a later time, the earlier entry stays until it fires. That costs an
/// unnecessary turn now and then, but avoids a change of a set for every packet.
#[derive(Default)]
pub(super) struct Deadlines {
    established: BTreeSet<(Instant, usize)>,
    /// A crowd of dials that nobody answers has thousands that are due. The others do not wait
    /// behind these: the two sets take turns.
    handshakes: BTreeSet<(Instant, usize)>,
    /// The set whose deadline was taken last.
    last: Phase,
    /// Far deadlines are whole multiples of [`SLACK`] after this.
    epoch: Option<Instant>,
}

/// Whether the peer of a connection is authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Handshake,
    Established,
}

/// The entry of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Armed(Option<(Phase, Instant)>);

impl Armed {
    /// Whether the deadline is due.
    pub(super) fn is_due(self, now: Instant) -> bool {
        self.0.is_some_and(|(_, deadline)| deadline <= now)
    }
}

impl Deadlines {
    pub(super) fn first(&self) -> Option<Instant> {
        let firsts = [self.established.first(), self.handshakes.first()];
        let firsts = firsts.into_iter().flatten();
        firsts.map(|&(deadline, _)| deadline).min()
    }

    /// Removes a connection whose deadline is due, which disarms it.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnectionHandle> {
        let next = match self.last {
            Phase::Handshake => [Phase::Established, Phase::Handshake],
            Phase::Established => [Phase::Handshake, Phase::Established],
        };
        next.into_iter().find_map(|phase| {
            let set = self.set(phase);
            set.first().filter(|&&(deadline, _)| deadline <= now)?;
            let (_, index) = set.pop_first()?;
            self.last = phase;
            Some(ConnectionHandle(index))
        })
    }

    pub(super) fn arm(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        armed: &mut Armed,
        phase: Phase,
        deadline: Option<Instant>,
    ) {
        let stays = match (armed.0, deadline) {
            (Some((armed_in, armed)), Some(deadline)) => armed_in == phase && armed <= deadline,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if stays {
            return;
        }
        self.disarm(handle, armed);
        if let Some(deadline) = deadline {
            let deadline = self.shared(now, deadline);
            self.set(phase).insert((deadline, handle.0));
            armed.0 = Some((phase, deadline));
        }
    }

    pub(super) fn disarm(&mut self, handle: ConnectionHandle, armed: &mut Armed) {
        if let Some((phase, deadline)) = armed.0.take() {
            self.set(phase).remove(&(deadline, handle.0));
        }
    }

    fn set(&mut self, phase: Phase) -> &mut BTreeSet<(Instant, usize)> {
        match phase {
            Phase::Handshake => &mut self.handshakes,
            Phase::Established => &mut self.established,
        }
    }

    /// Rounds a far deadline up to the next multiple of [`SLACK`].
    fn shared(&mut self, now: Instant, deadline: Instant) -> Instant {
        if deadline < now + FAR {
            return deadline;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let since = deadline.saturating_duration_since(epoch);
        let past = since.as_nanos() % SLACK.as_nanos();
        // The value is less than 50 ms, so the cast below is lossless.
        let wait = (SLACK.as_nanos() - past) % SLACK.as_nanos();
        deadline + Duration::from_nanos(wait as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    fn armed_for(deadlines: &mut Deadlines, now: Instant, wait: Duration) -> Duration {
        let mut armed = Armed::default();
        let phase = Phase::Established;
        deadlines.arm(
            now,
            ConnectionHandle(0),
            &mut armed,
            phase,
            Some(now + wait),
        );
        let until = deadlines.first().expect("armed") - now;
        deadlines.disarm(ConnectionHandle(0), &mut armed);
        assert_eq!(deadlines.first(), None);
        until
    }

    #[test]
    fn near_deadlines_are_exact() {
        let mut deadlines = Deadlines::default();
        let now = clock::now();
        for wait in [0, 1, 333, 999].map(Duration::from_millis) {
            assert_eq!(armed_for(&mut deadlines, now, wait), wait);
        }
    }

    #[test]
    fn far_deadlines_are_shared_and_never_early() {
        let mut deadlines = Deadlines::default();
        let now = clock::now();
        let at = |deadlines: &mut Deadlines, micros| {
            armed_for(deadlines, now, Duration::from_micros(micros))
        };
        assert_eq!(at(&mut deadlines, 5_000_000), Duration::from_secs(5));
        let shared = Duration::from_millis(5050);
        for micros in [5_000_001, 5_020_000, 5_049_999, 5_050_000] {
            assert_eq!(at(&mut deadlines, micros), shared);
        }
    }

    #[test]
    fn deadlines_are_shared_from_a_second_on() {
        let mut deadlines = Deadlines::default();
        let began = clock::now();
        armed_for(&mut deadlines, began, 2 * FAR);
        // The shared deadlines are at whole multiples after the first one.
        let now = began + SLACK / 5;
        let near = FAR - Duration::from_nanos(1);
        assert_eq!(armed_for(&mut deadlines, now, near), near);
        let shared = FAR + SLACK - SLACK / 5;
        assert_eq!(armed_for(&mut deadlines, now, FAR), shared);
    }

    #[test]
    fn earlier_deadline_replaces_the_one_before_and_a_later_one_waits_for_it() {
        let mut deadlines = Deadlines::default();
        let now = clock::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        let (handle, mut armed) = (ConnectionHandle(0), Armed::default());
        for (ms, first) in [(20, 20), (10, 10), (30, 10)] {
            let phase = Phase::Established;
            deadlines.arm(now, handle, &mut armed, phase, at(ms));
            assert_eq!(deadlines.first(), at(first));
        }
        deadlines.arm(now, handle, &mut armed, Phase::Established, None);
        assert_eq!(deadlines.first(), None);
    }

    #[test]
    fn deadlines_of_the_two_phases_take_turns() {
        let mut deadlines = Deadlines::default();
        let now = clock::now();
        for number in 0..8 {
            let phase = if number < 6 {
                Phase::Handshake
            } else {
                Phase::Established
            };
            let at = Some(now + Duration::from_millis(number));
            let handle = ConnectionHandle(number as usize);
            deadlines.arm(now, handle, &mut Armed::default(), phase, at);
        }
        let late = now + FAR;
        let popped = std::iter::from_fn(|| deadlines.pop_due(late).map(|handle| handle.0));
        assert_eq!(popped.collect::<Vec<_>>(), [6, 0, 7, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn connection_has_one_deadline_when_it_is_established() {
        let mut deadlines = Deadlines::default();
        let now = clock::now();
        let mut armed = Armed::default();
        let at = |ms| Some(now + Duration::from_millis(ms));
        deadlines.arm(
            now,
            ConnectionHandle(0),
            &mut armed,
            Phase::Handshake,
            at(10),
        );
        deadlines.arm(
            now,
            ConnectionHandle(0),
            &mut armed,
            Phase::Established,
            at(20),
        );
        assert_eq!(deadlines.first(), at(20));
        assert!(!armed.is_due(now) && armed.is_due(now + FAR));
        assert_eq!(deadlines.pop_due(now + FAR), Some(ConnectionHandle(0)));
        assert_eq!(deadlines.pop_due(now + FAR), None);
    }
}
