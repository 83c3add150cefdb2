//! How fast a path delivers (draft-ietf-ccwg-bbr §4.1).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Samples the delivery rate.
///
/// The draft keeps state for each packet, or for each batch of them. quinn-proto tells of packets
/// by the time when they were sent, so here it is kept for each such time: a mark.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    /// From the oldest to the newest.
    marks: VecDeque<Mark>,
    /// Bytes, of all time.
    delivered: u64,
    lost: u64,
    delivered_at: Instant,
    /// When the newest packet was sent that was delivered, or the first one after a silence.
    first_sent: Instant,
    /// Until more is delivered than this, samples are limited by the application.
    app_limited: Option<u64>,
    in_flight: u64,
    least_rtt: Duration,
    batch: Batch,
    /// When the newest packet was sent of what was acknowledged last, and its round trip.
    newest: Option<(Instant, Duration)>,
}

/// What was known when something was sent.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sent: Instant,
    /// When the last packet was sent that has this mark.
    until: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    lost: u64,
    /// With what was sent.
    in_flight: u64,
    is_app_limited: bool,
    /// Bytes that were neither acknowledged nor lost, or more: some may need no acknowledgement.
    unsettled: u64,
}

/// What was acknowledged together.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    bytes: u64,
    newest: Option<Newest>,
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    sent: Instant,
    /// `None` if it was sent without our knowing, as probes of the MTU are.
    mark: Option<Mark>,
}

/// What acknowledgements tell (RS in the draft). Amounts are in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) newly_acked: u64,
    /// What was in flight before.
    pub(super) was_in_flight: u64,
    pub(super) rtt: Duration,
    /// When the newest packet was sent.
    pub(super) sent: Option<Instant>,
    /// The rest is zero if it is not known when that was.
    pub(super) delivered: u64,
    /// What was delivered when the newest packet was sent.
    pub(super) prior_delivered: Option<u64>,
    /// In bytes per second; 0 if there was too little time to tell.
    pub(super) rate: f64,
    pub(super) is_app_limited: bool,
    /// What was in flight when it was sent.
    pub(super) sent_in_flight: u64,
    /// What was lost since then.
    pub(super) lost: u64,
}

/// Packets with the same mark that were lost together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lost {
    pub(super) bytes: u64,
    /// What was in flight when they were sent.
    pub(super) sent_in_flight: u64,
    /// What was lost since then, with them.
    pub(super) lost: u64,
    pub(super) is_app_limited: bool,
}

impl Sampler {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            marks: VecDeque::new(),
            delivered: 0,
            lost: 0,
            delivered_at: now,
            first_sent: now,
            app_limited: None,
            in_flight: 0,
            least_rtt: Duration::MAX,
            batch: Batch::default(),
            newest: None,
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) fn is_app_limited(&self) -> bool {
        self.app_limited.is_some()
    }

    /// MarkConnectionAppLimited.
    pub(super) fn note_app_limited(&mut self) {
        self.app_limited = Some(self.delivered + self.in_flight);
    }

    /// OnPacketSent, for packets that were sent together.
    pub(super) fn note_sent(&mut self, now: Instant, bytes: u64) {
        self.forget_settled(now);
        if self.in_flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
            self.marks.clear();
        }
        self.in_flight += bytes;
        let distance = self.distance();
        let is_full = self.marks.len() >= MOST_MARKS;
        match self.marks.back_mut() {
            Some(mark) if is_full || now.saturating_duration_since(mark.sent) <= distance => {
                mark.until = now;
                mark.in_flight = self.in_flight;
                mark.unsettled += bytes;
                mark.is_app_limited |= self.app_limited.is_some();
            }
            _ => self.marks.push_back(Mark {
                sent: now,
                until: now,
                delivered: self.delivered,
                delivered_at: self.delivered_at,
                first_sent: self.first_sent,
                lost: self.lost,
                in_flight: self.in_flight,
                is_app_limited: self.app_limited.is_some(),
                unsettled: bytes,
            }),
        }
    }

    /// UpdateRateSample.
    pub(super) fn note_acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        self.batch.bytes += bytes;
        let rtt = now.saturating_duration_since(sent);
        self.least_rtt = self.least_rtt.min(rtt);
        let index = self.marks.partition_point(|mark| mark.sent <= sent);
        let mark = index.checked_sub(1).and_then(|i| self.marks.get_mut(i));
        let mark = mark.filter(|mark| sent <= mark.until).map(|mark| {
            mark.unsettled = mark.unsettled.saturating_sub(bytes);
            *mark
        });
        let newest = &mut self.batch.newest;
        if newest.is_none_or(|newest| sent >= newest.sent) {
            *newest = Some(Newest { sent, mark });
        }
    }

    /// GenerateRateSample. `in_flight` is what is left; what is lost is still part of it.
    pub(super) fn end_batch(&mut self, now: Instant, in_flight: u64) -> Option<Sample> {
        let batch = std::mem::take(&mut self.batch);
        self.in_flight = in_flight;
        if self.app_limited.is_some_and(|until| self.delivered > until) {
            self.app_limited = None;
        }
        let newest = batch.newest?;
        let sample = Sample {
            newly_acked: batch.bytes,
            was_in_flight: in_flight + batch.bytes,
            rtt: now.saturating_duration_since(newest.sent),
            sent: Some(newest.sent),
            is_app_limited: self.app_limited.is_some(),
            ..Sample::default()
        };
        self.newest = Some((newest.sent, sample.rtt));
        let Some(mark) = newest.mark else {
            return Some(sample);
        };
        self.first_sent = newest.sent;
        let sending = newest.sent.saturating_duration_since(mark.first_sent);
        let acking = now.saturating_duration_since(mark.delivered_at);
        let interval = sending.max(acking);
        let delivered = self.delivered - mark.delivered;
        let is_reliable = interval >= self.least_rtt && !interval.is_zero();
        Some(Sample {
            delivered,
            prior_delivered: Some(mark.delivered),
            rate: if is_reliable {
                delivered as f64 / interval.as_secs_f64()
            } else {
                0.0
            },
            is_app_limited: mark.is_app_limited,
            sent_in_flight: mark.in_flight,
            lost: self.lost - mark.lost,
            ..sample
        })
    }

    /// Notes a loss, and returns what was lost. `sent` is when the newest lost packet was sent.
    ///
    /// quinn-proto does not say which packets were lost. But when it declares one lost, all that
    /// were sent before it are either acknowledged or lost too (RFC 9002 §6.1). `bytes` may include
    /// packets of another path, for which there is no mark and which do not count.
    pub(super) fn note_lost(&mut self, sent: Instant, bytes: u64) -> Vec<Lost> {
        let mut left = bytes;
        let mut lost = Vec::new();
        for mark in &mut self.marks {
            if mark.sent > sent || left == 0 {
                break;
            }
            let bytes = mark.unsettled.min(left);
            mark.unsettled -= bytes;
            if bytes == 0 {
                continue;
            }
            left -= bytes;
            self.lost += bytes;
            lost.push(Lost {
                bytes,
                sent_in_flight: mark.in_flight,
                lost: self.lost - mark.lost,
                is_app_limited: mark.is_app_limited,
            });
        }
        self.in_flight = self.in_flight.saturating_sub(bytes - left);
        while self.marks.front().is_some_and(|mark| mark.until < sent) {
            self.marks.pop_front();
        }
        lost
    }

    /// Forgets marks that nothing will ask for any more.
    ///
    /// Not with an acknowledgement: what it shows to be lost is told only after it.
    fn forget_settled(&mut self, now: Instant) {
        let Some((newest, rtt)) = self.newest else {
            return;
        };
        let patience = 4 * rtt + TAIL;
        while let Some(mark) = self.marks.front()
            && mark.until < newest
            && (mark.unsettled == 0 || now.saturating_duration_since(mark.until) > patience)
        {
            self.marks.pop_front();
        }
    }

    fn distance(&self) -> Duration {
        if self.least_rtt == Duration::MAX {
            Duration::ZERO
        } else {
            self.least_rtt / MARKS_PER_RTT
        }
    }
}

/// How long the end of a flight may be lost before a probe timeout shows it, beside round trips:
/// twice the delay that peers add to acknowledgements, and timers of ours.
const TAIL: Duration = Duration::from_millis(100);

/// Marks are this many to the least round trip. In a longer queue there are more.
const MARKS_PER_RTT: u32 = 64;

/// Marks that are kept at most. Beyond, the newest one is stretched.
const MOST_MARKS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1_000;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Packets are sent and acknowledged at the same rate, one each millisecond, 20 ms later.
    struct Pipe {
        sampler: Sampler,
        began: Instant,
    }

    impl Pipe {
        fn new() -> Self {
            let began = crate::net::clock::now();
            Self {
                sampler: Sampler::new(began),
                began,
            }
        }

        fn at(&self, time: u64) -> Instant {
            self.began + ms(time)
        }

        fn send(&mut self, time: u64) {
            self.sampler.note_sent(self.at(time), PACKET);
        }

        fn acknowledge(&mut self, time: u64, sent: u64) -> Sample {
            let in_flight = self.sampler.in_flight() - PACKET;
            let (now, sent) = (self.at(time), self.at(sent));
            self.sampler.note_acknowledged(now, sent, PACKET);
            self.sampler.end_batch(now, in_flight).unwrap()
        }

        /// Until the acknowledgement at `end` has come.
        fn run(&mut self, end: u64) -> Sample {
            let mut sample = Sample::default();
            for time in 0..=end {
                if time >= 20 {
                    sample = self.acknowledge(time, time - 20);
                }
                self.send(time);
            }
            sample
        }
    }

    #[test]
    fn rate_is_that_at_which_packets_are_delivered() {
        let sample = Pipe::new().run(100);
        assert!((sample.rate - 1e6).abs() < 1e4, "{sample:?}");
        assert_eq!(sample.rtt, ms(20));
        assert_eq!(sample.delivered, 20 * PACKET);
        assert_eq!(sample.sent_in_flight, 20 * PACKET);
        assert!(!sample.is_app_limited);
    }

    /// Acknowledgements that were held up on their way come faster than packets were sent.
    #[test]
    fn acknowledgements_that_come_at_once_are_no_faster_than_what_was_sent() {
        let mut pipe = Pipe::new();
        pipe.run(100);
        for time in 101..=120 {
            pipe.send(time);
        }
        let sent: Vec<_> = (81..=120).collect();
        let rates: Vec<_> = sent
            .into_iter()
            .map(|sent| pipe.acknowledge(140, sent).rate)
            .collect();
        assert!(rates.iter().all(|&rate| rate < 1.1e6), "{rates:?}");
        assert!(rates.iter().any(|&rate| rate > 0.9e6), "{rates:?}");
    }

    #[test]
    fn silence_is_no_part_of_a_rate() {
        let mut pipe = Pipe::new();
        pipe.run(100);
        for sent in 81..=100 {
            pipe.acknowledge(sent + 20, sent);
        }
        assert_eq!(pipe.sampler.in_flight(), 0);
        let sent: Vec<_> = (5_000..5_010).collect();
        for &time in &sent {
            pipe.send(time);
        }
        let sample = pipe.acknowledge(5_020, 5_000);
        assert!((sample.rate - 5e4).abs() < 1.0, "a packet in a round trip");
    }

    #[test]
    fn what_is_sent_after_the_application_had_nothing_is_limited_by_it_for_a_round_trip() {
        let mut pipe = Pipe::new();
        pipe.run(100);
        pipe.sampler.note_app_limited();
        let mut limited = Vec::new();
        for time in 101..=160 {
            limited.push(pipe.acknowledge(time, time - 20).is_app_limited);
            pipe.send(time);
        }
        let first = limited.iter().position(|&is_limited| is_limited).unwrap();
        let last = limited.iter().rposition(|&is_limited| is_limited).unwrap();
        assert_eq!((first, last), (20, 39), "{limited:?}");
    }

    #[test]
    fn lost_packets_are_those_that_were_not_acknowledged_before() {
        let mut pipe = Pipe::new();
        for time in 0..10 {
            pipe.send(time);
        }
        for sent in [0, 1, 3, 4, 8] {
            pipe.acknowledge(20 + sent, sent);
        }
        let lost = pipe.sampler.note_lost(pipe.at(6), 3 * PACKET);
        let told: Vec<_> = lost
            .iter()
            .map(|lost| {
                (
                    lost.bytes / PACKET,
                    lost.sent_in_flight / PACKET,
                    lost.lost / PACKET,
                )
            })
            .collect();
        // Packets 2, 5 and 6 were sent with 3, 6 and 7 in flight.
        assert_eq!(told, [(1, 3, 1), (1, 6, 2), (1, 7, 3)]);
        assert_eq!(pipe.sampler.in_flight(), 2 * PACKET);
        let sample = pipe.acknowledge(40, 9);
        assert_eq!(sample.lost, 3 * PACKET);
    }

    /// Packets of the path before are told with the first one that is lost on this one.
    #[test]
    fn no_more_is_lost_than_was_sent_until_then() {
        let mut pipe = Pipe::new();
        for time in 0..10 {
            pipe.send(time);
        }
        pipe.acknowledge(20, 0);
        let lost = pipe.sampler.note_lost(pipe.at(1), 9 * PACKET);
        let [Lost { bytes: PACKET, .. }] = lost[..] else {
            panic!("{lost:?}");
        };
        assert_eq!(pipe.sampler.in_flight(), 8 * PACKET);
        assert_eq!(pipe.acknowledge(29, 9).lost, PACKET);
    }

    #[test]
    fn round_trip_has_64_marks_however_many_packets_it_has() {
        let mut pipe = Pipe::new();
        pipe.run(100);
        let before = pipe.sampler.marks.len();
        for time in (0..20_000).step_by(10) {
            let now = pipe.at(200) + Duration::from_micros(time);
            pipe.sampler.note_sent(now, 40);
        }
        let marks = pipe.sampler.marks.len() - before;
        assert!((60..=64).contains(&marks), "{marks}");
    }

    #[test]
    fn packets_without_an_answer_are_forgotten_four_round_trips_and_a_tail_later() {
        for (round_trip, is_kept) in [(9, false), (10, true)] {
            let mut pipe = Pipe::new();
            pipe.send(0);
            pipe.send(130);
            pipe.acknowledge(130 + round_trip, 130);
            let is_there = |pipe: &Pipe| pipe.sampler.marks[0].sent == pipe.began;
            assert!(is_there(&pipe), "it may be told now that they are lost");
            pipe.send(130 + round_trip);
            assert_eq!(is_there(&pipe), is_kept, "{round_trip} ms");
        }
    }

    /// What is sent and never acknowledged, as acknowledgements are, fills no memory.
    #[test]
    fn marks_are_few() {
        let mut pipe = Pipe::new();
        pipe.run(100);
        for time in 0..1_000_000 {
            let now = pipe.at(200) + Duration::from_micros(time);
            pipe.sampler.note_sent(now, 40);
        }
        assert!(pipe.sampler.marks.len() <= MOST_MARKS);
    }
}
