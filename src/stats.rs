//! Counters as they were at one moment.
//!
//! All of them are plain numbers, taken by [`Handle::stats`](crate::Handle::stats). Totals count from
//! the start of the transport or the last [`Handle::reset_stats`](crate::Handle::reset_stats); what is
//! said to be *now* is not reset.

use std::{net::SocketAddr, ops::AddAssign, time::Duration};

use libp2p_core::transport::ListenerId;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

/// Everything that a transport counts.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Every connection that is not over, handshaking ones among them.
    pub connections: Vec<ConnectionStats>,
    /// Every listener, in the order in which they were made.
    pub listeners: Vec<ListenerStats>,
    /// The connection IDs and what was routed by them.
    pub registry: RegistryStats,
    /// What was asked of STUN servers, and what came back.
    #[cfg(feature = "nat")]
    pub stun: StunStats,
    /// The transport as a whole.
    pub transport: TransportStats,
}

/// Sums over the whole transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStats {
    /// Bytes of data that connections hold, received and not read or written and not acknowledged, as
    /// of their last turns; [`max_buffered_bytes`](crate::ConfigBuilder::max_buffered_bytes) limits
    /// them; now.
    pub buffered_bytes: u64,
    /// Accepted incoming connections that were refused because too many waited for their handshake
    /// to begin ([`HandshakeError::Overloaded`](crate::HandshakeError::Overloaded)).
    pub accepts_dropped_overload: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Times that the packet which closes a connection was sent again, because its peer had missed it.
    pub closes_repeated: u64,
    /// Turns that cost a connection more time than its datagrams had earned, so that it had to wait
    /// for its next one.
    pub debts: u64,
    /// Dials whose first packet was made.
    pub dials: u64,
    /// Packets that were dropped for their CRYPTO frames: so many as no handshake needs, in one
    /// packet or over one connection. Of such a connection no packet is taken any more.
    pub dropped_crypto: u64,
    /// Dials that failed because too many waited to begin
    /// ([`DialError::Overloaded`](crate::DialError::Overloaded)).
    pub dials_dropped_overload: u64,
    /// Dials that have waited to begin until their handshake timeout was over. They are not among
    /// the handshakes that failed.
    pub dials_expired: u64,
    /// Dials that were to leave from a listener's port, and left from another one because nothing had come back to that
    /// from their host. Those that had left from the listener's port first count as two [`dials`](Self::dials).
    pub dials_from_other_port: u64,
    /// Handshakes that ended with an authenticated peer.
    pub handshakes_completed: u64,
    /// Handshakes that ended otherwise; those that timed out are among them.
    pub handshakes_failed: u64,
    /// Handshakes that ended because the peer's packets took too much CPU time.
    pub handshakes_too_costly: u64,
    /// Handshakes that took longer than the handshake timeout.
    pub handshakes_timed_out: u64,
    /// Dials as listener that have begun to punch a hole.
    pub hole_punches: u64,
    /// Incoming connections that were offered to the application.
    pub incoming: u64,
    /// Incoming connections that the application refused, or left waiting for too long.
    pub incoming_refused: u64,
    /// Connections that were closed although their peers had not acknowledged all of the streams
    /// that were closed before: these had not done so in time
    /// ([`linger_timeout`](crate::ConfigBuilder::linger_timeout)) or had gone themselves, or too
    /// many connections waited for it.
    pub lingers_given_up: u64,
    /// Connections that went on without ECN marks or batches after a silence, and were answered:
    /// their path had swallowed one or the other.
    pub path_doubts: u64,
    /// Failed reads of a socket; each is tried again.
    pub receive_errors: u64,
    /// Refusals, hole punches and questions to STUN servers that were dropped because too many
    /// waited to be sent.
    pub requests_dropped_overload: u64,
    /// Retry packets sent, as [`RetryPolicy`](crate::RetryPolicy) says.
    pub retries_sent: u64,
    /// First packets that got none, because one was sent to the same client a moment ago.
    pub retries_withheld: u64,
    /// Batches that were sent datagram by datagram because the interface refused segmentation offload. Some seconds
    /// pass until one is tried again with the same host.
    pub segmentation_fallbacks: u64,
    /// Times that an interface had no room for a batch (`ENOBUFS`), which was then kept, to be tried again a little
    /// later.
    pub send_backoffs: u64,
    /// Datagrams or batches that were not sent for another reason than those below, that an interface had no room for
    /// all the time, or that found too many waiting; QUIC repairs the loss.
    pub send_errors: u64,
    /// Datagrams that were not sent, because three times as much as had come from their address was sent
    /// there, and it is not certain that the peer is there (RFC 9000 §8).
    pub sends_not_credited: u64,
    /// Datagrams that did not fit into the interface's MTU (`EMSGSIZE`); probes of path MTU discovery are among them.
    pub sends_too_large: u64,
    /// Datagrams or batches that had no way to their address: no route, no interface, a firewall, or a source address
    /// that is gone. They are lost, as on a network.
    pub sends_unreachable: u64,
    /// Shards, that is, endpoints of quinn-proto with a task of their own; now.
    pub shards: usize,
    /// UDP sockets; now.
    pub sockets: usize,
    /// Sockets that have taken the place of another one, after [`Handle::rebind`](crate::Handle::rebind) or because that
    /// one had failed, and failed ones that were bound again to the same address. The sockets that the shards have at one
    /// address count as one.
    pub sockets_rebound: u64,
    /// Connections that have moved to another source address, under another connection ID: no interface had
    /// theirs any more, or nothing was acknowledged for three seconds and the operating system preferred another.
    pub source_changes: u64,
    /// Connections that were closed because their peer had left more gaps in what it sent on its
    /// streams, or had cut it into more pieces, than a bad network does.
    pub too_fragmented: u64,
}

/// One listener, now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerStats {
    /// The addresses that were announced and have not expired.
    pub addresses: Vec<Multiaddr>,
    /// The listener.
    pub listener_id: ListenerId,
    /// The address that its socket is bound to.
    pub local_addr: SocketAddr,
    /// Size of the socket's receive buffer (`SO_RCVBUF`) as the kernel reports it, in bytes.
    pub receive_buffer_bytes: usize,
    /// Size of the socket's send buffer (`SO_SNDBUF`) as the kernel reports it, in bytes.
    pub send_buffer_bytes: usize,
}

/// One connection, now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// The TLS cipher suite (RFC 8446 §B.4), once it is negotiated.
    pub cipher_suite: Option<&'static str>,
    /// Times the congestion controller has reacted to loss or ECN marks.
    pub congestion_events: u64,
    /// Congestion window, in bytes.
    pub congestion_window_bytes: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Memory that takes what was received and not read, at most, in bytes.
    pub held_bytes: u64,
    /// Whether we dialled.
    pub is_outbound: bool,
    /// The key-exchange group (RFC 8446 §4.2.7), once it is negotiated.
    pub key_exchange_group: Option<&'static str>,
    /// The address of the socket that it sends from. Where that is a wildcard, the IP that it sends from takes
    /// its place, as soon as the peer was heard.
    pub local_addr: SocketAddr,
    /// Packets that were declared lost (RFC 9002 §6).
    pub lost_packets: u64,
    /// Smallest round-trip time seen on this path.
    pub min_rtt: Duration,
    /// Largest UDP payload that the path is known to carry, in bytes.
    pub mtu_bytes: u16,
    /// Streams that the application holds, or whose last bytes are still to be sent.
    pub open_streams: usize,
    /// The peer, once it is authenticated.
    pub peer_id: Option<PeerId>,
    /// The peer's address, as of its last authenticated packet.
    pub remote_addr: SocketAddr,
    /// Smoothed round-trip time (RFC 9002 §5.3).
    pub rtt: Duration,
    /// The shard that drives it.
    pub shard: usize,
}

/// The connection-ID registry.
///
/// A datagram is routed by its destination connection ID alone. The IDs of a connection count here until
/// it is forgotten, up to a second after its end (RFC 9000 §10.2); then, when all of them are, each
/// figure that says *now* is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryStats {
    /// Connection IDs that peers may address us by, over all connections; now.
    pub active_ids: u64,
    /// Datagrams routed by the address they came from. Always 0: anyone can spoof an address, so there
    /// is no such fallback. The counter exists because other implementations have it.
    pub address_fallbacks: u64,
    /// Connections that are over, whose IDs are kept for up to a second (RFC 9000 §10.2); now.
    pub closing: usize,
    /// Connections that are not over, handshaking ones among them; now.
    pub connections: usize,
    /// Packets with stream data for a connection that holds much, when the memory for all connections was
    /// used up.
    pub dropped_budget: u64,
    /// Datagrams of a handshake that had taken as many bytes as it may.
    pub dropped_handshake_full: u64,
    /// Datagrams for a connection that has too many waiting for its next turn.
    pub dropped_inbox_full: u64,
    /// Datagrams that began with packets of the handshake of a connection where it was confirmed, which
    /// were left out; delayed and repeated ones of honest peers are among them.
    pub dropped_late_handshake: u64,
    /// Datagrams whose shard had too much to do to take them, first packets of connections beyond
    /// [`max_incoming_handshakes`](crate::ConfigBuilder::max_incoming_handshakes),
    /// [`max_pending_incoming`](crate::ConfigBuilder::max_pending_incoming) and
    /// [`max_pending_incoming_bytes`](crate::ConfigBuilder::max_pending_incoming_bytes) among them.
    pub dropped_overload: u64,
    /// First packets of connections from a source that has
    /// [`max_handshakes_per_source`](crate::ConfigBuilder::max_handshakes_per_source) unfinished ones.
    pub dropped_source_full: u64,
    /// Datagrams that reached a shard other than the one that their ID belongs to, and were dropped. Always 0
    /// unless something is wrong: datagrams are routed by that ID.
    pub foreign: u64,
    /// Datagrams that came in at one shard's socket and were handed to the shard that owns their ID.
    pub forwarded: u64,
    /// Networks with unfinished handshakes of incoming connections, as
    /// [`max_handshakes_per_source`](crate::ConfigBuilder::max_handshakes_per_source) counts them: an IPv6 address is
    /// in two of them. A network counts once for each shard that it has some on; now.
    pub handshake_sources: usize,
    /// Connections whose handshake is not complete; now.
    pub handshaking: usize,
    /// IDs chosen by clients for their first packets, that still lead to a connection; now.
    pub initial_ids: usize,
    /// Connection IDs issued.
    pub issued_ids: u64,
    /// How many IDs were issued with the sequence numbers 0, 1, 2–3, 4–7, 8–15, … (RFC 9000 §5.1.1); the
    /// last bucket holds all that are larger.
    pub issued_sequence_numbers: [u64; SEQUENCE_BUCKETS],
    /// Datagrams that end before their connection ID does, or have none, as empty ones; and those of a waiting
    /// incoming connection that are shorter than a client's may be (RFC 9000 §14.1).
    pub malformed: u64,
    /// Datagrams from an address that no host has (port 0, multicast, broadcast or unspecified), or to many hosts.
    /// They are never answered.
    pub martian: u64,
    /// Datagrams whose first two bits say that they are not QUIC.
    pub non_quic: u64,
    /// Datagrams larger than peers were told to send (`max_udp_payload_size`, RFC 9000 §18.2); they
    /// are dropped.
    pub oversized: u64,
    /// Different authenticated peers; now.
    pub peers: usize,
    /// Incoming connections that wait for the application's answer; now.
    pub pending_incoming: usize,
    /// Bytes of datagrams that these hold; now.
    pub pending_incoming_bytes: usize,
    /// Different remote addresses of connections; now.
    pub remote_addresses: usize,
    /// Stateless resets and version negotiations sent without a connection.
    pub responses_sent: u64,
    /// Connection IDs that peers have retired, or that went with their connection.
    pub retired_ids: u64,
    /// Datagrams routed to a connection by an ID that we issued.
    pub routed_established: u64,
    /// Handshake datagrams routed to a connection, pending or not.
    pub routed_initial: u64,
    /// Time spent on routing, for [`timed_datagrams`](Self::timed_datagrams) of them.
    pub routing_time: Duration,
    /// Datagrams whose routing was timed; 0 unless
    /// [`measure_routing`](crate::ConfigBuilder::measure_routing) is on.
    pub timed_datagrams: u64,
    /// Datagrams for no connection that we know.
    pub unknown: u64,
}

/// The questions of [`nat::Behaviour`](crate::nat::Behaviour) to STUN servers. All are zero without one.
///
/// A datagram that is not QUIC counts in [`RegistryStats::non_quic`]; here counts what became of it if its first byte
/// is that of STUN (RFC 9443 §3).
#[cfg(feature = "nat")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StunStats {
    /// Answers with an address.
    pub answers: u64,
    /// Datagrams without the magic cookie, with another length than they say, or with contents that make no sense.
    ///
    /// The random datagrams of peers that punch a hole are among them, if they happen to begin like STUN.
    pub dropped_malformed: u64,
    /// Messages that nobody waits for: from another address than the one that was asked, to another socket than the
    /// one that has asked, with an ID of no transaction in flight, or no responses at all. Late answers and
    /// duplicates are among them.
    pub dropped_unexpected: u64,
    /// Answers without an address: errors, and those with attributes that we would have to understand and do not.
    pub refused: u64,
    /// Requests sent, retransmissions among them.
    pub requests_sent: u64,
    /// Transactions that were given up: 39.5 s after their first request, or because the server's host says that
    /// nobody listens there.
    pub unanswered: u64,
}

/// Buckets of [`RegistryStats::issued_sequence_numbers`].
pub const SEQUENCE_BUCKETS: usize = 16;

impl AddAssign for TransportStats {
    fn add_assign(&mut self, other: Self) {
        self.buffered_bytes += other.buffered_bytes;
        self.accepts_dropped_overload += other.accepts_dropped_overload;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.datagrams_received += other.datagrams_received;
        self.datagrams_sent += other.datagrams_sent;
        self.closes_repeated += other.closes_repeated;
        self.debts += other.debts;
        self.dials += other.dials;
        self.dropped_crypto += other.dropped_crypto;
        self.dials_dropped_overload += other.dials_dropped_overload;
        self.dials_from_other_port += other.dials_from_other_port;
        self.dials_expired += other.dials_expired;
        self.handshakes_completed += other.handshakes_completed;
        self.handshakes_failed += other.handshakes_failed;
        self.handshakes_too_costly += other.handshakes_too_costly;
        self.handshakes_timed_out += other.handshakes_timed_out;
        self.hole_punches += other.hole_punches;
        self.incoming += other.incoming;
        self.incoming_refused += other.incoming_refused;
        self.lingers_given_up += other.lingers_given_up;
        self.path_doubts += other.path_doubts;
        self.receive_errors += other.receive_errors;
        self.requests_dropped_overload += other.requests_dropped_overload;
        self.retries_sent += other.retries_sent;
        self.retries_withheld += other.retries_withheld;
        self.segmentation_fallbacks += other.segmentation_fallbacks;
        self.send_backoffs += other.send_backoffs;
        self.send_errors += other.send_errors;
        self.sends_not_credited += other.sends_not_credited;
        self.sends_too_large += other.sends_too_large;
        self.sends_unreachable += other.sends_unreachable;
        self.shards += other.shards;
        self.sockets += other.sockets;
        self.source_changes += other.source_changes;
        self.sockets_rebound += other.sockets_rebound;
        self.too_fragmented += other.too_fragmented;
    }
}

impl AddAssign<&Self> for RegistryStats {
    fn add_assign(&mut self, other: &Self) {
        self.active_ids += other.active_ids;
        self.address_fallbacks += other.address_fallbacks;
        self.closing += other.closing;
        self.connections += other.connections;
        self.dropped_budget += other.dropped_budget;
        self.dropped_handshake_full += other.dropped_handshake_full;
        self.dropped_inbox_full += other.dropped_inbox_full;
        self.dropped_late_handshake += other.dropped_late_handshake;
        self.dropped_overload += other.dropped_overload;
        self.dropped_source_full += other.dropped_source_full;
        self.foreign += other.foreign;
        self.forwarded += other.forwarded;
        self.handshake_sources += other.handshake_sources;
        self.handshaking += other.handshaking;
        self.initial_ids += other.initial_ids;
        self.issued_ids += other.issued_ids;
        for (sum, count) in self
            .issued_sequence_numbers
            .iter_mut()
            .zip(other.issued_sequence_numbers)
        {
            *sum += count;
        }
        self.malformed += other.malformed;
        self.martian += other.martian;
        self.non_quic += other.non_quic;
        self.oversized += other.oversized;
        self.peers += other.peers;
        self.pending_incoming += other.pending_incoming;
        self.pending_incoming_bytes += other.pending_incoming_bytes;
        self.remote_addresses += other.remote_addresses;
        self.responses_sent += other.responses_sent;
        self.retired_ids += other.retired_ids;
        self.routed_established += other.routed_established;
        self.routed_initial += other.routed_initial;
        self.routing_time += other.routing_time;
        self.timed_datagrams += other.timed_datagrams;
        self.unknown += other.unknown;
    }
}

#[cfg(feature = "nat")]
impl AddAssign for StunStats {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.dropped_malformed += other.dropped_malformed;
        self.dropped_unexpected += other.dropped_unexpected;
        self.refused += other.refused;
        self.requests_sent += other.requests_sent;
        self.unanswered += other.unanswered;
    }
}
