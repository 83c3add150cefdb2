//! What waits for a driver's time, and what is next.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::ClientConfig;

use super::{connection::Handshake, socket::Socket, wakers::Reply};
use crate::{
    error::{Error, HandshakeError},
    proto::IncomingKey,
    stats::TransportStats,
};

/// Most dials that wait for their driver.
///
/// It begins 5,000 in a second or more; so this is more than can begin within the usual handshake
/// timeout. Each takes half a kilobyte.
pub(super) const MAX_DIALS: usize = 65_536;

/// Most accepted connections that wait for their driver: as much as it does in three seconds. By
/// default no more than 1024 wait for an answer at all.
pub(super) const MAX_ACCEPTS: usize = 16_384;

/// Most refusals, hole punches and datagrams that are not QUIC. A driver sends them at once; it
/// comes to so many only if something keeps it for seconds.
pub(super) const MAX_PACKETS: usize = 4096;

/// Something that the application wants from a driver, between the turns of connections.
pub(super) enum Request {
    Accept(Accept),
    Dial(Dial),
    Packet(PacketRequest),
}

/// Something that costs TLS work: 100–200 µs.
pub(super) enum HandshakeRequest {
    Accept(Accept),
    Dial(Dial),
}

/// Something that costs a packet.
pub(super) enum PacketRequest {
    Refuse {
        key: IncomingKey,
    },
    /// Send to an address until nobody waits any more, or the time for a handshake is over.
    Punch {
        remote_addr: SocketAddr,
        socket: Arc<Socket>,
        over: Reply<()>,
    },
    /// Send a datagram that is not QUIC.
    #[cfg(feature = "nat")]
    Send {
        remote_addr: SocketAddr,
        socket: Arc<Socket>,
        contents: Vec<u8>,
    },
}

/// An incoming connection whose handshake is to begin.
pub(super) struct Accept {
    pub(super) key: IncomingKey,
    /// What the interface takes, in bytes of UDP payload, if it tells.
    pub(super) max_payload: Option<u16>,
    pub(super) reply: Reply<Result<Handshake, HandshakeError>>,
}

/// A dial that is to begin.
pub(super) struct Dial {
    pub(super) config: Box<ClientConfig>,
    pub(super) remote_addr: SocketAddr,
    pub(super) socket: Arc<Socket>,
    /// When the time for its handshake is over, whether that has begun or not.
    pub(super) deadline: Instant,
    /// How long it may hear nothing before it is given up, to be begun from another port.
    pub(super) silent_for: Option<Duration>,
    pub(super) reply: Reply<Result<Handshake, Error>>,
}

/// Requests to one driver that it has not come to, each kind in a queue of its own.
#[derive(Default)]
pub(super) struct Requests {
    packets: VecDeque<PacketRequest>,
    accepts: VecDeque<Accept>,
    dials: Dials,
    /// Whether the last handshake was that of a dial.
    dialled: bool,
    dropped: Dropped,
}

/// Requests that found their queue full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    accepts: u64,
    dials: u64,
    packets: u64,
}

impl Request {
    /// Whether there is a connection after it, or may be one, that there was not before.
    pub(super) fn begins_connection(&self) -> bool {
        match self {
            Self::Accept(_) | Self::Dial(_) => true,
            Self::Packet(packet) => matches!(packet, PacketRequest::Punch { .. }),
        }
    }
}

impl Requests {
    /// Whether there is room for a request of this kind; if there is none, it counts as dropped.
    pub(super) fn has_room_for(&mut self, request: &Request) -> bool {
        let (waiting, limit, dropped) = match request {
            Request::Accept(_) => (self.accepts.len(), MAX_ACCEPTS, &mut self.dropped.accepts),
            Request::Dial(_) => (self.dials.len(), MAX_DIALS, &mut self.dropped.dials),
            Request::Packet(_) => (self.packets.len(), MAX_PACKETS, &mut self.dropped.packets),
        };
        let has_room = waiting < limit;
        if !has_room {
            *dropped += 1;
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

    /// The next one that costs a packet, in the order in which they came.
    pub(super) fn next_packet(&mut self) -> Option<PacketRequest> {
        pop_front(&mut self.packets)
    }

    /// The next one that costs TLS work: a dial and an accepted connection in turn.
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

    /// A dial that has waited for so long that its time is over.
    pub(super) fn next_expired(&mut self, now: Instant) -> Option<Dial> {
        self.dials.pop_expired(now)
    }

    /// For how many there is memory.
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

    /// What found its queue full since the last time.
    pub(super) fn take_dropped(&mut self) -> Dropped {
        mem::take(&mut self.dropped)
    }
}

impl Dropped {
    pub(super) fn add_to(self, stats: &mut TransportStats) {
        stats.accepts_dropped_overload += self.accepts;
        stats.dials_dropped_overload += self.dials;
        stats.requests_dropped_overload += self.packets;
    }
}

/// Dials that wait, in an order in which those that may well succeed do not wait behind thousands
/// that will not.
///
/// Nothing tells a dial to a dead address from others before it has failed. So the newest one and
/// the oldest one have their turns alternately: who comes after a crowd does not wait for it, nor
/// does who came before it. And dials to a host that others wait for already have a queue of their
/// own, which has half of the turns.
#[derive(Default)]
struct Dials {
    /// Each of them was the only one to its host when it came. The oldest is in front, in both
    /// queues.
    first: VecDeque<Dial>,
    further: VecDeque<Dial>,
    /// How many wait for each host.
    hosts: HashMap<IpAddr, usize>,
    /// Whose turn it is.
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

    fn push(&mut self, dial: Dial) {
        let waiting = self.hosts.entry(dial.remote_addr.ip()).or_default();
        *waiting += 1;
        if *waiting == 1 {
            self.first.push_back(dial);
        } else {
            self.further.push_back(dial);
        }
    }

    fn pop(&mut self) -> Option<Dial> {
        // Each has a turn, if need be.
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

    fn pop_expired(&mut self, now: Instant) -> Option<Dial> {
        let queue = [&mut self.first, &mut self.further]
            .into_iter()
            .find(|queue| queue.front().is_some_and(|dial| dial.deadline <= now))?;
        let dial = queue.pop_front()?;
        self.note_popped(&dial);
        Some(dial)
    }

    fn note_popped(&mut self, dial: &Dial) {
        let ip = dial.remote_addr.ip();
        if let Some(waiting) = self.hosts.get_mut(&ip) {
            *waiting -= 1;
            if *waiting == 0 {
                self.hosts.remove(&ip);
            }
        }
        if self.hosts.is_empty() {
            // A crowd is over; its memory goes with it.
            *self = Self {
                turn: self.turn,
                ..Self::default()
            };
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

/// The next one; with the last one goes the memory that a crowd has needed.
fn pop_front<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
}
