//! One connection: quinn-proto's state machine, what the application asks of it, its lock, and what
//! follows after unlocking: a turn, and wakers that are due.

mod ending;
mod events;
mod memory;
mod path;
mod streams;
mod transmit;

use std::{
    mem,
    net::SocketAddr,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use libp2p_identity::PeerId;

pub(super) use self::path::PathChange;
pub(crate) use self::streams::{FIRST_PEER_STREAMS, ReceiveWindows, StreamId, StreamLimits};
#[cfg(test)]
pub(super) use self::streams::{Grown, Holding, MOST_BLOCKED};
use self::{
    ending::{CloseToSend, Lingering, Loss},
    streams::{StreamStates, Streams},
};
use super::{
    bandwidth::Bandwidth, budget::EndedShare, congestion::PathControl, connection_id::ShardId,
    pacing::Pacer,
};
use crate::{
    authenticator::{Negotiated, Peer},
    error::{ConnectionError, HandshakeError},
    packets::{CryptoBudget, PacketWatch},
    stats::{ConnectionStats, PacketStats},
    sync::{Mutex, MutexGuard},
    trace::ConnectionSpan,
};

/// A connection and its streams.
///
/// Methods for the application (reads, writes, [`close`](Self::close), …) never produce a datagram.
/// They change state and ask for a *turn*, in which the shard makes the connection produce what it
/// has to send. Wakers that are due are collected in the connection until
/// [`take_due`](Self::take_due).
pub(crate) struct Connection {
    quic: quinn_proto::Connection,
    trace: Trace,
    direction: Direction,
    /// How much CRYPTO data the peer has sent.
    crypto: Option<Arc<CryptoBudget>>,
    path_control: PathControl,
    /// From the first datagram on that was paced.
    pacer: Option<Box<Pacer>>,
    /// Bytes acknowledged on this path, as of the last
    /// [`note_acknowledged`](Self::note_acknowledged).
    acknowledged: u64,
    watch: Option<Arc<PacketWatch>>,
    /// The newest packet of the peer, as of the last [`has_new_packet`](Self::has_new_packet).
    newest: u64,
    authenticated: Option<Authenticated>,
    loss: Option<Loss>,
    closing: Option<CloseToSend>,
    /// The longest time that a close waits for streams that were closed before it.
    linger_timeout: Duration,
    linger: Lingering,
    /// Whether the peer has closed the connection, or has no state for it.
    ended_by_peer: bool,
    heard_unmatched_datagram: bool,
    /// Whether everything that completes the handshake was sent. Until then a close must wait, or
    /// the peer could not finish the handshake.
    has_sent_handshake: bool,
    /// Whether the shard no longer drives it; everything it had to send was sent.
    is_released: bool,
    /// The number of connection IDs that the peer had issued when we last found none unused. We
    /// need an unused one to migrate.
    ids_seen_when_exhausted: Option<u64>,
    shard: ShardId,
    local_addr: SocketAddr,
    remote_addr: SocketAddr,
    /// The peer's address that the application knows, or is about to be told.
    known_addr: SocketAddr,
    /// The peer's new address, not yet reported to the application.
    moved_to: Option<SocketAddr>,
    streams: StreamStates,
    /// Its share of the memory for all connections, once it has ended.
    ended_share: Option<EndedShare>,
    signals: Signals,
    wakers: ConnectionWakers,
}

impl Connection {
    pub(super) fn new(
        quic: quinn_proto::Connection,
        trace: Trace,
        shard: ShardId,
        local_addr: SocketAddr,
        direction: Direction,
        (limits, bandwidth): (StreamLimits, Bandwidth),
        linger_timeout: Duration,
    ) -> Self {
        let (crypto, watch) = peer(&quic).map(|peer| (peer.crypto, peer.watch)).unzip();
        let streams = StreamStates::new(limits, bandwidth, watch.as_deref());
        Self {
            remote_addr: quic.remote_address(),
            known_addr: quic.remote_address(),
            crypto,
            path_control: PathControl::of(&quic),
            pacer: None,
            acknowledged: 0,
            watch,
            newest: 0,
            quic,
            trace,
            direction,
            authenticated: None,
            loss: None,
            closing: None,
            linger_timeout,
            linger: Lingering::No,
            ended_by_peer: false,
            heard_unmatched_datagram: false,
            has_sent_handshake: false,
            is_released: false,
            ids_seen_when_exhausted: None,
            shard,
            local_addr,
            moved_to: None,
            streams,
            ended_share: None,
            signals: Signals::default(),
            wakers: ConnectionWakers::default(),
        }
    }

    pub(crate) fn poll_established(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<PeerId, HandshakeError>> {
        // Even if the connection has ended, because there may be streams to take.
        if let Some(authenticated) = &self.authenticated {
            return Poll::Ready(Ok(authenticated.peer_id));
        }
        if let Some(loss) = &self.loss {
            return Poll::Ready(Err(loss.handshake.clone()));
        }
        self.signals.wait(&mut self.wakers.established, waker);
        Poll::Pending
    }

    /// Takes the next stream that the peer has opened.
    pub(crate) fn poll_accept(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        let accepted = self.streams().poll_accept(waker);
        if self.loss.is_some() && !self.streams.has_waiting() {
            self.signals.make_due(&mut self.wakers.address_change);
        }
        accepted
    }

    /// The connection's streams.
    pub(crate) fn streams(&mut self) -> Streams<'_> {
        Streams {
            quic: &mut self.quic,
            streams: &mut self.streams,
            signals: &mut self.signals,
            loss: self.loss.as_ref().map(|loss| &loss.connection),
        }
    }

    /// Whether the shard has to be told that this connection needs a turn; `true` once for each
    /// turn.
    pub(crate) fn announce_turn(&mut self) -> bool {
        self.signals.announce_turn()
    }

    /// Moves the wakers that are due to `wakers`. Wake them after unlocking the connection.
    pub(crate) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        self.signals.take_due(wakers);
    }

    /// Takes wakers that are no longer needed. Drop them after unlocking the connection.
    pub(crate) fn take_displaced(&mut self) -> Vec<Waker> {
        self.signals.take_displaced()
    }

    pub(crate) fn authenticated(&self) -> Option<&Authenticated> {
        self.authenticated.as_ref()
    }

    /// Whether the handshake is confirmed: for a client, by HANDSHAKE_DONE (RFC 9001 §4.1.2).
    pub(super) fn is_confirmed(&self) -> bool {
        self.authenticated.is_some()
            && (self.direction == Direction::Inbound
                || self.quic.stats().frame_rx.handshake_done > 0)
    }

    pub(super) fn number(&self) -> u64 {
        self.trace.number
    }

    /// The span of what happens to it; none if nobody subscribes, and after its end.
    pub(super) fn span(&self) -> ConnectionSpan {
        self.trace.span.clone()
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let quic = self.quic.stats();
        let negotiated = self.authenticated.as_ref().map(|peer| &peer.negotiated);
        ConnectionStats {
            bytes_received: quic.udp_rx.bytes,
            bytes_sent: quic.udp_tx.bytes,
            cipher_suite: negotiated.and_then(|negotiated| negotiated.cipher_suite.as_str()),
            congestion_window_bytes: quic.path.cwnd,
            datagrams_received: quic.udp_rx.datagrams,
            datagrams_sent: quic.udp_tx.datagrams,
            held_bytes: self.held_bytes(),
            is_outbound: self.direction == Direction::Outbound,
            key_exchange_group: negotiated
                .and_then(|negotiated| negotiated.key_exchange_group.as_str()),
            local_addr: self.local_addr,
            min_rtt: quic.path.min_rtt,
            mtu_bytes: quic.path.current_mtu,
            open_streams: self.streams.count(),
            packets: quic.into(),
            peer_id: self.authenticated.as_ref().map(|peer| peer.peer_id),
            remote_addr: self.remote_addr,
            rtt: quic.path.rtt,
            shard: self.shard.index(),
        }
    }

    pub(super) fn packet_stats(&self) -> PacketStats {
        self.quic.stats().into()
    }

    /// For tests that cannot send as much as it takes to reach a key's usage limit.
    #[cfg(test)]
    pub(super) fn update_keys(&mut self) {
        self.quic.force_key_update();
    }

    /// Streams on which quinn-proto has something to send, or may have.
    #[cfg(test)]
    pub(super) fn unfinished_streams(&mut self) -> usize {
        self.quic.streams().send_streams()
    }

    /// CRYPTO frames that quinn-proto has processed.
    #[cfg(test)]
    pub(super) fn crypto_frames_received(&self) -> u64 {
        self.quic.stats().frame_rx.crypto
    }

    /// quinn-proto's own statistics.
    #[cfg(test)]
    pub(super) fn quic_stats(&self) -> quinn_proto::ConnectionStats {
        self.quic.stats()
    }
}

/// A connection, shared by its shard and the application.
pub(crate) type SharedConnection = Arc<Mutex<Connection>>;

/// Calls `act` on a connection. Then, with the connection unlocked, calls `ring` if the connection
/// wants a turn, and `wake` with the wakers that are due.
pub(crate) fn with<T>(
    connection: &Mutex<Connection>,
    act: impl FnOnce(&mut Connection) -> T,
    ring: impl FnOnce(),
    wake: impl FnOnce(Vec<Waker>),
) -> T {
    let mut due = Vec::new();
    let mut connection = lock_connection(connection);
    let span = connection.span();
    let entered = span.enter();
    let result = act(&mut connection);
    connection.charge_ended_share();
    drop(entered);
    let wants_turn = connection.announce_turn();
    connection.take_due(&mut due);
    let displaced = connection.take_displaced();
    drop(connection);
    // Dropping a waker may drop a task and with it a stream of this connection, so it happens after
    // unlocking.
    drop(displaced);
    if wants_turn {
        ring();
    }
    wake(due);
    result
}

/// Locks a connection.
///
/// A panic under this lock, in its driver or in the application's task, may leave the connection in
/// an inconsistent state. It is then closed, and everyone who waits is woken.
pub(crate) fn lock_connection(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(|poisoned| {
        let mut connection = poisoned.into_inner();
        connection.orphan();
        connection.signals.want_turn();
        connection
    })
}

/// What a connection asks of its shard and of its users: a turn, and to wake the wakers that are
/// due.
#[derive(Default)]
struct Signals {
    turn: u64,
    wanted: Wanted,
    /// Wakers that are due, in order.
    due: Vec<Waker>,
    /// Wakers that are no longer needed, to be dropped when the connection is unlocked.
    displaced: Vec<Waker>,
}

/// Whether a turn is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    No,
    /// The shard has not been told yet.
    Unannounced,
    /// The shard has been told.
    Announced,
}

impl Signals {
    /// Asks for a turn, because there may be something to send.
    fn want_turn(&mut self) {
        if self.wanted == Wanted::No {
            self.wanted = Wanted::Unannounced;
        }
    }

    /// Whether the shard has to be told; `true` once for each turn.
    fn announce_turn(&mut self) -> bool {
        let unannounced = self.wanted == Wanted::Unannounced;
        if unannounced {
            self.wanted = Wanted::Announced;
        }
        unannounced
    }

    fn begin_turn(&mut self) {
        self.turn += 1;
    }

    /// Notes that this turn does everything for which one was asked so far.
    fn fulfil(&mut self) {
        self.wanted = Wanted::No;
    }

    /// The number of this turn, by which a write tells whether it is the first of its stream in it.
    fn turn(&self) -> u64 {
        self.turn
    }

    /// Makes a waker due, if there is one, so that it is woken when the connection is unlocked.
    fn make_due(&mut self, waker: &mut Option<Waker>) {
        self.due.extend(waker.take());
    }

    fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.due);
    }

    /// Stores a waker. It is not cloned if the same task is already waiting.
    fn wait(&mut self, stored: &mut Option<Waker>, waker: &Waker) {
        if !stored
            .as_ref()
            .is_some_and(|waiting| waiting.will_wake(waker))
        {
            self.displaced.extend(stored.replace(waker.clone()));
        }
    }

    /// Removes a waker that is no longer needed.
    fn forget(&mut self, stored: &mut Option<Waker>) {
        self.displaced.extend(stored.take());
    }

    fn take_displaced(&mut self) -> Vec<Waker> {
        mem::take(&mut self.displaced)
    }
}

/// The side that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// The result of the handshake.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) peer_id: PeerId,
    pub(crate) negotiated: Negotiated,
}

/// What tells a connection from others, and the span of what happens to it.
pub(super) struct Trace {
    pub(super) number: u64,
    pub(super) span: ConnectionSpan,
}

/// Wakers of tasks that wait for the connection itself.
#[derive(Default)]
struct ConnectionWakers {
    address_change: Option<Waker>,
    released: Option<Waker>,
    established: Option<Waker>,
}

/// The state of our TLS session about the peer.
fn peer(quic: &quinn_proto::Connection) -> Option<Peer> {
    let peer = quic.crypto_session().peer_identity()?;
    peer.downcast().ok().map(|peer| *peer)
}
