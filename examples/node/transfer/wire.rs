//! The protocol on one stream, at both ends.

#![expect(
    clippy::disallowed_methods,
    reason = "an application may read the clock; only the transport has one place for it"
)]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::content::{Content, Mismatch};

/// The largest transfer that a responder accepts.
pub(crate) const MAX_BYTES: u64 = 1 << 40;

/// The most round trips of one echo.
const MAX_ROUND_TRIPS: u64 = 10_000;

/// As in libp2p's own ping.
const ECHO_BYTES: usize = 32;

const READ_BYTES: usize = 64 * 1024;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// This many round trips.
    Echo(u64),
    /// This many bytes from the responder.
    Download(u64),
    /// This many bytes to the responder.
    Upload(u64),
}

/// The result of a request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) request: Request,
    pub(crate) elapsed: Duration,
    /// Only for an echo, at the opener.
    pub(crate) round_trips: Vec<Duration>,
}

/// Bytes moved so far, for a display to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved(Arc<AtomicU64>);

impl Moved {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The opener's end.
pub(super) async fn request(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request,
    moved: Moved,
) -> io::Result<Outcome> {
    let started = Instant::now();
    let mut round_trips = Vec::new();
    stream.write_all(&request.encode()).await?;
    match request {
        Request::Upload(bytes) => {
            send(&mut stream, bytes, &moved).await?;
            stream.close().await?;
            let mut verdict = [0];
            stream.read_exact(&mut verdict).await?;
            if verdict != [0] {
                return Err(invalid("the peer did not receive what was sent"));
            }
        }
        Request::Download(bytes) => {
            stream.close().await?;
            receive(&mut stream, bytes, &moved).await?;
        }
        Request::Echo(rounds) => {
            for round in 0..rounds {
                let sent = [round.to_be_bytes()[7]; ECHO_BYTES];
                let mut received = [0; ECHO_BYTES];
                let started = Instant::now();
                stream.write_all(&sent).await?;
                stream.flush().await?;
                stream.read_exact(&mut received).await?;
                round_trips.push(started.elapsed());
                if received != sent {
                    return Err(invalid("the peer returned something else"));
                }
            }
            stream.close().await?;
        }
    }
    Ok(Outcome {
        request,
        elapsed: started.elapsed(),
        round_trips,
    })
}

/// The responder's end.
pub(super) async fn respond(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<Outcome> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let started = Instant::now();
    let request = Request::decode(header).ok_or_else(|| invalid("no such request"))?;
    let moved = Moved::default();
    match request {
        Request::Upload(bytes) => {
            let received = receive(&mut stream, bytes, &moved).await;
            let verdict = u8::from(received.is_err());
            stream.write_all(&[verdict]).await?;
            stream.close().await?;
            received?;
        }
        Request::Download(bytes) => {
            end(&mut stream).await?;
            send(&mut stream, bytes, &moved).await?;
            stream.close().await?;
        }
        Request::Echo(rounds) => {
            let mut bytes = [0; ECHO_BYTES];
            for _ in 0..rounds {
                stream.read_exact(&mut bytes).await?;
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            end(&mut stream).await?;
            stream.close().await?;
        }
    }
    Ok(Outcome {
        request,
        elapsed: started.elapsed(),
        round_trips: Vec::new(),
    })
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: u64, moved: &Moved) -> io::Result<()> {
    let mut content = Content::new();
    let mut left = bytes;
    while left > 0 {
        let ahead = content.ahead();
        let length = ahead.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let written = stream.write(&ahead[..length]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        content.advance(written);
        moved.add(written);
        left -= written as u64;
        // A stream that is always ready would starve others of this connection.
        tokio::task::coop::consume_budget().await;
    }
    Ok(())
}

async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: u64,
    moved: &Moved,
) -> io::Result<()> {
    let mut content = Content::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut received = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        content.check(&buffer[..read])?;
        moved.add(read);
        received += read as u64;
        if received > bytes {
            return Err(invalid("more was received than asked for"));
        }
        tokio::task::coop::consume_budget().await;
    }
    if received < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Waits for the end of the peer's half, which must have no data before it.
async fn end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(invalid("something followed the request")),
    }
}

const HEADER_BYTES: usize = 9;

impl Request {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo(_) => "echo",
            Self::Download(_) => "download",
            Self::Upload(_) => "upload",
        }
    }

    /// Bytes of content.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Echo(_) => 0,
            Self::Download(bytes) | Self::Upload(bytes) => bytes,
        }
    }

    fn encode(self) -> [u8; HEADER_BYTES] {
        let (kind, size) = match self {
            Self::Upload(bytes) => (1, bytes),
            Self::Download(bytes) => (2, bytes),
            Self::Echo(rounds) => (3, rounds),
        };
        let mut header = [kind; HEADER_BYTES];
        header[1..].copy_from_slice(&size.to_be_bytes());
        header
    }

    fn decode(header: [u8; HEADER_BYTES]) -> Option<Self> {
        let [kind, size @ ..] = header;
        let size = u64::from_be_bytes(size);
        match kind {
            1 if size <= MAX_BYTES => Some(Self::Upload(size)),
            2 if size <= MAX_BYTES => Some(Self::Download(size)),
            3 if size <= MAX_ROUND_TRIPS => Some(Self::Echo(size)),
            _ => None,
        }
    }
}

impl From<Mismatch> for io::Error {
    fn from(_: Mismatch) -> Self {
        invalid("the received content is not what was sent")
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
