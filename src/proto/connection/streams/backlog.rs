//! Upper bounds of what quinn-proto holds of a stream, because it does not tell.

/// The pieces of a stream are taken out of quinn-proto when there are more than this, or more than
/// a [few](super::places) if it has no room for a pile. Two turns bring this many.
///
/// An application that keeps up reads earlier, which saves a copy. More pieces would cost time,
/// because the time for each frame grows with the number of small pieces that quinn-proto has.
pub(super) const PILE: u8 = 128;

/// quinn-proto copies pieces of a stream into one buffer, but those that fill their packets, when
/// their datagrams take 32 KiB and half again as much memory as the stream has data. A fifth of the
/// data of pieces that fill their packets is part of that. So this is the least that the others
/// take then.
const UNMERGED_BYTES: u32 = 28_000;

/// A piece that does not fill its packet cuts up to two that do, so that these are copied as well.
const CUT_BY_ONE: u32 = 2;

/// A datagram that has just arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    /// A number that differs from that of the datagram before.
    pub(super) number: u32,
    /// Bytes of memory that it is in. quinn-proto keeps all of them as long as it keeps any part of
    /// the datagram.
    pub(super) held: u32,
}

/// What has arrived of one stream and was not taken out of quinn-proto.
///
/// Each stream has one of these, so the counters are small. A counter stays at its largest value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    held: u32,
    /// Bytes of memory of the largest datagram with a piece.
    largest: u32,
    /// The number of the datagram with the last frame.
    last: u32,
    frames: u16,
    /// Into how many more pieces these may be cut, because what lies between gaps was taken before.
    parts: u16,
    /// Frames that shared their datagram with an earlier one of the stream.
    crumbs: u8,
    /// Whether a frame has arrived since quinn-proto last had nothing to hand out.
    is_news: bool,
    /// Memory of the datagrams of pieces that may be copied into one buffer, of which the last of
    /// them keeps all.
    loose: u32,
}

impl Backlog {
    /// Notes a frame. If the stream has `gaps`, the frame may fill several of them, and so become
    /// several pieces: what lies between the gaps has arrived before.
    ///
    /// `is_full` if the frame fills its packet, and nothing that it has came in another one that
    /// does.
    pub(super) fn add(&mut self, arrival: Arrival, gaps: u32, is_full: bool) {
        let is_crumb = self.is_news && self.last == arrival.number;
        self.is_news = true;
        self.last = arrival.number;
        if is_crumb {
            self.crumbs = self.crumbs.saturating_add(1);
            self.frames = self.frames.saturating_add(1);
            self.add_loose(arrival, 0);
            return;
        }
        self.held = self.held.saturating_add(arrival.held);
        self.largest = self.largest.max(arrival.held);
        // All frames of a datagram together have at most as many bytes as the datagram, and a piece
        // and what separates it from the next one have at least a byte each.
        let parts = gaps.min(arrival.held / 2);
        let parts = u16::try_from(parts).unwrap_or(u16::MAX);
        self.frames = self.frames.saturating_add(1);
        self.parts = self.parts.saturating_add(parts);
        if !is_full {
            self.add_loose(arrival, parts);
        }
    }

    /// quinn-proto counts the memory of a datagram for each piece.
    fn add_loose(&mut self, arrival: Arrival, parts: u16) {
        let pieces = 1 + CUT_BY_ONE + u32::from(parts);
        let loose = arrival.held.saturating_mul(pieces);
        self.loose = self.loose.saturating_add(loose);
    }

    /// Notes that `bytes` bytes were taken, and whether that was all of what a frame had left.
    ///
    /// Their memory is freed only when everything in it was taken, and quinn-proto does not tell
    /// what else is there. So this subtracts only `bytes`, but no piece keeps more than a datagram,
    /// unless pieces were merged. Duplicates stay counted, because quinn-proto drops them and does
    /// not tell that either; [`clear`](Self::clear) subtracts the rest.
    pub(super) fn took(&mut self, bytes: usize, is_whole_frame: bool) {
        if is_whole_frame {
            self.frames = self.frames.saturating_sub(1);
        }
        let kept = u32::from(self.pieces()).saturating_mul(self.largest);
        let merged = if self.may_be_merged() { self.loose } else { 0 };
        let held = self.held.saturating_sub(bytes as u32).min(kept);
        self.held = held.max(merged.min(self.held));
        self.crumbs = u16::from(self.crumbs).min(self.frames) as u8;
    }

    /// Notes that nothing is left according to our own count. quinn-proto has not reported yet that
    /// there is nothing to read.
    pub(super) fn empty(&mut self) {
        *self = Self {
            last: self.last,
            is_news: self.is_news,
            ..Self::default()
        };
    }

    /// Notes that nothing is left, as quinn-proto has reported.
    pub(super) fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// Notes that nothing can be read until another frame arrives.
    pub(super) fn block(&mut self) {
        self.is_news = false;
    }

    /// Whether there may be something to read.
    pub(super) fn is_news(&self) -> bool {
        self.is_news
    }

    /// Whether quinn-proto certainly holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Frames of which something may be left.
    pub(super) fn frames(&self) -> u32 {
        self.frames.into()
    }

    /// The most pieces that there may be if the stream is read in order.
    pub(super) fn pieces(&self) -> u16 {
        self.frames.saturating_add(self.parts)
    }

    /// The most that there may be if it is read in any order: a frame is also cut at each run of
    /// bytes that lies behind a gap, and each run began with a frame.
    pub(super) fn unordered_pieces(&self) -> u32 {
        2 * u32::from(self.frames) + u32::from(self.parts)
    }

    /// Whether pieces may have been copied into one buffer.
    pub(super) fn may_be_merged(&self) -> bool {
        self.loose > UNMERGED_BYTES
    }

    /// Whether many of the pieces are small.
    pub(super) fn is_crumbled(&self) -> bool {
        self.crumbs > PILE
    }

    /// Bytes of memory that quinn-proto holds.
    pub(super) fn held(&self) -> u64 {
        self.held.into()
    }
}
