//! How a program ends.

use std::{fmt::Display, process::ExitCode};

/// Prints an error with its causes. The code tells whether the program has succeeded, and whether
/// everything that it has examined is as it should be.
pub fn exit_code(result: Result<bool, impl Display>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
