//! Which packets quinn-proto drops because they may have come before (RFC 9000 §12.3): it remembers
//! the last numbers only.

/// The numbers of the packets that quinn-proto got.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// One more than the largest.
    next: u64,
    /// A bit for each of those before it, the lowest for the nearest.
    before: u128,
}

impl Numbers {
    /// Whether a packet may have come before.
    pub(super) fn has(&self, number: u64) -> bool {
        if number >= self.next {
            return false;
        }
        self.bit(number).is_none_or(|bit| self.before & bit != 0)
    }

    /// Notes a packet. Returns whether it may have come before.
    pub(super) fn note(&mut self, number: u64) -> bool {
        let has = self.has(number);
        if let Some(skipped) = number.checked_sub(self.next) {
            let last = if self.next == 0 { 0 } else { 1 };
            // The largest so far moves into the bits, by one and by the numbers that are skipped.
            self.before = u32::try_from(skipped)
                .ok()
                .and_then(|skipped| (self.before << 1 | last).checked_shl(skipped))
                .unwrap_or(0);
            self.next = number.saturating_add(1);
        } else if let Some(bit) = self.bit(number) {
            self.before |= bit;
        }
        has
    }

    /// The bit of a number before the largest; `None` for the largest, and for those that are too
    /// far behind it.
    fn bit(&self, number: u64) -> Option<u128> {
        let back = self
            .next
            .checked_sub(1)?
            .checked_sub(number)?
            .checked_sub(1)?;
        1_u128.checked_shl(u32::try_from(back).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_passes_once() {
        let mut numbers = Numbers::default();
        for number in [0, 1, 5, 3, 200, 4, 73] {
            let is_old = number == 4;
            assert_eq!(numbers.note(number), is_old, "{number}");
        }
        for number in [0, 1, 5, 3, 200, 73] {
            assert!(numbers.note(number), "{number}");
        }
    }

    #[test]
    fn numbers_are_remembered_as_long_as_quinn_proto_does() {
        for (last, number) in [(1000, 871), (129, 0)] {
            let mut numbers = Numbers::default();
            assert!(!numbers.note(last));
            assert!(numbers.note(number), "129 before {last}");
            assert!(!numbers.note(number + 1), "128 before {last}");
            assert!(numbers.note(number + 1));
            assert!(!numbers.note(last + 1));
            assert!(numbers.note(last));
            assert!(numbers.note(number + 1));
        }
        let mut numbers = Numbers::default();
        assert!(!numbers.note(7));
        assert!(!numbers.note(1 << 40));
        assert!(numbers.note(7));
    }
}
