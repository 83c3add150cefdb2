//! Totals of the transport as a whole.

use crate::table::{Metric, table};

pub(crate) const METRICS: &[Metric] = table! {
    Gauge "buffered" in Bytes: "Data that connections hold for the application or for peers" {
        transport.buffered_bytes;
    }
    Counter "udp_payload" in Bytes: "UDP payload, by direction" {
        transport.bytes_received [direction = "Inbound"];
        transport.bytes_sent [direction = "Outbound"];
    }
    Counter "datagrams": "UDP datagrams, by direction" {
        transport.datagrams_received [direction = "Inbound"];
        transport.datagrams_sent [direction = "Outbound"];
    }
    Counter "dials": "Dials whose first packet was created" {
        transport.dials;
    }
    Counter "dials_from_other_port": "Dials that left the port of the listener because a host had not answered it" {
        transport.dials_from_other_port;
    }
    Counter "incoming": "Incoming connections that were offered to the application" {
        transport.incoming;
    }
    Counter "handshakes": "Handshakes that have ended, by outcome" {
        transport.handshakes_completed [outcome = "Completed"];
        transport.handshakes_failed [outcome = "Failed"];
    }
    Counter "handshakes_timed_out": "Failed handshakes that took longer than the handshake timeout" {
        transport.handshakes_timed_out;
    }
    Counter "refusals": "Dials and incoming connections that did not begin a handshake, by reason" {
        transport.accepts_dropped_overload [reason = "AcceptOverload"];
        transport.dials_dropped_overload [reason = "DialOverload"];
        transport.dials_expired [reason = "DialExpired"];
        transport.incoming_refused [reason = "Application"];
    }
    Counter "closes": "Authenticated connections that have ended, by cause" {
        transport.ended_aborted_by_peer [cause = "AbortedByPeer"];
        transport.ended_closed_by_peer [cause = "ClosedByPeer"];
        transport.ended_driver_stopped [cause = "DriverStopped"];
        transport.ended_locally_closed [cause = "LocallyClosed"];
        transport.ended_reset [cause = "Reset"];
        transport.ended_timed_out [cause = "TimedOut"];
        transport.ended_violation [cause = "Violation"];
    }
    Counter "closes_repeated": "Packets with a CONNECTION_CLOSE that were sent again" {
        transport.closes_repeated;
    }
    Counter "lingers_given_up": "Connections that were closed before all data of closed streams was acknowledged" {
        transport.lingers_given_up;
    }
    Counter "limits_exceeded": "Connections and handshakes that were ended because a peer exceeded a limit" {
        transport.exceeded_credit [limit = "Credit"];
        transport.handshakes_too_costly [limit = "HandshakeCpuTime"];
        transport.too_fragmented [limit = "Fragments"];
        transport.too_many_blocked [limit = "BlockedStreams"];
    }
    Counter "bandwidth_waits": "Reads and writes that had to wait for the limits on bandwidth, by direction" {
        transport.reads_limited [direction = "Inbound"];
        transport.writes_limited [direction = "Outbound"];
    }
    Counter "qlog_dropped": "Records for qlog files that were not written" {
        transport.qlog_dropped;
    }
    Counter "debts": "Turns that cost more CPU time than the datagrams of the connection had earned" {
        transport.debts;
    }
    Counter "hole_punches": "Hole punches that began" {
        transport.hole_punches;
    }
    Counter "retries": "First packets that called for a Retry, by what became of it" {
        transport.retries_sent [outcome = "Sent"];
        transport.retries_withheld [outcome = "Withheld"];
    }
    Counter "path_doubts": "Connections that stopped using ECN marks or batches after a silence, and then got an answer" {
        transport.path_doubts;
    }
    Counter "receive_errors": "Failed reads of a socket" {
        transport.receive_errors;
    }
    Counter "send_drops": "Datagrams or batches that were not sent, by reason" {
        transport.requests_dropped_overload [reason = "RequestOverload"];
        transport.send_errors [reason = "Error"];
        transport.sends_not_credited [reason = "AmplificationLimit"];
        transport.sends_too_large [reason = "TooLarge"];
        transport.sends_unreachable [reason = "Unreachable"];
    }
    Counter "send_backoffs": "Batches that waited because an interface had no room" {
        transport.send_backoffs;
    }
    Counter "segmentation_fallbacks": "Batches that were sent datagram by datagram because segmentation offload was refused" {
        transport.segmentation_fallbacks;
    }
    Counter "source_changes": "Connections that had to move to another source address, by outcome" {
        transport.source_changes [outcome = "Moved"];
        transport.source_changes_refused [outcome = "Refused"];
    }
    Gauge "shards": "quinn-proto endpoints with a task of their own" {
        transport.shards;
    }
    Gauge "sockets": "UDP sockets" {
        transport.sockets;
    }
    Counter "sockets_rebound": "Sockets that replaced another one, or were bound again" {
        transport.sockets_rebound;
    }
};
