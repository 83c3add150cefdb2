//! What one connection may move in one direction, and which of its streams.

use std::{
    mem,
    time::{Duration, Instant},
};

use libp2p_identity::PeerId;
use quinn_proto::StreamId;

use super::{Epoch, Limits, Lines, Places, line::FASTEST};

/// What one connection may move in one direction.
///
/// The application reads and writes without knowing the time. It uses what is granted. When that is
/// used up, the connection queues up for more in its next turn, and streams are held until its turn
/// in the line comes.
///
/// A period lasts from one release of the held streams to the next. In it each stream gets an equal
/// part, and one datagram's worth although nothing is left. The connection owes that, and pays
/// before it is granted anything new. So a ping passes beside a transfer that takes all.
#[derive(Debug, Default)]
pub(in crate::proto) struct Allowance {
    /// The limits that all this is about.
    epoch: Epoch,
    /// What is left, or owed if negative.
    bytes: i64,
    period: u32,
    /// What a stream may move in this period.
    part: usize,
    /// What the connection may owe in this period.
    most_owed: i64,
    /// For how many bytes the connection has queued up, and where.
    queued: Option<(u64, Places)>,
    lines: Lines,
    /// When it is the connection's turn, or time to look again.
    turn_at: Option<Instant>,
    /// Streams that wait.
    held: Vec<StreamId>,
}

/// What a stream has moved of its connection's allowance.
#[derive(Debug, Default)]
pub(in crate::proto) struct StreamShare {
    period: u32,
    /// In that period.
    moved: usize,
    /// Whether it has got one more byte in that period.
    has_looked: bool,
    is_held: bool,
}

/// What a stream may move in a period in any case.
const DATAGRAM_BYTES: usize = 1_200;

/// How many streams may do so that did not wait in the period before. Streams that come and go must
/// not make a debt that grows.
const MOST_NEW_STREAMS: usize = 16;

/// What is granted at a time, while streams wait: that which passes in this time. Timers have a
/// resolution of a millisecond.
const GRANT: Duration = Duration::from_millis(2);

/// Who waits longer looks whether the limits have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Allowance {
    /// How many of these bytes, at least one, the stream may move now; 0 means that it has to wait.
    pub(in crate::proto) fn permit(
        &mut self,
        epoch: Epoch,
        share: &mut StreamShare,
        bytes: usize,
    ) -> usize {
        self.begin(epoch);
        share.begin(self.period);
        let of_datagram = DATAGRAM_BYTES.saturating_sub(share.moved);
        let left = usize::try_from(self.bytes.max(0)).unwrap_or(usize::MAX);
        let lent = if self.bytes > -self.most_owed {
            of_datagram
        } else {
            0
        };
        let of_part = self.part.max(DATAGRAM_BYTES).saturating_sub(share.moved);
        match of_part.min(left.max(lent)) {
            // One more byte, so that the end of a stream need not wait for the next period.
            0 if !mem::replace(&mut share.has_looked, true) => 1,
            most => bytes.min(most),
        }
    }

    /// Notes that the stream has moved bytes. Returns whether the connection needs a turn to be
    /// granted more.
    pub(in crate::proto) fn charge(
        &mut self,
        epoch: Epoch,
        share: &mut StreamShare,
        bytes: usize,
    ) -> bool {
        self.begin(epoch);
        share.begin(self.period);
        share.moved = share.moved.saturating_add(bytes);
        self.bytes = self.bytes.saturating_sub_unsigned(bytes as u64);
        self.bytes <= 0 && self.turn_at.is_none()
    }

    /// Makes the stream wait for the next period. Returns whether the connection needs a turn to
    /// be granted more.
    pub(in crate::proto) fn hold(
        &mut self,
        limits: &Limits,
        id: StreamId,
        share: &mut StreamShare,
    ) -> bool {
        if !mem::replace(&mut share.is_held, true) {
            limits.note_wait();
            self.held.push(id);
        }
        self.turn_at.is_none()
    }

    /// Forgets a stream that is gone.
    pub(in crate::proto) fn forget(&mut self, id: StreamId, share: &StreamShare) {
        if share.is_held {
            self.held.retain(|&held| held != id);
        }
    }

    /// Grants what is due. Returns the streams that need not wait any more; their
    /// [shares](StreamShare) have to be [released](StreamShare::release).
    pub(in crate::proto) fn grant(
        &mut self,
        limits: &Limits,
        peer_id: Option<&PeerId>,
        now: Instant,
    ) -> Vec<StreamId> {
        let epoch = limits.epoch();
        self.begin(epoch);
        self.turn_at = None;
        if epoch.is_off() {
            return self.release();
        }
        let before = self.bytes;
        while self.bytes <= 0 {
            if self.queued.is_none() {
                let (owed, has_held) = (self.bytes.unsigned_abs(), !self.held.is_empty());
                let wanted = |rate| wanted(rate, owed, has_held);
                self.queued = (self.lines).queue_up(limits, epoch, peer_id, now, wanted);
            }
            let Some((bytes, places)) = self.queued else {
                // The limits have changed in this moment.
                self.turn_at = Some(now + GRANT);
                return Vec::new();
            };
            let turn_at = self.lines.turn_at(limits, places, now);
            if turn_at > now {
                self.turn_at = Some(turn_at.min(now + LOOK_AGAIN));
                return Vec::new();
            }
            self.queued = None;
            self.bytes = self.bytes.saturating_add_unsigned(bytes);
        }
        if before > 0 && self.held.is_empty() {
            return Vec::new();
        }
        self.release()
    }

    /// When to [grant](Self::grant) more.
    pub(in crate::proto) fn next_grant(&self) -> Option<Instant> {
        self.turn_at
    }

    /// Begins anew if the limits have changed. What is owed under a limit stays owed under the
    /// next, so that limits that change all the time are limits, too.
    fn begin(&mut self, epoch: Epoch) {
        if self.epoch != epoch {
            let is_owed = !self.epoch.is_off() && !epoch.is_off();
            *self = Self {
                epoch,
                bytes: if is_owed { self.bytes.min(0) } else { 0 },
                period: self.period.wrapping_add(1),
                most_owed: most_owed(0),
                turn_at: self.turn_at,
                held: mem::take(&mut self.held),
                ..Self::default()
            };
        }
    }

    /// Begins a period.
    fn release(&mut self) -> Vec<StreamId> {
        let held = mem::take(&mut self.held);
        self.period = self.period.wrapping_add(1);
        let bytes = usize::try_from(self.bytes.max(0)).unwrap_or(usize::MAX);
        self.part = bytes / held.len().max(1);
        self.most_owed = most_owed(held.len());
        held
    }
}

impl StreamShare {
    pub(in crate::proto) fn release(&mut self) {
        self.is_held = false;
    }

    fn begin(&mut self, period: u32) {
        if self.period != period {
            *self = Self {
                period,
                is_held: self.is_held,
                ..Self::default()
            };
        }
    }
}

/// For how much to queue up at this rate. A connection that has something to say now and then takes
/// no more than that.
fn wanted(rate: u64, owed: u64, has_held: bool) -> u64 {
    let datagram = DATAGRAM_BYTES as u64;
    let rate = rate.min(FASTEST);
    let grant = ((rate as f64 * GRANT.as_secs_f64()) as u64).max(datagram);
    if has_held {
        grant
    } else {
        grant.min(owed + datagram)
    }
}

/// What a connection may owe in a period, before which this number of streams have waited.
fn most_owed(held: usize) -> i64 {
    i64::try_from((held + MOST_NEW_STREAMS) * DATAGRAM_BYTES).unwrap_or(i64::MAX)
}
