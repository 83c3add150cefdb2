//! A bulk upload, first alone, then while a third process begins handshakes and abandons them.

use std::time::Duration;

use anyhow::Result;

use super::{Effort, bulk, client};
use crate::{
    catalogue::{Bulk, Direction},
    control::Checkpoint,
    flooder::Flood,
    metric::{Metric, Metrics},
    service::{Amount, BLOCK},
    stack::{Address, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let endpoint = client::<E>(setup).await?;
    let connections = [endpoint.connect(&server).await?];
    let upload = Bulk {
        direction: Direction::Up,
        connections: 1,
        streams: 1,
        write: BLOCK,
    };
    // Limited by time, so that both transfers take equally long.
    let amount = |limit| Amount {
        bytes: u64::MAX,
        write: BLOCK,
        limit,
    };
    let flood = tokio::task::spawn_blocking(move || Flood::prepare(&server, effort)).await??;
    bulk::transfer(&connections, upload, amount(WARM_UP)).await?;
    let start = Checkpoint::reach().await?;
    let alone = bulk::transfer(&connections, upload, amount(effort.time())).await?;
    let middle = Checkpoint::reach().await?;
    let flood = tokio::task::spawn_blocking(move || flood.start()).await??;
    let before = Checkpoint::reach().await?;
    let beside = bulk::transfer(&connections, upload, amount(effort.time())).await?;
    let end = Checkpoint::reach().await?;
    let answered = tokio::task::spawn_blocking(move || flood.stop()).await??;

    let mut metrics = start.until(&middle).per_byte(alone);
    let spent = before.until(&end);
    let seconds = spent.client.wall.as_secs_f64();
    let in_flood = beside as f64 / 1e6 / seconds;
    let kept = in_flood / metrics[&Metric::MegabytesPerSecond];
    metrics.insert(Metric::MegabytesPerSecondInFlood, in_flood);
    metrics.insert(Metric::KeptInFlood, kept);
    metrics.insert(Metric::AnsweredInFlood, answered as f64 / seconds);
    Ok((metrics, endpoint.facts(&connections[0])))
}

const WARM_UP: Duration = Duration::from_millis(400);
