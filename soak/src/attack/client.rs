//! The honest clients: a transfer, pings on another connection, and dials from time to time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt};
use harness::{
    process::{answer, limit_time, listen},
    statistics::Sorted,
};
use libp2p_core::transport::PortUse;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    ECHO, TRANSFER,
    lines::{Line, Order},
};
use crate::{
    LONGEST,
    flood::{
        dialer::{Dialer, open},
        network, runtime,
    },
};

/// The measurements.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    pub pings: u64,
    /// Pings answered by the end; the others count with the time until then.
    pub answered: u64,
    pub median_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub slowest_ms: f64,
    pub dials: u64,
    pub succeeded: u64,
    pub slowest_dial_ms: f64,
}

/// The process of the client.
pub fn run(victim: u32) -> Result<()> {
    limit_time(LONGEST);
    network::leave()?;
    network::CLIENT.lay(victim)?;
    let runtime = runtime()?;
    let _guard = runtime.enter();
    // Three dialers, which share neither sockets nor tasks.
    let [uploader, pinger, dialer] = [(); 3].map(|()| Dialer::default());
    let peers = [&uploader, &pinger, &dialer].map(|dialer| dialer.peer_id().to_string());
    answer(&Line::Peers(peers.to_vec()))?;
    let Order::Connect(address) = listen()? else {
        bail!("clients connect");
    };
    let address: Multiaddr = address.parse()?;
    let rate = Arc::new(Rate::default());
    let pings = Arc::new(Pings::default());
    runtime.block_on(async {
        transfer(uploader, &address, Arc::clone(&rate)).await?;
        ping(pinger, &address, Arc::clone(&pings)).await
    })?;
    answer(&Line::Ready)?;
    let dialer = Arc::new(dialer);
    loop {
        let Order::Measure { millis, megabytes } = listen()? else {
            bail!("clients measure");
        };
        rate.set(megabytes);
        let measured = runtime.block_on(measure(&dialer, &address, &pings, millis));
        answer(&Line::Measured(measured))?;
    }
}

/// Megabytes to upload in each second; 0 for as many as possible.
struct Rate(AtomicU64);

impl Default for Rate {
    fn default() -> Self {
        Self(AtomicU64::new(IDLE_MEGABYTES))
    }
}

impl Rate {
    fn set(&self, megabytes: Option<u64>) {
        self.0.store(megabytes.unwrap_or(0), Relaxed);
    }

    /// The time for this many bytes.
    fn time(&self, bytes: usize) -> Duration {
        // One byte a microsecond is one megabyte a second.
        let micros = (bytes as u64).checked_div(self.0.load(Relaxed));
        Duration::from_micros(micros.unwrap_or(0))
    }
}

/// Connects, and uploads until the process ends. The receiver counts the bytes.
async fn transfer(dialer: Dialer, address: &Multiaddr, rate: Arc<Rate>) -> Result<()> {
    let mut muxer = dialer.connect(address, PortUse::Reuse).await?;
    let mut stream = open(&mut muxer).await?;
    tokio::spawn(async move {
        // Both must live as long as this task.
        let _kept = (dialer, muxer);
        let block = vec![TRANSFER; BLOCK];
        let mut due = Instant::now();
        while stream.write_all(&block).await.is_ok() {
            // Delays due to missing credit are not made up for, because that would change the rate.
            due = due.max(Instant::now() - CATCH_UP) + rate.time(BLOCK);
            let early = due.saturating_duration_since(Instant::now());
            if early > TICK {
                tokio::time::sleep(early).await;
            }
        }
    });
    Ok(())
}

/// The time of each ping, and of its answer.
#[derive(Default)]
struct Pings(Mutex<Vec<(Instant, Option<Instant>)>>);

impl Pings {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Option<Instant>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The times of the pings that were due in this interval.
    fn times(&self, from: Instant, to: Instant) -> (Vec<Duration>, usize) {
        let pings = self.lock();
        let due = pings.iter().filter(|ping| (from..to).contains(&ping.0));
        let times = due
            .clone()
            .map(|&(sent, answered)| answered.unwrap_or(to).min(to) - sent)
            .collect();
        let answered = due.filter(|ping| ping.1.is_some_and(|at| at <= to));
        (times, answered.count())
    }
}

/// Pings until the process ends, without waiting for earlier answers.
async fn ping(dialer: Dialer, address: &Multiaddr, pings: Arc<Pings>) -> Result<()> {
    let mut muxer = dialer.connect(address, PortUse::Reuse).await?;
    let stream = open(&mut muxer).await?;
    let (mut reader, mut writer) = stream.split();
    writer.write_all(&[ECHO]).await?;
    let sent = Arc::clone(&pings);
    tokio::spawn(async move {
        let _kept = (dialer, muxer);
        let mut tick = tokio::time::interval(PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tick.tick().await.into_std();
            sent.lock().push((due, None));
            if writer.write_all(&PING).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        // Bytes and pings that have come back.
        let (mut bytes, mut count) = (0, 0);
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            bytes += length;
            let now = Instant::now();
            let mut pings = pings.lock();
            for ping in pings.iter_mut().take(bytes / PING.len()).skip(count) {
                ping.1 = Some(now);
            }
            count = bytes / PING.len();
        }
    });
    Ok(())
}

async fn measure(
    dialer: &Arc<Dialer>,
    address: &Multiaddr,
    pings: &Pings,
    millis: u64,
) -> Measured {
    let start = Instant::now();
    let end = start + Duration::from_millis(millis);
    let mut attempts = JoinSet::new();
    let mut tick = tokio::time::interval(DIAL_EVERY);
    while tick.tick().await.into_std() < end {
        let (dialer, address) = (Arc::clone(dialer), address.clone());
        attempts.spawn(async move {
            let ask = dialer.ask(&address);
            tokio::time::timeout(DIAL_PATIENCE, ask).await
        });
    }
    let (times, answered) = pings.times(start, end);
    let times = Sorted::milliseconds(times);
    let at = |share| times.quantile(share).unwrap_or(0.0);
    let mut measured = Measured {
        pings: times.values().len() as u64,
        answered: answered as u64,
        median_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        slowest_ms: at(1.0),
        dials: attempts.len() as u64,
        ..Measured::default()
    };
    while let Some(attempt) = attempts.join_next().await {
        if let Ok(Ok(Ok(time))) = attempt {
            measured.succeeded += 1;
            measured.slowest_dial_ms = measured.slowest_dial_ms.max(time.as_secs_f64() * 1e3);
        }
    }
    measured
}

/// Interval of pings on an established connection.
const PING_EVERY: Duration = Duration::from_millis(5);

const PING: [u8; 8] = [ECHO; 8];

const DIAL_EVERY: Duration = Duration::from_millis(50);

/// Enough for one retransmission of the first packet, after a second.
const DIAL_PATIENCE: Duration = Duration::from_secs(2);

/// The rate before the first measurement.
const IDLE_MEGABYTES: u64 = 100;

const BLOCK: usize = 64 * 1024;

/// How late a block may be before later blocks are delayed as well.
const CATCH_UP: Duration = Duration::from_millis(50);

/// The resolution of the runtime's timers.
const TICK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_without_an_answer_count_until_the_end() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let pings = Pings::default();
        *pings.lock() = vec![
            (at(0), Some(at(1))),
            (at(10), Some(at(13))),
            (at(20), Some(at(300))),
            (at(30), None),
            (at(200), None),
        ];
        let (times, answered) = pings.times(at(5), at(100));
        assert_eq!(times, [3, 80, 70].map(Duration::from_millis));
        assert_eq!(answered, 1);
    }
}
