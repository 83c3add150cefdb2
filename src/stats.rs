//! Statistics: counters as they were at one moment.
//!
//! [`Handle::stats`](crate::Handle::stats) takes them; all are plain numbers. Totals count from the
//! start of the transport or from the last [`Handle::reset_stats`](crate::Handle::reset_stats).
//! Figures marked *now* are not reset.

mod packets;

use std::{net::SocketAddr, ops::AddAssign, time::Duration};

use libp2p_core::transport::ListenerId;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

pub use packets::{FrameStats, PacketStats};

/// Everything that a transport counts.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Every connection that has not ended, including those in their handshake.
    pub connections: Vec<ConnectionStats>,
    /// Every listener, in the order in which they were opened.
    pub listeners: Vec<ListenerStats>,
    /// Packets and frames of all connections, also of those that have ended.
    ///
    /// [`Handle::reset_stats`](crate::Handle::reset_stats) forgets the connections that have ended.
    /// Those that have not keep what they have counted, and so does this sum.
    pub packets: PacketStats,
    /// The connection IDs, and what happened to the datagrams routed by them.
    pub registry: RegistryStats,
    /// Requests to STUN servers and their answers.
    #[cfg(feature = "nat")]
    pub stun: StunStats,
    /// The transport as a whole.
    pub transport: TransportStats,
}

/// Totals of the whole transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStats {
    /// Accepted incoming connections that were refused because too many waited for their handshake
    /// to begin ([`HandshakeError::Overloaded`](crate::HandshakeError::Overloaded)).
    pub accepts_dropped_overload: u64,
    /// Bytes of data that connections hold: received and not read, or written and not acknowledged,
    /// as of each connection's last turn. What the application holds of connections that have ended
    /// is part of it;
    /// [`max_buffered_bytes`](crate::ConfigBuilder::max_buffered_bytes) limits them; now.
    pub buffered_bytes: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// Packets with a CONNECTION_CLOSE that were sent again because the peer went on sending (RFC
    /// 9000 §10.2.1).
    pub closes_repeated: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Turns in which a connection's datagrams cost more CPU time than they had earned, so that the
    /// connection had to wait for its next turn.
    pub debts: u64,
    /// Dials whose first packet was created.
    pub dials: u64,
    /// Dials that failed because too many waited to begin
    /// ([`DialError::Overloaded`](crate::DialError::Overloaded)).
    pub dials_dropped_overload: u64,
    /// Dials whose handshake timeout ended while they waited to begin. They do not count as failed
    /// handshakes.
    pub dials_expired: u64,
    /// Dials that should leave from a listener's port and left from another one, because that host
    /// had not answered packets from the listener's port. A dial that tried the listener's port
    /// first counts twice in [`dials`](Self::dials), and once among the handshakes.
    pub dials_from_other_port: u64,
    /// Packets dropped because of their CRYPTO frames: one packet, or all packets of the
    /// connection, had more of them than any handshake needs. A connection over the limit accepts
    /// no more packets.
    pub dropped_crypto: u64,
    /// Connections that ended because the peer's QUIC implementation aborted them
    /// ([`ConnectionError::AbortedByPeer`](crate::ConnectionError::AbortedByPeer)). This figure and
    /// the next ones count authenticated connections, each of them once.
    pub ended_aborted_by_peer: u64,
    /// Connections that ended because the peer's application closed them.
    pub ended_closed_by_peer: u64,
    /// Connections that ended because their driver stopped.
    pub ended_driver_stopped: u64,
    /// Connections that ended because we closed them.
    pub ended_locally_closed: u64,
    /// Connections that ended because the peer had no state for them (RFC 9000 §10.3).
    pub ended_reset: u64,
    /// Connections that ended because no packet came from the peer for the idle timeout.
    pub ended_timed_out: u64,
    /// Connections that ended because the peer violated the protocol, or for an internal error.
    pub ended_violation: u64,
    /// Connections that were closed because their peer sent more than it was permitted (RFC 9000
    /// §4.1).
    pub exceeded_credit: u64,
    /// Handshakes that ended with an authenticated peer.
    pub handshakes_completed: u64,
    /// Handshakes that ended without one, including those that timed out.
    pub handshakes_failed: u64,
    /// Handshakes that took longer than the handshake timeout.
    pub handshakes_timed_out: u64,
    /// Handshakes that ended because processing the peer's packets took too much CPU time.
    pub handshakes_too_costly: u64,
    /// Hole punches that began: dials with the role of the listener.
    pub hole_punches: u64,
    /// Incoming connections that were offered to the application.
    pub incoming: u64,
    /// Incoming connections that the application refused, or did not answer in time.
    pub incoming_refused: u64,
    /// Connections that were closed before their peers had acknowledged all data of the streams
    /// that were closed before: the peer did not acknowledge it in time
    /// ([`linger_timeout`](crate::ConfigBuilder::linger_timeout)) or ended the connection itself,
    /// or too many connections waited like that.
    pub lingers_given_up: u64,
    /// Connections that stopped using ECN marks or batches after a silence, and then got an answer:
    /// the path had dropped one or the other.
    pub path_doubts: u64,
    /// qlog records that were not written because there was no room for them, or because the disk
    /// failed; over all transports with the same [`Config`](crate::Config). A connection for which
    /// there is no file counts as one. Always 0 without the feature `qlog`.
    pub qlog_dropped: u64,
    /// How often a read of a stream had to wait for the limits on bandwidth
    /// ([`bandwidth_limits`](crate::ConfigBuilder::bandwidth_limits)).
    pub reads_limited: u64,
    /// Failed reads of a socket; each is tried again.
    pub receive_errors: u64,
    /// Refusals, hole punches and STUN requests that were dropped because too many waited to be
    /// sent.
    pub requests_dropped_overload: u64,
    /// Retry packets sent; [`RetryPolicy`](crate::RetryPolicy) decides when.
    pub retries_sent: u64,
    /// First packets that called for a Retry and got none, because one had just been sent to the
    /// same client.
    pub retries_withheld: u64,
    /// Batches that were sent datagram by datagram because the interface refused segmentation
    /// offload. Offload to the same host is tried again after ten seconds.
    pub segmentation_fallbacks: u64,
    /// Batches for which an interface had no room (`ENOBUFS`), so that they were kept and tried
    /// again a little later.
    pub send_backoffs: u64,
    /// Datagrams or batches that were dropped: for an error other than those below, because an
    /// interface stayed full, or because too many waited to be sent. QUIC repairs the loss.
    pub send_errors: u64,
    /// Datagrams that were not sent because of the anti-amplification limit: until an address is
    /// validated, at most three times as many bytes are sent to it as came from it (RFC 9000 §8). A
    /// PATH_CHALLENGE to another port of the peer's host is sent once a second all the same.
    pub sends_not_credited: u64,
    /// Datagrams that exceeded the interface's MTU (`EMSGSIZE`), including probes of path MTU
    /// discovery.
    pub sends_too_large: u64,
    /// Datagrams or batches that the operating system could not send to their address: no route, no
    /// interface, a firewall, or a source address that is gone. They are lost, as on a network.
    pub sends_unreachable: u64,
    /// Shards, that is quinn-proto endpoints with a task of their own; now.
    pub shards: usize,
    /// UDP sockets; now.
    pub sockets: usize,
    /// Sockets that replaced another one, after [`Handle::rebind`](crate::Handle::rebind) or after
    /// a failure, and failed sockets that were bound again to the same address. The sockets of all
    /// shards at one address count as one.
    pub sockets_rebound: u64,
    /// Connections that moved to another source address, with another connection ID: no interface
    /// had the old address any more, or the peer acknowledged nothing for three seconds and the
    /// operating system preferred another source address.
    pub source_changes: u64,
    /// Connections that were to move like that and could not: the peer forbids it, the handshake is
    /// not confirmed, there is no unused connection ID, or only the peer may move. They stay, and
    /// end at their idle timeout unless the old address works again. A connection that may move
    /// later counts here as well.
    pub source_changes_refused: u64,
    /// Connections that were closed because their peer left more gaps in its stream data, or cut it
    /// into more pieces, than a bad network would.
    pub too_fragmented: u64,
    /// Connections that were closed because their peer gave credit for streams, or had streams wait
    /// for credit, 131,072 times in a row without giving the connection any.
    pub too_many_blocked: u64,
    /// How often a write to a stream had to wait for the limits on bandwidth.
    pub writes_limited: u64,
}

/// The statistics of one listener, now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerStats {
    /// The addresses that were announced and have not expired.
    pub addresses: Vec<Multiaddr>,
    /// The listener's ID.
    pub listener_id: ListenerId,
    /// The address to which its socket is bound.
    pub local_addr: SocketAddr,
    /// Size of the socket's receive buffer (`SO_RCVBUF`) as the kernel reports it, in bytes.
    pub receive_buffer_bytes: usize,
    /// Size of the socket's send buffer (`SO_SNDBUF`) as the kernel reports it, in bytes.
    pub send_buffer_bytes: usize,
}

/// The statistics of one connection, now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// The TLS cipher suite (RFC 8446 §B.4); `None` until it is negotiated.
    pub cipher_suite: Option<&'static str>,
    /// Congestion window, in bytes.
    pub congestion_window_bytes: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Upper bound on the memory used by data that was received and not read, in bytes.
    pub held_bytes: u64,
    /// Whether we dialled.
    pub is_outbound: bool,
    /// The key-exchange group (RFC 8446 §4.2.7); `None` until it is negotiated.
    pub key_exchange_group: Option<&'static str>,
    /// The address of the socket from which the connection sends. If the socket is bound to a
    /// wildcard address, the source IP replaces the wildcard once a packet of the peer has arrived.
    pub local_addr: SocketAddr,
    /// The smallest round-trip time measured on this path.
    pub min_rtt: Duration,
    /// The largest UDP payload that the path is known to carry, in bytes.
    pub mtu_bytes: u16,
    /// Streams that the application holds, or whose last data is not sent yet.
    pub open_streams: usize,
    /// Packets, losses and frames.
    pub packets: PacketStats,
    /// The peer; `None` until it is authenticated.
    pub peer_id: Option<PeerId>,
    /// The peer's address, as of its last authenticated packet.
    pub remote_addr: SocketAddr,
    /// Smoothed round-trip time (RFC 9002 §5.3).
    pub rtt: Duration,
    /// The index of the shard that drives the connection.
    pub shard: usize,
}

/// Connection IDs, and what became of received datagrams.
///
/// A datagram is routed by its destination connection ID alone. The IDs of a connection count here
/// until its state is discarded, half a second to five seconds after its end, by the round-trip
/// time (RFC 9000 §10.2). Once the state of
/// all connections is discarded, every figure marked *now* is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryStats {
    /// Connection IDs that we have issued and peers may use, over all connections; now.
    pub active_ids: u64,
    /// Connections that have ended and whose IDs are kept for a while (RFC 9000 §10.2); now.
    pub closing: usize,
    /// Connections that have not ended, including those in their handshake; now.
    pub connections: usize,
    /// Packets with stream data that were dropped because the memory for all connections was used
    /// up and their connection held much of it.
    pub dropped_budget: u64,
    /// Datagrams dropped because their handshake had already used as many bytes as it may.
    pub dropped_handshake_full: u64,
    /// Datagrams dropped because too many waited for the connection's next turn.
    pub dropped_inbox_full: u64,
    /// Datagrams that began with long headers after the connection's handshake was confirmed; the
    /// packets with these headers were dropped. Delayed packets and retransmissions of honest peers
    /// are among them.
    pub dropped_late_handshake: u64,
    /// Datagrams dropped because their shard was overloaded, including first packets of connections
    /// beyond [`max_incoming_handshakes`](crate::ConfigBuilder::max_incoming_handshakes),
    /// [`max_pending_incoming`](crate::ConfigBuilder::max_pending_incoming) and
    /// [`max_pending_incoming_bytes`](crate::ConfigBuilder::max_pending_incoming_bytes).
    pub dropped_overload: u64,
    /// Datagrams of incoming connections that were dropped because their source had as many
    /// unfinished handshakes
    /// ([`max_handshakes_per_source`](crate::ConfigBuilder::max_handshakes_per_source)) or waiting
    /// bytes ([`max_pending_incoming_bytes`](crate::ConfigBuilder::max_pending_incoming_bytes)) as
    /// it may have: first packets, and further ones of connections that wait.
    pub dropped_source_full: u64,
    /// Datagrams that reached a shard other than the one to which their ID belongs, and were
    /// dropped. Always 0 unless there is a bug, because datagrams are routed by that ID.
    pub foreign: u64,
    /// Datagrams that one shard's task read and passed to the shard to which their ID belongs.
    pub forwarded: u64,
    /// Networks with unfinished handshakes of incoming connections, as
    /// [`max_handshakes_per_source`](crate::ConfigBuilder::max_handshakes_per_source) counts them:
    /// an IPv6 address belongs to two of them. A network counts once for each shard on which it has
    /// unfinished handshakes; now.
    pub handshake_sources: usize,
    /// Connections whose handshake is not complete; now.
    pub handshaking: usize,
    /// IDs that clients chose for their first packets and that still lead to a connection; now.
    pub initial_ids: usize,
    /// Connection IDs issued.
    pub issued_ids: u64,
    /// Connection IDs issued, by sequence number: 0, 1, 2–3, 4–7, 8–15, … (RFC 9000 §5.1.1). The
    /// last bucket has all larger ones.
    pub issued_sequence_numbers: [u64; SEQUENCE_BUCKETS],
    /// Datagrams that end before their connection ID does, or have none, such as empty ones. Also
    /// further datagrams of an incoming connection that waits for its answer, if they are shorter
    /// than a client's may be (RFC 9000 §14.1).
    pub malformed: u64,
    /// Datagrams from an address that no host has (port 0, multicast, broadcast or unspecified), or
    /// to a multicast or broadcast address. They are never answered.
    pub martian: u64,
    /// Datagrams that are not QUIC, judging by their first two bits.
    pub non_quic: u64,
    /// Datagrams dropped because they were larger than the `max_udp_payload_size` that we announce
    /// (RFC 9000 §18.2).
    pub oversized: u64,
    /// Distinct authenticated peers; now.
    pub peers: usize,
    /// Incoming connections that wait for the application's answer; now.
    pub pending_incoming: usize,
    /// Bytes of datagrams held by [`pending_incoming`](Self::pending_incoming); now.
    pub pending_incoming_bytes: usize,
    /// Distinct remote addresses of connections; now.
    pub remote_addresses: usize,
    /// Stateless resets and Version Negotiation packets sent, and closes of Initial packets with an
    /// ID that is too short or with an invalid token.
    pub responses_sent: u64,
    /// Connection IDs that peers retired, or that were discarded with their connection.
    pub retired_ids: u64,
    /// Datagrams that begin with a long header (RFC 8999 §5.1), as in a handshake, and that belong
    /// to a connection or began one, whether it was admitted or not.
    pub routed_long: u64,
    /// Datagrams that begin with a short header (RFC 8999 §5.2) and belong to a connection.
    pub routed_short: u64,
    /// Time spent on routing the [`timed_datagrams`](Self::timed_datagrams).
    pub routing_time: Duration,
    /// Datagrams whose routing was timed; 0 unless
    /// [`measure_routing`](crate::ConfigBuilder::measure_routing) is on.
    pub timed_datagrams: u64,
    /// Datagrams that belong to no known connection. Also further datagrams of an incoming
    /// connection that waits for its answer, if they come from another address than the first one.
    pub unknown: u64,
}

/// Requests of [`nat::Behaviour`](crate::nat::Behaviour) to STUN servers. All figures are zero
/// without one.
///
/// [`RegistryStats::non_quic`] counts every datagram that is not QUIC. These figures say what
/// became of those whose first byte is that of a STUN message (RFC 9443 §3).
#[cfg(feature = "nat")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StunStats {
    /// Answers with an address.
    pub answers: u64,
    /// Datagrams dropped because they have no magic cookie, a length other than the one in their
    /// header, or invalid contents.
    ///
    /// They include random datagrams that peers send to punch a hole, if these happen to begin like
    /// STUN.
    pub dropped_malformed: u64,
    /// Messages dropped because they answer no request in progress: they came from an address other
    /// than the server's, or to a socket other than the one that sent the request, or have an
    /// unknown transaction ID, or are not responses. Late answers and duplicates are among them.
    pub dropped_unexpected: u64,
    /// Answers without an address: errors, and answers with attributes that must be understood and
    /// are unknown to us.
    pub refused: u64,
    /// Requests sent, including retransmissions.
    pub requests_sent: u64,
    /// Transactions that were given up: 39.5 s after their first request, because the server's
    /// host reported that its port is unreachable, or because the servers are asked again, or
    /// asked about another listener, before. Those that have become unnecessary do not count.
    pub unanswered: u64,
}

/// The number of buckets of [`RegistryStats::issued_sequence_numbers`].
pub const SEQUENCE_BUCKETS: usize = 16;

impl AddAssign for TransportStats {
    fn add_assign(&mut self, other: Self) {
        let Self {
            accepts_dropped_overload,
            buffered_bytes,
            bytes_received,
            bytes_sent,
            closes_repeated,
            datagrams_received,
            datagrams_sent,
            debts,
            dials,
            dials_dropped_overload,
            dials_expired,
            dials_from_other_port,
            dropped_crypto,
            ended_aborted_by_peer,
            ended_closed_by_peer,
            ended_driver_stopped,
            ended_locally_closed,
            ended_reset,
            ended_timed_out,
            ended_violation,
            exceeded_credit,
            handshakes_completed,
            handshakes_failed,
            handshakes_timed_out,
            handshakes_too_costly,
            hole_punches,
            incoming,
            incoming_refused,
            lingers_given_up,
            path_doubts,
            qlog_dropped,
            reads_limited,
            receive_errors,
            requests_dropped_overload,
            retries_sent,
            retries_withheld,
            segmentation_fallbacks,
            send_backoffs,
            send_errors,
            sends_not_credited,
            sends_too_large,
            sends_unreachable,
            shards,
            sockets,
            sockets_rebound,
            source_changes,
            source_changes_refused,
            too_fragmented,
            too_many_blocked,
            writes_limited,
        } = other;
        self.accepts_dropped_overload += accepts_dropped_overload;
        self.buffered_bytes += buffered_bytes;
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
        self.closes_repeated += closes_repeated;
        self.datagrams_received += datagrams_received;
        self.datagrams_sent += datagrams_sent;
        self.debts += debts;
        self.dials += dials;
        self.dials_dropped_overload += dials_dropped_overload;
        self.dials_expired += dials_expired;
        self.dials_from_other_port += dials_from_other_port;
        self.dropped_crypto += dropped_crypto;
        self.ended_aborted_by_peer += ended_aborted_by_peer;
        self.ended_closed_by_peer += ended_closed_by_peer;
        self.ended_driver_stopped += ended_driver_stopped;
        self.ended_locally_closed += ended_locally_closed;
        self.ended_reset += ended_reset;
        self.ended_timed_out += ended_timed_out;
        self.ended_violation += ended_violation;
        self.exceeded_credit += exceeded_credit;
        self.handshakes_completed += handshakes_completed;
        self.handshakes_failed += handshakes_failed;
        self.handshakes_timed_out += handshakes_timed_out;
        self.handshakes_too_costly += handshakes_too_costly;
        self.hole_punches += hole_punches;
        self.incoming += incoming;
        self.incoming_refused += incoming_refused;
        self.lingers_given_up += lingers_given_up;
        self.path_doubts += path_doubts;
        self.qlog_dropped += qlog_dropped;
        self.reads_limited += reads_limited;
        self.receive_errors += receive_errors;
        self.requests_dropped_overload += requests_dropped_overload;
        self.retries_sent += retries_sent;
        self.retries_withheld += retries_withheld;
        self.segmentation_fallbacks += segmentation_fallbacks;
        self.send_backoffs += send_backoffs;
        self.send_errors += send_errors;
        self.sends_not_credited += sends_not_credited;
        self.sends_too_large += sends_too_large;
        self.sends_unreachable += sends_unreachable;
        self.shards += shards;
        self.sockets += sockets;
        self.sockets_rebound += sockets_rebound;
        self.source_changes += source_changes;
        self.source_changes_refused += source_changes_refused;
        self.too_fragmented += too_fragmented;
        self.too_many_blocked += too_many_blocked;
        self.writes_limited += writes_limited;
    }
}

impl AddAssign<&Self> for RegistryStats {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            active_ids,
            closing,
            connections,
            dropped_budget,
            dropped_handshake_full,
            dropped_inbox_full,
            dropped_late_handshake,
            dropped_overload,
            dropped_source_full,
            foreign,
            forwarded,
            handshake_sources,
            handshaking,
            initial_ids,
            issued_ids,
            issued_sequence_numbers,
            malformed,
            martian,
            non_quic,
            oversized,
            peers,
            pending_incoming,
            pending_incoming_bytes,
            remote_addresses,
            responses_sent,
            retired_ids,
            routed_short,
            routed_long,
            routing_time,
            timed_datagrams,
            unknown,
        } = other;
        self.active_ids += active_ids;
        self.closing += closing;
        self.connections += connections;
        self.dropped_budget += dropped_budget;
        self.dropped_handshake_full += dropped_handshake_full;
        self.dropped_inbox_full += dropped_inbox_full;
        self.dropped_late_handshake += dropped_late_handshake;
        self.dropped_overload += dropped_overload;
        self.dropped_source_full += dropped_source_full;
        self.foreign += foreign;
        self.forwarded += forwarded;
        self.handshake_sources += handshake_sources;
        self.handshaking += handshaking;
        self.initial_ids += initial_ids;
        self.issued_ids += issued_ids;
        for (sum, count) in self
            .issued_sequence_numbers
            .iter_mut()
            .zip(issued_sequence_numbers)
        {
            *sum += count;
        }
        self.malformed += malformed;
        self.martian += martian;
        self.non_quic += non_quic;
        self.oversized += oversized;
        self.peers += peers;
        self.pending_incoming += pending_incoming;
        self.pending_incoming_bytes += pending_incoming_bytes;
        self.remote_addresses += remote_addresses;
        self.responses_sent += responses_sent;
        self.retired_ids += retired_ids;
        self.routed_short += routed_short;
        self.routed_long += routed_long;
        self.routing_time += *routing_time;
        self.timed_datagrams += timed_datagrams;
        self.unknown += unknown;
    }
}

#[cfg(feature = "nat")]
impl AddAssign for StunStats {
    fn add_assign(&mut self, other: Self) {
        let Self {
            answers,
            dropped_malformed,
            dropped_unexpected,
            refused,
            requests_sent,
            unanswered,
        } = other;
        self.answers += answers;
        self.dropped_malformed += dropped_malformed;
        self.dropped_unexpected += dropped_unexpected;
        self.refused += refused;
        self.requests_sent += requests_sent;
        self.unanswered += unanswered;
    }
}
