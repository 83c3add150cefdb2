//! The protocols that every peer serves; the README specifies them.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream, StreamProtocol};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    node::Closer,
    streams::{self, Link},
    transport::{self, Abort, Facts},
};

pub const ABORT: StreamProtocol = StreamProtocol::new("/interop/abort/1.0.0");
pub const CLOSE: StreamProtocol = StreamProtocol::new("/interop/close/1.0.0");
/// AutoNAT v2; a separate behaviour serves it.
pub const DIAL_REQUEST: &str = "/libp2p/autonat/2/dial-request";
pub const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");
pub const FACTS: StreamProtocol = StreamProtocol::new("/interop/facts/1.0.0");
pub const HALF_CLOSE: StreamProtocol = StreamProtocol::new("/interop/half-close/1.0.0");
pub const PERF: StreamProtocol = StreamProtocol::new("/perf/1.0.0");
pub const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
pub const REPORT: StreamProtocol = StreamProtocol::new("/interop/report/1.0.0");
pub const SINK: StreamProtocol = StreamProtocol::new("/interop/sink/1.0.0");
pub const SLOW: StreamProtocol = StreamProtocol::new("/interop/slow/1.0.0");

/// All of them.
pub static ALL: &[StreamProtocol] = &[
    ABORT, CLOSE, ECHO, FACTS, HALF_CLOSE, PERF, PING, REPORT, SINK, SLOW,
];

/// Bytes that are read or written at once.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Bytes that each side of a half-closed stream sends.
pub const HALF_CLOSE_BYTES: usize = 64 * 1024;

/// Requests to the listener on a stream of [`ABORT`].
pub mod request {
    /// Reset your half with the code.
    pub const RESET: u8 = b'R';
    /// Stop my half with the code.
    pub const STOP: u8 = b'S';
    /// Read until I reset my half, and remember the code.
    pub const WATCH_RESET: u8 = b'r';
    /// Write until I stop your half, and remember the code.
    pub const WATCH_STOP: u8 = b's';
}

/// First answers of the listener of [`ABORT`].
pub mod answer {
    /// I am ready, or have done it.
    pub const READY: u8 = b'K';
    /// My libp2p cannot do this.
    pub const UNSUPPORTED: u8 = b'U';
}

/// What the last stream with an observation has seen.
static REMEMBERED: Mutex<Value> = Mutex::new(Value::Null);

/// Serves each stream in a separate task.
pub fn server(facts: Facts, closer: Closer) -> streams::Serve {
    Arc::new(move |link, protocol, stream| {
        let facts = facts.clone();
        let closer = closer.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_one(&protocol, stream, &facts, &closer, link).await {
                eprintln!("{protocol}: {error}");
            }
        });
    })
}

async fn serve_one(
    protocol: &StreamProtocol,
    mut stream: Stream,
    facts: &Facts,
    closer: &Closer,
    link: Link,
) -> io::Result<()> {
    match protocol.as_ref() {
        // A pong equals the ping.
        "/echo/1.0.0" | "/ipfs/ping/1.0.0" => echo(&mut stream).await,
        "/perf/1.0.0" => perf(&mut stream).await,
        "/interop/abort/1.0.0" => abort(stream).await,
        "/interop/close/1.0.0" => close(&mut stream, closer, link).await,
        "/interop/facts/1.0.0" => tell(&mut stream, &facts.of(link.peer_id)).await,
        "/interop/half-close/1.0.0" => half_close(&mut stream).await,
        "/interop/report/1.0.0" => {
            let seen = lock().clone();
            tell(&mut stream, &seen).await
        }
        "/interop/sink/1.0.0" => {
            sink(&mut stream, link.peer_id).await;
            Ok(())
        }
        "/interop/slow/1.0.0" => slow(&mut stream).await,
        _ => Err(io::Error::other("nobody serves this")),
    }
}

async fn echo(stream: &mut Stream) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let length = stream.read(&mut block).await?;
        if length == 0 {
            return stream.close().await;
        }
        stream.write_all(&block[..length]).await?;
        stream.flush().await?;
    }
}

async fn perf(stream: &mut Stream) -> io::Result<()> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    read_to_end(stream, |_| ()).await?;
    write_zeros(stream, u64::from_be_bytes(header)).await?;
    stream.close().await
}

async fn abort(mut stream: Stream) -> io::Result<()> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await?;
    let mut code = [0; 8];
    code.copy_from_slice(&header[1..]);
    let code = u64::from_be_bytes(code);
    match header[0] {
        request::RESET => {
            if !transport::abort(&mut stream, Abort::Reset(code)) {
                stream.write_all(&[answer::UNSUPPORTED]).await?;
                stream.close().await?;
            }
            // The other half stays open until the peer has seen the end of ours.
            read_to_end(&mut stream, |_| ()).await.map(|_| ())
        }
        request::STOP => {
            stream.write_all(&[answer::READY]).await?;
            stream.flush().await?;
            if transport::abort(&mut stream, Abort::Stop(code)) {
                // Kept open until the peer has seen the STOP_SENDING.
                tokio::time::sleep(LINGER).await;
            }
            // Dropping a stream that still receives stops it with code 0.
            Ok(())
        }
        request::WATCH_RESET => {
            remember(Value::Null);
            stream.write_all(&[answer::READY]).await?;
            stream.flush().await?;
            remember(match read_to_end(&mut stream, |_| ()).await {
                Ok(_) => json!({ "eof": true }),
                Err(error) => {
                    json!({ "code": transport::code_of(&error), "error": error.to_string() })
                }
            });
            Ok(())
        }
        request::WATCH_STOP => {
            remember(Value::Null);
            stream.write_all(&[answer::READY]).await?;
            let error = write_until_error(&mut stream).await;
            remember(json!({ "code": transport::code_of(&error), "error": error.to_string() }));
            Ok(())
        }
        _ => Err(io::Error::other("unknown request")),
    }
}

async fn close(stream: &mut Stream, closer: &Closer, link: Link) -> io::Result<()> {
    let mut header = [0; 16];
    stream.read_exact(&mut header).await?;
    let (mut code, mut size) = ([0; 8], [0; 8]);
    code.copy_from_slice(&header[..8]);
    size.copy_from_slice(&header[8..]);
    let size = u64::from_be_bytes(size);
    if size > 0 {
        write_zeros(stream, size).await?;
        stream.close().await?;
    }
    closer.close(link, u64::from_be_bytes(code)).await;
    // The stream stays open until the connection ends.
    read_to_end(stream, |_| ()).await.map(|_| ())
}

/// Prints the amount of data when no more arrives.
async fn sink(stream: &mut Stream, peer_id: PeerId) {
    let mut received = 0;
    let end = read_to_end(stream, |bytes| received += bytes.len()).await;
    crate::print(&json!({
        "sunk": peer_id.to_string(),
        "bytes": received,
        "error": end.err().map(|error| error.to_string()),
    }));
}

async fn half_close(stream: &mut Stream) -> io::Result<()> {
    remember(Value::Null);
    stream.write_all(&vec![0; HALF_CLOSE_BYTES]).await?;
    stream.close().await?;
    let received = read_to_end(stream, |_| ()).await?;
    remember(json!({ "received": received }));
    Ok(())
}

async fn tell(stream: &mut Stream, value: &Value) -> io::Result<()> {
    stream.write_all(value.to_string().as_bytes()).await?;
    stream.close().await
}

async fn slow(stream: &mut Stream) -> io::Result<()> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    tokio::time::sleep(Duration::from_millis(u64::from_be_bytes(header))).await;
    let mut hash = Sha256::new();
    read_to_end(stream, |bytes| hash.update(bytes)).await?;
    stream.write_all(&hash.finalize()).await?;
    stream.close().await
}

/// Reads to the end of the peer's half; returns the number of bytes.
pub async fn read_to_end(stream: &mut Stream, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut received = 0;
    loop {
        let length = stream.read(&mut block).await?;
        if length == 0 {
            return Ok(received);
        }
        each(&block[..length]);
        received += length as u64;
    }
}

pub async fn write_zeros(stream: &mut Stream, mut left: u64) -> io::Result<()> {
    let block = vec![0; BLOCK_BYTES];
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64);
        stream.write_all(&block[..length as usize]).await?;
        left -= length;
    }
    Ok(())
}

/// Writes a little at a time until the peer, or the end of the connection, makes it fail.
///
/// It does not write as fast as possible: quinn-proto does not wake a stopped writer while the
/// windows of both the stream and the connection are full, so the official peer would sometimes
/// hang here.
pub async fn write_until_error(stream: &mut Stream) -> io::Error {
    loop {
        if let Err(error) = stream.write_all(&[0; 1024]).await {
            return error;
        }
        tokio::time::sleep(WRITE_INTERVAL).await;
    }
}

fn remember(seen: Value) {
    *lock() = seen;
}

fn lock() -> std::sync::MutexGuard<'static, Value> {
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a stream is kept whose end the peer should see.
const LINGER: Duration = Duration::from_secs(2);

/// Interval of the writes that wait for an error.
const WRITE_INTERVAL: Duration = Duration::from_millis(5);
