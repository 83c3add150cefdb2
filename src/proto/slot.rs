//! A connection's place in its shard, and its turns.

use std::{collections::VecDeque, mem, time::Instant};

use quinn_proto::{ConnectionEvent, ConnectionHandle, ConnectionId, Endpoint, Transmit};

use super::{
    admission::Admission,
    connection::{Connection, SharedConnection},
    connection_id::{IdQuota, IssuedIds},
    datagram::{Outbound, Sent, Socket},
    deadlines::Armed,
    registry::{self, Registry, Totals},
    turn_queue::Load,
};
use crate::{error::HandshakeError, sync::Mutex};

/// Most datagrams that one connection handles in one turn, about 30 µs of work.
///
/// Small turns are what keeps one connection's ping alive beside another one's bulk transfer.
const DATAGRAMS_PER_TURN: usize = 64;

/// Most bytes of them; datagrams may be large.
const BYTES_PER_TURN: usize = 128 * 1024;

/// Most bytes that go in and out in a [light](Load::Light) turn: a few messages of a request and a reply, and much less
/// than a transfer moves in a turn.
pub(super) const LIGHT_BYTES: usize = 8 * 1024;

/// Most turns in a row in which a connection only receives, because more has arrived than one turn takes.
///
/// What it sends then is mostly acknowledgements, and one will do for all of it.
const TURNS_WITHOUT_SENDING: u8 = 3;

/// Places of an inbox whose memory, a kilobyte or two, is given back as soon as it is empty. Most connections are idle
/// most of the time.
const SMALL_INBOX: usize = 8;

/// Most batches of datagrams that one connection sends in one turn.
const BATCHES_PER_TURN: usize = 2;

/// Most datagrams in a batch for segmentation offload (of the 64 that Linux takes).
const MAX_SEGMENTS: usize = 44;

/// Largest UDP payload that IPv4 carries, in bytes; a batch must not be larger.
const MAX_BATCH: usize = 65_507;

pub(super) struct Slot<S> {
    pub(super) connection: SharedConnection,
    /// Where its datagrams leave; it follows the peer's authenticated packets.
    pub(super) socket: S,
    /// Of an incoming connection, until its handshake is over.
    pub(super) admission: Option<Admission>,
    pub(super) inbox: VecDeque<Received<S>>,
    pub(super) armed: Armed,
    pub(super) expired: bool,
    /// Nothing was sent yet on the path that has just become the one to the peer. Timers wait for that: quinn-proto 0.11.19
    /// leaves the one for lost packets running for those of the path before, and asserts, where debug assertions are on,
    /// that there are any on this one.
    pub(super) untried_path: bool,
    /// Turns in a row in which nothing was sent because the inbox was not empty.
    pub(super) silent_turns: u8,
    /// How much there was to do in the last turn.
    pub(super) load: Load,
    pub(super) handshake_deadline: Option<Instant>,
    /// The ID of our first packet, until anything has arrived in answer to it.
    pub(super) unanswered_dial: Option<ConnectionId>,
    /// After the one for the handshake.
    pub(super) ids_issued: u64,
    pub(super) datagrams_received: u64,
    pub(super) queued: bool,
    pub(super) blocked: bool,
}

pub(super) struct Received<S> {
    pub(super) event: ConnectionEvent,
    /// What it counts for in limits on bytes.
    pub(super) charge: usize,
    /// Bytes of memory that are kept for as long as anything of it is.
    pub(super) held: usize,
    pub(super) socket: S,
}

/// How sending went in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// The socket takes no more.
    Blocked,
    /// All was sent that congestion control lets out.
    Done,
    /// There is more, for the next turn.
    Unfinished,
}

/// One turn of one connection, which is locked for as long as it lasts.
pub(super) struct Turn<'a, S> {
    pub(super) now: Instant,
    pub(super) handle: ConnectionHandle,
    pub(super) slot: &'a mut Slot<S>,
    pub(super) connection: &'a mut Connection,
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) id_quota: IdQuota,
    pub(super) issued: &'a IssuedIds,
    pub(super) inbox_bytes: &'a mut usize,
    pub(super) totals: &'a mut Totals,
    pub(super) registry: &'a Mutex<Registry>,
    /// Bytes that went in and out.
    pub(super) moved: usize,
}

impl<S: Socket> Turn<'_, S> {
    /// Hands on what has arrived.
    pub(super) fn receive(&mut self) {
        let mut bytes = 0;
        for _ in 0..DATAGRAMS_PER_TURN {
            if bytes >= BYTES_PER_TURN {
                break;
            }
            let Some(received) = self.slot.inbox.pop_front() else {
                break;
            };
            *self.inbox_bytes -= received.charge;
            bytes += received.charge;
            self.slot.unanswered_dial = None;
            self.slot.datagrams_received += 1;
            self.connection.handle_event(received.event);
            // Before the next datagram: a stateless reset behind a close would pass for the reason, and what piles up
            // is taken out of quinn-proto.
            let noted = self.connection.note_arrival(received.held);
            self.totals.transport.too_fragmented += u64::from(noted.too_fragmented);
            self.after_events(noted.authenticated);
            if self.connection.note_migration(self.now) {
                self.slot.socket = received.socket;
                self.slot.untried_path = true;
                self.register_path();
            }
        }
        self.moved += bytes;
        if self.slot.inbox.is_empty() && self.slot.inbox.capacity() <= SMALL_INBOX {
            self.slot.inbox = VecDeque::new();
        }
    }

    /// What the application did, and what time did, since the last turn takes effect.
    ///
    /// Returns `true` if the connection is to be forgotten after this turn.
    pub(super) fn begin(&mut self) -> bool {
        let now = self.now;
        if self
            .slot
            .handshake_deadline
            .is_some_and(|deadline| deadline <= now)
        {
            self.slot.handshake_deadline = None;
            self.totals.transport.handshakes_timed_out += 1;
            self.connection.abandon(HandshakeError::TimedOut);
        }
        let forget = self.connection.begin_turn(now);
        if !self.slot.untried_path && mem::take(&mut self.slot.expired) {
            // What a burst has needed is not kept for long.
            if self.slot.inbox.is_empty() {
                self.slot.inbox = VecDeque::new();
            }
            self.connection.handle_timeout(now);
            // A new path that could not be validated is given up for the one before it.
            if self.connection.note_migration(now) {
                self.register_path();
            }
            self.connection.note_validation(now);
        }
        forget
    }

    /// Leaves a socket that another one has taken the place of.
    ///
    /// Not before the peer lets it; until then the connection stays where it is.
    pub(super) fn follow_socket(&mut self) {
        let Some(successor) = self.slot.socket.successor() else {
            return;
        };
        let Some(event) = self.connection.change_local_address() else {
            return;
        };
        if let Some(event) = self.endpoint.handle_event(self.handle, event) {
            self.connection.handle_event(event);
        }
        self.slot.socket = successor;
        self.register_path();
    }

    fn register_path(&self) {
        registry::lock(self.registry).migrated(
            self.handle,
            self.slot.socket.local_addr(),
            self.connection.remote_addr(),
        );
    }

    /// Lets the connection and the endpoint tell each other what they have to.
    ///
    /// Returns `true` if the connection is drained.
    pub(super) fn exchange(&mut self) -> bool {
        let mut drained = false;
        while let Some(event) = self.connection.poll_endpoint_event() {
            drained |= event.is_drained();
            let before = self.issued.count();
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
            let issued = self.issued.count() - before;
            if issued > 0 {
                registry::lock(self.registry).issued(self.handle, issued);
                self.slot.ids_issued += issued;
            }
        }
        let Slot {
            ids_issued,
            datagrams_received,
            ..
        } = *self.slot;
        if self.id_quota.is_exceeded(ids_issued, datagrams_received) {
            self.connection.give_up_on_ids();
        }
        drained
    }

    pub(super) fn handle_application_events(&mut self) {
        let authenticated = self.connection.handle_application_events();
        self.after_events(authenticated);
    }

    fn after_events(&mut self, authenticated: bool) {
        if authenticated && let Some(peer) = self.connection.authenticated() {
            registry::lock(self.registry).authenticated(self.handle, peer.peer_id);
        }
        if authenticated || self.connection.loss().is_some() {
            self.slot.handshake_deadline = None;
        }
    }

    pub(super) fn send(&mut self, out: &mut impl Outbound<S>, buf: &mut Vec<u8>) -> Sending {
        if !self.slot.inbox.is_empty() && self.slot.silent_turns < TURNS_WITHOUT_SENDING {
            self.slot.silent_turns += 1;
            return Sending::Unfinished;
        }
        self.slot.silent_turns = 0;
        let remote_addr = self.connection.remote_addr();
        if !out.is_ready(&self.slot.socket, remote_addr) {
            return Sending::Blocked;
        }
        for _ in 0..BATCHES_PER_TURN {
            let mtu = usize::from(self.connection.current_mtu());
            let max_segments = out
                .max_segments(&self.slot.socket, remote_addr)
                .min(MAX_SEGMENTS)
                .min(MAX_BATCH / mtu.max(1))
                .max(1);
            buf.clear();
            let Some(transmit) = self.connection.poll_transmit(self.now, max_segments, buf) else {
                self.slot.untried_path = false;
                return Sending::Done;
            };
            // It may also be to the peer's address before, which is asked whether it is still the one.
            if transmit.destination == self.connection.remote_addr() {
                self.slot.untried_path = false;
            }
            let totals = &mut self.totals.transport;
            totals.bytes_sent += transmit.size as u64;
            totals.datagrams_sent += datagrams(&transmit);
            self.moved += transmit.size;
            if out.send(&self.slot.socket, transmit, buf) == Sent::Blocked {
                return Sending::Blocked;
            }
        }
        Sending::Unfinished
    }

    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.connection
            .poll_timeout()
            .into_iter()
            .chain(self.slot.handshake_deadline)
            .chain(self.connection.validation_deadline())
            .min()
    }
}

/// How many datagrams a transmit is cut into.
pub(super) fn datagrams(transmit: &Transmit) -> u64 {
    match transmit.segment_size {
        Some(size) => transmit.size.div_ceil(size) as u64,
        None => 1,
    }
}
