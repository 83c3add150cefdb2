//! The operations of a dialer. Each returns its observations, or why it failed.

mod closing;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, TryStreamExt, future::join, stream};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, identity::Keypair, multiaddr::Protocol};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::{
    Failure,
    arguments::Options,
    node::Node,
    protocols::{self, BLOCK_BYTES, answer, request},
    transport::{self, Abort},
};

/// Runs the operation called `name`.
pub async fn run(
    node: &Node,
    addr: Multiaddr,
    name: &str,
    options: &Options,
) -> Result<Map<String, Value>, Failure> {
    if name == "wrong-peer" {
        return wrong_peer(node, addr).await;
    }
    let expected = peer_of(&addr)?;
    let start = Instant::now();
    let peer_id = node.dial(addr.clone()).await?;
    let dial_ms = milliseconds(start);
    if peer_id != expected {
        return Err(format!("connected to {peer_id}").into());
    }
    // Before the operation, because some of them end the connection.
    let facts = node.facts.of(peer_id);
    let remote = Remote {
        node,
        addr,
        peer_id,
    };
    let start = Instant::now();
    let mut result = match name {
        "autonat" => remote.autonat().await,
        "close-delivers" => remote.close_delivers(options).await,
        "close-fetches" => remote.close_fetches(options).await,
        "close-hears" => remote.close_hears(options).await,
        "close-mid-upload" => remote.close_mid_upload().await,
        "close-redial" => remote.close_redial().await,
        "echo" => remote.echo(options).await,
        "half-close" => remote.half_close().await,
        "identify" => remote.identify().await,
        "idle" => remote.idle(options).await,
        "killed" => remote.killed().await,
        "perf" => remote.perf(options).await,
        "ping" => remote.ping(options).await,
        "reset" => remote.reset(options).await,
        "restarted" => remote.restarted().await,
        "slow-reader" => remote.slow_reader(options).await,
        "stop" => remote.stop(options).await,
        "streams" => remote.streams(options).await,
        _ => Err(Failure::Unsupported(format!("no operation {name}"))),
    }?;
    result.insert("facts_after".to_owned(), node.facts.of(peer_id));
    result.insert("dial_ms".to_owned(), json!(dial_ms));
    result.insert("ms".to_owned(), json!(milliseconds(start)));
    result.insert("facts".to_owned(), facts);
    Ok(result)
}

/// The peer that was dialled.
struct Remote<'a> {
    node: &'a Node,
    addr: Multiaddr,
    peer_id: PeerId,
}

impl Remote<'_> {
    async fn open(&self, protocol: StreamProtocol) -> Result<Stream, Failure> {
        Ok(self.node.open(protocol).await?)
    }

    async fn ping(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        let mut stream = self.open(protocols::PING).await?;
        let mut rtts_us = Vec::new();
        for _ in 0..options.count {
            let start = Instant::now();
            ping_once(&mut stream).await?;
            rtts_us.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        stream.close().await?;
        rtts_us.sort_unstable();
        Ok(object(json!({
            "count": rtts_us.len(),
            "median_us": rtts_us.get(rtts_us.len() / 2),
        })))
    }

    async fn identify(&self) -> Result<Map<String, Value>, Failure> {
        let info = object(self.node.identify().await?);
        if info.get("peer_id") != Some(&json!(self.peer_id.to_string())) {
            return Err("the public key is that of another peer".into());
        }
        Ok(info)
    }

    async fn autonat(&self) -> Result<Map<String, Value>, Failure> {
        let info = self.node.identify().await?;
        let protocols = info["protocols"].as_array();
        if !protocols.is_some_and(|all| all.contains(&json!(protocols::DIAL_REQUEST))) {
            return Err(Failure::Unsupported("no AutoNAT v2 server".to_owned()));
        }
        Ok(object(self.node.reachability().await?))
    }

    async fn echo(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        let stream = self.open(protocols::ECHO).await?;
        let hash = echo(stream, options.size, options.in_flight, 0).await?;
        Ok(object(json!({ "bytes": options.size, "sha256": hash })))
    }

    async fn perf(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        let upload = self.perf_once(options.size, 0).await?;
        let download = self.perf_once(0, options.size).await?;
        Ok(object(json!({
            "bytes": options.size,
            "download_mib_s": mib_per_second(options.size, download),
            "upload_mib_s": mib_per_second(options.size, upload),
        })))
    }

    async fn perf_once(&self, upload: u64, download: u64) -> Result<Duration, Failure> {
        let mut stream = self.open(protocols::PERF).await?;
        let start = Instant::now();
        stream.write_all(&download.to_be_bytes()).await?;
        protocols::write_zeros(&mut stream, upload).await?;
        stream.close().await?;
        let received = protocols::read_to_end(&mut stream, |_| ()).await?;
        if received != download {
            return Err(format!("{received} bytes of {download}").into());
        }
        Ok(start.elapsed())
    }

    async fn streams(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        stream::iter((0..options.count).map(Ok))
            .try_for_each_concurrent(options.parallel, |seed| async move {
                let stream = self.open(protocols::ECHO).await?;
                echo(stream, STREAM_BYTES, STREAM_BYTES, seed)
                    .await
                    .map(|_| ())
            })
            .await?;
        Ok(object(
            json!({ "count": options.count, "parallel": options.parallel }),
        ))
    }

    async fn half_close(&self) -> Result<Map<String, Value>, Failure> {
        // First we end our half: the peer answers after that.
        self.perf_once(BLOCK_BYTES as u64, BLOCK_BYTES as u64)
            .await?;
        // Then the peer ends its half, and ours still carries data.
        let mut stream = self.open(protocols::HALF_CLOSE).await?;
        let received = protocols::read_to_end(&mut stream, |_| ()).await?;
        if received != protocols::HALF_CLOSE_BYTES as u64 {
            return Err(format!("{received} bytes before the peer's half ended").into());
        }
        stream
            .write_all(&vec![0; protocols::HALF_CLOSE_BYTES])
            .await?;
        stream.close().await?;
        let report = self.report().await?;
        if report.get("received") != Some(&json!(protocols::HALF_CLOSE_BYTES)) {
            return Err(format!("the peer has received {report}").into());
        }
        Ok(Map::new())
    }

    async fn reset(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        let code = options.code;
        let mut stream = self.request(request::RESET, code).await?;
        let mut unsupported = false;
        let seen = match protocols::read_to_end(&mut stream, |bytes| {
            unsupported |= bytes.first() == Some(&answer::UNSUPPORTED);
        })
        .await
        {
            Err(error) => json!(transport::code_of(&error)),
            Ok(_) if unsupported => json!("unsupported"),
            Ok(_) => return Err("the peer's half ended, and was not reset".into()),
        };
        // Some peers can only reset both halves, and then see their own reset instead of ours.
        drop(stream);

        let mut stream = self.request(request::WATCH_RESET, code).await?;
        self.ready(&mut stream).await?;
        let peer_saw = if transport::abort(&mut stream, Abort::Reset(code)) {
            let report = self.report().await?;
            if report.get("error").is_none() {
                return Err(format!("the peer has seen {report} instead of a reset").into());
            }
            report["code"].clone()
        } else {
            json!("unsupported")
        };
        Ok(object(json!({ "seen": seen, "peer_saw": peer_saw })))
    }

    async fn stop(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        let code = options.code;
        let mut stream = self.request(request::STOP, code).await?;
        // A peer that can only end both halves may not get to answer.
        let mut answer = [0];
        let answered = stream.read_exact(&mut answer).await;
        let seen = if answered.is_ok() && answer[0] == answer::UNSUPPORTED {
            json!("unsupported")
        } else {
            let error = protocols::write_until_error(&mut stream).await;
            json!(transport::code_of(&error))
        };
        drop(stream);

        let mut stream = self.request(request::WATCH_STOP, code).await?;
        self.ready(&mut stream).await?;
        if !transport::abort(&mut stream, Abort::Stop(code)) {
            // Dropping a stream that still receives stops it with code 0.
            drop(stream);
        }
        let report = self.report().await?;
        if report.get("error").is_none() {
            return Err(format!("the peer has seen {report} instead of a stop").into());
        }
        Ok(object(json!({ "seen": seen, "peer_saw": report["code"] })))
    }

    async fn killed(&self) -> Result<Map<String, Value>, Failure> {
        let stream = self.open(protocols::ECHO).await?;
        let start = Instant::now();
        let (write_error, read_error) = closing::transfer_until_error(stream).await;
        Ok(object(json!({
            "after_ms": milliseconds(start),
            "read_error": read_error.to_string(),
            "write_error": write_error.to_string(),
        })))
    }

    async fn idle(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        tokio::time::sleep(options.duration).await;
        let stream = self.open(protocols::ECHO).await?;
        echo(stream, STREAM_BYTES, STREAM_BYTES, 0).await?;
        Ok(object(json!({ "seconds": options.duration.as_secs() })))
    }

    async fn slow_reader(&self, options: &Options) -> Result<Map<String, Value>, Failure> {
        let mut stream = self.open(protocols::SLOW).await?;
        let delay = options.duration;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        stream.write_all(&delay_ms.to_be_bytes()).await?;
        let sent = AtomicU64::new(0);
        let write = async {
            let mut pattern = Pattern::new(0);
            let mut hash = Sha256::new();
            let mut block = vec![0; BLOCK_BYTES];
            let mut left = options.size;
            while left > 0 {
                let length = left.min(BLOCK_BYTES as u64);
                let bytes = &mut block[..length as usize];
                pattern.fill(bytes);
                hash.update(&*bytes);
                stream.write_all(bytes).await?;
                sent.fetch_add(length, Ordering::Relaxed);
                left -= length;
            }
            stream.close().await?;
            Ok::<_, io::Error>(hash.finalize())
        };
        // Long enough for the sender to have filled all buffers, but not so long that the peer
        // reads.
        let watch = async {
            tokio::time::sleep(delay.mul_f32(0.8)).await;
            sent.load(Ordering::Relaxed)
        };
        let (hash, unread) = join(write, watch).await;
        let hash = hash?;
        let mut answer = [0; 32];
        stream.read_exact(&mut answer).await?;
        if answer != *hash {
            return Err("the hash of what the peer has read is wrong".into());
        }
        if unread >= options.size {
            return Err("the sender was not blocked".into());
        }
        Ok(object(
            json!({ "bytes": options.size, "unread_bytes": unread }),
        ))
    }

    /// A stream on which the peer was asked to end a half, or to observe its end.
    async fn request(&self, request: u8, code: u64) -> Result<Stream, Failure> {
        let mut stream = self.open(protocols::ABORT).await?;
        let mut header = [request; 9];
        header[1..].copy_from_slice(&code.to_be_bytes());
        stream.write_all(&header).await?;
        stream.flush().await?;
        Ok(stream)
    }

    async fn ready(&self, stream: &mut Stream) -> Result<(), Failure> {
        let mut ready = [0];
        stream.read_exact(&mut ready).await?;
        if ready[0] != answer::READY {
            return Err("the peer is not ready".into());
        }
        Ok(())
    }

    /// The peer's observations, which may take a moment.
    async fn report(&self) -> Result<Value, Failure> {
        for _ in 0..REPORTS {
            let mut stream = self.open(protocols::REPORT).await?;
            stream.close().await?;
            let mut text = Vec::new();
            protocols::read_to_end(&mut stream, |bytes| text.extend_from_slice(bytes)).await?;
            let report = serde_json::from_slice(&text)
                .map_err(|error| format!("the report is not JSON: {error}"))?;
            if report != Value::Null {
                return Ok(report);
            }
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
        Ok(Value::Null)
    }
}

/// One ping, whose pong must be the same.
async fn ping_once(stream: &mut Stream) -> Result<(), Failure> {
    let ping: [u8; 32] = rand::random();
    stream.write_all(&ping).await?;
    stream.flush().await?;
    let mut pong = [0; 32];
    stream.read_exact(&mut pong).await?;
    if pong != ping {
        return Err("the pong is not the ping".into());
    }
    Ok(())
}

async fn wrong_peer(node: &Node, addr: Multiaddr) -> Result<Map<String, Value>, Failure> {
    let wrong = Keypair::generate_ed25519().public().to_peer_id();
    let addr: Multiaddr = addr
        .iter()
        .map(|part| match part {
            Protocol::P2p(_) => Protocol::P2p(wrong),
            other => other,
        })
        .collect();
    match node.dial(addr).await {
        Ok(peer_id) => Err(format!("connected to {peer_id}").into()),
        Err(error) => Ok(object(json!({ "error": error }))),
    }
}

/// Sends `size` bytes, at most `in_flight` more than have come back, and returns their hash.
async fn echo(stream: Stream, size: u64, in_flight: u64, seed: u64) -> Result<String, Failure> {
    let (mut reader, mut writer) = stream.split();
    let received = Arc::new(AtomicU64::new(0));
    let progress = Notify::new();
    let write = async {
        let mut pattern = Pattern::new(seed);
        let mut hash = Sha256::new();
        let mut block = vec![0; BLOCK_BYTES];
        let mut sent = 0;
        while sent < size {
            let length = (size - sent).min(BLOCK_BYTES as u64).min(in_flight);
            while sent + length - received.load(Ordering::Relaxed) > in_flight {
                progress.notified().await;
            }
            let bytes = &mut block[..length as usize];
            pattern.fill(bytes);
            hash.update(&*bytes);
            writer.write_all(bytes).await?;
            writer.flush().await?;
            sent += length;
        }
        writer.close().await?;
        Ok::<_, io::Error>(hash.finalize())
    };
    let read = async {
        let mut hash = Sha256::new();
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let length = reader.read(&mut block).await?;
            if length == 0 {
                return Ok::<_, io::Error>(hash.finalize());
            }
            hash.update(&block[..length]);
            received.fetch_add(length as u64, Ordering::Relaxed);
            progress.notify_one();
        }
    };
    let (sent, echoed) = futures::future::try_join(write, read).await?;
    let received = received.load(Ordering::Relaxed);
    if received != size {
        return Err(format!("{received} bytes of {size} came back").into());
    }
    if sent != echoed {
        return Err("what came back is not what was sent".into());
    }
    Ok(sent.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes that repeat neither within a block nor between streams.
struct Pattern(u64);

impl Pattern {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Any port of the host of `addr`.
pub fn beside(addr: &Multiaddr) -> Multiaddr {
    addr.iter()
        .take_while(|part| !matches!(part, Protocol::P2p(_)))
        .map(|part| match part {
            Protocol::Udp(_) => Protocol::Udp(0),
            other => other,
        })
        .collect()
}

fn peer_of(addr: &Multiaddr) -> Result<PeerId, Failure> {
    addr.iter()
        .find_map(|part| match part {
            Protocol::P2p(peer_id) => Some(peer_id),
            _ => None,
        })
        .ok_or_else(|| "the address names no peer".into())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn mib_per_second(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / f64::from(1 << 20) / time.as_secs_f64()) as u64
}

/// Payload of each of many streams.
const STREAM_BYTES: u64 = 1024;

/// Number and interval of queries for a peer's report: it has three seconds to see something.
const REPORTS: usize = 30;
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
