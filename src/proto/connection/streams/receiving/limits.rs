//! How much memory a connection may hold for received data, and what is taken out of quinn-proto
//! when it holds more.

use super::{
    super::{Streams, reassembly::PAGE_BYTES, stopped::RANGE_BYTES},
    Receiving,
};

/// Memory for received data beyond the receive window: datagrams are larger than what they carry.
const SLACK_BYTES: u64 = 512 * 1024;

/// The same for each stream, whose first and last page need not be full.
const SLACK_OF_A_STREAM: u64 = 2 * PAGE_BYTES as u64;

/// How many streams may have that in any case.
const LEAST_STREAMS: u64 = 256;

/// When memory is taken out of quinn-proto because it is too much, by how much it is made less than
/// it may be. To find the streams with most of it takes a look at each.
const RELIEF_BYTES: u64 = 256 * 1024;

/// Bytes of a window that has grown for one more byte of that memory. A datagram of 1200 bytes, the
/// smallest there are in a transfer, has up to 45 bytes that are not data; half of that is in
/// the slack even for the largest window.
const BYTES_PER_SLACK: u64 = 48;

/// Gaps that a connection may have in any case, with a little in each packet.
const LEAST_GAPS: u64 = 4096;

/// Bytes of the first receive window for one more gap.
///
/// A sender that loses every other packet of 1200 bytes, the smallest there are, has one for each
/// two of them. A gap takes some 90 bytes, half of them in quinn-proto. A window that has grown
/// allows no more gaps: with the default settings, a sender may lose every other of 20,000 packets,
/// which are 25 MB or more.
const BYTES_PER_GAP: u64 = 2400;

/// What a gap counts for in bytes of memory: a range there, and as much here.
const GAP_BYTES: u64 = 2 * RANGE_BYTES;

impl Receiving {
    /// Memory for received data, at most.
    pub(in super::super) fn held_bytes(&self) -> u64 {
        self.data_bytes() + u64::from(self.gaps) * GAP_BYTES
    }

    /// Memory that quinn-proto keeps for the pieces of later streams, and of streams that were
    /// stopped; and that of the sizes of open streams.
    pub(in super::super) fn kept_bytes(&self) -> u64 {
        let sizes = self.final_sizes.as_ref().map_or(0, |sizes| sizes.bytes());
        self.places.bytes() + self.stopped.bytes() + sizes
    }

    fn data_bytes(&self) -> u64 {
        self.backlog + u64::from(self.pages) * PAGE_BYTES as u64
    }

    /// Gaps that quinn-proto has, at most.
    fn all_gaps(&self) -> u64 {
        u64::from(self.gaps) + u64::from(self.stopped.gaps())
    }

    /// Whether there are more gaps than there is a reason for.
    pub(super) fn exceeds_limits(&self) -> bool {
        self.all_gaps() > self.most_gaps()
    }

    fn most_gaps(&self) -> u64 {
        LEAST_GAPS + self.windows.connection / BYTES_PER_GAP
    }

    /// Whether there is more memory for received data than this number of streams may have, or
    /// would be with `more`.
    pub(super) fn is_over(&self, streams: usize, more: u64) -> bool {
        let reach = self.window.reach();
        let slack = SLACK_BYTES
            + SLACK_OF_A_STREAM * LEAST_STREAMS.max(streams as u64)
            + reach.saturating_sub(self.windows.connection) / BYTES_PER_SLACK;
        self.backlog > 0 && self.data_bytes() + more > reach.saturating_add(slack)
    }
}

impl Streams<'_> {
    /// Takes everything out of the streams with most memory in quinn-proto, until there is room.
    pub(super) fn relieve(&mut self) {
        let streams = self.streams.states.len();
        // First those of which less may be left than is counted: what is left of them is moved.
        let mut held: Vec<_> = (self.streams.states.iter())
            .map(|(&id, stream)| (stream.receive.backlog(), id))
            .map(|(backlog, id)| (backlog.may_be_merged(), backlog.held(), id))
            .filter(|&(_, held, _)| held > 0)
            .collect();
        #[cfg(test)]
        {
            self.streams.receiving.looked_at += streams;
        }
        held.sort_unstable_by(|one, other| other.cmp(one));
        // A datagram with frames of many streams counts for each of them, so more is taken out the
        // more quinn-proto holds.
        let relief = RELIEF_BYTES.max(self.streams.receiving.backlog / 4);
        for (_, _, id) in held {
            if !self.streams.receiving.is_over(streams, relief) {
                break;
            }
            self.take_out(id, true);
        }
    }

    /// Takes out what may be counted too high, so that no more is counted than is held; with `all`,
    /// also from streams whose readers are far behind. Returns whether there was something to
    /// take.
    pub(crate) fn count_exactly(&mut self, all: bool) -> bool {
        let receiving = &self.streams.receiving;
        let counted_high: Vec<_> = (self.streams.states.iter())
            .filter(|(_, stream)| stream.receive.may_overcount())
            .filter(|(_, stream)| {
                let part = &stream.receive;
                all || part.has_caught_up() || !receiving.leaves(part)
            })
            .map(|(&id, _)| id)
            .collect();
        for &id in &counted_high {
            self.take_out(id, true);
        }
        !counted_high.is_empty()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::super::{places, window::ReceiveWindows},
        *,
    };
    use crate::packets::StreamWindows;

    const GROWN: u64 = 66_000_000;

    fn receiving(connection: u64, growth: u64) -> Receiving {
        let windows = ReceiveWindows {
            connection,
            stream: StreamWindows {
                first: 10_000_000,
                largest: 10_000_000 + growth,
            },
        };
        Receiving::new(windows, None)
    }

    /// With the default settings, and a window that has grown to the largest.
    pub(in super::super) fn grown() -> Receiving {
        let mut receiving = receiving(15_000_000, 34_000_000);
        receiving.window.set_size(GROWN);
        receiving
    }

    /// With the preset for little memory.
    pub(in super::super) fn constrained() -> Receiving {
        let windows = ReceiveWindows {
            connection: 768 * 1024,
            stream: StreamWindows {
                first: 512 * 1024,
                largest: 512 * 1024,
            },
        };
        Receiving::new(windows, None)
    }

    #[test]
    fn grown_window_may_be_full_of_small_datagrams() {
        let mut receiving = grown();
        receiving.backlog = GROWN / 1155 * 1200;
        assert!(!receiving.is_over(256, 0));
        receiving.backlog += 1536 * 1024;
        assert!(receiving.is_over(256, 0));
    }

    #[test]
    fn memory_is_what_quinn_proto_holds_and_our_pages_and_gaps() {
        let mut receiving = grown();
        let mut held = 0;
        assert_eq!(receiving.held_bytes(), held);
        receiving.backlog = 1200;
        held += 1200;
        assert_eq!(receiving.held_bytes(), held);
        receiving.pages = 3;
        held += 3 * PAGE_BYTES as u64;
        assert_eq!(receiving.held_bytes(), held);
        receiving.gaps = 5;
        held += 5 * GAP_BYTES;
        assert_eq!(receiving.held_bytes(), held);
    }

    /// What decision 25 adds up beside a window: with the default settings, and in addition for a
    /// window that is larger.
    const BESIDE: u64 = 16 * 1024 * 1024;
    const LARGER: u64 = (GROWN - 15_000_000) / 12;

    /// Of the index of a page, with what the allocator needs for both.
    const INDEX_BYTES: u64 = 64;

    fn beside(receiving: &mut Receiving, streams: u32) -> u64 {
        let reach = receiving.window.reach();
        receiving.backlog = reach;
        while !receiving.is_over(streams as usize, 0) {
            receiving.backlog += 1024;
        }
        let slack = receiving.backlog - reach;
        let index = reach / PAGE_BYTES as u64 * INDEX_BYTES;
        let gaps = receiving.most_gaps() * GAP_BYTES;
        places::tests::most_bytes(streams) + slack + index + gaps
    }

    #[test]
    fn everything_beside_the_window_is_less_than_decision_25_says() {
        let first = beside(&mut receiving(15_000_000, 0), 256);
        assert!(first < BESIDE, "{first}");
        for mut larger in [grown(), receiving(GROWN, 0)] {
            let larger = beside(&mut larger, 256);
            assert!(larger < BESIDE + LARGER, "{larger}");
        }
    }

    #[test]
    fn more_streams_take_less_than_a_mib_and_8_kib_each() {
        for streams in [257, 300, 4096, 65_536, 131_072] {
            let more = 1024 * 1024 + u64::from(streams - 256) * 8 * 1024;
            let first = beside(&mut receiving(15_000_000, 0), streams);
            assert!(first < BESIDE + more, "{streams} {first}");
            let larger = beside(&mut grown(), streams);
            assert!(larger < BESIDE + LARGER + more, "{streams} {larger}");
        }
    }

    /// So that a look at all streams is worth it.
    #[test]
    fn pages_alone_are_never_too_much() {
        let mut receiving = grown();
        let withheld = receiving.window.reach() + receiving.window.step();
        for streams in [1, 256, 65_536] {
            receiving.pages = (withheld / PAGE_BYTES as u64) as u32 + 2 * streams;
            receiving.backlog = 1;
            assert!(
                !receiving.is_over(streams as usize, RELIEF_BYTES),
                "{streams}"
            );
        }
    }
}
