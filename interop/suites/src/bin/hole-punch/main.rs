//! The hole-punch test of unified-testing, and of its predecessor test-plans: a relay, and two
//! peers that meet through it.

mod peer;
mod relay;
mod settings;

use std::process::ExitCode;

use interop_suites::{environment::Environment, error::Error, program};

use crate::settings::{Role, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    program::run(test).await
}

async fn test(environment: Environment) -> Result<(), Error> {
    let settings = Settings::read(&environment)?;
    match settings.role {
        Role::Relay => relay::run(&settings).await,
        Role::Listener => peer::listen(&settings).await,
        Role::Dialer => peer::dial(&settings).await,
    }
}
