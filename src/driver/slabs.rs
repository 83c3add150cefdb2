//! Memory for received datagrams, reused as soon as no datagram holds it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::BytesMut;

/// The most slabs of one driver, 4 MiB: what two system calls can receive.
///
/// A datagram keeps its whole slab, and the peer decides for how long: data that the application
/// does not read, or that waits for missing data before it, is kept. So beyond the length of their
/// datagrams, peers can keep at most this much memory. A run that arrives while no slab is free
/// is copied into separate allocations.
pub(super) const MAX_SLABS: usize = 64;

/// Size of a slab in bytes: that of the largest run.
pub(super) const SLAB_BYTES: usize = 64 * 1024;

/// The smallest run that is copied into a slab, in bytes.
const LEAST_BYTES: usize = 8 * 1024;

/// Slabs that a driver keeps for its next runs, 512 KiB.
const KEPT: usize = 8;

/// Interval at which half of the unused slabs beyond [`KEPT`] are freed. So the memory of a burst
/// is freed a few seconds after it. A steady load allocates freed slabs again a few times a second,
/// which costs nothing compared to thousands of runs. While no slab can be freed, the interval
/// grows.
const FREE_EVERY: Duration = Duration::from_secs(1);

/// The number of failed attempts in a row that double the interval, to about a minute.
const MOST_FAILURES: u32 = 6;

/// The number of slabs checked for each run. Checking all of them would take as long as copying
/// the run.
const MAX_TRIES: usize = 8;

/// The slabs of a driver, including those in use; the least recently used one is in front.
///
/// A run of datagrams of one sender takes up to 64 KiB. Allocating and freeing that much for each
/// run makes the allocator return the memory to the operating system and request it again.
#[derive(Default)]
pub(super) struct Slabs {
    slabs: VecDeque<BytesMut>,
    /// When slabs are freed next, if there are more than [`KEPT`].
    next_free: Option<Instant>,
    /// The number of attempts in a row that freed nothing; each doubles the interval.
    failures: u32,
}

impl Slabs {
    /// Copies a received run, and cuts it into datagrams of `stride` bytes; the last one may be
    /// shorter.
    pub(super) fn cut<'a>(&mut self, contents: &'a [u8], stride: usize) -> Cut<'a> {
        let stride = stride.clamp(1, contents.len().max(1));
        let slab = (contents.len() >= LEAST_BYTES)
            .then(|| self.unused())
            .flatten();
        let memory = match slab {
            Some(mut slab) => {
                slab.extend_from_slice(contents);
                let copy = slab.split();
                self.slabs.push_back(slab);
                Memory::Slab {
                    copy,
                    share: SLAB_BYTES.div_ceil(contents.len().div_ceil(stride)),
                }
            }
            None => Memory::Own(contents),
        };
        Cut {
            memory,
            stride,
            is_over: false,
        }
    }

    /// Returns an unused slab. As few slabs as possible are used in turn, so that they stay in the
    /// CPU's caches.
    fn unused(&mut self) -> Option<BytesMut> {
        for _ in 0..self.slabs.len().min(MAX_TRIES) {
            let mut slab = self.slabs.pop_front()?;
            if slab.try_reclaim(SLAB_BYTES) {
                return Some(slab);
            }
            // A datagram in this slab is still held.
            self.slabs.push_back(slab);
        }
        (self.slabs.len() < MAX_SLABS).then(|| BytesMut::with_capacity(SLAB_BYTES))
    }

    /// When [`free_spare`](Self::free_spare) has something to do.
    pub(super) fn next_free(&self) -> Option<Instant> {
        self.next_free
    }

    /// Frees half of the unused slabs, each [`FREE_EVERY`], until [`KEPT`] are left.
    pub(super) fn free_spare(&mut self, now: Instant) {
        let surplus = self.slabs.len().saturating_sub(KEPT);
        if surplus == 0 {
            return;
        }
        let due = *(self.next_free).get_or_insert_with(|| now + pause_after(self.failures));
        if now < due {
            return;
        }
        let freed = self.free_half(surplus);
        self.failures = if freed > 0 { 0 } else { self.failures + 1 };
        self.next_free = (freed < surplus).then(|| now + pause_after(self.failures));
    }

    /// Frees every other unused slab, but at most `most`. Returns how many it freed.
    fn free_half(&mut self, most: usize) -> usize {
        let (mut freed, mut is_freed) = (0, false);
        self.slabs.retain_mut(|slab| {
            if freed == most || !slab.try_reclaim(SLAB_BYTES) {
                return true;
            }
            is_freed = !is_freed;
            freed += usize::from(is_freed);
            !is_freed
        });
        freed
    }
}

/// The interval after this many attempts in a row that freed nothing.
fn pause_after(failures: u32) -> Duration {
    FREE_EVERY * 2_u32.pow(failures.min(MOST_FAILURES))
}

/// One datagram of a run.
pub(super) struct Cutout {
    pub(super) contents: BytesMut,
    /// Bytes of memory that the datagram keeps: its own, or its share of a slab. No other run
    /// uses that slab until the datagram is dropped.
    pub(super) held: usize,
}

/// Iterates over the datagrams of a run; a run without bytes is one empty datagram.
pub(super) struct Cut<'a> {
    memory: Memory<'a>,
    stride: usize,
    is_over: bool,
}

enum Memory<'a> {
    Slab {
        copy: BytesMut,
        share: usize,
    },
    /// Each datagram is copied into an allocation of its own size.
    Own(&'a [u8]),
}

impl Iterator for Cut<'_> {
    type Item = Cutout;

    fn next(&mut self) -> Option<Cutout> {
        if self.is_over {
            return None;
        }
        Some(match &mut self.memory {
            Memory::Slab { copy, share } => {
                let contents = copy.split_to(self.stride.min(copy.len()));
                self.is_over = copy.is_empty();
                Cutout {
                    held: contents.len().max(*share),
                    contents,
                }
            }
            Memory::Own(rest) => {
                let (contents, after) = rest.split_at(self.stride.min(rest.len()));
                *rest = after;
                self.is_over = after.is_empty();
                Cutout {
                    held: contents.len(),
                    contents: BytesMut::from(contents),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::net::clock;

    /// The size of a datagram on Ethernet.
    const STRIDE: usize = 1452;

    /// A run of this many datagrams, the last one short, in which every byte is `byte`.
    fn run(count: usize, byte: u8) -> Vec<u8> {
        vec![byte; count * STRIDE - 100]
    }

    fn cut(slabs: &mut Slabs, contents: &[u8]) -> Vec<Cutout> {
        slabs.cut(contents, STRIDE).collect()
    }

    #[test]
    fn runs_are_cut_where_they_were_put_together() {
        for count in [1, 2, 5, 6, 44] {
            let mut slabs = Slabs::default();
            let contents: Vec<_> = (0..count * STRIDE - 100).map(|byte| byte as u8).collect();
            // In a slab, and without one.
            for pieces in [
                cut(&mut slabs, &contents),
                Cut {
                    memory: Memory::Own(&contents),
                    stride: STRIDE,
                    is_over: false,
                }
                .collect(),
            ] {
                let chunks: Vec<_> = contents.chunks(STRIDE).collect();
                assert_eq!(pieces.len(), count);
                assert!(pieces.iter().map(|piece| &piece.contents).eq(chunks));
            }
        }
        let pieces: Vec<_> = Slabs::default().cut(&[], 0).collect();
        assert_eq!(pieces.len(), 1);
        assert!(pieces[0].contents.is_empty());
    }

    #[test]
    fn memory_that_nobody_holds_is_used_again() {
        let mut slabs = Slabs::default();
        let mut seen = HashSet::new();
        let mut held = VecDeque::new();
        for round in 0..4 * MAX_SLABS {
            let pieces = cut(&mut slabs, &run(44, round as u8));
            assert!(pieces.iter().all(|piece| piece.contents[0] == round as u8));
            seen.insert(pieces[0].contents.as_ptr());
            held.push_back(pieces);
            if held.len() == 3 {
                held.pop_front();
            }
        }
        assert!(seen.len() <= 4, "{}", seen.len());
        assert_eq!(slabs.slabs.len(), seen.len());
    }

    #[test]
    fn memory_that_somebody_holds_is_left_alone() {
        for count in [6, 44] {
            let mut slabs = Slabs::default();
            let held: Vec<_> = (0..2 * MAX_SLABS)
                .map(|round| cut(&mut slabs, &run(count, round as u8)))
                .collect();
            for (round, pieces) in held.iter().enumerate() {
                let pieces = pieces.iter().map(|piece| &piece.contents);
                assert!(pieces.flatten().all(|byte| *byte == round as u8));
            }
            assert_eq!(slabs.slabs.len(), MAX_SLABS);
        }
    }

    /// A peer that keeps a datagram of each does not make every run take longer.
    #[test]
    fn max_tries_slabs_are_checked_for_a_run() {
        let mut slabs = Slabs::default();
        let mut held: Vec<_> = (0..=MAX_TRIES)
            .map(|_| cut(&mut slabs, &run(44, 7)))
            .collect();
        // The last slab is free, behind `MAX_TRIES` that are not.
        held.pop();
        cut(&mut slabs, &run(44, 7));
        assert_eq!(slabs.slabs.len(), MAX_TRIES + 2);
        // By now it is in front.
        cut(&mut slabs, &run(44, 7));
        assert_eq!(slabs.slabs.len(), MAX_TRIES + 2);
    }

    /// A peer makes us keep the last datagram of each run.
    #[test]
    fn what_is_kept_is_max_slabs_and_the_length_of_datagrams() {
        let mut slabs = Slabs::default();
        let kept: Vec<_> = (0..10 * MAX_SLABS)
            .filter_map(|_| slabs.cut(&run(44, 7), STRIDE).last())
            .collect();
        let (shared, own): (Vec<_>, Vec<_>) = kept
            .iter()
            .partition(|piece| piece.held > piece.contents.len());
        assert_eq!(shared.len(), MAX_SLABS);
        for piece in own {
            assert_eq!(piece.contents.capacity(), piece.contents.len());
        }
    }

    #[test]
    fn shares_of_a_slab_add_up_to_all_of_it() {
        for count in [6, 7, 20, 44] {
            let mut slabs = Slabs::default();
            let pieces = cut(&mut slabs, &run(count, 7));
            let held: usize = pieces.iter().map(|piece| piece.held).sum();
            assert!(held >= SLAB_BYTES, "{count} hold {held} bytes");
            assert!(
                pieces
                    .iter()
                    .all(|piece| piece.held >= piece.contents.len())
            );
        }
        let mut slabs = Slabs::default();
        let alone: Vec<_> = slabs.cut(&[7; LEAST_BYTES], LEAST_BYTES).collect();
        assert_eq!(alone[0].held, SLAB_BYTES);
    }

    #[test]
    fn memory_of_a_crowd_is_freed_when_nobody_holds_it() {
        let mut slabs = Slabs::default();
        let mut now = clock::now();
        let mut held: Vec<_> = (0..MAX_SLABS)
            .map(|round| cut(&mut slabs, &run(44, round as u8)))
            .collect();
        slabs.free_spare(now);
        for failures in 1..10_u32 {
            now = slabs.next_free().unwrap();
            slabs.free_spare(now);
            let pause = FREE_EVERY * 2_u32.pow(failures.min(MOST_FAILURES));
            assert_eq!(slabs.next_free(), Some(now + pause));
        }
        now = slabs.next_free().unwrap();
        assert_eq!(slabs.slabs.len(), MAX_SLABS);
        held.truncate(2 * KEPT);
        for left in [40, 28, 22, 19, 17, 16] {
            slabs.free_spare(now);
            assert_eq!(slabs.slabs.len(), left);
            slabs.free_spare(now + FREE_EVERY / 2);
            assert_eq!(slabs.slabs.len(), left);
            now = slabs.next_free().unwrap();
        }
        held.clear();
        while let Some(due) = slabs.next_free() {
            slabs.free_spare(due);
        }
        assert_eq!(slabs.slabs.len(), KEPT);
        slabs.free_spare(now + 10 * FREE_EVERY);
        assert_eq!(slabs.slabs.len(), KEPT);
    }

    #[test]
    fn little_takes_little() {
        let mut slabs = Slabs::default();
        for piece in cut(&mut slabs, &run(3, 7)) {
            assert_eq!(piece.held, piece.contents.len());
            assert_eq!(piece.contents.capacity(), piece.contents.len());
        }
        assert!(slabs.slabs.is_empty());
    }
}
