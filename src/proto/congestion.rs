//! Congestion control that lets the close of a connection pass, and tells what was acknowledged.

mod cubic;
mod curve;
mod flight;
mod start;

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

pub(crate) use self::cubic::CubicFactory;
use crate::sync::lock_alone;

/// Makes controllers of another kind that can be lifted.
pub(crate) struct LiftableFactory(pub(crate) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for LiftableFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Liftable {
            inner: Arc::clone(&self.0).build(now, current_mtu),
            shared: Arc::default(),
        })
    }
}

/// What a connection shares with the controller of its path.
#[derive(Clone, Debug, Default)]
pub(super) struct PathControl(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_lifted: AtomicBool,
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

    /// How often something was acknowledged on this path, data or not.
    pub(super) fn acknowledgements(&self) -> u64 {
        self.0.acknowledgements.load(Ordering::Relaxed)
    }

    /// Whether something was unacknowledged after the last acknowledgement.
    pub(super) fn was_in_flight(&self) -> bool {
        self.0.in_flight.load(Ordering::Relaxed) > 0
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Relaxed)
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
    shared: Arc<Shared>,
}

impl Controller for Liftable {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
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
        self.shared.in_flight.store(in_flight, Ordering::Relaxed);
        (self.shared.acknowledgements).fetch_add(1, Ordering::Relaxed);
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
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.shared.is_lifted.load(Ordering::Relaxed) {
            u64::MAX
        } else {
            self.inner.window()
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
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
