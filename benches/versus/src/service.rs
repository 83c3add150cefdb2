//! The protocol on a stream, for both sides: a request, and what follows it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the opener of a stream asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reads to the end and answers with the number of bytes.
    Sink,
    /// Sends an amount, in writes of one size.
    Source(Amount),
    /// Sends each message of this size back.
    Echo { size: usize },
    /// Answers with `bytes` bytes when the request has ended.
    Reply { bytes: usize },
}

/// How much to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    pub bytes: u64,
    /// Size of each write, at most 64 KiB. The last write of each 64 KiB may be smaller.
    pub write: usize,
    /// The longest time; it ends the transfer even if bytes are left.
    pub limit: Duration,
}

impl Request {
    pub async fn send(self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let (letter, [bytes, write, limit]) = match self {
            Self::Sink => (b'w', [0; 3]),
            Self::Source(amount) => (
                b'r',
                [
                    amount.bytes,
                    amount.write as u64,
                    u64::try_from(amount.limit.as_millis())?,
                ],
            ),
            Self::Echo { size } => (b'e', [size as u64, 0, 0]),
            Self::Reply { bytes } => (b'q', [bytes as u64, 0, 0]),
        };
        let mut request = [0; REQUEST];
        request[0] = letter;
        for (field, value) in request[1..].chunks_exact_mut(8).zip([bytes, write, limit]) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        stream.write_all(&request).await?;
        Ok(())
    }

    async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self> {
        let mut request = [0; REQUEST];
        stream.read_exact(&mut request).await?;
        let [bytes, write, limit] = [1, 9, 17].map(|at| {
            let mut field = [0; 8];
            field.copy_from_slice(&request[at..at + 8]);
            u64::from_be_bytes(field)
        });
        Ok(match request[0] {
            b'w' => Self::Sink,
            b'r' => Self::Source(Amount {
                bytes,
                write: usize::try_from(write)?,
                limit: Duration::from_millis(limit),
            }),
            b'e' => Self::Echo {
                size: usize::try_from(bytes)?.min(BLOCK),
            },
            b'q' => Self::Reply {
                bytes: usize::try_from(bytes)?.min(BLOCK),
            },
            letter => bail!("unknown request {letter}"),
        })
    }
}

/// Reads the request of a stream and serves it.
pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    match Request::receive(&mut stream).await? {
        Request::Sink => {
            let received = read_to_end(&mut stream).await?;
            stream.write_all(&received.to_be_bytes()).await?;
        }
        Request::Source(amount) => {
            write(&mut stream, amount).await?;
        }
        Request::Echo { size } => {
            let mut message = vec![0; size];
            // The stream ends between two messages, which is no error here.
            while stream.read_exact(&mut message).await.is_ok() {
                stream.write_all(&message).await?;
                stream.flush().await?;
            }
        }
        Request::Reply { bytes } => {
            ensure!(stream.read(&mut [0]).await? == 0, "more than a request");
            stream.write_all(&[1; BLOCK][..bytes]).await?;
        }
    }
    stream.close().await?;
    Ok(())
}

/// Writes an amount and returns the number of bytes.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), amount: Amount) -> Result<u64> {
    let start = Instant::now();
    let more = |sent| sent < amount.bytes && start.elapsed() < amount.limit;
    write_while(stream, amount.write, more).await
}

/// Writes while `more` agrees, given the bytes sent so far. Returns the number of bytes.
pub async fn write_while(
    stream: &mut (impl AsyncWrite + Unpin),
    size: usize,
    more: impl Fn(u64) -> bool,
) -> Result<u64> {
    ensure!((1..=BLOCK).contains(&size), "writes of {size} bytes");
    let mut block = vec![0x5a; BLOCK];
    let mut sent = 0;
    while more(sent) {
        block[..STAMP].copy_from_slice(&sent.to_be_bytes());
        for piece in block.chunks(size) {
            stream.write_all(piece).await?;
        }
        sent += BLOCK as u64;
    }
    Ok(sent)
}

/// Reads to the end, checks the pattern, and returns the number of bytes.
pub async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Result<u64> {
    let mut buffer = vec![0; BLOCK];
    let mut received: u64 = 0;
    let mut stamps: u64 = 0;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        // Does not check a stamp that is split across two reads.
        let mut at = received.next_multiple_of(BLOCK as u64) - received;
        while at + STAMP as u64 <= length as u64 {
            let stamp = &buffer[at as usize..][..STAMP];
            ensure!(
                stamp == (received + at).to_be_bytes(),
                "wrong bytes at {}",
                received + at
            );
            stamps += 1;
            at += BLOCK as u64;
        }
        received += length as u64;
    }
    ensure!(
        stamps * 2 >= received / BLOCK as u64,
        "{stamps} stamps in {received} bytes"
    );
    Ok(received)
}

/// The size of a block. Each block begins with its position in the stream, which is cheap to check.
pub const BLOCK: usize = 64 * 1024;

const STAMP: usize = size_of::<u64>();

const REQUEST: usize = 1 + 3 * 8;

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};

    use super::*;

    fn written(size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let amount = Amount {
            bytes: 5 * BLOCK as u64,
            write: size,
            limit: Duration::from_secs(60),
        };
        let sent = block_on(write(&mut bytes, amount)).unwrap();
        assert_eq!(sent, bytes.len() as u64);
        bytes
    }

    #[test]
    fn what_is_written_is_what_is_read_whatever_the_writes() {
        for size in [64, 1024, 1400, BLOCK] {
            let bytes = written(size);
            let length = bytes.len() as u64;
            let read = block_on(read_to_end(&mut Cursor::new(bytes))).unwrap();
            assert_eq!(read, length);
        }
    }

    #[test]
    fn missing_repeated_and_zeroed_bytes_are_noticed() {
        let bytes = written(BLOCK);
        let missing = [&bytes[..BLOCK], &bytes[BLOCK + 1..]].concat();
        let repeated = [&bytes[..BLOCK], &bytes[..BLOCK]].concat();
        let zeroed = vec![0; bytes.len()];
        for wrong in [missing, repeated, zeroed] {
            assert!(block_on(read_to_end(&mut Cursor::new(wrong))).is_err());
        }
    }

    #[test]
    fn requests_arrive_as_they_were_sent() {
        let source = Request::Source(Amount {
            bytes: u64::MAX,
            write: 64,
            limit: Duration::from_millis(1234),
        });
        let echo = Request::Echo { size: 1 };
        for request in [Request::Sink, source, echo, Request::Reply { bytes: 100 }] {
            let mut bytes = Vec::new();
            block_on(request.send(&mut bytes)).unwrap();
            let received = block_on(Request::receive(&mut Cursor::new(bytes))).unwrap();
            assert_eq!(received, request);
        }
    }
}
