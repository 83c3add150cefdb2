//! The streams of a connection: reading, writing, gathering of small writes, and the wakers of
//! waiting tasks.

mod backlog;
mod bandwidth;
mod blocked;
mod gather;
mod growth;
mod opening;
mod places;
mod reassembly;
mod receive_part;
mod receiving;
mod send_window;
mod stopped;
mod window;
mod write_line;
mod writing;

use std::{task::Waker, time::Instant};

use quinn_proto::VarInt;
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) use self::window::ReceiveWindows;
use self::{
    bandwidth::{Allowances, StreamShares},
    blocked::Blocked,
    gather::{Gather, Gathering},
    receive_part::{ReceivePart, RecvState},
    receiving::Receiving,
    send_window::SendWindow,
    write_line::{Ticket, WriteLine},
};
#[cfg(test)]
pub(in crate::proto) use self::{blocked::MOST_BLOCKED, receive_part::Holding, receiving::Grown};
use super::Signals;
use crate::{
    error::ConnectionError,
    packets::PacketWatch,
    proto::{bandwidth::Bandwidth, writers::Writers},
};
pub(crate) use quinn_proto::StreamId;

/// Streams that a peer may open before it has opened any.
///
/// quinn-proto has two map entries, 84 bytes, for each stream that is permitted. Most connections
/// are idle most of the time and need no more streams. With fewer, a peer that opens many streams
/// before it writes to any would have to wait, because we learn of a stream only when something is
/// written to it. Also, 100 entries fit into a map of 128 places.
pub(crate) const FIRST_PEER_STREAMS: u32 = 100;

/// Limits on the streams of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    /// The most streams that the peer may ever have open. The configurations of the server and the
    /// clients begin with [`FIRST_PEER_STREAMS`].
    pub(crate) max_peer_streams: u32,
    pub(crate) windows: ReceiveWindows,
    pub(crate) send_window: u64,
    pub(crate) largest_send_window: u64,
}

/// The streams of a connection, with the parts of the connection that they need.
///
/// Its functions are in several files:
///
/// - here: what follows when the application drops a stream
/// - `opening`: opening and accepting streams, and how many there may be
/// - `writing`: writing, gathering, finishing and resetting
/// - `receiving`: reading, stopping, and what follows from a datagram or from new windows
/// - `receiving/limits`: what is taken out of quinn-proto when the connection holds too much
/// - `bandwidth`: the bandwidth limits
pub(crate) struct Streams<'a> {
    pub(super) quic: &'a mut quinn_proto::Connection,
    pub(super) streams: &'a mut StreamStates,
    pub(super) signals: &'a mut Signals,
    /// The reason why the connection is over, if it is.
    pub(super) loss: Option<&'a ConnectionError>,
}

impl Streams<'_> {
    /// The application has dropped the stream. Ends our half with FIN, and the peer's with
    /// STOP_SENDING if it was not read to its end.
    pub(crate) fn let_go(&mut self, id: StreamId) {
        // It fails if the half is over.
        let _ = self.stop(id, VarInt::from_u32(0));
        if self.end(id, false).is_err() {
            // The connection is closed, but may go on to deliver other streams.
            let _ = self.reset(id, VarInt::from_u32(0));
        }
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return;
        };
        self.signals.forget(&mut stream.reader);
        self.signals.forget(&mut stream.writer);
        if stream.send == SendState::Finishing && !stream.gather.is_empty() {
            stream.dropped = true;
        } else {
            stream.gather.clear(&mut self.streams.gathering);
            if let Some(stream) = self.remove(id) {
                self.streams.forget_shares(id, &stream.shares);
            }
        }
    }

    fn remove(&mut self, id: StreamId) -> Option<StreamState> {
        let stream = self.streams.states.remove(&id)?;
        if self.is_own(id) {
            self.streams.own -= 1;
        }
        Some(stream)
    }

    /// Whether we have opened the stream.
    fn is_own(&self, id: StreamId) -> bool {
        id.initiator() == self.quic.side()
    }

    fn alive(&self) -> Result<(), ConnectionError> {
        match self.loss {
            None => Ok(()),
            Some(loss) => Err(loss.clone()),
        }
    }
}

/// What is known of the streams of one connection.
pub(super) struct StreamStates {
    /// The most streams that the peer may ever have open.
    max_peer_streams: u32,
    /// How many it may have open now, if none [lingers](StreamState::lingers).
    peer_streams: u32,
    /// Streams that we have opened, and hold.
    own: u32,
    /// Streams that linger.
    lingering: u32,
    /// Streams that the peer has opened and the application has not taken.
    waiting: u32,
    /// How many the application has taken, in the order of their [`StreamId::index`].
    accepted: u64,
    /// Streams that the application has closed, and that the peer may still acknowledge.
    undelivered: FxHashSet<StreamId>,
    receiving: Receiving,
    send_window: SendWindow,
    blocked: Blocked,
    states: FxHashMap<StreamId, StreamState>,
    gathering: Gathering,
    write_line: WriteLine,
    writers: Writers,
    bandwidth: Bandwidth,
    /// From the first time on that the bandwidth was limited.
    allowances: Option<Box<Allowances>>,
    /// The task that waits for a stream of the peer.
    inbound: Option<Waker>,
    /// The task that waits to open a stream.
    outbound: Option<Waker>,
    /// Whether it waits for earlier ones to be over.
    waits_for_ends: bool,
}

impl StreamStates {
    /// `watch` inspects the packets of the connection.
    pub(super) fn new(
        limits: StreamLimits,
        bandwidth: Bandwidth,
        watch: Option<&PacketWatch>,
    ) -> Self {
        Self {
            max_peer_streams: limits.max_peer_streams,
            peer_streams: limits.max_peer_streams.min(FIRST_PEER_STREAMS),
            own: 0,
            lingering: 0,
            waiting: 0,
            accepted: 0,
            undelivered: FxHashSet::default(),
            receiving: Receiving::new(limits.windows, watch),
            send_window: SendWindow::new(limits.send_window, limits.largest_send_window),
            blocked: Blocked::default(),
            states: FxHashMap::default(),
            gathering: Gathering::default(),
            write_line: WriteLine::default(),
            writers: Writers::default(),
            bandwidth,
            allowances: None,
            inbound: None,
            outbound: None,
            waits_for_ends: false,
        }
    }

    /// Streams that the application holds, or whose last bytes are still to be sent.
    pub(super) fn count(&self) -> usize {
        self.states.len() - self.waiting as usize
    }

    /// Upper bound on the written bytes that are not acknowledged, including gathered ones.
    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        self.send_window.held_bytes() + self.gathering.bytes()
    }

    /// Notes datagrams with this number of bytes as sent.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.gathering.note_sent(bytes);
    }

    /// Which streams leave it to the application how much is sent.
    pub(super) fn writers(&mut self) -> &mut Writers {
        &mut self.writers
    }

    /// How many chunks quinn-proto was given, and of how many bytes.
    #[cfg(test)]
    pub(super) fn handed_over(&self) -> (u64, u64) {
        self.gathering.handed_over()
    }

    /// How large the chunks for quinn-proto should be.
    fn chunk_bytes(&self) -> usize {
        Gathering::chunk_bytes(self.send_window.held_bytes())
    }

    /// Notes written bytes as acknowledged: this number, or all.
    pub(super) fn note_acknowledged(&mut self, bytes: u64, is_all: bool) {
        self.send_window.note_acknowledged(bytes);
        if is_all {
            self.send_window.note_all_acknowledged();
        }
    }

    /// Upper bound on the memory for received data, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.receiving.held_bytes()
    }

    /// Memory that quinn-proto keeps for the pieces of later streams.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.receiving.kept_bytes()
    }

    /// How far the peer may be ahead of readers, if the window of the connection has grown.
    pub(super) fn grown_bytes(&self) -> u64 {
        self.receiving.grown_bytes()
    }

    /// The received data, and how many pieces were moved from quinn-proto's memory to ours so far.
    #[cfg(test)]
    pub(super) fn received(&self) -> (Holding, u64) {
        self.receiving.received()
    }

    #[cfg(test)]
    pub(super) fn looked_at(&self) -> usize {
        self.receiving.looked_at()
    }

    #[cfg(test)]
    pub(super) fn grown(&self) -> Grown {
        self.receiving.grown()
    }

    /// Whether the peer has cut its data into more pieces than a bad network would.
    pub(super) fn is_too_fragmented(&self) -> bool {
        self.receiving.is_too_fragmented()
    }

    /// Notes that quinn-proto was polled until nothing was left.
    pub(super) fn note_polled(&mut self) {
        self.blocked.note_polled();
    }

    /// Whether too many streams may be listed as blocked. `frames` is how many frames
    /// MAX_STREAM_DATA have come.
    pub(super) fn has_too_many_blocked(&mut self, frames: u64) -> bool {
        self.blocked.is_too_long(frames)
    }

    /// When the limits on bandwidth let more pass, if something waits for that.
    pub(super) fn next_grant(&self) -> Option<Instant> {
        self.allowances.as_ref()?.next_grant()
    }

    /// When a stream may write next, if the one that may now does not.
    pub(super) fn next_call(&self) -> Option<Instant> {
        self.write_line.next_call()
    }

    /// Whether there are streams that were closed and may still be delivered.
    pub(super) fn has_undelivered(&self) -> bool {
        !self.undelivered.is_empty()
    }

    /// Whether streams of the peer wait for the application to take them.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Wakes all tasks that wait for a stream, because the connection is over for the application.
    pub(super) fn fail(&mut self, signals: &mut Signals) {
        for stream in self.states.values_mut() {
            signals.make_due(&mut stream.reader);
            signals.make_due(&mut stream.writer);
        }
        signals.make_due(&mut self.inbound);
        signals.make_due(&mut self.outbound);
    }

    /// Drops what was gathered, because nothing more is sent.
    pub(super) fn stop_sending(&mut self) {
        self.gathering.clear();
        self.write_line.clear();
        self.undelivered = FxHashSet::default();
        for stream in self.states.values_mut() {
            stream.gather.clear(&mut self.gathering);
        }
        self.states.retain(|_, stream| !stream.dropped);
    }

    /// Wakes the task that waits for a stream of the peer.
    pub(super) fn wake_inbound(&mut self, signals: &mut Signals) {
        signals.make_due(&mut self.inbound);
    }
}

#[derive(Default)]
struct StreamState {
    receive: ReceivePart,
    send: SendState,
    reader: Option<Waker>,
    writer: Option<Waker>,
    gather: Gather,
    /// Since a write was blocked, until one is not.
    ticket: Option<Ticket>,
    shares: StreamShares,
    /// The application has dropped the stream; only its gathered bytes are left to send.
    dropped: bool,
    /// Whether the stream is over for quinn-proto, which would let the peer open another one, but
    /// not for the application.
    lingers: bool,
}

impl StreamState {
    /// Whether [`lingers`](Self::lingers) may change when another part is over.
    fn may_linger(&self) -> bool {
        self.lingers || self.receive.state == RecvState::Complete
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SendState {
    #[default]
    Open,
    /// FIN follows the gathered bytes.
    Finishing,
    Finished,
    Reset,
    /// The peer sent STOP_SENDING.
    Stopped(u64),
}
