//! The honest clients: a transfer that has begun before the flood, and dials during it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use futures::AsyncWriteExt;
use harness::{
    process::{answer, limit_time, listen},
    resources::Usage,
    statistics::Sorted,
};
use libp2p_core::transport::PortUse;
use multiaddr::{Multiaddr, Protocol};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    dialer::{Dialer, open},
    lines::{Line, Order},
    network, runtime,
};
use crate::LONGEST;

#[derive(Args)]
pub struct Options {
    /// The server's process ID.
    server: u32,
    /// Megabytes that are uploaded in each second; 0 for as many as go.
    megabytes: u64,
}

/// The measurements.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    pub cpu: Duration,
    pub seconds: f64,
    /// Bytes that the upload has written.
    pub uploaded: u64,
    pub dials: u64,
    pub succeeded: u64,
    /// Of successful dials: the time from the dial to the answer on a stream.
    pub median_ms: f64,
    pub p99_ms: f64,
    pub slowest_ms: f64,
    /// The errors of the others.
    pub failures: Vec<String>,
}

/// The process of the client.
pub fn run(options: &Options) -> Result<()> {
    limit_time(LONGEST);
    network::leave()?;
    network::CLIENT.lay(options.server)?;
    network::CLIENT.add_hosts()?;
    answer(&Line::Ready)?;
    let Order::Upload(address) = listen()? else {
        bail!("clients upload");
    };
    let address: Multiaddr = address.parse()?;
    let runtime = runtime()?;
    let uploaded = Arc::new(AtomicU64::new(0));
    runtime.block_on(upload(&address, Arc::clone(&uploaded), options.megabytes))?;
    answer(&Line::Ready)?;
    let dialer = Arc::new(Dialer::default());
    loop {
        let Order::Measure {
            seconds,
            per_second,
        } = listen()?
        else {
            bail!("clients measure");
        };
        let measured =
            runtime.block_on(measure(&dialer, &address, &uploaded, seconds, per_second))?;
        answer(&Line::Measured(measured))?;
    }
}

/// Connects, and uploads until the process ends.
async fn upload(address: &Multiaddr, uploaded: Arc<AtomicU64>, megabytes: u64) -> Result<()> {
    let dialer = Dialer::default();
    let mut muxer = dialer.connect(address, PortUse::Reuse).await?;
    let mut stream = open(&mut muxer).await?;
    tokio::spawn(async move {
        // Both must live as long as this task.
        let _kept = (dialer, muxer);
        let block = vec![0x5a; BLOCK];
        let start = Instant::now();
        let mut sent = 0;
        while stream.write_all(&block).await.is_ok() {
            sent += block.len() as u64;
            uploaded.store(sent, Ordering::Relaxed);
            // One byte a microsecond is one megabyte a second.
            if let Some(micros) = sent.checked_div(megabytes) {
                let early = Duration::from_micros(micros).checked_sub(start.elapsed());
                if let Some(early) = early {
                    tokio::time::sleep(early).await;
                }
            }
        }
    });
    tokio::time::sleep(WARM_UP).await;
    Ok(())
}

async fn measure(
    dialer: &Arc<Dialer>,
    address: &Multiaddr,
    uploaded: &AtomicU64,
    seconds: u64,
    per_second: u64,
) -> Result<Measured> {
    let (used, start, before) = (
        Usage::now()?,
        Instant::now(),
        uploaded.load(Ordering::Relaxed),
    );
    let attempted = usize::try_from(seconds * per_second)?;
    let mut attempts = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / per_second.max(1)));
    for host in (0..network::HOSTS).cycle().take(attempted) {
        tick.tick().await;
        let dialer = Arc::clone(dialer);
        let ip = Protocol::Ip4(network::dialled_by(host));
        let address = address.replace(0, |_| Some(ip)).context("no address")?;
        attempts.spawn(async move { dialer.ask(&address).await });
    }
    let over = Duration::from_secs(seconds);
    tokio::time::sleep(over.saturating_sub(start.elapsed())).await;
    let mut measured = Measured {
        cpu: Usage::now()?.since(&used).cpu(),
        seconds: start.elapsed().as_secs_f64(),
        uploaded: uploaded.load(Ordering::Relaxed) - before,
        dials: attempts.len() as u64,
        ..Measured::default()
    };
    let mut times = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            Ok(time) => times.push(time),
            Err(error) => measured.failures.push(format!("{error:#}")),
        }
    }
    measured.succeeded = times.len() as u64;
    let times = Sorted::milliseconds(times);
    let at = |share| times.quantile(share).unwrap_or(0.0);
    (measured.median_ms, measured.p99_ms, measured.slowest_ms) = (at(0.5), at(0.99), at(1.0));
    Ok(measured)
}

const BLOCK: usize = 64 * 1024;

/// Until the upload has reached its rate.
const WARM_UP: Duration = Duration::from_secs(1);
