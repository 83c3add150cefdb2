//! A window that begins with what earlier connections have measured of the path (RFC 9959,
//! Careful Resume).

use std::time::{Duration, Instant};

use crate::proto::known_paths::{KnownPath, PathMemory, RENEWED};

/// What is remembered of one path, and what becomes of it. The window of the controller is raised
/// for a while, or lowered; the controller itself learns nothing of it but what is acknowledged.
///
/// Names of phases are those of the RFC. What it calls PipeSize is the window of the controller,
/// which grows in slow start by what is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Resume {
    memory: PathMemory,
    initial_window: u64,
    phase: Phase,
    attempt: Option<Attempt>,
    acknowledged: u64,
    least_rtt: Duration,
    batch: Batch,
    /// Bytes in flight, about.
    in_flight: u64,
    measure: Measure,
}

/// Packets that are acknowledged together.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    bytes: u64,
    newest_sent: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Sends as usual, and looks whether the path is still the same.
    Reconnaissance,
    /// Half of what the path took may be in flight, for a round trip.
    Unvalidated {
        began: Instant,
        window: u64,
    },
    /// What was sent in that round trip is acknowledged. No more is in flight than was then.
    Validating {
        began: Instant,
        window: u64,
    },
    /// Some of it was lost. Half of what had been acknowledged may be in flight until it is known
    /// what became of the rest.
    Retreat {
        began: Instant,
        window: u64,
    },
    Normal,
}

/// What was sent with more in flight than the controller would have let.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// What it relied on, which nobody else can try meanwhile.
    taken: KnownPath,
    began: Instant,
    ended: Option<Instant>,
    has_sent: bool,
}

impl Attempt {
    /// Whether a packet that was sent then is part of it.
    fn has(&self, sent: Instant) -> bool {
        self.began < sent && self.ended.is_none_or(|ended| sent <= ended)
    }
}

impl Resume {
    /// Without `may_jump`, the path is only measured.
    pub(super) fn new(
        memory: PathMemory,
        now: Instant,
        initial_window: u64,
        may_jump: bool,
    ) -> Self {
        let phase = if may_jump && memory.is_known() {
            Phase::Reconnaissance
        } else {
            Phase::Normal
        };
        Self {
            memory,
            initial_window,
            phase,
            attempt: None,
            acknowledged: 0,
            least_rtt: Duration::MAX,
            batch: Batch::default(),
            in_flight: 0,
            measure: Measure::new(now),
        }
    }

    /// The window, if the controller's is `inner`.
    pub(super) fn window(&self, inner: u64) -> u64 {
        match self.phase {
            Phase::Reconnaissance | Phase::Normal => inner,
            Phase::Unvalidated { window, .. } | Phase::Validating { window, .. } => {
                inner.max(window)
            }
            Phase::Retreat { window, .. } => inner.min(window),
        }
    }

    pub(super) fn note_sent(&mut self, now: Instant, bytes: u64) {
        // With packets that only acknowledge, which quinn-proto does not count.
        self.in_flight += bytes;
        // What an application sends later would be more than the acknowledgements bear.
        if let Phase::Unvalidated { began, .. } = self.phase {
            if let Some(attempt) = &mut self.attempt {
                attempt.has_sent = true;
            }
            if now > began + self.least_rtt {
                self.validate(now);
            }
        }
    }

    pub(super) fn note_acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.acknowledged += bytes;
        self.least_rtt = (self.least_rtt).min(now.saturating_duration_since(sent));
        self.batch.bytes += bytes;
        self.batch.newest_sent = self.batch.newest_sent.max(Some(sent));
    }

    /// `in_flight` bytes are left; the controller's window was `inner` before. Returns whether the
    /// controller is to be told now of the congestion that was kept from it.
    pub(super) fn end_batch(&mut self, now: Instant, in_flight: u64, inner: u64) -> bool {
        let batch = std::mem::take(&mut self.batch);
        self.in_flight = in_flight + batch.bytes;
        self.measure.note_in_flight(self.in_flight);
        let Some(sent) = batch.newest_sent else {
            self.in_flight = in_flight;
            return false;
        };
        let mut is_told = false;
        match self.phase {
            // Without use, it would be over before the application has something to send.
            Phase::Reconnaissance
                if self.acknowledged >= self.initial_window && 2 * self.in_flight >= inner =>
            {
                self.jump(now, now.saturating_duration_since(sent), inner);
            }
            Phase::Unvalidated { began, .. } if now > began && in_flight == 0 => self.succeed(now),
            Phase::Unvalidated { began, .. } if sent > began => self.validate(now),
            Phase::Validating { began, .. } if sent > began || in_flight == 0 => self.succeed(now),
            Phase::Retreat { began, .. } if sent > began => {
                self.phase = Phase::Normal;
                is_told = true;
            }
            _ => {}
        }
        self.in_flight = in_flight;
        let least = LEAST_INITIAL_WINDOWS * self.initial_window;
        if let Some(window) = (self.measure).end_batch(now, batch.bytes, sent, self.least_rtt)
            && window >= least
        {
            let is_limit = self.measure.is_limit(now, inner);
            self.memory.note(now, self.least_rtt, window, is_limit);
        }
        is_told
    }

    /// Whether the controller has not been told yet of a loss.
    fn withholds_congestion(&self) -> bool {
        matches!(self.phase, Phase::Retreat { .. })
    }

    /// The memory may have changed, or have become too old, since the connection began.
    fn jump(&mut self, now: Instant, latest_rtt: Duration, inner: u64) {
        self.phase = Phase::Normal;
        let taken = (self.memory).take(now, self.least_rtt, latest_rtt, inner);
        if let Some((taken, window)) = taken {
            self.phase = Phase::Unvalidated { began: now, window };
            self.attempt = Some(Attempt {
                taken,
                began: now,
                ended: None,
                has_sent: false,
            });
        }
    }

    fn validate(&mut self, now: Instant) {
        self.phase = Phase::Validating {
            began: now,
            window: self.in_flight,
        };
    }

    fn succeed(&mut self, now: Instant) {
        self.end_attempt(now, Phase::Normal);
        if let Some(attempt) = &self.attempt {
            self.memory.put_back(now, attempt.taken);
        }
    }

    fn end_attempt(&mut self, now: Instant, next: Phase) {
        self.phase = next;
        if let Some(attempt) = &mut self.attempt {
            attempt.ended = Some(now);
        }
    }

    /// The memory is wrong; what is measured from now on is not.
    fn forget(&mut self, now: Instant) {
        self.memory.forget();
        self.measure = Measure::new(now);
    }

    /// Loss, or a mark of ECN, of packets of which the last was sent at `sent`; the controller's
    /// window was `inner` before. Returns whether it is kept from the controller: in a retreat its
    /// window goes on to grow by what is acknowledged, and is reduced from that when the retreat is
    /// over.
    pub(super) fn note_congestion(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent: bool,
        inner: u64,
    ) -> bool {
        let is_of_attempt = self.attempt.is_some_and(|attempt| attempt.has(sent));
        match self.phase {
            Phase::Reconnaissance => self.phase = Phase::Normal,
            Phase::Unvalidated { .. } | Phase::Validating { .. } if is_persistent => {
                self.forget(now);
                self.end_attempt(now, Phase::Normal);
            }
            Phase::Unvalidated { .. } | Phase::Validating { .. } if is_of_attempt => {
                // Safe retreat.
                self.forget(now);
                let window = (inner / 2).max(self.initial_window);
                self.end_attempt(now, Phase::Retreat { began: now, window });
            }
            // What was sent before the attempt says nothing of the memory.
            Phase::Unvalidated { .. } | Phase::Validating { .. } => {
                self.end_attempt(now, Phase::Normal);
                // The acknowledgement with which the attempt began may have shown the loss, too.
                if let Some(attempt) = self.attempt.take_if(|attempt| !attempt.has_sent) {
                    self.memory.put_back(now, attempt.taken);
                }
            }
            Phase::Retreat { .. } if is_persistent => self.phase = Phase::Normal,
            // It is found late.
            Phase::Normal if is_of_attempt => self.forget(now),
            Phase::Retreat { .. } | Phase::Normal => {}
        }
        self.withholds_congestion()
    }
}

/// What the path takes in its least round trip.
///
/// It is what was acknowledged, which no queue makes larger, and not the window.
#[derive(Clone, Debug)]
struct Measure {
    began: Instant,
    round_began: Instant,
    acknowledged: u64,
    /// The most in flight in this round, and in the last one.
    peaks: [u64; 2],
}

impl Measure {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            round_began: now,
            acknowledged: 0,
            peaks: [0; 2],
        }
    }

    fn note_in_flight(&mut self, bytes: u64) {
        self.peaks[0] = self.peaks[0].max(bytes);
    }

    /// Bytes that were acknowledged in a least round trip, if a round trip is over.
    fn end_batch(
        &mut self,
        now: Instant,
        bytes: u64,
        newest_sent: Instant,
        least_rtt: Duration,
    ) -> Option<u64> {
        self.acknowledged += bytes;
        if newest_sent < self.round_began {
            return None;
        }
        let took = now.saturating_duration_since(self.round_began);
        let part = least_rtt.as_secs_f64() / took.max(least_rtt).as_secs_f64();
        let window = (self.acknowledged as f64 * part) as u64;
        self.round_began = now;
        self.acknowledged = 0;
        self.peaks = [0, self.peaks[0]];
        Some(window)
    }

    /// Whether no more was acknowledged because the path takes no more. Less is acknowledged also
    /// where less is sent, or in slow start, so the controller's window must be used, and not be
    /// new.
    fn is_limit(&self, now: Instant, inner: u64) -> bool {
        let is_used = 2 * self.peaks[1] >= inner;
        is_used && now.saturating_duration_since(self.began) >= RENEWED
    }
}

/// A path that takes no more than slow start has in two round trips is not worth a memory
/// (RFC 9959).
const LEAST_INITIAL_WINDOWS: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::Host, net::clock, proto::known_paths::KnownPaths};

    const INITIAL: u64 = 12_000;
    const PACKET: u64 = 1_200;
    const RTT: Duration = Duration::from_millis(60);
    /// Half of what is remembered.
    const JUMP: u64 = 1_000_000;

    /// A connection over a path that was remembered, and its controller, which is in slow start.
    struct Flow {
        paths: KnownPaths,
        began: Instant,
        now: Instant,
        resume: Resume,
        inner: u64,
        in_flight: u64,
    }

    fn host() -> Host {
        Host::of([192, 0, 2, 1].into())
    }

    fn memory(paths: &KnownPaths, now: Instant) -> PathMemory {
        paths.of(now, host(), true).unwrap()
    }

    impl Flow {
        fn new(may_jump: bool) -> Self {
            let (paths, began) = (KnownPaths::default(), clock::now());
            memory(&paths, began).note(began, RTT, 2 * JUMP, false);
            Self::over(paths, began, may_jump)
        }

        /// With what others have remembered.
        fn over(paths: KnownPaths, began: Instant, may_jump: bool) -> Self {
            let memory = memory(&paths, began);
            Self {
                paths,
                began,
                now: began,
                resume: Resume::new(memory, began, INITIAL, may_jump),
                inner: INITIAL,
                in_flight: 0,
            }
        }

        /// After the first round trip.
        fn after_jump() -> Self {
            let mut flow = Self::new(true);
            flow.send(INITIAL);
            flow.acknowledge(RTT, INITIAL);
            flow
        }

        fn window(&self) -> u64 {
            self.resume.window(self.inner)
        }

        fn is_remembered(&self) -> bool {
            memory(&self.paths, self.now).is_known()
        }

        fn send(&mut self, bytes: u64) {
            self.in_flight += bytes;
            self.resume.note_sent(self.now, bytes);
        }

        /// Acknowledges what was sent one round trip ago, after that time. Returns whether the
        /// controller is told of congestion.
        fn acknowledge(&mut self, rtt: Duration, bytes: u64) -> bool {
            let sent = self.now;
            self.now += rtt;
            self.acknowledge_sent_at(sent, bytes)
        }

        fn acknowledge_sent_at(&mut self, sent: Instant, bytes: u64) -> bool {
            self.in_flight -= bytes;
            self.resume.note_acknowledged(self.now, sent, bytes);
            let before = self.inner;
            self.inner += bytes;
            self.resume.end_batch(self.now, self.in_flight, before)
        }

        /// Loses what was just sent. Returns whether it is kept from the controller.
        fn lose(&mut self, is_persistent: bool) -> bool {
            self.lose_sent_at(self.now, is_persistent)
        }

        fn lose_sent_at(&mut self, sent: Instant, is_persistent: bool) -> bool {
            (self.resume).note_congestion(self.now, sent, is_persistent, self.inner)
        }

        /// Sends a little later, and waits for the acknowledgement. Returns when it was sent.
        fn send_and_wait(&mut self, bytes: u64) -> Instant {
            self.now += RTT / 4;
            let sent = self.now;
            self.send(bytes);
            self.now += RTT;
            sent
        }
    }

    #[test]
    fn half_is_in_flight_once_an_initial_window_was_acknowledged() {
        let mut flow = Flow::new(true);
        flow.send(INITIAL);
        assert_eq!(flow.window(), INITIAL);
        flow.acknowledge(RTT, INITIAL - PACKET);
        assert_eq!(flow.window(), flow.inner);
        flow.send(2 * INITIAL - 2 * PACKET);
        flow.acknowledge_sent_at(flow.began, PACKET);
        assert_eq!(flow.window(), JUMP);
    }

    #[test]
    fn nothing_is_tried_before_there_is_something_to_send() {
        let mut flow = Flow::new(true);
        for _ in 0..10 {
            flow.send(PACKET);
            flow.acknowledge(RTT, PACKET);
        }
        assert_eq!(flow.window(), flow.inner);
        let used = flow.inner;
        flow.send(used);
        flow.acknowledge(RTT, used);
        assert_eq!(flow.window(), JUMP);
    }

    #[test]
    fn nothing_is_tried_when_the_path_has_become_longer_or_the_memory_too_old() {
        for (pause, rtt) in [(RTT, 11 * RTT), (Duration::from_secs(3600), RTT)] {
            let mut flow = Flow::new(true);
            flow.send(PACKET);
            flow.acknowledge(RTT, PACKET);
            flow.now += pause;
            flow.send(INITIAL);
            flow.acknowledge(rtt, INITIAL);
            assert_eq!(flow.window(), flow.inner);
        }
    }

    #[test]
    fn one_connection_at_a_time_tries_what_is_remembered() {
        let mut first = Flow::new(true);
        let [mut second, mut third] =
            [(); 2].map(|()| Flow::over(first.paths.clone(), first.began, true));
        for flow in [&mut first, &mut second] {
            flow.send(INITIAL);
            flow.acknowledge(RTT, INITIAL);
        }
        assert_eq!(first.window(), JUMP);
        assert_eq!(second.window(), second.inner);
        // All of it has arrived.
        let sent = first.send_and_wait(JUMP);
        first.acknowledge_sent_at(sent, JUMP);
        assert_eq!(first.window(), first.inner);
        assert!(first.is_remembered());
        third.now = first.now;
        third.send(INITIAL);
        third.acknowledge(RTT, INITIAL);
        assert_eq!(third.window(), JUMP);
    }

    #[test]
    fn what_was_wrong_for_one_connection_is_not_tried_by_another_that_has_begun() {
        let mut first = Flow::new(true);
        let mut second = Flow::over(first.paths.clone(), first.began, true);
        first.send(INITIAL);
        first.acknowledge(RTT, INITIAL);
        let sent = first.send_and_wait(JUMP);
        assert!(first.lose_sent_at(sent, false));
        second.send(INITIAL);
        second.acknowledge(RTT, INITIAL);
        assert_eq!(second.window(), second.inner);
    }

    #[test]
    fn nothing_is_tried_on_a_path_with_another_round_trip() {
        for rtt in [RTT / 3, 11 * RTT] {
            let mut flow = Flow::new(true);
            flow.send(INITIAL);
            flow.acknowledge(rtt, INITIAL);
            assert_eq!(flow.window(), flow.inner);
        }
    }

    #[test]
    fn nothing_is_tried_after_a_loss_or_with_a_controller_that_has_a_model() {
        let mut flow = Flow::new(true);
        flow.send(INITIAL);
        assert!(!flow.lose(false), "the controller is told");
        flow.acknowledge(RTT, INITIAL);
        assert_eq!(flow.window(), flow.inner);
        assert!(flow.is_remembered(), "it says nothing of the memory");

        let mut flow = Flow::new(false);
        flow.send(INITIAL);
        flow.acknowledge(RTT, INITIAL);
        assert_eq!(flow.window(), flow.inner);
    }

    /// quinn-proto tells of losses after what was acknowledged by the same packet.
    #[test]
    fn loss_that_is_found_as_the_attempt_begins_leaves_the_memory_to_others() {
        let mut flow = Flow::after_jump();
        assert!(!flow.lose_sent_at(flow.began, false));
        assert_eq!(flow.window(), flow.inner);
        assert!(flow.is_remembered());

        let mut flow = Flow::after_jump();
        flow.send(PACKET);
        assert!(!flow.lose_sent_at(flow.began, false));
        assert!(!flow.is_remembered(), "what was sent may yet be lost");
    }

    #[test]
    fn what_was_in_flight_stays_until_it_is_acknowledged() {
        let mut flow = Flow::after_jump();
        let began = flow.now;
        flow.now += RTT / 2;
        let sent = flow.now;
        flow.send(JUMP / 2);
        flow.now = began + RTT + RTT / 2;
        flow.acknowledge_sent_at(sent, PACKET);
        // The application had no more.
        assert_eq!(flow.window(), JUMP / 2);
        let later = flow.send_and_wait(PACKET);
        flow.acknowledge_sent_at(later, JUMP / 2 - PACKET);
        assert_eq!(flow.window(), flow.inner);
        assert_eq!(flow.inner, 2 * INITIAL + JUMP / 2);
    }

    /// What an application sends after a silence is no more than the controller lets it.
    #[test]
    fn attempt_is_over_after_a_round_trip() {
        let mut flow = Flow::after_jump();
        flow.now += RTT + Duration::from_millis(1);
        flow.send(PACKET);
        assert_eq!(flow.window(), flow.inner);
    }

    #[test]
    fn loss_of_what_was_tried_lowers_the_window_and_is_forgotten_with_the_memory() {
        let mut flow = Flow::after_jump();
        let sent = flow.now + RTT / 2;
        flow.now = sent;
        flow.send(JUMP);
        flow.now += RTT;
        flow.acknowledge_sent_at(sent, 100 * PACKET);
        let before = flow.inner;
        assert!(flow.lose(false), "kept from the controller");
        assert_eq!(flow.window(), before / 2);
        assert!(!flow.is_remembered());
        // More arrives of it, and more losses are found.
        assert!(!flow.acknowledge_sent_at(sent, 10 * PACKET));
        assert!(flow.lose(false));
        assert_eq!(flow.window(), before / 2);
        let after = flow.send_and_wait(PACKET);
        assert!(flow.acknowledge_sent_at(after, PACKET), "told now");
        assert_eq!(flow.window(), flow.inner);
        assert!(!flow.lose(false), "told at once again");
    }

    #[test]
    fn retreat_leaves_an_initial_window_and_ends_with_persistent_congestion() {
        let mut flow = Flow::after_jump();
        let sent = flow.send_and_wait(JUMP);
        flow.inner = INITIAL;
        assert!(flow.lose_sent_at(sent, false));
        flow.inner = 2 * INITIAL;
        assert_eq!(flow.window(), INITIAL);
        assert!(!flow.lose(true), "the controller is told");
        assert_eq!(flow.window(), 2 * INITIAL);
    }

    #[test]
    fn loss_of_what_was_sent_before_is_the_controllers() {
        let mut flow = Flow::new(true);
        flow.send(2 * INITIAL);
        flow.acknowledge(RTT, INITIAL);
        assert_eq!(flow.window(), JUMP);
        assert!(!flow.lose(false), "the controller is told");
        assert_eq!(flow.window(), flow.inner);
    }

    #[test]
    fn loss_of_what_was_tried_is_forgotten_also_when_it_is_found_late() {
        let mut flow = Flow::after_jump();
        let sent = flow.send_and_wait(JUMP);
        flow.acknowledge_sent_at(sent, JUMP / 2);
        let later = flow.send_and_wait(PACKET);
        flow.acknowledge_sent_at(later, PACKET);
        assert_eq!(flow.window(), flow.inner, "the attempt is over");
        assert!(flow.is_remembered());
        flow.now += RTT;
        assert!(!flow.lose(false), "sent after it");
        assert!(flow.is_remembered());
        assert!(!flow.lose_sent_at(sent, false), "the controller is told");
        assert!(!flow.is_remembered());
    }

    #[test]
    fn persistent_congestion_of_what_was_tried_forgets_the_path() {
        let mut flow = Flow::after_jump();
        let sent = flow.send_and_wait(JUMP);
        flow.acknowledge_sent_at(sent, JUMP / 2);
        assert!(flow.is_remembered(), "what has arrived");
        assert!(!flow.lose_sent_at(sent, true), "the controller is told");
        assert_eq!(flow.window(), flow.inner);
        assert!(!flow.is_remembered());
    }

    /// One round trip after another, with this number of bytes in each.
    fn rounds(flow: &mut Flow, bytes: u64, count: u32) {
        for _ in 0..count {
            flow.send(bytes);
            flow.acknowledge(RTT, bytes);
            flow.now += Duration::from_millis(1);
        }
    }

    fn remembered(flow: &Flow) -> Option<u64> {
        // Half of it is what would be tried.
        let memory = memory(&flow.paths, flow.now);
        let (taken, jump) = memory.take(flow.now, RTT, RTT, 0)?;
        memory.put_back(flow.now, taken);
        Some(jump)
    }

    #[test]
    fn packets_that_only_acknowledge_do_not_use_the_window() {
        let mut flow = Flow::new(false);
        flow.now += 2 * RENEWED;
        for _ in 0..3 {
            flow.resume.note_sent(flow.now, JUMP);
            flow.inner = JUMP;
            rounds(&mut flow, 2 * LEAST_INITIAL_WINDOWS * INITIAL, 1);
        }
        assert_eq!(remembered(&flow), Some(JUMP));
    }

    #[test]
    fn connection_that_sends_little_leaves_what_an_earlier_one_has_measured() {
        let mut flow = Flow::new(true);
        rounds(&mut flow, LEAST_INITIAL_WINDOWS * INITIAL, 3);
        assert_eq!(remembered(&flow), Some(JUMP));
        // Nor does it count that it begins long after the other one, with a small window.
        let now = flow.now + 2 * RENEWED;
        let mut later = Flow::over(flow.paths, now, false);
        later.inner = INITIAL;
        rounds(&mut later, LEAST_INITIAL_WINDOWS * INITIAL, 3);
        assert_eq!(remembered(&later), Some(JUMP));
    }

    #[test]
    fn most_that_was_acknowledged_in_a_round_trip_is_remembered_and_less_only_after_a_while() {
        let mut flow = Flow::new(false);
        flow.resume.memory.forget();
        rounds(&mut flow, LEAST_INITIAL_WINDOWS * INITIAL - PACKET, 5);
        assert_eq!(remembered(&flow), None, "not worth it");
        rounds(&mut flow, 4 * JUMP, 2);
        let most = remembered(&flow).unwrap();
        assert!((19 * JUMP / 10..=2 * JUMP).contains(&most), "{most}");
        // The application is the limit.
        rounds(&mut flow, JUMP, 500);
        assert_eq!(remembered(&flow), Some(most));
        // The path is.
        flow.inner = JUMP;
        flow.send(JUMP);
        flow.acknowledge(RTT, JUMP);
        flow.inner = JUMP;
        flow.send(JUMP);
        flow.acknowledge(RTT, JUMP);
        assert!(remembered(&flow).unwrap() <= JUMP / 2);
    }
}
