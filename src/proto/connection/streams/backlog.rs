//! Upper bounds of what quinn-proto holds of a stream, because it does not tell.

use std::mem;

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
const MOST_UNCOPIED: u32 = 2048;

/// A piece that does not fill its packet cuts up to two that do, so that these are copied as well.
const CUT_BY_ONE: u32 = 2;

/// Whether a piece is short beside the longest.
///
/// When quinn-proto copies pieces, it leaves alone each that has a 1024th of all bytes or more. Of
/// 2049 pieces there is none if at most 512 are short.
const fn is_short(bytes: u16, longest: u16) -> bool {
    (bytes as u32) < longest as u32 * 2 / 3
}

/// After as many frames, what was noted of the lengths of those before counts half. The last 2048
/// are in the last three lots, of which the oldest counts a quarter.
///
/// So what was read long ago does not hide what is left: of 2048 frames with half of the bytes that
/// the longest would make, and all before them as long as that, the mean is three quarters of it at
/// most.
const LOT: u16 = 1024;

/// Most short ones, as they are counted, so that at most 512 of the last 2048 are.
const MOST_SHORT: u16 = 512 / 4;

/// Uneven pieces are taken out when there are more than this. quinn-proto does not copy large ones,
/// so small ones between them stay apart, and it ends the connection if more than 1024 are left.
/// One more datagram may bring some dozens before we know of it.
const MOST_UNEVEN: u32 = 896;

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
    /// Datagrams with more than one frame of the stream. Each keeps all of its memory for any of
    /// them.
    shared: u16,
    /// Whether a frame may have been cut by what came before it. The part that is read last keeps
    /// the datagram. Frames that are cut at one place lie in each other, so there is one such part.
    has_cut: bool,
    /// Frames that shared their datagram with an earlier one of the stream.
    crumbs: u8,
    /// Whether that holds for the last one.
    is_crumb: bool,
    /// Whether a frame has arrived since quinn-proto last had nothing to hand out.
    is_news: bool,
    /// Whether all pieces may have been copied, and those in one buffer may be several.
    may_be_copied: bool,
    has_several: bool,
    /// Memory of the datagrams of pieces that may be copied into one buffer, of which the last of
    /// them keeps all.
    loose: u32,
    /// Bytes that were taken of the piece that is read.
    taken: u32,
    /// How many bytes those frames have that fill their packets, at least and at most, but for
    /// short ones.
    shortest: u16,
    longest: u16,
    /// The next three are halved after each [`LOT`]. Short ones among the last frames, and those
    /// that do not fill their packets.
    short: u16,
    /// How many frames there were, and how many bytes those of them have that fill their packets.
    all: u16,
    full_bytes: u32,
}

/// How much of its packet a frame fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// All of it, with this number of bytes, and it begins where the last such frame ended.
    Next(u16),
    /// All of it, with this number of bytes.
    Full(u16),
    Part,
}

impl Share {
    fn full_bytes(self) -> Option<u16> {
        match self {
            Self::Next(bytes) | Self::Full(bytes) => Some(bytes),
            Self::Part => None,
        }
    }
}

impl Backlog {
    /// Notes a frame. If the stream has `gaps`, the frame may fill several of them, and so become
    /// several pieces: what lies between the gaps has arrived before.
    ///
    /// Nothing that it has came in another frame that fills its packet, if it does. If all have
    /// followed each other, `left` bytes are left of them.
    pub(super) fn add(
        &mut self,
        arrival: Arrival,
        gaps: u32,
        share: Share,
        left: u64,
        is_unordered: bool,
    ) {
        let is_crumb = self.is_news && self.last == arrival.number;
        if is_crumb && !self.is_crumb {
            self.shared = self.shared.saturating_add(1);
        }
        self.is_crumb = is_crumb;
        self.is_news = true;
        self.last = arrival.number;
        let mut parts = 0;
        if is_crumb {
            self.crumbs = self.crumbs.saturating_add(1);
        } else {
            self.held = self.held.saturating_add(arrival.held);
            self.largest = self.largest.max(arrival.held);
            // All frames of a datagram together have at most as many bytes as the datagram, and a
            // piece and what separates it from the next one have a byte or more each.
            parts = u16::try_from(gaps.min(arrival.held / 2)).unwrap_or(u16::MAX);
        }
        if is_crumb || share == Share::Part {
            // What came before cuts it as well if the stream is read in any order.
            let runs = if is_unordered { self.frames } else { 0 };
            let cuts = u32::from(runs).min(arrival.held / 2);
            self.add_loose(arrival, u32::from(parts) + cuts);
            self.has_cut |= cuts + u32::from(parts) > 0;
        }
        self.note_length(share.full_bytes().filter(|_| !is_crumb));
        let is_next = !is_crumb && matches!(share, Share::Next(_));
        if !is_next || !self.has_few_short() || self.is_copied_again(left) {
            self.note_several();
        }
        self.frames = self.frames.saturating_add(1);
        self.parts = self.parts.saturating_add(parts);
        self.may_be_copied |= self.most_pieces(is_unordered) > MOST_UNCOPIED;
    }

    fn note_several(&mut self) {
        if self.may_be_copied && !self.has_several {
            // From now on nothing is subtracted.
            self.held = self.held.saturating_add(mem::take(&mut self.taken));
        }
        self.has_several = true;
    }

    /// Notes how long a frame is, if it fills its packet.
    fn note_length(&mut self, bytes: Option<u16>) {
        if self.all == 2 * LOT {
            self.all = LOT;
            self.full_bytes /= 2;
            self.short = self.short.div_ceil(2);
        }
        self.all += 1;
        let Some(bytes) = bytes else {
            self.short = self.short.saturating_add(1);
            return;
        };
        self.full_bytes += u32::from(bytes);
        if bytes > self.longest {
            self.longest = bytes;
            if is_short(self.shortest, bytes) {
                // All before it are.
                self.short = self.short.saturating_add(self.frames);
                self.shortest = bytes;
            }
        } else if is_short(bytes, self.longest) {
            self.short = self.short.saturating_add(1);
        } else {
            self.shortest = self.shortest.min(bytes);
        }
    }

    /// Whether no piece is so large beside the others that quinn-proto does not copy it with them,
    /// if there are [`MOST_UNCOPIED`].
    fn has_few_short(&self) -> bool {
        self.short <= MOST_SHORT
    }

    /// Whether many pieces are much shorter than the longest, so that quinn-proto might not copy
    /// long ones. With [`MOST_UNCOPIED`], it copies those that have less than twice the mean; this
    /// keeps a third of that in reserve.
    fn is_uneven(&self) -> bool {
        3 * u64::from(self.longest) * u64::from(self.all) > 4 * u64::from(self.full_bytes)
    }

    /// Whether quinn-proto may copy them before there are as many, because their datagrams have
    /// half again as much memory as they have data. Of copied frames all but one may only be
    /// counted; but those that fill their packets have no more than `left` bytes.
    fn may_be_copied_early(&self, left: u64) -> bool {
        let data = (u64::from(self.frames) * u64::from(self.shortest)).min(left);
        2 * u64::from(self.loose) > 3 * data
    }

    /// Whether quinn-proto may copy what is left of a copy, and into several pieces: what was taken
    /// of it is over-allocation. A fifth of what is left may be so as well, and the limit is half
    /// again as much as what is left.
    pub(super) fn is_copied_again(&self, left: u64) -> bool {
        self.may_be_copied && u64::from(self.taken) * 10 > left.saturating_mul(13)
    }

    /// quinn-proto counts the memory of a datagram for each piece.
    fn add_loose(&mut self, arrival: Arrival, parts: u32) {
        let loose = arrival.held.saturating_mul(1 + CUT_BY_ONE + parts);
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
        let merged = self.merged();
        if merged == 0 {
            self.held = self.held.saturating_sub(bytes as u32);
        }
        self.held = self.held.min(self.most_left().saturating_add(merged));
        self.taken = if is_whole_piece {
            0
        } else {
            self.taken.saturating_add(bytes as u32)
        };
        self.crumbs = u16::from(self.crumbs).min(self.frames) as u8;
    }

    /// The memory of the pieces that are left, if each keeps no more than a datagram.
    fn most_left(&self) -> u32 {
        u32::from(self.frames.saturating_add(self.parts)).saturating_mul(self.largest)
    }

    /// What was taken of the piece that is read, which keeps it: up to a datagram, or all if it may
    /// have been copied.
    fn kept_by_piece(&self) -> u32 {
        if self.may_be_copied && !self.has_several {
            self.taken
        } else {
            self.taken.min(self.largest)
        }
    }

    /// What was taken of datagrams that another frame, or another part of it, may keep, at most.
    fn kept_by_crumbs(&self) -> u64 {
        let datagrams = self.shared.saturating_add(self.has_cut.into());
        u64::from(datagrams.min(self.frames)) * u64::from(self.largest)
    }

    /// What may be kept beside a datagram for each piece, until nothing is left, because pieces may
    /// have been copied into one buffer.
    fn merged(&self) -> u32 {
        if self.may_be_copied && self.has_several {
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

    /// The most pieces that quinn-proto may have.
    ///
    /// If the stream is read in any order, a frame is also cut at each run of bytes that lies
    /// behind a gap, and each run began with a frame.
    pub(super) fn most_pieces(&self, is_unordered: bool) -> u32 {
        let frames = u32::from(self.frames);
        let runs = if is_unordered { frames } else { 0 };
        frames + runs + u32::from(self.parts)
    }

    /// Whether pieces may have been copied into one buffer.
    pub(super) fn may_be_merged(&self) -> bool {
        self.merged() > 0
    }

    /// Whether what is counted may be more than what is left of the pieces.
    pub(super) fn may_overcount(&self) -> bool {
        !self.is_news || self.may_be_copied || !self.is_tight()
    }

    /// Whether more is counted than may be left of the pieces, by far.
    pub(super) fn is_inexact(&self) -> bool {
        self.may_be_merged() && self.held > self.most_left().saturating_add(INEXACT_BYTES)
    }

    /// Whether all pieces fill their packets, or nothing is left of the others.
    pub(super) fn is_tight(&self) -> bool {
        self.loose == 0
    }

    /// Whether many of the pieces are small, or quinn-proto might end the connection because it
    /// keeps too many of them apart. `left` is as for [`add`](Self::add).
    pub(super) fn is_crumbled(&self, is_unordered: bool, left: u64) -> bool {
        let may_stay_apart = self.is_uneven() || self.may_be_copied_early(left);
        self.crumbs > PILE || (may_stay_apart && self.most_pieces(is_unordered) > MOST_UNEVEN)
    }

    /// Bytes of memory that quinn-proto holds.
    pub(super) fn held(&self) -> u64 {
        u64::from(self.held) + u64::from(self.kept_by_piece()) + self.kept_by_crumbs()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELD: u32 = 1452;
    const DATA: usize = 1400;

    /// Bytes left of a copy, of which quinn-proto makes no second one.
    const MUCH: u64 = u64::MAX;

    fn backlog(frames: u32, share: Share) -> Backlog {
        backlog_of((0..frames).map(|_| share))
    }

    fn backlog_of(shares: impl Iterator<Item = Share>) -> Backlog {
        let mut backlog = Backlog::default();
        for (number, share) in (0..).zip(shares) {
            backlog.add(Arrival { number, held: HELD }, 0, share, MUCH, false);
        }
        backlog
    }

    #[test]
    fn what_was_read_is_subtracted_while_nothing_was_copied() {
        let mut backlog = backlog(2048, Share::Next(DATA as u16));
        for left in (1900..2048).rev() {
            backlog.took(DATA, true, true);
            let most = u64::from(left * HELD) + u64::from(HELD) * 100;
            assert!(backlog.held() <= most, "{left}");
        }
        assert!(!backlog.may_be_merged());
    }

    #[test]
    fn piece_that_was_copied_counts_until_all_of_it_is_read() {
        let mut backlog = backlog(2049, Share::Next(DATA as u16));
        let before = backlog.held();
        backlog.took(1_000_000, false, true);
        assert_eq!(backlog.held(), before);
        backlog.took(500_000, false, true);
        assert_eq!(backlog.held(), before);
        backlog.took(400_000, true, true);
        assert_eq!(backlog.held(), before - 1_900_000);
    }

    const NEXT: Share = Share::Next(DATA as u16);
    const FULL: Share = Share::Full(DATA as u16);

    /// A datagram that follows those of [`backlog`].
    const LATER: Arrival = Arrival {
        number: 1 << 20,
        held: HELD,
    };

    #[track_caller]
    fn assert_all_counts(mut backlog: Backlog) {
        let before = backlog.held();
        backlog.took(1_000_000, true, true);
        assert_eq!(backlog.held(), before);
        assert!(backlog.may_be_merged());
        backlog.clear();
        assert_eq!((backlog.held(), backlog.may_be_merged()), (0, false));
    }

    #[test]
    fn all_that_was_copied_counts_if_there_were_holes() {
        assert_all_counts(backlog(2049, FULL));
        let mut late = backlog(2049, NEXT);
        late.took(1_000_000, false, true);
        let before = late.held();
        late.add(LATER, 0, FULL, MUCH, false);
        assert_eq!(late.held(), before + u64::from(HELD));
        assert_all_counts(late);
    }

    /// As many pieces as are copied, all with this number of bytes but those of some numbers.
    fn even_but(bytes: u16, others: impl Fn(u32) -> Option<u16>) -> Backlog {
        let bytes = (0..=MOST_UNCOPIED).map(|number| others(number).unwrap_or(bytes));
        backlog_of(bytes.map(Share::Next))
    }

    #[test]
    fn all_that_was_copied_counts_if_large_pieces_were_not() {
        const LONG: u16 = DATA as u16;
        const SHORT: u16 = LONG * 2 / 3 - 1;
        let last = |number| number == MOST_UNCOPIED;
        assert!(!even_but(SHORT + 1, |number| last(number).then_some(LONG)).may_be_merged());
        assert_all_counts(even_but(SHORT, |number| last(number).then_some(LONG)));
        // Some are at the end of what was written.
        assert!(!even_but(LONG, |number| (number % 20 == 0).then_some(1)).may_be_merged());
        assert_all_counts(even_but(LONG, |number| (number % 4 == 0).then_some(SHORT)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 200 }))]

        /// As quinn-proto decides it when it copies pieces.
        #[test]
        fn no_piece_stays_beside_copied_ones_unless_all_counts(
            lots in proptest::collection::vec((1_u16..1400, 1_usize..1500), 1..10),
            shorter in proptest::collection::vec(
                (proptest::bool::weighted(0.2), 1_u16..1400),
                1..50,
            ),
        ) {
            let mut lengths = Vec::new();
            for (bytes, count) in lots {
                lengths.extend(shorter.iter().cycle().take(count).map(|&(is_shorter, other)| {
                    if is_shorter { bytes.min(other) } else { bytes }
                }));
            }
            let mut backlog = Backlog::default();
            for (number, &bytes) in lengths.iter().enumerate() {
                let arrival = Arrival { number: number as u32, held: HELD };
                backlog.add(arrival, 0, Share::Next(bytes), MUCH, false);
                let first = number.checked_sub(MOST_UNCOPIED as usize);
                let Some(first) = first.filter(|first| first % 61 == 0) else {
                    continue;
                };
                let pieces = &lengths[first..=number];
                let all: u32 = pieces.iter().copied().map(u32::from).sum();
                let stays = |&bytes: &u16| u32::from(bytes) >= all.div_ceil(1024);
                prop_assert!(backlog.may_be_merged() || !pieces.iter().any(stays));
            }
        }
    }

    #[test]
    fn second_frame_of_a_datagram_may_be_the_one_too_many() {
        let mut backlog = backlog(2048, NEXT);
        assert!(!backlog.may_be_merged());
        let last = Arrival {
            number: 2047,
            held: HELD,
        };
        backlog.add(last, 0, Share::Part, MUCH, false);
        assert_all_counts(backlog);
    }

    #[test]
    fn frames_may_be_cut_if_the_stream_is_read_in_any_order() {
        let mut full = Backlog::default();
        for number in 0..1025 {
            assert!(!full.may_be_merged(), "{number}");
            full.add(Arrival { number, held: HELD }, 0, FULL, MUCH, true);
        }
        assert!(full.may_be_merged());
        // By what came before.
        for (frames, may_be_merged) in [(16, false), (17, true)] {
            let mut backlog = Backlog::default();
            for number in 0..frames {
                backlog.add(Arrival { number, held: HELD }, 0, FULL, MUCH, true);
            }
            backlog.add(LATER, 0, Share::Part, MUCH, true);
            assert_eq!(backlog.may_be_merged(), may_be_merged, "{frames}");
        }
    }

    #[test]
    fn uneven_pieces_and_those_that_are_copied_early_are_crumbled() {
        let last = |number| (number == MOST_UNCOPIED).then_some(DATA as u16);
        assert!(!even_but(DATA as u16, last).is_crumbled(false, MUCH));
        assert!(even_but(DATA as u16 / 2, last).is_crumbled(false, MUCH));
        // Messages that fill small packets, and some beside much other data.
        let message = |number| match number % 5 {
            0 if number > 460 => Share::Part,
            _ => Share::Next(130),
        };
        let crumbled = |pieces| backlog_of((0..pieces).map(message)).is_crumbled(false, MUCH);
        assert!(!crumbled(MOST_UNEVEN));
        assert!(crumbled(MOST_UNEVEN + 1));
        // A transfer, with a little beside it now and then.
        let bulk = |number| if number % 20 == 0 { Share::Part } else { NEXT };
        assert!(!backlog_of((0..2000).map(bulk)).is_crumbled(false, MUCH));
    }

    /// Messages in small packets, of which one in eight is beside other data. Others before them
    /// were copied and read.
    #[test]
    fn frames_that_were_copied_and_read_hide_nothing() {
        const MESSAGE: u16 = 130;
        let mut backlog = backlog(MOST_UNCOPIED + 1, Share::Next(MESSAGE));
        backlog.took(
            (MOST_UNCOPIED as usize + 1) * usize::from(MESSAGE),
            true,
            true,
        );
        let pieces = MOST_UNEVEN + 1;
        for number in 0..pieces {
            let share = if number % 8 == 0 {
                Share::Part
            } else {
                Share::Next(MESSAGE)
            };
            let number = LATER.number + number;
            backlog.add(Arrival { number, held: HELD }, 0, share, MUCH, false);
        }
        let left = u64::from(pieces) * u64::from(MESSAGE);
        assert!(!backlog.is_crumbled(false, MUCH));
        assert!(backlog.is_crumbled(false, left));
    }

    /// How many pieces are left when quinn-proto copies pieces with these lengths, all of which
    /// fill their packets and follow each other.
    fn pieces_after_copy(lengths: &[u16]) -> usize {
        let all: u32 = lengths.iter().copied().map(u32::from).sum();
        let least = all.div_ceil(MOST_APART as u32).max(128);
        let stays = |&bytes: &u16| u32::from(bytes) >= least;
        let (mut pieces, mut is_run) = (0, false);
        for bytes in lengths {
            let is_next_of_run = is_run && !stays(bytes);
            is_run = !stays(bytes);
            pieces += usize::from(!is_next_of_run);
        }
        pieces
    }

    /// With more pieces than this after a copy, quinn-proto ends the connection.
    const MOST_APART: usize = 1024;

    /// Frames that may arrive before we know of them.
    const AT_ONCE: usize = 64;

    /// Checks that frames with these lengths, of which any number was read, count as uneven before
    /// quinn-proto would end the connection for them.
    fn assert_uneven_in_time(lengths: &[u16]) -> Result<(), TestCaseError> {
        let mut backlog = Backlog::default();
        let mut uneven_at = Vec::new();
        let mut last = None;
        for (number, &bytes) in lengths.iter().enumerate() {
            let arrival = Arrival {
                number: number as u32,
                held: HELD,
            };
            backlog.add(arrival, 0, Share::Next(bytes), MUCH, false);
            if backlog.is_uneven() {
                last = Some(number);
            }
            uneven_at.push(last);
            let first = number.checked_sub(MOST_UNCOPIED as usize);
            let Some(first) = first.filter(|first| first % 61 == 0) else {
                continue;
            };
            if pieces_after_copy(&lengths[first..=number]) > MOST_APART {
                let noticed = uneven_at[number - AT_ONCE];
                let first_look = first + MOST_UNEVEN as usize;
                prop_assert!(noticed.is_some_and(|at| at >= first_look), "{number}");
            }
        }
        Ok(())
    }

    #[test]
    fn long_history_of_full_packets_hides_no_uneven_pieces() {
        for history in [1000, 3000, 5000, 100_000] {
            let messages = [1400, 100, 100].into_iter().cycle().take(3000);
            let lengths: Vec<_> = std::iter::repeat_n(1400, history).chain(messages).collect();
            assert_uneven_in_time(&lengths).unwrap();
        }
    }

    fn lengths() -> impl Strategy<Value = Vec<u16>> {
        let bytes = prop_oneof![Just(1400), Just(1), 1..150_u16, 1..1400_u16];
        let pattern = proptest::collection::vec(bytes, 1..6);
        let count = prop_oneof![1..200_usize, 1..5000_usize];
        let lots = proptest::collection::vec((pattern.clone(), count), 0..6);
        // Often, a transfer goes before them, and messages come last.
        let transfer = prop_oneof![Just(0), 1000..6000_usize];
        (transfer, lots, pattern).prop_map(|(transfer, mut lots, last)| {
            lots.insert(0, (vec![1400], transfer));
            lots.push((last, 3000));
            let lengths =
                |(pattern, count): (Vec<u16>, usize)| pattern.into_iter().cycle().take(count);
            lots.into_iter().flat_map(lengths).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 200 }))]

        /// As quinn-proto decides it, whatever came and was read before.
        #[test]
        fn uneven_pieces_are_noticed_before_too_many_stay_apart(lengths in lengths()) {
            assert_uneven_in_time(&lengths)?;
        }
    }

    #[test]
    fn part_of_a_frame_that_is_read_late_keeps_its_datagram() {
        let mut backlog = Backlog::default();
        let small = Arrival {
            number: 0,
            held: 40,
        };
        backlog.add(small, 0, Share::Part, MUCH, true);
        // Around that byte, which cuts it in two.
        backlog.add(LATER, 0, Share::Part, MUCH, true);
        for bytes in [DATA - 2, 1] {
            backlog.took(bytes, true, false);
        }
        assert!(!backlog.may_be_merged());
        assert!(backlog.held() >= u64::from(HELD), "{}", backlog.held());
        // By what was taken before.
        let mut backlog = Backlog::default();
        backlog.add(LATER, 1, Share::Part, MUCH, true);
        backlog.took(DATA - 1, true, false);
        assert!(!backlog.may_be_merged());
        assert!(backlog.held() >= u64::from(HELD), "{}", backlog.held());
    }

    #[test]
    fn one_frame_of_a_datagram_may_keep_it_when_another_was_read() {
        let mut backlog = Backlog::default();
        for number in 0..6 {
            for share in [NEXT, Share::Part] {
                backlog.add(Arrival { number, held: HELD }, 0, share, MUCH, false);
            }
        }
        let later = |number| Arrival {
            number: LATER.number + number,
            held: HELD,
        };
        for number in 0..6 {
            backlog.add(later(number), 0, FULL, MUCH, false);
        }
        for _ in 0..6 {
            backlog.took(DATA, true, true);
        }
        assert!(!backlog.may_be_merged());
        assert!(backlog.held() >= 12 * u64::from(HELD), "{}", backlog.held());
    }

    #[test]
    fn all_counts_once_the_rest_of_a_copy_may_be_copied_again() {
        const LEFT: u64 = 1_000_000;
        for (taken, may_be_merged) in [(1_300_000, false), (1_300_001, true)] {
            let mut backlog = backlog(3000, NEXT);
            backlog.took(taken, false, true);
            let before = backlog.held();
            backlog.add(LATER, 0, NEXT, LEFT, false);
            assert_eq!(backlog.may_be_merged(), may_be_merged, "{taken}");
            assert_eq!(backlog.held(), before + u64::from(HELD));
            if may_be_merged {
                assert_all_counts(backlog);
            }
        }
    }

    #[test]
    fn piece_keeps_its_datagram_until_its_last_byte_is_read() {
        let mut backlog = backlog(3, NEXT);
        let before = backlog.held();
        backlog.took(DATA - 1, false, true);
        assert_eq!(backlog.held(), before);
        backlog.took(1, true, true);
        assert_eq!(backlog.held(), before - u64::from(HELD));
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
