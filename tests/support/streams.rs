//! Stream operations of tests: open, echo, transfer and compare.

use std::{future::poll_fn, io};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future::poll_immediate};
use libp2p_core::{StreamMuxer, muxing::StreamMuxerExt};
use libp2p_quinn::{Connection, Stream, StreamError};
use sha2::{Digest, Sha256};

const BLOCK: usize = 64 * 1024;

pub(crate) async fn open<M: StreamMuxer + Unpin>(muxer: &mut M) -> M::Substream {
    match poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await {
        Ok(stream) => stream,
        Err(error) => panic!("no stream opened: {error}"),
    }
}

pub(crate) async fn accept<M: StreamMuxer + Unpin>(muxer: &mut M) -> M::Substream {
    match poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await {
        Ok(stream) => stream,
        Err(error) => panic!("no stream accepted: {error}"),
    }
}

/// Opens a stream, and returns both ends. The opener writes one byte, which the acceptor reads,
/// because a peer learns of a stream by its first byte.
pub(crate) async fn open_between<A, B>(
    opener: &mut A,
    acceptor: &mut B,
) -> (A::Substream, B::Substream)
where
    A: StreamMuxer<Substream: AsyncWrite + Unpin> + Unpin,
    B: StreamMuxer<Substream: AsyncRead + Unpin> + Unpin,
{
    let mut opened = open(opener).await;
    opened.write_all(b"!").await.unwrap();
    let mut accepted = accept(acceptor).await;
    let mut byte = [0];
    accepted.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"!");
    (opened, accepted)
}

/// Echoes received data until the peer finishes, or an error occurs.
pub(crate) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = vec![0; BLOCK];
    loop {
        match stream.read(&mut buf).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                if stream.write_all(&buf[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = stream.close().await;
}

/// Asks an echo server something, and checks its answer.
pub(crate) async fn ask<M>(muxer: &mut M)
where
    M: StreamMuxer<Substream: AsyncRead + AsyncWrite + Unpin> + Unpin,
{
    let mut stream = open(muxer).await;
    stream.write_all(b"is anybody there?").await.unwrap();
    stream.close().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"is anybody there?");
}

/// Writes as much as is accepted, until nothing was accepted for a whole round trip of `ping`.
/// Returns how much.
pub(crate) async fn fill(stream: &mut Stream, ping: &mut Connection) -> usize {
    let block = [9; 10_000];
    let mut written = 0;
    loop {
        let before = written;
        while let Some(taken) = poll_immediate(stream.write(&block)).await {
            written += taken.unwrap();
        }
        if written == before {
            return written;
        }
        ask(ping).await;
    }
}

/// The length and digest of transferred data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digested {
    pub(crate) length: u64,
    sha256: Vec<u8>,
}

/// Sends this many bytes, in which no two blocks are equal, and FIN.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), length: u64) -> Digested {
    let mut block: Vec<u8> = (0..BLOCK).map(|index| ((index * 31) >> 3) as u8).collect();
    let mut hash = Sha256::new();
    let mut left = length;
    for number in 0_u64.. {
        if left == 0 {
            break;
        }
        block[..8].copy_from_slice(&number.to_be_bytes());
        let part = &block[..left.min(BLOCK as u64) as usize];
        stream.write_all(part).await.unwrap();
        hash.update(part);
        left -= part.len() as u64;
    }
    stream.close().await.unwrap();
    Digested {
        length,
        sha256: hash.finalize().to_vec(),
    }
}

/// Receives until FIN.
pub(crate) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Digested {
    let mut buf = vec![0; BLOCK];
    let mut hash = Sha256::new();
    let mut length = 0;
    loop {
        let read = stream.read(&mut buf).await.unwrap();
        if read == 0 {
            break;
        }
        hash.update(&buf[..read]);
        length += read as u64;
    }
    Digested {
        length,
        sha256: hash.finalize().to_vec(),
    }
}

/// Transfers data through an echo server, and compares the result.
pub(crate) async fn transfer_through_echo<M>(muxer: &mut M, length: u64)
where
    M: StreamMuxer<Substream: AsyncRead + AsyncWrite + Unpin> + Unpin,
{
    let (mut reader, mut writer) = open(muxer).await.split();
    let (sent, received) = tokio::join!(send(&mut writer, length), receive(&mut reader));
    assert_eq!(sent, received);
}

/// The error of our transport that ended the stream.
pub(crate) fn stream_error(error: &io::Error) -> &StreamError {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref())
        .expect("a stream's error carries a `StreamError`")
}
