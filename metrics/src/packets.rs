//! Packets, losses, probes and frames of all connections, also of those that have ended.

use crate::table::{Metric, table};

pub(crate) const METRICS: &[Metric] = table! {
    Counter "packets_sent": "Packets sent" {
        packets.packets_sent;
    }
    Counter "lost_packets": "Packets that were declared lost" {
        packets.lost_packets;
    }
    Counter "lost" in Bytes: "Bytes of packets that were declared lost" {
        packets.lost_bytes;
    }
    Counter "congestion_events": "Reactions of the congestion controller to loss or ECN marks" {
        packets.congestion_events;
    }
    Counter "mtu_probes_sent": "Probes of path MTU discovery that were sent" {
        packets.mtu_probes_sent;
    }
    Counter "mtu_probes_lost": "Probes of path MTU discovery that were lost" {
        packets.mtu_probes_lost;
    }
    Counter "black_holes": "Paths that were found to carry only smaller packets than before" {
        packets.black_holes;
    }
    Counter "frames": "Frames by direction and type, without PADDING" {
        packets.frames_received.ack [direction = "Inbound", type = "ACK"];
        packets.frames_received.ack_frequency [direction = "Inbound", type = "ACK_FREQUENCY"];
        packets.frames_received.connection_close [direction = "Inbound", type = "CONNECTION_CLOSE"];
        packets.frames_received.crypto [direction = "Inbound", type = "CRYPTO"];
        packets.frames_received.data_blocked [direction = "Inbound", type = "DATA_BLOCKED"];
        packets.frames_received.datagram [direction = "Inbound", type = "DATAGRAM"];
        packets.frames_received.handshake_done [direction = "Inbound", type = "HANDSHAKE_DONE"];
        packets.frames_received.immediate_ack [direction = "Inbound", type = "IMMEDIATE_ACK"];
        packets.frames_received.max_data [direction = "Inbound", type = "MAX_DATA"];
        packets.frames_received.max_stream_data [direction = "Inbound", type = "MAX_STREAM_DATA"];
        packets.frames_received.max_streams_bidi [direction = "Inbound", type = "MAX_STREAMS_BIDI"];
        packets.frames_received.max_streams_uni [direction = "Inbound", type = "MAX_STREAMS_UNI"];
        packets.frames_received.new_connection_id [direction = "Inbound", type = "NEW_CONNECTION_ID"];
        packets.frames_received.new_token [direction = "Inbound", type = "NEW_TOKEN"];
        packets.frames_received.path_challenge [direction = "Inbound", type = "PATH_CHALLENGE"];
        packets.frames_received.path_response [direction = "Inbound", type = "PATH_RESPONSE"];
        packets.frames_received.ping [direction = "Inbound", type = "PING"];
        packets.frames_received.reset_stream [direction = "Inbound", type = "RESET_STREAM"];
        packets.frames_received.retire_connection_id [direction = "Inbound", type = "RETIRE_CONNECTION_ID"];
        packets.frames_received.stop_sending [direction = "Inbound", type = "STOP_SENDING"];
        packets.frames_received.stream [direction = "Inbound", type = "STREAM"];
        packets.frames_received.stream_data_blocked [direction = "Inbound", type = "STREAM_DATA_BLOCKED"];
        packets.frames_received.streams_blocked_bidi [direction = "Inbound", type = "STREAMS_BLOCKED_BIDI"];
        packets.frames_received.streams_blocked_uni [direction = "Inbound", type = "STREAMS_BLOCKED_UNI"];
        packets.frames_sent.ack [direction = "Outbound", type = "ACK"];
        packets.frames_sent.ack_frequency [direction = "Outbound", type = "ACK_FREQUENCY"];
        packets.frames_sent.connection_close [direction = "Outbound", type = "CONNECTION_CLOSE"];
        packets.frames_sent.crypto [direction = "Outbound", type = "CRYPTO"];
        packets.frames_sent.data_blocked [direction = "Outbound", type = "DATA_BLOCKED"];
        packets.frames_sent.datagram [direction = "Outbound", type = "DATAGRAM"];
        packets.frames_sent.handshake_done [direction = "Outbound", type = "HANDSHAKE_DONE"];
        packets.frames_sent.immediate_ack [direction = "Outbound", type = "IMMEDIATE_ACK"];
        packets.frames_sent.max_data [direction = "Outbound", type = "MAX_DATA"];
        packets.frames_sent.max_stream_data [direction = "Outbound", type = "MAX_STREAM_DATA"];
        packets.frames_sent.max_streams_bidi [direction = "Outbound", type = "MAX_STREAMS_BIDI"];
        packets.frames_sent.max_streams_uni [direction = "Outbound", type = "MAX_STREAMS_UNI"];
        packets.frames_sent.new_connection_id [direction = "Outbound", type = "NEW_CONNECTION_ID"];
        packets.frames_sent.new_token [direction = "Outbound", type = "NEW_TOKEN"];
        packets.frames_sent.path_challenge [direction = "Outbound", type = "PATH_CHALLENGE"];
        packets.frames_sent.path_response [direction = "Outbound", type = "PATH_RESPONSE"];
        packets.frames_sent.ping [direction = "Outbound", type = "PING"];
        packets.frames_sent.reset_stream [direction = "Outbound", type = "RESET_STREAM"];
        packets.frames_sent.retire_connection_id [direction = "Outbound", type = "RETIRE_CONNECTION_ID"];
        packets.frames_sent.stop_sending [direction = "Outbound", type = "STOP_SENDING"];
        packets.frames_sent.stream [direction = "Outbound", type = "STREAM"];
        packets.frames_sent.stream_data_blocked [direction = "Outbound", type = "STREAM_DATA_BLOCKED"];
        packets.frames_sent.streams_blocked_bidi [direction = "Outbound", type = "STREAMS_BLOCKED_BIDI"];
        packets.frames_sent.streams_blocked_uni [direction = "Outbound", type = "STREAMS_BLOCKED_UNI"];
    }
};
