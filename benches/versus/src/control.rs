//! The lines that the processes of a measurement exchange over standard input and output.
//!
//! The client stops at checkpoints. At each, `run` asks the server for a mark of what it has used
//! so far, and passes the mark to the client, which then continues. So each process measures
//! itself over the same span, and they exchange no lines within it.

use anyhow::Result;
use harness::process::{answer, listen};
use serde::{Deserialize, Serialize};

use crate::{
    measure::{Connections, Mark, Usage},
    metric::{Metric, Metrics},
    stack::Facts,
};

/// A line that a server prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerLine {
    /// `HOST:PORT/PEER`, once the socket is bound.
    Listening(String),
    Mark(Mark),
}

/// A line that a client prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientLine {
    Checkpoint,
    Result { metrics: Metrics, facts: Facts },
}

/// A moment of silence, with a mark of both processes.
pub struct Checkpoint {
    before: Mark,
    pub server: Mark,
    after: Mark,
}

/// What both processes have used between two checkpoints.
pub struct Spent {
    pub client: Usage,
    pub server: Usage,
}

impl Checkpoint {
    /// Waits for the mark of the server.
    pub async fn reach() -> Result<Self> {
        // A client accepts no connections.
        let none = Connections::default();
        let before = Mark::now(&none)?;
        let server = tokio::task::spawn_blocking(|| {
            answer(&ClientLine::Checkpoint)?;
            listen()
        });
        Ok(Self {
            before,
            server: server.await??,
            after: Mark::now(&none)?,
        })
    }

    /// The mark of the client.
    pub fn client(&self) -> &Mark {
        &self.before
    }

    pub fn until(&self, end: &Self) -> Spent {
        Spent {
            client: self.after.until(&end.before),
            server: self.server.until(&end.server),
        }
    }
}

impl Spent {
    /// The same usage, with the duration of another span.
    pub fn in_the_time_of(mut self, other: &Self) -> Self {
        self.client.wall = other.client.wall;
        self.server.wall = other.server.wall;
        self
    }

    /// The figures of a transfer.
    pub fn per_byte(&self, bytes: u64) -> Metrics {
        let gigabytes = bytes as f64 / 1e9;
        let [client, server] = [self.client, self.server].map(|usage| usage.cpu().as_secs_f64());
        let mut metrics = Metrics::from([
            (
                Metric::MegabytesPerSecond,
                gigabytes * 1e3 / self.client.wall.as_secs_f64(),
            ),
            (Metric::CpuSecondsPerGigabyte, (client + server) / gigabytes),
            (Metric::ClientCpuSecondsPerGigabyte, client / gigabytes),
            (Metric::ServerCpuSecondsPerGigabyte, server / gigabytes),
        ]);
        metrics.extend(self.general());
        metrics
    }

    /// The figures of repeated operations.
    pub fn per_operation(&self, operations: usize) -> Metrics {
        let operations = operations as f64;
        let [client, server] =
            [self.client, self.server].map(|usage| usage.cpu().as_secs_f64() * 1e6);
        let mut metrics = Metrics::from([
            (
                Metric::OperationsPerSecond,
                operations / self.client.wall.as_secs_f64(),
            ),
            (
                Metric::CpuMicrosPerOperation,
                (client + server) / operations,
            ),
            (Metric::ClientCpuMicrosPerOperation, client / operations),
            (Metric::ServerCpuMicrosPerOperation, server / operations),
        ]);
        metrics.extend(self.general());
        metrics
    }

    fn general(&self) -> Metrics {
        let both = [self.client, self.server];
        let sum = |each: fn(&Usage) -> f64| both.iter().map(each).sum::<f64>();
        Metrics::from([
            (
                Metric::SystemShare,
                100.0 * sum(|usage| usage.used.system.as_secs_f64())
                    / sum(|usage| usage.cpu().as_secs_f64()),
            ),
            (
                Metric::SwitchesPerSecond,
                sum(|usage| usage.used.switches as f64) / self.client.wall.as_secs_f64(),
            ),
        ])
    }
}
