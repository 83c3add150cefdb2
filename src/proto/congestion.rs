//! Congestion control that lets the close of a connection pass, tells what was acknowledged, and begins
//! anew where the peer is on this host.

use std::{
    any::Any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use quinn_proto::{
    Connection, RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};

use crate::sync::lock_alone;

/// Makes controllers of other kinds that can be lifted.
pub(crate) struct LiftableFactory {
    pub(crate) network: Arc<dyn ControllerFactory + Send + Sync>,
    /// Of the loopback interface.
    pub(crate) loopback: Option<NearControl>,
}

/// Congestion control for peers on this host.
#[derive(Clone)]
pub(crate) struct NearControl {
    pub(crate) factory: Arc<dyn ControllerFactory + Send + Sync>,
    /// Bytes that may be under way at first, and of stream data at most.
    pub(crate) window: u64,
}

impl ControllerFactory for LiftableFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Liftable {
            inner: Arc::clone(&self.network).build(now, current_mtu),
            near: self.loopback.clone(),
            mtu: current_mtu,
            shared: Arc::new(Shared {
                loopback_window: self.loopback.as_ref().map(|near| near.window),
                ..Shared::default()
            }),
        })
    }
}

/// What a connection shares with the controller of its path.
#[derive(Clone, Debug, Default)]
pub(super) struct PathControl(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Of paths through the loopback interface.
    loopback_window: Option<u64>,
    is_near: AtomicBool,
    /// Bytes that count as under way, and were not sent.
    withheld: AtomicU64,
    is_lifted: AtomicBool,
    acknowledged: AtomicU64,
    /// Bytes that were unacknowledged after the last acknowledgement.
    in_flight: AtomicU64,
    /// Whether somebody looks for packets that were sent before this time.
    looks_for_late: AtomicBool,
    sent_before: Mutex<Option<Instant>>,
    /// Whether one was acknowledged.
    found_late: AtomicBool,
}

impl PathControl {
    /// That of the path that the connection has now.
    pub(super) fn of(connection: &Connection) -> Self {
        // The copy shares it with the original.
        let copy = connection.congestion_state().clone_box().into_any();
        let liftable = copy.downcast::<Liftable>();
        Self(liftable.map(|liftable| liftable.shared).unwrap_or_default())
    }

    /// Lets the connection send as much as it likes from now on, or no more. For one that is
    /// closed, as it will only say so, and for single datagrams.
    ///
    /// quinn-proto 0.11.19 holds the packet with CONNECTION_CLOSE back while the window is full,
    /// although such a packet need not wait for it (RFC 9002 §7), and takes no acknowledgement any
    /// more that would make room.
    pub(super) fn lift(&self, is_lifted: bool) {
        self.0.is_lifted.store(is_lifted, Ordering::Relaxed);
    }

    /// Bytes of stream data that were acknowledged on this path, about: a little less.
    pub(super) fn acknowledged(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Relaxed)
    }

    /// Whether something was unacknowledged after the last acknowledgement.
    pub(super) fn was_in_flight(&self) -> bool {
        self.0.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Bytes that may be under way to a peer on this host, if the path leads through the loopback
    /// interface.
    pub(super) fn loopback_window(&self) -> Option<u64> {
        self.0.loopback_window
    }

    /// The peer is on this host for certain.
    pub(super) fn note_near(&self) {
        self.0.is_near.store(true, Ordering::Relaxed);
    }

    /// So many bytes are not under way, although quinn-proto counts them.
    pub(super) fn withhold(&self, bytes: u64) {
        self.0.withheld.store(bytes, Ordering::Relaxed);
    }

    /// Looks, from now on, whether packets are acknowledged that were sent before.
    pub(super) fn look_for_late(&self, now: Instant) {
        *lock_alone(&self.0.sent_before) = Some(now);
        self.0.found_late.store(false, Ordering::Relaxed);
        self.0.looks_for_late.store(true, Ordering::Relaxed);
    }

    /// Whether any was since.
    pub(super) fn found_late(&self) -> bool {
        self.0.found_late.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn note_acknowledged(&self, sent: Instant) {
        if self.looks_for_late.load(Ordering::Relaxed) {
            let is_late = lock_alone(&self.sent_before).is_some_and(|before| sent < before);
            self.found_late.fetch_or(is_late, Ordering::Relaxed);
        }
    }
}

struct Liftable {
    inner: Box<dyn Controller>,
    /// What takes its place when the peer turns out to be near, unless congestion comes first.
    near: Option<NearControl>,
    mtu: u16,
    shared: Arc<Shared>,
}

impl Liftable {
    fn becomes_near(&self) -> Option<&NearControl> {
        let is_near = self.shared.is_near.load(Ordering::Relaxed);
        self.near.as_ref().filter(|_| is_near)
    }

    fn follow(&mut self, now: Instant) {
        if let Some(near) = self.becomes_near() {
            self.inner = Arc::clone(&near.factory).build(now, self.mtu);
            self.near = None;
        }
    }
}

impl Controller for Liftable {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.follow(now);
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
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let sent = in_flight.saturating_sub(self.shared.withheld.load(Ordering::Relaxed));
        self.shared.in_flight.store(sent, Ordering::Relaxed);
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.near = None;
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.shared.is_lifted.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        let near = self.becomes_near().map(|near| near.window);
        let window = near.unwrap_or_else(|| self.inner.window());
        window.saturating_add(self.shared.withheld.load(Ordering::Relaxed))
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            near: self.near.clone(),
            mtu: self.mtu,
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

/// What a packet has besides stream data: header, tag, and the header of a frame.
const PACKET_OVERHEAD: u64 = 40;
