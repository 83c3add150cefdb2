//! What quinn-proto counts on a connection: packets, losses, probes and frames.

use std::ops::AddAssign;

/// Packets and frames of one connection, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketStats {
    /// The number of times a path was found to carry only packets smaller than before, so that path
    /// MTU discovery began again (RFC 8899 §4.3).
    pub black_holes: u64,
    /// The number of times the congestion controller reacted to loss or ECN marks.
    pub congestion_events: u64,
    /// Frames received.
    pub frames_received: FrameStats,
    /// Frames sent.
    pub frames_sent: FrameStats,
    /// Bytes of the [`lost_packets`](Self::lost_packets).
    pub lost_bytes: u64,
    /// Packets that were declared lost (RFC 9002 §6), without probes of path MTU discovery.
    pub lost_packets: u64,
    /// Probes of path MTU discovery that were lost, most of them because the path carries no
    /// packets of that size.
    pub mtu_probes_lost: u64,
    /// Probes of path MTU discovery that were sent (RFC 9000 §14.3).
    pub mtu_probes_sent: u64,
    /// Packets sent, including probes. A datagram may carry several packets in the handshake.
    pub packets_sent: u64,
}

/// Frames by their type (RFC 9000 §19), without PADDING.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameStats {
    /// ACK.
    pub ack: u64,
    /// ACK_FREQUENCY, an extension.
    pub ack_frequency: u64,
    /// CONNECTION_CLOSE, only those received: quinn-proto does not count those that it sends.
    pub connection_close: u64,
    /// CRYPTO.
    pub crypto: u64,
    /// DATA_BLOCKED.
    pub data_blocked: u64,
    /// DATAGRAM, an extension.
    pub datagram: u64,
    /// HANDSHAKE_DONE.
    pub handshake_done: u64,
    /// IMMEDIATE_ACK, an extension.
    pub immediate_ack: u64,
    /// MAX_DATA.
    pub max_data: u64,
    /// MAX_STREAM_DATA.
    pub max_stream_data: u64,
    /// MAX_STREAMS, for bidirectional streams.
    pub max_streams_bidi: u64,
    /// MAX_STREAMS, for unidirectional streams.
    pub max_streams_uni: u64,
    /// NEW_CONNECTION_ID.
    pub new_connection_id: u64,
    /// NEW_TOKEN.
    pub new_token: u64,
    /// PATH_CHALLENGE.
    pub path_challenge: u64,
    /// PATH_RESPONSE.
    pub path_response: u64,
    /// PING.
    pub ping: u64,
    /// RESET_STREAM.
    pub reset_stream: u64,
    /// RETIRE_CONNECTION_ID.
    pub retire_connection_id: u64,
    /// STOP_SENDING.
    pub stop_sending: u64,
    /// STREAM.
    pub stream: u64,
    /// STREAM_DATA_BLOCKED.
    pub stream_data_blocked: u64,
    /// STREAMS_BLOCKED, for bidirectional streams.
    pub streams_blocked_bidi: u64,
    /// STREAMS_BLOCKED, for unidirectional streams.
    pub streams_blocked_uni: u64,
}

impl From<quinn_proto::ConnectionStats> for PacketStats {
    fn from(quic: quinn_proto::ConnectionStats) -> Self {
        Self {
            black_holes: quic.path.black_holes_detected,
            congestion_events: quic.path.congestion_events,
            frames_received: quic.frame_rx.into(),
            frames_sent: quic.frame_tx.into(),
            lost_bytes: quic.path.lost_bytes,
            lost_packets: quic.path.lost_packets,
            mtu_probes_lost: quic.path.lost_plpmtud_probes,
            mtu_probes_sent: quic.path.sent_plpmtud_probes,
            packets_sent: quic.path.sent_packets,
        }
    }
}

impl From<quinn_proto::FrameStats> for FrameStats {
    fn from(quic: quinn_proto::FrameStats) -> Self {
        Self {
            ack: quic.acks,
            ack_frequency: quic.ack_frequency,
            connection_close: quic.connection_close,
            crypto: quic.crypto,
            data_blocked: quic.data_blocked,
            datagram: quic.datagram,
            handshake_done: u64::from(quic.handshake_done),
            immediate_ack: quic.immediate_ack,
            max_data: quic.max_data,
            max_stream_data: quic.max_stream_data,
            max_streams_bidi: quic.max_streams_bidi,
            max_streams_uni: quic.max_streams_uni,
            new_connection_id: quic.new_connection_id,
            new_token: quic.new_token,
            path_challenge: quic.path_challenge,
            path_response: quic.path_response,
            ping: quic.ping,
            reset_stream: quic.reset_stream,
            retire_connection_id: quic.retire_connection_id,
            stop_sending: quic.stop_sending,
            stream: quic.stream,
            stream_data_blocked: quic.stream_data_blocked,
            streams_blocked_bidi: quic.streams_blocked_bidi,
            streams_blocked_uni: quic.streams_blocked_uni,
        }
    }
}

impl AddAssign for PacketStats {
    fn add_assign(&mut self, other: Self) {
        let Self {
            black_holes,
            congestion_events,
            frames_received,
            frames_sent,
            lost_bytes,
            lost_packets,
            mtu_probes_lost,
            mtu_probes_sent,
            packets_sent,
        } = other;
        self.black_holes += black_holes;
        self.congestion_events += congestion_events;
        self.frames_received += frames_received;
        self.frames_sent += frames_sent;
        self.lost_bytes += lost_bytes;
        self.lost_packets += lost_packets;
        self.mtu_probes_lost += mtu_probes_lost;
        self.mtu_probes_sent += mtu_probes_sent;
        self.packets_sent += packets_sent;
    }
}

impl AddAssign for FrameStats {
    fn add_assign(&mut self, other: Self) {
        let Self {
            ack,
            ack_frequency,
            connection_close,
            crypto,
            data_blocked,
            datagram,
            handshake_done,
            immediate_ack,
            max_data,
            max_stream_data,
            max_streams_bidi,
            max_streams_uni,
            new_connection_id,
            new_token,
            path_challenge,
            path_response,
            ping,
            reset_stream,
            retire_connection_id,
            stop_sending,
            stream,
            stream_data_blocked,
            streams_blocked_bidi,
            streams_blocked_uni,
        } = other;
        self.ack += ack;
        self.ack_frequency += ack_frequency;
        self.connection_close += connection_close;
        self.crypto += crypto;
        self.data_blocked += data_blocked;
        self.datagram += datagram;
        self.handshake_done += handshake_done;
        self.immediate_ack += immediate_ack;
        self.max_data += max_data;
        self.max_stream_data += max_stream_data;
        self.max_streams_bidi += max_streams_bidi;
        self.max_streams_uni += max_streams_uni;
        self.new_connection_id += new_connection_id;
        self.new_token += new_token;
        self.path_challenge += path_challenge;
        self.path_response += path_response;
        self.ping += ping;
        self.reset_stream += reset_stream;
        self.retire_connection_id += retire_connection_id;
        self.stop_sending += stop_sending;
        self.stream += stream;
        self.stream_data_blocked += stream_data_blocked;
        self.streams_blocked_bidi += streams_blocked_bidi;
        self.streams_blocked_uni += streams_blocked_uni;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_frame_that_quinn_proto_counts_is_counted_by_its_name() {
        let mut quic = quinn_proto::FrameStats::default();
        let mut next = 0;
        let mut count = |field: &mut u64| {
            next += 1;
            *field = next;
        };
        count(&mut quic.acks);
        count(&mut quic.ack_frequency);
        count(&mut quic.crypto);
        count(&mut quic.connection_close);
        count(&mut quic.data_blocked);
        count(&mut quic.datagram);
        count(&mut quic.immediate_ack);
        count(&mut quic.max_data);
        count(&mut quic.max_stream_data);
        count(&mut quic.max_streams_bidi);
        count(&mut quic.max_streams_uni);
        count(&mut quic.new_connection_id);
        count(&mut quic.new_token);
        count(&mut quic.path_challenge);
        count(&mut quic.path_response);
        count(&mut quic.ping);
        count(&mut quic.reset_stream);
        count(&mut quic.retire_connection_id);
        count(&mut quic.stream_data_blocked);
        count(&mut quic.streams_blocked_bidi);
        count(&mut quic.streams_blocked_uni);
        count(&mut quic.stop_sending);
        count(&mut quic.stream);
        quic.handshake_done = 100;

        let theirs = format!("{quic:#?}").to_lowercase();
        let ours = format!("{:#?}", FrameStats::from(quic)).to_lowercase();
        assert_eq!(
            ours.lines().collect::<BTreeSet<_>>(),
            theirs.lines().collect::<BTreeSet<_>>()
        );
    }
}
