//! Transfers with go-libp2p, by the peers of the interoperability matrix.
//!
//! With the `perf` protocol, these peers are complete nodes with a Swarm. So the figures compare
//! with each other, and not with those of other workloads. Over a link they use the QUIC transport
//! alone, as the other stacks do.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{process::Process, resources::cpu_of};
use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    limits::LONGEST,
    metric::{Metric, Metrics},
    network::{Place, Places},
    stack::StackName,
    workload::Effort,
};

/// The node that dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialer {
    Go,
    Rust,
}

/// Fails if the programs of the peers were not built.
pub fn check_built() -> Result<()> {
    for program in [GO, RUST] {
        ensure!(
            path(program).exists(),
            "interop/{program} is not there; interop/run builds it"
        );
    }
    Ok(())
}

pub fn measure(stack: StackName, dialer: Dialer, effort: Effort) -> Result<Metrics> {
    let (listening, dialling) = match dialer {
        Dialer::Go => (RUST, GO),
        Dialer::Rust => (GO, RUST),
    };
    let listener = start(
        listening,
        stack,
        &["listen", "/ip4/127.0.0.1/udp/0/quic-v1"],
    )?;
    let address: Value = listener.hear()?;
    let address = address["listen"].as_str().context("no address")?;
    let before = cpu_of(listener.id())?;
    let size = effort.bytes().to_string();
    let peer = start(dialling, stack, &["dial", address, "perf", "--size", &size])?;
    let result: Value = peer.hear()?;
    ensure!(result["ok"] == true, "{result}");
    // The CPU time of the Rust node. If it dials, this includes its start.
    let spent = match dialer {
        Dialer::Go => cpu_of(listener.id())?.saturating_sub(before),
        Dialer::Rust => {
            wait_for_end(peer.id())?;
            cpu_of(peer.id())?
        }
    };
    let speed = |key: &str| {
        let mib = result[key].as_f64().context("no speed")?;
        Ok::<f64, anyhow::Error>(mib * 1.048_576)
    };
    let gigabytes = 2.0 * effort.bytes() as f64 / 1e9;
    Ok(Metrics::from([
        (Metric::UploadMegabytesPerSecond, speed("upload_mib_s")?),
        (Metric::DownloadMegabytesPerSecond, speed("download_mib_s")?),
        (
            Metric::RustCpuSecondsPerGigabyte,
            spent.as_secs_f64() / gigabytes,
        ),
    ]))
}

/// A download over a link with go-libp2p on both sides: the bytes that have arrived a fixed time
/// after the first packet.
pub fn measure_link(places: &Places, write: usize, effort: Effort) -> Result<Metrics> {
    let peer = path(GO);
    ensure!(
        peer.exists(),
        "interop/{GO} is not there; interop/run builds it"
    );
    let start = |place: &Place, arguments: &[&str]| {
        let mut command = place.command(&peer);
        command.arg("link").args(arguments);
        Process::spawn(command, LONGEST)
    };
    let any_port = format!("/ip4/{}/udp/0/quic-v1", places.server.ip);
    let server = start(&places.server, &["listen", &any_port])?;
    let address: Value = server.hear()?;
    let address = address["listen"].as_str().context("no address")?;
    let millis = effort.link_time().as_millis().to_string();
    let write = write.to_string();
    let dial = ["dial", address, "--millis", &millis, "--size", &write];
    let mut client = start(&places.client, &dial)?;
    let ready: Value = client.hear()?;
    ensure!(ready["ready"] == true, "{ready}");
    let processes = [client.id(), server.id()];
    let used = || {
        processes
            .into_iter()
            .map(cpu_of)
            .collect::<Result<Vec<_>>>()
    };
    let before = used()?;
    client.say("go")?;
    let result: Value = client.hear()?;
    ensure!(result["ok"] == true, "{result}");
    let after = used()?;
    let figure = |key: &str| result[key].as_f64().context("no figure");
    let gigabytes = figure("bytes")? / 1e9;
    let spent = |side: usize| after[side].saturating_sub(before[side]).as_secs_f64() / gigabytes;
    let [client, server] = [0, 1].map(spent);
    Ok(Metrics::from([
        (
            Metric::MegabytesPerSecond,
            gigabytes * 1e3 / figure("seconds")?,
        ),
        (Metric::CpuSecondsPerGigabyte, client + server),
        (Metric::ClientCpuSecondsPerGigabyte, client),
        (Metric::ServerCpuSecondsPerGigabyte, server),
        (Metric::HandshakeMillis, figure("dial_ms")?),
    ]))
}

fn start(program: &str, stack: StackName, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(path(program));
    command
        .args(arguments)
        .env("INTEROP_TRANSPORT", stack.name())
        .stderr(Stdio::null());
    Process::spawn(command, LONGEST)
}

/// Waits until a child ends, but leaves it a zombie, so that its figures can still be read.
fn wait_for_end(id: u32) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(id)?);
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    let start = Instant::now();
    while waitid(Id::Pid(pid), flags)? == WaitStatus::StillAlive {
        ensure!(start.elapsed() < PATIENCE, "a peer does not end");
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn path(program: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../interop")
        .join(program)
}

/// The programs that the matrix has built.
const GO: &str = "go/target/peer";
const RUST: &str = "../target/release/peer";

/// How long a peer may take to end after it has printed its result.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
