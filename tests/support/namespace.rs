//! Network namespaces: separate hosts on one machine.
//!
//! A namespace lives as long as a process in it, which ends with this program. Namespaces have no
//! names, leave nothing behind, and cannot reach the outside. They require root, or a system on
//! which every user may create user namespaces, and `ip`.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

/// A namespace, and the process that keeps it until its standard input ends.
pub(crate) struct Namespace {
    process: Child,
    /// Whether its namespace belongs to a user namespace other than ours.
    foreign: bool,
}

impl Namespace {
    /// Creates this many namespaces, or returns why that is not possible.
    pub(crate) fn hold(count: usize) -> Result<Vec<Self>, String> {
        let as_root = || -> Result<Vec<Self>, String> {
            (0..count)
                .map(|_| Self::start(&["unshare", "--net"], false))
                .collect()
        };
        // The first one is created with a user namespace, in which the others are created.
        let as_anybody = || -> Result<Vec<Self>, String> {
            let first = Self::start(&["unshare", "--user", "--map-root-user", "--net"], true)?;
            let user = format!("--user=/proc/{}/ns/user", first.id());
            let entered = [
                "nsenter",
                &user,
                "--preserve-credentials",
                "unshare",
                "--net",
            ];
            let mut namespaces = vec![first];
            while namespaces.len() < count {
                namespaces.push(Self::start(&entered, true)?);
            }
            Ok(namespaces)
        };
        as_root().or_else(|root| as_anybody().map_err(|anybody| format!("{root}; {anybody}")))
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

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The words before a command that make it run here.
    pub(crate) fn enter(&self) -> Vec<String> {
        let id = self.id();
        let mut words = vec!["nsenter".to_owned(), format!("--net=/proc/{id}/ns/net")];
        if self.foreign {
            words.push(format!("--user=/proc/{id}/ns/user"));
            words.push("--preserve-credentials".to_owned());
        }
        words.push("--".to_owned());
        words
    }

    /// Runs a command here; returns its output, or why it has failed.
    pub(crate) fn run(&self, words: &[&str], input: &str) -> Result<String, String> {
        let entered = self.enter();
        let describe = |error: &dyn std::fmt::Display| format!("{}: {error}", words.join(" "));
        let mut process = Command::new(&entered[0])
            .args(&entered[1..])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| describe(&error))?;
        if let Some(mut pipe) = process.stdin.take() {
            // If it has already ended, its exit status tells why.
            let _ = pipe.write_all(input.as_bytes());
        }
        let output = process
            .wait_with_output()
            .map_err(|error| describe(&error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(describe(&String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // This ends its input; no other process holds it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
