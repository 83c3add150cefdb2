//! Memory for datagrams on their way to the application, used again as soon as nobody holds it.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Slabs of a driver, the one that was used longest ago in front.
///
/// A batch of datagrams of the same sender takes up to 64 KiB. To allocate and free that much each time has
/// the allocator give the memory back to the system and ask for it again.
#[derive(Default)]
pub(super) struct Slabs(VecDeque<BytesMut>);

impl Slabs {
    /// A copy of what was received, to be cut into datagrams.
    pub(super) fn copy(&mut self, contents: &[u8]) -> BytesMut {
        if contents.len() < SMALLEST {
            // As much memory as it needs: it may lie unread for long.
            return BytesMut::from(contents);
        }
        let mut slab = self.unused(contents.len());
        slab.extend_from_slice(contents);
        let copy = slab.split();
        self.0.push_back(slab);
        copy
    }

    /// A slab with room for so many bytes. As few as are held at a time go round: they stay in the CPU's caches.
    fn unused(&mut self, len: usize) -> BytesMut {
        if let Some(mut slab) = self.0.pop_front() {
            if slab.try_reclaim(len) {
                return slab;
            }
            // Somebody has not read what it holds.
            if self.0.len() + 1 < SLABS {
                self.0.push_back(slab);
            }
        }
        BytesMut::with_capacity(SIZE.max(len))
    }
}

/// Most slabs that one driver keeps: two receive batches, 4 MiB.
const SLABS: usize = 64;

/// Size of a slab, in bytes: that of the largest batch.
const SIZE: usize = 64 * 1024;

/// Fewer bytes are not worth a slab.
const SMALLEST: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_nobody_holds_is_used_again() {
        let mut slabs = Slabs::default();
        let mut seen = std::collections::HashSet::new();
        let mut held = VecDeque::new();
        for round in 0..4 * SLABS {
            let copy = slabs.copy(&[round as u8; SIZE]);
            assert_eq!(copy, [round as u8; SIZE][..]);
            seen.insert(copy.as_ptr());
            held.push_back(copy);
            if held.len() == 3 {
                held.pop_front();
            }
        }
        assert!(seen.len() <= 4, "{}", seen.len());
        assert_eq!(slabs.0.len(), seen.len());
    }

    #[test]
    fn memory_that_somebody_holds_is_left_alone() {
        // Several copies in a slab, and one.
        for (size, count) in [(SMALLEST, 2 * SLABS * SIZE / SMALLEST), (SIZE, 2 * SLABS)] {
            let mut slabs = Slabs::default();
            let held: Vec<_> = (0..count)
                .map(|round| slabs.copy(&vec![round as u8; size]))
                .collect();
            for (round, copy) in held.iter().enumerate() {
                assert_eq!(*copy, vec![round as u8; size]);
            }
            assert_eq!(slabs.0.len(), SLABS);
        }
    }

    #[test]
    fn little_takes_little() {
        let mut slabs = Slabs::default();
        assert_eq!(slabs.copy(&[7; 100]).capacity(), 100);
        assert!(slabs.0.is_empty());
    }
}
