//! Runs the same workloads over this transport, the official one, quinn, quinn-proto alone and bare UDP.

mod catalogue;
mod control;
mod drive;
mod flooder;
mod goals;
mod machine;
mod measure;
mod metric;
mod placement;
mod process;
mod report;
mod run;
mod sample;
mod serve;
mod service;
mod stack;
mod udp;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{catalogue::Scenario, stack::StackName, workload::Effort};

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the workloads.
    List,
    /// Measures, and writes the report.
    Run(run::Options),
    /// The server process of one measurement; `run` starts it.
    #[command(hide = true)]
    Serve {
        stack: StackName,
        scenario: Scenario,
    },
    /// The client process of one measurement; `run` starts it.
    #[command(hide = true)]
    Drive {
        stack: StackName,
        scenario: Scenario,
        server: stack::Address,
        #[command(flatten)]
        effort: Effort,
    },
    /// The process of a flood; a client starts it.
    #[command(hide = true)]
    Flood(flooder::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::List => catalogue::list(),
        Command::Run(options) => run::run(&options)?,
        Command::Serve { stack, scenario } => serve::serve(stack, &scenario)?,
        Command::Drive {
            stack,
            scenario,
            server,
            effort,
        } => drive::drive(stack, &scenario, server, effort)?,
        Command::Flood(options) => flooder::run(&options)?,
    }
    Ok(())
}
