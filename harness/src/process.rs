//! Processes that exchange lines of JSON with their owner, and end with it or with their time.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio, exit},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};

/// A process, usually this program in another role. Dropping it ends it.
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    deadline: Instant,
}

impl Process {
    /// Starts this program again, and hears it until `limit`.
    pub fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        limit: Duration,
    ) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments);
        Self::spawn(command, limit)
    }

    pub fn spawn(mut command: Command, limit: Duration) -> Result<Self> {
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
            deadline: Instant::now() + limit,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next line.
    pub fn hear<T: DeserializeOwned>(&self) -> Result<T> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let line = self
            .lines
            .recv_timeout(left)
            .context("a process has ended, or takes too long")?;
        serde_json::from_str(&line).context(line)
    }

    pub fn say(&mut self, line: &(impl Serialize + ?Sized)) -> Result<()> {
        write_line(&mut self.input, line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may already have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the next line of the owner of this process.
pub fn listen<T: DeserializeOwned>() -> Result<T> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        bail!("the owner of this process is gone");
    }
    serde_json::from_str(&line).context(line)
}

/// Sends a line to the owner of this process.
pub fn answer(line: &impl Serialize) -> Result<()> {
    write_line(&mut io::stdout().lock(), line)
}

/// Waits until the owner of this process is gone.
pub fn wait_for_end() {
    while io::stdin()
        .read_line(&mut String::new())
        .is_ok_and(|length| length > 0)
    {}
}

/// Ends this process some time after its owner no longer hears it.
pub fn limit_time(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit + MARGIN);
        eprintln!("not done after {} s", limit.as_secs());
        exit(2);
    });
}

fn write_line(output: &mut impl Write, line: &(impl Serialize + ?Sized)) -> Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()?;
    Ok(())
}

/// Lines that a process has printed and nobody has read yet.
const LINES: usize = 64;

/// The owner has this long to notice by itself.
const MARGIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command, limit).unwrap()
    }

    #[test]
    fn lines_arrive_in_both_directions() {
        let mut process = shell("cat", LONG);
        for line in ["one", "\"two\"\n", ""] {
            process.say(line).unwrap();
            assert_eq!(process.hear::<String>().unwrap(), line);
        }
    }

    #[test]
    fn line_that_is_not_what_was_expected_is_told() {
        let process = shell("echo nonsense", LONG);
        let error = process.hear::<u32>().unwrap_err();
        assert_eq!(error.to_string(), "nonsense");
    }

    #[test]
    fn nobody_waits_for_a_process_that_has_ended_or_says_nothing() {
        assert!(shell("exit", LONG).hear::<u32>().is_err());
        assert!(
            shell("exec sleep 600", Duration::ZERO)
                .hear::<u32>()
                .is_err()
        );
    }

    /// Its output ends when it does: nobody else holds the pipe.
    #[test]
    fn dropped_process_ends() {
        let mut process = shell("exec sleep 600", LONG);
        let (_, nothing) = sync_channel(0);
        let lines = std::mem::replace(&mut process.lines, nothing);
        drop(process);
        assert!(lines.recv().is_err());
    }

    const LONG: Duration = Duration::from_secs(600);
}
