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
    /// Notes a packet. Returns whether it may have come before.
    pub(super) fn is_repeated(&mut self, number: u64) -> bool {
        if let Some(skipped) = number.checked_sub(self.next) {
            let last = if self.next == 0 { 0 } else { 1 };
            // The largest so far moves into the bits, by one and by the numbers that are skipped.
            self.before = u32::try_from(skipped)
                .ok()
                .and_then(|skipped| (self.before << 1 | last).checked_shl(skipped))
                .unwrap_or(0);
            self.next = number.saturating_add(1);
            return false;
        }
        let Some(back) = (self.next - 1 - number).checked_sub(1) else {
            return true;
        };
        let bit = u32::try_from(back)
            .ok()
            .and_then(|back| 1_u128.checked_shl(back));
        let Some(bit) = bit else {
            return true;
        };
        let is_repeated = self.before & bit != 0;
        self.before |= bit;
        is_repeated
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
            assert_eq!(numbers.is_repeated(number), is_old, "{number}");
        }
        for number in [0, 1, 5, 3, 200, 73] {
            assert!(numbers.is_repeated(number), "{number}");
        }
    }

    #[test]
    fn numbers_are_remembered_as_long_as_quinn_proto_does() {
        for (last, number) in [(1000, 871), (129, 0)] {
            let mut numbers = Numbers::default();
            assert!(!numbers.is_repeated(last));
            assert!(numbers.is_repeated(number), "129 before {last}");
            assert!(!numbers.is_repeated(number + 1), "128 before {last}");
            assert!(numbers.is_repeated(number + 1));
            assert!(!numbers.is_repeated(last + 1));
            assert!(numbers.is_repeated(last));
            assert!(numbers.is_repeated(number + 1));
        }
        let mut numbers = Numbers::default();
        assert!(!numbers.is_repeated(7));
        assert!(!numbers.is_repeated(1 << 40));
        assert!(numbers.is_repeated(7));
    }
}
