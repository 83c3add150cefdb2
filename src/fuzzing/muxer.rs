//! Fuzz target: arbitrary operations on a connection and its streams, at both ends.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};

use super::all;
use crate::{
    config::ConfigBuilder,
    error::StreamError,
    proto::StreamId,
    simulation::{
        link::Impairments, mangle, network::Network, node::Setup, peer::Peer, tasks::WakeFlag,
    },
};

/// Runs operations in any order. Data that is read equals data that was written, ends are reported
/// as they were made, and every waiting task is woken. The same holds if data arrives in pieces,
/// with overlaps and repetitions, and if windows are narrow.
pub fn muxer(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let (Ok(circumstances), Ok(operations)) = (input.arbitrary(), all::<Operation>(&mut input))
    else {
        return;
    };
    let mut history = History::new(circumstances);
    for operation in operations.into_iter().take(MOST_OPERATIONS) {
        history.apply(operation);
    }
    history.end();
}

/// The most operations of a run.
const MOST_OPERATIONS: usize = 400;

/// The most bytes that are written in a run, so that it takes seconds and not tens of seconds.
const MOST_WRITTEN: u64 = 16 << 20;

/// The same if data arrives in pieces, some of them of one byte, each of which costs as much as a
/// frame.
const MOST_MANGLED: u64 = 256 << 10;

/// Writes of fewer bytes may be gathered.
const MOST_GATHERED: usize = 64 * 1024;

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Circumstances {
    mangling: Option<u64>,
    narrow: bool,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Accept(Side),
    Close(Side),
    Impair { loss: bool, jitter: bool },
    Open(Side),
    Pass { milliseconds: u8 },
    Stream { side: Side, number: u8, act: Act },
}

/// Operations that end everything are rare, because otherwise no long run would occur.
impl<'a> Arbitrary<'a> for Operation {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? {
            0..=15 => Self::Accept(input.arbitrary()?),
            16..=31 => Self::Open(input.arbitrary()?),
            32..=63 => Self::Pass {
                milliseconds: input.arbitrary()?,
            },
            64..=253 => Self::Stream {
                side: input.arbitrary()?,
                number: input.arbitrary()?,
                act: input.arbitrary()?,
            },
            254 => Self::Impair {
                loss: input.ratio(1, 4)?,
                jitter: input.arbitrary()?,
            },
            255 => Self::Close(input.arbitrary()?),
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Finish,
    LetGo,
    Read { len: u16 },
    Reset { code: u8 },
    Stop { code: u8 },
    Write { len: u16 },
}

impl<'a> Arbitrary<'a> for Act {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? {
            0..=15 => Self::Finish,
            16..=31 => Self::LetGo,
            32..=127 => Self::Read {
                len: input.arbitrary()?,
            },
            128..=135 => Self::Reset {
                code: input.arbitrary()?,
            },
            136..=143 => Self::Stop {
                code: input.arbitrary()?,
            },
            144..=255 => Self::Write {
                len: input.arbitrary()?,
            },
        })
    }
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Dialer,
    Listener,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }
}

struct History {
    network: Network,
    peers: [Peer; 2],
    is_lossy: bool,
    /// How many bytes may be written yet.
    left: u64,
    closed: bool,
    /// The streams that each side holds, in the order in which it got them.
    streams: [Vec<StreamId>; 2],
    /// What was done at each end of each stream.
    ends: HashMap<(Side, StreamId), End>,
    waiting: HashMap<Wait, Arc<WakeFlag>>,
}

/// One end of a stream.
#[derive(Clone, Debug, Default)]
struct End {
    written: u64,
    read: u64,
    finished: bool,
    /// The codes with which its halves were ended.
    reset: Option<u64>,
    stopped: Option<u64>,
    let_go: bool,
}

/// An operation that is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wait {
    Accept(Side),
    Open(Side),
    Read(Side, StreamId),
    Write(Side, StreamId),
}

impl History {
    fn new(circumstances: Circumstances) -> Self {
        let Circumstances { mangling, narrow } = circumstances;
        let [dialing, listening] = [0, 1].map(|salt| Setup {
            changes: mangling
                .map(|seed| mangle::mangling(seed ^ salt))
                .unwrap_or_default(),
            configure: if narrow {
                narrow_windows
            } else {
                |builder| builder
            },
            ..Setup::default()
        });
        let mut network = Network::pair(1, dialing, listening);
        let (dialer, listener) = network.connect(0, 1);
        Self {
            network,
            peers: [dialer, listener],
            is_lossy: false,
            left: mangling.map_or(MOST_WRITTEN, |_| MOST_MANGLED),
            closed: false,
            streams: Default::default(),
            ends: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Accept(side) => self.accept(side),
            Operation::Close(side) => {
                self.closed = true;
                self.peers[side as usize].close(7);
            }
            Operation::Impair { loss, jitter } => {
                self.is_lossy |= loss;
                self.network.impair(Impairments {
                    loss: if loss { 0.2 } else { 0.0 },
                    jitter: Duration::from_millis(if jitter { 10 } else { 0 }),
                    ..Impairments::NONE
                });
            }
            Operation::Open(side) => {
                let peer = self.peers[side as usize].clone();
                let opened = self.poll(Wait::Open(side), |waker| {
                    peer.with(|connection| connection.streams().poll_open(waker))
                });
                match opened {
                    Poll::Ready(Ok(stream)) => self.hold(side, stream),
                    Poll::Ready(Err(_)) => assert!(self.may_be_over()),
                    Poll::Pending => {}
                }
            }
            Operation::Pass { milliseconds } => {
                let time = Duration::from_millis(milliseconds.into());
                self.network.run_for(time);
            }
            Operation::Stream { side, number, act } => {
                let streams = &self.streams[side as usize];
                if !streams.is_empty() {
                    let stream = streams[usize::from(number) % streams.len()];
                    self.stream(side, stream, act);
                }
            }
        }
    }

    fn accept(&mut self, side: Side) {
        let peer = self.peers[side as usize].clone();
        let accepted = self.poll(Wait::Accept(side), |waker| {
            peer.with(|connection| connection.poll_accept(waker))
        });
        match accepted {
            Poll::Ready(Ok(stream)) => {
                assert!(
                    self.ends.contains_key(&(side.other(), stream)),
                    "nobody has opened {stream}"
                );
                self.hold(side, stream);
            }
            Poll::Ready(Err(_)) => assert!(self.may_be_over()),
            Poll::Pending => {}
        }
    }

    fn hold(&mut self, side: Side, stream: StreamId) {
        self.streams[side as usize].push(stream);
        let known = self.ends.insert((side, stream), End::default());
        assert!(known.is_none(), "{stream} came twice");
    }

    fn stream(&mut self, side: Side, stream: StreamId, act: Act) {
        let peer = self.peers[side as usize].clone();
        // A side that ends a half itself need not be woken for that.
        if matches!(act, Act::Stop { .. }) {
            self.waiting.remove(&Wait::Read(side, stream));
        } else if matches!(act, Act::Finish | Act::Reset { .. }) {
            self.waiting.remove(&Wait::Write(side, stream));
        }
        match act {
            Act::Finish => {
                // Fails if the half has already ended.
                if peer.finish(stream).is_ok() {
                    self.end_of(side, stream).finished = true;
                }
            }
            Act::LetGo => {
                peer.drop_stream(stream);
                self.streams[side as usize].retain(|&held| held != stream);
                self.end_of(side, stream).let_go = true;
            }
            Act::Read { len } => {
                let _ = self.read(side, stream, usize::from(len).max(1));
            }
            Act::Reset { code } => {
                if peer.reset(stream, code.into()).is_ok() {
                    self.end_of(side, stream).reset = Some(code.into());
                }
            }
            Act::Stop { code } => {
                if peer.stop(stream, code.into()).is_ok() {
                    self.end_of(side, stream).stopped = Some(code.into());
                }
            }
            Act::Write { len } => self.write(side, stream, usize::from(len).max(1)),
        }
    }

    fn write(&mut self, side: Side, stream: StreamId, len: usize) {
        if self.left < len as u64 {
            return;
        }
        let peer = self.peers[side as usize].clone();
        let end = self.end_of(side, stream).clone();
        if len < MOST_GATHERED {
            // A small write may be gathered although a larger one had to wait.
            self.waiting.remove(&Wait::Write(side, stream));
        }
        let data: Vec<_> = (0..len as u64)
            .map(|index| content(side, stream, end.written + index))
            .collect();
        let written = self.poll(Wait::Write(side, stream), |waker| {
            peer.with(|connection| connection.streams().poll_write(stream, &data, waker))
        });
        let far = self.ends.get(&(side.other(), stream));
        match written {
            Poll::Ready(Ok(count)) => {
                assert!((1..=len).contains(&count));
                assert!(!end.finished && end.reset.is_none());
                self.end_of(side, stream).written += count as u64;
                self.left -= count as u64;
            }
            Poll::Ready(Err(StreamError::Stopped(code))) => {
                let far = far.expect("nobody else could have stopped it");
                assert!(far.stopped == Some(code) || (far.let_go && code == 0));
            }
            Poll::Ready(Err(StreamError::Closed)) => {
                let stopped = far.is_some_and(|far| far.stopped.is_some() || far.let_go);
                assert!(end.finished || end.reset.is_some() || stopped);
            }
            Poll::Ready(Err(_)) => assert!(self.may_be_over()),
            Poll::Pending => {}
        }
    }

    /// Returns the number of bytes read.
    fn read(&mut self, side: Side, stream: StreamId, len: usize) -> Poll<usize> {
        let peer = self.peers[side as usize].clone();
        let mut buf = vec![0; len];
        let read = self.poll(Wait::Read(side, stream), |waker| {
            peer.with(|connection| connection.streams().poll_read(stream, &mut buf, waker))
        });
        let end = self.end_of(side, stream).clone();
        let far = self.ends.get(&(side.other(), stream));
        match read {
            Poll::Ready(Ok(0)) => {
                let far = far.expect("nobody else could have ended it");
                assert!(far.finished || far.let_go);
                assert_eq!(end.read, far.written, "{stream} ended early");
                return Poll::Ready(0);
            }
            Poll::Ready(Ok(count)) => {
                for (&byte, offset) in buf[..count].iter().zip(end.read..) {
                    assert_eq!(byte, content(side.other(), stream, offset), "{stream}");
                }
                let end = self.end_of(side, stream);
                end.read += count as u64;
                let read = end.read;
                let far = &self.ends[&(side.other(), stream)];
                assert!(read <= far.written);
                return Poll::Ready(count);
            }
            Poll::Ready(Err(StreamError::Reset(code))) => {
                let far = far.expect("nobody else could have reset it");
                assert!(far.reset == Some(code) || end.stopped == Some(code));
            }
            Poll::Ready(Err(StreamError::Closed)) => assert!(end.stopped.is_some()),
            Poll::Ready(Err(_)) => assert!(self.may_be_over()),
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(0)
    }

    /// Polls with a new waker. If an earlier poll was pending and this one is ready, the earlier
    /// waker must have been woken.
    fn poll<T>(&mut self, wait: Wait, poll: impl FnOnce(&Waker) -> Poll<T>) -> Poll<T> {
        let woken = Arc::new(WakeFlag::default());
        let polled = poll(&Waker::from(Arc::clone(&woken)));
        let before = self.waiting.remove(&wait);
        match polled {
            Poll::Pending => {
                self.waiting.insert(wait, woken);
            }
            Poll::Ready(_) => {
                if let Some(before) = before {
                    assert!(before.is_set(), "{wait:?} was not woken");
                }
            }
        }
        polled
    }

    fn end_of(&mut self, side: Side, stream: StreamId) -> &mut End {
        self.ends
            .get_mut(&(side, stream))
            .expect("only streams that are held are used")
    }

    /// Whether the connection may have ended.
    fn may_be_over(&self) -> bool {
        self.closed || self.is_lossy
    }

    fn end(mut self) {
        self.network.impair(Impairments::NONE);
        if !self.may_be_over() {
            self.assert_all_arrives();
        }
        for peer in &self.peers {
            peer.close(0);
        }
        self.network.run_until_empty();
        self.network.settle();
        for node in &self.network.nodes {
            node.assert_empty();
        }
        for (side, streams) in [Side::Dialer, Side::Listener]
            .into_iter()
            .zip(&self.streams)
        {
            let peer = &self.peers[side as usize];
            streams.iter().for_each(|&stream| peer.drop_stream(stream));
            assert_eq!(peer.open_streams(), 0);
        }
        for (wait, woken) in &self.waiting {
            // Nobody waits on streams that were dropped.
            let is_held = match wait {
                Wait::Accept(_) | Wait::Open(_) => true,
                Wait::Read(side, stream) | Wait::Write(side, stream) => {
                    !self.ends[&(*side, *stream)].let_go
                }
            };
            assert!(
                !is_held || woken.is_set(),
                "{wait:?} was not woken by the end"
            );
        }
    }

    /// Checks that all data can be read, unless a side has abandoned it.
    fn assert_all_arrives(&mut self) {
        self.network.run_for(Duration::from_secs(2));
        for side in [Side::Dialer, Side::Listener] {
            for stream in self.streams[side as usize].clone() {
                let far = self.ends.get(&(side.other(), stream));
                let Some(far) = far.filter(|far| far.reset.is_none()).cloned() else {
                    continue;
                };
                if self.ends[&(side, stream)].stopped.is_some() {
                    continue;
                }
                // Reading returns credit.
                while self.ends[&(side, stream)].read < far.written {
                    while self.read(side, stream, 65_536).is_ready() {
                        if self.ends[&(side, stream)].read == far.written {
                            break;
                        }
                    }
                    let before = self.ends[&(side, stream)].read;
                    self.network.run_for(Duration::from_secs(1));
                    let more = self.read(side, stream, 65_536);
                    assert!(
                        before == far.written || matches!(more, Poll::Ready(1..)),
                        "{stream} stalls at {before} of {}",
                        far.written
                    );
                }
                if far.finished || far.let_go {
                    self.network.run_for(Duration::from_secs(1));
                    assert_eq!(self.read(side, stream, 1), Poll::Ready(0));
                }
            }
        }
    }
}

/// The connection's window stays large, because a side that reads one stream after another must not
/// wait for later ones.
fn narrow_windows(builder: ConfigBuilder) -> ConfigBuilder {
    builder
        .stream_receive_window_bytes(10_000)
        .and_then(|builder| builder.connection_receive_window_bytes(10_000_000))
        .unwrap_or_else(|_| unreachable!("these windows are possible"))
}

/// The byte at `offset` in a half of a stream.
fn content(writer: Side, stream: StreamId, offset: u64) -> u8 {
    let salt = u64::from(stream) * 31 + writer as u64 * 7;
    ((offset ^ (offset >> 8)) + salt) as u8
}
