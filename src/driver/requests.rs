//! Requests that wait for a driver, and their order.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::channel::oneshot;
use quinn_proto::ClientConfig;

use super::{connection::Handshake, socket_group::SocketGroup, wakers::contain};
use crate::{
    error::{Error, HandshakeError},
    proto::IncomingKey,
    stats::TransportStats,
};

/// The most dials that wait for one driver.
///
/// A driver begins 5,000 to 10,000 dials a second (100–200 µs each), so this is more than it can
/// begin within the usual handshake timeout. Each takes half a kilobyte.
pub(super) const MAX_DIALS: usize = 65_536;

/// The most accepted connections that wait for one driver: as many as it handles in three seconds.
/// By default at most 1024 wait for the application's answer.
pub(super) const MAX_ACCEPTS: usize = 16_384;

/// The most refusals, hole punches and datagrams other than QUIC that wait. A driver sends them at
/// once; the limit is reached only if the driver is held up for seconds.
pub(super) const MAX_PACKETS: usize = 4096;

/// A request of the application to a driver.
pub(super) enum Request {
    Accept(Accept),
    Dial(DialRequest),
    Packet(PacketRequest),
}

/// A request that costs TLS work: 100–200 µs.
pub(super) enum HandshakeRequest {
    Accept(Accept),
    Dial(DialRequest),
}

/// A request that costs a packet.
pub(super) enum PacketRequest {
    Refuse {
        key: IncomingKey,
    },
    /// Send to an address until no caller waits any more, or the time for a handshake is over.
    Punch {
        remote_addr: SocketAddr,
        socket: Arc<SocketGroup>,
        over: Reply<()>,
    },
    /// Send a datagram that is not QUIC.
    #[cfg_attr(
        not(feature = "nat"),
        expect(dead_code, reason = "only STUN sends such datagrams")
    )]
    Send {
        remote_addr: SocketAddr,
        socket: Arc<SocketGroup>,
        contents: Vec<u8>,
    },
}

/// An incoming connection whose handshake is to begin.
pub(super) struct Accept {
    pub(super) key: IncomingKey,
    /// The largest UDP payload of the interface in bytes, if known.
    pub(super) max_payload: Option<u16>,
    pub(super) reply: Reply<Result<Handshake, HandshakeError>>,
}

/// A dial that is to begin.
pub(super) struct DialRequest {
    pub(super) config: Box<ClientConfig>,
    /// The largest UDP payload of the interface in bytes, if known.
    pub(super) max_payload: Option<u16>,
    pub(super) remote_addr: SocketAddr,
    pub(super) socket: Arc<SocketGroup>,
    /// When the handshake timeout is over, whether the handshake has begun or not.
    pub(super) deadline: Instant,
    /// How long to wait for a first answer before the dial is given up, and begun again from
    /// another port.
    pub(super) silent_for: Option<Duration>,
    pub(super) reply: Reply<Result<Handshake, Error>>,
}

/// The sender of the answer to a request. Dropping it tells the receiver that there will be none.
pub(super) struct Reply<T>(Option<oneshot::Sender<T>>);

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Sends the answer; it is dropped if no caller waits for it any more.
    pub(super) fn send(mut self, answer: T) {
        if let Some(sender) = self.0.take() {
            contain(|| drop(sender.send(answer)));
        }
    }

    /// Whether no caller waits for the answer any more.
    pub(super) fn is_canceled(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let sender = self.0.take();
        contain(|| drop(sender));
    }
}

/// Requests that wait for one driver, with a queue for each kind.
#[derive(Default)]
pub(super) struct Requests {
    packets: VecDeque<PacketRequest>,
    accepts: VecDeque<Accept>,
    dials: Dials,
    /// Whether the last handshake taken was a dial.
    dialled: bool,
}

/// Numbers of requests that were dropped because their queue was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    accepts: u64,
    dials: u64,
    packets: u64,
}

impl Request {
    /// Whether the request begins a connection, or may lead to one.
    pub(super) fn begins_connection(&self) -> bool {
        match self {
            Self::Accept(_) | Self::Dial(_) => true,
            Self::Packet(packet) => matches!(packet, PacketRequest::Punch { .. }),
        }
    }
}

impl Requests {
    /// Whether there is room for a request of this kind. If there is none, counts it in `dropped`.
    pub(super) fn has_room_for(&self, request: &Request, dropped: &mut Dropped) -> bool {
        let (waiting, limit, dropped, reason) = match request {
            Request::Accept(_) => (
                self.accepts.len(),
                MAX_ACCEPTS,
                &mut dropped.accepts,
                "accepts_dropped_overload",
            ),
            Request::Dial(_) => (
                self.dials.len(),
                MAX_DIALS,
                &mut dropped.dials,
                "dials_dropped_overload",
            ),
            Request::Packet(_) => (
                self.packets.len(),
                MAX_PACKETS,
                &mut dropped.packets,
                "requests_dropped_overload",
            ),
        };
        let has_room = waiting < limit;
        if !has_room {
            *dropped += 1;
            tracing::trace!(reason, "dropped a request");
        }
        has_room
    }

    pub(super) fn push(&mut self, request: Request) {
        match request {
            Request::Accept(accept) => self.accepts.push_back(accept),
            Request::Dial(dial) => self.dials.push(dial),
            Request::Packet(packet) => self.packets.push_back(packet),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.accepts.is_empty() && self.dials.len() == 0
    }

    /// Takes the next request that costs a packet, in order of arrival.
    pub(super) fn next_packet(&mut self) -> Option<PacketRequest> {
        pop_front(&mut self.packets)
    }

    /// Takes the next request that costs TLS work: dials and accepted connections alternate.
    pub(super) fn next_handshake(&mut self) -> Option<HandshakeRequest> {
        if self.dialled
            && let Some(accept) = pop_front(&mut self.accepts)
        {
            self.dialled = false;
            return Some(HandshakeRequest::Accept(accept));
        }
        if let Some(dial) = self.dials.pop() {
            self.dialled = true;
            return Some(HandshakeRequest::Dial(dial));
        }
        pop_front(&mut self.accepts).map(HandshakeRequest::Accept)
    }

    /// Takes a dial whose time is over.
    pub(super) fn next_expired(&mut self, now: Instant) -> Option<DialRequest> {
        self.dials.pop_expired(now)
    }

    /// The number of requests for which memory is allocated.
    #[cfg(all(test, not(loom)))]
    pub(super) fn capacity(&self) -> usize {
        let Dials {
            first,
            further,
            hosts,
            turn: _,
        } = &self.dials;
        let dials = first.capacity() + further.capacity() + hosts.capacity();
        self.packets.capacity() + self.accepts.capacity() + dials
    }
}

impl Dropped {
    pub(super) fn add_to(self, stats: &mut TransportStats) {
        stats.accepts_dropped_overload += self.accepts;
        stats.dials_dropped_overload += self.dials;
        stats.requests_dropped_overload += self.packets;
    }
}

/// Dials that wait, in an order in which thousands of dials that will fail do not hold up dials
/// that may succeed.
///
/// Before it fails, a dial to a dead address looks like any other. So the newest and the oldest
/// dial take turns: neither a dial that comes after a crowd nor one that came before it waits for
/// the whole crowd. Dials to a host for which another dial already waits have a queue of their own,
/// which gets half of the turns.
#[derive(Default)]
struct Dials {
    /// Dials that were the only one to their host when they arrived. In both queues, the oldest is
    /// in front.
    first: VecDeque<DialRequest>,
    further: VecDeque<DialRequest>,
    /// The number of waiting dials to each host.
    hosts: HashMap<IpAddr, usize>,
    /// The position from which the next dial is taken.
    turn: DialTurn,
}

#[derive(Clone, Copy, Debug, Default)]
enum DialTurn {
    #[default]
    NewestFirst,
    NewestFurther,
    OldestFirst,
    OldestFurther,
}

impl Dials {
    fn len(&self) -> usize {
        self.first.len() + self.further.len()
    }

    fn push(&mut self, dial: DialRequest) {
        let waiting = self.hosts.entry(dial.remote_addr.ip()).or_default();
        *waiting += 1;
        if *waiting == 1 {
            self.first.push_back(dial);
        } else {
            self.further.push_back(dial);
        }
    }

    fn pop(&mut self) -> Option<DialRequest> {
        // If a position is empty, the next one has its turn.
        for _ in 0..DialTurn::COUNT {
            let dial = match self.turn {
                DialTurn::NewestFirst => self.first.pop_back(),
                DialTurn::NewestFurther => self.further.pop_back(),
                DialTurn::OldestFirst => self.first.pop_front(),
                DialTurn::OldestFurther => self.further.pop_front(),
            };
            self.turn = self.turn.next();
            if let Some(dial) = dial {
                self.note_popped(&dial);
                return Some(dial);
            }
        }
        None
    }

    fn pop_expired(&mut self, now: Instant) -> Option<DialRequest> {
        let queue = [&mut self.first, &mut self.further]
            .into_iter()
            .find(|queue| queue.front().is_some_and(|dial| dial.deadline <= now))?;
        let dial = queue.pop_front()?;
        self.note_popped(&dial);
        Some(dial)
    }

    fn note_popped(&mut self, dial: &DialRequest) {
        let ip = dial.remote_addr.ip();
        if let Some(waiting) = self.hosts.get_mut(&ip) {
            *waiting -= 1;
            if *waiting == 0 {
                self.hosts.remove(&ip);
            }
        }
        if self.hosts.is_empty() {
            // No dial is left, so the memory of a crowd is freed.
            *self = Self::default();
        }
    }
}

impl DialTurn {
    const COUNT: usize = 4;

    fn next(self) -> Self {
        match self {
            Self::NewestFirst => Self::NewestFurther,
            Self::NewestFurther => Self::OldestFirst,
            Self::OldestFirst => Self::OldestFurther,
            Self::OldestFurther => Self::NewestFirst,
        }
    }
}

/// Takes the next request. With the last one it frees the memory that a crowd has needed.
fn pop_front<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
}
