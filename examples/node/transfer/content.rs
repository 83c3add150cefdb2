//! The data that is sent, and the check of received data.

/// Bytes of one block.
const BLOCK: usize = 64 * 1024;

/// A stream of bytes that both sides can compute: a pseudo-random block, repeated with a block
/// number in front, so that lost, duplicated or exchanged data is noticed.
///
/// Comparing costs a small fraction of a hash, so it does not limit the speed.
pub(crate) struct Content {
    block: Vec<u8>,
    position: u64,
}

/// The received bytes differ from those that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

impl Content {
    pub(crate) fn new() -> Self {
        // xorshift64 (Marsaglia 2003): it has no pattern from which offloads or compression could
        // benefit.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()
        });
        Self {
            block: words.take(BLOCK / 8).flatten().collect(),
            position: 0,
        }
    }

    /// The next bytes, up to the end of a block.
    pub(crate) fn ahead(&mut self) -> &[u8] {
        let number = self.position / BLOCK as u64;
        self.block[..8].copy_from_slice(&number.to_be_bytes());
        &self.block[(self.position % BLOCK as u64) as usize..]
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.position += bytes as u64;
    }

    /// Compares with the next bytes, and advances.
    pub(crate) fn check(&mut self, mut received: &[u8]) -> Result<(), Mismatch> {
        while !received.is_empty() {
            let expected = self.ahead();
            let length = expected.len().min(received.len());
            let (now, later) = received.split_at(length);
            if now != &expected[..length] {
                return Err(Mismatch);
            }
            self.advance(length);
            received = later;
        }
        Ok(())
    }
}
