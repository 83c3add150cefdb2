//! The dials that we have asked the Swarm for, and the bootstrap peers.

use std::{collections::HashMap, time::Duration};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionId,
    dial_opts::{DialOpts, PeerCondition},
};
use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};
use web_time::Instant;

use crate::{
    address::{is_name, peer_of, without_peer},
    book::Book,
    connections::Connections,
};

/// A dial that takes longer no longer keeps another from its place: transports may have no timeout.
/// It goes on, and its peer is not dialled a second time.
const PLACE_HELD: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Dials {
    /// At most one for each remembered and for each bootstrap peer.
    pending: HashMap<ConnectionId, Dial>,
    bootstrap: Vec<Bootstrap>,
}

#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) target: Target,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Remembered(PeerId),
    /// With its index in [`Dials::bootstrap`].
    Bootstrap(usize),
}

/// A peer that the user has named by its addresses.
#[derive(Debug)]
struct Bootstrap {
    peer: Option<PeerId>,
    /// The peer that was there last, if the user has not named it. Another may be there next time.
    last_peer: Option<PeerId>,
    /// Without the peer. Empty if all have turned out to be our own.
    addresses: Vec<Multiaddr>,
}

impl Dials {
    pub(crate) fn new(local_peer_id: PeerId, addresses: &[Multiaddr]) -> Self {
        let mut bootstrap: Vec<Bootstrap> = Vec::new();
        for address in addresses {
            let peer = peer_of(address);
            let address = without_peer(address);
            let same = bootstrap
                .iter_mut()
                .find(|other| peer.is_some() && other.peer == peer);
            if peer == Some(local_peer_id) {
                continue;
            }
            match same {
                Some(same) => same.addresses.push(address),
                None => bootstrap.push(Bootstrap {
                    peer,
                    last_peer: None,
                    addresses: vec![address],
                }),
            }
        }
        Self {
            pending: HashMap::new(),
            bootstrap,
        }
    }

    pub(crate) fn is_pending(&self, id: ConnectionId) -> bool {
        self.pending.contains_key(&id)
    }

    pub(crate) fn is_bootstrap_peer(&self, peer: &PeerId) -> bool {
        self.bootstrap.iter().any(|bootstrap| bootstrap.is(peer))
    }

    /// Begins to dial up to `batch` remembered peers, less those that are still being dialled.
    ///
    /// They are chosen at random, so that a few bad ones do not take every round; those that have
    /// failed before come last.
    pub(crate) fn dial_remembered(
        &mut self,
        book: &Book,
        connections: &Connections,
        batch: usize,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Vec<DialOpts> {
        let mut candidates: Vec<_> = book
            .rested(now)
            .filter(|(peer, _)| {
                !connections.is_connected(peer) && !self.is_dialling(Target::Remembered(*peer))
            })
            .collect();
        candidates.shuffle(rng);
        candidates.sort_by_key(|(_, failures)| *failures);
        let places = batch.saturating_sub(self.places(now, |target| !target.is_bootstrap()));
        let chosen = candidates.into_iter().take(places);
        chosen
            .filter_map(|(peer, _)| {
                let addresses = book.addresses(&peer)?.to_vec();
                let opts = DialOpts::peer_id(peer).addresses(addresses).build();
                Some(self.add(Target::Remembered(peer), opts, now))
            })
            .collect()
    }

    /// Begins to dial up to `batch` bootstrap peers, less those that are still being dialled.
    pub(crate) fn dial_bootstrap(
        &mut self,
        connections: &Connections,
        batch: usize,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Vec<DialOpts> {
        let candidates: Vec<_> = (0..self.bootstrap.len())
            .filter(|index| {
                let bootstrap = &self.bootstrap[*index];
                let mut peers = bootstrap.peer.iter().chain(&bootstrap.last_peer);
                !bootstrap.addresses.is_empty()
                    && !peers.any(|peer| connections.is_connected(peer))
                    && !self.is_dialling(Target::Bootstrap(*index))
            })
            .collect();
        let places = batch.saturating_sub(self.places(now, Target::is_bootstrap));
        let chosen: Vec<_> = candidates.sample(rng, places).copied().collect();
        let mut dials = Vec::new();
        for index in chosen {
            let Bootstrap {
                peer, addresses, ..
            } = &self.bootstrap[index];
            let opts = match peer {
                // A dial of its remembered addresses may hang.
                Some(peer) => DialOpts::peer_id(*peer)
                    .condition(PeerCondition::Disconnected)
                    .addresses(addresses.clone())
                    .build(),
                None => DialOpts::unknown_peer_id()
                    .address(addresses[0].clone())
                    .build(),
            };
            dials.push(self.add(Target::Bootstrap(index), opts, now));
        }
        dials
    }

    /// Notes which peer a dial has reached.
    pub(crate) fn succeeded(&mut self, id: ConnectionId, peer: PeerId) {
        if let Some(Dial {
            target: Target::Bootstrap(index),
            ..
        }) = self.pending.remove(&id)
        {
            self.bootstrap[index].last_peer = Some(peer);
        }
    }

    /// Ends a dial, if it is ours.
    pub(crate) fn failed(&mut self, id: ConnectionId) -> Option<Target> {
        self.pending.remove(&id).map(|dial| dial.target)
    }

    /// Removes a bootstrap address that leads to ourselves, as on a bootstrap node itself. A name
    /// may lead to another node next time.
    pub(crate) fn forget_own_address(&mut self, own: &Multiaddr) {
        if is_name(own) {
            return;
        }
        for bootstrap in &mut self.bootstrap {
            bootstrap.addresses.retain(|address| address != own);
        }
    }

    fn add(&mut self, target: Target, opts: DialOpts, now: Instant) -> DialOpts {
        self.pending
            .insert(opts.connection_id(), Dial { target, since: now });
        opts
    }

    fn is_dialling(&self, target: Target) -> bool {
        self.pending.values().any(|dial| dial.target == target)
    }

    /// How many places dials to some targets take.
    fn places(&self, now: Instant, counts: impl Fn(&Target) -> bool) -> usize {
        self.pending
            .values()
            .filter(|dial| counts(&dial.target))
            .filter(|dial| now.saturating_duration_since(dial.since) < PLACE_HELD)
            .count()
    }
}

impl Target {
    fn is_bootstrap(&self) -> bool {
        matches!(self, Self::Bootstrap(_))
    }
}

impl Bootstrap {
    fn is(&self, peer: &PeerId) -> bool {
        self.peer.as_ref().or(self.last_peer.as_ref()) == Some(peer)
    }
}
