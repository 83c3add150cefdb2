//! What a shard keeps about one connection.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use quinn_proto::{ConnectionEvent, ConnectionId};

use super::{
    amplification::AddressLimits,
    budget::BudgetShare,
    closing::ClosePacket,
    connection::SharedConnection,
    deadlines::Armed,
    delivery::Delivery,
    handshake_bytes::HandshakeBytes,
    inbox::Inbox,
    path_doubts::Doubter,
    reception::Admission,
    silence::Silence,
    turn_queue::Load,
    work::{Account, Debt},
};

pub(super) struct Slot<S> {
    pub(super) connection: SharedConnection,
    /// The socket from which it sends; it follows the peer's authenticated packets.
    pub(super) socket: S,
    /// The address from which it sends, if the socket has several: that at which the peer's first
    /// datagram arrived. `None` until then; the kernel chooses.
    pub(super) local_ip: Option<IpAddr>,
    /// The path that the peer has left, until the new one is validated or given up, or the
    /// peer is back.
    pub(super) previous_path: Option<PreviousPath<S>>,
    /// Whether packets from the current local address arrive.
    pub(super) delivery: Delivery,
    /// Whether a move to another local address is due, but not permitted yet.
    pub(super) move_is_due: bool,
    /// The MTU of the path, as of the last turn.
    pub(super) mtu: u16,
    /// How much may be sent to each of the peer's addresses.
    pub(super) amplification: AddressLimits,
    /// Its share of the memory for all connections.
    pub(super) budget: BudgetShare,
    /// Whether packets with stream data are dropped because there is no memory for them.
    pub(super) drops_data: bool,
    /// Of an incoming connection, until its handshake has ended.
    pub(super) admission: Option<Admission>,
    /// What has arrived since its last turn.
    pub(super) inbox: Inbox<InboxDatagram<S>>,
    /// The CPU time that its datagrams have cost.
    pub(super) account: Account,
    /// Its debt, if it is in debt; it gets no turn before that is paid.
    pub(super) debt: Option<Debt>,
    /// The timer that it has among the shard's deadlines.
    pub(super) armed: Armed,
    /// Whether that timer has fired, and quinn-proto was not told yet.
    pub(super) timer_is_due: bool,
    /// Whether nothing was sent yet on the path that has just become the current one. Timers wait
    /// for that: quinn-proto 0.11.19 keeps the loss detection timer of the previous path, and with
    /// debug assertions it asserts that there are packets in flight on the new one.
    pub(super) untried_path: bool,
    /// The number of turns in a row in which nothing was sent because the inbox was not empty.
    pub(super) turns_without_sending: u8,
    /// How much work the last turn had.
    pub(super) load: Load,
    /// When its handshake is given up; `None` once it is over.
    pub(super) handshake_deadline: Option<Instant>,
    /// When a dial is given up that has heard nothing.
    pub(super) silent_until: Option<Instant>,
    /// Whether the handshake is confirmed (RFC 9001 §4.1.2), so that long headers are no longer
    /// needed.
    pub(super) is_confirmed: bool,
    /// The bytes that the handshake has received.
    pub(super) handshake_bytes: HandshakeBytes,
    /// The start of the idle period: when a packet was last received, or the first one sent after
    /// that (RFC 9000 §10.1).
    pub(super) idle_since: Instant,
    /// When a datagram was last put into its inbox.
    pub(super) heard_at: Instant,
    /// Whether nothing was sent since the last datagram was received.
    pub(super) nothing_sent_since: bool,
    /// When a probe or a keep-alive is due because the peer is silent.
    pub(super) silence: Silence,
    /// Doubts about what its path may drop silently.
    pub(super) doubter: Doubter,
    /// Whether the next datagram ignores the congestion window.
    pub(super) ignores_window: bool,
    /// Since when it [lingers](super::connection::Connection::lingers).
    pub(super) lingers_since: Option<Instant>,
    /// When a connection that has ended is discarded, even if the peer was not told.
    pub(super) close_deadline: Option<Instant>,
    /// The packet with CONNECTION_CLOSE, once it was sent.
    pub(super) close_packet: Option<ClosePacket<S>>,
    /// The destination connection ID of our first packet, until a datagram of the connection has
    /// arrived.
    pub(super) unanswered_dial: Option<ConnectionId>,
    /// Whether the last datagram of the peer was marked for ECN; `None` if none has arrived.
    pub(super) heard_marked: Option<bool>,
    /// Whether the operating system has refused to send the first packet.
    pub(super) was_forbidden: bool,
    /// The number of IDs issued after that of the handshake.
    pub(super) ids_issued: u64,
    pub(super) datagrams_received: u64,
    /// Whether it waits for a turn, also if it first has to pay a debt.
    pub(super) queued: bool,
    /// Whether it waits for its socket to be writable.
    pub(super) blocked: bool,
}

/// The path that the peer has left, if it has: an attacker may only have forwarded its packets from
/// another address.
pub(super) struct PreviousPath<S> {
    pub(super) remote_addr: SocketAddr,
    /// The socket and the local address from which packets were sent on it.
    pub(super) socket: S,
    pub(super) local_ip: Option<IpAddr>,
}

/// A datagram in the inbox of its connection.
pub(super) struct InboxDatagram<S> {
    pub(super) event: ConnectionEvent,
    pub(super) remote_addr: SocketAddr,
    /// The local address at which it arrived.
    pub(super) local_ip: Option<IpAddr>,
    /// Its length, of which the packets of the connection may be a part.
    pub(super) len: usize,
    /// Bytes of memory that are kept as long as any part of it is.
    pub(super) held: usize,
    pub(super) socket: S,
}
