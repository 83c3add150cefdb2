//! Child processes with a time limit, which end with their owner.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use harness::resources::peak_of;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;

/// A program with its arguments and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    pub words: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// A running child that prints JSON lines. Dropping it kills it, with its process group.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    errors: Arc<Mutex<VecDeque<String>>>,
}

impl Invocation {
    pub fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            words: words.into_iter().map(Into::into).collect(),
            env: Vec::new(),
        }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn with(&self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut all = self.clone();
        all.words.extend(words.into_iter().map(Into::into));
        all
    }

    fn command(&self, dir: &Path) -> Result<Command, String> {
        let (program, arguments) = self.words.split_first().ok_or("no program")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .process_group(0);
        Ok(command)
    }

    /// Runs to the end. Returns the output, or its last error lines if it failed.
    pub fn run(&self, dir: &Path, limit: Duration) -> Result<String, String> {
        let mut command = self.command(dir)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(command)?;
        let start = Instant::now();
        let mut output = String::new();
        loop {
            while let Ok(line) = process.lines.recv_timeout(POLL) {
                output.push_str(&line);
                output.push('\n');
            }
            if let Some(code) = process.exit_code() {
                // Reads the lines that are left in the pipe.
                while let Ok(line) = process.lines.recv_timeout(POLL * 20) {
                    output.push_str(&line);
                    output.push('\n');
                }
                if code == 0 {
                    return Ok(output);
                }
                return Err(format!("exit code {code}: {}", process.errors()));
            }
            if start.elapsed() > limit {
                return Err(format!("not done after {} s", limit.as_secs()));
            }
        }
    }

    /// Starts a child with a pipe as its standard input, which stays open until we drop it.
    pub fn start(&self, dir: &Path) -> Result<Process, String> {
        let mut command = self.command(dir)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Process::spawn(command)
    }
}

impl Process {
    fn spawn(mut command: Command) -> Result<Self, String> {
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let (sender, lines) = mpsc::sync_channel(LINES);
        if let Some(output) = child.stdout.take() {
            follow(output, move |line| {
                // The receiver may be full or gone; the pipe must be emptied all the same.
                let _ = sender.try_send(line);
            });
        }
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(output) = child.stderr.take() {
            let errors = Arc::clone(&errors);
            follow(output, move |line| {
                let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
                if errors.len() == LAST_ERRORS {
                    errors.pop_front();
                }
                errors.push_back(line);
            });
        }
        Ok(Self {
            child,
            lines,
            errors,
        })
    }

    /// The next line of JSON, if there is one before the deadline.
    pub fn line(&self, deadline: Instant) -> Option<Value> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            if let Ok(value) = serde_json::from_str(&line) {
                return Some(value);
            }
        }
    }

    /// All lines of JSON so far.
    pub fn lines(&self) -> Vec<Value> {
        self.lines
            .try_iter()
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect()
    }

    /// Whether a line with `text` is printed before the deadline.
    pub fn says(&self, text: &str, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.child.stdin.as_mut().ok_or("nobody reads")?;
        writeln!(input, "{line}").map_err(|error| error.to_string())
    }

    /// The last lines of standard error.
    pub fn errors(&self) -> String {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().cloned().collect::<Vec<_>>().join(" | ")
    }

    /// The exit code, if the child has ended; -1 after a signal.
    pub fn exit_code(&mut self) -> Option<i32> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.code().unwrap_or(-1)),
            Err(_) => Some(-1),
        }
    }

    /// The exit code, if the child ends in time.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(code) = self.exit_code() {
                return Some(code);
            }
            thread::sleep(POLL);
        }
        None
    }

    /// The peak memory of the child in KiB, if the operating system tells.
    pub fn peak_memory_kib(&self) -> Option<u64> {
        Some(peak_of(self.child.id()).ok()? / 1024)
    }

    /// Kills it at once with SIGKILL.
    pub fn kill(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // It may already have ended.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn follow(output: impl Read + Send + 'static, mut each: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            match line {
                Ok(line) => each(line),
                Err(_) => return,
            }
        }
    });
}

/// Interval at which a child is checked.
const POLL: Duration = Duration::from_millis(50);

/// Lines of output that wait to be read.
const LINES: usize = 4096;

/// Lines of standard error that are kept.
const LAST_ERRORS: usize = 6;
