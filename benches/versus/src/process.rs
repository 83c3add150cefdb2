//! The processes of a measurement. Each ends with its owner, or after a time limit.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio, exit},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::de::DeserializeOwned;

/// A child process that exchanges JSON lines with us, usually another instance of this program.
/// Dropping it ends the process.
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    deadline: Instant,
}

impl Process {
    pub fn start(arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments);
        Self::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| command.get_program().display().to_string())?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (sender, lines) = sync_channel(LINES);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            lines,
            deadline: Instant::now() + LONGEST,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line that the process prints.
    pub fn hear<T: DeserializeOwned>(&self) -> Result<T> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let line = self
            .lines
            .recv_timeout(left)
            .context("a process has ended, or takes too long")?;
        serde_json::from_str(&line).context(line)
    }

    pub fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may already have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process after a time that no measurement needs.
pub fn limit_time() {
    thread::spawn(|| {
        thread::sleep(LONGEST + Duration::from_secs(5));
        eprintln!("not done after {} s", LONGEST.as_secs());
        exit(2);
    });
}

/// Raises the limit of open files, because some workloads have a socket for each of many peers.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Longer than any measurement.
const LONGEST: Duration = Duration::from_secs(180);

/// Lines that a process has printed and nobody has read yet.
const LINES: usize = 64;
