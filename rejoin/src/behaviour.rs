//! What the Swarm sees: connections are learned from, and dials, saves and events are due.

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use futures_timer::Delay;
use libp2p_core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionError, ConnectionId, DialError, DialFailure,
    FromSwarm, NetworkBehaviour, ToSwarm, behaviour::ConnectionEstablished,
};
use web_time::Instant;

use crate::{
    address::{acceptable, chosen, without_peer},
    book::Book,
    clock,
    config::Config,
    connections::{Connections, Link},
    dials::{Dials, Target},
    event::Event,
    file::{Done, SnapshotFile},
    handler::Handler,
    rounds::Rounds,
    snapshot::Snapshot,
};

/// A peer is remembered when a connection to it has lasted this long, so that one that accepts
/// everybody and closes at once does not push others out.
const SETTLING: Duration = Duration::from_secs(5);

/// When a connection is lost that has lasted this long, there is no backoff left from before.
const LASTING: Duration = Duration::from_secs(30);

/// The first round waits this long for the file. A disk may hang.
const LOADING: Duration = Duration::from_secs(2);

/// Remembers the peers that the node has dialled, and dials them again. The
/// [crate] says by which rules.
pub struct Behaviour {
    batch: usize,
    target: usize,
    book: Book,
    connections: Connections,
    dials: Dials,
    rounds: Rounds,
    file: Option<SnapshotFile>,
    /// Dialled connections that have not lasted yet, the oldest first.
    settling: VecDeque<Settling>,
    /// When the Swarm has first asked what to do.
    started: Option<Instant>,
    /// [`Event::Bootstrapping`] has been sent since the target was last reached.
    bootstrapping: bool,
    /// [`Event::TargetReached`] has been sent and still holds.
    reached: bool,
    /// Dials of one round, and events, which are made only if this is empty.
    actions: VecDeque<ToSwarm<Event, Infallible>>,
    timer: Delay,
    timer_at: Option<Instant>,
}

struct Settling {
    until: Instant,
    id: ConnectionId,
    peer: PeerId,
    address: Multiaddr,
}

impl Behaviour {
    /// `local_peer_id` is the peer ID of the Swarm, which is never remembered.
    ///
    /// The file of the configuration, if any, is read when the Swarm is polled first.
    pub fn new(local_peer_id: PeerId, config: Config) -> Self {
        Self {
            batch: config.batch.get(),
            target: config.target,
            book: Book::new(local_peer_id, &config),
            connections: Connections::default(),
            dials: Dials::new(local_peer_id, &config.bootstrap),
            rounds: Rounds::new(config.backoff),
            file: config
                .file
                .map(|path| SnapshotFile::new(path, config.save_interval)),
            settling: VecDeque::new(),
            started: None,
            bootstrapping: false,
            reached: config.target == 0,
            actions: VecDeque::new(),
            timer: Delay::new(Duration::ZERO),
            timer_at: None,
        }
    }

    /// The peers that are remembered now, and, where there is room, those whose connection is too
    /// young to be remembered. Peers that are connected come first.
    ///
    /// Until the file [is read](Self::is_loaded), those in the file are missing.
    pub fn snapshot(&self) -> Snapshot {
        let mut book = self.book.clone();
        let unix_seconds = clock::unix_seconds();
        for Settling { peer, address, .. } in &self.settling {
            if !book.has_room_for(peer) {
                continue;
            }
            book.reached(*peer, address, unix_seconds, |peer| {
                self.connections.is_connected(peer)
            });
        }
        let connected = |peer: &PeerId| self.connections.is_chosen(peer);
        let connected: Vec<_> = book.peers().copied().filter(connected).collect();
        for peer in connected.iter().rev() {
            book.seen(peer, unix_seconds);
        }
        book.snapshot()
    }

    /// Whether the file of the configuration has been read, or there is none that could be. Before
    /// that, do not replace it with a [`snapshot`](Self::snapshot).
    pub fn is_loaded(&self) -> bool {
        self.file.as_ref().is_none_or(SnapshotFile::is_known)
    }

    /// Adds the peers of `snapshot`, as reached less recently than those that are remembered now.
    ///
    /// Peers above the capacity and peers with too many failures are left out, by the limits of the
    /// [`Config`] of this behaviour.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.add_older(snapshot);
        self.rounds.restart();
        self.change();
    }

    /// Forgets a peer, and tells whether it was remembered. It is remembered again when it is
    /// dialled again.
    ///
    /// Connections stay as they are. To keep a peer from being dialled by anyone, also block it, as
    /// with `libp2p-allow-block-list`.
    pub fn forget(&mut self, peer: &PeerId) -> bool {
        let settling = self.settling.len();
        self.settling.retain(|settling| settling.peer != *peer);
        let forgotten = self.book.forget(peer);
        if forgotten {
            self.change();
        }
        forgotten || self.settling.len() < settling
    }

    /// Writes the file of the configuration now, with what [`Behaviour::snapshot`] returns.
    ///
    /// [`Event::Saved`] or [`Event::SaveFailed`] follows while the Swarm is polled. Does nothing
    /// without a file. When the Swarm is no longer polled, use [`Snapshot::save`].
    pub fn save(&mut self) {
        if let Some(file) = &mut self.file {
            file.ask();
        }
    }

    fn add_older(&mut self, snapshot: &Snapshot) {
        self.book.add_older(snapshot);
        for peer in self.book.peers() {
            self.connections.count(peer);
        }
    }

    /// The book has changed, and with it what the file should have.
    fn change(&mut self) {
        if let Some(file) = &mut self.file {
            file.change();
        }
    }

    fn on_established(&mut self, event: ConnectionEstablished<'_>, now: Instant) {
        let ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint,
            failed_addresses,
            ..
        } = event;
        self.dials.succeeded(connection_id, peer_id);
        let known = self.book.contains(&peer_id) || self.dials.is_bootstrap_peer(&peer_id);
        let chosen = chosen(endpoint, self.connections.is_relayed(&peer_id));
        let link = Link {
            id: connection_id,
            chosen: chosen.is_some(),
            relayed: endpoint.is_relayed(),
        };
        self.connections.opened(peer_id, link, known, now);
        if !endpoint.is_dialer() {
            return;
        }
        self.book.prove(endpoint.get_remote_address(), now);
        let failed: Vec<_> = failed_addresses.iter().map(without_peer).collect();
        self.book.forget_failed(&peer_id, &failed);
        if let Some(address) = chosen.and_then(acceptable) {
            let until = now + SETTLING;
            self.settling.push_back(Settling {
                until,
                id: connection_id,
                peer: peer_id,
                address,
            });
        }
        self.change();
    }

    fn on_closed(&mut self, event: ConnectionClosed<'_>, now: Instant) {
        let ConnectionClosed {
            peer_id,
            connection_id,
            cause,
            remaining_established,
            ..
        } = event;
        let young = self
            .settling
            .iter()
            .position(|settling| settling.id == connection_id);
        let young = young.and_then(|index| self.settling.remove(index));
        match (young, cause) {
            // Our own Swarm saw no need for it any more.
            (Some(settling), Some(ConnectionError::KeepAliveTimeout)) => self.remember(&settling),
            // The peer keeps another, as where both have dialled each other.
            (Some(settling), Some(_)) if remaining_established > 0 => self.remember(&settling),
            (Some(_), Some(ConnectionError::IO(_))) => {
                self.book.failed(&peer_id, now);
                self.change();
            }
            // The application wants nothing of it.
            (Some(_), None) => {}
            (None, _) if self.connections.is_chosen(&peer_id) => {
                self.book.seen(&peer_id, clock::unix_seconds());
                self.change();
            }
            (None, _) => {}
        }
        let gone = self
            .connections
            .closed(&peer_id, connection_id, remaining_established, now);
        if gone.is_some_and(|lasted| lasted >= LASTING) {
            self.rounds.restart();
        }
    }

    fn on_dial_failure(&mut self, event: DialFailure<'_>, now: Instant) {
        let target = self.dials.failed(event.connection_id);
        match (event.error, event.peer_id, target) {
            (DialError::LocalPeerId { address }, peer, _) => {
                let address = without_peer(address);
                self.dials.forget_own_address(&address);
                if let Some(peer) = peer {
                    self.book.forget_address(&peer, &address);
                }
            }
            (DialError::WrongPeerId { address, .. }, Some(peer), _) => {
                self.book.forget_address(&peer, &without_peer(address));
            }
            (DialError::Transport(errors), Some(peer), _) => {
                let failed: Vec<_> = errors
                    .iter()
                    .map(|(address, _)| without_peer(address))
                    .collect();
                let all = |addresses: &[Multiaddr]| addresses.iter().all(|it| failed.contains(it));
                // Others may have dialled other addresses. The Swarm leaves out those on which we
                // listen.
                let is_ours = target == Some(Target::Remembered(peer));
                if is_ours || self.book.addresses(&peer).is_some_and(all) {
                    self.book.failed(&peer, now);
                }
            }
            // All of its addresses are those of our own listeners.
            (DialError::NoAddresses, _, Some(Target::Remembered(peer))) => {
                self.book.forget(&peer);
            }
            // The application or another behaviour does not want it, which may change.
            (DialError::Denied { .. } | DialError::Aborted, _, Some(Target::Remembered(peer))) => {
                self.book.rest(&peer, now);
                return;
            }
            _ => return,
        }
        self.change();
    }

    fn remember(&mut self, settling: &Settling) {
        let Settling { peer, address, .. } = settling;
        let connections = &self.connections;
        self.book
            .reached(*peer, address, clock::unix_seconds(), |peer| {
                connections.is_connected(peer)
            });
        self.change();
    }

    fn remember_settled(&mut self, now: Instant) {
        while self
            .settling
            .front()
            .is_some_and(|settling| settling.until <= now)
        {
            if let Some(settling) = self.settling.pop_front() {
                self.remember(&settling);
            }
        }
    }

    fn poll_file(&mut self, cx: &mut Context<'_>, now: Instant) {
        loop {
            if self.next_write(now).is_some_and(|at| at <= now) {
                let snapshot = self.snapshot();
                if let Some(file) = &mut self.file {
                    file.write(snapshot, now);
                }
            }
            let Some(file) = &mut self.file else { return };
            let Poll::Ready(done) = file.poll(cx, now) else {
                return;
            };
            let event = match done {
                Done::Loaded(Ok(snapshot)) => {
                    self.add_older(&snapshot);
                    Event::Loaded {
                        peers: self.book.peers().count(),
                    }
                }
                Done::Loaded(Err(error)) if error.is_not_found() => Event::Loaded {
                    peers: self.book.peers().count(),
                },
                Done::Loaded(Err(error)) => Event::LoadFailed(error),
                Done::Saved(Ok(peers)) => Event::Saved { peers },
                Done::Saved(Err(error)) => Event::SaveFailed(error),
            };
            self.actions.push_back(ToSwarm::GenerateEvent(event));
        }
    }

    fn next_write(&self, now: Instant) -> Option<Instant> {
        self.file.as_ref().and_then(|file| file.next_write(now))
    }

    fn is_loading(&self) -> bool {
        self.file.as_ref().is_some_and(SnapshotFile::is_loading)
    }

    /// Sends an event if the target has been reached.
    fn watch_target(&mut self) {
        let connected = self.connections.counted();
        if connected < self.target {
            self.reached = false;
        } else if !self.reached {
            self.reached = true;
            self.bootstrapping = false;
            self.actions
                .push_back(ToSwarm::GenerateEvent(Event::TargetReached { connected }));
        }
    }

    /// When to dial next, if peers are missing.
    fn next_round(&self, now: Instant) -> Option<Instant> {
        if self.connections.counted() >= self.target {
            return None;
        }
        let next = self.rounds.next().unwrap_or(now);
        match self.started {
            Some(started) if self.is_loading() => Some(next.max(started + LOADING)),
            _ => Some(next),
        }
    }

    fn dial(&mut self, now: Instant) {
        if self.next_round(now).is_none_or(|at| at > now) {
            return;
        }
        let mut rng = rand::rng();
        let bootstrap = self.rounds.begin(now, &mut rng);
        let mut dials =
            self.dials
                .dial_remembered(&self.book, &self.connections, self.batch, now, &mut rng);
        if bootstrap || dials.is_empty() {
            let more = self
                .dials
                .dial_bootstrap(&self.connections, self.batch, now, &mut rng);
            if !more.is_empty() && !self.bootstrapping {
                self.bootstrapping = true;
                self.actions
                    .push_back(ToSwarm::GenerateEvent(Event::Bootstrapping));
            }
            dials.extend(more);
        }
        self.actions
            .extend(dials.into_iter().map(|opts| ToSwarm::Dial { opts }));
    }

    /// Is ready if something is due, and wakes the task when it is.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let settling = self.settling.front().map(|settling| settling.until);
        let due = [settling, self.next_write(now), self.next_round(now)];
        let Some(at) = due.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        // Setting the timer takes a lock, and the Swarm polls often.
        if self.timer_at != Some(at) {
            self.timer.reset(at.saturating_duration_since(now));
            self.timer_at = Some(at);
        }
        self.timer.poll_unpin(cx).map(|()| self.timer_at = None)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new(false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        // A connection that we want must not end for want of streams: it would be dialled again.
        Ok(Handler::new(self.dials.is_pending(id)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let now = clock::now();
        match event {
            FromSwarm::ConnectionEstablished(event) => self.on_established(event, now),
            FromSwarm::ConnectionClosed(event) => self.on_closed(event, now),
            FromSwarm::DialFailure(event) => self.on_dial_failure(event, now),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, Infallible>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            let now = clock::now();
            self.started.get_or_insert(now);
            self.remember_settled(now);
            self.poll_file(cx, now);
            self.watch_target();
            self.dial(now);
            if self.actions.is_empty() && self.poll_timer(cx, now).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests;
