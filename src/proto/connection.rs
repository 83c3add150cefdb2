//! One connection: quinn-proto's state machine, and how it begins and ends.

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
    turns::Turns,
};
use crate::{
    authenticator::{CertificateError, Challenge, CryptoBudget, Negotiated, PacketWatch, Peer},
    error::{ConnectionError, HandshakeError},
    stats::ConnectionStats,
    sync::{Mutex, MutexGuard},
};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// A connection, shared by its shard and the application.
pub(crate) type SharedConnection = Arc<Mutex<Connection>>;

/// What the handshake has shown.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) peer_id: PeerId,
    pub(crate) negotiated: Negotiated,
}

/// A connection and its streams.
///
/// Methods called for the application (reads, writes, [`close`](Self::close), …) never produce a
/// datagram. They change state and ask for a *turn*, in which the shard has the connection produce what
/// it has to send. Wakers that are due pile up in the connection until [`take_due`](Self::take_due).
pub(crate) struct Connection {
    quic: quinn_proto::Connection,
    direction: Direction,
    /// How much CRYPTO the peer has sent.
    crypto: Option<Arc<CryptoBudget>>,
    path_control: PathControl,
    /// Bytes that were acknowledged on this path, as of the last time.
    acknowledged: u64,
    watch: Option<Arc<PacketWatch>>,
    /// The peer's newest packet, as the watch has it.
    newest: u64,
    authenticated: Option<Authenticated>,
    loss: Option<Loss>,
    closing: Option<Closing>,
    /// The longest that a close waits for streams that were closed before it.
    linger_timeout: Duration,
    linger: Lingering,
    /// The peer has ended it, or has forgotten it.
    ended_by_peer: bool,
    heard_noise: bool,
    /// What completes the handshake is sent. A close takes the place of what is not.
    has_sent_handshake: bool,
    /// Nobody drives it any more: what it had to send is sent.
    is_released: bool,
    /// How many connection IDs the peer had issued when it was seen last that none of them was left to move with.
    used_up: Option<u64>,
    remote_addr: SocketAddr,
    /// Where the peer was when the application last heard of it, or is about to.
    known_addr: SocketAddr,
    /// The peer's new address, not yet reported to the application.
    moved_to: Option<SocketAddr>,
    streams: StreamStates,
    first_stream_window: u64,
    turns: Turns,
    waiting: Waiting,
}

/// Why a connection is over.
struct Loss {
    connection: ConnectionError,
    handshake: HandshakeError,
}

/// A close that the application asked for.
struct Closing {
    code: VarInt,
    reason: Bytes,
    /// Nobody will ever ask again: forget the connection as soon as the peer was told.
    abandoned: bool,
}

/// Whether a close waits for streams that were closed before it.
#[derive(Debug)]
enum Lingering {
    No,
    /// From the next turn on.
    Wanted,
    Begun(Linger),
    /// All is delivered.
    Done,
    /// The peer has not acknowledged it in time, or has ended the connection itself.
    GivenUp,
}

/// What came of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    /// The peer was authenticated just now.
    pub(super) authenticated: bool,
    /// The connection was ended, because its peer has cut its data into too many pieces.
    pub(super) too_fragmented: bool,
}

/// Who waits for the connection itself.
#[derive(Default)]
struct Waiting {
    address_change: Option<Waker>,
    released: Option<Waker>,
    established: Option<Waker>,
}

/// The connection as the application sees it.
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
            heard_noise: false,
            has_sent_handshake: false,
            is_released: false,
            used_up: None,
            moved_to: None,
            streams: StreamStates::new(limits),
            first_stream_window: limits.windows.stream,
            turns: Turns::default(),
            waiting: Waiting::default(),
        }
    }

    pub(crate) fn poll_established(
        &mut self,
        waker: &Waker,
    ) -> Poll<Result<PeerId, HandshakeError>> {
        // Even if it is over already: there may be streams to take.
        if let Some(authenticated) = &self.authenticated {
            return Poll::Ready(Ok(authenticated.peer_id));
        }
        if let Some(loss) = &self.loss {
            return Poll::Ready(Err(loss.handshake.clone()));
        }
        self.turns.wait(&mut self.waiting.established, waker);
        Poll::Pending
    }

    /// The next stream that the peer has opened.
    pub(crate) fn poll_accept(&mut self, waker: &Waker) -> Poll<Result<StreamId, ConnectionError>> {
        let accepted = self.streams().poll_accept(waker);
        if self.loss.is_some() && !self.streams.has_waiting() {
            self.turns.wake(&mut self.waiting.address_change);
        }
        accepted
    }

    /// Its streams.
    pub(crate) fn streams(&mut self) -> Streams<'_> {
        Streams {
            quic: &mut self.quic,
            streams: &mut self.streams,
            turns: &mut self.turns,
            loss: self.loss.as_ref().map(|loss| &loss.connection),
        }
    }

    /// The peer's new address, once after each change, or the end of the connection, once all
    /// streams are taken that came in before it.
    ///
    /// Nothing is heard of an address that was only written on copies of the peer's packets: it is reported when it is
    /// validated.
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
                self.turns.wait(&mut self.waiting.address_change, waker);
                Poll::Pending
            }
        }
    }

    /// Closes, and waits until the packet that tells the peer is sent, or is left to the driver
    /// because streams are to be delivered first.
    pub(crate) fn poll_close(&mut self, waker: &Waker) -> Poll<Result<(), ConnectionError>> {
        self.close_in_order(VarInt::from_u32(0), Bytes::new());
        if !self.is_released && matches!(self.linger, Lingering::No) {
            self.turns.wait(&mut self.waiting.released, waker);
            return Poll::Pending;
        }
        Poll::Ready(match self.loss() {
            None | Some(ConnectionError::LocallyClosed) => Ok(()),
            Some(error) => Err(error.clone()),
        })
    }

    /// Ends the connection for the application. The peer is told when it has acknowledged the
    /// streams that were closed before, or does not do so in time.
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

    /// Ends the connection; what was not acknowledged by now is lost, also what a close before this
    /// one goes on to deliver.
    pub(crate) fn close(&mut self, code: VarInt, reason: Bytes) {
        self.give_up_lingering();
        self.begin_closing(code, reason);
    }

    /// Waits no longer for streams to be delivered.
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

    /// Whether it was closed before streams were delivered that were closed before it.
    pub(super) fn gave_up_lingering(&self) -> bool {
        matches!(self.linger, Lingering::GivenUp)
    }

    /// When it waits no longer for streams to be delivered.
    pub(super) fn linger_deadline(&self) -> Option<Instant> {
        match &self.linger {
            Lingering::Begun(linger) => Some(linger.deadline()),
            _ => None,
        }
    }

    /// Closes a connection whose handshake nobody waits for any more, and forgets it at once.
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

    /// Whether the shard has to be told that this connection wants a turn; `true` once for each turn.
    pub(crate) fn announce_turn(&mut self) -> bool {
        self.turns.announce()
    }

    /// Moves the wakers that are due to `wakers`; wake them when the connection is unlocked.
    pub(crate) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        self.turns.take_due(wakers);
    }

    /// Wakers that are not needed any more; drop them when the connection is unlocked.
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

    /// Memory that received data takes which the application has not read, at most, in bytes.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.streams.held_bytes()
    }

    /// Has the peer send no more than so many bytes ahead of what the application reads, whatever
    /// the configuration lets it. What it may send already, it may.
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

    /// Whether the peer has sent more CRYPTO than a connection takes, so that none of its packets is
    /// decrypted any more.
    pub(super) fn exceeded_crypto(&self) -> bool {
        self.crypto
            .as_ref()
            .is_some_and(|crypto| crypto.is_exceeded())
    }

    /// Ends the connection for what its peer does.
    fn give_up(&mut self, code: TransportErrorCode, reason: &'static str) {
        if self.loss.is_some() {
            // Nothing that such a peer has not got yet is worth it.
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

    /// Ends the connection because nothing is heard of its peer.
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

    /// Whether somebody has closed it since its last turn, or nobody drives it any more.
    pub(super) fn has_no_future(&self) -> bool {
        (self.closing.is_some() && !self.lingers()) || self.is_released
    }

    /// Closes the connection because its driver stops. What the application has asked for before stays.
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

    /// Nothing will drive this connection any more: everyone who waits is told so.
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
        self.turns.wake(&mut self.waiting.address_change);
        self.turns.wake(&mut self.waiting.established);
    }

    /// Whether streams of the peer's wait for the application.
    pub(super) fn has_untaken(&self) -> bool {
        self.streams.has_waiting()
    }

    /// The application has not taken them for too long.
    pub(super) fn drop_untaken(&mut self) {
        self.streams().discard_waiting();
        self.streams.wake_inbound(&mut self.turns);
        self.turns.wake(&mut self.waiting.address_change);
    }

    /// Whether nobody drives it any more.
    pub(super) fn is_released(&self) -> bool {
        self.is_released
    }

    /// Nobody drives it from now on.
    pub(super) fn release(&mut self) {
        self.lose(ConnectionError::LocallyClosed, HandshakeError::Stale);
        self.is_released = true;
        self.turns.wake(&mut self.waiting.released);
    }
}

/// The connection as its shard drives it, in quinn-proto's order: events in, transmits, timeouts,
/// endpoint events, application events.
impl Connection {
    /// Begins a turn: what the application did since the last one takes effect.
    ///
    /// Returns `true` if the connection is to be forgotten once this turn's datagrams are out.
    pub(super) fn begin_turn(&mut self, now: Instant) -> bool {
        self.turns.begin();
        // The handshake of an incoming connection ends with its time. Until then its place is taken,
        // and who sends so much gets no other place instead.
        let is_incoming = self.direction == Direction::Inbound && self.authenticated.is_none();
        if self.exceeded_crypto() && !is_incoming {
            self.give_up(
                TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
                "too much CRYPTO",
            );
        }
        self.linger(now);
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
        // Flushing asks for a turn too, and this is the one.
        self.turns.fulfil();
        false
    }

    /// Sees whether streams are still to be delivered before the connection is closed.
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

    /// What there is of received data, and how many pieces of it were moved from quinn-proto's
    /// memory to ours so far.
    #[cfg(test)]
    pub(super) fn received(&self) -> (super::streams::Holding, u64) {
        self.streams.received()
    }

    /// For tests that cannot send as much as it takes to wear a key out.
    #[cfg(test)]
    pub(super) fn update_keys(&mut self) {
        self.quic.force_key_update();
    }

    /// Streams that quinn-proto has something to send on, or may have.
    #[cfg(test)]
    pub(super) fn unfinished_streams(&mut self) -> usize {
        self.quic.streams().send_streams()
    }

    /// CRYPTO frames that quinn-proto has acted on.
    #[cfg(test)]
    pub(super) fn crypto_frames_received(&self) -> u64 {
        self.quic.stats().frame_rx.crypto
    }

    pub(super) fn handle_event(&mut self, event: ConnectionEvent) {
        self.quic.handle_event(event);
    }

    /// Something has come from the peer's address that belongs to no connection, and may be the beginning of it.
    pub(super) fn note_noise(&mut self) {
        self.heard_noise = true;
        self.probe();
    }

    /// Whether nothing at all has come from the peer's address.
    pub(crate) fn heard_nothing(&self) -> bool {
        self.quic.stats().udp_rx.datagrams == 0 && !self.heard_noise
    }

    /// Whether it was closed by either side, or lost.
    pub(super) fn is_over(&self) -> bool {
        self.quic.is_closed()
    }

    /// Lets the packet pass that tells the peer, if it is not told.
    pub(super) fn lift_congestion_control(&self) {
        PathControl::of(&self.quic).lift(true);
    }

    /// Whether the peer has ended it: then there is nothing to say to it (RFC 9000 §10.2.2).
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

    /// One datagram, whatever is under way already. Where nothing is acknowledged any more,
    /// congestion control would hold it back for ever.
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

    /// What the congestion control of the path knows.
    pub(super) fn path_control(&self) -> &PathControl {
        &self.path_control
    }

    /// How many chunks of streams quinn-proto was given, and of how many bytes.
    #[cfg(test)]
    pub(super) fn handed_over(&self) -> (u64, u64) {
        self.streams.handed_over()
    }

    /// As quinn-proto has them.
    #[cfg(test)]
    pub(super) fn quic_stats(&self) -> quinn_proto::ConnectionStats {
        self.quic.stats()
    }

    /// Bytes that were unacknowledged after the last acknowledgement.
    #[cfg(test)]
    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.path_control.in_flight()
    }

    /// How many frames were sent that have to be acknowledged, among those that matter.
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

    /// Sends something that has to be acknowledged. The acknowledgement also tells what was lost before, which would
    /// otherwise be sent again only when it times out.
    pub(super) fn probe(&mut self) {
        self.quic.ping();
    }

    /// Has the connection migrate to another local address, which is for its shard to send from, and address the peer by
    /// a connection ID that was not seen on the old path (RFC 9000 §9.5).
    ///
    /// `None` if it may not, or not yet. Otherwise the event is for the endpoint.
    ///
    /// Only clients migrate, but where the old address is gone a server has nothing to lose: it may be behind a
    /// router by whose address alone its peer knows it.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-9
    pub(super) fn change_local_address(&mut self, is_gone: bool) -> Option<EndpointEvent> {
        if !self.may_migrate(is_gone) {
            return None;
        }
        let issued = Some(self.quic.stats().frame_rx.new_connection_id);
        self.quic.local_address_changed();
        // All others were polled before; this one is about the reset token of the new ID, if there is a new ID.
        let event = self.quic.poll_endpoint_events();
        self.used_up = if event.is_none() { issued } else { None };
        event
    }

    /// Whether [`change_local_address`](Self::change_local_address) may do anything.
    pub(super) fn may_migrate(&self, is_gone: bool) -> bool {
        (self.direction == Direction::Outbound || is_gone)
            && (self.loss.is_none() || self.lingers())
            && (self.authenticated.as_ref())
                .is_some_and(|peer| !peer.negotiated.disables_active_migration)
            && self.is_confirmed()
            && self.used_up != Some(self.quic.stats().frame_rx.new_connection_id)
    }

    /// Whether the handshake is confirmed: for a client, by HANDSHAKE_DONE (RFC 9001 §4.1.2).
    pub(super) fn is_confirmed(&self) -> bool {
        self.authenticated.is_some()
            && (self.direction == Direction::Inbound
                || self.quic.stats().frame_rx.handshake_done > 0)
    }

    /// Bytes of data that it holds, received or sent, at most.
    pub(super) fn buffered_bytes(&mut self) -> u64 {
        self.note_acknowledged();
        self.streams.held_bytes() + self.streams.unacknowledged_bytes()
    }

    /// It may hold so many bytes in each direction.
    pub(super) fn set_allowance(&mut self, bytes: u64) {
        self.streams().set_receive_limit(bytes);
        self.streams().set_send_limit(bytes);
    }

    /// Lets windows grow with what the path holds, and shrink again.
    pub(super) fn look_at_windows(&mut self, now: Instant) {
        // Who answers late, or has others fill queues, makes round trips longer than they are.
        let rtt = self.quic.rtt().min(2 * self.quic.min_rtt());
        let stream = self.streams().look_at_receive_windows(now, rtt);
        if let (Some(stream), Some(watch)) = (stream, &self.watch) {
            watch.give_more_credit(stream.saturating_sub(self.first_stream_window));
        }
        self.streams().look_at_send_window();
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

    /// Whether the peer's address has just changed: by a packet that it authenticated, wherever that
    /// came from, or because it has not answered there.
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

    /// The peer is at this address for certain. If it is where it has moved to, the application hears of
    /// it.
    pub(super) fn note_validated(&mut self, addr: SocketAddr) {
        if addr == self.remote_addr && addr != self.known_addr {
            self.known_addr = addr;
            self.moved_to = Some(addr);
            self.turns.wake(&mut self.waiting.address_change);
        }
    }

    /// Packets with stream data are dropped from now on, or no more. Returns how many were since the last
    /// call.
    pub(super) fn refuse_data(&self, refuses: bool) -> u64 {
        self.watch.as_ref().map_or(0, |watch| {
            watch.refuse_data(refuses);
            watch.take_refused()
        })
    }

    /// Looks for what validates paths from now on, or no more.
    pub(super) fn watch_paths(&self, is_watched: bool) {
        if let Some(watch) = &self.watch {
            watch.watch(is_watched);
        }
    }

    /// A PATH_CHALLENGE that was made while somebody looked for it.
    pub(super) fn take_path_challenge(&self) -> Option<Challenge> {
        let watch = self.watch.as_ref().filter(|watch| watch.is_watched())?;
        watch.take_challenge()
    }

    /// The data of a PATH_RESPONSE that was received while somebody looked for it.
    pub(super) fn take_path_response(&self) -> Option<u64> {
        let watch = self.watch.as_ref().filter(|watch| watch.is_watched())?;
        watch.take_response()
    }

    /// Whether the peer has sent something new since the last call, as far as that is certain. A
    /// handshake is taken at its word.
    pub(super) fn has_heard(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return true;
        };
        let before = mem::replace(&mut self.newest, watch.newest());
        self.newest > before || self.authenticated.is_none()
    }

    /// Looks after what a datagram has brought that was just handled. `held` bytes of memory are
    /// kept for as long as quinn-proto keeps anything of it.
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

    /// Turns quinn-proto's events into state and due wakers.
    ///
    /// Returns `true` when the peer was authenticated just now.
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
                self.turns.wake(&mut self.waiting.established);
                true
            }
            (verdict, _) => {
                // A handshake never completes without a verdict; if it did, nobody would be there.
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
            // The idle timeout, where it is shorter than the one for handshakes.
            (_, QuicError::TimedOut) => HandshakeError::TimedOut,
            (_, reason) => ConnectionError::from(reason.clone()).into(),
        }
    }
}

/// What our TLS session knows of the peer.
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
/// After a panic under this lock, in its driver or in the application's task, the connection is as likely to be
/// usable as not. It is over then, and everyone who waits is told so.
pub(crate) fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(|poisoned| {
        let mut connection = poisoned.into_inner();
        connection.orphan();
        connection.turns.want();
        connection
    })
}
