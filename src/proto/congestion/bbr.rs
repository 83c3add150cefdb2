//! BBR, version 3 (draft-ietf-ccwg-bbr): a model of the path, and what follows from it.
//!
//! Names of steps in comments are those of the draft's pseudo-code. `docs/decisions/0039-bbr.md`
//! says where this differs from it.

mod delivery_rate;
mod filters;
mod state;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};

use self::{
    delivery_rate::{Lost, Sample, Sampler},
    filters::{CycleMax, LeastRtt, RoundMax},
    state::{Cycle, FullPipe, ProbeRtt, State},
};
use super::paced::Paced;

/// Makes controllers with this initial window, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BbrFactory {
    pub(crate) initial_window: u64,
}

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(self.initial_window, now, current_mtu))
    }
}

/// The model of one path.
///
/// Amounts are in bytes, and infinite where there is no bound. Rates are in bytes per second.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    initial_window: u64,
    began: Instant,
    mtu: f64,
    shared: Paced,
    /// What was sent since the last call, unless it is not in flight.
    unsettled: Option<(Instant, u64)>,
    sampler: Sampler,

    window: f64,
    pacing_rate: f64,
    state: State,
    cycle: Cycle,
    full_pipe: FullPipe,
    probe_rtt: ProbeRtt,
    drain_start_round: u64,
    idle_restart: bool,
    /// The window before ProbeRTT or persistent congestion.
    prior_window: f64,
    /// When packets were last found lost, until one is acknowledged that was sent later.
    recovery: Option<Instant>,

    round: Round,
    max_bw: CycleMax,
    /// `max_bw`, with what the short-term model says.
    bw: f64,
    least_rtt: LeastRtt,
    extra_acked: RoundMax,
    extra_interval: (Instant, f64),
    latest: Latest,
    short_term: ShortTerm,
    /// Long-term: what may be in flight without too much loss.
    inflight_long: f64,
}

/// Packet-timed round trips.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    count: u64,
    /// Whether the acknowledgement at hand begins one.
    is_start: bool,
    next_delivered: u64,
    /// Whether the window was used up in this round, and in the last one.
    is_limited: [bool; 2],
}

/// What the last round trip delivered, and lost.
#[derive(Clone, Copy, Debug, Default)]
struct Latest {
    bw: f64,
    inflight: f64,
    is_round_start: bool,
    round_delivered: u64,
    has_loss: bool,
    /// How often losses were found in this round: no more than there are gaps between packets that
    /// have arrived.
    losses: u32,
    has_mark: bool,
}

/// What is safe to send while the path is not probed.
#[derive(Clone, Copy, Debug)]
struct ShortTerm {
    bw: f64,
    inflight: f64,
}

impl ShortTerm {
    const NONE: Self = Self {
        bw: f64::INFINITY,
        inflight: f64::INFINITY,
    };
}

impl Bbr {
    /// OnInit.
    pub(super) fn new(initial_window: u64, now: Instant, mtu: u16) -> Self {
        let bbr = Self {
            initial_window,
            began: now,
            mtu: mtu.into(),
            shared: Paced::default(),
            unsettled: None,
            sampler: Sampler::new(now),
            window: initial_window as f64,
            pacing_rate: STARTUP_GAIN * initial_window as f64 / FIRST_RTT.as_secs_f64(),
            state: State::Startup,
            cycle: Cycle::new(now),
            full_pipe: FullPipe::default(),
            probe_rtt: ProbeRtt::default(),
            drain_start_round: 0,
            idle_restart: false,
            prior_window: 0.0,
            recovery: None,
            round: Round::default(),
            max_bw: CycleMax::default(),
            bw: 0.0,
            least_rtt: LeastRtt::new(now),
            extra_acked: RoundMax::default(),
            extra_interval: (now, 0.0),
            latest: Latest::default(),
            short_term: ShortTerm::NONE,
            inflight_long: f64::INFINITY,
        };
        bbr.share();
        bbr
    }

    /// What the connection is told, and tells.
    pub(super) fn paced(&self) -> Paced {
        self.shared.clone()
    }

    fn share(&self) {
        self.shared.set(self.pacing_rate, self.window as u64);
        self.shared.set_in_flight(self.sampler.in_flight());
    }

    /// OnTransmit and OnPacketSent, for what was sent since the last call.
    fn settle(&mut self) {
        let unsettled = self.unsettled.take();
        if let Some((now, bytes)) = unsettled.filter(|_| !self.shared.take_uncounted()) {
            let restarts = self.restart_from_idle(now);
            self.sampler.note_sent(now, bytes);
            if restarts {
                self.share();
            }
        }
        if self.shared.take_dry() {
            self.sampler.note_app_limited();
        }
    }

    /// HandleRestartFromIdle. Returns whether it is one.
    fn restart_from_idle(&mut self, now: Instant) -> bool {
        if self.sampler.in_flight() > 0 || !self.sampler.is_app_limited() {
            return false;
        }
        self.idle_restart = true;
        self.extra_interval.0 = now;
        if self.state.is_probe_bw() {
            self.set_pacing_rate(1.0);
        } else if self.state == State::ProbeRtt {
            self.check_probe_rtt_done(now);
        }
        true
    }

    /// UpdateOnACK.
    fn update(&mut self, now: Instant, in_flight: u64) {
        let Some(sample) = self.sampler.end_batch(now, in_flight) else {
            return;
        };
        if self.least_rtt.is_unknown() {
            // InitPacingRate.
            let rtt = sample.rtt.max(Duration::from_micros(1)).as_secs_f64();
            self.pacing_rate = STARTUP_GAIN * self.initial_window as f64 / rtt;
        }
        self.update_latest_delivery(&sample);
        let is_startup_lossy = self.update_congestion(&sample);
        self.update_aggregation(now, &sample);
        self.check_full_pipe(&sample);
        self.check_startup_done(is_startup_lossy);
        self.check_drain_done(now);
        self.update_cycle(now, &sample);
        self.least_rtt.update(now, sample.rtt);
        self.check_probe_rtt(now, &sample);
        self.advance_latest_delivery(&sample);
        self.bw = self.max_bw.get().min(self.short_term.bw);
        self.leave_recovery(&sample);
        self.set_pacing_rate(self.pacing_gain());
        self.set_window(sample.newly_acked as f64);
        self.share();
    }

    /// UpdateLatestDeliverySignals.
    fn update_latest_delivery(&mut self, sample: &Sample) {
        let latest = &mut self.latest;
        latest.is_round_start = false;
        latest.bw = latest.bw.max(sample.rate);
        latest.inflight = latest.inflight.max(sample.delivered as f64);
        if (sample.prior_delivered).is_some_and(|prior| prior >= latest.round_delivered) {
            latest.round_delivered = self.sampler.delivered();
            latest.is_round_start = true;
        }
    }

    /// AdvanceLatestDeliverySignals.
    fn advance_latest_delivery(&mut self, sample: &Sample) {
        if self.latest.is_round_start {
            self.latest.bw = sample.rate;
            self.latest.inflight = sample.delivered as f64;
        }
    }

    /// UpdateCongestionSignals. Returns whether more was lost in the last round than Startup takes.
    fn update_congestion(&mut self, sample: &Sample) -> bool {
        self.update_max_bw(sample);
        if !self.latest.is_round_start {
            return false;
        }
        let has_loss = std::mem::take(&mut self.latest.has_loss);
        let losses = std::mem::take(&mut self.latest.losses);
        let has_mark = std::mem::take(&mut self.latest.has_mark);
        if has_loss && !self.state.is_probing_bw() {
            self.adapt_short_term();
        }
        let is_lossy = losses >= STARTUP_LOSSES && is_too_much(sample.lost, sample.sent_in_flight);
        is_lossy || has_mark
    }

    /// UpdateMaxBw.
    fn update_max_bw(&mut self, sample: &Sample) {
        self.update_round(sample);
        if sample.rate > 0.0 && (sample.rate >= self.max_bw.get() || !sample.is_app_limited) {
            self.max_bw.update(sample.rate);
        }
    }

    /// UpdateRound.
    fn update_round(&mut self, sample: &Sample) {
        let round = &mut self.round;
        round.is_start =
            (sample.prior_delivered).is_some_and(|prior| prior >= round.next_delivered);
        if round.is_start {
            round.next_delivered = self.sampler.delivered();
            round.count += 1;
            round.is_limited = [false, round.is_limited[0]];
            self.cycle.rounds_since_up += 1;
        }
        self.round.is_limited[0] |= self.reaches(sample, self.window);
    }

    /// Whether this amount was in flight. quinn-proto sends no packet that would fill the window to
    /// its last byte.
    fn reaches(&self, sample: &Sample, inflight: f64) -> bool {
        sample.was_in_flight as f64 + 2.0 * self.mtu >= inflight
    }

    fn start_round(&mut self) {
        self.round.next_delivered = self.sampler.delivered();
    }

    fn is_window_limited(&self) -> bool {
        self.round.is_limited.contains(&true)
    }

    /// InitLowerBounds and LossLowerBounds.
    fn adapt_short_term(&mut self) {
        let ShortTerm { bw, inflight } = &mut self.short_term;
        if bw.is_infinite() {
            *bw = self.max_bw.get();
        }
        if inflight.is_infinite() {
            *inflight = self.window;
        }
        *bw = self.latest.bw.max(BETA * *bw);
        *inflight = self.latest.inflight.max(BETA * *inflight);
    }

    /// UpdateACKAggregation.
    fn update_aggregation(&mut self, now: Instant, sample: &Sample) {
        let (since, delivered) = &mut self.extra_interval;
        let mut expected = self.bw * now.saturating_duration_since(*since).as_secs_f64();
        if *delivered <= expected {
            (*since, *delivered) = (now, 0.0);
            expected = 0.0;
        }
        *delivered += sample.newly_acked as f64;
        let extra = (*delivered - expected).min(self.window);
        let rounds = if self.full_pipe.was_reached {
            EXTRA_ACKED_ROUNDS
        } else {
            1
        };
        self.extra_acked.update(self.round.count, extra, rounds);
    }

    /// NoteLoss and HandleLostPacket.
    fn note_lost(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.note_loss();
        self.latest.losses += 1;
        self.recovery.get_or_insert(now);
        for lost in self.sampler.note_lost(sent, bytes) {
            // What was lost before may have ended a probe, and what was noted with it.
            self.note_loss();
            if self.cycle.is_probe_sample && is_too_much(lost.lost, lost.sent_in_flight) {
                self.handle_inflight_too_high(now, inflight_at_loss(&lost), lost.is_app_limited);
            }
        }
    }

    /// Notes a mark of ECN. It counts as congestion, of which nobody knows how much.
    fn note_mark(&mut self, now: Instant) {
        self.note_loss();
        self.latest.has_mark = true;
        if self.cycle.is_probe_sample {
            let in_flight = self.sampler.in_flight() as f64;
            let is_app_limited = self.sampler.is_app_limited();
            self.handle_inflight_too_high(now, in_flight, is_app_limited);
        }
    }

    fn note_loss(&mut self) {
        if !self.latest.has_loss {
            self.latest.round_delivered = self.sampler.delivered();
            self.latest.losses = 0;
        }
        self.latest.has_loss = true;
    }

    /// HandleInflightTooHigh.
    fn handle_inflight_too_high(&mut self, now: Instant, in_flight: f64, is_app_limited: bool) {
        self.cycle.was_too_high = true;
        self.cycle.is_probe_sample = false;
        if !is_app_limited {
            self.inflight_long = in_flight.max(BETA * self.target_inflight());
        }
        if self.state == State::Up {
            self.start_down(now);
        }
    }

    /// RFC 9002 §7.6.2: nothing has arrived for a while. OnEnterRTO.
    fn note_persistent_congestion(&mut self) {
        self.save_window();
        if !self.state.is_probing_bw() && self.short_term.inflight.is_infinite() {
            // It is lowered from what the window was before.
            self.short_term.inflight = self.prior_window;
        }
        let least = self.sampler.in_flight() as f64 + self.mtu;
        self.window = self.window.min(least.max(self.least_window()));
    }

    /// Restores the window when a packet is acknowledged that was sent after the losses.
    fn leave_recovery(&mut self, sample: &Sample) {
        if let (Some(recovery), Some(sent)) = (self.recovery, sample.sent)
            && sent > recovery
        {
            self.recovery = None;
            if self.state != State::ProbeRtt {
                self.restore_window();
            }
        }
    }

    /// SaveCwnd.
    fn save_window(&mut self) {
        let is_modulated = self.prior_window > 0.0;
        self.prior_window = if is_modulated {
            self.prior_window.max(self.window)
        } else {
            self.window
        };
    }

    /// RestoreCwnd.
    fn restore_window(&mut self) {
        let prior = std::mem::take(&mut self.prior_window);
        self.window = self.window.max(prior);
    }

    /// SetPacingRateWithGain.
    fn set_pacing_rate(&mut self, gain: f64) {
        let rate = gain * self.bw * (1.0 - PACING_MARGIN);
        if self.full_pipe.was_reached || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    /// SetSendQuantum.
    fn quantum(&self) -> f64 {
        let quantum = self.pacing_rate * QUANTUM_TIME.as_secs_f64();
        quantum.min(MOST_QUANTUM).max(2.0 * self.mtu)
    }

    /// SetCwnd.
    fn set_window(&mut self, newly_acked: f64) {
        let most = self.most_inflight();
        if self.full_pipe.was_reached {
            self.window = (self.window + newly_acked).min(most);
        } else if self.window < most || self.sampler.delivered() < self.initial_window {
            self.window += newly_acked;
        }
        self.window = self.window.max(self.least_window());
        if self.state == State::ProbeRtt {
            self.window = self.window.min(self.probe_rtt_window());
        }
        self.bound_window();
    }

    /// BoundCwndForModel.
    fn bound_window(&mut self) {
        let long = match self.state {
            State::Down | State::Refill | State::Up => self.inflight_long,
            State::Cruise | State::ProbeRtt => self.inflight_with_headroom(),
            State::Startup | State::Drain => f64::INFINITY,
        };
        let most = long.min(self.short_term.inflight).max(self.least_window());
        self.window = self.window.min(most);
    }

    /// BDPMultiple.
    fn bdp(&self, bw: f64) -> f64 {
        match self.least_rtt.get() {
            Some(rtt) => bw * rtt.as_secs_f64(),
            None => self.initial_window as f64,
        }
    }

    /// QuantizationBudget.
    fn quantize(&self, inflight: f64) -> f64 {
        let inflight = inflight.max(self.quantum()).max(self.least_window());
        if self.state == State::Up {
            inflight + 2.0 * self.mtu
        } else {
            inflight
        }
    }

    /// UpdateMaxInflight.
    fn most_inflight(&self) -> f64 {
        let bdp = self.window_gain() * self.bdp(self.bw);
        self.quantize(bdp + self.extra_acked.get())
    }

    /// InflightWithHeadroom.
    fn inflight_with_headroom(&self) -> f64 {
        let headroom = (HEADROOM * self.inflight_long).max(self.mtu);
        if self.inflight_long.is_infinite() {
            f64::INFINITY
        } else {
            (self.inflight_long - headroom).max(self.least_window())
        }
    }

    /// TargetInflight.
    fn target_inflight(&self) -> f64 {
        self.bdp(self.bw).min(self.window)
    }

    /// MinPipeCwnd.
    fn least_window(&self) -> f64 {
        LEAST_PACKETS * self.mtu
    }
}

/// IsInflightTooHigh.
fn is_too_much(lost: u64, in_flight: u64) -> bool {
    lost as f64 > in_flight as f64 * MOST_LOSS
}

/// InflightAtLoss: where losses of packets that were sent together became too many.
fn inflight_at_loss(lost: &Lost) -> f64 {
    let size = lost.bytes as f64;
    let in_flight_before = lost.sent_in_flight as f64 - size;
    let lost_before = lost.lost as f64 - size;
    let prefix = (MOST_LOSS * in_flight_before - lost_before) / (1.0 - MOST_LOSS);
    (in_flight_before + prefix).max(0.0)
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.settle();
        self.unsettled = Some((now, bytes));
        self.shared.note_told();
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.settle();
        self.sampler.note_acknowledged(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        self.settle();
        self.update(now, in_flight);
        self.shared.set_in_flight(in_flight);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost: u64) {
        self.settle();
        if lost == 0 {
            self.note_mark(now);
        } else {
            self.note_lost(now, sent, lost);
        }
        if is_persistent {
            self.note_persistent_congestion();
        }
        // UpdateControlParameters, which the acknowledgement has done without these losses.
        self.set_pacing_rate(self.pacing_gain());
        self.set_window(0.0);
        self.share();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(self.least_window());
        self.share();
    }

    fn window(&self) -> u64 {
        self.shared.window(self.window as u64)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window as u64;
        metrics.pacing_rate = Some((8.0 * self.pacing_rate) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// StartupPacingGain: 4 ln 2, which lets the rate double in each round.
const STARTUP_GAIN: f64 = 2.77;

/// The round trip before one is known (InitPacingRate).
const FIRST_RTT: Duration = Duration::from_millis(1);

/// PacingMarginPercent.
const PACING_MARGIN: f64 = 0.01;

/// LossThresh.
const MOST_LOSS: f64 = 0.02;

/// BBRStartupFullLossCnt.
const STARTUP_LOSSES: u32 = 6;

/// Beta.
const BETA: f64 = 0.7;

/// Headroom.
const HEADROOM: f64 = 0.15;

/// MinPipeCwnd, in packets.
const LEAST_PACKETS: f64 = 4.0;

/// ExtraAckedFilterLen.
const EXTRA_ACKED_ROUNDS: u64 = 10;

/// SetSendQuantum.
const QUANTUM_TIME: Duration = Duration::from_millis(1);
const MOST_QUANTUM: f64 = 65_536.0;
