//! Lets connections send as fast as their congestion control says.

mod bucket;

use std::time::{Duration, Instant};

use quinn_proto::{Connection, FrameStats, Transmit};

use self::bucket::Bucket;
use super::{
    congestion::{Gate, Paced},
    writers::Writers,
};

/// Spreads what one connection sends, in batches.
///
/// quinn-proto's own pacing knows only the window and the round trip. Here a bucket is filled at
/// the rate of the controller, and bounds the datagrams of each call. While it is empty,
/// quinn-proto is told that the window is full, so that acknowledgements and probes still pass, but
/// nothing that congestion control counts.
///
/// Handshakes and closes must not ask.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// `None` until something was sent.
    bucket: Option<Bucket>,
    /// While the bucket is empty: when there is enough again for a batch.
    resumes: Option<Instant>,
    /// Whether something may be held back.
    is_holding: bool,
    /// What had been received when the last acknowledgement was sent, or credit was last given for
    /// one.
    answered: u64,
    /// What has been received since then, and wants one; or what has had credit for one, and none.
    unanswered: Option<Unanswered>,
    /// When the peer was last told that its flow control holds data back: that of the connection,
    /// and that of a stream.
    blocked: Option<Instant>,
    stream_blocked: Option<Instant>,
    /// When a stream was last found to have written all that it had.
    written: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Unanswered {
    /// When the acknowledgement is due, or may be paid for.
    due: Instant,
    /// Whether it is. quinn-proto's own timer for it is over then, too.
    is_due: bool,
    /// Whether there was credit for it before.
    is_repeated: bool,
}

impl Unanswered {
    fn at(due: Instant) -> Self {
        Self {
            due,
            is_due: false,
            is_repeated: false,
        }
    }
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permit {
    /// Datagrams of any kind.
    Datagrams(u64),
    /// One datagram, so that an acknowledgement gets out.
    Credit,
    /// Only what congestion control does not count.
    Uncounted,
}

impl Pacer {
    pub(super) fn poll_transmit(
        &mut self,
        quic: &mut Connection,
        paced: &Paced,
        writers: &mut Writers,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let mtu = quic.current_mtu().into();
        let before = Frames::of(quic);
        let permit = self.ask(now, paced.rate(), mtu, before.heard);
        let most = match permit {
            Permit::Uncounted => 0,
            Permit::Credit => 1,
            Permit::Datagrams(datagrams) => datagrams,
        };
        let (gate, datagrams) = match paced.room() / mtu {
            _ if most == 0 => (Gate::Closed, 1),
            // quinn-proto knows it better.
            0 => (Gate::AsIs, 1),
            room => (Gate::Open, most.min(room)),
        };
        let datagrams = usize::try_from(datagrams).unwrap_or(usize::MAX);
        paced.set_gate(gate);
        let transmit = quic.poll_transmit(now, max_datagrams.min(datagrams), buf);
        paced.set_gate(Gate::AsIs);
        if permit == Permit::Credit && gate == Gate::Open {
            let to = transmit.as_ref().map(|transmit| transmit.destination);
            let is_elsewhere = to.map(|to| to != quic.remote_address());
            self.note_credit(now, before.heard, is_elsewhere);
        }
        if let Some(transmit) = &transmit {
            self.note_transmit(quic, paced, now, transmit, before);
        } else if gate == Gate::Open {
            if writers.take_done() {
                self.written = Some(now);
            }
            if !self.waits_for_credit(now, quic.rtt()) {
                paced.note_dry();
            }
            self.note_dry();
        }
        transmit
    }

    /// Produces one datagram that is not held back, but counts.
    pub(super) fn poll_probe(
        &mut self,
        quic: &mut Connection,
        paced: &Paced,
        now: Instant,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let before = Frames::of(quic);
        let transmit = quic.poll_transmit(now, 1, buf)?;
        self.note_transmit(quic, paced, now, &transmit, before);
        Some(transmit)
    }

    /// Notes what was sent. `before` counts the frames before that.
    fn note_transmit(
        &mut self,
        quic: &Connection,
        paced: &Paced,
        now: Instant,
        transmit: &Transmit,
        before: Frames,
    ) {
        let after = Frames::of(quic);
        if after.acks > before.acks {
            self.answered = before.heard;
            self.unanswered = None;
        }
        let bytes = transmit.size as u64;
        let is_here = transmit.destination == quic.remote_address();
        let is_counted = after.count_since(before, is_here);
        paced.note_sent(bytes, is_counted);
        if is_counted {
            self.note_sent(now, bytes, quic.current_mtu().into());
        }
        if after.blocked > before.blocked {
            self.blocked = Some(now);
        }
        if after.stream_blocked > before.stream_blocked {
            self.stream_blocked = Some(now);
        }
    }

    /// Notes that credit was given for an acknowledgement of what was `heard`.
    ///
    /// A frame about another path may have taken the datagram. Otherwise no acknowledgement is due
    /// yet if there is none in it: with ACK_FREQUENCY a peer may have asked for few, and late ones.
    /// `is_elsewhere` is `None` if there was nothing to send.
    fn note_credit(&mut self, now: Instant, heard: u64, is_elsewhere: Option<bool>) {
        if is_elsewhere == Some(true) {
            self.unanswered = Some(Unanswered::at(now + PATIENCE));
            return;
        }
        self.answered = heard;
        self.unanswered = is_elsewhere.map(|_| Unanswered {
            is_repeated: true,
            ..Unanswered::at(now + LONG_PATIENCE)
        });
    }

    /// When to ask again.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let unanswered =
            (self.unanswered).filter(|unanswered| self.is_holding && !unanswered.is_due);
        let answers = unanswered.map(|unanswered| unanswered.due);
        self.resumes.into_iter().chain(answers).min()
    }

    /// Notes that time has passed, so that no deadline is left that is over. quinn-proto's timers
    /// have to be handled before.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.resumes.is_some_and(|resumes| resumes <= now) {
            self.resumes = None;
        }
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.is_due |= unanswered.due <= now;
        }
    }

    /// Sets the rate, in bytes per second, and returns what may be sent.
    ///
    /// Where data waits, quinn-proto 0.11.19 sends no acknowledgement without any, and puts it
    /// before the data only when it is due. Then it takes a datagram on credit; `heard` counts what
    /// wants one.
    fn ask(&mut self, now: Instant, rate: f64, mtu: u64, heard: u64) -> Permit {
        let is_new = (self.unanswered).is_none_or(|unanswered| unanswered.is_repeated);
        if heard != self.answered && is_new {
            self.unanswered = Some(Unanswered::at(now + PATIENCE));
        }
        let burst = burst(rate, mtu);
        let bucket = (self.bucket).get_or_insert_with(|| Bucket::new(rate, burst, now));
        bucket.adjust(rate, burst, now);
        // What was owed at a higher rate must not hold up all that follows.
        bucket.owe_at_most(most_owed(rate, mtu));
        if let Some(resumes) = self.resumes {
            // The rate may have risen since.
            let earlier = bucket.next_at(batch(rate, mtu), now);
            self.resumes = earlier.map_or(Some(resumes), |earlier| Some(earlier.min(resumes)));
        }
        if self.resumes.is_some_and(|resumes| resumes > now) {
            return self.hold(now, rate, mtu);
        }
        self.resumes = None;
        let datagrams = bucket.available(now) / mtu;
        if datagrams == 0 {
            self.resumes = bucket.next_at(batch(rate, mtu), now);
            return self.hold(now, rate, mtu);
        }
        self.is_holding = false;
        Permit::Datagrams(datagrams)
    }

    fn hold(&mut self, now: Instant, rate: f64, mtu: u64) -> Permit {
        self.is_holding = true;
        let (Some(bucket), Some(unanswered)) = (&self.bucket, &mut self.unanswered) else {
            return Permit::Uncounted;
        };
        if !unanswered.is_due {
            return Permit::Uncounted;
        }
        match bucket.owes_at_most_at(most_owed(rate, mtu) - mtu, now) {
            Some(at) if at > now => {
                *unanswered = Unanswered::at(at);
                Permit::Uncounted
            }
            Some(_) => Permit::Credit,
            None => Permit::Uncounted,
        }
    }

    /// Notes bytes that were sent and are in flight.
    fn note_sent(&mut self, now: Instant, bytes: u64, mtu: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(bytes, now);
            if bucket.available(now) < mtu {
                self.resumes = bucket.next_at(batch(bucket.rate(), mtu), now);
            }
        }
    }

    /// Whether flow control is the limit, and not the application.
    ///
    /// Credit comes in parts, at least twice in a round trip where it is the limit, and the
    /// application takes its time to use each. That of a stream is no limit for others, which may
    /// have nothing to write.
    fn waits_for_credit(&self, now: Instant, rtt: Duration) -> bool {
        let was_lately = |time: Option<Instant>| {
            time.is_some_and(|time| now.saturating_duration_since(time) <= 2 * rtt)
        };
        let is_stream = was_lately(self.stream_blocked) && !was_lately(self.written);
        was_lately(self.blocked) || is_stream
    }

    /// Notes that there was nothing to send.
    fn note_dry(&mut self) {
        self.resumes = None;
        self.is_holding = false;
    }
}

/// Frames that were sent or received and want an acknowledgement (RFC 9002 §2).
#[derive(Clone, Copy)]
struct Frames {
    elicited: u64,
    heard: u64,
    /// Acknowledgements that were sent.
    acks: u64,
    /// PATH_CHALLENGE frames among the sent ones.
    challenges: u64,
    /// Those among the sent ones that tell of flow control in the way (RFC 9000 §4.1). quinn-proto
    /// sends one when a write was refused for the first time since the peer has granted more.
    blocked: u64,
    stream_blocked: u64,
}

impl Frames {
    fn of(quic: &Connection) -> Self {
        let stats = quic.stats();
        let [elicited, heard] = [stats.frame_tx, stats.frame_rx].map(eliciting);
        Self {
            elicited,
            heard,
            acks: stats.frame_tx.acks,
            challenges: stats.frame_tx.path_challenge,
            blocked: stats.frame_tx.data_blocked,
            stream_blocked: stats.frame_tx.stream_data_blocked,
        }
    }

    /// Whether the datagrams that were sent since `before` are in flight on this path. quinn-proto
    /// 0.11.19 counts all that want an acknowledgement, wherever they go, except for a challenge to
    /// the peer's previous address.
    fn count_since(&self, before: Self, is_here: bool) -> bool {
        let is_challenge_elsewhere = !is_here && self.challenges > before.challenges;
        self.elicited > before.elicited && !is_challenge_elsewhere
    }
}

/// All frames but ACK and CONNECTION_CLOSE; quinn-proto does not count PADDING.
fn eliciting(frames: FrameStats) -> u64 {
    frames.ack_frequency
        + frames.crypto
        + frames.data_blocked
        + frames.datagram
        + u64::from(frames.handshake_done)
        + frames.immediate_ack
        + frames.max_data
        + frames.max_stream_data
        + frames.max_streams_bidi
        + frames.max_streams_uni
        + frames.new_connection_id
        + frames.new_token
        + frames.path_challenge
        + frames.path_response
        + frames.ping
        + frames.reset_stream
        + frames.retire_connection_id
        + frames.stop_sending
        + frames.stream
        + frames.stream_data_blocked
        + frames.streams_blocked_bidi
        + frames.streams_blocked_uni
}

/// What is sent at a time: what passes in a millisecond, but no more than a batch for segmentation
/// offload, and two datagrams at least, because most peers acknowledge the second one.
fn batch(rate: f64, mtu: u64) -> u64 {
    let bytes = (rate * BATCH_TIME.as_secs_f64()) as u64;
    bytes.min(MOST_BATCH).max(2 * mtu)
}

/// What may be sent at once after a silence: an initial window (RFC 9002 §7.7), so that a request
/// is not spread over a part of a round trip. Wake-ups are late by up to two milliseconds; what
/// could not be sent for that is not lost.
fn burst(rate: f64, mtu: u64) -> f64 {
    let late = rate * (BATCH_TIME + LATE).as_secs_f64();
    late.max((IDLE_DATAGRAMS * mtu) as f64)
}

/// What credit may amount to: what passes in a second. Beyond that, acknowledgements come as slowly
/// as the rate lets them, because what is sent faster would only wait on the path.
fn most_owed(rate: f64, mtu: u64) -> u64 {
    (rate as u64).max(2 * mtu)
}

const BATCH_TIME: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_millis(2);
const MOST_BATCH: u64 = 64 * 1024;
const IDLE_DATAGRAMS: u64 = 10;

/// How long an acknowledgement waits for a datagram that may be sent: as long as it may wait for
/// another packet to acknowledge (RFC 9000 §18.2), because quinn-proto has one due by then. A peer
/// that asks for less with ACK_FREQUENCY, an extension, has to expect this delay all the same, as
/// one of the network.
const PATIENCE: Duration = Duration::from_millis(25);

/// How long credit that gave no acknowledgement is not given again. The delay that a peer asks for
/// with ACK_FREQUENCY is not known here. With four datagrams in a second, which count like others,
/// the acknowledgement is late by no more than this.
const LONG_PATIENCE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1_200;
    /// 12 packets in a millisecond.
    const RATE: f64 = 14_400_000.0;

    fn at(began: Instant, micros: u64) -> Instant {
        began + Duration::from_micros(micros)
    }

    /// Sends all that is permitted.
    fn exhaust(pacer: &mut Pacer, now: Instant, rate: f64) -> u64 {
        let mut sent = 0;
        while let Permit::Datagrams(datagrams) = pacer.ask(now, rate, MTU, 0) {
            sent += datagrams;
            pacer.note_sent(now, datagrams * MTU, MTU);
        }
        sent
    }

    #[test]
    fn each_frame_that_has_to_be_acknowledged_counts_once() {
        let mut frames = FrameStats::default();
        for count in [&mut frames.acks, &mut frames.connection_close] {
            *count = 1 << 40;
        }
        let counts = [
            &mut frames.ack_frequency,
            &mut frames.crypto,
            &mut frames.data_blocked,
            &mut frames.datagram,
            &mut frames.immediate_ack,
            &mut frames.max_data,
            &mut frames.max_stream_data,
            &mut frames.max_streams_bidi,
            &mut frames.max_streams_uni,
            &mut frames.new_connection_id,
            &mut frames.new_token,
            &mut frames.path_challenge,
            &mut frames.path_response,
            &mut frames.ping,
            &mut frames.reset_stream,
            &mut frames.retire_connection_id,
            &mut frames.stop_sending,
            &mut frames.stream,
            &mut frames.stream_data_blocked,
            &mut frames.streams_blocked_bidi,
            &mut frames.streams_blocked_uni,
        ];
        // A bit for each, so that the sum tells which is missing.
        for (number, count) in counts.into_iter().enumerate() {
            *count = 2 << number;
        }
        frames.handshake_done = 1;
        assert_eq!(eliciting(frames), (1 << 22) - 1);
    }

    /// quinn-proto does not track a challenge to the peer's previous address.
    #[test]
    fn only_a_challenge_elsewhere_is_not_in_flight() {
        let before = Frames {
            elicited: 7,
            heard: 0,
            acks: 0,
            challenges: 3,
            blocked: 0,
            stream_blocked: 0,
        };
        for (elicited, challenges, counts) in
            [(7, 3, [false; 2]), (8, 3, [true; 2]), (8, 4, [true, false])]
        {
            let after = Frames {
                elicited,
                challenges,
                ..before
            };
            assert_eq!(
                [true, false].map(|is_here| after.count_since(before, is_here)),
                counts
            );
        }
    }

    #[test]
    fn batches_are_a_millisecond_apart_and_make_the_rate() {
        let began = crate::net::clock::now();
        let mut pacer = Pacer::default();
        let burst = exhaust(&mut pacer, began, RATE);
        assert_eq!(burst, 36, "three milliseconds' worth");
        let (mut now, mut sent, mut batches) = (began, 0, 0);
        while now < at(began, 100_000) {
            now = pacer.next_timeout().unwrap();
            sent += exhaust(&mut pacer, now, RATE);
            batches += 1;
        }
        assert!((1_195..=1_212).contains(&sent), "{sent}");
        assert!((99..=102).contains(&batches), "{batches}");
    }

    #[test]
    fn what_late_wake_ups_miss_is_made_up_for() {
        let began = crate::net::clock::now();
        let mut pacer = Pacer::default();
        exhaust(&mut pacer, began, RATE);
        let sent: u64 = (1..=50)
            .map(|tick| exhaust(&mut pacer, at(began, 2_000 * tick), RATE))
            .sum();
        assert!((1_199..=1_200).contains(&sent), "{sent}");
    }

    #[test]
    fn initial_window_is_sent_at_once_after_a_silence() {
        let began = crate::net::clock::now();
        let mut pacer = Pacer::default();
        let slow = 120_000.0;
        assert_eq!(exhaust(&mut pacer, began, slow), 10);
        assert_eq!(exhaust(&mut pacer, at(began, 10_000), slow), 0);
        assert_eq!(exhaust(&mut pacer, at(began, 1_000_000), slow), 10);
        // Two datagrams at a time otherwise.
        let next = pacer.next_timeout().unwrap();
        assert!(next > at(began, 1_019_000) && next < at(began, 1_021_000));
        assert_eq!(exhaust(&mut pacer, next, slow), 2);
    }

    #[test]
    fn a_rate_that_rises_ends_the_wait_earlier() {
        let began = crate::net::clock::now();
        let mut pacer = Pacer::default();
        exhaust(&mut pacer, began, 120_000.0);
        let before = pacer.next_timeout().unwrap();
        assert_eq!(pacer.ask(at(began, 100), RATE, MTU, 0), Permit::Uncounted);
        assert!(pacer.next_timeout().unwrap() < at(began, 1_200));
        assert!(before > at(began, 10_000));
    }

    /// Asks in virtual time, and sends on credit.
    fn ask(pacer: &mut Pacer, now: Instant, rate: f64, heard: u64) -> Permit {
        pacer.handle_timeout(now);
        let permit = pacer.ask(now, rate, MTU, heard);
        if permit == Permit::Credit {
            pacer.note_credit(now, heard, Some(false));
            // An acknowledgement is in it.
            pacer.unanswered = None;
            pacer.note_sent(now, MTU, MTU);
        }
        permit
    }

    #[test]
    fn acknowledgement_that_is_due_takes_a_datagram_on_credit() {
        let began = crate::net::clock::now();
        let ask = |pacer: &mut Pacer, millis: u64, heard| {
            ask(pacer, at(began, 1_000 * millis), 12_000.0, heard)
        };
        let mut pacer = Pacer::default();
        exhaust(&mut pacer, began, 12_000.0);
        assert_eq!(ask(&mut pacer, 1, 0), Permit::Uncounted);
        assert_eq!(ask(&mut pacer, 5, 1), Permit::Uncounted);
        assert_eq!(pacer.next_timeout().unwrap(), at(began, 30_000));
        assert_eq!(ask(&mut pacer, 29, 2), Permit::Uncounted);
        assert_eq!(ask(&mut pacer, 30, 2), Permit::Credit);
        // That is owed, and nothing else has come that wants to be acknowledged.
        assert_eq!(ask(&mut pacer, 31, 2), Permit::Uncounted);
        assert_eq!(ask(&mut pacer, 60, 2), Permit::Uncounted);
        assert!(pacer.next_timeout().unwrap() > at(began, 61_000));
    }

    #[test]
    fn credit_that_a_frame_about_another_path_has_taken_is_given_again_and_no_other() {
        let began = crate::net::clock::now();
        for is_elsewhere in [false, true] {
            let mut pacer = Pacer::default();
            exhaust(&mut pacer, began, 12_000.0);
            let mut asked = |millis: u64| {
                let now = at(began, 1_000 * millis);
                pacer.handle_timeout(now);
                let permit = pacer.ask(now, 12_000.0, MTU, 1);
                if permit == Permit::Credit {
                    pacer.note_credit(now, 1, Some(is_elsewhere));
                }
                permit
            };
            assert_eq!(asked(5), Permit::Uncounted);
            assert_eq!(asked(30), Permit::Credit);
            assert_eq!(asked(31), Permit::Uncounted);
            assert_eq!(asked(60) == Permit::Credit, is_elsewhere);
        }
    }

    /// With ACK_FREQUENCY one may be due later. What comes after the credit has its own.
    #[test]
    fn credit_that_gave_no_acknowledgement_is_given_again_some_time_later() {
        let began = crate::net::clock::now();
        let mut pacer = Pacer::default();
        exhaust(&mut pacer, began, 1_200.0);
        let mut asked = |millis: u64, heard| {
            let now = at(began, 1_000 * millis);
            pacer.handle_timeout(now);
            let permit = pacer.ask(now, 1_200.0, MTU, heard);
            if permit == Permit::Credit {
                pacer.note_credit(now, heard, Some(false));
            }
            permit == Permit::Credit
        };
        let credit = [5, 30, 279, 280, 529, 530].map(|millis| asked(millis, 1));
        assert_eq!(credit, [false, true, false, true, false, true]);
        let credit = [531, 555, 556, 805, 806].map(|millis| asked(millis, 2));
        assert_eq!(credit, [false, false, true, false, true]);
    }

    /// A peer that keeps sending would have us answer more often than the rate allows.
    #[test]
    fn credit_is_of_a_second_and_the_rate_is_kept() {
        let began = crate::net::clock::now();
        let slow = 12_000.0;
        let mut pacer = Pacer::default();
        exhaust(&mut pacer, began, slow);
        let mut sent = 0;
        for millis in 1..=10_000 {
            let permit = ask(&mut pacer, at(began, 1_000 * millis), slow, millis);
            sent += u64::from(permit == Permit::Credit);
        }
        assert!((108..=110).contains(&sent), "{sent}");
        let next = pacer.next_timeout().unwrap();
        assert!(next <= at(began, 10_101_000), "an answer for each datagram");
        // Ten datagrams are owed, and two are sent at a time.
        pacer.unanswered = None;
        assert!(pacer.next_timeout().unwrap() <= at(began, 11_201_000));
    }

    #[test]
    fn flow_control_is_the_limit_for_two_round_trips_after_it_was_told_of() {
        let began = crate::net::clock::now();
        let rtt = Duration::from_millis(50);
        let mut pacer = Pacer::default();
        assert!(!pacer.waits_for_credit(began, rtt));
        pacer.blocked = Some(began);
        for is_of_stream in [false, true] {
            for (micros, waits) in [(0, true), (100_000, true), (100_001, false)] {
                let now = at(began, micros);
                assert_eq!(pacer.waits_for_credit(now, rtt), waits, "{micros}");
                pacer.written = Some(now);
                let waits = waits && !is_of_stream;
                assert_eq!(pacer.waits_for_credit(now, rtt), waits, "{micros}");
                pacer.written = None;
            }
            pacer.stream_blocked = pacer.blocked.take();
        }
    }

    #[test]
    fn no_deadline_is_left_without_anything_to_send() {
        let began = crate::net::clock::now();
        let mut pacer = Pacer::default();
        assert_eq!(pacer.next_timeout(), None);
        exhaust(&mut pacer, began, RATE);
        let next = pacer.next_timeout().unwrap();
        pacer.handle_timeout(next);
        assert_eq!(pacer.next_timeout(), None);
        exhaust(&mut pacer, next, RATE);
        pacer.note_dry();
        assert_eq!(pacer.next_timeout(), None);
    }
}
