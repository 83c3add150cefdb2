//! Received bytes of a stream that the application has not read, in memory of our own.

use std::{collections::BTreeMap, ops::Range};

/// Size of a page in bytes. Each page holds a fixed part of the stream, whichever bytes of it
/// arrive first.
///
/// So the memory is in proportion to how far the peer is ahead of the application, which flow
/// control bounds, and not to the number of pieces into which the peer has cut its data. Pages are
/// not larger, because two pages of each stream may be used only in part; and not smaller, because
/// then each piece would be spread over more of them.
pub(super) const PAGE_BYTES: usize = 2048;

/// What was taken out of quinn-proto of one stream and the application has not read.
#[derive(Default)]
pub(super) struct Reassembly {
    /// The offset of the next byte that the application reads.
    next: u64,
    /// `None` if it would be empty.
    store: Option<Box<Store>>,
}

/// How much there is in a reassembly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) pages: u32,
    /// Gaps with later bytes behind them.
    pub(super) gaps: u32,
}

#[derive(Default)]
struct Store {
    /// By their position in the stream, counted in pages.
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    /// Everything before this offset is there.
    ready: u64,
    /// What is there beyond that, as runs without a gap: their beginnings and their ends.
    ahead: BTreeMap<u64, u64>,
    bytes: u64,
}

impl Reassembly {
    /// The offset of the next byte that the application reads.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn size(&self) -> Size {
        self.store
            .as_ref()
            .map_or_else(Size::default, |store| Size {
                bytes: store.bytes,
                pages: store.pages.len() as u32,
                gaps: store.ahead.len() as u32,
            })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.store.is_none()
    }

    /// Bytes that the application may read.
    pub(super) fn ready(&self) -> u64 {
        self.store
            .as_ref()
            .map_or(0, |store| store.ready - self.next)
    }

    /// Whether there is something, but the next byte is missing.
    pub(super) fn lacks_next(&self) -> bool {
        !self.is_empty() && self.ready() == 0
    }

    /// Adds bytes, none of which was added or read before.
    pub(super) fn insert(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert!(offset >= self.next, "{offset} was read before");
        if bytes.is_empty() {
            return;
        }
        let next = self.next;
        let store = self.store.get_or_insert_with(|| {
            Box::new(Store {
                ready: next,
                ..Store::default()
            })
        });
        store.write(offset, bytes);
        store.note(offset..offset + bytes.len() as u64);
    }

    /// Moves the next bytes to `buf`. Returns how many there were.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> usize {
        let Some(store) = &mut self.store else {
            return 0;
        };
        let ready = usize::try_from(store.ready - self.next).unwrap_or(usize::MAX);
        let len = buf.len().min(ready);
        store.read(self.next, &mut buf[..len]);
        store.bytes -= len as u64;
        self.next += len as u64;
        self.release();
        len
    }

    /// Notes that `len` bytes went to the application directly.
    pub(super) fn skip(&mut self, len: usize) {
        self.next += len as u64;
        if let Some(store) = &mut self.store {
            store.ready = self.next;
            store.join();
        }
        self.release();
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.store = None;
    }

    fn release(&mut self) {
        if let Some(store) = &mut self.store {
            if store.bytes == 0 {
                self.store = None;
            } else {
                store.release(self.next);
            }
        }
    }
}

impl Store {
    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (page, within) = place(offset);
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - within));
            self.pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE_BYTES]))[within..within + part.len()]
                .copy_from_slice(part);
            offset += part.len() as u64;
            bytes = rest;
        }
    }

    fn read(&self, mut offset: u64, mut buf: &mut [u8]) {
        while !buf.is_empty() {
            let (page, within) = place(offset);
            let len = buf.len().min(PAGE_BYTES - within);
            let (part, rest) = buf.split_at_mut(len);
            if let Some(page) = self.pages.get(&page) {
                part.copy_from_slice(&page[within..within + len]);
            }
            offset += len as u64;
            buf = rest;
        }
    }

    /// Notes that these bytes have arrived.
    fn note(&mut self, Range { mut start, mut end }: Range<u64>) {
        self.bytes += end - start;
        if start <= self.ready {
            self.ready = self.ready.max(end);
            self.join();
            return;
        }
        if let Some((&before, &until)) = self.ahead.range(..=start).next_back()
            && until >= start
        {
            start = before;
            end = end.max(until);
        }
        while let Some((&after, &until)) = self.ahead.range(start..).next()
            && after <= end
        {
            self.ahead.remove(&after);
            end = end.max(until);
        }
        self.ahead.insert(start, end);
    }

    /// Makes runs ready that no longer have a gap before them.
    fn join(&mut self) {
        while let Some(first) = self.ahead.first_entry()
            && *first.key() <= self.ready
        {
            self.ready = self.ready.max(first.remove());
        }
    }

    /// Frees the pages before the one with `next`.
    fn release(&mut self, next: u64) {
        let (current, _) = place(next);
        while let Some(first) = self.pages.first_entry()
            && *first.key() < current
        {
            first.remove();
        }
    }
}

/// The page of a byte, and the offset in the page.
fn place(offset: u64) -> (u64, usize) {
    let page_bytes = PAGE_BYTES as u64;
    (offset / page_bytes, (offset % page_bytes) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What stands at `offset`.
    fn content(offset: u64) -> u8 {
        (offset ^ (offset >> 8) ^ (offset >> 16)) as u8
    }

    fn contents(range: Range<u64>) -> Vec<u8> {
        range.map(content).collect()
    }

    fn insert(reassembly: &mut Reassembly, range: Range<u64>) {
        reassembly.insert(range.start, &contents(range));
    }

    fn read(reassembly: &mut Reassembly, most: usize) -> Vec<u8> {
        let mut buf = vec![0; most];
        let len = reassembly.read(&mut buf);
        buf.truncate(len);
        buf
    }

    #[test]
    fn nothing_is_kept_once_everything_was_read() {
        let mut reassembly = Reassembly::default();
        insert(&mut reassembly, 5..10);
        assert!(reassembly.lacks_next());
        insert(&mut reassembly, 0..5);
        assert!(!reassembly.lacks_next());
        assert_eq!(read(&mut reassembly, 4), contents(0..4));
        assert_eq!(read(&mut reassembly, 100), contents(4..10));
        assert!(reassembly.is_empty());
        assert_eq!((reassembly.next(), reassembly.ready()), (10, 0));
        assert_eq!(reassembly.size(), Size::default());
    }

    #[test]
    fn runs_that_touch_are_one() {
        let mut reassembly = Reassembly::default();
        for start in [9, 3, 6] {
            insert(&mut reassembly, start..start + 1);
        }
        assert_eq!(reassembly.size().gaps, 3);
        insert(&mut reassembly, 4..6);
        assert_eq!(reassembly.size().gaps, 2);
        insert(&mut reassembly, 7..9);
        assert_eq!(reassembly.size().gaps, 1);
        insert(&mut reassembly, 0..3);
        assert_eq!(reassembly.size().gaps, 0);
        assert_eq!(reassembly.ready(), 10);
    }

    #[test]
    fn gap_may_be_filled_by_what_the_application_reads_itself() {
        let mut reassembly = Reassembly::default();
        insert(&mut reassembly, 10..20);
        insert(&mut reassembly, 30..40);
        reassembly.skip(10);
        assert_eq!(read(&mut reassembly, 100), contents(10..20));
        assert!(reassembly.lacks_next());
        reassembly.skip(10);
        assert_eq!(read(&mut reassembly, 100), contents(30..40));
        assert!(reassembly.is_empty());
    }

    /// A peer may send the last byte of its window first, however large that is.
    #[test]
    fn memory_is_for_what_has_arrived_and_not_for_what_has_not() {
        let mut reassembly = Reassembly::default();
        insert(&mut reassembly, (1 << 61)..(1 << 61) + 1);
        assert_eq!(reassembly.size().pages, 1);
    }

    #[test]
    fn pages_go_as_they_are_read() {
        let mut reassembly = Reassembly::default();
        let len = 10 * PAGE_BYTES as u64;
        insert(&mut reassembly, 0..len);
        assert_eq!(reassembly.size().pages, 10);
        for left in (0..10).rev() {
            read(&mut reassembly, PAGE_BYTES);
            assert_eq!(reassembly.size().pages, left);
        }
    }

    /// Bytes of a stream in these tests.
    const LEN: u64 = 20_000;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 200 }))]

        #[test]
        fn whatever_the_order_what_is_read_is_the_stream(
            cuts in proptest::collection::btree_set(1..LEN, 0..200),
            order in proptest::collection::vec(any::<usize>(), 200),
            reads in proptest::collection::vec(0_usize..5000, 1..50),
            skips in any::<u64>(),
        ) {
            let mut pieces: Vec<_> = [0].into_iter().chain(cuts.iter().copied())
                .zip(cuts.iter().copied().chain([LEN]))
                .map(|(start, end)| start..end)
                .collect();
            let mut reassembly = Reassembly::default();
            let mut missing = pieces.clone();
            let (mut order, mut reads) = (order.into_iter().cycle(), reads.into_iter().cycle());
            let mut seen = Vec::new();
            while !pieces.is_empty() {
                let piece = pieces.swap_remove(order.next().unwrap() % pieces.len());
                missing.retain(|range| *range != piece);
                // The application may come before it gets here.
                let is_next = piece.start == reassembly.next();
                let is_skipped = is_next && skips & (1 << (piece.start % 64)) != 0;
                if is_skipped {
                    seen.extend(contents(piece.clone()));
                    reassembly.skip((piece.end - piece.start) as usize);
                } else {
                    insert(&mut reassembly, piece);
                }
                let wanted = reads.next().unwrap();
                let got = read(&mut reassembly, wanted);
                prop_assert!(got.len() == wanted || reassembly.ready() == 0);
                seen.extend(got);

                let first_missing = missing.first().map_or(LEN, |range| range.start);
                prop_assert_eq!(reassembly.ready(), first_missing - reassembly.next());
                let absent: u64 = missing.iter().map(|range| range.end - range.start).sum();
                let size = reassembly.size();
                prop_assert_eq!(size.bytes, LEN - absent - reassembly.next());
                // One for each stretch that is missing, but for what nothing has arrived behind.
                let gaps = missing.iter().enumerate().filter(|(index, range)| {
                    let next = missing.get(index + 1).map(|next| next.start);
                    range.end != LEN && next != Some(range.end)
                });
                prop_assert_eq!(size.gaps as usize, gaps.count());
                let pages = (LEN - reassembly.next()).div_ceil(PAGE_BYTES as u64);
                prop_assert!(u64::from(size.pages) <= pages + 1);
            }
            seen.extend(read(&mut reassembly, LEN as usize));
            prop_assert!(seen == contents(0..LEN));
            prop_assert!(reassembly.is_empty());
        }
    }
}
