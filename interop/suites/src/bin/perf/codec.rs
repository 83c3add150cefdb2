//! `/perf/1.0.0` on the wire.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use interop_suites::{environment::Environment, error::Error};
use libp2p::{StreamProtocol, request_response};

/// Reads and writes requests and responses, and counts their bytes.
#[derive(Clone, Default)]
pub struct Codec {
    header: Header,
    progress: Arc<Progress>,
}

/// The header of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// The number of bytes to download, as specified.
    #[default]
    Download,
    /// The bytes to upload and those to download, which some implementations send under the same
    /// name.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub upload: u64,
    pub download: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    pub bytes: u64,
}

/// Bytes that a dialer has sent and received so far, without headers.
#[derive(Debug, Default)]
pub struct Progress {
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

impl Codec {
    pub fn new(header: Header) -> Self {
        Self {
            header,
            progress: Arc::default(),
        }
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Header {
    pub fn read(environment: &Environment) -> Result<Self, Error> {
        match environment.get(HEADER_BYTES) {
            None | Some("8") => Ok(Self::Download),
            Some("16") => Ok(Self::Both),
            Some(value) => Err(Error::Invalid {
                name: HEADER_BYTES,
                expected: "8 or 16",
                value: value.to_owned(),
            }),
        }
    }
}

impl Progress {
    /// Uploaded and downloaded bytes.
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.uploaded.load(Ordering::Relaxed),
            self.downloaded.load(Ordering::Relaxed),
        )
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        match self.header {
            Header::Download => {
                let download = read_u64(io).await?;
                let upload = drain(io, |_| ()).await?;
                Ok(Request { upload, download })
            }
            Header::Both => {
                let upload = read_u64(io).await?;
                let download = read_u64(io).await?;
                // Not to the end: some peers end their half only after the answer.
                let received = drain(&mut io.take(upload), |_| ()).await?;
                if received < upload {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Request { upload, download })
            }
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        let downloaded = &self.progress.downloaded;
        let bytes = drain(io, |length| {
            downloaded.fetch_add(length, Ordering::Relaxed);
        })
        .await?;
        Ok(Response { bytes })
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        if self.header == Header::Both {
            io.write_all(&request.upload.to_be_bytes()).await?;
        }
        io.write_all(&request.download.to_be_bytes()).await?;
        let uploaded = &self.progress.uploaded;
        fill(io, request.upload, |length| {
            uploaded.fetch_add(length, Ordering::Relaxed);
        })
        .await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        fill(io, response.bytes, |_| ()).await
    }
}

async fn read_u64(io: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
    let mut bytes = [0; 8];
    io.read_exact(&mut bytes).await?;
    Ok(u64::from_be_bytes(bytes))
}

/// Reads to the end; returns the number of bytes.
async fn drain(io: &mut (impl AsyncRead + Unpin), each: impl Fn(u64)) -> io::Result<u64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut received = 0;
    loop {
        let length = io.read(&mut block).await? as u64;
        if length == 0 {
            return Ok(received);
        }
        each(length);
        received += length;
    }
}

async fn fill(
    io: &mut (impl AsyncWrite + Unpin),
    bytes: u64,
    each: impl Fn(u64),
) -> io::Result<()> {
    let block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64);
        io.write_all(&block[..length as usize]).await?;
        each(length);
        left -= length;
    }
    // The end of this half follows, and also flushes.
    Ok(())
}

/// The variable that chooses the [`Header`].
const HEADER_BYTES: &str = "PERF_HEADER_BYTES";

/// Bytes that are read or written at once.
const BLOCK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;

    use super::*;

    async fn written(header: Header, request: Request) -> Vec<u8> {
        let mut wire = Cursor::new(Vec::new());
        Codec::new(header)
            .write_request(&crate::PERF, &mut wire, request)
            .await
            .unwrap();
        wire.into_inner()
    }

    #[tokio::test]
    async fn each_header_is_read_as_it_was_written() {
        let request = Request {
            upload: 100_000,
            download: 7,
        };
        for (header, bytes) in [(Header::Download, 8), (Header::Both, 16)] {
            let wire = written(header, request).await;
            assert_eq!(wire.len(), bytes + 100_000);
            let read = Codec::new(header)
                .read_request(&crate::PERF, &mut Cursor::new(wire))
                .await
                .unwrap();
            assert_eq!(read, request);
        }
    }

    #[tokio::test]
    async fn less_than_was_announced_is_an_error() {
        let request = Request {
            upload: 100,
            download: 7,
        };
        let mut wire = written(Header::Both, request).await;
        wire.pop();
        let read = Codec::new(Header::Both)
            .read_request(&crate::PERF, &mut Cursor::new(wire))
            .await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
