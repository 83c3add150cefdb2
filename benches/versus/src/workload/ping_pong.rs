//! One message at a time, there and back, alone or beside a bulk upload.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::{Effort, client, quantiles};
use crate::{
    catalogue::Beside,
    control::Checkpoint,
    metric::{Metric, Metrics},
    service::{self, BLOCK, Request},
    stack::{Address, Connection, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    size: usize,
    beside: Beside,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let endpoint = client::<E>(setup).await?;
    let connection = endpoint.connect(&server).await?;
    let mut echo = Echo::begin(connection.open().await?, size).await?;
    let upload = match beside {
        Beside::Nothing => None,
        Beside::SameConnection => Some(Upload::start(connection.clone())),
        Beside::OtherConnection => Some(Upload::start(endpoint.connect(&server).await?)),
    };
    if upload.is_some() {
        tokio::time::sleep(UPLOAD_WARM_UP).await;
    }

    let mut metrics = echo.measure(effort).await?;
    let facts = endpoint.facts(&connection);
    if let Some(upload) = upload {
        // The CPU time would include that of the upload.
        for metric in [
            Metric::CpuMicrosPerOperation,
            Metric::ClientCpuMicrosPerOperation,
            Metric::ServerCpuMicrosPerOperation,
        ] {
            metrics.remove(&metric);
        }
        metrics.insert(Metric::MegabytesPerSecond, upload.stop().await?);
    }
    Ok((metrics, facts))
}

/// A stream on which the peer sends messages back.
pub struct Echo<S> {
    stream: S,
    message: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Echo<S> {
    /// Asks the peer to send back messages of this size, and warms up.
    pub async fn begin(mut stream: S, size: usize) -> Result<Self> {
        Request::Echo { size }.send(&mut stream).await?;
        let mut echo = Self {
            stream,
            message: vec![0x5a; size],
        };
        for _ in 0..WARM_UP {
            echo.exchange().await?;
        }
        Ok(echo)
    }

    /// Sends the messages that `effort` asks for, and returns their figures.
    pub async fn measure(&mut self, effort: Effort) -> Result<Metrics> {
        let mut trips = Vec::with_capacity(effort.operations());
        let start = Checkpoint::reach().await?;
        let begin = Instant::now();
        while trips.len() < effort.operations() && begin.elapsed() < effort.time() {
            let before = Instant::now();
            self.exchange().await?;
            trips.push(before.elapsed());
        }
        let end = Checkpoint::reach().await?;
        let mut metrics = start.until(&end).per_operation(trips.len());
        metrics.extend(quantiles(trips));
        Ok(metrics)
    }

    async fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.message).await?;
        self.stream.flush().await?;
        self.stream.read_exact(&mut self.message).await?;
        Ok(())
    }
}

/// A bulk upload in its own task.
struct Upload {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<f64>>,
}

impl Upload {
    fn start(connection: impl Connection) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut stream = connection.open().await?;
            Request::Sink.send(&mut stream).await?;
            let begin = Instant::now();
            let more = |_| !stopped.load(Ordering::Relaxed) && begin.elapsed() < LONGEST;
            let sent = service::write_while(&mut stream, BLOCK, more).await?;
            stream.close().await?;
            stream.read_exact(&mut [0; 8]).await?;
            Ok(sent as f64 / 1e6 / begin.elapsed().as_secs_f64())
        });
        Self { stop, task }
    }

    /// Ends the upload and returns its MB/s.
    async fn stop(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

const WARM_UP: usize = 200;

/// How long the congestion window needs to grow.
const UPLOAD_WARM_UP: Duration = Duration::from_millis(400);

/// Longer than any measurement.
const LONGEST: Duration = Duration::from_secs(90);
