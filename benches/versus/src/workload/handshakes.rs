//! Handshakes: from the first packet until both sides have the connection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Effort, client, quantiles};
use crate::{
    catalogue::Peers,
    control::Checkpoint,
    metric::Metrics,
    stack::{Address, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    peers: Peers,
    at_once: usize,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let count = effort.handshakes();
    let mut endpoints = Vec::new();
    for _ in 0..match peers {
        Peers::New => WARM_UP + count,
        Peers::Returning => 1,
    } {
        endpoints.push(Arc::new(client::<E>(setup).await?));
    }
    let mut dialers = endpoints.iter().cycle().cloned();

    // These stay open until the end, because closing is not measured.
    let mut warm = Vec::new();
    for endpoint in dialers.by_ref().take(WARM_UP) {
        warm.push(endpoint.connect(&server).await?);
    }
    let dials: Vec<_> = dialers
        .take(count)
        .map(|endpoint| dial(endpoint, server.clone()))
        .collect();
    tokio::time::sleep(PAUSE).await;
    let start = Checkpoint::reach().await?;
    let done: Vec<_> = stream::iter(dials)
        .buffer_unordered(at_once)
        .try_collect()
        .await?;
    let mut end = Checkpoint::reach().await?;
    // The client completes the handshake half a round trip before the server.
    for _ in 0..PATIENCE {
        if end.server.connections == start.server.connections + count as u64 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        end = Checkpoint::reach().await?;
    }
    let accepted = end.server.connections - start.server.connections;
    ensure!(
        accepted == count as u64,
        "{accepted} of {count} were accepted"
    );

    let facts = endpoints[0].facts(&warm[0]);
    let mut metrics = start.until(&end).per_operation(count);
    metrics.extend(quantiles(done.iter().map(|(_, time)| *time).collect()));
    Ok((metrics, facts))
}

async fn dial<E: Endpoint>(endpoint: Arc<E>, server: Address) -> Result<(E::Connection, Duration)> {
    let begin = Instant::now();
    let connection = endpoint.connect(&server).await?;
    Ok((connection, begin.elapsed()))
}

const WARM_UP: usize = 8;

/// How often, and with which pause, to ask the server whether it has all connections.
const PATIENCE: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);
