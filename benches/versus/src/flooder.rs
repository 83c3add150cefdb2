//! A process that begins handshakes at a given rate and abandons them.
//!
//! It makes its packets in advance, so that this takes no CPU time during the measurement.

use std::{
    io::{self, BufRead},
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use harness::process::{Process, answer, limit_time};
use libp2p_identity::Keypair;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, crypto::rustls::QuicClientConfig};
use serde::{Deserialize, Serialize};

use crate::{
    limits::LONGEST,
    stack::{
        Address, equalised, floor,
        tls::{First, Tls},
    },
    udp::Udp,
    workload::Effort,
};

#[derive(Args)]
pub struct Options {
    server: Address,
    /// Handshakes to begin in each second.
    per_second: u32,
    /// Handshakes to prepare, which is the most that it can begin.
    prepared: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Ready,
    Started,
    /// The number of datagrams that came back.
    Stopped(u64),
}

/// A flood whose packets are ready.
pub struct Flood(Process);

/// A flood in progress.
pub struct Flooding(Process);

impl Flood {
    pub fn prepare(server: &Address, effort: Effort) -> Result<Self> {
        let rate = effort.flood_per_second();
        // Enough for the transfer, its start and its end.
        let seconds = (effort.time() + MARGIN).as_secs_f64();
        let prepared = (f64::from(rate) * seconds).min(MOST);
        let process = Process::start(
            [
                "flood".to_owned(),
                server.to_string(),
                rate.to_string(),
                format!("{prepared:.0}"),
            ],
            LONGEST,
        )?;
        match process.hear()? {
            Line::Ready => Ok(Self(process)),
            line => bail!("the flood says {line:?}"),
        }
    }

    pub fn start(mut self) -> Result<Flooding> {
        self.0.say("start")?;
        match self.0.hear()? {
            Line::Started => Ok(Flooding(self.0)),
            line => bail!("the flood says {line:?}"),
        }
    }
}

impl Flooding {
    /// Returns the number of datagrams that the server sent back.
    pub fn stop(mut self) -> Result<u64> {
        self.0.say("stop")?;
        match self.0.hear()? {
            Line::Stopped(answers) => Ok(answers),
            line => bail!("the flood says {line:?}"),
        }
    }
}

/// The process of a flood.
pub fn run(options: &Options) -> Result<()> {
    limit_time(LONGEST);
    let mut socket = Udp::bind(Ipv4Addr::LOCALHOST)?;
    let datagrams = prepare(options)?;
    answer(&Line::Ready)?;
    let mut lines = io::stdin().lock().lines();
    if lines.next().is_none() {
        return Ok(());
    }
    answer(&Line::Started)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    thread::spawn(move || {
        // A line and the end of standard input both mean stop.
        let _ = io::stdin().read_line(&mut String::new());
        stop.store(true, Ordering::Relaxed);
    });
    drop(lines);
    let start = Instant::now();
    let mut answers = 0;
    let mut sent = 0_u32;
    while !stopped.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(options.per_second)) as u32;
        while sent < due && sent < options.prepared {
            for (transmit, contents) in &datagrams[sent as usize] {
                floor::send(&socket, transmit, contents)?;
            }
            sent += 1;
        }
        let answered = socket.receive(Some(TICK))?;
        answers += answered
            .map(|(meta, contents)| contents.len().div_ceil(meta.stride.max(1)) as u64)
            .sum::<u64>();
    }
    answer(&Line::Stopped(answers))
}

type Datagrams = Vec<(quinn_proto::Transmit, Vec<u8>)>;

/// The first flights of many connections.
fn prepare(options: &Options) -> Result<Vec<Datagrams>> {
    let tls = Tls::new(&Keypair::generate_ed25519(), First::Aes)?;
    let crypto = QuicClientConfig::try_from(tls.client(options.server.peer)?)?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(equalised::transport()?));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let mut flights = Vec::new();
    for _ in 0..options.prepared {
        let now = Instant::now();
        let (_, mut connection) =
            endpoint.connect(now, client.clone(), options.server.socket, "l")?;
        let mut flight = Vec::new();
        let mut contents = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 1, &mut contents) {
            flight.push((transmit, std::mem::take(&mut contents)));
        }
        flights.push(flight);
    }
    Ok(flights)
}

/// The interval between bursts.
const TICK: Duration = Duration::from_millis(1);

/// The time for the start and the end of the flooded transfer.
const MARGIN: Duration = Duration::from_secs(1);

/// The most handshakes to prepare. Each takes 3 KB of memory.
const MOST: f64 = 100_000.0;
