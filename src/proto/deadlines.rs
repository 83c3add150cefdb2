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

/// At most one deadline for each connection, in one ordered set.
///
/// If a deadline moves to a later time, the earlier entry stays until it fires. That costs an
/// unnecessary turn now and then, but avoids a change of the set for every packet.
#[derive(Default)]
pub(super) struct Deadlines {
    set: BTreeSet<(Instant, usize)>,
    /// Far deadlines are whole multiples of [`SLACK`] after this.
    epoch: Option<Instant>,
}

/// The entry of one connection in the set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Armed(Option<Instant>);

impl Deadlines {
    pub(super) fn first(&self) -> Option<Instant> {
        self.set.first().map(|&(deadline, _)| deadline)
    }

    /// Removes a connection whose deadline is due, which disarms it.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnectionHandle> {
        if self.first()? > now {
            return None;
        }
        self.set
            .pop_first()
            .map(|(_, index)| ConnectionHandle(index))
    }

    pub(super) fn arm(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        armed: &mut Armed,
        deadline: Option<Instant>,
    ) {
        let stays = match (armed.0, deadline) {
            (Some(armed), Some(deadline)) => armed <= deadline,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if stays {
            return;
        }
        self.disarm(handle, armed);
        if let Some(deadline) = deadline {
            let deadline = self.shared(now, deadline);
            self.set.insert((deadline, handle.0));
            armed.0 = Some(deadline);
        }
    }

    pub(super) fn disarm(&mut self, handle: ConnectionHandle, armed: &mut Armed) {
        if let Some(deadline) = armed.0.take() {
            self.set.remove(&(deadline, handle.0));
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
        deadlines.arm(now, ConnectionHandle(0), &mut armed, Some(now + wait));
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
}
