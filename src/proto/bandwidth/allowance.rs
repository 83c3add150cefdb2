//! What one connection may move in one direction, and which of its streams.

use std::{
    mem,
    time::{Duration, Instant},
};

use libp2p_identity::PeerId;
use quinn_proto::StreamId;

use super::{Limits, Lines, Places};

/// What one connection may move in one direction.
///
/// The application reads and writes without knowing the time. It uses what is granted. When that is
/// used up, the connection queues up for more in its next turn, and streams are held until its turn
/// in the line comes.
///
/// Each stream may move one datagram's worth in each period although nothing is left. The
/// connection owes it, and pays before it is granted anything new. So a ping passes beside a
/// transfer that takes all, and streams that take all share it.
#[derive(Debug, Default)]
pub(in crate::proto) struct Allowance {
    /// What is left, or owed if negative.
    bytes: i64,
    /// Each grant begins another period.
    period: u32,
    /// For how many bytes the connection has queued up, and where.
    queued: Option<(u64, Places)>,
    lines: Lines,
    /// When it is the connection's turn, or time to look again.
    turn_at: Option<Instant>,
    /// Streams that wait.
    held: Vec<StreamId>,
}

/// What a stream has used of its connection's allowance.
#[derive(Debug, Default)]
pub(in crate::proto) struct StreamShare {
    /// The last period in which it has moved something although nothing was left.
    borrowed_in: Option<u32>,
    is_held: bool,
}

/// What a stream may move in a period although nothing is left.
const DATAGRAM_BYTES: usize = 1_200;

/// What is granted at a time: that which passes in this time, because timers have a resolution of a
/// millisecond, and pings wait for no longer.
const GRANT: Duration = Duration::from_millis(2);

/// Who waits longer looks whether the limits have changed.
pub(in crate::proto) const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Allowance {
    /// How many of these bytes the stream may move now; 0 means that it has to wait.
    pub(in crate::proto) fn permit(
        &self,
        limits: &Limits,
        share: &StreamShare,
        bytes: usize,
    ) -> usize {
        if limits.are_off() {
            return bytes;
        }
        match usize::try_from(self.bytes) {
            Ok(left @ 1..) => bytes.min(left),
            _ if share.borrowed_in != Some(self.period) => bytes.min(DATAGRAM_BYTES),
            _ => 0,
        }
    }

    /// Notes that the stream has moved bytes. Returns whether the connection needs a turn to be
    /// granted more.
    pub(in crate::proto) fn charge(
        &mut self,
        limits: &Limits,
        share: &mut StreamShare,
        bytes: usize,
    ) -> bool {
        if limits.are_off() || bytes == 0 {
            return false;
        }
        if self.bytes <= 0 {
            share.borrowed_in = Some(self.period);
        }
        self.bytes = self.bytes.saturating_sub_unsigned(bytes as u64);
        self.needs_more()
    }

    /// Makes the stream wait for the next period. Returns whether the connection needs a turn to be
    /// granted more.
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
        self.needs_more()
    }

    /// Grants what is due. Returns the streams that need not wait any more; their
    /// [shares](StreamShare) have to be [released](StreamShare::release).
    pub(in crate::proto) fn grant(
        &mut self,
        limits: &Limits,
        peer_id: Option<&PeerId>,
        now: Instant,
    ) -> Vec<StreamId> {
        if limits.are_off() {
            return self.end();
        }
        self.turn_at = None;
        let before = self.bytes;
        while self.bytes <= 0 {
            if self.queued.is_none() {
                let bytes = |rate| bytes_in(GRANT, rate).max(DATAGRAM_BYTES as u64);
                self.queued = self.lines.queue_up(limits, peer_id, now, bytes);
            }
            let Some((bytes, places)) = self.queued else {
                return self.end();
            };
            let turn_at = self.lines.turn_at(limits, places, now);
            if turn_at > now {
                self.turn_at = Some(turn_at.min(now + LOOK_AGAIN));
                return Vec::new();
            }
            self.queued = None;
            self.bytes = self.bytes.saturating_add_unsigned(bytes);
        }
        if before <= 0 {
            self.period = self.period.wrapping_add(1);
        }
        let mut held = mem::take(&mut self.held);
        if !held.is_empty() {
            // The first one gets most of what is granted, so another one is first each time.
            let first = self.period as usize % held.len();
            held.rotate_left(first);
        }
        held
    }

    /// When to [grant](Self::grant) more.
    pub(in crate::proto) fn next_grant(&self) -> Option<Instant> {
        self.turn_at
    }

    /// There is no limit.
    fn end(&mut self) -> Vec<StreamId> {
        let held = mem::take(&mut self.held);
        if self.period > 0 || self.bytes != 0 || self.queued.is_some() {
            *self = Self {
                period: self.period,
                ..Self::default()
            };
        }
        held
    }

    fn needs_more(&self) -> bool {
        self.bytes <= 0 && self.turn_at.is_none()
    }
}

impl StreamShare {
    pub(in crate::proto) fn release(&mut self) {
        self.is_held = false;
    }
}

fn bytes_in(time: Duration, rate: u64) -> u64 {
    (rate as f64 * time.as_secs_f64()) as u64
}
