//! What a node knows about its peers.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;

use crate::event::{Event, plain};

/// Twice as many as can be connected. Above, those that are not connected are forgotten.
const MAX_PEERS: usize = 200;

/// Longer names are cut to this number of characters.
const MAX_NAME: usize = 20;

#[derive(Default)]
pub(crate) struct Peers(HashMap<PeerId, Peer>);

#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) state: State,
    /// Its name, from identify.
    pub(crate) name: Option<String>,
    /// The round trip of the last ping.
    pub(crate) ping: Option<Duration>,
    /// Whether it receives broadcasts.
    pub(crate) subscribed: bool,
    met: bool,
}

#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Connected,
    #[default]
    Dialling,
    Gone(String),
}

impl Peers {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.0.iter()
    }

    /// The names of the connected peers that were [met](Event::Met), in order.
    pub(crate) fn names_of_met(&self) -> Vec<String> {
        let met = self.0.values().filter(|peer| peer.met);
        let mut names: Vec<_> = met.filter_map(|peer| peer.name.clone()).collect();
        names.sort();
        names
    }

    /// The name of a peer if it has told one, and the end of its ID.
    pub(crate) fn name_of(&self, peer_id: &PeerId) -> String {
        let id = peer_id.to_base58();
        let end = &id[id.len().saturating_sub(6)..];
        match self.0.get(peer_id).and_then(|peer| peer.name.as_ref()) {
            Some(name) => format!("{name} (…{end})"),
            None => format!("…{end}"),
        }
    }

    pub(crate) fn dialling(&mut self, peer_id: PeerId) {
        let peer = self.entry(peer_id);
        if peer.state != State::Connected {
            peer.state = State::Dialling;
        }
    }

    pub(crate) fn connected(&mut self, peer_id: PeerId) {
        self.entry(peer_id).state = State::Connected;
    }

    /// The last connection has ended, or none could be made.
    pub(crate) fn gone(&mut self, peer_id: &PeerId, reason: String) {
        let Some(peer) = self.0.get_mut(peer_id) else {
            return;
        };
        *peer = Peer {
            state: State::Gone(reason),
            name: peer.name.take(),
            ..Peer::default()
        };
        // Somebody who has not even told a name is not missed.
        if peer.name.is_none() {
            self.0.remove(peer_id);
        }
    }

    /// Adds what a connected peer has shown. Returns an event when that was the last thing missing.
    pub(crate) fn learn(
        &mut self,
        peer_id: PeerId,
        learn: impl FnOnce(&mut Peer),
    ) -> Option<Event> {
        let peer = self.0.get_mut(&peer_id)?;
        learn(peer);
        let is_complete = peer.name.is_some() && peer.ping.is_some() && peer.subscribed;
        if peer.met || peer.state != State::Connected || !is_complete {
            return None;
        }
        peer.met = true;
        Some(Event::Met(peer_id))
    }

    fn entry(&mut self, peer_id: PeerId) -> &mut Peer {
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(&peer_id) {
            self.0.retain(|_, peer| peer.state == State::Connected);
        }
        self.0.entry(peer_id).or_default()
    }
}

impl Peer {
    pub(crate) fn set_name(&mut self, name: &str) {
        let name: String = name.chars().take(MAX_NAME).collect();
        self.name = Some(plain(&name));
    }
}
