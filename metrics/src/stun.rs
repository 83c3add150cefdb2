//! Requests to STUN servers.

use crate::table::{Metric, table};

pub(crate) const METRICS: &[Metric] = table! {
    Counter "stun_requests": "STUN requests sent, including retransmissions" {
        stun.requests_sent;
    }
    Counter "stun_transactions": "STUN transactions that have ended, by outcome" {
        stun.answers [outcome = "Answered"];
        stun.refused [outcome = "Refused"];
        stun.unanswered [outcome = "Unanswered"];
    }
    Counter "stun_drops": "Received STUN messages that were dropped, by reason" {
        stun.dropped_malformed [reason = "Malformed"];
        stun.dropped_unexpected [reason = "Unexpected"];
    }
};
