//! Congestion control that lets the close of a connection pass, and tells what was acknowledged.

mod bbr;
mod cubic;
mod curve;
mod flight;
mod paced;
mod resume;
mod start;

use std::{
    any::Any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quinn_proto::{
    Connection, RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};

pub(super) use self::paced::{Gate, Paced};
use self::resume::Resume;
pub(crate) use self::{bbr::BbrFactory, cubic::CubicFactory};
use super::known_paths::PathMemory;
use crate::sync::lock_unmodelled;

/// Makes controllers of another kind that can be lifted.
pub(crate) struct LiftableFactory {
    pub(crate) inner: Arc<dyn ControllerFactory + Send + Sync>,
    /// The least window on the way back to the same host, if that is where the interface leads.
    pub(crate) same_host_window: Option<u64>,
    /// Of the path that the connection begins with, if paths are remembered. Taken by the first
    /// controller: a peer that moves has another path then.
    pub(crate) memory: Mutex<Option<PathMemory>>,
}

impl ControllerFactory for LiftableFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.inner).build(now, current_mtu);
        let bbr = inner.clone_box().into_any().downcast::<bbr::Bbr>();
        let paced = bbr.ok().map(|bbr| bbr.paced());
        let memory = lock_unmodelled(&self.memory).take();
        let resume = memory.map(|memory| {
            // The window of BBR follows from its model of the path, so a remembered window cannot
            // be set.
            let may_jump = paced.is_none();
            Box::new(Resume::new(memory, now, inner.initial_window(), may_jump))
        });
        Box::new(Liftable {
            inner,
            began: now,
            first_acknowledged: None,
            sent: 0,
            outstanding: 0,
            number: 0,
            same_host_window: self.same_host_window,
            resume,
            shared: Arc::new(Shared {
                paced,
                ..Shared::default()
            }),
        })
    }
}

/// What a connection shares with the controller of its path.
#[derive(Clone, Debug, Default)]
pub(super) struct PathControl {
    shared: Arc<Shared>,
    /// Which of the copies of a controller is that of the path.
    number: u64,
}

#[derive(Debug, Default)]
struct Shared {
    is_lifted: AtomicBool,
    /// The number of copies of the controller. quinn-proto makes one for each other port of a
    /// peer, and goes back to the one before if the peer is not there.
    copies: AtomicU64,
    /// Which of them has told its window last while it was lifted.
    asked: AtomicU64,
    /// When the connection began with the path, or has returned to it, if that was later than the
    /// controller was made.
    began: Mutex<Option<Instant>>,
    /// On the way back to the same host: what may be in flight there. Otherwise 0.
    same_host_window: AtomicU64,
    acknowledged: AtomicU64,
    /// How often something was acknowledged.
    acknowledgements: AtomicU64,
    /// Bytes that were unacknowledged after the last acknowledgement.
    in_flight: AtomicU64,
    /// Whether somebody looks for packets that were sent before this time.
    looks_for_late: AtomicBool,
    sent_before: Mutex<Option<Instant>>,
    /// Whether one was acknowledged.
    found_late: AtomicBool,
    /// If the controller has a pacing rate.
    paced: Option<Paced>,
}

impl PathControl {
    /// That of the path that the connection has now.
    pub(super) fn of(connection: &Connection) -> Self {
        // The copy shares it with the original.
        let copy = connection.congestion_state().clone_box().into_any();
        let liftable = copy.downcast::<Liftable>();
        let shared = liftable.map(|liftable| liftable.shared).unwrap_or_default();
        let number = shared.number_of(connection);
        Self { shared, number }
    }

    /// Whether it is that of the path that the connection has now. Costs less than
    /// [`of`](Self::of).
    pub(super) fn is_of(&self, connection: &Connection) -> bool {
        self.shared.number_of(connection) == self.number
    }

    /// Notes that the connection begins with the path now: what was sent before, even after the
    /// controller was made, was sent on the path before.
    pub(super) fn begin(&self, now: Instant) {
        *lock_unmodelled(&self.shared.began) = Some(now);
    }

    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Lets the connection send as much as it likes from now on, or no more. For one that is
    /// closed, as it will only say so, and for single datagrams.
    ///
    /// quinn-proto 0.11.19 holds the packet with CONNECTION_CLOSE back while the window is full,
    /// although such a packet need not wait for it (RFC 9002 §7), and takes no acknowledgement any
    /// more that would make room.
    pub(super) fn lift(&self, is_lifted: bool) {
        self.shared.is_lifted.store(is_lifted, Ordering::Relaxed);
    }

    /// Bytes of stream data that were acknowledged on this path, about: a little less.
    pub(super) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// What paces the connection, if its controller has a rate. On the same host there is nothing
    /// to pace for.
    pub(super) fn paced(&self) -> Option<&Paced> {
        let paced = self.shared.paced.as_ref()?;
        let is_network = self.shared.same_host_window.load(Ordering::Relaxed) == 0;
        (is_network && !self.shared.is_lifted.load(Ordering::Relaxed)).then_some(paced)
    }

    /// What may be in flight, if the path leads back to the same host.
    pub(super) fn same_host_window(&self) -> Option<u64> {
        let bytes = self.shared.same_host_window.load(Ordering::Relaxed);
        (bytes > 0).then_some(bytes)
    }

    /// How often something was acknowledged on this path, data or not.
    pub(super) fn acknowledgements(&self) -> u64 {
        self.shared.acknowledgements.load(Ordering::Relaxed)
    }

    /// Whether something was unacknowledged after the last acknowledgement.
    pub(super) fn was_in_flight(&self) -> bool {
        self.shared.in_flight.load(Ordering::Relaxed) > 0
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Looks, from now on, whether packets are acknowledged that were sent before.
    pub(super) fn look_for_late(&self, now: Instant) {
        *lock_unmodelled(&self.shared.sent_before) = Some(now);
        self.shared.found_late.store(false, Ordering::Relaxed);
        self.shared.looks_for_late.store(true, Ordering::Relaxed);
    }

    /// Whether any was since.
    pub(super) fn found_late(&self) -> bool {
        self.shared.found_late.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn began(&self) -> Option<Instant> {
        *lock_unmodelled(&self.shared.began)
    }
}

impl Shared {
    /// Which copy of the controller the connection has, if it has one of those that share this.
    fn number_of(&self, connection: &Connection) -> u64 {
        self.asked.store(NOT_ASKED, Ordering::Relaxed);
        let was_lifted = self.is_lifted.swap(true, Ordering::Relaxed);
        connection.congestion_state().window();
        self.is_lifted.store(was_lifted, Ordering::Relaxed);
        self.asked.load(Ordering::Relaxed)
    }

    fn note_acknowledged(&self, sent: Instant) {
        if self.looks_for_late.load(Ordering::Relaxed) {
            let is_late = lock_unmodelled(&self.sent_before).is_some_and(|before| sent < before);
            self.found_late.fetch_or(is_late, Ordering::Relaxed);
        }
    }
}

struct Liftable {
    inner: Box<dyn Controller>,
    /// When the connection began with the path. After [`Connection::path_changed`], quinn-proto
    /// 0.11.19 goes on to tell of packets of the path before, which do not count (RFC 9000 §9.4).
    began: Instant,
    /// When something was acknowledged on it for the first time.
    first_acknowledged: Option<Instant>,
    /// Bytes that were sent on it.
    sent: u64,
    /// Bytes that are in flight, or more. After [`Connection::path_changed`], those that were sent
    /// on the path before are among them.
    outstanding: u64,
    /// Which copy it is.
    number: u64,
    same_host_window: Option<u64>,
    resume: Option<Box<Resume>>,
    shared: Arc<Shared>,
}

impl Liftable {
    fn began(&self) -> Instant {
        lock_unmodelled(&self.shared.began).unwrap_or(self.began)
    }

    /// A round trip tells where the peer is: whatever listens on loopback may forward to a network.
    fn note_round_trip(&self, round_trip: Duration) {
        if let Some(bytes) = self.same_host_window
            && round_trip <= SAME_HOST_ROUND_TRIP
        {
            (self.shared.same_host_window).store(bytes, Ordering::Relaxed);
        }
    }
}

impl Controller for Liftable {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.sent += bytes;
        self.outstanding += bytes;
        if let Some(resume) = &mut self.resume {
            resume.note_sent(now, bytes);
        }
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let data = bytes.saturating_sub(PACKET_OVERHEAD);
        self.shared.acknowledged.fetch_add(data, Ordering::Relaxed);
        self.shared.note_acknowledged(sent);
        if sent < self.began() {
            return;
        }
        self.first_acknowledged.get_or_insert(now);
        self.note_round_trip(now.saturating_duration_since(sent));
        if let Some(resume) = &mut self.resume {
            resume.note_acknowledged(now, sent, bytes);
        }
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.outstanding = in_flight;
        self.shared.in_flight.store(in_flight, Ordering::Relaxed);
        (self.shared.acknowledgements).fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.window();
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        if let Some(resume) = &mut self.resume
            && resume.end_batch(now, in_flight, inner)
        {
            self.inner.on_congestion_event(now, now, false, 0);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        if sent < self.began() {
            return;
        }
        // Packets of the path before may be among the lost ones, but for the newest.
        let was_lost = lost_bytes > 0;
        let lost_bytes = lost_bytes.min(self.sent).min(self.outstanding);
        self.outstanding -= lost_bytes;
        if was_lost && lost_bytes == 0 {
            // Without lost bytes it would pass for a mark of ECN.
            return;
        }
        let is_persistent_congestion =
            is_persistent_congestion && (self.first_acknowledged).is_some_and(|first| sent > first);
        if is_persistent_congestion {
            // Nothing has arrived for a while. Another quick round trip tells that it was the host.
            (self.shared.same_host_window).store(0, Ordering::Relaxed);
        }
        if let Some(resume) = &mut self.resume
            && resume.note_congestion(now, sent, is_persistent_congestion, self.inner.window())
        {
            return;
        }
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.shared.is_lifted.load(Ordering::Relaxed) {
            self.shared.asked.store(self.number, Ordering::Relaxed);
            u64::MAX
        } else {
            // On the same host there is no network that could be congested.
            let same_host = self.shared.same_host_window.load(Ordering::Relaxed);
            if same_host > 0 {
                return same_host;
            }
            let window = self.inner.window();
            (self.resume.as_ref()).map_or(window, |resume| resume.window(window))
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            began: self.began,
            first_acknowledged: self.first_acknowledged,
            sent: self.sent,
            outstanding: self.outstanding,
            number: self.shared.copies.fetch_add(1, Ordering::Relaxed) + 1,
            same_host_window: self.same_host_window,
            resume: self.resume.clone(),
            shared: Arc::clone(&self.shared),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// No copy has this number.
const NOT_ASKED: u64 = u64::MAX;

/// Most that a round trip on one host takes, with the time until both ends run. A network takes
/// less than this only where it is as good as the host itself.
const SAME_HOST_ROUND_TRIP: Duration = Duration::from_millis(1);

/// What a packet has besides stream data: header, tag, and the header of a frame.
const PACKET_OVERHEAD: u64 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 512 * 1024;

    fn build(same_host_window: Option<u64>) -> Liftable {
        let now = crate::net::clock::now();
        Liftable {
            inner: Arc::new(CubicFactory {
                initial_window: 12_000,
            })
            .build(now, 1_200),
            began: now,
            first_acknowledged: None,
            sent: 0,
            outstanding: 0,
            number: 0,
            same_host_window,
            resume: None,
            shared: Arc::default(),
        }
    }

    fn control(path: &Liftable) -> PathControl {
        PathControl {
            shared: Arc::clone(&path.shared),
            number: 0,
        }
    }

    #[test]
    fn round_trip_tells_whether_loopback_leads_to_the_same_host() {
        let loopback = build(Some(WINDOW));
        loopback.note_round_trip(Duration::from_millis(2));
        assert!(loopback.window() < WINDOW, "a forwarder listens there");
        loopback.note_round_trip(Duration::from_micros(900));
        assert_eq!(loopback.window(), WINDOW);
        loopback.note_round_trip(Duration::from_millis(50));
        assert_eq!(loopback.window(), WINDOW, "a peer that was late");
        let control = control(&loopback);
        assert_eq!(control.same_host_window(), Some(WINDOW));
    }

    #[test]
    fn persistent_congestion_is_that_of_a_network() {
        let mut loopback = build(Some(WINDOW));
        loopback.note_round_trip(Duration::from_micros(900));
        let now = crate::net::clock::now();
        loopback.on_sent(now, 12_000, 0);
        loopback.on_congestion_event(now, now, false, 1_200);
        assert_eq!(loopback.window(), WINDOW);
        let later = now + Duration::from_millis(1);
        loopback.on_congestion_event(later, later, true, 1_200);
        assert_eq!(loopback.window(), WINDOW, "nothing was acknowledged before");
        loopback.first_acknowledged = Some(now);
        loopback.on_congestion_event(later, later, true, 1_200);
        assert!(loopback.window() < WINDOW);
        assert_eq!(control(&loopback).same_host_window(), None);
    }

    /// Whether the peer is still there does not show in the bytes while it gives no credit.
    #[test]
    fn each_acknowledgement_counts_with_data_or_without() {
        let mut path = build(None);
        let control = control(&path);
        let now = crate::net::clock::now();
        for times in [1, 2, 3] {
            path.on_end_acks(now, 0, false, None);
            assert_eq!(
                (control.acknowledgements(), control.acknowledged()),
                (times, 0)
            );
        }
    }

    /// quinn-proto's pacing begins with it.
    #[test]
    fn initial_window_is_that_of_the_controller() {
        assert_eq!(build(Some(WINDOW)).initial_window(), 12_000);
    }

    #[test]
    fn packets_of_the_path_before_do_not_count() {
        for (before, counts) in [(1, false), (0, true)] {
            let mut path = build(None);
            let now = path.began + Duration::from_millis(5);
            let sent = path.began - Duration::from_nanos(before);
            path.on_sent(path.began, 12_000, 0);
            let before = path.window();
            path.on_congestion_event(now, sent, true, 1_200);
            assert_eq!(path.window() < before, counts);
        }
    }

    /// The datagram from the new address has waited in the inbox, and the old one was sent to
    /// meanwhile.
    #[test]
    fn path_begins_when_it_is_known_and_not_when_its_first_datagram_has_come() {
        for (before, counts) in [(1, false), (0, true)] {
            let mut path = build(None);
            let begun = path.began + Duration::from_millis(5);
            // Earlier there was another path before.
            for began in [path.began, begun] {
                control(&path).begin(began);
            }
            path.on_sent(begun, 12_000, 0);
            let window = path.window();
            let sent = begun - Duration::from_nanos(before);
            path.on_congestion_event(begun + Duration::from_secs(1), sent, true, 1_200);
            assert_eq!(path.window() < window, counts);
        }
    }

    /// What was lost with it on the path before is not what is lost here.
    #[test]
    fn no_more_is_lost_than_is_in_flight() {
        let mut path = build(None);
        let lost = Arc::<Mutex<Vec<u64>>>::default();
        path.inner = Box::new(Losses(Arc::clone(&lost)));
        let (now, sent) = (path.began, path.began);
        path.on_sent(now, 12_000, 0);
        path.on_end_acks(now, 9_000, false, None);
        path.on_sent(now, 1_000, 1);
        for bytes in [0, 4_000, 1_000_000, 1_000_000, 0] {
            path.on_congestion_event(now, sent, false, bytes);
        }
        // The first and the last one are marks of ECN.
        assert_eq!(*lost.lock().unwrap(), [0, 4_000, 6_000, 0]);
    }

    /// A controller that notes what was lost.
    struct Losses(Arc<Mutex<Vec<u64>>>);

    impl Controller for Losses {
        fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, lost_bytes: u64) {
            self.0.lock().unwrap().push(lost_bytes);
        }

        fn on_mtu_update(&mut self, _: u16) {}

        fn window(&self) -> u64 {
            12_000
        }

        fn clone_box(&self) -> Box<dyn Controller> {
            Box::new(Self(Arc::clone(&self.0)))
        }

        fn initial_window(&self) -> u64 {
            12_000
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    #[test]
    fn network_is_no_host_however_fast_it_is() {
        let network = build(None);
        network.note_round_trip(Duration::from_micros(100));
        assert!(network.window() < WINDOW);
        assert_eq!(control(&network).same_host_window(), None);
    }
}
