//! A process that begins handshakes as fast as it is told to, and never goes on with them.
//!
//! Its packets are made beforehand: what they cost must not be missing elsewhere while they are sent.

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
use libp2p_identity::Keypair;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, crypto::rustls::QuicClientConfig};
use serde::{Deserialize, Serialize};

use crate::{
    control::say,
    process::{self, Process},
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
    /// Handshakes begun in each second.
    per_second: u32,
    /// How many there are at most.
    prepared: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Ready,
    Started,
    /// How many datagrams have come back.
    Stopped(u64),
}

/// A flood that is ready to begin.
pub struct Flood(Process);

/// A flood that goes on.
pub struct Flooding(Process);

impl Flood {
    pub fn prepare(server: &Address, effort: Effort) -> Result<Self> {
        let rate = effort.flood_per_second();
        // For the transfer and what is around it.
        let seconds = (effort.time() + MARGIN).as_secs_f64();
        let prepared = (f64::from(rate) * seconds).min(MOST);
        let process = Process::start(&[
            "flood".to_owned(),
            server.to_string(),
            rate.to_string(),
            format!("{prepared:.0}"),
        ])?;
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
    /// Returns how many datagrams the server has answered with.
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
    process::limit_time();
    let mut socket = Udp::bind(Ipv4Addr::LOCALHOST)?;
    let datagrams = prepare(options)?;
    say(&Line::Ready)?;
    let mut lines = io::stdin().lock().lines();
    if lines.next().is_none() {
        return Ok(());
    }
    say(&Line::Started)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    thread::spawn(move || {
        // A line, or the end of all of them.
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
    say(&Line::Stopped(answers))
}

type Datagrams = Vec<(quinn_proto::Transmit, Vec<u8>)>;

/// The first flights of many handshakes, each of another connection.
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

/// How often it looks what is due.
const TICK: Duration = Duration::from_millis(1);

/// What surrounds the transfer that is flooded.
const MARGIN: Duration = Duration::from_secs(1);

/// 3 KB each.
const MOST: f64 = 100_000.0;
