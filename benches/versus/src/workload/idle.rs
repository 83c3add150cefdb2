//! Idle connections: nothing happens on them except keep-alives.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Effort, client};
use crate::{
    control::Checkpoint,
    measure::Usage,
    metric::{Metric, Metrics},
    stack::{Address, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    count: usize,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let endpoint = client::<E>(setup).await?;
    // The first connection comes with allocations that happen only once and must not count.
    let first = endpoint.connect(&server).await?;
    tokio::time::sleep(SETTLE).await;
    let empty = Checkpoint::reach().await?;
    let mut connections: Vec<E::Connection> = Vec::with_capacity(count);
    for _ in 0..count.div_ceil(AT_ONCE) {
        let dials: Vec<_> = (0..AT_ONCE).map(|_| endpoint.connect(&server)).collect();
        let dials = stream::iter(dials).buffer_unordered(AT_ONCE);
        connections.extend(dials.try_collect::<Vec<_>>().await?);
    }
    // Waits for the last packets of the handshakes and for their timers.
    tokio::time::sleep(SETTLE).await;
    let full = Checkpoint::reach().await?;
    tokio::time::sleep(effort.idle()).await;
    let end = Checkpoint::reach().await?;

    let accepted = end.server.connections - empty.server.connections;
    ensure!(
        accepted == connections.len() as u64,
        "{accepted} of {} were accepted",
        connections.len()
    );
    let count = connections.len() as f64;
    let kilobytes = |empty: u64, full: u64| (full as f64 - empty as f64) / 1e3 / count;
    let spent = full.until(&end);
    // CPU time of all connections in each second.
    let micros = |usage: Usage| usage.cpu().as_secs_f64() * 1e6 / usage.wall.as_secs_f64();
    let metrics = Metrics::from([
        (
            Metric::ClientKilobytesPerConnection,
            kilobytes(empty.client().resident, full.client().resident),
        ),
        (
            Metric::ServerKilobytesPerConnection,
            kilobytes(empty.server.resident, full.server.resident),
        ),
        (Metric::ClientIdleMicros, micros(spent.client)),
        (Metric::ServerIdleMicros, micros(spent.server)),
    ]);
    Ok((metrics, endpoint.facts(&first)))
}

/// Handshakes at a time: few, so that their temporary memory does not count.
const AT_ONCE: usize = 8;

const SETTLE: Duration = Duration::from_secs(2);
