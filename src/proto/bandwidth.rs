//! How fast the connections of a transport may move data.

mod allowance;
mod line;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use libp2p_identity::PeerId;

pub(super) use self::allowance::{Allowance, StreamShare};
use self::line::{Line, Place};
use crate::{
    bandwidth::{BandwidthLimits, RateLimits},
    sync::{Mutex, lock},
};

/// The limits of a transport in both directions. All its shards share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bandwidth(Arc<Directions>);

#[derive(Debug, Default)]
struct Directions {
    receive: Limits,
    send: Limits,
}

impl Bandwidth {
    pub(crate) fn new(limits: BandwidthLimits) -> Self {
        let bandwidth = Self::default();
        bandwidth.set(limits);
        bandwidth
    }

    /// Changes the limits. Those that wait notice within [`allowance::LOOK_AGAIN`].
    pub(crate) fn set(&self, limits: BandwidthLimits) {
        self.0.receive.set(limits.receive);
        self.0.send.set(limits.send);
    }

    pub(crate) fn get(&self) -> BandwidthLimits {
        let rates = |limits: &Limits| lock(&limits.shared).rates;
        BandwidthLimits {
            receive: rates(&self.0.receive),
            send: rates(&self.0.send),
        }
    }

    pub(super) fn receive(&self) -> &Limits {
        &self.0.receive
    }

    pub(super) fn send(&self) -> &Limits {
        &self.0.send
    }

    /// How often a read had to wait, and how often a write.
    pub(crate) fn waits(&self) -> (u64, u64) {
        let of = |limits: &Limits| limits.waits.load(Ordering::Relaxed);
        (of(&self.0.receive), of(&self.0.send))
    }

    pub(crate) fn reset_waits(&self) {
        for limits in [&self.0.receive, &self.0.send] {
            limits.waits.store(0, Ordering::Relaxed);
        }
    }
}

/// The limits in one direction.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Whether there are any. Without, nothing else is looked at.
    is_limited: AtomicBool,
    waits: AtomicU64,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    rates: RateLimits,
    total: Option<Line>,
    /// The lines of peers with connections.
    peers: HashMap<PeerId, Weak<Mutex<Line>>>,
}

impl Limits {
    pub(super) fn are_off(&self) -> bool {
        !self.is_limited.load(Ordering::Relaxed)
    }

    pub(super) fn note_wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    fn set(&self, rates: RateLimits) {
        lock(&self.shared).rates = rates;
        self.is_limited.store(rates.is_limited(), Ordering::Relaxed);
    }
}

/// The lines in which a connection waits: its own, that of its peer, and that of all.
#[derive(Debug, Default)]
struct Lines {
    own: Option<Line>,
    peer: Option<Arc<Mutex<Line>>>,
}

/// The places of one connection in its lines.
#[derive(Clone, Copy, Debug)]
struct Places {
    own: Option<Place>,
    peer: Option<Place>,
    total: Option<Place>,
}

impl Lines {
    /// Queues up for `bytes(lowest)`, where `lowest` is the lowest rate. Returns the number of
    /// bytes, or `None` if there is no limit.
    fn queue_up(
        &mut self,
        limits: &Limits,
        peer_id: Option<&PeerId>,
        now: Instant,
        bytes: impl FnOnce(u64) -> u64,
    ) -> Option<(u64, Places)> {
        let mut shared = lock(&limits.shared);
        let shared = &mut *shared;
        let rates = shared.rates;
        let bytes = bytes(rates.lowest()?);
        if rates.each_peer.is_none() {
            self.peer = None;
        } else if self.peer.is_none()
            && let Some(peer_id) = peer_id
        {
            self.peer = Some(shared.line_of(peer_id));
        }
        let queue_up = |line: &mut Option<Line>, rate: Option<u64>| {
            let Some(rate) = rate else {
                *line = None;
                return None;
            };
            let line = line.get_or_insert_default();
            Some(line.queue_up(rate, bytes, now))
        };
        let peer = self.peer.as_ref().zip(rates.each_peer);
        let places = Places {
            own: queue_up(&mut self.own, rates.each_connection),
            peer: peer.map(|(line, rate)| lock(line).queue_up(rate, bytes, now)),
            total: queue_up(&mut shared.total, rates.total),
        };
        Some((bytes, places))
    }

    /// When it is the connection's turn in all lines.
    fn turn_at(&mut self, limits: &Limits, places: Places, now: Instant) -> Instant {
        let mut shared = lock(&limits.shared);
        let shared = &mut *shared;
        let rates = shared.rates;
        let at = |line: Option<&mut Line>, place: Option<Place>, rate: Option<u64>| {
            // Where the limit is gone, nobody waits.
            Some(line?.turn_at(rate?, place?, now))
        };
        let peer = self.peer.as_ref().map(|line| lock(line));
        [
            at(self.own.as_mut(), places.own, rates.each_connection),
            peer.and_then(|mut line| at(Some(&mut line), places.peer, rates.each_peer)),
            at(shared.total.as_mut(), places.total, rates.total),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(now)
    }
}

impl Shared {
    fn line_of(&mut self, peer_id: &PeerId) -> Arc<Mutex<Line>> {
        if let Some(line) = self.peers.get(peer_id).and_then(Weak::upgrade) {
            return line;
        }
        // Each line that is added removes those that nobody uses, once they are half of all.
        if self.peers.len() == self.peers.capacity() {
            self.peers.retain(|_, line| line.strong_count() > 0);
        }
        let line = Arc::<Mutex<Line>>::default();
        self.peers.insert(*peer_id, Arc::downgrade(&line));
        line
    }
}
