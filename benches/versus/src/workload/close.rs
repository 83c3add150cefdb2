//! Connections of a returning peer, each of which the client closes.

use std::{
    mem,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::future::try_join_all;

use super::{Effort, client, quantiles};
use crate::{
    catalogue::Closing,
    control::Checkpoint,
    metric::{Metric, Metrics},
    stack::{
        Address, Endpoint, Facts, Setup,
        libp2p::{Flavour, Libp2p, Muxed},
    },
};

pub async fn run<F: Flavour>(
    closing: Closing,
    at_once: usize,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let endpoint = client::<Libp2p<F>>(setup).await?;
    let first = endpoint.connect(&server).await?;
    let facts = endpoint.facts(&first);
    first.close().await?;
    lane(&endpoint, &server, WARM_UP - 1, None).await?;
    let mut held = Vec::new();
    for _ in 0..at_once {
        held.push(match closing {
            Closing::AtOnce => None,
            Closing::WhenTheNextIsThere => Some(endpoint.connect(&server).await?),
        });
    }
    tokio::time::sleep(FORGETTING).await;
    let each = effort.handshakes().div_ceil(at_once);
    let start = Checkpoint::reach().await?;
    let lanes = held
        .into_iter()
        .map(|held| lane(&endpoint, &server, each, held));
    let done = try_join_all(lanes).await?;
    let mut metrics = outcome(&start, each * at_once).await?;
    // The connections that are still held were not measured.
    let times = done.into_iter().flat_map(|(times, _held)| times).collect();
    metrics.extend(quantiles(times));
    Ok((metrics, facts))
}

/// The figures of the connections that were opened and closed since `start`, once the client has
/// finished: the time until now, and the CPU time until both sides have forgotten all of them.
pub async fn outcome(start: &Checkpoint, count: usize) -> Result<Metrics> {
    let done = Checkpoint::reach().await?;
    tokio::time::sleep(FORGETTING).await;
    let end = Checkpoint::reach().await?;
    let spent = start.until(&end).in_the_time_of(&start.until(&done));
    let accepted = end.server.connections - start.server.connections;
    let ended = end.server.ended - start.server.ended;
    // If the last packet is lost, the server keeps the connection until its idle timeout.
    ensure!(
        ended * 10 >= count as u64 * 9,
        "{ended} of {count} have ended"
    );
    let mut metrics = spent.per_operation(count);
    metrics.insert(
        Metric::AcceptedShare,
        100.0 * accepted as f64 / count as f64,
    );
    Ok(metrics)
}

/// Dials repeatedly. Closes each connection at once, or if one is `held`, closes the held one
/// and holds the new one.
async fn lane<F: Flavour>(
    endpoint: &Libp2p<F>,
    server: &Address,
    count: usize,
    mut held: Option<Muxed<F>>,
) -> Result<(Vec<Duration>, Option<Muxed<F>>)> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let connection = endpoint.connect(server).await?;
        let over = match &mut held {
            Some(held) => mem::replace(held, connection),
            None => connection,
        };
        over.close().await?;
        times.push(begin.elapsed());
    }
    Ok((times, held))
}

pub const WARM_UP: usize = 8;

/// Longer than either transport keeps a closed connection: three probe timeouts (RFC 9000 §10.2),
/// in ours at most a second.
pub const FORGETTING: Duration = Duration::from_millis(1200);
