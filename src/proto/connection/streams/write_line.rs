//! The order in which streams write that have waited for the window of their connection.
//!
//! When the window opens, quinn-proto reports all streams that have waited for it. The first one to
//! write would take all of it. With a runtime that runs first what was woken last, that is the same
//! stream each time: a transfer, and a ping beside it waits for ever.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use quinn_proto::StreamId;

/// Streams that may write now, those first that have waited longest. The first one is called; the
/// others wait until it has written.
#[derive(Debug, Default)]
pub(super) struct WriteLine {
    waiting: BTreeMap<Ticket, StreamId>,
    called: Option<Called>,
    /// Streams in a row that were called and could not write.
    refused: u32,
    last: u64,
    /// When the last turn was.
    now: Option<Instant>,
}

/// The place of a stream in the line. It keeps this until it has written something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    kind: Kind,
    number: u64,
}

impl Ticket {
    pub(super) fn kind(self) -> Kind {
        self.kind
    }
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A message that was gathered. It goes before transfers: there may be many of these, and each
    /// would take a round trip before it.
    Message,
    Transfer,
}

#[derive(Clone, Copy, Debug)]
struct Called {
    /// `None` if the window seems to be used up: then nobody writes until quinn-proto reports a
    /// stream.
    ticket: Option<Ticket>,
    until: Option<Instant>,
}

/// A stream that was called and has not written by then is passed over. Its task may have ended, or
/// wait for something else. If it only comes late, it still has its ticket.
///
/// A task runs some microseconds after it was woken, if nothing keeps its runtime.
const PATIENCE: Duration = Duration::from_millis(2);

/// When this number of streams in a row could not write, the window is used up. The others need not
/// try.
const MOST_REFUSED: u32 = 2;

impl WriteLine {
    /// A ticket behind all others of its kind.
    pub(super) fn ticket(&mut self, kind: Kind) -> Ticket {
        self.last += 1;
        let number = self.last;
        Ticket { kind, number }
    }

    /// A stream that was called and comes when another one is before it is called again.
    pub(super) fn join(&mut self, ticket: Ticket, id: StreamId) {
        self.leave(ticket);
        self.waiting.insert(ticket, id);
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.called = (self.called).filter(|called| called.ticket != Some(ticket));
    }

    /// Notes that quinn-proto has reported a stream, so that the window is open.
    pub(super) fn open(&mut self) {
        self.refused = 0;
        self.called = self.called.filter(|called| called.ticket.is_some());
    }

    /// Notes that a stream has written, or could not although it was called. A single one may wait
    /// for credit of its own.
    pub(super) fn note_written(&mut self, is_blocked: bool) {
        self.refused = if is_blocked { self.refused + 1 } else { 0 };
        if self.refused >= MOST_REFUSED && !self.waiting.is_empty() {
            self.refused = 0;
            self.call_at_most(None);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a stream with this ticket, or with none, has to wait for another one.
    pub(super) fn holds_back(&self, ticket: Option<Ticket>) -> bool {
        let first = self.waiting.first_key_value();
        first.is_some_and(|(&first, _)| ticket.is_none_or(|ticket| first < ticket))
    }

    /// Notes the time of a turn. Passes a stream over that was called and is late.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.now = Some(now);
        if let Some(called) = self.called
            && called.until.is_none_or(|until| until <= now)
        {
            self.called = None;
            if let Some(ticket) = called.ticket {
                self.waiting.remove(&ticket);
            }
        }
    }

    /// When to [pass over](Self::begin_turn) the stream that was called.
    pub(super) fn next_call(&self) -> Option<Instant> {
        self.called?.until
    }

    /// The first stream, unless it was called, or the window seems to be used up.
    pub(super) fn next(&self) -> Option<(Ticket, StreamId)> {
        let (&ticket, &id) = self.waiting.first_key_value()?;
        let is_called = |called: Called| called.ticket.is_none_or(|called| called == ticket);
        (!self.called.is_some_and(is_called)).then_some((ticket, id))
    }

    /// Notes that the stream with this ticket is the one to write.
    pub(super) fn call(&mut self, ticket: Ticket) {
        self.call_at_most(Some(ticket));
    }

    fn call_at_most(&mut self, ticket: Option<Ticket>) {
        let until = self.now.map(|now| now + PATIENCE);
        self.called = Some(Called { ticket, until });
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.called = None;
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{Dir, Side};

    use super::*;

    fn stream(index: u64) -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, index)
    }

    #[test]
    fn who_has_waited_longest_is_called_first_and_holds_back_the_others() {
        let mut line = WriteLine::default();
        assert!(!line.holds_back(None));
        let [first, second] = [(); 2].map(|()| line.ticket(Kind::Transfer));
        line.join(second, stream(2));
        assert_eq!(line.next(), Some((second, stream(2))));
        line.call(second);
        assert_eq!(line.next(), None, "it is called");
        // The older one comes later.
        line.join(first, stream(1));
        assert_eq!(line.next(), Some((first, stream(1))));
        line.call(first);
        assert!(line.holds_back(None) && line.holds_back(Some(second)));
        assert!(!line.holds_back(Some(first)));
        line.leave(first);
        assert_eq!(line.next(), Some((second, stream(2))));
    }

    #[test]
    fn who_does_not_come_is_passed_over() {
        let mut line = WriteLine::default();
        let now = crate::net::clock::now();
        let [first, second] = [(); 2].map(|()| line.ticket(Kind::Transfer));
        line.join(first, stream(1));
        line.join(second, stream(2));
        line.begin_turn(now);
        line.call(first);
        let until = line.next_call().unwrap();
        line.begin_turn(until - Duration::from_nanos(1));
        assert_eq!(line.next(), None);
        line.begin_turn(until);
        assert_eq!(line.next_call(), None);
        assert_eq!(line.next(), Some((second, stream(2))));
        line.call(second);
        // It comes late, and is first again.
        line.join(first, stream(1));
        assert!(!line.holds_back(Some(first)));
        assert_eq!(line.next(), Some((first, stream(1))));
    }

    #[test]
    fn message_goes_before_transfers() {
        let mut line = WriteLine::default();
        let transfer = line.ticket(Kind::Transfer);
        line.join(transfer, stream(1));
        line.call(transfer);
        let message = line.ticket(Kind::Message);
        line.join(message, stream(2));
        assert_eq!(line.next(), Some((message, stream(2))));
        line.leave(message);
        assert_eq!(line.next(), None, "the transfer is still the one to write");
        // It comes while another message is before it, and waits.
        let message = line.ticket(Kind::Message);
        line.join(message, stream(2));
        assert!(line.holds_back(Some(transfer)));
        line.join(transfer, stream(1));
        line.leave(message);
        assert_eq!(
            line.next(),
            Some((transfer, stream(1))),
            "it is called again"
        );
    }

    #[test]
    fn others_do_not_try_when_the_window_is_used_up() {
        let mut line = WriteLine::default();
        let now = crate::net::clock::now();
        line.begin_turn(now);
        let tickets = [(); 4].map(|()| line.ticket(Kind::Transfer));
        for (index, &ticket) in (0..).zip(&tickets) {
            line.join(ticket, stream(index));
        }
        for ticket in &tickets[..2] {
            assert!(line.next().is_some());
            line.call(*ticket);
            line.leave(*ticket);
            line.note_written(true);
        }
        assert_eq!(line.next(), None);
        assert!(line.holds_back(None));
        let mut later = line;
        later.begin_turn(now + PATIENCE);
        assert_eq!(later.next(), Some((tickets[2], stream(2))), "in time");
        later.note_written(true);
        later.note_written(true);
        assert_eq!(later.next(), None);
        later.open();
        assert_eq!(later.next(), Some((tickets[2], stream(2))), "when it opens");
    }
}
