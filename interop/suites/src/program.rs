//! The beginning and the end of every test program: logs on standard error, results on standard
//! output, exit code.

use std::{
    error::Error as _,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use crate::{environment::Environment, error::Error};

/// Runs a test program. Its exit code tells whether the test has passed.
pub async fn run<F>(test: impl FnOnce(Environment) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Error>>,
{
    let environment = Environment::of_process();
    let level = if environment.get("DEBUG") == Some("true") {
        "debug"
    } else {
        "info"
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    match test(environment).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints the result, for the suite to read.
pub fn print(result: &str) -> Result<(), Error> {
    let mut output = io::stdout().lock();
    writeln!(output, "{result}")
        .and_then(|()| output.flush())
        .map_err(Error::Print)
}

/// Limits the time of `test`.
pub async fn within<T>(
    limit: Duration,
    test: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, test)
        .await
        .unwrap_or(Err(Error::TimedOut(limit)))
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
