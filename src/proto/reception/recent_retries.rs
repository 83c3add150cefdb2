//! First packets that were recently answered with a Retry.

use std::{
    hash::BuildHasher,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionId;
use rustc_hash::FxBuildHasher;

/// How long one Retry is enough for all packets to an ID. Clients retransmit a lost first flight
/// after 200 ms or more.
const PAUSE: Duration = Duration::from_millis(100);

/// IDs that are remembered, 40 bytes each: as many as a flood of 10,000 a second has in that time.
const PLACES: usize = 1024;

/// Decides which first packets are answered with a Retry.
///
/// One Retry answers all datagrams of a first flight. Without this limit, a client that has given
/// up would answer each Retry with a CONNECTION_CLOSE, which looks like a first packet, and the two
/// endpoints would go on for seconds as fast as the path permits.
#[derive(Default)]
pub(super) struct RecentRetries {
    /// Each ID has one place, determined by its hash; the last ID with that hash replaces others.
    /// An attacker who chooses IDs that evict others only makes us send a second Retry for those.
    places: Vec<Option<(ConnectionId, Instant)>>,
}

impl RecentRetries {
    /// Whether to answer a first packet to `id`. If so, the next ones are not answered for
    /// [`PAUSE`].
    pub(super) fn is_due(&mut self, now: Instant, id: ConnectionId) -> bool {
        if self.places.is_empty() {
            // Allocated only when needed, because most shards never need it.
            self.places = vec![None; PLACES];
        }
        let place = FxBuildHasher.hash_one(id) as usize % PLACES;
        let place = &mut self.places[place];
        if place.is_some_and(|(other, at)| other == id && now < at + PAUSE) {
            return false;
        }
        *place = Some((id, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    #[test]
    fn one_retry_does_until_the_flight_is_repeated() {
        let mut retries = RecentRetries::default();
        let now = clock::now();
        let [one, other] = [1, 2].map(|number| ConnectionId::new(&[number; 8]));
        assert!(retries.is_due(now, one));
        assert!(!retries.is_due(now, one));
        assert!(retries.is_due(now, other));
        assert!(!retries.is_due(now + PAUSE / 2, one));
        // A packet without an answer does not postpone the next answer.
        assert!(retries.is_due(now + PAUSE, one));
        assert!(!retries.is_due(now + PAUSE, one));
    }

    #[test]
    fn no_number_of_ids_takes_more_memory() {
        let mut retries = RecentRetries::default();
        let now = clock::now();
        for number in 0..10 * PLACES as u64 {
            assert!(retries.is_due(now, ConnectionId::new(&number.to_be_bytes())));
        }
        assert_eq!(retries.places.len(), PLACES);
    }
}
