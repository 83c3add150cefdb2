//! Detects that a connection's packets no longer arrive.

use std::time::{Duration, Instant};

/// Whether the peer acknowledges anything.
///
/// Received packets do not answer that, because they may take another path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivery {
    /// The number of acknowledgements so far.
    acknowledgements: u64,
    /// When the first ack-eliciting packet since the last acknowledgement was sent.
    unanswered_since: Option<Instant>,
    /// When the peer was last asked for an acknowledgement, or when [`Verdict::Nothing`] was last
    /// returned.
    asked_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// Send a PING: the unacknowledged packet may have been lost alone, such as a probe for the
    /// MTU.
    Ask,
    /// Nothing arrives any more.
    Nothing,
}

impl Delivery {
    /// Whether the caller should report the next ack-eliciting packet.
    pub(super) fn wants_to_know(&self) -> bool {
        self.unanswered_since.is_none()
    }

    pub(super) fn note_sent(&mut self, now: Instant) {
        self.unanswered_since.get_or_insert(now);
    }

    /// Notes the total number of acknowledgements.
    pub(super) fn note_acknowledged(&mut self, acknowledgements: u64) {
        if acknowledgements != self.acknowledgements {
            *self = Self {
                acknowledgements,
                ..Self::default()
            };
        }
    }

    pub(super) fn judge(&mut self, now: Instant) -> Verdict {
        let Some(since) = self.unanswered_since else {
            return Verdict::Fine;
        };
        let (last, patience, verdict) = match self.asked_at {
            None => (since, PATIENCE, Verdict::Ask),
            Some(asked_at) => (asked_at, ANSWER_TIME, Verdict::Nothing),
        };
        if now < last + patience {
            return Verdict::Fine;
        }
        self.asked_at = Some(now);
        verdict
    }
}

/// The time without an acknowledgement after which the peer is sent a PING.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the answer may take, and then the interval at which the verdict is repeated. It
/// tolerates a short interruption of the path, and is well below 10 s, the default of
/// `idle_timeout`.
const ANSWER_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    #[test]
    fn nothing_arrives_where_the_peer_was_asked_and_does_not_acknowledge() {
        let now = clock::now();
        let mut delivery = Delivery::default();
        assert_eq!(delivery.judge(now + 9 * PATIENCE), Verdict::Fine);
        delivery.note_sent(now);
        assert_eq!(delivery.judge(now + ANSWER_TIME), Verdict::Fine);
        let asked = now + PATIENCE;
        assert_eq!(delivery.judge(asked), Verdict::Ask);
        assert_eq!(delivery.judge(asked + ANSWER_TIME / 2), Verdict::Fine);
        for times in 1..3 {
            let now = asked + times * ANSWER_TIME;
            assert_eq!(delivery.judge(now), Verdict::Nothing);
            assert_eq!(delivery.judge(now), Verdict::Fine);
        }
        delivery.note_acknowledged(1);
        assert!(delivery.wants_to_know());
        assert_eq!(delivery.judge(asked + 9 * PATIENCE), Verdict::Fine);
    }

    #[test]
    fn what_is_lost_alone_is_no_reason() {
        let now = clock::now();
        let mut delivery = Delivery::default();
        delivery.note_sent(now);
        // Nothing happened in between.
        let asked = now + 9 * PATIENCE;
        assert_eq!(delivery.judge(asked), Verdict::Ask);
        delivery.note_acknowledged(1);
        assert_eq!(delivery.judge(asked + ANSWER_TIME), Verdict::Fine);
    }
}
