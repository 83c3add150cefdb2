//! The hostile peer as the server of one dialer for each certificate.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Answer, Answers, Certificate, Role, Told};
use crate::child::{Invocation, Process};

/// A hostile server of all certificates.
pub struct Server {
    /// The address for each certificate.
    offers: Vec<(Certificate, String)>,
    told: Mutex<Account>,
}

/// The hostile server's reports of its connections.
struct Account {
    process: Process,
    /// Reactions that were not taken yet.
    answers: BTreeMap<usize, Vec<Answer>>,
}

impl Server {
    pub fn start(hostile: &Invocation, dir: &Path) -> Result<Self, String> {
        let addr = "/ip4/127.0.0.1/udp/0/quic-v1";
        let process = hostile.with(["listen", addr]).start(dir)?;
        let mut offers = Vec::new();
        loop {
            let line = process.line(Instant::now() + START).ok_or_else(|| {
                format!("the hostile server does not start: {}", process.errors())
            })?;
            if line.get("serving").is_some() {
                break;
            }
            let addr = line["listen"].as_str().unwrap_or_default().to_owned();
            let certificate = serde_json::from_value(line.clone())
                .map_err(|error| format!("the hostile server says {line}: {error}"))?;
            offers.push((certificate, addr));
        }
        Ok(Self {
            offers,
            told: Mutex::new(Account {
                process,
                answers: BTreeMap::new(),
            }),
        })
    }

    pub fn certificates(self) -> Vec<Certificate> {
        let offers = self.offers.into_iter();
        offers.map(|(certificate, _)| certificate).collect()
    }

    /// Makes dialers connect for every certificate, a few at a time.
    pub fn serve_all(&self, victim: &Invocation, dir: &Path) -> Result<Answers, String> {
        let left = Mutex::new(self.offers.iter());
        let answers = Mutex::new(Answers::new());
        thread::scope(|scope| {
            for _ in 0..DIALERS {
                scope.spawn(|| {
                    loop {
                        let next = lock(&left).next();
                        let Some((certificate, addr)) = next else {
                            return;
                        };
                        let answer = self.serve(certificate.index, addr, victim, dir);
                        lock(&answers).insert((certificate.index, Role::Server), answer);
                    }
                });
            }
        });
        // A server that has stopped gives no reactions.
        let process = &mut lock(&self.told).process;
        match process.exit_code() {
            None => Ok(answers.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Some(code) => Err(format!(
                "the hostile server ends with {code}: {}",
                process.errors()
            )),
        }
    }

    /// A dialer accepts a server that it can ping, even if it refuses afterwards.
    fn serve(&self, index: usize, addr: &str, victim: &Invocation, dir: &Path) -> Answer {
        let ping = ["dial", addr, "ping", "--count", "1", "--timeout", TIMEOUT];
        let mut dialer = match victim.with(ping).start(dir) {
            Ok(dialer) => dialer,
            Err(error) => return Answer::Failed(error),
        };
        let mut answers = Vec::new();
        let mut deadline = Instant::now() + PATIENCE;
        let result = loop {
            if let Some(result) = dialer.line(Instant::now() + POLL) {
                break result;
            }
            let told = lock(&self.told).take(index);
            if !told.is_empty() {
                // Some dialers do not notice the result, and wait for nothing.
                deadline = deadline.min(Instant::now() + NOTICE);
                answers.extend(told);
            }
            if dialer.exit_code().is_some() || Instant::now() > deadline {
                break Value::Null;
            }
        };
        let errors = dialer.errors();
        // It stops, and the server notices.
        drop(dialer);
        let deadline = Instant::now() + NOTICE;
        while answers.is_empty() && Instant::now() < deadline {
            thread::sleep(POLL);
            answers = lock(&self.told).take(index);
        }
        if result["ok"] == true || answers.contains(&Answer::Accepted) {
            return Answer::Accepted;
        }
        match answers.into_iter().next() {
            Some(answer) => answer,
            None if result.is_null() => Answer::Failed(errors),
            None => Answer::Silent,
        }
    }
}

impl Account {
    /// Takes the reactions to one certificate.
    fn take(&mut self, index: usize) -> Vec<Answer> {
        for line in self.process.lines() {
            if let Ok(told) = serde_json::from_value::<Told>(line) {
                let answers = self.answers.entry(told.case).or_default();
                answers.push(told.outcome.into());
            }
        }
        self.answers.remove(&index).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dialers in parallel. Some peers take a second to start, mostly on one core.
const DIALERS: usize = 4;

/// How long a dialer may take, in seconds.
const TIMEOUT: &str = "15";

/// The same, plus the time to start.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long either side may take to notice the end of a connection.
const NOTICE: Duration = Duration::from_secs(2);

/// How long the hostile server may take to bind.
const START: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(50);
