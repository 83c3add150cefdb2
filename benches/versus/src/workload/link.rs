//! A download over a link: the bytes that have arrived a fixed time after the first packet.

use std::time::Instant;

use anyhow::Result;
use futures::AsyncReadExt;

use super::{Effort, client};
use crate::{
    control::Checkpoint,
    metric::{Metric, Metrics},
    service::{Amount, BLOCK, Request},
    stack::{Address, Connection, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    write: usize,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    // Work that a process does only once must not count. Another endpoint does it, because an
    // endpoint may remember the server.
    client::<E>(setup).await?.connect(&server).await?;
    let endpoint = client::<E>(setup).await?;
    let start = Checkpoint::reach().await?;
    let begin = Instant::now();
    let connection = endpoint.connect(&server).await?;
    let connected = begin.elapsed();
    let mut stream = connection.open().await?;
    let request = Request::Source(Amount {
        bytes: u64::MAX,
        write,
        // The client ends the transfer earlier.
        limit: 2 * effort.link_time(),
    });
    request.send(&mut stream).await?;
    let mut received = 0;
    let mut buffer = vec![0; BLOCK];
    let download = async {
        loop {
            received += stream.read(&mut buffer).await? as u64;
        }
    };
    let ended: Result<Result<(), std::io::Error>, _> =
        tokio::time::timeout(effort.link_time(), download).await;
    if let Ok(Err(error)) = ended {
        return Err(error.into());
    }
    let end = Checkpoint::reach().await?;
    let mut metrics = start.until(&end).per_byte(received);
    metrics.insert(Metric::HandshakeMillis, connected.as_secs_f64() * 1e3);
    Ok((metrics, endpoint.facts(&connection)))
}
