//! Frees memory of containers that have shrunk.

/// Places that a container keeps in any case.
const KEPT: usize = 256;

/// The capacity to which a container should shrink, if it has much more than it needs.
///
/// It is enough not to grow again at once. So elements are not moved more often than they are added
/// and removed.
pub(crate) fn room_for(len: usize, capacity: usize) -> Option<usize> {
    (capacity > KEPT && len <= capacity / 8).then_some(2 * len)
}

/// How many places a container has beyond those that it keeps in any case. The others do not count,
/// so that an ordinary connection counts nothing when it has ended.
pub(crate) fn beyond_kept(capacity: usize) -> u64 {
    capacity.saturating_sub(KEPT) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_or_small_stays() {
        assert_eq!(room_for(0, KEPT), None);
        assert_eq!(room_for(KEPT, 2 * KEPT), None);
        assert_eq!(room_for(8000, 8000), None);
        assert_eq!(room_for(1000, 8000), Some(2000));
        assert_eq!(room_for(0, 8000), Some(0));
    }
}
