//! Transfers at full speed, on one or many streams of one or many connections.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future::try_join_all};

use super::{Effort, client};
use crate::{
    catalogue::{Bulk, Direction},
    control::Checkpoint,
    metric::Metrics,
    service::{self, Amount, Request},
    stack::{Address, Connection, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    bulk: Bulk,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let endpoint = client::<E>(setup).await?;
    let mut connections = Vec::new();
    for _ in 0..bulk.connections {
        connections.push(endpoint.connect(&server).await?);
    }
    let share = |bytes: u64| Amount {
        bytes: bytes / (bulk.connections * bulk.streams) as u64,
        write: bulk.write,
        limit: effort.time(),
    };
    // Long enough to discover the path MTU and to grow the congestion window.
    let warm_up = Amount {
        limit: WARM_UP,
        ..share(WARM_UP_BYTES)
    };
    transfer(&connections, bulk, warm_up).await?;
    let start = Checkpoint::reach().await?;
    let bytes = transfer(&connections, bulk, share(effort.bytes())).await?;
    let end = Checkpoint::reach().await?;
    ensure!(bytes > 0, "nothing was sent");
    let facts = endpoint.facts(&connections[0]);
    Ok((start.until(&end).per_byte(bytes), facts))
}

/// Transfers an amount on each stream, and returns the number of bytes on all of them.
pub async fn transfer<C: Connection>(connections: &[C], bulk: Bulk, each: Amount) -> Result<u64> {
    let mut tasks = Vec::new();
    for connection in connections {
        for _ in 0..bulk.streams {
            let connection = connection.clone();
            tasks.push(tokio::spawn(async move {
                match bulk.direction {
                    Direction::Up => upload(connection.open().await?, each).await,
                    Direction::Down => download(&connection, each).await,
                }
            }));
        }
    }
    let mut all = 0;
    for bytes in try_join_all(tasks).await? {
        all += bytes?;
    }
    Ok(all)
}

/// Uploads an amount on a new stream, and returns the number of bytes.
pub async fn upload<S>(mut stream: S, amount: Amount) -> Result<u64>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Request::Sink.send(&mut stream).await?;
    let sent = service::write(&mut stream, amount).await?;
    stream.close().await?;
    let mut received = [0; 8];
    stream.read_exact(&mut received).await?;
    ensure!(
        u64::from_be_bytes(received) == sent,
        "{sent} bytes were sent and something else has come"
    );
    Ok(sent)
}

async fn download(connection: &impl Connection, amount: Amount) -> Result<u64> {
    let mut stream = connection.open().await?;
    Request::Source(amount).send(&mut stream).await?;
    stream.close().await?;
    service::read_to_end(&mut stream).await
}

/// The transfer before the measurement ends after this time or this number of bytes.
pub const WARM_UP: Duration = Duration::from_millis(400);
pub const WARM_UP_BYTES: u64 = 32_000_000;
