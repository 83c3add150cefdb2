//! Requests by the clock beside a transfer at a steady rate: how long a request takes where neither
//! the network nor the machine is at its limit.

use std::{collections::HashMap, time::Duration};

use anyhow::Result;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream::Control;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{Instant, interval, interval_at},
};

use super::{Client, Step, quantiles};
use crate::{
    catalogue::Steady,
    control::Checkpoint,
    metric::{Metric, Metrics},
    service::{BLOCK, Request},
    stack::{Address, Facts, swarm::STREAM},
    workload::Effort,
};

pub(super) async fn run(
    steady: Steady,
    mut clients: Vec<Client>,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    for client in &mut clients {
        client.connect().await?;
    }
    let first = &clients[0];
    let control = first.node.swarm.behaviour().streams.new_control();
    let upload = Upload::start(control, first.server.clone());

    let start = Checkpoint::reach().await?;
    let begin = Instant::now();
    let end = begin + WARM_UP + effort.time();
    let mut tasks = JoinSet::new();
    let mut offset = Duration::ZERO;
    for client in clients {
        tasks.spawn(ask(client, steady, begin + offset, end));
        offset += steady.every / u32::try_from(steady.peers)?;
    }
    let (mut clients, mut requests) = (Vec::new(), Vec::new());
    while let Some(asked) = tasks.join_next().await {
        let (client, times) = asked??;
        clients.push(client);
        requests.extend(times);
    }
    let mut metrics = start
        .until(&Checkpoint::reach().await?)
        .per_operation(requests.len());
    let times = requests
        .into_iter()
        .filter(|(due, _)| *due >= begin + WARM_UP)
        .map(|(_, time)| time);
    metrics.extend(quantiles(times.collect()));
    metrics.insert(Metric::MegabytesPerSecond, upload.stop().await?);
    Ok((metrics, (clients[0].node.facts)()))
}

/// Begins requests by the clock. Returns when each was due, and the time from then to its reply: a
/// request that begins late because others take long has to show that.
async fn ask(
    mut client: Client,
    steady: Steady,
    begin: Instant,
    end: Instant,
) -> Result<(Client, Vec<(Instant, Duration)>)> {
    let mut clock = interval_at(begin, steady.every);
    let mut waiting = HashMap::new();
    let mut times = Vec::new();
    while Instant::now() < end || !waiting.is_empty() {
        tokio::select! {
            due = clock.tick() => {
                for _ in 0..steady.at_once {
                    if due < end {
                        waiting.insert(client.request(), due);
                    }
                }
            }
            step = client.next() => {
                if let Step::Reply(id) = step?
                    && let Some(due) = waiting.remove(&id)
                {
                    times.push((due, due.elapsed()));
                }
            }
        }
    }
    Ok((client, times))
}

/// An upload at a steady rate, in its own task.
struct Upload {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<f64>>,
}

impl Upload {
    fn start(control: Control, server: Address) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(upload(control, server, stopped));
        Self { stop, task }
    }

    /// Ends the upload and returns its MB/s.
    async fn stop(self) -> Result<f64> {
        // If the task has ended, it tells why.
        let _ = self.stop.send(());
        self.task.await?
    }
}

async fn upload(
    mut control: Control,
    server: Address,
    mut stopped: oneshot::Receiver<()>,
) -> Result<f64> {
    let mut stream = control.open_stream(server.peer, STREAM).await?;
    Request::Sink.send(&mut stream).await?;
    let mut block = vec![0x5a; BLOCK];
    let mut sent: u64 = 0;
    let begin = Instant::now();
    let mut clock = interval(Duration::from_secs_f64(BLOCK as f64 / BYTES_PER_SECOND));
    while stopped.try_recv().is_err() {
        clock.tick().await;
        // Each block begins with its position, which the server checks.
        block[..size_of::<u64>()].copy_from_slice(&sent.to_be_bytes());
        stream.write_all(&block).await?;
        sent += BLOCK as u64;
    }
    stream.close().await?;
    stream.read_exact(&mut [0; 8]).await?;
    Ok(sent as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

/// 100 Mbit/s.
const BYTES_PER_SECOND: f64 = 12.5e6;

/// Requests of the first second are not counted: windows grow, and processes warm up.
const WARM_UP: Duration = Duration::from_secs(1);
