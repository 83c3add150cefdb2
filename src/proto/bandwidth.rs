//! How fast the connections of a transport may move data.

mod allowance;
mod line;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use libp2p_identity::PeerId;

pub(super) use self::allowance::{Allowance, StreamShare};
use self::line::{Line, Place};
use crate::{
    bandwidth::{BandwidthLimits, RateLimits},
    sync::lock_unmodelled,
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

    /// Changes the limits. Those that wait notice it when it is their turn, or within a second.
    pub(crate) fn set(&self, limits: BandwidthLimits) {
        self.0.receive.set(limits.receive);
        self.0.send.set(limits.send);
    }

    pub(crate) fn get(&self) -> BandwidthLimits {
        let rates = |limits: &Limits| lock_unmodelled(&limits.shared).rates;
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
    epoch: AtomicU32,
    waits: AtomicU64,
    shared: Mutex<Shared>,
}

/// Tells limits from those before them, and whether there are any: then it is odd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch(u32);

impl Epoch {
    /// Nothing is limited. Then nothing else is looked at.
    pub(super) fn is_off(self) -> bool {
        self.0.is_multiple_of(2)
    }

    fn next(self, is_limited: bool) -> Self {
        Self((self.0 & !1).wrapping_add(2) + u32::from(is_limited))
    }
}

#[derive(Debug, Default)]
struct Shared {
    rates: RateLimits,
    /// The highest rates since everybody has queued up anew.
    queued_at: RateLimits,
    total: Line,
    /// The lines of peers with connections.
    peers: HashMap<PeerId, Weak<Mutex<Line>>>,
}

impl Limits {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    pub(super) fn note_wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    /// If a limit falls far, everybody queues up anew: what was asked for at another rate may take
    /// for ever at this one. Otherwise everybody keeps its place, because an application that
    /// adjusts limits all the time must not make anybody wait for ever either.
    fn set(&self, rates: RateLimits) {
        let mut shared = lock_unmodelled(&self.shared);
        if rates.is_limited() && !rates.fall_far_below(shared.queued_at) {
            shared.rates = rates;
            shared.queued_at = rates.or_higher(shared.queued_at);
            return;
        }
        *shared = Shared {
            rates,
            queued_at: rates,
            ..Shared::default()
        };
        // Under the lock, so that the last call decides about both.
        let Epoch(next) = self.epoch().next(rates.is_limited());
        self.epoch.store(next, Ordering::Relaxed);
    }
}

/// The lines in which a connection waits: its own, that of its peer, and that of all.
#[derive(Debug, Default)]
struct Lines {
    own: Line,
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
    /// Queues up for `bytes(lowest)`, where `lowest` is the lowest rate. Returns that number of
    /// bytes, or `None` if the limits are not those of `epoch` any more.
    fn queue_up(
        &mut self,
        limits: &Limits,
        epoch: Epoch,
        peer_id: Option<&PeerId>,
        now: Instant,
        bytes: impl FnOnce(u64) -> u64,
    ) -> Option<(u64, Places)> {
        let mut shared = lock_unmodelled(&limits.shared);
        if limits.epoch() != epoch {
            return None;
        }
        let rates = shared.rates;
        let bytes = bytes(rates.lowest()?);
        if rates.each_peer.is_some() && self.peer.is_none() {
            self.peer = peer_id.map(|peer_id| shared.line_of(peer_id));
        }
        let queue_up = |line: &mut Line, rate: Option<u64>| Some(line.queue_up(rate?, bytes, now));
        let peer = self.peer.as_ref().zip(rates.each_peer);
        let places = Places {
            own: queue_up(&mut self.own, rates.each_connection),
            peer: peer.map(|(line, rate)| lock_unmodelled(line).queue_up(rate, bytes, now)),
            total: queue_up(&mut shared.total, rates.total),
        };
        Some((bytes, places))
    }

    /// When it is the connection's turn in all lines.
    fn turn_at(&mut self, limits: &Limits, places: Places, now: Instant) -> Instant {
        let mut shared = lock_unmodelled(&limits.shared);
        let rates = shared.rates;
        let at = |line: &mut Line, place: Option<Place>, rate: Option<u64>| {
            Some(line.turn_at(rate?, place?, now))
        };
        let peer = self.peer.as_ref().map(|line| lock_unmodelled(line));
        [
            at(&mut self.own, places.own, rates.each_connection),
            peer.and_then(|mut line| at(&mut line, places.peer, rates.each_peer)),
            at(&mut shared.total, places.total, rates.total),
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
        // Those that nobody uses are removed when the map would have to grow.
        if self.peers.len() == self.peers.capacity() {
            self.peers.retain(|_, line| line.strong_count() > 0);
        }
        let line = Arc::<Mutex<Line>>::default();
        self.peers.insert(*peer_id, Arc::downgrade(&line));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_begins_an_epoch_that_is_off_without_limits() {
        let mut epochs = vec![Epoch::default()];
        for is_limited in [true, true, false, false, true, true] {
            let next = epochs[epochs.len() - 1].next(is_limited);
            assert_eq!(next.is_off(), !is_limited);
            assert!(!epochs.contains(&next), "{next:?} after {epochs:?}");
            epochs.push(next);
        }
    }

    #[test]
    fn lines_of_peers_that_are_gone_make_room_when_the_map_is_full() {
        let mut shared = Shared::default();
        let stays = PeerId::random();
        let line = shared.line_of(&stays);
        let capacity = shared.peers.capacity();
        let lengths = (0..100).map(|_| {
            shared.line_of(&PeerId::random());
            shared.peers.len()
        });
        assert_eq!(lengths.max(), Some(capacity));
        assert!(Arc::ptr_eq(&line, &shared.line_of(&stays)));
    }

    #[test]
    fn peer_has_a_line_only_if_there_is_a_limit_for_each_peer() {
        let limits = Limits::default();
        for each_peer in [None, Some(1_000)] {
            limits.set(RateLimits {
                total: Some(1_000),
                each_peer,
                ..RateLimits::default()
            });
            let (now, peer_id) = (crate::net::clock::now(), PeerId::random());
            let mut lines = Lines::default();
            let places = lines.queue_up(&limits, limits.epoch(), Some(&peer_id), now, |_| 1);
            assert!(places.is_some());
            let peers = lock_unmodelled(&limits.shared).peers.len();
            assert_eq!(peers, usize::from(each_peer.is_some()));
        }
    }
}
