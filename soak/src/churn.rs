//! Opens and closes connections and streams in slices, and checks what is left after each slice.

mod dialer;
mod listener;
mod patience;
mod streams;
mod tally;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rand::{SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use self::{
    dialer::{Dialer, Manner},
    listener::Listener,
    patience::until,
    tally::{Outcome, Tally},
};
use crate::{
    figures::Figures,
    plot,
    sample::{Sample, entries},
    trend::Trend,
};

#[derive(Args)]
pub struct Options {
    /// Attempts to connect, those that have to fail among them.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Streams.
    #[arg(long, default_value_t = 100_000)]
    streams: u64,
    /// How often to look what is left.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=1_000))]
    slices: u64,
    /// Connections at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    parallel: u64,
    /// Shards of the listener.
    #[arg(long, default_value_t = 1)]
    shards: u8,
    /// Decides what is done to which connection.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write `churn.toml` and `churn.svg`.
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(churn(options))?;
    figures.print();
    if let Some(out) = &options.out {
        figures.write(&out.join("churn.toml"))?;
        plot::churn(&figures.sample, &out.join("churn.svg"))?;
    }
    Ok(figures.all_met())
}

async fn churn(options: &Options) -> Result<Figures> {
    let began = Instant::now();
    let tally = Arc::new(Tally::default());
    let listener = Listener::start(options.seed, options.shards).await?;
    let mut samples = vec![Sample::take(0, 0, listener.entries())?];
    for slice in 0..options.slices {
        let part =
            |whole: u64| whole * (slice + 1) / options.slices - whole * slice / options.slices;
        let slice = Slice::new(part(options.connections), part(options.streams));
        slice.run(options, samples.len(), &listener, &tally).await?;
        let mut sample = settle(&listener, &tally, &samples[0]).await?;
        if samples.len() as u64 >= options.slices / 2 {
            sample = rest(&listener, &tally, sample).await?;
        }
        samples.push(sample);
        eprintln!(
            "{:6} s  {}",
            began.elapsed().as_secs(),
            samples[samples.len() - 1]
        );
    }
    report(options, &tally, samples, began.elapsed())
}

/// The rest of a slice.
struct Slice {
    connections: AtomicU64,
    streams: AtomicU64,
    /// The most streams of one connection.
    share: u64,
}

impl Slice {
    fn new(connections: u64, streams: u64) -> Arc<Self> {
        Arc::new(Self {
            connections: AtomicU64::new(connections),
            streams: AtomicU64::new(streams),
            // The extra share makes up for attempts that fail.
            share: (streams * 3).div_ceil(connections.max(1) * 2).max(1),
        })
    }

    /// Ends when all its connections are gone, as far as the dialer can tell.
    async fn run(
        self: Arc<Self>,
        options: &Options,
        number: usize,
        listener: &Listener,
        tally: &Arc<Tally>,
    ) -> Result<()> {
        // A new dialer for each slice, so that its peer ID, task and sockets begin and end as well.
        let dialer = Arc::new(Dialer::new(listener.address(), Arc::clone(tally))?);
        let mut workers = JoinSet::new();
        for worker in 0..options.parallel {
            let seed = [options.seed, number as u64, worker].map(u64::to_le_bytes);
            let mut bytes = [0; 32];
            bytes[..24].copy_from_slice(seed.as_flattened());
            let mut rng = StdRng::from_seed(bytes);
            let (dialer, slice) = (Arc::clone(&dialer), Arc::clone(&self));
            workers.spawn(async move {
                while take(&slice.connections, 1) == 1 {
                    let manner = Manner::any(&mut rng);
                    dialer
                        .connect(manner, &slice.streams, slice.share, &mut rng)
                        .await;
                }
                // Connections that had to fail have left their streams to others.
                while slice.streams.load(Ordering::Relaxed) > 0 {
                    let manner = Manner::Ordinary;
                    dialer
                        .connect(manner, &slice.streams, slice.share, &mut rng)
                        .await;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.context("a worker has panicked")?;
        }
        let dialer = Arc::into_inner(dialer).context("somebody still dials")?;
        let handle = dialer.end();
        until(|| entries(&handle.stats().registry) == 0).await;
        let left = entries(&handle.stats().registry);
        ensure!(left == 0, "{left} entries are left in a dialer's registry");
        Ok(())
    }
}

/// Takes this many, or the rest.
fn take(left: &AtomicU64, wanted: u64) -> u64 {
    let before = left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(wanted))
        })
        .unwrap_or(0);
    before.min(wanted)
}

/// What is left after everything that was going to end has ended.
async fn settle(listener: &Listener, tally: &Tally, start: &Sample) -> Result<Sample> {
    let take = || Sample::take(tally.connections(), tally.streams(), listener.entries());
    until(|| take().is_ok_and(|sample| sample.is_as_empty_as(start))).await;
    take()
}

/// What is left after pools have shrunk, which they do each second while they are not used. Some
/// slices end at once and others seconds later, so this would look like growth otherwise.
async fn rest(listener: &Listener, tally: &Tally, mut sample: Sample) -> Result<Sample> {
    loop {
        let before = sample.live_bytes;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        sample = Sample::take(tally.connections(), tally.streams(), listener.entries())?;
        if sample.live_bytes + SMALLEST_POOL >= before {
            return Ok(sample);
        }
    }
}

/// The second half. In the first half, caches fill, and lists of the runtime and the allocator
/// reach their size.
pub fn settled<T>(slices: &[T]) -> &[T] {
    &slices[slices.len() / 2..]
}

fn report(
    options: &Options,
    tally: &Tally,
    samples: Vec<Sample>,
    time: Duration,
) -> Result<Figures> {
    let (start, end) = (samples[0], samples[samples.len() - 1]);
    let trend = |of: fn(&Sample) -> u64| {
        let points: Vec<_> = samples
            .iter()
            .map(|sample| (sample.connections as f64, of(sample) as f64))
            .collect();
        Trend::of(settled(&points)).context("too few slices for a trend")
    };
    let mut figures = Figures::new(format!(
        "soak churn --connections {} --streams {} --slices {} --parallel {} --shards {} --seed {}",
        options.connections,
        options.streams,
        options.slices,
        options.parallel,
        options.shards,
        options.seed
    ))?;
    figures.tell("seconds", time.as_secs());
    let wanted = format!("at least {}", options.connections);
    let met = end.connections >= options.connections;
    figures.demand("connections", end.connections, &wanted, met);
    let wanted = format!("at least {}", options.streams);
    let met = end.streams >= options.streams;
    figures.demand("streams", end.streams, &wanted, met);

    let mut same = |name: &str, of: fn(&Sample) -> u64| {
        let most = samples.iter().map(of).max().unwrap_or(0);
        let value = format!("{} at the end, {most} at most after a slice", of(&end));
        let met = of(&end) == of(&start) && most == of(&start);
        figures.demand(
            name,
            value,
            &format!("{}, as at the start", of(&start)),
            met,
        );
    };
    same("entries in the registry", |sample| sample.entries);
    same("tasks", |sample| sample.tasks);
    same("descriptors", |sample| sample.descriptors);
    let live = trend(|sample| sample.live_bytes)?;
    let wanted = format!("no more than {SMALLEST_ALLOCATION} beyond two standard errors");
    let value = format!(
        "{:.2} ± {:.2} bytes for each connection",
        live.slope, live.error
    );
    let met = !live.exceeds(SMALLEST_ALLOCATION);
    figures.demand("growth of allocated memory", value, &wanted, met);
    let resident = trend(|sample| sample.resident_bytes)?;
    figures.tell(
        "growth of resident memory",
        format!(
            "{:.2} ± {:.2} bytes for each connection",
            resident.slope, resident.error
        ),
    );
    let mut kilobytes = |name: &str, of: fn(&Sample) -> u64| {
        let [start, first, end] = [start, samples[1], end].map(|sample| of(&sample) / 1024);
        let value = format!("{start} KiB before, {first} after the first slice, {end} at the end");
        figures.tell(name, value);
    };
    kilobytes("allocated memory", |sample| sample.live_bytes);
    kilobytes("resident memory", |sample| sample.resident_bytes);

    let outcomes = tally.outcomes();
    for outcome in Outcome::ALL {
        let count = outcomes.get(&outcome).copied().unwrap_or(0);
        if outcome.must_occur() && options.connections >= ALL_OCCUR {
            figures.demand(outcome.label(), count, "some", count > 0);
        } else {
            figures.tell(outcome.label(), count);
        }
    }
    let failures = tally.failures();
    for failure in failures.iter().take(5) {
        eprintln!("{failure}");
    }
    figures.demand("failures", failures.len(), "0", failures.is_empty());
    figures.sample = samples;
    Ok(figures)
}

/// Every leak is at least this large, in bytes.
const SMALLEST_ALLOCATION: f64 = 16.0;

/// A pool is a few of these, in bytes.
const SMALLEST_POOL: u64 = 64 * 1024;

/// With this many connections, every kind of end occurs.
const ALL_OCCUR: u64 = 1_000;
