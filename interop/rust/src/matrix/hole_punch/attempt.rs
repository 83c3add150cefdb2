//! One run: a scene, a relay, a listener, a dialer, and the dialer's result.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use harness::scene::{PUBLIC, Place, Scene};
use serde::Serialize;
use serde_json::Value;

use crate::child::{Invocation, Process};

use super::{OURS, Pair};

/// The programs that can be a dialer or a listener.
#[derive(Default)]
pub struct Programs(BTreeMap<&'static str, Program>);

struct Program {
    invocation: Invocation,
    options: &'static [&'static str],
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Attempt {
    /// Time from the relayed connection to the direct one; `None` without a direct one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_ms: Option<f64>,
    /// The number of the successful attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// Direct connections at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_ms: Option<f64>,
    /// Ping over the relayed connection at the end; `None` if it no longer worked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relayed_ping_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Programs {
    /// Adds a program. `options` follow the words of a command.
    pub fn add(
        &mut self,
        name: &'static str,
        invocation: Invocation,
        options: &'static [&'static str],
    ) {
        let program = Program {
            invocation,
            options,
        };
        self.0.insert(name, program);
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn start(
        &self,
        name: &str,
        words: &[&str],
        scene: &Scene,
        place: Place,
        dir: &Path,
    ) -> Result<Process, String> {
        let program = self.0.get(name).ok_or_else(|| format!("no {name}"))?;
        let limit = LIMIT.as_secs().to_string();
        let mut invocation = Invocation::new(scene.enter(place))
            // Even if this process is killed.
            .with(["timeout", &limit])
            .with(program.invocation.words.iter().cloned())
            .with(words.iter().copied())
            .with(program.options.iter().copied());
        invocation.env.clone_from(&program.invocation.env);
        invocation.start(dir)
    }
}

impl Attempt {
    pub fn make(programs: &Programs, pair: &Pair, dir: &Path) -> Self {
        match Self::try_make(programs, pair, dir) {
            Ok(attempt) => attempt,
            Err(error) => Self {
                // The path of this copy of the repository must not appear in results.
                error: Some(error.replace(&dir.display().to_string(), "interop")),
                ..Self::default()
            },
        }
    }

    fn try_make(programs: &Programs, pair: &Pair, dir: &Path) -> Result<Self, String> {
        // A new scene for each run, so that the routers have no state.
        let scene = Scene::build(pair.nat, pair.nat)?;
        let addr = format!("/ip4/{}/udp/4001/quic-v1", PUBLIC[0]);
        let relay = programs.start(OURS, &["relay", &addr], &scene, Place::Public, dir)?;
        let relay_addr = word(&event(&relay, "listening")?, "addr")?;
        let listen = ["listen", &relay_addr];
        let listener = programs.start(pair.listener, &listen, &scene, Place::Listener, dir)?;
        let peer_id = word(&event(&listener, "reserved")?, "peer_id")?;
        let dial = ["dial", &relay_addr, &peer_id];
        let dialer = programs.start(pair.dialer, &dial, &scene, Place::Dialer, dir)?;
        let deadline = Instant::now() + LIMIT;
        while let Some(line) = dialer.line(deadline) {
            if line["event"] == "direct" || line["event"] == "failed" {
                return Ok(Self {
                    direct_ms: line["ms"].as_f64(),
                    attempts: line["attempts"].as_u64(),
                    connections: line["connections"].as_u64(),
                    ping_ms: line["ping_ms"].as_f64(),
                    relayed_ping_ms: line["relayed_ping_ms"].as_f64(),
                    error: line["error"].as_str().map(ToOwned::to_owned),
                });
            }
        }
        Err(format!("no result: {}", dialer.errors()))
    }

    pub fn is_direct(&self) -> bool {
        self.direct_ms.is_some()
    }

    pub fn keeps_relayed(&self) -> bool {
        self.relayed_ping_ms.is_some()
    }

    pub fn text(&self) -> String {
        let relayed = if self.keeps_relayed() {
            ""
        } else {
            ", and the relayed connection is gone"
        };
        match (self.direct_ms, self.attempts, &self.error) {
            (Some(ms), Some(1), _) => format!("direct after {ms:.1} ms{relayed}"),
            (Some(ms), attempts, _) => format!(
                "direct after {ms:.1} ms, by attempt {}{relayed}",
                attempts.unwrap_or(0)
            ),
            (None, _, error) => format!(
                "not direct: {}{relayed}",
                error.as_deref().unwrap_or("no reason given")
            ),
        }
    }
}

/// Waits for this event of a program.
fn event(process: &Process, name: &str) -> Result<Value, String> {
    let deadline = Instant::now() + START;
    while let Some(line) = process.line(deadline) {
        if line["event"] == name {
            return Ok(line);
        }
    }
    Err(format!("not {name}: {}", process.errors()))
}

fn word(line: &Value, key: &str) -> Result<String, String> {
    line[key]
        .as_str()
        .map(ToOwned::to_owned)
        .ok_or_else(|| format!("no {key}: {line}"))
}

/// How long connecting to the relay may take.
const START: Duration = Duration::from_secs(30);

/// How long a program may run; three attempts of go take half a minute.
const LIMIT: Duration = Duration::from_secs(90);
