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
    is_dialled: bool,
}

impl KnownPaths {
    /// For a connection that we dial, or accept. A link-local address is another host on each link.
    pub(crate) fn of(&self, now: Instant, host: Host, is_dialled: bool) -> Option<PathMemory> {
        if host.is_link_local() {
            return None;
        }
        let known = lock_unmodelled(&self.0).get(host).copied();
        Some(PathMemory {
            paths: self.clone(),
            host,
            known: known.filter(|known| !known.is_over(now)),
            is_dialled,
        })
    }
}

impl PathMemory {
    /// Whether something was known when the connection began.
    pub(super) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// What the connection should assume until it has measured a round trip, instead of `usual`.
    ///
    /// One that we accept assumes `usual`: quinn-proto takes the same value for the path of a peer
    /// that moves, on which nothing is known. If that path is slower, the time for its validation
    /// would be over too early (RFC 9000 §8.2.4).
    pub(crate) fn initial_rtt(&self, usual: Duration) -> Duration {
        let known = self.known.filter(|_| self.is_dialled);
        known.map_or(usual, |known| known.initial_rtt(usual))
    }

    /// Takes out what is known now, and what may be in flight with it, if that is more than
    /// `window`. So only one connection tries it at a time.
    ///
    /// The round trip must be the same as it was, the `least` one and the `latest`.
    pub(super) fn take(
        &self,
        now: Instant,
        least: Duration,
        latest: Duration,
        window: u64,
    ) -> Option<(KnownPath, u64)> {
        let mut paths = lock_unmodelled(&self.paths.0);
        let known = *paths.get(self.host)?;
        if known.is_over(now) || !known.is_same(latest) {
            return None;
        }
        let jump = known.jump(least).filter(|&jump| jump > window)?;
        paths.forget(self.host);
        Some((known, jump))
    }

    /// Puts back what was taken, which was not wrong, unless more is known by now.
    pub(super) fn put_back(&self, now: Instant, taken: KnownPath) {
        let mut paths = lock_unmodelled(&self.paths.0);
        if !taken.is_over(now) && taken.is_more(now, paths.get(self.host)) {
            paths.note(now, self.host, taken);
        }
    }

    /// Notes that `window` bytes were acknowledged in a least round trip, if that is more than what
    /// is known. Less counts only where it `is_limit` of the path, and after a while.
    pub(super) fn note(&self, now: Instant, rtt: Duration, window: u64, is_limit: bool) {
        let new = KnownPath {
            rtt,
            window: window.min(MOST_WINDOW_BYTES),
            until: now + REMEMBERED,
        };
        let mut paths = lock_unmodelled(&self.paths.0);
        let known = paths.get(self.host);
        let has_stood = |known: &KnownPath| known.until + RENEWED <= new.until;
        if new.is_more(now, known) || (is_limit && known.is_some_and(has_stood)) {
            paths.note(now, self.host, new);
        }
    }

    pub(super) fn forget(&self) {
        lock_unmodelled(&self.paths.0).forget(self.host);
    }
}

impl KnownPath {
    fn initial_rtt(&self, usual: Duration) -> Duration {
        self.rtt.max(LEAST_INITIAL_RTT).min(usual)
    }

    /// Whether it is more than what is `known`.
    fn is_more(&self, now: Instant, known: Option<&Self>) -> bool {
        known.is_none_or(|known| known.is_over(now) || self.window > known.window)
    }

    /// Whether a path with a round trip of `rtt` may be this one.
    fn is_same(&self, rtt: Duration) -> bool {
        2 * rtt >= self.rtt && rtt <= MOST_LONGER * self.rtt
    }

    /// What may be in flight on this path with a round trip of `rtt`, before it is seen that it
    /// still takes as much: half of what it took. `None` if it is another path now.
    ///
    /// The rate is never more than half of what it was, so less fits into a shorter round trip.
    fn jump(&self, rtt: Duration) -> Option<u64> {
        let part = rtt.as_secs_f64() / self.rtt.as_secs_f64();
        self.is_same(rtt)
            .then(|| (self.window as f64 / 2.0 * part.min(1.0)) as u64)
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

/// How long a larger value stands.
pub(super) const RENEWED: Duration = Duration::from_secs(10);

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
        memory(&paths, now).note(now, RTT, window, false);
        memory(&paths, now).known.unwrap()
    }

    fn memory(paths: &KnownPaths, now: Instant) -> PathMemory {
        paths.of(now, host(), true).unwrap()
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

    /// quinn-proto takes it for the paths of a peer that moves as well.
    #[test]
    fn connection_that_we_accept_begins_with_the_round_trip_that_was_set() {
        let usual = Duration::from_millis(333);
        let (paths, now) = (KnownPaths::default(), clock::now());
        memory(&paths, now).note(now, RTT, 100_000, false);
        let initial_rtt = |is_dialled| {
            let memory = paths.of(now, host(), is_dialled).unwrap();
            memory.initial_rtt(usual)
        };
        assert_eq!([true, false].map(initial_rtt), [RTT, usual]);
    }

    #[test]
    fn path_is_forgotten_after_an_hour_or_when_it_was_wrong() {
        let (paths, now) = (KnownPaths::default(), clock::now());
        let first = memory(&paths, now);
        assert!(!first.is_known());
        first.note(now, RTT, 100_000, false);
        let late = now + REMEMBERED - Duration::from_secs(1);
        assert!(memory(&paths, late).is_known());
        assert!(!memory(&paths, now + REMEMBERED).is_known());
        first.forget();
        assert!(!memory(&paths, now).is_known());
    }

    #[test]
    fn one_connection_at_a_time_takes_what_is_known_while_it_is_true() {
        let (paths, now) = (KnownPaths::default(), clock::now());
        let [one, other] = [(); 2].map(|()| {
            memory(&paths, now).note(now, RTT, 100_000, false);
            memory(&paths, now)
        });
        assert_eq!(one.take(now + REMEMBERED, RTT, RTT, 0), None, "too late");
        assert_eq!(one.take(now, RTT, 11 * RTT, 0), None, "longer by now");
        assert_eq!(one.take(now, RTT, RTT, 50_000), None, "has as much");
        let (taken, jump) = one.take(now, RTT, RTT, 49_999).unwrap();
        assert_eq!(jump, 50_000);
        assert_eq!(other.take(now, RTT, RTT, 0), None);
        one.put_back(now, taken);
        assert!(other.take(now, RTT, RTT, 0).is_some());
        other.note(now, RTT, 200_000, false);
        one.put_back(now, taken);
        assert_eq!(memory(&paths, now).known.unwrap().window, 200_000);
    }

    #[test]
    fn less_counts_only_where_the_path_is_the_limit_and_after_a_while() {
        let (paths, now) = (KnownPaths::default(), clock::now());
        let window = || memory(&paths, now).known.unwrap().window;
        memory(&paths, now).note(now, RTT, 6_000_000, false);
        let early = now + RENEWED - Duration::from_millis(1);
        for (at, is_limit) in [(now + RENEWED, false), (early, true)] {
            memory(&paths, at).note(at, RTT, 48_000, is_limit);
            assert_eq!(window(), 6_000_000);
        }
        memory(&paths, now).note(now + RENEWED, RTT, 48_000, true);
        assert_eq!(window(), 48_000);
    }

    #[test]
    fn link_local_address_is_not_remembered() {
        let now = clock::now();
        let of = |ip: &str| KnownPaths::default().of(now, Host::of(ip.parse().unwrap()), true);
        assert!(of("fe80::1").is_none());
        assert!(of("2001:db8::1").is_some());
    }
}
