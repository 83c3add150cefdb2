//! Counts the memory that quinn-proto has allocated for pieces of streams, because it never frees
//! it.
//!
//! quinn-proto keeps it for later streams of the connection. So what counts is how many streams
//! there were at once, and how many of them ever had more than a few pieces.

use super::backlog::PILE;

/// More pieces than this are taken out of a stream that has no room for a pile.
///
/// An honest sender rarely has more of a stream under way that the application does not read.
const FEW: u8 = 8;

/// Most pieces that may be found of such a stream: where it is read in any order, twice as many as
/// there were frames, with one frame too many.
const MOST_OF_FEW: u32 = 2 * (FEW as u32 + 1);

/// Most pieces that may be found when a pile is taken out: the pile, and as many one-byte frames as
/// a datagram of 1472 bytes has room for.
pub(super) const MOST_PIECES: u32 = PILE as u32 + 224;

/// Streams that may have a pile, of all that there are at once. They take 10 MB at most.
///
/// With as many streams as this or fewer, each may have one. Otherwise this many may, in the life
/// of the connection.
const STREAMS_WITH_PILES: u32 = 256;

/// Streams, in the life of a connection, that may have more pieces than that, up to the 2048 that
/// quinn-proto has at most.
///
/// A stream that nobody reads has a window's worth of them, if it is left alone.
const LARGE_STREAMS: u8 = 8;

const MOST_PIECES_OF_LARGE: u32 = 2048;

/// Places, in the life of a connection, for streams that have no room for a pile. A datagram with
/// dozens of frames of one stream can come from an honest sender if single small packets were lost.
const SPARE_PLACES: u32 = 6144;

/// The memory of a place. quinn-proto allocates up to twice as many as it needs.
const PLACE_BYTES: u64 = 2 * 56;

/// What a connection may take of this beside what it is charged for: a few piles.
const UNCHARGED_BYTES: u64 = 64 * 1024;

/// How many pieces of a stream quinn-proto may have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    size: Size,
    /// Pieces that it had, if they were more than a few.
    counted: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Size {
    #[default]
    Few,
    Pile,
    Large,
}

impl Room {
    /// Whether it is one of the few that may have many pieces.
    pub(super) fn is_large(self) -> bool {
        self.size == Size::Large
    }

    /// More pieces than this are taken out.
    pub(super) fn pieces(self) -> u8 {
        match self.size {
            Size::Few => FEW,
            Size::Pile | Size::Large => PILE,
        }
    }

    /// Notes a number of pieces. Returns by how much it is larger than those before.
    fn grow(&mut self, pieces: u32) -> u32 {
        let more = pieces.saturating_sub(self.counted.into());
        self.counted += more as u16;
        more
    }
}

/// Upper bound of the places that quinn-proto has allocated for the streams of a connection.
#[derive(Debug)]
pub(super) struct Places {
    /// Streams that quinn-proto may have had at once.
    streams: u32,
    /// How many of these may have room for a pile.
    piles: u32,
    /// The most pieces of one of them, and the sum of the most pieces of each.
    largest: u32,
    in_piles: u32,
    large: u8,
    spare: u32,
    /// Whether there is memory for more piles.
    may_grow: bool,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            streams: 0,
            piles: 0,
            largest: 0,
            in_piles: 0,
            large: 0,
            spare: 0,
            may_grow: true,
        }
    }

    /// Notes that there may be this number of streams at once.
    pub(super) fn note_streams(&mut self, streams: u32) {
        self.streams = self.streams.max(streams);
    }

    pub(super) fn set_may_grow(&mut self, may_grow: bool) {
        self.may_grow = may_grow;
    }

    /// Makes room for this number of pieces of a stream, if it may have a pile.
    pub(super) fn make_room(&mut self, room: &mut Room, pieces: u32) {
        if pieces <= FEW.into() || !(room.size != Size::Few || self.lets_pile(room)) {
            return;
        }
        let pieces = pieces.min(MOST_PIECES);
        self.largest = self.largest.max(pieces);
        self.in_piles += room.grow(pieces);
        self.in_piles = self.in_piles.min(self.piles * self.largest);
    }

    /// Notes how many pieces of a stream were found. Returns whether that is permitted.
    pub(super) fn found(&mut self, room: &mut Room, pieces: u32) -> bool {
        self.make_room(room, pieces);
        if pieces > MOST_PIECES {
            return self.lets_many(room);
        }
        if room.size == Size::Few && pieces > MOST_OF_FEW {
            self.spare += room.grow(pieces);
        }
        self.spare <= SPARE_PLACES
    }

    /// The memory of all places but those of streams with few pieces.
    pub(super) fn bytes(&self) -> u64 {
        let large = u32::from(self.large) * MOST_PIECES_OF_LARGE;
        let places = self.in_piles + large + self.spare;
        (u64::from(places) * PLACE_BYTES).saturating_sub(UNCHARGED_BYTES)
    }

    fn lets_pile(&mut self, room: &mut Room) -> bool {
        // A later stream may use the memory of an earlier one. So there are never more of these
        // memories than streams at once.
        let piles = (self.piles + 1).min(self.streams);
        if piles > STREAMS_WITH_PILES || !self.may_grow {
            return false;
        }
        self.piles = piles;
        room.size = Size::Pile;
        true
    }

    /// Whether a stream may have many pieces, as one has that nobody reads.
    pub(super) fn lets_many(&mut self, room: &mut Room) -> bool {
        if room.size != Size::Large {
            if self.large == LARGE_STREAMS {
                return false;
            }
            self.large += 1;
            room.size = Size::Large;
        }
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::stopped::RANGE_BYTES, *};

    /// The most that quinn-proto may take for pieces of this number of streams at once, and for the
    /// gaps between those that were not taken out.
    pub(in super::super) fn most_bytes(streams: u32) -> u64 {
        let with_piles = streams.min(STREAMS_WITH_PILES);
        let others = streams - with_piles;
        let of_large = if others == 0 {
            MOST_PIECES_OF_LARGE - MOST_PIECES
        } else {
            MOST_PIECES_OF_LARGE
        };
        let spare = if others == 0 { 0 } else { SPARE_PLACES };
        let places = with_piles * MOST_PIECES
            + others * MOST_OF_FEW
            + u32::from(LARGE_STREAMS) * of_large
            + spare;
        let ranges = with_piles * u32::from(PILE)
            + others * MOST_OF_FEW
            + u32::from(LARGE_STREAMS) * (MOST_PIECES_OF_LARGE - u32::from(PILE));
        u64::from(places) * PLACE_BYTES + u64::from(ranges) * RANGE_BYTES
    }

    fn places(streams: u32) -> Places {
        let mut places = Places::new();
        places.note_streams(streams);
        places
    }

    /// How many streams, one after the other, get room for a pile.
    fn piles(places: &mut Places, streams: u32) -> usize {
        let rooms = (0..streams).map(|_| {
            let mut room = Room::default();
            places.make_room(&mut room, 9);
            room
        });
        rooms.filter(|room| room.size == Size::Pile).count()
    }

    #[test]
    fn each_of_256_streams_at_once_may_have_a_pile_however_many_there_were_before() {
        let mut few = places(256);
        assert_eq!(piles(&mut few, 10_000), 10_000);
        few.note_streams(257);
        assert_eq!(piles(&mut few, 10_000), 0);
        assert_eq!(piles(&mut places(257), 10_000), 256);
    }

    #[test]
    fn few_pieces_need_no_room() {
        let mut places = places(1000);
        let mut room = Room::default();
        places.make_room(&mut room, 8);
        assert_eq!(piles(&mut places, 1000), 256);
        for _ in 0..10_000 {
            assert!(places.found(&mut room, MOST_OF_FEW));
        }
        assert_eq!((room.size, places.spare), (Size::Few, 0));
    }

    #[test]
    fn spare_places_are_counted_once_for_each_stream() {
        let mut places = places(1000);
        piles(&mut places, 256);
        let mut room = Room::default();
        for pieces in [100, 200, 150, 200] {
            assert!(places.found(&mut room, pieces));
        }
        assert_eq!(places.spare, 200);
        let others = (0..1000).take_while(|_| places.found(&mut Room::default(), 200));
        assert_eq!(others.count() as u32, SPARE_PLACES / 200 - 1);
    }

    #[test]
    fn eight_streams_may_have_many_pieces() {
        let mut places = places(20);
        let mut rooms = [Room::default(); 9];
        let lets = (rooms.each_mut()).map(|room| places.found(room, MOST_PIECES + 1));
        assert_eq!(lets.map(u8::from), [1, 1, 1, 1, 1, 1, 1, 1, 0]);
        assert!(places.found(&mut rooms[0], 2000));
        assert!(places.found(&mut rooms[8], MOST_PIECES));
        assert!(!places.lets_many(&mut rooms[8]));
        assert!(places.lets_many(&mut rooms[0]));
    }

    #[test]
    fn nobody_gets_room_while_memory_is_short() {
        let mut places = places(20);
        let mut room = Room::default();
        places.make_room(&mut room, 9);
        places.set_may_grow(false);
        assert_eq!(piles(&mut places, 10), 0);
        assert_eq!(room.pieces(), PILE);
        // Otherwise a slow reader would let its sender use the window of all streams.
        assert!(places.lets_many(&mut room));
        // What has come is no fault of the peer.
        assert!(places.found(&mut room, MOST_PIECES + 1));
        places.set_may_grow(true);
        assert_eq!(piles(&mut places, 10), 10);
    }

    #[test]
    fn charge_is_for_the_most_pieces_of_as_many_streams_as_there_are_at_once() {
        let mut places = places(10);
        piles(&mut places, 10);
        assert_eq!(places.bytes(), 0, "a few piles are not charged");
        places.found(&mut Room::default(), 300);
        let uncounted = |places: u64| places * PLACE_BYTES - UNCHARGED_BYTES;
        let first = places.in_piles;
        assert!(first <= 10 * 9 + 300, "{first}");
        for _ in 0..1000 {
            places.found(&mut Room::default(), 300);
        }
        assert_eq!(places.bytes(), uncounted(10 * 300));
    }
}
