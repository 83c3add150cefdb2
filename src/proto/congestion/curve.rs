//! How the window grows in congestion avoidance (RFC 9438 §4).

use std::time::{Duration, Instant};

/// What is left of the window after a loss (RFC 9438 §4.6).
pub(super) const BETA: f64 = 0.7;

/// In packets per cubic second (RFC 9438 §5).
const C: f64 = 0.4;

/// By how much of a packet the estimate grows in a round trip, so that it is the average that Reno
/// would have with losses of one half (RFC 9438 §4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The target is at most this many windows, so the window grows by half at most in a round trip
/// (RFC 9438 §4.2).
const MOST_GROWTH: f64 = 1.5;

/// The window as a function of the time since it was reduced. All windows are in bytes, and parts
/// of a byte add up.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// Where the curve is flat: W_max.
    level: f64,
    /// Seconds until the curve reaches `level`: K.
    rise: f64,
    /// What Reno would have: W_est.
    estimate: f64,
    /// The window before it was reduced: cwnd_prior.
    prior: f64,
    /// The time in which the window was used.
    elapsed: Duration,
    last: Instant,
}

impl Curve {
    pub(super) fn new(now: Instant, window: f64) -> Self {
        Self {
            level: window,
            rise: 0.0,
            estimate: window,
            prior: window,
            elapsed: Duration::ZERO,
            last: now,
        }
    }

    /// The window was reduced by congestion, from `before` to `window`.
    ///
    /// Time counts from now on and not from the end of the recovery period: QUIC sends new data all
    /// through it.
    pub(super) fn begin(&mut self, now: Instant, before: f64, window: f64, mtu: f64) {
        // A flow that has to give way gives way faster (RFC 9438 §4.7).
        let level = if before < self.level {
            before * (1.0 + BETA) / 2.0
        } else {
            before
        };
        *self = Self {
            level,
            rise: ((level - window).max(0.0) / mtu / C).cbrt(),
            prior: before,
            ..Self::new(now, window)
        };
    }

    /// The window begins to grow without having been reduced by congestion (RFC 9438 §4.8, §4.10).
    pub(super) fn begin_level(&mut self, now: Instant, window: f64) {
        *self = Self::new(now, window);
    }

    /// Time in which the window is not used does not count (RFC 9438 §5.8).
    pub(super) fn pause(&mut self, now: Instant) {
        self.last = now;
    }

    /// Time before `sent` does not count, because the acknowledgement of that packet covers it.
    pub(super) fn pause_until(&mut self, sent: Instant) {
        self.last = self.last.max(sent);
    }

    /// The window after an acknowledgement of `bytes`.
    pub(super) fn grow(
        &mut self,
        now: Instant,
        rtt: Duration,
        window: f64,
        bytes: f64,
        mtu: f64,
    ) -> f64 {
        self.elapsed += now.saturating_duration_since(self.last);
        self.last = now;
        let alpha = if self.estimate < self.prior {
            ALPHA
        } else {
            1.0
        };
        self.estimate += alpha * mtu * bytes / window;
        if self.at(self.elapsed, mtu) < self.estimate {
            // RFC 9438 §4.3.
            return window.max(self.estimate);
        }
        // RFC 9438 §4.4 and §4.5.
        let target = (self.at(self.elapsed + rtt, mtu)).clamp(window, MOST_GROWTH * window);
        window + (target - window) * bytes / window
    }

    /// W_cubic.
    fn at(&self, time: Duration, mtu: f64) -> f64 {
        self.level + C * (time.as_secs_f64() - self.rise).powi(3) * mtu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: f64 = 1_200.0;

    /// Windows in packets, as they are `seconds` after a loss that left `packets`, with
    /// acknowledgements of `per_ack` bytes.
    fn grown(packets: f64, rtt: f64, seconds: f64, per_ack: f64) -> f64 {
        let began = crate::net::clock::now();
        let mut curve = Curve::new(began, 0.0);
        let mut window = packets * MTU;
        curve.begin(began, window / BETA, window, MTU);
        let mut time = 0.0;
        while time < seconds {
            time += rtt * per_ack / window;
            let now = began + Duration::from_secs_f64(time);
            window = curve.grow(now, Duration::from_secs_f64(rtt), window, per_ack, MTU);
        }
        window / MTU
    }

    /// RFC 9438 §4.2: 1000 packets come back after the cube root of 300 / 0.4 seconds, 9.1 of them,
    /// and grow as slowly then as they ever do.
    #[test]
    fn curve_comes_back_to_its_level_and_rises_beyond() {
        let at = |seconds| grown(700.0, 0.1, seconds, MTU);
        assert!((at(9.0) - 1000.0).abs() < 2.0, "{}", at(9.0));
        assert!(at(3.0) > 880.0, "{}", at(3.0));
        let (flat, steep) = (at(10.0) - at(8.0), at(15.0) - at(13.0));
        assert!(flat < 2.0 && steep > 50.0, "{flat} {steep}");
    }

    /// RFC 9438 §4.3: on a short path it has what Reno has, about half a packet more in each round
    /// trip, and a whole one from where it was before.
    #[test]
    fn short_paths_grow_as_reno_does() {
        let rtt = 0.001;
        let rounds = 50.0;
        let window = grown(70.0, rtt, rounds * rtt, MTU);
        assert!((window - (70.0 + ALPHA * rounds)).abs() < 2.0, "{window}");
        let [one, other] = [200.0, 250.0].map(|rounds| grown(70.0, rtt, rounds * rtt, MTU));
        assert!((other - one - 50.0).abs() < 2.0, "{one} {other}");
    }

    /// quinn-proto 0.11.19 forgets what is less than a packet when it adds one.
    #[test]
    fn parts_of_a_packet_add_up() {
        let whole = grown(70.0, 0.01, 3.0, MTU);
        let parts = grown(70.0, 0.01, 3.0, MTU / 10.0);
        assert!((whole - parts).abs() < 0.5, "{whole} {parts}");
    }

    /// RFC 9438 §4.7.
    #[test]
    fn second_loss_in_a_row_lowers_the_level() {
        let now = crate::net::clock::now();
        let mut curve = Curve::new(now, 1000.0 * MTU);
        curve.begin(now, 1000.0 * MTU, 700.0 * MTU, MTU);
        assert_eq!(curve.level, 1000.0 * MTU);
        curve.begin(now, 900.0 * MTU, 630.0 * MTU, MTU);
        assert_eq!(curve.level, 900.0 * 0.85 * MTU);
        assert!(curve.rise < (300.0_f64 / C).cbrt());
    }

    /// RFC 9438 §4.2 and §4.4.
    #[test]
    fn growth_in_a_round_trip_is_bounded_after_any_time() {
        let began = crate::net::clock::now();
        let mut curve = Curve::new(began, 100.0 * MTU);
        let now = began + Duration::from_secs(30 * 24 * 3600);
        let window = curve.grow(now, Duration::from_secs(1), 100.0 * MTU, 100.0 * MTU, MTU);
        assert_eq!(window, 150.0 * MTU);
    }
}
