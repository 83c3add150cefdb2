//! The states of the model, and what leads from one to another (draft-ietf-ccwg-bbr §5.3).

use std::time::{Duration, Instant};

use super::{Bbr, STARTUP_GAIN, ShortTerm, delivery_rate::Sample};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The rate doubles until the pipe is full.
    Startup,
    /// The queue of that is drained.
    Drain,
    /// ProbeBW: what was too much is drained.
    Down,
    /// ProbeBW: as fast as packets are delivered.
    Cruise,
    /// ProbeBW: the pipe is filled for the next probe.
    Refill,
    /// ProbeBW: it is tried whether more is delivered.
    Up,
    /// Little is sent, to see what the round trip is without a queue.
    ProbeRtt,
}

impl State {
    pub(super) fn is_probe_bw(self) -> bool {
        matches!(self, Self::Down | Self::Cruise | Self::Refill | Self::Up)
    }

    /// IsProbingBW.
    pub(super) fn is_probing_bw(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }
}

/// What acknowledgements are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckPhase {
    Init,
    Refilling,
    ProbeStarting,
    ProbeFeedback,
    ProbeStopping,
    /// The last of them was acknowledged, but not told yet what that has shown to be lost.
    ProbeStopped,
}

/// A cycle of probing for bandwidth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cycle {
    pub(super) began: Instant,
    /// bw_probe_wait.
    pub(super) wait: Duration,
    pub(super) rounds_since_up: u64,
    pub(super) phase: AckPhase,
    /// is_bw_probe_sample.
    pub(super) is_probe_sample: bool,
    /// prev_probe_too_high.
    pub(super) was_too_high: bool,
    /// prev_probe_precautionary.
    pub(super) was_precautionary: bool,
    /// bw_probe_up_rounds.
    pub(super) up_rounds: u32,
    /// bw_probe_up_acked.
    pub(super) up_acked: f64,
    /// probe_up_acked_per_inc.
    pub(super) acked_per_packet: f64,
}

impl Cycle {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            wait: Duration::ZERO,
            rounds_since_up: 0,
            phase: AckPhase::Init,
            is_probe_sample: false,
            was_too_high: false,
            was_precautionary: false,
            up_rounds: 0,
            up_acked: 0.0,
            acked_per_packet: f64::INFINITY,
        }
    }
}

/// Whether more is delivered when more is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FullPipe {
    bw: f64,
    /// Rounds in which not much more was delivered.
    rounds: u8,
    /// full_bw_now.
    is_reached: bool,
    /// full_bw_reached: whether it ever was.
    pub(super) was_reached: bool,
}

impl FullPipe {
    /// ResetFullBW, with a new baseline.
    fn reset(&mut self, bw: f64) {
        *self = Self {
            bw,
            was_reached: self.was_reached,
            ..Self::default()
        };
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProbeRtt {
    /// probe_rtt_done_stamp.
    pub(super) done: Option<Instant>,
    has_round_passed: bool,
}

impl Bbr {
    pub(super) fn pacing_gain(&self) -> f64 {
        match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => DRAIN_GAIN,
            State::Down => DOWN_GAIN,
            State::Cruise | State::Refill | State::ProbeRtt => 1.0,
            State::Up => UP_GAIN,
        }
    }

    pub(super) fn window_gain(&self) -> f64 {
        match self.state {
            State::Up => UP_WINDOW_GAIN,
            State::ProbeRtt => PROBE_RTT_WINDOW_GAIN,
            _ => WINDOW_GAIN,
        }
    }

    /// CheckFullBWReached.
    pub(super) fn check_full_pipe(&mut self, sample: &Sample) {
        let full = &mut self.full_pipe;
        if full.is_reached || !self.round.is_start || sample.is_app_limited {
            return;
        }
        if sample.rate >= full.bw * GROWTH {
            full.reset(sample.rate);
            return;
        }
        full.rounds += 1;
        full.is_reached = full.rounds >= FULL_ROUNDS;
        full.was_reached |= full.is_reached;
    }

    /// CheckStartupDone, with CheckStartupHighLoss.
    pub(super) fn check_startup_done(&mut self, is_lossy: bool) {
        if self.state != State::Startup {
            return;
        }
        if is_lossy && !self.full_pipe.was_reached {
            self.full_pipe.is_reached = true;
            self.full_pipe.was_reached = true;
            self.inflight_long = self.bdp(self.bw).max(self.latest.inflight);
        }
        if self.full_pipe.was_reached {
            self.state = State::Drain;
            self.drain_start_round = self.round.count;
        }
    }

    /// CheckDrainDone.
    pub(super) fn check_drain_done(&mut self, now: Instant) {
        if self.state == State::Drain {
            let bdp = self.quantize(self.bdp(self.bw));
            let is_drained = self.sampler.in_flight() as f64 <= bdp;
            if is_drained || self.round.count > self.drain_start_round + DRAIN_ROUNDS {
                self.start_down(now);
            }
        }
    }

    /// UpdateProbeBWCyclePhase.
    pub(super) fn update_cycle(&mut self, now: Instant, sample: &Sample) {
        if !self.full_pipe.was_reached || self.adapt_long_term(sample) {
            return;
        }
        let state = self.state;
        match state {
            State::Down | State::Cruise if self.is_time_to_probe(now) => self.start_refill(),
            State::Down if self.is_time_to_cruise() => self.state = State::Cruise,
            State::Refill if self.round.is_start => {
                self.cycle.is_probe_sample = true;
                self.start_up(sample);
            }
            State::Up if self.is_time_to_go_down(sample) => {
                self.cycle.was_too_high = false;
                self.start_down(now);
            }
            _ => {}
        }
    }

    /// AdaptLongTermModel. Returns whether the state is decided.
    ///
    /// The draft knows what an acknowledgement has shown to be lost before it comes here. We are
    /// told after it, so the end of a probe is judged with the next one.
    pub(super) fn adapt_long_term(&mut self, sample: &Sample) -> bool {
        let is_start = self.round.is_start;
        match self.cycle.phase {
            AckPhase::ProbeStarting if is_start => self.cycle.phase = AckPhase::ProbeFeedback,
            AckPhase::ProbeStopping if is_start => {
                if self.state.is_probe_bw() && !sample.is_app_limited {
                    self.max_bw.advance();
                }
                self.cycle.phase = AckPhase::ProbeStopped;
            }
            AckPhase::ProbeStopped => {
                self.cycle.is_probe_sample = false;
                self.cycle.phase = AckPhase::Init;
                let is_safe = self.cycle.was_precautionary && !self.cycle.was_too_high;
                if self.state.is_probe_bw() && is_safe {
                    self.start_refill();
                    return true;
                }
            }
            _ => {}
        }
        if !super::is_too_much(sample.lost, sample.sent_in_flight) && self.inflight_long.is_finite()
        {
            self.inflight_long = self.inflight_long.max(sample.sent_in_flight as f64);
            if self.state == State::Up {
                self.raise_inflight_long(sample);
            }
        }
        self.cycle.phase == AckPhase::ProbeStopped
    }

    /// ProbeInflightLongtermUpward.
    pub(super) fn raise_inflight_long(&mut self, sample: &Sample) {
        if !self.is_window_limited() || self.window < self.inflight_long {
            return;
        }
        let cycle = &mut self.cycle;
        cycle.up_acked += sample.newly_acked as f64;
        if cycle.up_acked >= cycle.acked_per_packet {
            let packets = (cycle.up_acked / cycle.acked_per_packet).floor();
            cycle.up_acked -= packets * cycle.acked_per_packet;
            self.inflight_long += packets * self.mtu;
        }
        if self.round.is_start {
            self.raise_slope();
        }
    }

    /// RaiseInflightLongtermSlope.
    pub(super) fn raise_slope(&mut self) {
        let packets = f64::from(1u32 << self.cycle.up_rounds);
        self.cycle.up_rounds = (self.cycle.up_rounds + 1).min(MOST_UP_ROUNDS);
        self.cycle.acked_per_packet = (self.window / packets).max(self.mtu);
    }

    /// IsTimeToProbeBW.
    fn is_time_to_probe(&self, now: Instant) -> bool {
        let packets = self.target_inflight() / self.mtu;
        let is_reno_time = self.cycle.rounds_since_up as f64 >= packets.min(MOST_RENO_ROUNDS);
        now > self.cycle.began + self.cycle.wait || is_reno_time
    }

    /// IsTimeToCruise.
    pub(super) fn is_time_to_cruise(&self) -> bool {
        let in_flight = self.sampler.in_flight() as f64;
        let bdp = self.quantize(self.bdp(self.max_bw.get()));
        in_flight <= self.inflight_with_headroom() && in_flight <= bdp
    }

    /// IsTimeToGoDown.
    pub(super) fn is_time_to_go_down(&mut self, sample: &Sample) -> bool {
        if self.cycle.was_too_high && self.reaches(sample, self.inflight_long) {
            self.cycle.was_precautionary = true;
            return true;
        }
        if self.is_window_limited() && self.window >= self.inflight_long {
            self.full_pipe.reset(sample.rate);
            return false;
        }
        self.full_pipe.is_reached
    }

    /// StartProbeBW_DOWN.
    pub(super) fn start_down(&mut self, now: Instant) {
        // ResetCongestionSignals.
        self.latest.has_loss = false;
        self.latest.bw = 0.0;
        self.latest.inflight = 0.0;
        self.cycle.acked_per_packet = f64::INFINITY;
        self.pick_wait(now);
        self.cycle.began = now;
        self.cycle.phase = AckPhase::ProbeStopping;
        self.start_round();
        self.state = State::Down;
    }

    /// StartProbeBW_REFILL.
    fn start_refill(&mut self) {
        self.short_term = ShortTerm::NONE;
        self.cycle.up_rounds = 0;
        self.cycle.up_acked = 0.0;
        self.cycle.was_precautionary = false;
        self.cycle.phase = AckPhase::Refilling;
        self.start_round();
        self.state = State::Refill;
    }

    /// StartProbeBW_UP.
    fn start_up(&mut self, sample: &Sample) {
        self.cycle.phase = AckPhase::ProbeStarting;
        self.start_round();
        self.full_pipe.reset(sample.rate);
        self.state = State::Up;
        self.raise_slope();
    }

    /// PickProbeWait. How much was delivered until when differs from path to path, which is enough
    /// for flows not to probe at the same time.
    pub(super) fn pick_wait(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began).as_nanos() as u64;
        let mixed = mix(self.sampler.delivered() ^ age.rotate_left(32));
        self.cycle.rounds_since_up = mixed & 1;
        let part = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        self.cycle.wait = LEAST_WAIT + WAIT_RANGE.mul_f64(part);
    }

    /// CheckProbeRTT.
    ///
    /// Where the application is the limit, the queue is not ours, and half of a window that was
    /// measured by little would delay what it sends. The round trip is then taken as it is.
    pub(super) fn check_probe_rtt(&mut self, now: Instant, sample: &Sample) {
        let is_idle = self.idle_restart || (sample.is_app_limited && !self.is_window_limited());
        let is_due = self.least_rtt.is_expired() && !is_idle;
        if self.state != State::ProbeRtt && is_due {
            self.save_window();
            self.state = State::ProbeRtt;
            self.probe_rtt = ProbeRtt::default();
            self.cycle.phase = AckPhase::ProbeStopping;
            self.start_round();
        }
        if self.state == State::ProbeRtt {
            self.handle_probe_rtt(now);
        }
        if sample.delivered > 0 {
            self.idle_restart = false;
        }
    }

    /// HandleProbeRTT.
    fn handle_probe_rtt(&mut self, now: Instant) {
        self.sampler.note_app_limited();
        if self.probe_rtt.done.is_some() {
            self.probe_rtt.has_round_passed |= self.round.is_start;
            if self.probe_rtt.has_round_passed {
                self.check_probe_rtt_done(now);
            }
        } else if self.sampler.in_flight() as f64 <= self.probe_rtt_window() {
            self.probe_rtt.done = Some(now + PROBE_RTT_TIME);
            self.start_round();
        }
    }

    /// CheckProbeRTTDone and ExitProbeRTT.
    pub(super) fn check_probe_rtt_done(&mut self, now: Instant) {
        if self.probe_rtt.done.is_none_or(|done| now <= done) {
            return;
        }
        self.least_rtt.note_probed(now);
        self.restore_window();
        self.short_term = ShortTerm::NONE;
        if self.full_pipe.was_reached {
            self.start_down(now);
            self.state = State::Cruise;
        } else {
            self.state = State::Startup;
        }
    }

    /// ProbeRTTCwnd.
    pub(super) fn probe_rtt_window(&self) -> f64 {
        (PROBE_RTT_WINDOW_GAIN * self.bdp(self.bw)).max(self.least_window())
    }
}

/// Mixes bits well enough that flows differ (the finalizer of SplitMix64).
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// DrainPacingGain.
const DRAIN_GAIN: f64 = 0.5;
const DOWN_GAIN: f64 = 0.9;
const UP_GAIN: f64 = 1.25;

/// DefaultCwndGain.
const WINDOW_GAIN: f64 = 2.0;
const UP_WINDOW_GAIN: f64 = 2.25;

/// ProbeRTTCwndGain.
const PROBE_RTT_WINDOW_GAIN: f64 = 0.5;

/// ProbeRTTDuration.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);

/// How much more a round has to deliver for the pipe not to be full.
const GROWTH: f64 = 1.25;

/// Rounds with less growth after which it is full.
const FULL_ROUNDS: u8 = 3;

/// Rounds after which Drain ends in any case.
const DRAIN_ROUNDS: u64 = 3;

/// Between two probes.
const LEAST_WAIT: Duration = Duration::from_secs(2);
const WAIT_RANGE: Duration = Duration::from_secs(1);
const MOST_RENO_ROUNDS: f64 = 63.0;

/// Rounds in which the slope of `inflight_long` doubles.
const MOST_UP_ROUNDS: u32 = 30;
