//! One cell of the table: two peers, one operation, and the required result.

mod ends;

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

/// A case to run.
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
    /// Options for the dialer, after the operation.
    pub options: Vec<String>,
    /// How long the dialer may take.
    pub limit: Duration,
    pub disturbance: Disturbance,
    pub expect: Expect,
}

/// A disturbance while the two are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    None,
    /// A relay between them moves to another port after each `every` datagrams from the dialer.
    Rebind {
        every: u64,
    },
    /// A relay between them drops the listener's packets once data flows.
    Silence,
    /// The listener is killed once data flows.
    Kill,
    /// The listener is killed once data flows, and restarted at the same port.
    Restart,
    /// The dialer is killed once data flows, and another one with the same key replaces it.
    RestartDialer,
}

/// What a result must show, besides success.
#[derive(Clone)]
pub enum Expect {
    /// Nothing more.
    Success,
    /// These codes, as the dialer and the listener have seen them.
    Codes { seen: Value, peer_saw: Value },
    /// Our statistics show this key-exchange group.
    Group(&'static str),
    /// The dial fails, and our error contains this.
    Refusal(&'static str),
    /// The peer retires this many of our connection IDs, and uses none of them afterwards.
    RetiredIds(u64),
    /// We have sent a Retry.
    Retry,
    /// Our memory grows by less than this.
    Memory { limit_kib: u64 },
    /// A side that was told of the close has received it at once, with the code if it shows codes.
    Ends { shows_code: bool },
    /// All connections came from one port of the dialer.
    OnePort,
    /// The dialer's data has arrived, with its end.
    Sunk { bytes: u64 },
    /// The old connection did not have to end first.
    Overlap,
}

/// The result of a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    Passed { ms: u64 },
    Failed(String),
    Unsupported(String),
}

/// A listener and its address.
pub struct Listener {
    invocation: Invocation,
    family: Family,
    process: Process,
    addr: String,
    /// Its lines about connections since the last look.
    seen: Vec<Value>,
}

impl Listener {
    /// Starts a listener, or returns the result of the case without one.
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
        Self::start_at(invocation, family, addr, dir)
    }

    fn start_at(
        invocation: &Invocation,
        family: Family,
        addr: &str,
        dir: &Path,
    ) -> Result<Self, (Option<i32>, String)> {
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

    /// Whether this listener fits the case, and still runs.
    pub fn fits(&mut self, case: &Case) -> bool {
        self.invocation == case.listener && self.family == case.family && self.is_running()
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Kills it and starts it again, at the same port.
    fn restart(&mut self, dir: &Path) -> Result<(), String> {
        self.process.kill();
        let addr = self.addr.split("/p2p/").next().unwrap_or_default();
        let again = Self::start_at(&self.invocation, self.family, addr, dir)
            .map_err(|(_, error)| format!("the listener does not start again: {error}"))?;
        if again.addr != self.addr {
            return Err(format!("the listener is at {} now", again.addr));
        }
        *self = again;
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        self.process.exit_code().is_none()
    }

    /// The facts of its latest connection.
    fn facts(&mut self) -> Value {
        let facts = self.latest(|line| line.get("connected").is_some())["facts"].clone();
        if !facts.is_null() {
            return facts;
        }
        // A connection that is over before it is reported has none; an earlier one may have some.
        let mut told = self.seen.iter().rev().map(|line| &line["facts"]);
        told.find(|facts| !facts.is_null())
            .cloned()
            .unwrap_or_default()
    }

    /// Its first `count` lines with `what` of `peer`. After four seconds, those received so far.
    fn lines_of(&mut self, what: &str, peer: &Value, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(4);
        loop {
            self.seen.extend(self.process.lines());
            let found = self.seen.iter().filter(|line| line[what] == *peer);
            let found: Vec<Value> = found.take(count).cloned().collect();
            if found.len() == count || Instant::now() > deadline {
                return found;
            }
            thread::sleep(POLL);
        }
    }

    /// Its latest line that is `wanted`; null if there is none.
    fn latest(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        // The line may be about to arrive.
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
            // The path of this copy of the repository must not appear in results.
            Err(error) => Outcome::Failed(error.replace(&dir.display().to_string(), "interop")),
        }
    }

    fn try_run(&self, listener: &mut Listener, dir: &Path) -> Result<Outcome, String> {
        let relay = match self.disturbance {
            Disturbance::Rebind { every } => Some(Relay::start(&listener.addr, Some(every))),
            Disturbance::Silence => Some(Relay::start(&listener.addr, None)),
            _ => None,
        };
        let relay = relay
            .transpose()
            .map_err(|error| format!("no relay: {error}"))?;
        let addr = relay
            .as_ref()
            .map_or(&listener.addr, |relay| &relay.addr)
            .clone();
        let start_dialer = |operation| {
            let limit = self.limit.as_secs().to_string();
            let mut words = vec!["dial", addr.as_str(), operation];
            words.extend(self.options.iter().map(String::as_str));
            words.extend(["--timeout", limit.as_str()]);
            insert(&self.dialer, &words).start(dir)
        };
        let start = Instant::now();
        let mut dialer = start_dialer(self.operation)?;
        let deadline = start + self.limit + GRACE;
        let mut memory = Memory::default();
        let result = loop {
            let ours = match self.direction {
                Direction::Out => &dialer,
                Direction::In => &listener.process,
            };
            memory.look(ours);
            if let Some(line) = dialer.line(Instant::now() + POLL) {
                if line.get("transferring").is_none() {
                    break line;
                }
                match self.disturbance {
                    Disturbance::None | Disturbance::Rebind { .. } => {}
                    Disturbance::Silence => {
                        if let Some(relay) = &relay {
                            relay.silence();
                        }
                    }
                    Disturbance::Kill => listener.process.kill(),
                    Disturbance::Restart => {
                        listener.restart(dir)?;
                        dialer.tell("restarted")?;
                    }
                    Disturbance::RestartDialer => {
                        dialer.kill();
                        dialer = start_dialer("ping")?;
                    }
                }
                continue;
            }
            if let Some(code) = dialer.exit_code() {
                // Its last line may have arrived between the two checks, or may be in the pipe.
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
        if let (Disturbance::Rebind { .. }, Some(relay)) = (self.disturbance, relay) {
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
        // Of the other peers, only go reports these.
        for (name, expected) in [
            ("alpn", json!("libp2p")),
            ("certificates", json!(1)),
            ("key_exchange_group", json!(group)),
            ("server_name", json!("")),
        ] {
            // crypto/tls and rustls have different names for the same classic groups.
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
            Expect::Ends { shows_code } => self.check_ends(result, listener, *shows_code)?,
            Expect::OnePort => ends::check_port(result, listener)?,
            Expect::Sunk { bytes } => ends::check_sunk(result, listener, *bytes)?,
            Expect::Overlap => {
                let old = result["old"].as_str().unwrap_or("nobody knows");
                if old.contains("TimedOut") {
                    return Err(format!("the old connection had ended before: {old}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The transfer outlasted all rebindings, and a listener of ours has the peer's current
    /// address.
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

/// The memory of a process, at the first and at the last look.
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

/// Inserts commands before the options of an invocation.
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

/// How long a listener may take to bind.
const START: Duration = Duration::from_secs(30);

/// How long a dialer may exceed its limit.
const GRACE: Duration = Duration::from_secs(15);

/// Interval at which children are checked.
const POLL: Duration = Duration::from_millis(50);
