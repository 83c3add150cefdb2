//! What the client does: one file for each kind of workload.

pub mod bulk;
pub mod close;
pub mod flood;
pub mod handshakes;
pub mod idle;
pub mod link;
pub mod ping_pong;
pub mod short_streams;
pub mod swarm;

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use harness::statistics::Sorted;
use libp2p_identity::Keypair;
use serde::Serialize;

use crate::{
    metric::{Metric, Metrics},
    stack::{Endpoint, Setup},
};

/// The size of one measurement. The limit that is reached first ends it.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub struct Effort {
    /// MB of a bulk transfer.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    megabytes: u64,
    /// Milliseconds of a bulk transfer or of a ping-pong.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    millis: u64,
    /// Round trips; streams and requests are five times as many.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    operations: u32,
    /// Connections of a workload that makes many.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    handshakes: u32,
    /// Seconds for which idle connections are measured.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=60))]
    idle_seconds: u64,
    /// Handshakes that a flood begins in each second.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    flood: u32,
}

impl Effort {
    pub fn bytes(&self) -> u64 {
        self.megabytes * 1_000_000
    }

    pub fn time(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// The longest time of a transfer over a link with delay.
    pub fn link_time(&self) -> Duration {
        3 * self.time()
    }

    pub fn operations(&self) -> usize {
        self.operations as usize
    }

    pub fn streams(&self) -> usize {
        self.operations() * 5
    }

    pub fn handshakes(&self) -> usize {
        self.handshakes as usize
    }

    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    pub fn flood_per_second(&self) -> u32 {
        self.flood
    }

    /// The command-line arguments that give another process the same effort.
    pub fn arguments(&self) -> [String; 6] {
        [
            format!("--megabytes={}", self.megabytes),
            format!("--millis={}", self.millis),
            format!("--operations={}", self.operations),
            format!("--handshakes={}", self.handshakes),
            format!("--idle-seconds={}", self.idle_seconds),
            format!("--flood={}", self.flood),
        ]
    }
}

/// Makes an endpoint with a new identity.
async fn client<E: Endpoint>(setup: Setup) -> Result<E> {
    E::bind(&Keypair::generate_ed25519(), setup).await
}

/// The median and the 99th percentile of the durations of operations.
fn quantiles(times: Vec<Duration>) -> Metrics {
    let times = Sorted::milliseconds(times);
    let micros = |share| times.quantile(share).unwrap_or(0.0) * 1e3;
    Metrics::from([
        (Metric::MedianMicros, micros(0.5)),
        (Metric::P99Micros, micros(0.99)),
    ])
}
