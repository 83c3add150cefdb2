//! Limits on the bytes that handshakes hold until they are complete.

/// Bytes of datagrams with long headers that one handshake has received, each in its own
/// allocation: TLS holds incomplete messages, and quinn-proto data out of order.
#[derive(Debug, Default)]
pub(super) struct HandshakeBytes(usize);

/// The bytes of all handshakes of a shard.
#[derive(Debug, Default)]
pub(super) struct AllHandshakeBytes(usize);

impl HandshakeBytes {
    /// Adds bytes unless that exceeds the limits.
    pub(super) fn take(&mut self, bytes: usize, all: &mut AllHandshakeBytes) -> bool {
        let sum = self.0 + bytes;
        let fits = sum <= MAX_BYTES && (sum <= ALWAYS_BYTES || all.0 + bytes <= MAX_ALL_BYTES);
        if fits {
            self.add(bytes, all);
        }
        fits
    }

    /// Adds bytes that the handshake already holds.
    pub(super) fn add(&mut self, bytes: usize, all: &mut AllHandshakeBytes) {
        self.0 += bytes;
        all.0 += bytes;
    }

    /// The handshake has ended.
    pub(super) fn clear(&mut self, all: &mut AllHandshakeBytes) {
        all.0 -= self.0;
        self.0 = 0;
    }
}

/// The most bytes of one handshake. The largest certificate that TLS permits has 64 KiB; it is
/// refused for its size, and its sender should learn that.
const MAX_BYTES: usize = 96 * 1024;

/// Bytes that each handshake may hold in any case: an honest one has 5 to 10 KB.
const ALWAYS_BYTES: usize = 12 * 1024;

/// The most bytes of all handshakes of a shard, apart from those that each may always hold. With
/// 1024 handshakes that makes at most 36 MiB.
const MAX_ALL_BYTES: usize = 24 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: usize = 1200;

    fn fill(bytes: &mut HandshakeBytes, all: &mut AllHandshakeBytes) -> usize {
        (0..).take_while(|_| bytes.take(DATAGRAM, all)).count() * DATAGRAM
    }

    #[test]
    fn handshakes_hold_so_much_each_and_together_and_an_honest_one_has_room() {
        let mut all = AllHandshakeBytes::default();
        let mut handshakes: Vec<_> = (0..1024).map(|_| HandshakeBytes::default()).collect();
        let held: Vec<_> = handshakes
            .iter_mut()
            .map(|handshake| fill(handshake, &mut all))
            .collect();
        assert_eq!(held[0], MAX_BYTES / DATAGRAM * DATAGRAM);
        assert_eq!(held[1023], ALWAYS_BYTES / DATAGRAM * DATAGRAM);
        let sum = held.iter().sum::<usize>();
        assert!(sum <= MAX_ALL_BYTES + 1024 * ALWAYS_BYTES, "{sum}");
        for handshake in &mut handshakes {
            handshake.clear(&mut all);
        }
        assert_eq!(all.0, 0);
        assert_eq!(fill(&mut handshakes[1023], &mut all), held[0]);
    }
}
