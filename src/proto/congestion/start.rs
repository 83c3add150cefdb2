//! Slow start, until it is seen what the path takes.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

/// What becomes of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// It grows as it would.
    Grow,
    /// It stays.
    Wait,
    /// It is this at most.
    Fit(f64),
    /// It is this at least.
    Follow(f64),
    /// It is this at most, and slow start is over.
    End(f64),
}

/// The first slow start of a path.
///
/// While the window doubles in each round trip, a queue is first seen when it is already as long as
/// the path, a round trip later. So it is not enough to stop there, as HyStart++ does (RFC 9406):
/// the window falls back to what the path has delivered in its least round trip, and a little more,
/// and follows that. If no more is delivered than before, the path is full, or the delay is that of
/// others: acknowledgements wait behind the data that the peer sends. The window that was to fill
/// the path is too small for the longer round trips, and the rate is level because the window is. A
/// trial tells: the window follows as if the delay were no queue of ours. If that delivers no more
/// either, slow start is over. If it was some other delay, it is gone after a while, or stays as
/// long as it was with the smaller window: slow start goes on, and all it has lost is time.
#[derive(Clone, Debug)]
pub(super) struct Start {
    state: State,
    delivery: Delivery,
    recent: Recent,
    /// The least round-trip time, without a queue of ours.
    base: Duration,
}

/// The newest of some packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newest {
    pub(super) sent: Instant,
    /// As it was known before these packets.
    pub(super) smoothed_rtt: Duration,
}

#[derive(Clone, Debug)]
enum State {
    Doubling,
    Following(Following),
    /// The first loss was then. What was lost does not tell by how much the window was too large;
    /// what is delivered in the next round trip does.
    Lost(Instant),
}

#[derive(Clone, Debug)]
struct Following {
    /// That of the rounds that count as level, and of the last round.
    rate: f64,
    /// What the delay was when it was last level: in a trial, it is taken for that of others.
    others: Option<Duration>,
    round: Round,
    /// Rounds in a row that were as fast as that.
    level: u8,
    /// Rounds in a row that met no queue, or a delay that is too long to be one of ours.
    idle: u8,
}

/// One round trip.
#[derive(Clone, Debug)]
struct Round {
    began: Instant,
    least: Duration,
    has_queue: bool,
}

impl Round {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            least: Duration::MAX,
            has_queue: false,
        }
    }
}

impl Following {
    fn begin(now: Instant, rate: f64) -> Self {
        Self {
            rate,
            others: None,
            round: Round::begin(now),
            level: 0,
            idle: 0,
        }
    }

    /// A round is over; returns what it was.
    fn next(&mut self, now: Instant, rate: f64, base: Duration) -> Round {
        let round = mem::replace(&mut self.round, Round::begin(now));
        let is_same = (self.rate / FASTER..=self.rate * FASTER).contains(&rate);
        if !round.has_queue || round.least > MOST_ROUND_TRIPS * (base + LEAST_DELAY) {
            self.idle += 1;
        } else {
            self.idle = 0;
            self.level = if is_same { self.level + 1 } else { 0 };
        }
        self.rate = if is_same { self.rate.max(rate) } else { rate };
        round
    }
}

impl Start {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Doubling,
            delivery: Delivery::new(now),
            recent: Recent::default(),
            base: Duration::MAX,
        }
    }

    pub(super) fn note_sent(&mut self, now: Instant) {
        self.delivery.note_sent(now);
    }

    /// Notes bytes that were acknowledged together.
    pub(super) fn note_acknowledged(
        &mut self,
        now: Instant,
        bytes: u64,
        newest: Newest,
        is_used: bool,
    ) -> Step {
        let rtt = now.saturating_duration_since(newest.sent);
        self.base = self.base.min(rtt);
        let rate = (self.delivery).note_acknowledged(now, bytes, newest.sent, self.base);
        if let State::Lost(at) = self.state {
            return match rate {
                Some(rate) if newest.sent > at && is_used => Step::End(fitting(rate, self.base)),
                // How fast the application sends says nothing of the path.
                Some(_) if newest.sent > at => Step::End(f64::INFINITY),
                _ => Step::Grow,
            };
        }
        if !is_used {
            self.recent = Recent::default();
            return Step::Wait;
        }
        self.recent.add(rtt);
        let (Some(rate), Some(rtt)) = (rate, self.recent.least()) else {
            return Step::Grow;
        };
        let others = match &self.state {
            State::Following(following) => following.others.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let base = self.base + others;
        let queued = rtt.saturating_sub(base);
        let limit = (self.base / 8).clamp(LEAST_DELAY, MOST_DELAY);
        match &mut self.state {
            State::Doubling if queued >= limit => {
                self.state = State::Following(Following::begin(now, rate));
                Step::Fit(fitting(rate, self.base))
            }
            State::Doubling | State::Lost(_) => Step::Grow,
            State::Following(following) => {
                following.round.least = following.round.least.min(rtt);
                following.round.has_queue |= queued >= limit / 2;
                if newest.sent >= following.round.began {
                    let round = following.next(now, rate, base);
                    if following.level >= LEVEL_ROUNDS {
                        if following.others.is_some() {
                            return Step::End(following.rate * base.as_secs_f64());
                        }
                        following.level = 0;
                        let delay = rtt.saturating_sub(self.base);
                        following.others = Some(delay.max(spare(self.base)));
                    }
                    if following.idle >= ROUNDS {
                        // The way may have become longer.
                        self.base = round.least;
                        self.recent = Recent::default();
                        self.state = State::Doubling;
                        return Step::Grow;
                    }
                }
                Step::Follow(fitting(rate, base))
            }
        }
    }

    pub(super) fn note_congestion(&mut self, now: Instant) {
        self.state = State::Lost(now);
    }
}

/// The window that fills a path with this `rate`, in bytes per second.
///
/// A quarter more than the path holds is what it takes to see whether it can deliver more. Hosts
/// that wake up late hold some milliseconds' worth themselves.
fn fitting(rate: f64, rtt: Duration) -> f64 {
    rate * (rtt + spare(rtt)).as_secs_f64()
}

/// What is in flight beyond what the path holds, as a time.
fn spare(rtt: Duration) -> Duration {
    (rtt / 4).max(LEAST_DELAY)
}

/// What was delivered, and how fast.
#[derive(Clone, Debug)]
struct Delivery {
    bytes: u64,
    /// What was delivered when something was sent; the oldest is that of the newest packet that was
    /// acknowledged, or of one a little before it.
    marks: VecDeque<Mark>,
    /// Between marks.
    distance: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    time: Instant,
    delivered: u64,
}

impl Delivery {
    fn new(now: Instant) -> Self {
        Self {
            bytes: 0,
            marks: VecDeque::from([Mark {
                time: now,
                delivered: 0,
            }]),
            distance: Duration::ZERO,
        }
    }

    fn note_sent(&mut self, now: Instant) {
        let is_due = (self.marks.back())
            .is_none_or(|mark| now.saturating_duration_since(mark.time) > self.distance);
        if is_due && self.marks.len() < MOST_MARKS {
            self.marks.push_back(Mark {
                time: now,
                delivered: self.bytes,
            });
        }
    }

    /// Returns the rate in the last round trip, in bytes per second.
    fn note_acknowledged(
        &mut self,
        now: Instant,
        bytes: u64,
        sent: Instant,
        base: Duration,
    ) -> Option<f64> {
        self.bytes += bytes;
        self.distance = base / MARKS_PER_RTT;
        while self.marks.get(1).is_some_and(|mark| mark.time <= sent) {
            self.marks.pop_front();
        }
        let mark = self.marks.front().filter(|mark| mark.time <= sent)?;
        let time = now.saturating_duration_since(mark.time).as_secs_f64();
        (time > 0.0).then(|| (self.bytes - mark.delivered) as f64 / time)
    }
}

/// The last round-trip times.
#[derive(Clone, Debug, Default)]
struct Recent {
    samples: [Duration; SAMPLES],
    count: usize,
}

impl Recent {
    fn add(&mut self, sample: Duration) {
        self.samples[self.count % SAMPLES] = sample;
        self.count += 1;
    }

    /// The least of the last [`SAMPLES`]: a queue delays all of them, and anything else only some.
    fn least(&self) -> Option<Duration> {
        (self.count >= SAMPLES)
            .then(|| self.samples.iter().min().copied())
            .flatten()
    }
}

/// RFC 9406 §4.3: N_RTT_SAMPLE.
const SAMPLES: usize = 8;

/// RFC 9406 §4.3: MIN_RTT_THRESH and MAX_RTT_THRESH.
const LEAST_DELAY: Duration = Duration::from_millis(4);
const MOST_DELAY: Duration = Duration::from_millis(16);

/// A round is faster or slower if its rate differs by this factor. Where the path is not full, the
/// window lets a round be faster by a quarter. Slower ones tell nothing: others have sent more, or
/// nothing was sent until the packets that were too many had arrived.
const FASTER: f64 = 1.1;

/// Round trips with a window that fits, or with half of the one that first met a queue, are at most
/// this many times the least one.
const MOST_ROUND_TRIPS: u32 = 2;

/// Rounds of the same rate that tell something. The first one may still be of the window before.
const LEVEL_ROUNDS: u8 = 2;

/// Rounds without a queue of ours after which the path counts as not full. The packets that were
/// too many take one or two rounds to arrive or to be found lost, and nothing is sent meanwhile.
const ROUNDS: u8 = 3;

/// A mark each sixteenth of the least round trip, and queues of up to seven times as much.
const MARKS_PER_RTT: u32 = 16;
const MOST_MARKS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    const RTT: Duration = Duration::from_millis(50);

    /// What the packets tell that are sent after the first loss, 12 KB in a round trip.
    fn after_a_loss(is_used: bool) -> Step {
        let began = clock::now();
        let mut start = Start::new(began);
        let acknowledge = |start: &mut Start, sent: Instant| {
            let newest = Newest {
                sent,
                smoothed_rtt: RTT,
            };
            start.note_acknowledged(sent + RTT, 12_000, newest, is_used)
        };
        start.note_congestion(began + RTT);
        let step = acknowledge(&mut start, began);
        assert_eq!(step, Step::Grow, "it was sent before");
        let sent = began + 2 * RTT;
        start.note_sent(sent);
        acknowledge(&mut start, sent)
    }

    #[test]
    fn start_ends_a_round_trip_after_the_first_loss_with_the_window_that_fits() {
        assert_eq!(after_a_loss(true), Step::End(fitting(240_000.0, RTT)));
    }

    #[test]
    fn application_that_sends_little_after_the_first_loss_does_not_lower_the_window() {
        assert_eq!(after_a_loss(false), Step::End(f64::INFINITY));
    }
}
