//! Messages to one peer: a request and its answer on a stream, each a text of limited size.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    StreamProtocol,
    request_response::{self, ProtocolSupport},
};

/// The longest message. A peer must not be able to fill our memory.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

pub(crate) type Behaviour = request_response::Behaviour<Codec>;

/// What a peer makes of a request: an answer, or the reason for which it refuses it.
pub(crate) type Response = Result<String, String>;

/// The first byte of an answer.
const ANSWERED: u8 = b'+';

/// The first byte of a refusal.
const REFUSED: u8 = b'-';

pub(crate) fn behaviour() -> Behaviour {
    let protocol = StreamProtocol::new("/libp2p-quinn/cluster/message/1.0.0");
    let config = request_response::Config::default();
    Behaviour::new([(protocol, ProtocolSupport::Full)], config)
}

/// Reads and writes messages. Each ends with its direction of the stream.
#[derive(Clone, Default)]
pub(crate) struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = String;
    type Response = Response;

    /// Reads one byte more than the limit, by which the node sees that the request is too long and
    /// says so. After an error here, libp2p would tell neither side.
    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<String>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read(io, MAX_BYTES + 1).await?;
        Ok(text(&bytes))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read(io, 1 + MAX_BYTES).await?;
        match bytes.split_first() {
            Some((&ANSWERED, bytes)) => Ok(Ok(text(bytes))),
            Some((&REFUSED, bytes)) => Ok(Err(text(bytes))),
            // A stream that the peer has dropped looks like this.
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: String,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(request.as_bytes()).await
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
        let (first, text) = match &response {
            Ok(text) => (ANSWERED, text),
            Err(reason) => (REFUSED, reason),
        };
        io.write_all(&[first]).await?;
        io.write_all(text.as_bytes()).await
    }
}

/// Reads to the end of the stream, but no more than `limit`.
async fn read(io: &mut (impl AsyncRead + Send + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(limit as u64).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
