//! A question of 25 bytes and a reply of 100. Each is all that its side sends on a stream.

use std::io::{self, ErrorKind};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p_request_response::Codec;
use libp2p_swarm::StreamProtocol;

/// The codec of questions and replies.
#[derive(Clone, Default)]
pub struct Exchange;

impl Codec for Exchange {
    type Protocol = StreamProtocol;
    type Request = [u8; 25];
    type Response = [u8; 100];

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Self::Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&request).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Self::Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response).await
    }
}

/// Reads `N` bytes, after which the stream has to end.
async fn read<const N: usize>(io: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await?;
    match io.read(&mut [0]).await? {
        0 => Ok(bytes),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// The question.
pub const QUESTION: <Exchange as Codec>::Request = [0x5a; 25];

/// The reply.
pub const REPLY: <Exchange as Codec>::Response = [1; 100];

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn only_what_is_as_long_as_it_is_to_be_is_read() {
        assert_eq!(block_on(read::<25>(&mut &QUESTION[..])).unwrap(), QUESTION);
        assert!(block_on(read::<25>(&mut &QUESTION[1..])).is_err());
        assert!(block_on(read::<25>(&mut &REPLY[..])).is_err());
    }
}
