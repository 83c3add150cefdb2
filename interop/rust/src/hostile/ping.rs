//! One ping, to show that the other side talks to us: `/ipfs/ping/1.0.0`, negotiated with
//! multistream-select.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt};
use multistream_select::{Version, dialer_select_proto, listener_select_proto};
use quinn::{Connection, RecvStream, SendStream};
use tokio::io::join;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Pings the other side.
pub async fn ask(connection: &Connection) -> io::Result<()> {
    let (send, recv) = connection.open_bi().await?;
    let stream = join(recv, send).compat();
    let (_, mut stream) = dialer_select_proto(stream, [PROTOCOL], Version::V1).await?;
    let ping: [u8; 32] = rand::random();
    stream.write_all(&ping).await?;
    stream.flush().await?;
    let mut pong = [0; 32];
    stream.read_exact(&mut pong).await?;
    if pong == ping {
        Ok(())
    } else {
        Err(io::Error::other("pong is not the ping"))
    }
}

/// Answers one ping, if the other side has opened the stream for that. The stream ends when the
/// returned value is dropped.
pub async fn answer((send, recv): (SendStream, RecvStream)) -> io::Result<impl Sized> {
    let stream = join(recv, send).compat();
    let (_, mut stream) = listener_select_proto(stream, [PROTOCOL]).await?;
    let mut ping = [0; 32];
    stream.read_exact(&mut ping).await?;
    stream.write_all(&ping).await?;
    stream.flush().await?;
    Ok(stream)
}

const PROTOCOL: &str = "/ipfs/ping/1.0.0";
