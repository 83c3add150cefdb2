//! First packets that were answered with a Retry a moment ago.

use std::{
    hash::BuildHasher,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionId;
use rustc_hash::FxBuildHasher;

/// How long one Retry has to do for all packets to an ID. Clients repeat a lost first flight after 200 ms or more.
const PAUSE: Duration = Duration::from_millis(100);

/// IDs that are remembered, 40 bytes each: as many as a flood of 10,000 a second brings in that time.
const PLACES: usize = 1024;

/// Which first packets to answer with a Retry.
///
/// One answers all datagrams of a first flight. And a client that has given up answers each packet with its close,
/// which looks like a first packet: the two would go on for seconds, as fast as the path lets them.
#[derive(Default)]
pub(super) struct RecentRetries {
    /// Each ID has one place, where the last one of those that share it stays. Who chooses IDs that push others out
    /// gets them a second Retry, and nothing else.
    places: Vec<Option<(ConnectionId, Instant)>>,
}

impl RecentRetries {
    /// Whether a first packet to `id` is to be answered; then the next ones are not.
    pub(super) fn is_due(&mut self, now: Instant, id: ConnectionId) -> bool {
        if self.places.is_empty() {
            // Most shards never need them.
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
        // What is not answered does not put the next answer off.
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
