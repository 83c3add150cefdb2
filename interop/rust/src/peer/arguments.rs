//! The command line.

use std::time::Duration;

use clap::{Args, Parser};
use harness::command_line::seconds;
use libp2p::Multiaddr;

/// A peer of the interoperability matrix.
#[derive(Parser)]
#[command(name = "peer")]
pub enum Command {
    /// Serves until its standard input ends.
    Listen {
        #[arg(value_name = "MULTIADDR")]
        addr: Multiaddr,
        #[command(flatten)]
        options: Options,
    },
    /// Runs one operation.
    Dial {
        #[arg(value_name = "MULTIADDR")]
        addr: Multiaddr,
        operation: String,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Args)]
pub struct Options {
    /// Error code of `close-hears`, `reset` and `stop`.
    #[arg(long, default_value_t = 42)]
    pub code: u64,
    /// Pings, or streams.
    #[arg(long, default_value_t = 100)]
    pub count: u64,
    /// Bytes of an echo that may be in flight.
    #[arg(
        long,
        default_value_t = u64::MAX,
        hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub in_flight: u64,
    /// Type of the host key: `ecdsa`, `ed25519`, `rsa`, `secp256k1`.
    #[arg(long, default_value = "ed25519")]
    pub key: String,
    /// Streams at the same time.
    #[arg(long, default_value_t = 100)]
    pub parallel: usize,
    /// Has every client prove its address, as a listener.
    #[arg(long)]
    pub retry: bool,
    /// How long `idle` waits, and the slow reader does not read.
    #[arg(long = "seconds", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub duration: Duration,
    /// A byte from which the host key is made, always the same key.
    #[arg(long)]
    pub seed: Option<u8>,
    /// Bytes to transfer.
    #[arg(long, default_value_t = 1 << 20)]
    pub size: u64,
    /// Seconds that a dial and its operation may take.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}
