//! The flooded process: it accepts connections, and counts the data on their streams.

use std::{future::poll_fn, pin::Pin, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures::{AsyncReadExt, AsyncWriteExt};
use harness::{
    process::{answer, limit_time, listen},
    resources::Usage,
};
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportEvent},
};
use libp2p_identity::Keypair;
use libp2p_quinn::{Config, Connecting, Connection, Handle, RetryPolicy, Stream, Transport};
use multiaddr::Protocol;
use serde::{Deserialize, Serialize};

use super::{
    PORT,
    lines::{Line, Order},
    network, runtime,
};
use crate::LONGEST;

#[derive(Args)]
pub struct Options {
    policy: Policy,
}

/// When a stranger has to prove its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    Default,
    Always,
    Never,
}

/// The server's work since the last time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    pub cpu: Duration,
    pub completed: u64,
    pub failed: u64,
    pub incoming: u64,
    pub refused: u64,
    pub retries: u64,
    pub dropped: u64,
    pub dropped_source_full: u64,
    pub martian: u64,
    pub receive_errors: u64,
    pub send_errors: u64,
    /// Datagrams dropped by the kernel because of full buffers.
    pub overrun: u64,
}

/// The process of the server.
pub fn run(options: &Options) -> Result<()> {
    limit_time(LONGEST);
    network::leave()?;
    answer(&Line::Namespace(std::process::id()))?;
    let Order::Listen = listen()? else {
        bail!("servers listen");
    };
    network::CLIENT.connect()?;
    network::CLIENT.be_dialled()?;
    network::ATTACKER.connect()?;
    network::answer_everybody()?;
    let runtime = runtime()?;
    let (address, handle) = runtime.block_on(serve(options.policy))?;
    answer(&Line::Listening(address))?;
    let mut before = Usage::now()?;
    let mut overrun = overruns()?;
    loop {
        let Order::Tell = listen()? else {
            bail!("servers tell");
        };
        let (now, overrun_now) = (Usage::now()?, overruns()?);
        let served = Served {
            cpu: now.since(&before).cpu(),
            overrun: overrun_now - overrun,
            ..Served::of(&handle)
        };
        handle.reset_stats();
        (before, overrun) = (now, overrun_now);
        answer(&Line::Served(served))?;
    }
}

impl Policy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    fn retry(self) -> RetryPolicy {
        match self {
            Self::Default => RetryPolicy::default(),
            Self::Always => RetryPolicy::Always,
            Self::Never => RetryPolicy::Never,
        }
    }
}

impl Served {
    fn of(handle: &Handle) -> Self {
        let stats = handle.stats();
        Self {
            completed: stats.transport.handshakes_completed,
            failed: stats.transport.handshakes_failed,
            incoming: stats.transport.incoming,
            refused: stats.transport.incoming_refused,
            retries: stats.transport.retries_sent,
            dropped: stats.registry.dropped_overload,
            dropped_source_full: stats.registry.dropped_source_full,
            martian: stats.registry.martian,
            receive_errors: stats.transport.receive_errors,
            send_errors: stats.transport.send_errors,
            ..Self::default()
        }
    }
}

/// Starts serving, and returns the address for the client.
async fn serve(policy: Policy) -> Result<(String, Handle)> {
    let identity = Keypair::generate_ed25519();
    let config = Config::builder(&identity)
        .retry_policy(policy.retry())
        .build()?;
    let mut transport = Transport::new(config);
    let handle = transport.handle();
    let anywhere = format!("/ip4/0.0.0.0/udp/{PORT}/quic-v1").parse()?;
    transport.listen_on(ListenerId::next(), anywhere)?;
    loop {
        let event = next_event(&mut transport).await;
        let addr = event.into_new_address().context("no address")?;
        if addr.iter().next() == Some(Protocol::Ip4(network::CLIENT.server)) {
            let addr = addr.with(Protocol::P2p(identity.public().to_peer_id()));
            tokio::spawn(accept(transport));
            return Ok((addr.to_string(), handle));
        }
    }
}

pub async fn next_event(
    transport: &mut Transport,
) -> TransportEvent<Connecting, libp2p_quinn::Error> {
    poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

async fn accept(mut transport: Transport) {
    loop {
        if let TransportEvent::Incoming { upgrade, .. } = next_event(&mut transport).await {
            tokio::spawn(async move {
                if let Ok((_, muxer)) = upgrade.await {
                    serve_connection(muxer).await;
                }
            });
        }
    }
}

async fn serve_connection(mut muxer: Connection) {
    while let Ok(stream) = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await {
        tokio::spawn(serve_stream(stream, 0));
    }
}

/// Reads to the end, and answers with the number of bytes, including `received`.
pub async fn serve_stream(mut stream: Stream, mut received: u64) {
    let mut buffer = vec![0; BLOCK];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => received += length as u64,
            Err(_) => return,
        }
    }
    if stream.write_all(&received.to_be_bytes()).await.is_ok() {
        let _ = stream.close().await;
    }
}

/// Datagrams dropped because of full socket buffers, in this namespace.
pub fn overruns() -> Result<u64> {
    let counts = std::fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = counts.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next(), lines.next());
    let (Some(names), Some(values)) = (names, values) else {
        bail!("no counts of UDP");
    };
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "RcvbufErrors")
        .and_then(|(_, value)| value.parse().ok())
        .context("no count of full buffers")
}

const BLOCK: usize = 64 * 1024;
