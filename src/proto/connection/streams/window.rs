//! The receive window of a connection (RFC 9000 §4.1). All that changes quinn-proto's is here.

use quinn_proto::VarInt;

use crate::packets::StreamWindows;

/// Most bytes that are taken from quinn-proto before the window is lowered by as much.
///
/// The peer may have this much credit too much for a moment, because quinn-proto gives credit as
/// bytes are taken.
const MAX_STEP_BYTES: u64 = 64 * 1024;

/// If the connection's window exceeds a stream's by less than this part of the latter, nothing is
/// kept for other streams.
///
/// quinn-proto tells the peer of no credit until it has an eighth of the connection's window. An
/// eighth of a window that is larger by a seventh is all that is free beside a stream that nobody
/// reads.
const LEAST_FOR_OTHERS: u64 = 7;

/// In how many parts the peer is told of credit while the window is not free altogether, because
/// each part is a frame to send.
///
/// A part is less than what is left beside a stream that nobody reads: that is half of
/// [`LEAST_FOR_OTHERS`], a sixteenth of the connection's window or more.
const PARTS: u64 = 32;

/// Least bytes of such a part where a window is limited, if as much is free: quinn-proto tells the
/// peer of as much by itself where the limit is 64 KiB, an eighth of it.
const LEAST_PART_BYTES: u64 = 8 * 1024;

/// The windows for received data that peers are given (RFC 9000 §4.1), in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindows {
    /// The window with which a connection begins; it grows in proportion to that of a stream.
    pub(crate) connection: u64,
    pub(crate) stream: StreamWindows,
}

impl ReceiveWindows {
    /// The connection's window beside such a window of a stream.
    pub(super) fn connection_beside(self, stream: u64) -> u64 {
        (self.ratio() * stream as f64) as u64
    }

    /// The window of a stream beside such a window of the connection.
    pub(super) fn stream_beside(self, connection: u64) -> u64 {
        (connection as f64 / self.ratio()) as u64
    }

    /// The least window of a stream whose sender gets so far ahead of its reader: by the window
    /// and by what is [taken out](Self::for_one).
    pub(super) fn stream_for(self, ahead: u64) -> u64 {
        (ahead as f64 * 2.0 / (1.0 + self.ratio())) as u64
    }

    fn ratio(self) -> f64 {
        self.connection as f64 / self.stream.first as f64
    }

    /// How far behind the reader of a stream may be before no more is taken out for it: half of
    /// what the connection's window has beyond the stream's own. The other half is left to other
    /// streams, unless nothing is kept for them.
    pub(super) fn for_one(self, stream: u64) -> u64 {
        let beyond = self.connection_beside(stream).saturating_sub(stream);
        if beyond < stream / LEAST_FOR_OTHERS {
            return u64::MAX;
        }
        beyond / 2
    }
}

/// How much a peer may send ahead of what the application has read.
///
/// quinn-proto takes a byte for read when it has handed it out, and lets the peer send another one.
/// It has handed out two kinds of bytes: those that the application has, and those that wait for it
/// in our memory. The second kind is withheld here.
pub(super) struct ReceiveWindow {
    /// The window if memory were no concern.
    size: u64,
    /// The largest `size` so far. The peer may still use the credit that it got then.
    largest: u64,
    /// The window that the memory allows, beside other connections.
    limit: u64,
    /// The window is never below this, whatever the limit.
    floor: u64,
    withheld: u64,
    /// Bytes in quinn-proto that the application has not read, at most.
    unread: u64,
    /// What quinn-proto has.
    current: u64,
    /// Credit that the peer had when the window was lowered. It cannot be taken back (RFC 9000
    /// §4.1): quinn-proto gives less for the next bytes that are read. This is never less than
    /// quinn-proto's own debt, which bytes that are dropped reduce as soon as they come. Here they
    /// do so when the final size of their stream is known.
    debt: u64,
    /// Credit that quinn-proto may have given without telling the peer.
    untold: u64,
}

/// What happens to quinn-proto's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adjusted {
    /// Nothing, or it was lowered.
    Quietly,
    /// It was raised, and the peer is told of all credit.
    Raised,
    /// It stays, and the peer is told of all credit.
    Told,
}

impl ReceiveWindow {
    pub(super) fn new(configured: u64) -> Self {
        Self {
            size: configured,
            largest: configured,
            limit: u64::MAX,
            floor: 0,
            withheld: 0,
            unread: 0,
            current: configured,
            debt: 0,
            untold: 0,
        }
    }

    /// The window if memory were no concern.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How far the peer may be ahead of readers, with the credit that it still has from before the
    /// window shrank.
    pub(super) fn reach(&self) -> u64 {
        let reach = self.size.max(self.withheld).saturating_add(self.debt);
        reach.min(self.largest)
    }

    /// Peers may still use the largest size so far, so that is remembered.
    pub(super) fn set_size(&mut self, bytes: u64) {
        self.size = bytes;
        self.largest = self.largest.max(bytes);
    }

    /// Most bytes that may be taken from quinn-proto before [`give_credit`](Self::give_credit).
    pub(super) fn step(&self) -> u64 {
        (self.size / PARTS).clamp(1, MAX_STEP_BYTES)
    }

    /// The least window, however little memory is left.
    pub(super) fn set_floor(&mut self, bytes: u64) {
        self.floor = bytes;
    }

    /// The peer shall get no more than this, but always enough to go on.
    pub(super) fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes.max(self.step());
    }

    /// Notes that `after` bytes wait for the application in our memory, instead of `before`.
    pub(super) fn withhold(&mut self, before: u64, after: u64) {
        self.withheld = self.withheld - before + after;
    }

    /// Notes how many bytes in quinn-proto the application has not read, at most.
    pub(super) fn set_unread(&mut self, bytes: u64) {
        self.unread = bytes;
    }

    #[cfg(test)]
    pub(super) fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Notes bytes for which quinn-proto has given credit, because it has handed them out, or
    /// because nobody will read them.
    pub(super) fn credited(&mut self, bytes: u64) {
        let paid = bytes.min(self.debt);
        self.debt -= paid;
        self.note_untold(bytes - paid);
    }

    /// Notes bytes for which quinn-proto may have given credit, without telling the peer.
    pub(super) fn note_untold(&mut self, bytes: u64) {
        self.untold = self.untold.saturating_add(bytes);
    }

    /// Has quinn-proto give as much credit as it should; `true` if the peer is to be told.
    pub(super) fn give_credit(&mut self, quic: &mut quinn_proto::Connection) -> bool {
        let before = self.current;
        let adjusted = self.adjust();
        let mut set = |bytes| {
            if let Ok(window) = VarInt::from_u64(bytes) {
                quic.set_receive_window(window);
            }
        };
        if self.current != before {
            set(self.current);
        }
        if adjusted == Adjusted::Told {
            // quinn-proto 0.11.19 tells the peer of all credit when its window is raised. The byte
            // by which it is raised here is part of the debt.
            set(self.current - 1);
            set(self.current);
        }
        adjusted != Adjusted::Quietly
    }

    /// How far the peer may be ahead of readers.
    fn target(&self) -> u64 {
        self.size.min(self.limit.max(self.floor))
    }

    fn adjust(&mut self) -> Adjusted {
        let target = self.target().saturating_sub(self.withheld);
        if target < self.current {
            self.debt = self.debt.saturating_add(self.current - target);
            self.current = target;
        } else if self.raise(target) {
            self.untold = 0;
            return Adjusted::Raised;
        }
        let is_narrowed = 0 < self.current && self.current < self.size;
        if is_narrowed && self.untold >= self.part().max(1) {
            self.untold = 0;
            self.debt = self.debt.saturating_add(1);
            return Adjusted::Told;
        }
        Adjusted::Quietly
    }

    /// Raises the window if that is worth a frame. Returns whether it is.
    fn raise(&mut self, target: u64) -> bool {
        // What the peer still has from before counts.
        let mut raised = target.saturating_sub(self.debt);
        if self.withheld == 0 {
            // But it may all have been used up for what was dropped, and the peer must be able to
            // go on.
            raised = raised.max(target.min(self.step()));
        }
        let more = raised.saturating_sub(self.current);
        let is_free = self.withheld == 0 && self.debt == 0;
        // A small window soon grows if it was small because of credit that was used up since.
        let is_worth_a_frame = is_free
            || more >= self.part().min(self.current)
            || more.saturating_add(self.untold) >= self.part();
        if more == 0 || !is_worth_a_frame {
            return false;
        }
        self.current = raised;
        true
    }

    /// How much credit is worth a frame.
    fn part(&self) -> u64 {
        // All that is free may be less, and the peer must be told of that before it is used up.
        let free = self.current.saturating_sub(self.unread);
        let least = (self.size / PARTS).min(LEAST_PART_BYTES).min(free / 2);
        least.max(self.target() / PARTS)
    }
}

#[cfg(test)]
mod tests {
    use std::mem;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 1_000_000;

    #[test]
    fn window_for_a_sender_that_is_ahead_is_the_one_that_lets_it_get_so_far() {
        for connection in [15_000_000, 30_000_000, 100_000_000] {
            let windows = ReceiveWindows {
                connection,
                stream: StreamWindows {
                    first: 10_000_000,
                    largest: 40_000_000,
                },
            };
            for stream in [10_000_000, 25_000_000, 40_000_000] {
                let ahead = stream + windows.for_one(stream);
                assert_eq!(windows.stream_for(ahead), stream);
            }
        }
    }

    /// What quinn-proto and the peer make of it.
    struct Connection {
        window: ReceiveWindow,
        /// As quinn-proto has it.
        current: u64,
        debt: u64,
        /// Up to where the peer may send, of all streams together, and up to where it was told.
        max_data: u64,
        told: u64,
        sent: u64,
        /// What quinn-proto, we and the application have.
        unread: u64,
        waiting: u64,
        /// What of these is of a stream that nobody reads.
        stalled: [u64; 2],
        /// MAX_DATA frames, at most, and whether there is one to send.
        frames: u64,
        is_telling: bool,
    }

    impl Connection {
        fn new() -> Self {
            Self::with(WINDOW)
        }

        fn with(window: u64) -> Self {
            Self {
                window: ReceiveWindow::new(window),
                current: window,
                debt: 0,
                max_data: window,
                told: window,
                sent: 0,
                unread: 0,
                waiting: 0,
                stalled: [0; 2],
                frames: 0,
                is_telling: false,
            }
        }

        /// Returns how much is sent.
        fn send(&mut self, bytes: u64) -> u64 {
            self.frames += u64::from(mem::take(&mut self.is_telling));
            let bytes = bytes.min(self.told - self.sent);
            self.sent += bytes;
            self.unread += bytes;
            self.give_credit();
            bytes
        }

        fn credit(&mut self, bytes: u64) {
            self.unread -= bytes;
            let paid = bytes.min(self.debt);
            self.debt -= paid;
            self.max_data += bytes - paid;
            if self.max_data - self.told >= self.current / 8 {
                self.told = self.max_data;
                self.is_telling = true;
            }
        }

        /// Nobody reads a stream: these bytes of it are in our memory and in quinn-proto.
        fn stall(&mut self, waiting: u64, unread: u64) {
            self.send(waiting);
            self.take_out(waiting);
            self.send(unread);
            self.stalled = [self.waiting, self.unread];
        }

        fn give_credit(&mut self) {
            self.window.withhold(self.window.withheld, self.waiting);
            self.window.set_unread(self.unread);
            let adjusted = self.window.adjust();
            self.set(self.window.current);
            if adjusted == Adjusted::Told {
                self.set(self.current - 1);
                self.set(self.current + 1);
            }
        }

        fn set(&mut self, current: u64) {
            if current > self.current {
                self.max_data += current - self.current;
                self.told = self.max_data;
                self.is_telling = true;
            }
            self.debt += self.current.saturating_sub(current);
            self.current = current;
        }

        fn take_out(&mut self, bytes: u64) {
            let mut left = bytes.min(self.unread);
            while left > 0 {
                let step = left.min(self.window.step());
                self.credit(step);
                self.waiting += step;
                self.window.credited(step);
                self.give_credit();
                left -= step;
            }
        }

        /// The application reads, from quinn-proto if nothing waits.
        fn read(&mut self, bytes: u64) {
            let [waiting, unread] = self.stalled;
            let taken = bytes.min(self.waiting - waiting);
            self.waiting -= taken;
            let direct = (bytes - taken).min(self.unread - unread);
            if self.waiting == waiting {
                self.credit(direct);
                self.window.credited(direct);
            }
            if taken + direct > 0 {
                self.give_credit();
            }
        }

        /// The application drops a stream with this number of bytes, or the peer resets it.
        fn drop_stream(&mut self, bytes: u64) {
            let [waiting, unread] = self.stalled;
            self.waiting -= bytes.min(self.waiting - waiting);
            self.credit(bytes.min(self.unread - unread));
            self.give_credit();
        }

        fn resize(&mut self, bytes: u64) {
            self.window.set_size(bytes);
            self.give_credit();
        }

        fn limit(&mut self, bytes: u64) {
            self.window.set_limit(bytes);
            self.give_credit();
        }

        fn outstanding(&self) -> u64 {
            self.max_data - self.sent
        }

        /// This, or a byte that was given to tell the peer of the rest.
        fn assert_outstanding(&self, expected: u64) {
            let outstanding = self.outstanding();
            assert!(
                (expected..=expected + 1).contains(&outstanding),
                "{outstanding}"
            );
        }
    }

    #[test]
    fn bytes_taken_out_count_until_they_are_read() {
        let mut connection = Connection::new();
        connection.send(u64::MAX);
        connection.take_out(u64::MAX);
        // One step too much, for a moment.
        let step = connection.window.step();
        connection.assert_outstanding(step);
        connection.send(u64::MAX);
        connection.take_out(u64::MAX);
        connection.assert_outstanding(0);
        connection.read(WINDOW + step + 1);
        assert_eq!(connection.outstanding(), WINDOW);
    }

    #[test]
    fn credit_that_was_lowered_and_raised_again_is_not_given_twice() {
        let mut connection = Connection::new();
        for _ in 0..100 {
            connection.limit(WINDOW / 2);
            connection.limit(WINDOW);
        }
        assert_eq!(connection.outstanding(), WINDOW);
        connection.limit(WINDOW / 2);
        connection.send(WINDOW);
        connection.read(WINDOW);
        connection.assert_outstanding(WINDOW / 2);
        connection.limit(WINDOW);
        assert_eq!(connection.outstanding(), WINDOW);
    }

    #[test]
    fn peer_gets_something_whatever_the_limit() {
        let mut connection = Connection::new();
        connection.limit(0);
        for _ in 0..100 {
            connection.send(u64::MAX);
            assert!(connection.unread > 0, "the peer is blocked for ever");
            connection.read(u64::MAX);
        }
    }

    #[test]
    fn window_that_has_grown_and_shrunk_is_what_it_was() {
        let mut connection = Connection::new();
        connection.window.set_size(4 * WINDOW);
        connection.give_credit();
        assert_eq!(connection.outstanding(), 4 * WINDOW);
        connection.send(u64::MAX);
        connection.take_out(u64::MAX);
        let step = connection.window.step();
        connection.window.set_size(WINDOW);
        connection.give_credit();
        // What it has it keeps, and nothing is added before as much is read.
        connection.read(3 * WINDOW);
        assert!(
            connection.outstanding() <= step,
            "{}",
            connection.outstanding()
        );
        connection.read(u64::MAX);
        connection.send(u64::MAX);
        connection.read(u64::MAX);
        assert_eq!(connection.outstanding(), WINDOW);
    }

    #[test]
    fn large_window_for_which_there_is_little_memory_is_given_back_in_small_parts() {
        let mut connection = Connection::new();
        connection.window.set_size(40 * WINDOW);
        connection.give_credit();
        connection.limit(WINDOW);
        // A byte of it comes back each time that the peer is told of credit.
        while connection.debt > 1 {
            connection.send(u64::MAX);
            connection.read(u64::MAX);
        }
        connection.send(u64::MAX);
        connection.take_out(u64::MAX);
        for _ in 0..10 {
            connection.read(WINDOW / 20);
        }
        assert!(
            connection.outstanding() >= WINDOW / 2 - WINDOW / PARTS,
            "{}",
            connection.outstanding()
        );
    }

    #[test]
    fn reader_beside_a_stalled_stream_is_told_of_credit_in_parts() {
        const READS: u64 = 100_000;
        let mut connection = Connection::with(15 * WINDOW);
        connection.stall(5 * WINDOW / 2, 10 * WINDOW);
        connection.frames = 0;
        let mut read = 0;
        for _ in 0..READS {
            read += connection.send(1400);
            connection.read(u64::MAX);
        }
        assert_eq!(read, 1400 * READS);
        let parts = read / (15 * WINDOW / PARTS);
        assert!(
            connection.frames <= parts + 1,
            "{} of {parts}",
            connection.frames
        );
    }

    #[test]
    fn reader_under_a_limit_is_told_of_credit_no_more_often_than_by_quinn_proto() {
        for limit in [32 * 1024, 64 * 1024, 256 * 1024] {
            let mut connection = Connection::with(15 * WINDOW);
            connection.limit(limit);
            while connection.debt > 1 {
                connection.send(1400);
                connection.read(u64::MAX);
            }
            connection.frames = 0;
            let mut read = 0;
            for _ in 0..10_000 {
                read += connection.send(1400);
                connection.read(u64::MAX);
            }
            assert_eq!(read, 14_000_000);
            // The step is the least window.
            let part = (limit.max(connection.window.step()) / 8).min(8 * 1024);
            let most = read / part;
            assert!(
                connection.frames <= most + 1,
                "{} of {most} below {limit}",
                connection.frames
            );
        }
    }

    /// Another stream has all that the limit lets the peer send but a little.
    #[test]
    fn reader_under_a_limit_is_told_of_what_is_free_beside_a_stalled_stream() {
        for free in [5_000, 8_000, 12_000, 20_000] {
            let mut connection = Connection::with(15 * WINDOW);
            connection.limit(128 * 1024);
            while connection.debt > 1 {
                connection.send(1400);
                connection.read(u64::MAX);
            }
            connection.stall(0, 128 * 1024 - free);
            for _ in 0..1000 {
                assert!(connection.send(1400) > 0, "{free}");
                connection.read(u64::MAX);
            }
        }
    }

    #[test]
    fn credit_is_told_when_little_is_free_although_nothing_is_read() {
        let mut connection = Connection::with(15 * WINDOW);
        connection.limit(64 * 1024);
        while connection.debt > 1 {
            connection.send(1400);
            connection.read(u64::MAX);
        }
        connection.read(u64::MAX);
        connection.send(6_000);
        connection.read(u64::MAX);
        connection.stall(0, u64::MAX);
        assert!(connection.send(1) > 0);
    }

    #[test]
    fn limit_takes_no_more_than_down_to_the_floor() {
        let mut connection = Connection::new();
        connection.window.set_floor(WINDOW / 2);
        connection.limit(0);
        for _ in 0..4 {
            connection.send(u64::MAX);
            connection.read(u64::MAX);
        }
        connection.assert_outstanding(WINDOW / 2);
        connection.window.set_floor(2 * WINDOW);
        connection.give_credit();
        assert_eq!(connection.outstanding(), WINDOW);
    }

    #[test]
    fn credit_that_was_used_for_dropped_streams_comes_back_in_a_few_round_trips() {
        let mut connection = Connection::with(15 * WINDOW);
        connection.limit(0);
        connection.send(u64::MAX);
        connection.drop_stream(u64::MAX);
        connection.limit(u64::MAX);
        for _ in 0..8 {
            connection.send(u64::MAX);
            connection.read(u64::MAX);
        }
        assert!(
            connection.outstanding() >= 7 * WINDOW,
            "{}",
            connection.outstanding()
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Send(u64),
        TakeOut(u64),
        Read(u64),
        Drop(u64),
        Limit(u64),
        Resize(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let bytes = prop_oneof![0..1000_u64, 0..2 * WINDOW];
        (0..6, bytes).prop_map(|(kind, bytes)| match kind {
            0 => Act::Send(bytes),
            1 => Act::TakeOut(bytes),
            2 => Act::Read(bytes),
            3 => Act::Drop(bytes),
            4 => Act::Limit(bytes),
            _ => Act::Resize(bytes),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        /// Of the stalled one, quinn-proto has up to its window, and we have half of the rest.
        #[test]
        fn stalled_stream_leaves_some_credit_to_others(
            stream in prop_oneof![10_000..1_000_000_u64, 1_000_000..44_000_000_u64],
            ratio in prop_oneof![1.143..1.6, 1.1..8.0],
            (waiting, unread) in (0.0..=1.0, 0.5..=1.0),
            limit in prop_oneof![Just(1.0), 0.0..1.0],
            pauses in proptest::collection::vec((0.0..0.5, 0.0001..0.125), 1..20),
        ) {
            let part = |bytes: u64, part: f64| (bytes as f64 * part) as u64;
            let windows = ReceiveWindows {
                connection: part(stream, ratio),
                stream: StreamWindows { first: stream, largest: stream },
            };
            let window = windows.connection_beside(stream);
            let for_one = windows.for_one(stream);
            // Otherwise nothing is kept for others.
            prop_assume!(for_one < u64::MAX);
            let waiting = part(for_one, waiting);
            let unread = part(stream, unread);
            let mut connection = Connection::with(window);
            connection.stall(waiting, unread);
            // What the stalled one has, and a little for the others.
            let least = waiting + unread + window / 16;
            connection.limit(window.min(least) + part(window.saturating_sub(least), limit));
            for (taken_out, burst) in pauses {
                let sent = connection.send(part(stream, taken_out));
                connection.take_out(sent);
                for _ in 0..40 {
                    connection.read(u64::MAX);
                    prop_assert!(connection.send(part(stream, burst).max(1)) > 0);
                }
                connection.read(u64::MAX);
            }
        }

        #[test]
        fn memory_is_bounded_and_the_peer_is_never_stuck(
            acts in proptest::collection::vec(act(), 1..200),
            limits in any::<bool>(),
        ) {
            let mut connection = Connection::new();
            for act in acts {
                match act {
                    Act::Send(bytes) => {
                        connection.send(bytes);
                    }
                    Act::TakeOut(bytes) => connection.take_out(bytes),
                    Act::Read(bytes) => connection.read(bytes),
                    Act::Drop(bytes) => connection.drop_stream(bytes),
                    Act::Limit(bytes) if limits => connection.limit(bytes),
                    Act::Resize(bytes) if limits => connection.resize(WINDOW + bytes),
                    Act::Limit(_) | Act::Resize(_) => {}
                }
                let here = connection.unread + connection.waiting;
                let most = connection.window.reach() + 2 * MAX_STEP_BYTES;
                prop_assert!(here + connection.outstanding() <= most);
            }
            connection.resize(WINDOW);
            connection.limit(u64::MAX);
            // All is read, and the peer goes on, soon with all of its window.
            for _ in 0..120 {
                connection.read(u64::MAX);
                connection.read(u64::MAX);
                prop_assert!(connection.send(u64::MAX) > 0);
            }
            connection.read(u64::MAX);
            prop_assert_eq!(connection.outstanding(), WINDOW);
        }
    }
}
