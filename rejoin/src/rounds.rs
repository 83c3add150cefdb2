//! When peers are dialled: in rounds, with more and more time between them.

use std::time::Duration;

use rand::{Rng, RngExt};
use web_time::Instant;

use crate::config::Backoff;

#[derive(Debug)]
pub(crate) struct Rounds {
    backoff: Backoff,
    /// Rounds since the start or since [`Rounds::restart`].
    number: u32,
    /// When the last round began.
    begun: Option<Instant>,
    /// When the next round may begin; the first one at once.
    next: Option<Instant>,
}

impl Rounds {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            number: 0,
            begun: None,
            next: None,
        }
    }

    /// When the next round may begin; `None` at once.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Begins a round, and tells whether it dials bootstrap addresses: all but the first do.
    pub(crate) fn begin(&mut self, now: Instant, rng: &mut impl Rng) -> bool {
        let bootstrap = self.number > 0;
        // Nodes that have started together do not dial the same bootstrap peer together.
        let delay = self.delay().mul_f64(rng.random_range(0.75..=1.25));
        self.number = self.number.saturating_add(1);
        self.begun = Some(now);
        self.next = Some(now + delay);
        bootstrap
    }

    /// Begins from the first round, as at the start: a connection that had lasted is lost. There is
    /// still the initial backoff between two rounds, however many connections are lost.
    pub(crate) fn restart(&mut self) {
        self.number = 0;
        self.next = self.begun.map(|begun| begun + self.backoff.initial);
    }

    fn delay(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.number).unwrap_or(u32::MAX);
        self.backoff
            .initial
            .saturating_mul(factor)
            .min(self.backoff.longest)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{clock, config::Config};

    fn is_due(rounds: &Rounds, now: Instant) -> bool {
        rounds.next().is_none_or(|next| next <= now)
    }

    #[test]
    fn the_time_between_rounds_doubles_up_to_the_longest() {
        let initial = Duration::from_secs(2);
        let longest = Duration::from_secs(300);
        let mut rounds = Rounds::new(Backoff { initial, longest });
        let mut rng = StdRng::seed_from_u64(1);
        let mut now = clock::now();
        let mut plain = initial;
        for number in 0..100 {
            assert!(is_due(&rounds, now), "round {number}");
            assert_eq!(rounds.begin(now, &mut rng), number > 0);
            assert!(!is_due(&rounds, now));
            let next = rounds.next().unwrap();
            let delay = next - now;
            assert!(
                delay >= plain.mul_f64(0.749) && delay <= plain.mul_f64(1.251),
                "{delay:?}"
            );
            plain = (plain * 2).min(longest);
            now = next;
        }
    }

    #[test]
    fn bootstrap_peers_are_dialled_within_seconds_of_the_start() {
        let mut rounds = Rounds::new(Config::default().backoff);
        let mut rng = StdRng::seed_from_u64(2);
        let start = clock::now();
        assert!(!rounds.begin(start, &mut rng));
        let second = rounds.next().unwrap();
        assert!(second - start <= Duration::from_millis(2500));
        assert!(rounds.begin(second, &mut rng));
    }

    #[test]
    fn a_restart_begins_from_the_first_round() {
        let mut rounds = Rounds::new(Config::default().backoff);
        let mut rng = StdRng::seed_from_u64(3);
        let mut now = clock::now();
        for _ in 0..5 {
            rounds.begin(now, &mut rng);
            now = rounds.next().unwrap();
        }
        rounds.begin(now, &mut rng);
        now += Duration::from_secs(2);
        assert!(!is_due(&rounds, now));
        rounds.restart();
        assert!(is_due(&rounds, now));
        assert!(!rounds.begin(now, &mut rng));
    }

    #[test]
    fn no_number_of_restarts_makes_rounds_follow_each_other_at_once() {
        let mut rounds = Rounds::new(Config::default().backoff);
        let mut rng = StdRng::seed_from_u64(4);
        let now = clock::now();
        rounds.begin(now, &mut rng);
        rounds.restart();
        assert!(!is_due(&rounds, now + Duration::from_millis(1999)));
    }
}
