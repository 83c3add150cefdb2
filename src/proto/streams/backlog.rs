//! What quinn-proto holds of a stream. It does not tell, so these are upper bounds.

/// Pieces of a stream that pile up in quinn-proto before they are taken out: two turns of
/// datagrams.
///
/// Until then an application that keeps up has read them, and each costs one copy less. What a
/// frame costs quinn-proto grows with the pieces that it has, once they are small.
pub(super) const PILE: u8 = 128;

/// A datagram that has just arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    /// Differs from that of the one before it.
    pub(super) number: u32,
    /// The memory that it lies in, all of which quinn-proto keeps for as long as it keeps a byte of
    /// it.
    pub(super) held: u32,
}

/// What has arrived of one stream and was not taken from quinn-proto.
///
/// Each stream has one of these, so they are small. What is counted stays at its largest value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    held: u32,
    /// The datagram that the last frame came in.
    last: u32,
    pieces: u16,
    /// Frames that came in the same datagram as another one.
    crumbs: u8,
    is_news: bool,
}

impl Backlog {
    /// Notes a frame. Where the stream has `gaps`, it may come apart into as many pieces: what lies
    /// between them has arrived before.
    pub(super) fn add(&mut self, arrival: Arrival, gaps: u32) {
        let is_crumb = self.is_news && self.last == arrival.number;
        self.is_news = true;
        self.last = arrival.number;
        if is_crumb {
            self.crumbs = self.crumbs.saturating_add(1);
            self.pieces = self.pieces.saturating_add(1);
            return;
        }
        self.held = self.held.saturating_add(arrival.held);
        // All frames of a datagram together have no more bytes than it; between two pieces there is
        // one at least.
        let parts = gaps.min(arrival.held / 2);
        let parts = u16::try_from(parts).unwrap_or(u16::MAX);
        self.pieces = self.pieces.saturating_add(1).saturating_add(parts);
    }

    /// Notes that so many bytes were taken, and whether that was all of a piece.
    ///
    /// The memory that they lay in is only free when all of it was taken, and nobody knows what
    /// else lies there. So this takes off little; [`clear`](Self::clear) takes off the rest.
    pub(super) fn took(&mut self, bytes: usize, is_whole_piece: bool) {
        self.held = self.held.saturating_sub(bytes as u32);
        if is_whole_piece {
            self.pieces = self.pieces.saturating_sub(1);
        }
    }

    /// Notes that nothing is left, without having been told that there is nothing more to read.
    pub(super) fn empty(&mut self) {
        *self = Self {
            last: self.last,
            is_news: self.is_news,
            ..Self::default()
        };
    }

    /// Notes that nothing is left.
    pub(super) fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// Notes that there is nothing to read before another frame arrives.
    pub(super) fn block(&mut self) {
        self.is_news = false;
    }

    /// Whether a frame has arrived since there was nothing to read.
    pub(super) fn is_news(&self) -> bool {
        self.is_news
    }

    /// Whether there is certainly nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// Whether there may be many pieces to sort.
    pub(super) fn is_pile(&self) -> bool {
        self.pieces > PILE.into()
    }

    /// Whether many of them are small.
    pub(super) fn is_crumbled(&self) -> bool {
        self.crumbs > PILE
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> u64 {
        self.held.into()
    }
}
