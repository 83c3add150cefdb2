//! Runs the same workloads over this transport, the official one, quinn, quinn-proto alone and bare
//! UDP.

mod catalogue;
mod control;
mod drive;
mod flooder;
mod go;
mod goals;
mod limits;
mod machine;
mod measure;
mod measurement;
mod metric;
mod network;
mod placement;
mod relay;
mod report;
mod run;
mod sample;
mod serve;
mod service;
mod stack;
mod tun;
mod udp;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::{
    catalogue::{Group, Scenario},
    network::Place,
    stack::StackName,
    workload::Effort,
};

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Lists the workloads.
    List,
    /// Measures, and writes the report.
    Run(run::Options),
    /// Measures over links with delay, loss and a rate, and writes the same report.
    Links(run::Options),
    /// The server process of one measurement; `run` starts it.
    #[command(hide = true)]
    Serve {
        stack: StackName,
        scenario: Scenario,
        #[command(flatten)]
        place: Place,
    },
    /// The client process of one measurement; `run` starts it.
    #[command(hide = true)]
    Drive {
        stack: StackName,
        scenario: Scenario,
        server: stack::Address,
        #[command(flatten)]
        effort: Effort,
        #[command(flatten)]
        place: Place,
    },
    /// The process of a flood; a client starts it.
    #[command(hide = true)]
    Flood(flooder::Options),
    /// The process of a link; `links` starts it.
    #[command(hide = true)]
    Relay(relay::Options),
}

fn main() -> ExitCode {
    harness::exit_code(run(Command::parse()).map(|()| true))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::List => catalogue::list(),
        Command::Run(options) => run::run(&options, Group::Main)?,
        Command::Links(options) => run::run(&options, Group::Links)?,
        Command::Serve {
            stack,
            scenario,
            place,
        } => serve::serve(stack, &scenario, &place)?,
        Command::Drive {
            stack,
            scenario,
            server,
            effort,
            place,
        } => drive::drive(stack, &scenario, server, effort, &place)?,
        Command::Flood(options) => flooder::run(&options)?,
        Command::Relay(options) => relay::run(&options)?,
    }
    Ok(())
}
