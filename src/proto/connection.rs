//! One connection: quinn-proto's state machine, and its beginning and end.

use std::{
    mem,
    net::SocketAddr,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p_identity::PeerId;
use quinn_proto::{
    ConnectionError as QuicError, ConnectionEvent, EndpointEvent, Event, Transmit,
    TransportErrorCode, VarInt,
};

use super::{
    congestion::PathControl,
    linger::Linger,
    streams::{StreamId, StreamLimits, StreamStates, Streams},
    turn_requests::TurnRequests,
};
use crate::{
    authenticator::{CertificateError, Challenge, CryptoBudget, Negotiated, PacketWatch, Peer},
    error::{ConnectionError, HandshakeError},
    stats::ConnectionStats,
    sync::{Mutex, MutexGuard},
};

/// The side that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// A connection, shared by its shard and the application.
pub(crate) type SharedConnection = Arc<Mutex<Connection>>;

/// The result of the handshake.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) peer_id: PeerId,
    pub(crate) negotiated: Negotiated,
}

/// A connection and its streams.
///
/// Methods for the application (reads, writes, [`close`](Self::close), …) never produce a datagram.
/// They change state and request a *turn*, in which the shard makes the connection produce what it
/// has to send. Wakers that are due are collected in the connection until
/// [`take_due`](Self::take_due).
pub(crate) struct Connection {
    quic: quinn_proto::Connection,
    direction: Direction,
    /// How much CRYPTO data the peer has sent.
    crypto: Option<Arc<CryptoBudget>>,
    path_control: PathControl,
    /// Bytes acknowledged on this path, as of the last
    /// [`note_acknowledged`](Self::note_acknowledged).
    acknowledged: u64,
    watch: Option<Arc<PacketWatch>>,
    /// The newest packet of the peer, as of the last [`has_heard`](Self::has_heard).
    newest: u64,
    authenticated: Option<Authenticated>,
    loss: Option<Loss>,
    closing: Option<Closing>,
    /// The longest time that a close waits for streams that were closed before it.
    linger_timeout: Duration,
    linger: Lingering,
    /// Whether the peer has closed the connection, or has no state for it.
    ended_by_peer: bool,
    heard_unmatched_datagram: bool,
    /// Whether everything that completes the handshake was sent. A close before that would replace
    /// it.
    has_sent_handshake: bool,
    /// Whether the shard no longer drives it; everything it had to send was sent.
    is_released: bool,
    /// The number of connection IDs that the peer had issued when we last found none unused. We
    /// need an unused one to migrate.
    ids_seen_when_exhausted: Option<u64>,
    remote_addr: SocketAddr,
    /// The peer's address that the application knows, or is about to be told.
    known_addr: SocketAddr,
    /// The peer's new address, not yet reported to the application.
    moved_to: Option<SocketAddr>,
    streams: StreamStates,
    turns: TurnRequests,
    wakers: ConnectionWakers,
}

/// The reason why a connection ended.
struct Loss {
    connection: ConnectionError,
    handshake: HandshakeError,
}

/// A close that the application requested.
struct Closing {
    code: VarInt,
    reason: Bytes,
    /// Whether the connection has no user left: it is discarded as soon as the close is sent.
    abandoned: bool,
}

/// Whether a close waits for streams that were closed before it.
#[derive(Debug)]
enum Lingering {
    No,
    /// Begins in the next turn.
    Wanted,
    Begun(Linger),
    /// Everything was delivered.
    Done,
    /// The peer did not acknowledge everything in time, or has ended the connection itself.
    GivenUp,
}

/// The effects of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    /// The peer was authenticated by this datagram.
    pub(super) authenticated: bool,
    /// The connection was ended because its peer has cut its data into too many pieces.
    pub(super) too_fragmented: bool,
}

/// Wakers of tasks that wait for the connection itself.
#[derive(Default)]
struct ConnectionWakers {
    address_change: Option<Waker>,
    released: Option<Waker>,
    established: Option<Waker>,
}

/// The interface for the application.
impl Connection {
    pub(crate) fn new(
        quic: quinn_proto::Connection,
        direction: Direction,
        limits: StreamLimits,
        linger_timeout: Duration,
    ) -> Self {
        let (crypto, watch) = peer(&quic).map(|peer| (peer.crypto, peer.watch)).unzip();
        Self {
            remote_addr: quic.remote_address(),
            known_addr: quic.remote_address(),
            crypto,
            path_control: PathControl::of(&quic),
            acknowledged: 0,
            watch,
            newest: 0,
            quic,
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
            moved_to: None,
            streams: StreamStates::new(limits),
            turns: TurnRequests::default(),
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
        self.turns.wait(&mut self.wakers.established, waker);
        Poll::Pending
    }

    /// Takes the next stream that the peer has opened.
    pub(crate) fn poll_accept(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        let accepted = self.streams().poll_accept(waker);
        if self.loss.is_some() && !self.streams.has_waiting() {
            self.turns.wake(&mut self.wakers.address_change);
        }
        accepted
    }

    /// The connection's streams.
    pub(crate) fn streams(&mut self) -> Streams<'_> {
        Streams {
            quic: &mut self.quic,
            streams: &mut self.streams,
            turns: &mut self.turns,
            loss: self.loss.as_ref().map(|loss| &loss.connection),
        }
    }

    /// Resolves to the peer's new address, once after each change. After the end of the connection,
    /// resolves to its error, once all streams that came in before are taken.
    ///
    /// An attacker on the path can forward copies of the peer's packets from another address, so an
    /// address is reported only once it is validated.
    pub(crate) fn poll_address_change(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<SocketAddr, ConnectionError>> {
        if !self.streams.has_waiting() {
            self.alive()?;
        }
        match self.moved_to.take() {
            Some(addr) => Poll::Ready(Ok(addr)),
            None => {
                self.turns.wait(&mut self.wakers.address_change, waker);
                Poll::Pending
            }
        }
    }

    /// Closes the connection. Ready when the CONNECTION_CLOSE was sent, or when that is left to the
    /// driver because streams have to be delivered first.
    pub(crate) fn poll_close(&mut self, waker: &Waker) -> Poll<Result<(), ConnectionError>> {
        self.close_in_order(VarInt::from_u32(0), Bytes::new());
        if !self.is_released && matches!(self.linger, Lingering::No) {
            self.turns.wait(&mut self.wakers.released, waker);
            return Poll::Pending;
        }
        Poll::Ready(match self.loss() {
            None | Some(ConnectionError::LocallyClosed) => Ok(()),
            Some(error) => Err(error.clone()),
        })
    }

    /// Ends the connection for the application. The peer is told when it has acknowledged the
    /// streams that were closed before, or fails to do so in time.
    pub(crate) fn close_in_order(&mut self, code: VarInt, reason: Bytes) {
        let lingers = self.loss.is_none()
            && self.authenticated.is_some()
            && self.streams.has_undelivered()
            && !self.linger_timeout.is_zero();
        if lingers {
            self.linger = Lingering::Wanted;
        }
        self.begin_closing(code, reason);
    }

    /// Ends the connection. Data that was not acknowledged yet is lost, even if an earlier close
    /// was still delivering it.
    pub(crate) fn close(&mut self, code: VarInt, reason: Bytes) {
        self.give_up_lingering();
        self.begin_closing(code, reason);
    }

    /// Stops waiting for streams to be delivered.
    pub(super) fn give_up_lingering(&mut self) {
        if self.lingers() {
            self.linger = Lingering::GivenUp;
            self.turns.want();
        }
    }

    /// Whether it is closed for the application, and goes on to deliver streams.
    pub(super) fn lingers(&self) -> bool {
        matches!(self.linger, Lingering::Wanted | Lingering::Begun(_))
    }

    /// Whether it was closed before all streams that were closed before it were delivered.
    pub(super) fn gave_up_lingering(&self) -> bool {
        matches!(self.linger, Lingering::GivenUp)
    }

    /// When it stops waiting for streams to be delivered.
    pub(super) fn linger_deadline(&self) -> Option<Instant> {
        match &self.linger {
            Lingering::Begun(linger) => Some(linger.deadline()),
            _ => None,
        }
    }

    /// Closes a connection whose handshake no caller waits for any more, and discards it at once.
    pub(crate) fn abandon(&mut self, why: HandshakeError) {
        if self.loss.is_none() && self.authenticated.is_none() {
            self.lose(ConnectionError::LocallyClosed, why);
            self.closing = Some(Closing {
                code: VarInt::from_u32(0),
                reason: Bytes::new(),
                abandoned: true,
            });
            self.turns.want();
        } else {
            self.close(VarInt::from_u32(0), Bytes::new());
        }
    }

    /// Whether the shard has to be told that this connection needs a turn; `true` once for each
    /// turn.
    pub(crate) fn announce_turn(&mut self) -> bool {
        self.turns.announce()
    }

    /// Moves the wakers that are due to `wakers`. Wake them after unlocking the connection.
    pub(crate) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        self.turns.take_due(wakers);
    }

    /// Takes wakers that are no longer needed. Drop them after unlocking the connection.
    pub(crate) fn take_displaced(&mut self) -> Vec<Waker> {
        self.turns.take_displaced()
    }

    pub(crate) fn authenticated(&self) -> Option<&Authenticated> {
        self.authenticated.as_ref()
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    pub(crate) fn loss(&self) -> Option<&ConnectionError> {
        self.loss.as_ref().map(|loss| &loss.connection)
    }

    /// Upper bound on the memory of received data that the application has not read, in bytes.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.streams.held_bytes()
    }

    /// Limits how many bytes the peer may send ahead of what the application has read, regardless
    /// of the configuration. Credit that the peer already has stays valid.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "a budget of memory for all connections is to come"
        )
    )]
    pub(crate) fn set_receive_limit(&mut self, bytes: u64) {
        self.streams().set_receive_limit(bytes);
    }

    pub(crate) fn stats(&self, shard: usize, local_addr: SocketAddr) -> ConnectionStats {
        let quic = self.quic.stats();
        let negotiated = self.authenticated.as_ref().map(|peer| &peer.negotiated);
        ConnectionStats {
            bytes_received: quic.udp_rx.bytes,
            bytes_sent: quic.udp_tx.bytes,
            cipher_suite: negotiated.and_then(|negotiated| negotiated.cipher_suite.as_str()),
            congestion_events: quic.path.congestion_events,
            congestion_window_bytes: quic.path.cwnd,
            datagrams_received: quic.udp_rx.datagrams,
            datagrams_sent: quic.udp_tx.datagrams,
            held_bytes: self.held_bytes(),
            is_outbound: self.direction == Direction::Outbound,
            key_exchange_group: negotiated
                .and_then(|negotiated| negotiated.key_exchange_group.as_str()),
            local_addr,
            lost_packets: quic.path.lost_packets,
            min_rtt: quic.path.min_rtt,
            mtu_bytes: quic.path.current_mtu,
            open_streams: self.streams.count(),
            peer_id: self.authenticated.as_ref().map(|peer| peer.peer_id),
            remote_addr: self.remote_addr,
            rtt: quic.path.rtt,
            shard,
        }
    }

    /// Ends the connection because its peer retires connection IDs faster than anyone needs to.
    pub(super) fn give_up_on_ids(&mut self) {
        self.give_up(
            TransportErrorCode::CONNECTION_ID_LIMIT_ERROR,
            "too many connection IDs retired",
        );
    }

    /// Whether the peer has sent more CRYPTO data than permitted, so that none of its packets is
    /// decrypted any more.
    pub(super) fn exceeded_crypto(&self) -> bool {
        self.crypto
            .as_ref()
            .is_some_and(|crypto| crypto.is_exceeded())
    }

    /// Ends the connection because of the peer's behaviour.
    fn give_up(&mut self, code: TransportErrorCode, reason: &'static str) {
        if self.loss.is_some() {
            // Such a peer gets no more data.
            self.give_up_lingering();
            return;
        }
        let error = ConnectionError::Violation {
            code: code.into(),
            reason: reason.to_owned(),
        };
        self.lose(error.clone(), error.into());
        self.closing = Some(Closing {
            code: VarInt::from_u32(0),
            reason: Bytes::from_static(reason.as_bytes()),
            abandoned: self.authenticated.is_none(),
        });
        self.turns.want();
    }

    /// Ends the connection because its peer is silent.
    pub(super) fn give_up_silent(&mut self) {
        if self.loss.is_some() {
            return;
        }
        self.lose(ConnectionError::TimedOut, HandshakeError::TimedOut);
        self.closing = Some(Closing {
            code: VarInt::from_u32(0),
            reason: Bytes::new(),
            abandoned: true,
        });
        self.turns.want();
    }

    /// Whether it was closed since its last turn, or is no longer driven.
    pub(super) fn has_no_future(&self) -> bool {
        (self.closing.is_some() && !self.lingers()) || self.is_released
    }

    /// Closes the connection because its driver stops. An earlier close by the application keeps
    /// its code and reason.
    pub(super) fn close_with_driver(&mut self) {
        self.give_up_lingering();
        if self.loss.is_some() {
            return;
        }
        let stopped = ConnectionError::DriverStopped;
        self.lose(stopped.clone(), stopped.into());
        self.closing = Some(Closing {
            code: VarInt::from_u32(0),
            reason: Bytes::new(),
            abandoned: false,
        });
        self.turns.want();
    }

    /// Ends the connection because nothing will drive it any more, and wakes everyone who waits.
    pub(crate) fn orphan(&mut self) {
        self.lose(
            ConnectionError::DriverStopped,
            ConnectionError::DriverStopped.into(),
        );
        self.release();
    }

    fn alive(&self) -> Result<(), ConnectionError> {
        match &self.loss {
            None => Ok(()),
            Some(loss) => Err(loss.connection.clone()),
        }
    }

    fn begin_closing(&mut self, code: VarInt, reason: Bytes) {
        if self.loss.is_some() {
            return;
        }
        self.lose(
            ConnectionError::LocallyClosed,
            ConnectionError::LocallyClosed.into(),
        );
        self.closing = Some(Closing {
            code,
            reason,
            abandoned: false,
        });
        self.turns.want();
    }

    fn lose(&mut self, connection: ConnectionError, handshake: HandshakeError) {
        if self.loss.is_some() {
            return;
        }
        let is_ours = !self.ended_by_peer && connection != ConnectionError::TimedOut;
        self.loss = Some(Loss {
            connection,
            handshake,
        });
        self.streams.fail(&mut self.turns);
        if !self.lingers() {
            self.streams.stop_sending();
        }
        if is_ours {
            self.streams().discard_waiting();
        }
        self.turns.wake(&mut self.wakers.address_change);
        self.turns.wake(&mut self.wakers.established);
    }

    /// Whether streams of the peer wait for the application.
    pub(super) fn has_untaken(&self) -> bool {
        self.streams.has_waiting()
    }

    /// Drops streams that the application has not taken in time.
    pub(super) fn drop_untaken(&mut self) {
        self.streams().discard_waiting();
        self.streams.wake_inbound(&mut self.turns);
        self.turns.wake(&mut self.wakers.address_change);
    }

    /// Whether it is no longer driven.
    pub(super) fn is_released(&self) -> bool {
        self.is_released
    }

    /// Notes that it is no longer driven.
    pub(super) fn release(&mut self) {
        self.lose(ConnectionError::LocallyClosed, HandshakeError::Stale);
        self.is_released = true;
        self.turns.wake(&mut self.wakers.released);
    }
}

/// The interface for its shard, in quinn-proto's order: events in, transmits, timeouts, endpoint
/// events, application events.
impl Connection {
    /// Begins a turn: applies what the application did since the last one.
    ///
    /// Returns `true` if the connection is to be discarded once this turn's datagrams are sent.
    pub(super) fn begin_turn(&mut self, now: Instant) -> bool {
        self.turns.begin();
        // A handshake of an incoming connection ends with its timeout. Until then its place stays
        // taken, so a client that sends too much does not get another place instead.
        let is_incoming = self.direction == Direction::Inbound && self.authenticated.is_none();
        if self.exceeded_crypto() && !is_incoming {
            self.give_up(
                TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
                "too much CRYPTO",
            );
        }
        self.linger(now);
        self.fit_path();
        let is_unsent = self.authenticated.is_some() && !self.has_sent_handshake;
        if !self.lingers()
            && !is_unsent
            && let Some(closing) = self.closing.take()
        {
            self.streams.stop_sending();
            self.lift_congestion_control();
            self.quic.close(now, closing.code, closing.reason);
            self.turns.fulfil();
            return closing.abandoned;
        }
        self.streams().flush_gathered();
        // Flushing requests a turn too, and this is the turn.
        self.turns.fulfil();
        false
    }

    /// What is written waits in the peer's receive buffer, if the peer is on the same host.
    fn fit_path(&mut self) {
        let window = self.path_control.same_host_window();
        self.streams().set_path_limit(window);
    }

    /// Checks whether streams are still to be delivered before the connection is closed.
    fn linger(&mut self, now: Instant) {
        if !self.lingers() {
            return;
        }
        let rtt = self.quic.rtt();
        let acknowledged = self.path_control.acknowledged();
        if let Lingering::Wanted = self.linger {
            self.streams().abandon_open();
            // Most peers acknowledge the second of two packets at once, and a single one later.
            self.quic.ping();
            let linger = Linger::begin(now, self.linger_timeout, acknowledged, rtt);
            self.linger = Lingering::Begun(linger);
        }
        let Lingering::Begun(linger) = &mut self.linger else {
            return;
        };
        linger.note_acknowledged(now, acknowledged, rtt);
        if !self.streams.has_undelivered() {
            self.linger = Lingering::Done;
        } else if self.quic.is_closed() || linger.deadline() <= now {
            self.linger = Lingering::GivenUp;
        }
    }

    /// The received data, and how many pieces of it were moved from quinn-proto's memory to ours so
    /// far.
    #[cfg(test)]
    pub(super) fn received(&self) -> (super::streams::Holding, u64) {
        self.streams.received()
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

    pub(super) fn handle_event(&mut self, event: ConnectionEvent) {
        self.quic.handle_event(event);
    }

    /// Notes a datagram from the peer's address that belongs to no connection, and sends a packet:
    /// the peer may be about to answer.
    pub(super) fn note_unmatched_datagram(&mut self) {
        self.heard_unmatched_datagram = true;
        self.probe();
    }

    /// Whether nothing has come from the peer's address.
    pub(crate) fn heard_nothing(&self) -> bool {
        self.quic.stats().udp_rx.datagrams == 0 && !self.heard_unmatched_datagram
    }

    /// Whether it was closed by either side, or lost.
    pub(super) fn is_over(&self) -> bool {
        self.quic.is_closed()
    }

    /// Lets the CONNECTION_CLOSE pass a full congestion window, if it was not sent yet.
    pub(super) fn lift_congestion_control(&self) {
        PathControl::of(&self.quic).lift(true);
    }

    /// Whether the peer has ended the connection, so that nothing may be sent to it (RFC 9000
    /// §10.2.2).
    pub(super) fn was_ended_by_peer(&self) -> bool {
        self.ended_by_peer
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
    }

    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let transmit = self.quic.poll_transmit(now, max_datagrams, buf);
        self.note_sent(transmit.as_ref());
        if transmit.is_none() && self.authenticated.is_some() && !self.has_sent_handshake {
            self.has_sent_handshake = true;
            if self.closing.is_some() {
                self.turns.want();
            }
        }
        transmit
    }

    /// Produces one datagram regardless of the congestion window. If nothing is acknowledged any
    /// more, congestion control would hold it back for ever.
    pub(super) fn poll_probe(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.path_control.lift(true);
        let transmit = self.quic.poll_transmit(now, 1, buf);
        self.path_control.lift(false);
        self.note_sent(transmit.as_ref());
        transmit
    }

    fn note_sent(&mut self, transmit: Option<&Transmit>) {
        if let Some(transmit) = transmit {
            self.streams.note_sent(transmit.size);
        }
    }

    /// The congestion control of the path.
    pub(super) fn path_control(&self) -> &PathControl {
        &self.path_control
    }

    /// How many chunks of stream data quinn-proto was given, and of how many bytes.
    #[cfg(test)]
    pub(super) fn handed_over(&self) -> (u64, u64) {
        self.streams.handed_over()
    }

    /// quinn-proto's own statistics.
    #[cfg(test)]
    pub(super) fn quic_stats(&self) -> quinn_proto::ConnectionStats {
        self.quic.stats()
    }

    /// Bytes in flight after the last acknowledgement.
    #[cfg(test)]
    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.path_control.in_flight()
    }

    /// The number of ack-eliciting frames sent, of the types that matter here.
    pub(super) fn elicited(&self) -> u64 {
        let sent = self.quic.stats().frame_tx;
        sent.crypto + sent.stream + sent.ping + sent.reset_stream
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.quic.poll_timeout()
    }

    pub(super) fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.quic.poll_endpoint_events()
    }

    /// Sends a PING. Its acknowledgement also reveals earlier losses, which would otherwise be
    /// retransmitted only after a timeout.
    pub(super) fn probe(&mut self) {
        self.quic.ping();
    }

    /// Migrates to another local address, from which the shard is to send, with a connection ID
    /// that was not used on the old path (RFC 9000 §9.5).
    ///
    /// Returns `None` if that is not permitted now; otherwise an event for the endpoint.
    ///
    /// Only clients migrate. But if its old address is gone, a server has nothing to lose: it may
    /// be behind a router whose address is all that its peer knows.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-9
    pub(super) fn change_local_address(&mut self, is_gone: bool) -> Option<EndpointEvent> {
        if !self.may_migrate(is_gone) {
            return None;
        }
        let issued = Some(self.quic.stats().frame_rx.new_connection_id);
        self.quic.local_address_changed();
        // All earlier events were polled before. This one announces the reset token of the new ID,
        // if there is a new ID.
        let event = self.quic.poll_endpoint_events();
        self.ids_seen_when_exhausted = if event.is_none() { issued } else { None };
        event
    }

    /// Whether [`change_local_address`](Self::change_local_address) may do anything.
    pub(super) fn may_migrate(&self, is_gone: bool) -> bool {
        (self.direction == Direction::Outbound || is_gone)
            && (self.loss.is_none() || self.lingers())
            && (self.authenticated.as_ref())
                .is_some_and(|peer| !peer.negotiated.disables_active_migration)
            && self.is_confirmed()
            && self.ids_seen_when_exhausted != Some(self.quic.stats().frame_rx.new_connection_id)
    }

    /// Whether the handshake is confirmed: for a client, by HANDSHAKE_DONE (RFC 9001 §4.1.2).
    pub(super) fn is_confirmed(&self) -> bool {
        self.authenticated.is_some()
            && (self.direction == Direction::Inbound
                || self.quic.stats().frame_rx.handshake_done > 0)
    }

    /// Upper bound on the bytes of received and sent data that it holds.
    pub(super) fn buffered_bytes(&mut self) -> u64 {
        self.note_acknowledged();
        self.streams.held_bytes() + self.streams.unacknowledged_bytes()
    }

    /// Sets how many bytes it may hold in each direction.
    pub(super) fn set_allowance(&mut self, bytes: u64) {
        self.streams().set_receive_limit(bytes);
        self.streams().set_send_allowance(bytes);
    }

    fn note_acknowledged(&mut self) {
        let acknowledged = self.path_control.acknowledged();
        let news = acknowledged.saturating_sub(self.acknowledged);
        self.acknowledged = acknowledged;
        let is_all = self.quic.streams().send_streams() == 0;
        self.streams.note_acknowledged(news, is_all);
    }

    pub(super) fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    pub(super) fn current_mtu(&self) -> u16 {
        self.quic.current_mtu()
    }

    /// Whether the peer's address has changed since the last call: because of an authenticated
    /// packet from another address, or because a new address was not validated.
    pub(super) fn note_migration(&mut self) -> bool {
        let addr = self.quic.remote_address();
        if addr == self.remote_addr {
            return false;
        }
        self.remote_addr = addr;
        self.note_acknowledged();
        self.path_control = PathControl::of(&self.quic);
        self.acknowledged = self.path_control.acknowledged();
        if self.authenticated.is_none() {
            self.known_addr = addr;
        }
        true
    }

    /// Notes that the peer's address is validated. If it is the current one, the application is
    /// told.
    pub(super) fn note_validated(&mut self, addr: SocketAddr) {
        if addr == self.remote_addr && addr != self.known_addr {
            self.known_addr = addr;
            self.moved_to = Some(addr);
            self.turns.wake(&mut self.wakers.address_change);
        }
    }

    /// Sets whether packets with stream data are dropped. Returns how many were dropped since the
    /// last call.
    pub(super) fn refuse_data(&self, refuses: bool) -> u64 {
        self.watch.as_ref().map_or(0, |watch| {
            watch.refuse_data(refuses);
            watch.take_refused()
        })
    }

    /// Starts or stops looking for path validation frames.
    pub(super) fn watch_paths(&self, is_watched: bool) {
        if let Some(watch) = &self.watch {
            watch.watch(is_watched);
        }
    }

    /// Takes a PATH_CHALLENGE that was sent while they were looked for.
    pub(super) fn take_path_challenge(&self) -> Option<Challenge> {
        let watch = self.watch.as_ref().filter(|watch| watch.is_watched())?;
        watch.take_challenge()
    }

    /// Takes the data of a PATH_RESPONSE that was received while they were looked for.
    pub(super) fn take_path_response(&self) -> Option<u64> {
        let watch = self.watch.as_ref().filter(|watch| watch.is_watched())?;
        watch.take_response()
    }

    /// Whether the peer has sent a new packet since the last call, and not only a replayed one.
    /// During the handshake, every packet counts.
    pub(super) fn has_heard(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return true;
        };
        let before = mem::replace(&mut self.newest, watch.newest());
        self.newest > before || self.authenticated.is_none()
    }

    /// Handles the effects of a datagram. quinn-proto keeps `held` bytes of memory as long as it
    /// keeps any part of it.
    pub(super) fn note_arrival(&mut self, held: usize) -> Noted {
        let jumps = self.watch.as_ref().map_or(0, |watch| watch.jumps());
        self.streams().begin_arrival(held, jumps);
        let authenticated = self.handle_application_events();
        self.streams().end_arrival();
        let is_open = self.loss.is_none() || self.lingers();
        let violated = is_open && self.streams.is_too_fragmented();
        if violated {
            self.give_up(
                TransportErrorCode::INTERNAL_ERROR,
                "too many gaps in stream data",
            );
        }
        Noted {
            authenticated,
            too_fragmented: violated,
        }
    }

    /// Translates quinn-proto's events into state and due wakers.
    ///
    /// Returns `true` if the peer was authenticated by these events.
    pub(super) fn handle_application_events(&mut self) -> bool {
        let mut established = false;
        while let Some(event) = self.quic.poll() {
            match event {
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {
                }
                Event::Connected => established |= self.on_connected(),
                Event::ConnectionLost { reason } => {
                    let handshake = self.handshake_error(&reason);
                    let error = ConnectionError::from(reason);
                    self.ended_by_peer |= matches!(
                        error,
                        ConnectionError::AbortedByPeer { .. }
                            | ConnectionError::ClosedByPeer { .. }
                            | ConnectionError::Reset
                    );
                    self.lose(error, handshake);
                }
                Event::Stream(event) => self.streams().on_event(event),
            }
        }
        established
    }

    /// Whether the peer has ended the connection before the handshake was complete.
    pub(super) fn was_turned_away(&self) -> bool {
        self.loss.as_ref().is_some_and(|loss| {
            matches!(
                loss.handshake,
                HandshakeError::Refused
                    | HandshakeError::Connection(
                        ConnectionError::AbortedByPeer { .. }
                            | ConnectionError::ClosedByPeer { .. }
                    )
            )
        }) && self.authenticated.is_none()
    }

    fn on_connected(&mut self) -> bool {
        let verdict = peer(&self.quic).and_then(|peer| peer.verdict);
        let negotiated = self
            .quic
            .crypto_session()
            .handshake_data()
            .and_then(|data| data.downcast::<Negotiated>().ok());
        match (verdict, negotiated) {
            (Some(Ok(peer)), Some(negotiated)) => {
                self.authenticated = Some(Authenticated {
                    peer_id: peer.peer_id(),
                    negotiated: *negotiated,
                });
                self.turns.wake(&mut self.wakers.established);
                true
            }
            (verdict, _) => {
                // rustls never completes a handshake without a verdict; if it did, the peer would
                // be unknown.
                let error = match verdict {
                    Some(Err(error)) => error,
                    _ => CertificateError::Chain { length: 0 },
                };
                self.lose(ConnectionError::LocallyClosed, error.into());
                self.closing = Some(Closing {
                    code: VarInt::from_u32(0),
                    reason: Bytes::new(),
                    abandoned: true,
                });
                self.turns.want();
                false
            }
        }
    }

    fn handshake_error(&self, reason: &QuicError) -> HandshakeError {
        let verdict = peer(&self.quic).and_then(|peer| peer.verdict);
        match (verdict, reason) {
            (Some(Err(error)), _) => error.into(),
            (_, QuicError::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                HandshakeError::Refused
            }
            // The idle timeout, if it is shorter than the handshake timeout.
            (_, QuicError::TimedOut) => HandshakeError::TimedOut,
            (_, reason) => ConnectionError::from(reason.clone()).into(),
        }
    }
}

/// The state of our TLS session about the peer.
fn peer(quic: &quinn_proto::Connection) -> Option<Peer> {
    let peer = quic.crypto_session().peer_identity()?;
    peer.downcast().ok().map(|peer| *peer)
}

impl From<QuicError> for ConnectionError {
    fn from(error: QuicError) -> Self {
        let text = |reason: &Bytes| String::from_utf8_lossy(reason).into_owned();
        match error {
            QuicError::VersionMismatch => Self::VersionMismatch,
            QuicError::TransportError(error) => Self::Violation {
                code: error.code.into(),
                reason: error.reason,
            },
            QuicError::ConnectionClosed(close) => Self::AbortedByPeer {
                code: close.error_code.into(),
                reason: text(&close.reason),
            },
            QuicError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: close.error_code.into_inner(),
                reason: text(&close.reason),
            },
            QuicError::Reset => Self::Reset,
            QuicError::TimedOut => Self::TimedOut,
            QuicError::LocallyClosed => Self::LocallyClosed,
            QuicError::CidsExhausted => Self::Violation {
                code: TransportErrorCode::INTERNAL_ERROR.into(),
                reason: error.to_string(),
            },
        }
    }
}

/// Locks a connection.
///
/// A panic under this lock, in its driver or in the application's task, may leave the connection in
/// an inconsistent state. It is then closed, and everyone who waits is woken.
pub(crate) fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(|poisoned| {
        let mut connection = poisoned.into_inner();
        connection.orphan();
        connection.turns.want();
        connection
    })
}
