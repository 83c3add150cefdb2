//! Conversations of two peers, planned from a seed, so that each side knows what it must receive.

use std::{rc::Rc, time::Duration};

use futures::{
    StreamExt, TryFutureExt,
    future::{FutureExt, LocalBoxFuture},
    stream::FuturesUnordered,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use super::peer::Peer;
use crate::{
    error::{ConnectionError, HandshakeError, StreamError},
    proto::StreamId,
};

/// Everything that happens on one connection.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    number: u64,
    /// Streams that the dialer opens, besides the first one, which identifies the connection.
    dialer_opens: Rc<[StreamPlan]>,
    listener_opens: Rc<[StreamPlan]>,
    /// One side leaves before the end.
    pub(super) early_end: Option<EarlyEnd>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct EarlyEnd {
    /// Time after the dial.
    pub(super) after: Duration,
    pub(super) abandon: bool,
}

#[derive(Clone, Copy, Debug)]
struct StreamPlan {
    there: Half,
    back: Half,
}

/// The data in one direction of a stream.
#[derive(Clone, Copy, Debug)]
struct Half {
    key: u64,
    len: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finish,
    /// The sender resets it after this many bytes.
    Reset(usize),
    /// The receiver stops it after this many bytes.
    Stop(usize),
}

/// What was received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// Halves of streams that were received completely.
    pub(super) finished: u64,
    pub(super) reset: u64,
    pub(super) stopped: u64,
    /// Bytes that equal those sent.
    pub(super) bytes: u64,
}

/// The bytes of one half; any part of them can be computed without those before it.
#[derive(Clone, Copy)]
struct Content(u64);

impl Plan {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(mix(seed ^ mix(number)));
        let mut streams = |most: usize| {
            let count = random.random_range(0..=most);
            (0..count)
                .map(|_| StreamPlan {
                    there: Half::draw(&mut random),
                    back: Half::draw(&mut random),
                })
                .collect()
        };
        let [dialer_opens, listener_opens] = [streams(MOST_STREAMS), streams(MOST_STREAMS)];
        let early_end = random.random_bool(0.2).then(|| EarlyEnd {
            after: Duration::from_micros(random.random_range(0..3_000_000)),
            abandon: random.random(),
        });
        Self {
            number,
            dialer_opens,
            listener_opens,
            early_end,
        }
    }
}

impl Half {
    fn draw(random: &mut StdRng) -> Self {
        // As many small halves as large ones, on a logarithmic scale.
        let len = 1 << random.random_range(0..=LARGEST_HALF.ilog2());
        let len = random.random_range(0..=len);
        Self {
            key: random.random(),
            len,
            end: match random.random_range(0..10) {
                0 => End::Reset(random.random_range(0..=len)),
                1 => End::Stop(random.random_range(0..=len)),
                _ => End::Finish,
            },
        }
    }
}

/// The dialer's side, from an authenticated peer to the end.
pub(super) async fn dialer(peer: Peer, plan: Rc<Plan>) -> Result<Heard, ConnectionError> {
    let first = Held::new(&peer, peer.open().await?);
    told(
        &peer,
        peer.write_all(first.stream, &plan.number.to_be_bytes())
            .await,
    )?;
    told(&peer, peer.finish(first.stream))?;
    let heard = converse(&peer, &plan.dialer_opens, &plan.listener_opens).await?;
    // The listener has received everything, too.
    let done = told(&peer, peer.read_to_end(first.stream).await)?;
    assert_eq!(done, DONE, "{plan:?}");
    drop(first);
    peer.closed().await?;
    Ok(heard)
}

/// The listener's side, from the beginning to the end.
pub(super) async fn listener(peer: Peer, seed: u64) -> Result<Heard, HandshakeError> {
    peer.established().await?;
    let stream = peer.accept().await?;
    let first = Held::new(&peer, stream);
    let number = told(&peer, peer.read_to_end(stream).await)?;
    let number = u64::from_be_bytes(number.try_into().unwrap());
    let plan = Plan::new(seed, number);
    let heard = converse(&peer, &plan.listener_opens, &plan.dialer_opens).await?;
    told(&peer, peer.write_all(stream, DONE).await)?;
    told(&peer, peer.finish(stream))?;
    drop(first);
    while peer.address_change().await.is_ok() {}
    Ok(heard)
}

async fn converse(
    peer: &Peer,
    ours: &[StreamPlan],
    theirs: &Rc<[StreamPlan]>,
) -> Result<Heard, ConnectionError> {
    let mut parts = FuturesUnordered::new();
    for plan in ours {
        let stream = Rc::new(Held::new(peer, peer.open().await?));
        parts.push(part(send(Rc::clone(&stream), plan.there)));
        parts.push(part(receive(stream, plan.back)));
    }
    parts.push(accept(peer.clone(), Rc::clone(theirs), theirs.len()));
    let mut heard = Heard::default();
    while let Some(done) = parts.next().await {
        let done = done?;
        heard += done.heard;
        parts.extend(done.more);
    }
    Ok(heard)
}

/// A part of a conversation. Each is polled only when it was woken itself.
type Part = LocalBoxFuture<'static, Result<Done, ConnectionError>>;

/// The result of a part.
#[derive(Default)]
struct Done {
    heard: Heard,
    more: Vec<Part>,
}

fn part(half: impl Future<Output = Result<Heard, ConnectionError>> + 'static) -> Part {
    let more = Vec::new();
    half.map_ok(|heard| Done { heard, more }).boxed_local()
}

/// Accepts this many more streams. Meanwhile the accepted ones are read, because their data may
/// fill the window.
fn accept(peer: Peer, theirs: Rc<[StreamPlan]>, left: usize) -> Part {
    let accept = async move {
        if left == 0 {
            return Ok(Done::default());
        }
        let stream = Rc::new(Held::new(&peer, peer.accept().await?));
        // The dialer's first stream is not in the plan.
        let is_dialers = stream.stream.initiator() == quinn_proto::Side::Client;
        let index = stream.stream.index() as usize - usize::from(is_dialers);
        let StreamPlan { there, back } = theirs[index];
        let more = vec![
            part(send(Rc::clone(&stream), back)),
            part(receive(stream, there)),
            accept(peer, theirs, left - 1),
        ];
        Ok(Done {
            more,
            ..Done::default()
        })
    };
    accept.boxed_local()
}

async fn send(stream: Rc<Held>, half: Half) -> Result<Heard, ConnectionError> {
    let peer = &stream.peer;
    let mut random = StdRng::seed_from_u64(half.key);
    let end = match half.end {
        End::Reset(after) => after,
        End::Finish | End::Stop(_) => half.len,
    };
    let mut sent = 0;
    while sent < end {
        let most = 1 << random.random_range(4..=14);
        let chunk = Content(half.key).part(sent, most.min(end - sent));
        match peer.write_all(stream.stream, &chunk).await {
            Err(StreamError::Stopped(code)) if matches!(half.end, End::Stop(_)) => {
                assert_eq!(code, u64::from(STOP_CODE));
                return Ok(Heard::default());
            }
            result => told(peer, result)?,
        }
        sent += chunk.len();
    }
    told(
        peer,
        match half.end {
            End::Reset(_) => peer.reset(stream.stream, RESET_CODE),
            End::Finish | End::Stop(_) => peer.finish(stream.stream),
        },
    )?;
    Ok(Heard::default())
}

async fn receive(stream: Rc<Held>, half: Half) -> Result<Heard, ConnectionError> {
    let peer = &stream.peer;
    let mut random = StdRng::seed_from_u64(!half.key);
    let mut digest = Sha256::new();
    let mut buf = vec![0; random.random_range(1..=8192)];
    let mut received = 0;
    let mut heard = Heard::default();
    loop {
        if let End::Stop(after) = half.end
            && received >= after
        {
            match peer.stop(stream.stream, STOP_CODE) {
                // The end of the stream has arrived together with its last bytes.
                Err(StreamError::Closed) if received == half.len => heard.finished += 1,
                result => {
                    told(peer, result)?;
                    heard.stopped += 1;
                }
            }
            break;
        }
        match peer.read(stream.stream, &mut buf).await {
            Ok(0) => {
                assert_eq!(received, half.len, "{half:?}");
                assert!(!matches!(half.end, End::Reset(_)), "{half:?}");
                heard.finished += 1;
                break;
            }
            Ok(count) => {
                digest.update(&buf[..count]);
                received += count;
            }
            Err(StreamError::Reset(code)) if matches!(half.end, End::Reset(_)) => {
                assert_eq!(code, u64::from(RESET_CODE));
                heard.reset += 1;
                break;
            }
            Err(error) => {
                // Even then, the data that came before the end of the connection is correct.
                half.assert_is_beginning(received, digest);
                return told(peer, Err(error));
            }
        }
    }
    heard.bytes = received as u64;
    half.assert_is_beginning(received, digest);
    Ok(heard)
}

impl Half {
    fn assert_is_beginning(self, received: usize, digest: Sha256) {
        assert!(received <= self.len, "{self:?}");
        let expected = Sha256::digest(Content(self.key).part(0, received));
        assert_eq!(digest.finalize(), expected, "{self:?}");
    }
}

/// An error must be that of the connection; nothing else may fail.
#[track_caller]
fn told<T>(peer: &Peer, result: Result<T, StreamError>) -> Result<T, ConnectionError> {
    match (result, peer.loss()) {
        (Ok(value), _) => Ok(value),
        (Err(_), Some(loss)) => Err(loss),
        (Err(error), None) => panic!("{error:?} on a connection that is well"),
    }
}

/// A stream that is dropped when nobody needs it any more.
struct Held {
    peer: Peer,
    stream: StreamId,
}

impl Held {
    fn new(peer: &Peer, stream: StreamId) -> Self {
        Self {
            peer: peer.clone(),
            stream,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.peer.drop_stream(self.stream);
    }
}

impl std::ops::AddAssign for Heard {
    fn add_assign(&mut self, other: Self) {
        self.finished += other.finished;
        self.reset += other.reset;
        self.stopped += other.stopped;
        self.bytes += other.bytes;
    }
}

impl Content {
    fn part(self, from: usize, len: usize) -> Vec<u8> {
        let first = from / 8;
        let end = from + len;
        let words = (first..end.div_ceil(8)).map(|word| mix(self.0 ^ word as u64));
        let bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
        bytes[from - 8 * first..end - 8 * first].to_vec()
    }
}

/// SplitMix64's finalizer.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// The most streams in each direction.
const MOST_STREAMS: usize = 12;

/// Largest half in bytes.
const LARGEST_HALF: usize = 128 * 1024;

const DONE: &[u8] = b"done";
const RESET_CODE: u32 = 3;
const STOP_CODE: u32 = 4;
