//! What earlier connections have measured of the paths to their hosts (RFC 9959).

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    address::Host,
    known_hosts::{KnownHosts, Passing},
    sync::lock_unmodelled,
};

/// The paths to hosts, for all shards of a transport. How many is bounded by [`KnownHosts`].
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownPaths(Arc<Mutex<KnownHosts<KnownPath>>>);

/// A path as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownPath {
    /// The least round trip.
    rtt: Duration,
    /// Bytes that were acknowledged in such a round trip.
    window: u64,
    until: Instant,
}

/// The memory of one path, for the connection that uses it.
#[derive(Clone, Debug)]
pub(crate) struct PathMemory {
    paths: KnownPaths,
    host: Host,
    known: Option<KnownPath>,
}

impl KnownPaths {
    pub(crate) fn of(&self, now: Instant, host: Host) -> PathMemory {
        let known = lock_unmodelled(&self.0).get(host).copied();
        PathMemory {
            paths: self.clone(),
            host,
            known: known.filter(|known| !known.is_over(now)),
        }
    }
}

impl PathMemory {
    /// What was known when the connection began.
    pub(crate) fn known(&self) -> Option<KnownPath> {
        self.known
    }

    /// Notes that `window` bytes were acknowledged in a least round trip.
    pub(super) fn note(&self, now: Instant, rtt: Duration, window: u64) {
        let known = KnownPath {
            rtt,
            window: window.min(MOST_WINDOW_BYTES),
            until: now + REMEMBERED,
        };
        lock_unmodelled(&self.paths.0).note(now, self.host, known);
    }

    pub(super) fn forget(&self) {
        lock_unmodelled(&self.paths.0).forget(self.host);
    }
}

impl KnownPath {
    /// What a connection should assume until it has measured a round trip, instead of `usual`.
    pub(crate) fn initial_rtt(&self, usual: Duration) -> Duration {
        self.rtt.max(LEAST_INITIAL_RTT).min(usual)
    }

    /// What may be in flight on this path with a round trip of `rtt`, before it is seen that it
    /// still takes as much: half of what it took. `None` if it is another path now.
    ///
    /// The rate is never more than half of what it was, so less fits into a shorter round trip.
    pub(super) fn jump(&self, rtt: Duration) -> Option<u64> {
        let is_same = 2 * rtt >= self.rtt && rtt <= MOST_LONGER * self.rtt;
        let part = rtt.as_secs_f64() / self.rtt.as_secs_f64();
        is_same.then(|| (self.window as f64 / 2.0 * part.min(1.0)) as u64)
    }
}

impl Passing for KnownPath {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_over(now)
    }
}

/// Half of it is as much as the first send window holds.
const MOST_WINDOW_BYTES: u64 = 20_000_000;

/// Paths and what else they carry change in hours; wrong memories cost a round trip of losses.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A peer on a near host may be busy. Its first answer is waited for three times as long.
const LEAST_INITIAL_RTT: Duration = Duration::from_millis(50);

/// Other traffic may make a path longer, and nothing makes it shorter (RFC 9959).
const MOST_LONGER: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    const RTT: Duration = Duration::from_millis(60);

    fn host() -> Host {
        Host::of([192, 0, 2, 1].into())
    }

    fn known(window: u64) -> KnownPath {
        let (paths, now) = (KnownPaths::default(), clock::now());
        paths.of(now, host()).note(now, RTT, window);
        paths.of(now, host()).known().unwrap()
    }

    #[test]
    fn half_of_what_the_path_took_is_tried_and_never_at_a_higher_rate() {
        let path = known(6_000_000);
        assert_eq!(path.jump(RTT), Some(3_000_000));
        assert_eq!(path.jump(5 * RTT), Some(3_000_000));
        assert_eq!(path.jump(RTT / 2), Some(1_500_000));
    }

    #[test]
    fn path_with_another_round_trip_is_another_path() {
        let path = known(6_000_000);
        assert_eq!(path.jump(RTT / 2 - Duration::from_millis(1)), None);
        assert!(path.jump(10 * RTT).is_some());
        assert_eq!(path.jump(10 * RTT + Duration::from_millis(1)), None);
    }

    #[test]
    fn nobody_is_remembered_with_more_than_a_send_window() {
        assert_eq!(known(u64::MAX).jump(RTT), Some(MOST_WINDOW_BYTES / 2));
    }

    #[test]
    fn initial_round_trip_has_bounds() {
        let usual = Duration::from_millis(333);
        let path = known(100_000);
        assert_eq!(path.initial_rtt(usual), RTT);
        assert_eq!(path.initial_rtt(RTT / 2), RTT / 2, "what was set");
        let near = KnownPath {
            rtt: RTT / 100,
            ..path
        };
        assert_eq!(near.initial_rtt(usual), LEAST_INITIAL_RTT);
    }

    #[test]
    fn path_is_forgotten_after_an_hour_or_when_it_was_wrong() {
        let (paths, now) = (KnownPaths::default(), clock::now());
        let memory = paths.of(now, host());
        assert_eq!(memory.known(), None);
        memory.note(now, RTT, 100_000);
        let late = now + REMEMBERED - Duration::from_secs(1);
        assert!(paths.of(late, host()).known().is_some());
        assert_eq!(paths.of(now + REMEMBERED, host()).known(), None);
        memory.forget();
        assert_eq!(paths.of(now, host()).known(), None);
    }
}
