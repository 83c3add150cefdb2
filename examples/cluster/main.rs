//! Nodes that find each other and use what libp2p has on top of a transport, over `libp2p-quinn`.
//!
//! ```text
//! cargo run --release --example cluster                                # three nodes here, checked
//! cargo run --release --example cluster -- --port 9001                 # one node …
//! cargo run --release --example cluster -- --port 9002 --peer ADDRESS  # … and another one
//! ```
//!
//! The first form runs three nodes in this process, over loopback (`three.rs`), and checks what
//! they do (`checks.rs`). The others run one node until Ctrl-C (`alone.rs`). `node.rs` builds a
//! node, `behaviour.rs` its protocols, and `reactions.rs` says what it does with their events.
//!
//! Exit code: 0 for success, which for one node includes Ctrl-C; 1 for a failure, with one line on
//! stderr; 2 for invalid arguments; 130 for Ctrl-C before the end of the checks.

mod alone;
mod args;
mod behaviour;
mod checks;
mod event;
mod guests;
mod messages;
mod node;
mod peers;
mod reactions;
mod scrape;
mod screen;
mod table;
mod three;

// The example `node` has these as well.
#[path = "../node/failure.rs"]
mod failure;
#[path = "../node/metrics.rs"]
mod metrics;

use std::process::ExitCode;

use args::Args;
use failure::Failure;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("cluster: {error}; try --help");
            return ExitCode::from(2);
        }
    };
    let result = match args.port {
        _ if args.help => {
            print!("{}", args::HELP);
            Ok(())
        }
        None => three::run(&args).await,
        Some(port) => alone::run(port, args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cluster: {failure}");
            match failure {
                Failure::Interrupted => ExitCode::from(130),
                Failure::Other(_) => ExitCode::FAILURE,
            }
        }
    }
}
