//! Long tests of the transport: churn, floods, attacks, and the table of what is tested where.

mod attack;
mod churn;
mod figures;
mod flood;
mod plot;
mod sample;
mod simulate;
mod table;
mod trend;
mod wan;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Attacks a node in a network namespace, beside a transfer, pings and dials.
    Attack(attack::Options),
    /// Opens and closes connections and streams in slices, and looks for what is left of them.
    Churn(churn::Options),
    /// Floods a listener in a network namespace, beside dials and a transfer.
    Flood(flood::Options),
    /// Simulates networks with many seeds.
    Simulate(simulate::Options),
    /// Writes `docs/testing.md`: which test shows what, and what the long tests have found.
    Table(table::Options),
    /// Simulates long and fast paths, and writes `docs/performance/wan.md`.
    Wan(wan::Options),
    /// A process of a flood, which starts it.
    #[command(subcommand, hide = true)]
    Role(flood::Role),
    /// A process of an attack, which starts it.
    #[command(subcommand, hide = true)]
    AttackRole(attack::Role),
}

/// jemalloc counts bytes in use, including those of C libraries; glibc does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    harness::exit_code(run(Command::parse()))
}

/// Returns whether all requirements are met.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Attack(options) => attack::run(&options),
        Command::Churn(options) => churn::run(&options),
        Command::Flood(options) => flood::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::Table(options) => table::run(&options),
        Command::Wan(options) => wan::run(&options),
        Command::Role(role) => role.run().map(|()| true),
        Command::AttackRole(role) => role.run().map(|()| true),
    }
}

/// The root of the repository.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The longest flood or attack, including preparation and evaluation.
const LONGEST: Duration = Duration::from_secs(900);
