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

/// With more pieces than this, quinn-proto copies all but the largest into one buffer.
const MOST_UNCOPIED: u16 = 2048;

/// A piece that does not fill its packet cuts up to two that do, so that these are copied as well.
const CUT_BY_ONE: u32 = 2;

/// Everything is taken out when this much more is counted than may be left.
const INEXACT_BYTES: u32 = 512 * 1024;

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
    /// Whether a piece did not begin where the one before it ended.
    has_holes: bool,
    /// Whether all pieces may have been copied.
    may_be_copied: bool,
    /// Bytes that were taken of the piece that is read.
    taken: u32,
}

/// How much of its packet a frame fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// All of it, and it begins where the last such frame ended.
    Next,
    /// All of it.
    Full,
    Part,
}

impl Backlog {
    /// Notes a frame. If the stream has `gaps`, the frame may fill several of them, and so become
    /// several pieces: what lies between the gaps has arrived before.
    ///
    /// Nothing that it has came in another frame that fills its packet, if it does.
    pub(super) fn add(&mut self, arrival: Arrival, gaps: u32, share: Share) {
        let is_crumb = self.is_news && self.last == arrival.number;
        self.is_news = true;
        self.last = arrival.number;
        if is_crumb {
            self.crumbs = self.crumbs.saturating_add(1);
            self.frames = self.frames.saturating_add(1);
            self.note_hole();
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
        if share == Share::Part {
            self.add_loose(arrival, parts);
        }
        if share != Share::Next {
            self.note_hole();
        }
        self.may_be_copied |= self.frames > MOST_UNCOPIED;
    }

    fn note_hole(&mut self) {
        self.held = self.held.saturating_add(self.kept_by_piece());
        self.has_holes = true;
    }

    /// quinn-proto counts the memory of a datagram for each piece.
    fn add_loose(&mut self, arrival: Arrival, parts: u16) {
        let pieces = 1 + CUT_BY_ONE + u32::from(parts);
        let loose = arrival.held.saturating_mul(pieces);
        self.loose = self.loose.saturating_add(loose);
    }

    /// Notes that `bytes` bytes were taken, whether that was all of what a piece had left, and
    /// whether a piece is one frame at most.
    ///
    /// Their memory is freed only when everything in it was taken, and quinn-proto does not tell
    /// what else is there. So this subtracts only `bytes`, but no piece keeps more than a datagram,
    /// unless pieces were merged. Duplicates stay counted, because quinn-proto drops them and does
    /// not tell that either; [`clear`](Self::clear) subtracts the rest.
    pub(super) fn took(&mut self, bytes: usize, is_whole_piece: bool, is_ordered: bool) {
        if is_whole_piece && is_ordered {
            self.frames = self.frames.saturating_sub(1);
        }
        let held = self.held.saturating_sub(bytes as u32).min(self.most_left());
        self.held = held.max(self.merged().min(self.held));
        self.taken = if is_whole_piece {
            0
        } else {
            self.taken.saturating_add(bytes as u32)
        };
        self.crumbs = u16::from(self.crumbs).min(self.frames) as u8;
    }

    /// The memory of the pieces that are left, if each keeps no more than a datagram.
    fn most_left(&self) -> u32 {
        u32::from(self.pieces()).saturating_mul(self.largest)
    }

    /// What was taken of a piece that keeps all that it had, because it was copied.
    fn kept_by_piece(&self) -> u32 {
        if self.may_be_copied && !self.has_holes {
            self.taken
        } else {
            0
        }
    }

    /// What counts until nothing is left, whatever is taken.
    fn merged(&self) -> u32 {
        if self.may_be_copied && self.has_holes {
            u32::MAX
        } else if self.loose > UNMERGED_BYTES {
            self.loose
        } else {
            0
        }
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
        self.merged() > 0
    }

    /// Whether more is counted than may be left of the pieces, by far.
    pub(super) fn is_inexact(&self) -> bool {
        self.may_be_merged() && self.held > self.most_left().saturating_add(INEXACT_BYTES)
    }

    /// Whether all pieces fill their packets, or nothing is left of the others.
    pub(super) fn is_tight(&self) -> bool {
        self.loose == 0
    }

    /// Whether many of the pieces are small.
    pub(super) fn is_crumbled(&self) -> bool {
        self.crumbs > PILE
    }

    /// Bytes of memory that quinn-proto holds.
    pub(super) fn held(&self) -> u64 {
        u64::from(self.held) + u64::from(self.kept_by_piece())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: u32 = 1452;
    const DATA: usize = 1400;

    fn backlog(frames: u32, share: Share) -> Backlog {
        let mut backlog = Backlog::default();
        for number in 0..frames {
            backlog.add(Arrival { number, held: HELD }, 0, share);
        }
        backlog
    }

    #[test]
    fn what_was_read_is_subtracted_while_nothing_was_copied() {
        let mut backlog = backlog(2048, Share::Next);
        for left in (1900..2048).rev() {
            backlog.took(DATA, true, true);
            let most = u64::from(left * HELD) + u64::from(HELD) * 100;
            assert!(backlog.held() <= most, "{left}");
        }
        assert!(!backlog.may_be_merged());
    }

    #[test]
    fn piece_that_was_copied_counts_until_all_of_it_is_read() {
        let mut backlog = backlog(2049, Share::Next);
        let before = backlog.held();
        backlog.took(1_000_000, false, true);
        assert_eq!(backlog.held(), before);
        backlog.took(500_000, false, true);
        assert_eq!(backlog.held(), before);
        backlog.took(500_000, true, true);
        assert_eq!(backlog.held(), before - 2_000_000);
    }

    #[test]
    fn all_that_was_copied_counts_if_there_were_holes() {
        let mut late = backlog(2049, Share::Next);
        late.took(1_000_000, false, true);
        let before = late.held();
        let next = Arrival {
            number: 1 << 20,
            held: HELD,
        };
        late.add(next, 0, Share::Full);
        assert_eq!(late.held(), before + u64::from(HELD));
        for mut backlog in [backlog(2049, Share::Full), late] {
            let before = backlog.held();
            backlog.took(1_000_000, true, true);
            assert_eq!(backlog.held(), before);
            assert!(backlog.may_be_merged());
            backlog.clear();
            assert_eq!((backlog.held(), backlog.may_be_merged()), (0, false));
        }
    }

    #[test]
    fn pieces_that_do_not_fill_their_packets_count_three_times() {
        for (frames, may_be_merged) in [(6, false), (7, true)] {
            let mut backlog = backlog(frames, Share::Part);
            assert_eq!(backlog.may_be_merged(), may_be_merged, "{frames}");
            let before = backlog.held();
            backlog.took(DATA, true, true);
            let kept = backlog.held() == before;
            assert_eq!(kept, may_be_merged, "{frames}");
        }
    }
}
