//! What is sent, and the check of what is received.

/// Bytes of one block.
const BLOCK: usize = 64 * 1024;

/// A stream of bytes that both sides know: a pseudo-random block again and again, each time with its
/// number in front, so that nothing can be lost, doubled or exchanged unnoticed.
///
/// Comparing with it costs a small fraction of what a hash does, so it does not decide the speed.
pub(crate) struct Content {
    block: Vec<u8>,
    position: u64,
}

/// The received bytes are not those that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

impl Content {
    pub(crate) fn new() -> Self {
        // xorshift64 (Marsaglia 2003): no pattern that offloads or compression could play on.
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
