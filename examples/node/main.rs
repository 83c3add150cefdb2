//! Two libp2p nodes that connect over `libp2p-quinn`, ping each other, and transfer data both ways.
//!
//! ```text
//! cargo run --release --example node                          # both nodes here, over loopback
//! cargo run --release --example node -- listen [MULTIADDR]    # one node, in one terminal …
//! cargo run --release --example node -- dial MULTIADDR        # … the other, there or elsewhere
//! ```
//!
//! With `--metrics`, a node serves its metrics to Prometheus; it prints where. `--keylog` and
//! `--qlog` write what Wireshark and qvis read.
//!
//! Exit code: 0 for success, which for `listen` includes Ctrl-C; 1 for a failure, with one line on
//! stderr; 2 for invalid arguments; 130 for Ctrl-C before the end.

mod args;
mod commands;
mod failure;
mod metrics;
mod node;
mod progress;
mod summary;
mod transfer;

use std::process::ExitCode;

use args::{Args, Command};
use failure::Failure;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("node: {error}; try --help");
            return ExitCode::from(2);
        }
    };
    let result = match args.command.clone() {
        Command::Both => commands::both(&args).await,
        Command::Dial(addr) => commands::dial(addr, &args).await,
        Command::Listen(addr) => commands::listen(addr, &args).await,
        Command::Help => {
            print!("{}", args::HELP);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("node: {failure}");
            match failure {
                Failure::Interrupted => ExitCode::from(130),
                Failure::Other(_) => ExitCode::FAILURE,
            }
        }
    }
}
