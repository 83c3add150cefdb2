//! CUBIC (RFC 9438).

use std::{any::Any, mem, sync::Arc, time::Instant};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};

use super::{
    curve::{BETA, Curve},
    flight::Flight,
    start::{Newest, Start, Step},
};

/// Makes controllers with this initial window, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CubicFactory {
    pub(crate) initial_window: u64,
}

impl ControllerFactory for CubicFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Cubic::new(self.initial_window, now, current_mtu))
    }
}

/// The window of one path.
///
/// It grows when it is used, and only then (RFC 9002 §7.8), so it does not grow beyond twice what
/// was in flight. It ignores quinn-proto's `app_limited`, which describes the moment before the
/// acknowledgement, and is not set while the pacer holds packets back.
///
/// Every loss counts. That a packet was late and not lost (RFC 9438 §4.9) cannot be seen from here:
/// quinn-proto 0.11.19 forgets what it has declared lost, and says nothing of its acknowledgement.
#[derive(Clone, Debug)]
struct Cubic {
    initial_window: u64,
    mtu: f64,
    window: f64,
    /// Below it is slow start, above it congestion avoidance.
    threshold: f64,
    /// The first slow start, until it is seen what the path takes.
    start: Option<Start>,
    curve: Curve,
    flight: Flight,
    /// When the window was reduced. What was sent until then tells nothing new (RFC 9002 §7.3.2).
    reduced: Option<Instant>,
    batch: Batch,
}

/// Packets that are acknowledged together.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    bytes: u64,
    /// Of those that were sent after the window was reduced.
    news: u64,
    newest: Option<Newest>,
}

impl Cubic {
    fn new(initial_window: u64, now: Instant, mtu: u16) -> Self {
        Self {
            initial_window,
            mtu: mtu.into(),
            window: initial_window as f64,
            threshold: f64::INFINITY,
            start: Some(Start::new(now)),
            curve: Curve::new(now, initial_window as f64),
            flight: Flight::new(now),
            reduced: None,
            batch: Batch::default(),
        }
    }

    fn note_acknowledged(&mut self, bytes: u64, newest: Newest) {
        let batch = &mut self.batch;
        batch.bytes += bytes;
        if self.reduced.is_none_or(|reduced| newest.sent > reduced) {
            batch.news += bytes;
        }
        if batch.newest.is_none_or(|other| newest.sent >= other.sent) {
            batch.newest = Some(newest);
        }
    }

    fn end_batch(&mut self, now: Instant, in_flight: u64) {
        let batch = mem::take(&mut self.batch);
        self.flight.note(in_flight + batch.bytes);
        let Some(newest) = batch.newest else {
            return;
        };
        let is_used = self.is_used();
        let step = self.start.as_mut().map_or(Step::Grow, |start| {
            start.note_acknowledged(now, batch.bytes, newest, is_used)
        });
        match step {
            Step::Grow => self.grow(now, batch.news, newest, is_used),
            Step::Wait => self.curve.pause(now),
            Step::Fit(bytes) => self.fit(now, bytes.max(BETA * BETA * self.window)),
            Step::Follow(bytes) => self.widen(bytes),
            Step::End(bytes) => {
                self.start = None;
                // If there was a loss, the window is smaller for it already.
                self.fit(now, bytes.max(BETA * self.window));
                if self.is_slow_start() {
                    self.threshold = self.window;
                    self.curve.begin_level(now, self.window);
                }
            }
        }
        self.flight.note_acknowledged(now, newest.sent, in_flight);
    }

    fn grow(&mut self, now: Instant, bytes: u64, newest: Newest, is_used: bool) {
        if !is_used {
            // RFC 9438 §5.8.
            self.curve.pause(now);
            return;
        }
        let bytes = bytes as f64;
        if self.is_slow_start() {
            self.widen(self.window + bytes);
            if !self.is_slow_start() {
                self.curve.begin_level(now, self.window);
            }
        } else {
            // Of the silence before these packets, nothing counts.
            self.curve.pause_until(newest.sent);
            let curve = &mut self.curve;
            self.window = curve.grow(now, newest.smoothed_rtt, self.window, bytes, self.mtu);
        }
    }

    /// Raises the window, but not beyond twice what was in flight.
    fn widen(&mut self, bytes: f64) {
        let most = MOST_UNUSED * self.flight.peak() as f64;
        self.window = self.window.max(bytes.min(most));
    }

    /// Lowers the window to what the path was seen to take. Callers see to it that this is never by
    /// more than two losses would: nothing may have been delivered because the path was gone for a
    /// moment.
    fn fit(&mut self, now: Instant, bytes: f64) {
        let fitting = bytes.max(self.initial_window as f64);
        if fitting >= self.window {
            return;
        }
        if fitting <= BETA * self.window {
            // A loss would not have lowered it more. What is still lost of the packets on their way
            // is the same congestion.
            self.reduced = Some(now);
        }
        self.window = fitting;
        self.curve.begin_level(now, fitting);
    }

    fn note_congestion(&mut self, now: Instant, sent: Instant, is_persistent: bool) {
        if self.reduced.is_some_and(|reduced| sent <= reduced) && !is_persistent {
            return;
        }
        if let Some(start) = &mut self.start {
            start.note_congestion(now);
        }
        self.reduced = Some(now);
        let before = self.window;
        self.window = (BETA * before).max(self.minimum_window());
        self.threshold = self.window;
        self.curve.begin(now, before, self.window, self.mtu);
        if is_persistent {
            // RFC 9002 §7.6.2, RFC 9438 §4.8.
            self.start = None;
            self.window = self.minimum_window();
            self.reduced = None;
        }
    }

    fn is_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// Whether the window is what limits the sender.
    fn is_used(&self) -> bool {
        let peak = self.flight.peak() as f64;
        if self.is_slow_start() {
            // While the window doubles, what is in flight is behind it: the pacer spreads over a
            // round trip what one acknowledgement lets out.
            self.window <= MOST_UNUSED * peak
        } else {
            self.window <= 1.25 * peak + UNUSED_PACKETS * self.mtu
        }
    }

    /// RFC 9002 §7.2.
    fn minimum_window(&self) -> f64 {
        2.0 * self.mtu
    }
}

impl Controller for Cubic {
    fn on_sent(&mut self, now: Instant, _: u64, _: u64) {
        if let Some(start) = &mut self.start {
            start.note_sent(now);
        }
    }

    fn on_ack(&mut self, _: Instant, sent: Instant, bytes: u64, _: bool, rtt: &RttEstimator) {
        let newest = Newest {
            sent,
            smoothed_rtt: rtt.get(),
        };
        self.note_acknowledged(bytes, newest);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        self.end_batch(now, in_flight);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, _: u64) {
        self.note_congestion(now, sent, is_persistent);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(self.minimum_window());
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics.ssthresh = (self.threshold.is_finite()).then_some(self.threshold as u64);
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

/// How many times as large as what was in flight the window may be.
const MOST_UNUSED: f64 = 2.0;

/// Packets that may be missing for the window to be used. quinn-proto sends none that would fill it
/// to the last byte, and the last ones of a batch are small.
const UNUSED_PACKETS: f64 = 4.0;

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use super::*;

    const PACKET: u64 = 1_200;
    const INITIAL_WINDOW: u64 = 12_000;

    /// A path without a queue: what is sent is acknowledged a round trip later.
    struct Path {
        cubic: Cubic,
        rtt: Duration,
        now: Instant,
    }

    impl Path {
        fn new(rtt_ms: u64) -> Self {
            let now = crate::net::clock::now();
            Self {
                cubic: Cubic::new(INITIAL_WINDOW, now, PACKET as u16),
                rtt: Duration::from_millis(rtt_ms),
                now,
            }
        }

        /// In congestion avoidance, right after a loss, with a window of `packets`.
        fn after_loss(rtt_ms: u64, packets: u64) -> Self {
            let mut path = Self::new(rtt_ms);
            path.cubic.start = None;
            path.cubic.window = (packets * PACKET) as f64 / BETA;
            path.lose();
            path
        }

        /// One round trip with `most` bytes in flight, or a full window if that is less.
        fn round(&mut self, most: u64) {
            let bytes = most.min(self.cubic.window());
            let packets = bytes / PACKET;
            let sent = self.now;
            self.cubic.on_sent(sent, packets * PACKET, 0);
            self.now += self.rtt;
            for packet in 1..=packets {
                self.acknowledge(sent, PACKET, (packets - packet) * PACKET);
            }
            self.now += Duration::from_millis(1);
        }

        fn rounds(&mut self, count: usize, most: u64) {
            for _ in 0..count {
                self.round(most);
            }
        }

        fn acknowledge(&mut self, sent: Instant, bytes: u64, left: u64) {
            let newest = Newest {
                sent,
                smoothed_rtt: self.rtt,
            };
            self.cubic.note_acknowledged(bytes, newest);
            self.cubic.end_batch(self.now, left);
        }

        fn lose(&mut self) {
            self.now += self.rtt;
            self.cubic.note_congestion(self.now, self.now, false);
            self.now += Duration::from_millis(1);
        }
    }

    #[test]
    fn window_doubles_while_it_is_used() {
        let mut path = Path::new(50);
        path.rounds(6, u64::MAX);
        assert_eq!(path.cubic.window(), 64 * INITIAL_WINDOW);
    }

    /// RFC 9002 §7.8.
    #[test]
    fn window_is_never_more_than_twice_what_is_in_flight() {
        let mut path = Path::new(50);
        path.rounds(100, 100 * PACKET);
        assert!(
            path.cubic.window() <= 201 * PACKET,
            "{}",
            path.cubic.window()
        );

        let mut path = Path::after_loss(50, 100);
        let before = path.cubic.window();
        path.rounds(1000, 50 * PACKET);
        assert_eq!(path.cubic.window(), before);

        // All of it is acknowledged at once.
        let mut path = Path::new(50);
        path.cubic.window = (150 * PACKET) as f64;
        let sent = path.now;
        path.now += path.rtt;
        path.acknowledge(sent, 100 * PACKET, 0);
        assert_eq!(path.cubic.window(), 200 * PACKET);
    }

    /// Packets with nothing but acknowledgements are sent, and are not in flight.
    #[test]
    fn download_uses_no_window() {
        let mut path = Path::new(63);
        for _ in 0..500 {
            for _ in 0..400 {
                path.cubic.on_sent(path.now, 40, 0);
            }
            path.round(PACKET);
        }
        assert!(path.cubic.is_slow_start());
        assert_eq!(path.cubic.window(), INITIAL_WINDOW);
        path.rounds(8, u64::MAX);
        assert!(path.cubic.window() > 1_000 * PACKET);
    }

    /// RFC 9438 §5.8.
    #[test]
    fn silence_does_not_count() {
        let mut paths = [Path::after_loss(50, 100), Path::after_loss(50, 100)];
        for path in &mut paths {
            path.rounds(40, u64::MAX);
        }
        paths[1].now += Duration::from_secs(3600);
        for path in &mut paths {
            path.rounds(8, u64::MAX);
        }
        let [one, other] = paths.map(|path| path.cubic.window());
        assert!(one.abs_diff(other) < one / 50, "{one} {other}");
    }

    /// How fast an application sends says nothing of the path.
    #[test]
    fn loss_of_a_window_that_was_not_used_lowers_it_once() {
        let mut path = Path::new(50);
        path.rounds(5, u64::MAX);
        path.rounds(4, PACKET);
        let before = path.cubic.window;
        path.lose();
        path.rounds(4, PACKET);
        assert_eq!(path.cubic.window, BETA * before);
    }

    /// RFC 9438 §5.8.
    #[test]
    fn time_in_which_the_window_is_not_used_does_not_count() {
        let mut paths = [Path::after_loss(50, 200), Path::after_loss(50, 200)];
        paths[1].rounds(500, 50 * PACKET);
        for path in &mut paths {
            path.rounds(20, u64::MAX);
        }
        let [one, other] = paths.map(|path| path.cubic.window());
        assert!(one.abs_diff(other) < one / 50, "{one} {other}");
    }

    #[test]
    fn packets_that_were_sent_before_a_reduction_do_not_reduce_again() {
        let mut path = Path::new(50);
        path.round(u64::MAX);
        let (before, sent) = (path.cubic.window(), path.now);
        path.lose();
        assert_eq!(path.cubic.window(), (before as f64 * BETA) as u64);
        let reduced = path.cubic.window();
        path.cubic.note_congestion(path.now, sent, false);
        path.acknowledge(sent, PACKET, reduced);
        assert_eq!(path.cubic.window(), reduced);
        path.lose();
        assert_eq!(path.cubic.window(), (reduced as f64 * BETA) as u64);
    }

    /// RFC 9002 §7.6.2.
    #[test]
    fn persistent_congestion_leaves_two_packets() {
        let mut path = Path::after_loss(50, 100);
        let threshold = path.cubic.window() as f64 * BETA;
        path.cubic.note_congestion(path.now, path.now, true);
        assert_eq!(path.cubic.window(), 2 * PACKET);
        path.rounds(12, u64::MAX);
        // Slow start as far as that, and not much more.
        let window = path.cubic.window() as f64;
        assert!(
            (threshold..1.2 * threshold).contains(&window),
            "{window} {threshold}"
        );
    }

    #[test]
    fn losses_leave_two_packets_at_least() {
        let mut path = Path::new(50);
        for _ in 0..50 {
            path.lose();
        }
        assert_eq!(path.cubic.window(), 2 * PACKET);
        path.cubic.on_mtu_update(1_452);
        assert_eq!(path.cubic.window(), 2 * 1_452);
        path.round(u64::MAX);
        assert!(path.cubic.window() > 2 * 1_452);
    }

    /// Sends as much as the window and a pacer let, over a bottleneck that takes `per_packet` for
    /// each packet, with a delay that depends on when it was sent.
    fn send(
        path: &mut Path,
        per_packet: Duration,
        time: Duration,
        delay: impl Fn(Duration) -> Duration,
    ) {
        let began = path.now;
        let (mut free, mut next) = (began, began);
        let mut in_flight = VecDeque::new();
        while path.now - began < time {
            let held = in_flight.len() as u64 * PACKET;
            let is_room = held + PACKET < path.cubic.window();
            match in_flight.front() {
                Some(&(acknowledged, sent)) if !is_room || acknowledged < next => {
                    in_flight.pop_front();
                    path.now = acknowledged;
                    path.acknowledge(sent, PACKET, held - PACKET);
                }
                _ => {
                    path.now = next.max(path.now);
                    path.cubic.on_sent(path.now, PACKET, 0);
                    free = (path.now + delay(path.now - began)).max(free) + per_packet;
                    in_flight.push_back((free + path.rtt, path.now));
                    let packets = (path.cubic.window() / PACKET) as u32;
                    next = path.now + path.rtt * 4 / 5 / packets;
                }
            }
        }
    }

    /// The path holds 500 packets.
    #[test]
    fn slow_start_ends_with_what_the_path_delivers() {
        let mut path = Path::new(50);
        let per_packet = Duration::from_micros(100);
        send(&mut path, per_packet, Duration::from_secs(1), |_| {
            Duration::ZERO
        });
        assert!(path.cubic.start.is_none());
        let held = path.cubic.window() / PACKET;
        assert!((500..700).contains(&held), "{held} packets");
    }

    /// Some other traffic makes a queue for a moment.
    #[test]
    fn slow_start_goes_on_after_a_delay_that_was_not_of_its_making() {
        let mut path = Path::new(50);
        let per_packet = Duration::from_micros(1);
        let moment = Duration::from_millis(200)..Duration::from_millis(250);
        send(&mut path, per_packet, Duration::from_secs(1), |time| {
            if moment.contains(&time) {
                Duration::from_millis(20)
            } else {
                Duration::ZERO
            }
        });
        let held = path.cubic.window() / PACKET;
        assert!(held > 5_000, "{held} packets");
    }

    #[test]
    fn slow_start_goes_on_when_the_way_becomes_longer() {
        let mut path = Path::new(20);
        path.rounds(3, u64::MAX);
        path.rtt *= 10;
        send(
            &mut path,
            Duration::from_micros(1),
            Duration::from_secs(4),
            |_| Duration::ZERO,
        );
        let held = path.cubic.window() / PACKET;
        assert!(held > 5_000, "{held} packets");
    }

    /// A path may take far less than the window that slow start has come to when it is too much.
    #[test]
    fn loss_in_slow_start_leaves_what_the_path_delivers_or_half_of_the_window() {
        for (delivered, expected) in [(0.5, 0.5 * 1.25), (0.1, BETA * BETA)] {
            let mut path = Path::new(50);
            path.rounds(6, u64::MAX);
            let before = path.cubic.window();
            path.lose();
            let (lost, bytes) = (path.now, (before as f64 * delivered) as u64);
            // The next round trip.
            path.cubic.on_sent(lost, PACKET, 0);
            path.now += path.rtt;
            path.acknowledge(lost - path.rtt, bytes - PACKET, before / 2);
            path.acknowledge(lost, PACKET, before / 2);
            let part = path.cubic.window() as f64 / before as f64;
            assert!((part - expected).abs() < 0.05, "{part} {expected}");
            assert!(path.cubic.start.is_none());
        }
    }
}
