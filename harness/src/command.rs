//! Commands that run to their end.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Gives a command this input. Returns its output, or why it has failed.
pub fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut pipe) = process.stdin.take() {
        // If it has already ended, its exit status tells why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = process
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned_or_why_there_is_none() {
        let shell = |script| run(Command::new("sh").args(["-c", script]), "input");
        assert_eq!(shell("cat").unwrap(), "input");
        assert_eq!(shell("echo why >&2; exit 1").unwrap_err(), "why");
    }
}
