//! Command lines of programs that report errors in their own way.

use std::{num::ParseIntError, time::Duration};

use clap::Parser;

/// Parses the command line of this program; prints the help and ends if that is what it asks for.
pub fn parse<C: Parser>() -> Result<C, String> {
    C::try_parse().map_err(|error| {
        if error.use_stderr() {
            error.to_string()
        } else {
            error.exit()
        }
    })
}

/// The value of an option in seconds.
pub fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}
