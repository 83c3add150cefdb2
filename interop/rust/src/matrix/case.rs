//! One cell of the table: two peers, one operation, and what has to come out.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    child::{Invocation, Process},
    relay::{self, REBINDINGS, Relay},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// We dial.
    Out,
    /// The peer dials.
    In,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// What is to be run.
#[derive(Clone)]
pub struct Case {
    pub peer: &'static str,
    pub direction: Direction,
    pub family: Family,
    /// The row of the table.
    pub row: String,
    pub operation: &'static str,
    pub listener: Invocation,
    pub dialer: Invocation,
    /// For the dialer, after the operation.
    pub options: Vec<String>,
    /// How long the dialer may take.
    pub limit: Duration,
    /// Datagrams from the dialer after which a relay between the two takes another port.
    pub rebind_every: Option<u64>,
    pub expect: Expect,
}

/// What a result has to show, apart from success.
#[derive(Clone)]
pub enum Expect {
    /// Nothing more.
    Success,
    /// These codes, as the dialer and the listener have seen them.
    Codes { seen: Value, peer_saw: Value },
    /// Our statistics name this group.
    Group(&'static str),
    /// The dial fails, and our error says this.
    Refusal(&'static str),
    /// The peer retires so many of our connection IDs, and uses none after that.
    RetiredIds(u64),
    /// We have sent a Retry.
    Retry,
    /// Our memory grows by less than this.
    Memory { limit_kib: u64 },
}

/// How it went.
#[derive(Clone, Debug)]
pub enum Outcome {
    Passed { ms: u64 },
    Failed(String),
    Unsupported(String),
}

/// A listener and the address that it got.
pub struct Listener {
    invocation: Invocation,
    family: Family,
    process: Process,
    addr: String,
    /// What it has told of its connections since the last time that somebody looked.
    seen: Vec<Value>,
}

impl Listener {
    /// Starts a listener, or says how the case that needs it has ended without one.
    pub fn start(invocation: &Invocation, family: Family, dir: &Path) -> Result<Self, Outcome> {
        Self::try_start(invocation, family, dir).map_err(|(code, error)| match code {
            Some(3) => Outcome::Unsupported(error),
            _ => Outcome::Failed(format!("the listener does not start: {error}")),
        })
    }

    fn try_start(
        invocation: &Invocation,
        family: Family,
        dir: &Path,
    ) -> Result<Self, (Option<i32>, String)> {
        let addr = match family {
            Family::V4 => "/ip4/127.0.0.1/udp/0/quic-v1",
            Family::V6 => "/ip6/::1/udp/0/quic-v1",
        };
        let mut process = insert(invocation, &["listen", addr])
            .start(dir)
            .map_err(|error| (None, error))?;
        let Some(line) = process.line(Instant::now() + START) else {
            return Err((None, process.errors()));
        };
        let Some(addr) = line["listen"].as_str().map(ToOwned::to_owned) else {
            return Err((process.wait(GRACE), line.to_string()));
        };
        Ok(Self {
            invocation: invocation.clone(),
            family,
            process,
            addr,
            seen: Vec::new(),
        })
    }

    /// Whether this is what a case needs, and still there.
    pub fn fits(&mut self, case: &Case) -> bool {
        self.invocation == case.listener && self.family == case.family && self.is_running()
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub fn is_running(&mut self) -> bool {
        self.process.exit_code().is_none()
    }

    /// The facts of its latest connection.
    fn facts(&mut self) -> Value {
        self.latest(|line| line.get("connected").is_some())["facts"].clone()
    }

    /// Its latest line that is `wanted`; null if there is none.
    fn latest(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        // It may still be about to say so.
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            self.seen.extend(self.process.lines());
            if let Some(line) = self.seen.iter().rev().find(|line| wanted(line)) {
                return line.clone();
            }
            if Instant::now() > deadline {
                return Value::Null;
            }
            thread::sleep(POLL);
        }
    }
}

impl Case {
    pub fn run(&self, listener: &mut Listener, dir: &Path) -> Outcome {
        listener.process.lines();
        listener.seen.clear();
        match self.try_run(listener, dir) {
            Ok(outcome) => outcome,
            // Where this copy of the repository lies is nobody's business.
            Err(error) => Outcome::Failed(error.replace(&dir.display().to_string(), "interop")),
        }
    }

    fn try_run(&self, listener: &mut Listener, dir: &Path) -> Result<Outcome, String> {
        let relay = self
            .rebind_every
            .map(|every| Relay::start(&listener.addr, every))
            .transpose()
            .map_err(|error| format!("no relay: {error}"))?;
        let addr = relay.as_ref().map_or(&listener.addr, |relay| &relay.addr);
        let mut words = vec!["dial".to_owned(), addr.clone(), self.operation.to_owned()];
        words.extend(self.options.iter().cloned());
        words.extend(["--timeout".to_owned(), self.limit.as_secs().to_string()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let start = Instant::now();
        let mut dialer = insert(&self.dialer, &words).start(dir)?;
        let deadline = start + self.limit + GRACE;
        let mut memory = Memory::default();
        let result = loop {
            let ours = match self.direction {
                Direction::Out => &dialer,
                Direction::In => &listener.process,
            };
            memory.look(ours);
            if let Some(line) = dialer.line(Instant::now() + POLL) {
                if line.get("transferring").is_some() {
                    listener.process.kill();
                    continue;
                }
                break line;
            }
            if let Some(code) = dialer.exit_code() {
                // Its last line may have come between the two looks, or be on its way here.
                if let Some(line) = dialer.line(Instant::now() + POLL * 20) {
                    break line;
                }
                return Err(format!("exit code {code}, no result: {}", dialer.errors()));
            }
            if Instant::now() > deadline {
                return Err(format!("no result in {} s", self.limit.as_secs()));
            }
        };
        let code = dialer.wait(GRACE);
        let error = result["error"].as_str().unwrap_or("no reason given");
        if let Expect::Refusal(expected) = self.expect {
            return match code {
                Some(1) if error.contains(expected) => Ok(passed(start)),
                _ => Err(format!("refused otherwise: {error}")),
            };
        }
        match code {
            Some(0) => {}
            Some(3) => return Ok(Outcome::Unsupported(error.to_owned())),
            _ => return Err(error.to_owned()),
        }
        self.check(&result, listener, &memory)?;
        if let Some(relay) = relay {
            self.check_rebinding(&relay, listener)?;
        }
        let ms = result["ms"].as_u64();
        Ok(ms.map_or_else(|| passed(start), |ms| Outcome::Passed { ms }))
    }

    fn check(
        &self,
        result: &Value,
        listener: &mut Listener,
        memory: &Memory,
    ) -> Result<(), String> {
        if matches!(self.operation, "killed" | "wrong-peer") {
            return Ok(());
        }
        let (ours, theirs) = match self.direction {
            Direction::Out => (result["facts"].clone(), listener.facts()),
            Direction::In => (listener.facts(), result["facts"].clone()),
        };
        let group = ours["key_exchange_group"].as_str().unwrap_or("none");
        let suite = ours["cipher_suite"].as_str().unwrap_or("none");
        if !suite.starts_with("TLS13_") {
            return Err(format!("our statistics show the cipher suite {suite}"));
        }
        // Of the others, only go tells.
        for (name, expected) in [
            ("alpn", json!("libp2p")),
            ("certificates", json!(1)),
            ("key_exchange_group", json!(group)),
            ("server_name", json!("")),
        ] {
            // That crypto/tls and rustls name classic groups differently is no difference.
            let found = &theirs[name];
            let classic = name == "key_exchange_group" && !group.contains("MLKEM");
            if !found.is_null() && *found != expected && !classic {
                return Err(format!("the peer has seen {name} {found}, not {expected}"));
            }
        }
        match &self.expect {
            Expect::Codes { seen, peer_saw }
                if result["seen"] != *seen || result["peer_saw"] != *peer_saw =>
            {
                return Err(format!(
                    "codes: {} was seen here and {} there, instead of {seen} and {peer_saw}",
                    result["seen"], result["peer_saw"]
                ));
            }
            Expect::Group(expected) if group != *expected => {
                return Err(format!(
                    "our statistics show the group {group}, not {expected}"
                ));
            }
            Expect::RetiredIds(expected) => {
                let after = match self.direction {
                    Direction::Out => &result["facts_after"],
                    Direction::In => &result["peer_facts"],
                };
                let grew = |name| {
                    let (before, after) = (ours[name].as_u64(), after[name].as_u64());
                    before.zip(after).map(|(before, after)| after - before)
                };
                let (retired, unknown) = (grew("retired_ids"), grew("unknown"));
                if retired.is_none_or(|retired| retired < *expected) || unknown != Some(0) {
                    return Err(format!(
                        "our statistics show {retired:?} IDs retired and {unknown:?} unknown, not {expected} and 0"
                    ));
                }
            }
            Expect::Retry if ours["retries_sent"].as_u64().is_none_or(|sent| sent == 0) => {
                return Err("our statistics show that no Retry was sent".to_owned());
            }
            Expect::Memory { limit_kib } if memory.growth_kib() > *limit_kib => {
                return Err(format!("our memory grew by {} KiB", memory.growth_kib()));
            }
            _ => {}
        }
        Ok(())
    }

    /// The transfer outlasted all the rebindings, and a listener of ours knows where the peer is.
    fn check_rebinding(&self, relay: &Relay, listener: &mut Listener) -> Result<(), String> {
        let sources = relay.sources();
        let Some(last) = sources.get(REBINDINGS) else {
            return Err(format!(
                "the transfer was over after {} of {REBINDINGS} rebindings",
                sources.len() - 1
            ));
        };
        if self.direction == Direction::Out {
            return Ok(());
        }
        let to = relay::multiaddr(*last);
        let moved = listener.latest(|line| line["to"] == to);
        if moved["facts"]["remote_addr"] != last.to_string() {
            return Err(format!(
                "the peer is at {to}, and our listener says {moved}"
            ));
        }
        Ok(())
    }
}

/// What a process has used, from the first look to the last.
#[derive(Default)]
struct Memory {
    first_kib: Option<u64>,
    last_kib: u64,
}

impl Memory {
    fn look(&mut self, process: &Process) {
        if let Some(peak) = process.peak_memory_kib() {
            self.first_kib.get_or_insert(peak);
            self.last_kib = peak;
        }
    }

    fn growth_kib(&self) -> u64 {
        self.last_kib - self.first_kib.unwrap_or(self.last_kib)
    }
}

/// Commands come before the options that an invocation has already.
fn insert(invocation: &Invocation, words: &[&str]) -> Invocation {
    let mut all = invocation.clone();
    let at = all
        .words
        .iter()
        .position(|word| word.starts_with("--"))
        .unwrap_or(all.words.len());
    all.words
        .splice(at..at, words.iter().map(|&word| word.to_owned()));
    all
}

fn passed(start: Instant) -> Outcome {
    Outcome::Passed {
        ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// How long a listener may take to be bound.
const START: Duration = Duration::from_secs(30);

/// How long a dialer may overrun the limit that it was told.
const GRACE: Duration = Duration::from_secs(15);

/// How often children are looked after.
const POLL: Duration = Duration::from_millis(50);
