//! A peer that presents and serves every wrong certificate, and reports the reaction of the other
//! side.

mod arguments;
#[allow(
    clippy::unwrap_used,
    dead_code,
    unused_imports,
    reason = "shared with the transport's tests, which use all of it, and panic where they fail"
)]
#[path = "../../../../tests/support/certificates.rs"]
mod certificates;
#[allow(
    clippy::unwrap_used,
    reason = "shared with the transport's tests, which panic where they fail"
)]
#[path = "../../../../tests/support/hostile_tls.rs"]
mod hostile_tls;
mod outcome;
mod ping;
mod present;
mod serve;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use harness::command_line::parse;
use libp2p_quinn::CertificateError;
use serde_json::{Value, json};

use crate::{
    arguments::Command,
    certificates::{Case, Expected, cases},
};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&json!({ "ok": false, "error": error }));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    match parse::<Command>()? {
        Command::Listen(options) => {
            serve::all(forge(options.from), options.addr, options.timeout).await
        }
        Command::Dial(options) => {
            // The valid certificate comes again at the end, to show that the other side still
            // accepts it.
            let cases = forge(options.from).chain(forge(0).take(1));
            present::all(cases, options.addr, options.timeout).await
        }
    }
}

/// The cases and their indexes, each with its own host key: some peers allow only a few connections
/// with one peer.
fn forge(from: usize) -> impl Iterator<Item = (usize, Case)> {
    (from..cases().len()).map(|index| (index, cases().swap_remove(index)))
}

/// A line about a case: its index, and the required reaction.
fn describe(index: usize, case: &Case) -> Value {
    json!({
        "case": index,
        "number": case.number,
        "name": case.name,
        "signed": case.signed,
        "refuse": match case.expected {
            Expected::Accept => None,
            Expected::Refuse(error, _) => Some(error),
        },
    })
}

/// Prints a line of JSON. Errors are ignored: they mean that the reader is gone.
fn print(value: &Value) {
    let _ = writeln!(io::stdout(), "{value}");
}
