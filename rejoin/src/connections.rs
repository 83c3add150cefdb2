//! Who is connected, and which of them count as peers of our choice.

use std::{collections::HashMap, time::Duration};

use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;
use web_time::Instant;

/// The connected peers, of which the Swarm limits the number.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    peers: HashMap<PeerId, Links>,
    /// Peers with `counts`.
    counted: usize,
}

#[derive(Debug)]
struct Links {
    since: Instant,
    /// We have dialled it, now or earlier.
    counts: bool,
    /// Connections that are chosen or relayed. Others are the peer's to open, and are not kept, so
    /// that their number costs nothing.
    links: Vec<Link>,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    /// We have dialled it by our own choice.
    pub(crate) chosen: bool,
    pub(crate) relayed: bool,
}

impl Connections {
    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// How many connected peers we have dialled, now or earlier.
    pub(crate) fn counted(&self) -> usize {
        self.counted
    }

    pub(crate) fn is_relayed(&self, peer: &PeerId) -> bool {
        self.links(peer).iter().any(|link| link.relayed)
    }

    /// Tells whether a direct connection to `peer` exists that we have chosen.
    pub(crate) fn is_chosen(&self, peer: &PeerId) -> bool {
        self.links(peer)
            .iter()
            .any(|link| link.chosen && !link.relayed)
    }

    /// Adds a connection to a peer that may be `known` as one that we have dialled earlier.
    pub(crate) fn opened(&mut self, peer: PeerId, link: Link, known: bool, now: Instant) {
        let links = self.peers.entry(peer).or_insert_with(|| Links {
            since: now,
            counts: false,
            links: Vec::new(),
        });
        let counts = known || link.chosen;
        if link.chosen || link.relayed {
            links.links.push(link);
        }
        if counts {
            self.count(&peer);
        }
    }

    /// Counts `peer` from now on, if it is connected.
    pub(crate) fn count(&mut self, peer: &PeerId) {
        if let Some(links) = self.peers.get_mut(peer)
            && !links.counts
        {
            links.counts = true;
            self.counted += 1;
        }
    }

    /// Removes a connection. If a peer that counts is gone with it, tells how long it was
    /// connected.
    pub(crate) fn closed(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        remaining: usize,
        now: Instant,
    ) -> Option<Duration> {
        if remaining > 0 {
            if let Some(links) = self.peers.get_mut(peer) {
                links.links.retain(|link| link.id != id);
            }
            return None;
        }
        let links = self.peers.remove(peer).filter(|links| links.counts)?;
        self.counted -= 1;
        Some(now.saturating_duration_since(links.since))
    }

    fn links(&self, peer: &PeerId) -> &[Link] {
        self.peers.get(peer).map_or(&[], |links| &links.links)
    }
}
