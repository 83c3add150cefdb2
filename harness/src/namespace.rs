//! Network namespaces: separate hosts on one machine.
//!
//! A namespace lives as long as a process in it, which ends with this program. Namespaces have no
//! names, leave nothing behind, and cannot reach the outside. They require root, or a system on
//! which every user may create user namespaces, and `ip`.

use std::{
    io::{BufRead, BufReader},
    iter,
    process::{Child, Command, Stdio},
};

use crate::command;

/// A namespace, and the process that keeps it until its standard input ends.
pub struct Namespace {
    process: Child,
    /// Whether its namespace belongs to a user namespace other than ours.
    foreign: bool,
}

impl Namespace {
    /// Creates this many namespaces, or returns why that is not possible.
    pub fn hold<const COUNT: usize>() -> Result<[Self; COUNT], String> {
        Self::hold_as_root()
            .or_else(|root| Self::hold_as_anybody().map_err(|anybody| format!("{root}; {anybody}")))
    }

    /// Creates them as root. Threads can move there as well.
    pub fn hold_as_root<const COUNT: usize>() -> Result<[Self; COUNT], String> {
        all((0..COUNT).map(|_| Self::start(&["unshare", "--net"], false)))
    }

    /// Creates the first one with a user namespace, and the others in that.
    fn hold_as_anybody<const COUNT: usize>() -> Result<[Self; COUNT], String> {
        let first = Self::start(&["unshare", "--user", "--map-root-user", "--net"], true)?;
        let user = format!("--user=/proc/{}/ns/user", first.id());
        let entered = [
            "nsenter",
            &user,
            "--preserve-credentials",
            "unshare",
            "--net",
        ];
        let others = (1..COUNT).map(|_| Self::start(&entered, true));
        all(iter::once(Ok(first)).chain(others))
    }

    fn start(words: &[&str], foreign: bool) -> Result<Self, String> {
        let script = "ip link set lo up && echo ready && exec cat";
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .args(["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", words[0]))?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            // An error counts as not "ready".
            let _ = BufReader::new(output).read_line(&mut line);
        }
        if line == "ready\n" {
            return Ok(Self { process, foreign });
        }
        let said = process
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        Err(String::from_utf8_lossy(&said.stderr).trim().to_owned())
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The words before a command that make it run here.
    pub fn enter(&self) -> Vec<String> {
        let id = self.id();
        let mut words = vec!["nsenter".to_owned(), format!("--net={}", path(id))];
        if self.foreign {
            words.push(format!("--user=/proc/{id}/ns/user"));
            words.push("--preserve-credentials".to_owned());
        }
        words.push("--".to_owned());
        words
    }

    /// Runs a command here; returns its output, or why it has failed.
    pub fn run(&self, words: &[&str], input: &str) -> Result<String, String> {
        let entered = self.enter();
        let mut command = Command::new(&entered[0]);
        command.args(&entered[1..]).args(words);
        let result = command::run(&mut command, input);
        result.map_err(|why| format!("{}: {why}", words.join(" ")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // This ends its input; no other process holds it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Moves this thread, and those that it starts later, to the namespace of a process. A socket
/// belongs to the namespace of the thread that opens it.
#[cfg(target_os = "linux")]
pub fn move_to(process: u32) -> Result<(), String> {
    use nix::sched::{CloneFlags, setns};

    let enter = || {
        let namespace = std::fs::File::open(path(process))?;
        Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
    };
    enter().map_err(|error: std::io::Error| format!("no way into a namespace: {error}"))
}

fn all<const COUNT: usize>(
    namespaces: impl Iterator<Item = Result<Namespace, String>>,
) -> Result<[Namespace; COUNT], String> {
    let namespaces: Vec<_> = namespaces.collect::<Result<_, _>>()?;
    let count = namespaces.len();
    let made = namespaces.try_into();
    made.map_err(|_| format!("{count} namespaces instead of {COUNT}"))
}

fn path(process: u32) -> String {
    format!("/proc/{process}/ns/net")
}
