//! The processes of a flood or an attack, which end with their owner or their time limit. They
//! exchange JSON lines.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio, exit},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};

/// This program again, in another role. Dropping it ends it.
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    deadline: Instant,
}

impl Process {
    pub fn start(arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
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

    /// Waits for its next message.
    pub fn hear<T: DeserializeOwned>(&self) -> Result<T> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let line = self
            .lines
            .recv_timeout(left)
            .context("a process has ended, or takes too long")?;
        serde_json::from_str(&line).context(line)
    }

    pub fn say(&mut self, line: &impl Serialize) -> Result<()> {
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

/// Waits for the next order to this process.
pub fn listen<T: DeserializeOwned>() -> Result<T> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        bail!("the owner of this process is gone");
    }
    serde_json::from_str(&line).context(line)
}

/// Sends a message to the owner of this process.
pub fn answer(line: &impl Serialize) -> Result<()> {
    write_line(&mut io::stdout().lock(), line)
}

/// Ends this process when it exceeds the time of any flood or attack.
pub fn limit_time() {
    thread::spawn(|| {
        thread::sleep(LONGEST + Duration::from_secs(5));
        eprintln!("not done after {} s", LONGEST.as_secs());
        exit(2);
    });
}

fn write_line(output: &mut impl Write, line: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()?;
    Ok(())
}

/// The longest flood or attack, including preparation and evaluation.
pub const LONGEST: Duration = Duration::from_secs(900);

/// The number of lines that may wait to be read.
const LINES: usize = 64;
