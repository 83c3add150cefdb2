//! A question and a reply, of fixed sizes. Each is all that its side sends on a stream.

use std::io::{self, ErrorKind};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p_request_response::Codec;
use libp2p_swarm::StreamProtocol;

use crate::catalogue::NodeWork;

/// The codec of questions and replies.
#[derive(Clone)]
pub struct Exchange {
    question: usize,
    reply: usize,
}

impl Exchange {
    pub fn of(work: NodeWork) -> Self {
        let (question, reply) = work.exchange();
        Self { question, reply }
    }

    pub fn question(&self) -> Vec<u8> {
        vec![0x5a; self.question]
    }

    pub fn reply(&self) -> Vec<u8> {
        vec![1; self.reply]
    }
}

impl Codec for Exchange {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.question).await
    }

    async fn read_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.reply).await
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

/// Reads `length` bytes, after which the stream has to end.
async fn read(io: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    io.read_exact(&mut bytes).await?;
    match io.read(&mut [0]).await? {
        0 => Ok(bytes),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn only_what_is_as_long_as_it_is_to_be_is_read() {
        let question = [0x5a; 25];
        assert_eq!(block_on(read(&mut &question[..], 25)).unwrap(), question);
        assert!(block_on(read(&mut &question[1..], 25)).is_err());
        assert!(block_on(read(&mut &question[..], 24)).is_err());
    }
}
