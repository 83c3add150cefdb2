//! Two nodes behind NATs, in network namespaces, with the example `hole_punch`.
//!
//! The tests are skipped, with the reason, if namespaces cannot be created; `INTEROP_REQUIRE=nat`
//! makes that a failure. They take some seconds because of pings, probes and timeouts. `interop/run
//! --only hole-punch` tests more: other implementations, other NATs, many runs.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use harness::scene::{Nat, PUBLIC, Place, Ports, Scene, Strangers};
use serde_json::Value;
use support::{example::example, required::or_skip};

#[test]
fn nodes_behind_nats_that_keep_ports_get_a_direct_connection() {
    for strangers in [Strangers::Dropped, Strangers::Rejected] {
        let nat = Nat::KEPT.with_strangers(strangers);
        let Some(outcome) = punch(nat, &[]) else {
            return;
        };
        assert_eq!(outcome.dialer["event"], "direct", "{outcome:?}");
        assert_eq!(outcome.dialer["connections"], 1, "{outcome:?}");
        assert!(outcome.dialer["relayed_ping_ms"].is_number(), "{outcome:?}");
        assert_eq!(outcome.code, Some(0));
    }
}

#[test]
fn nodes_behind_nats_that_change_ports_keep_the_relayed_connection() {
    // Three attempts time out; only a shorter timeout makes that faster.
    let quick = ["--handshake-timeout", "0.5"];
    let Some(outcome) = punch(Nat::KEPT.with_ports(Ports::Random), &quick) else {
        return;
    };
    assert_eq!(outcome.dialer["event"], "failed", "{outcome:?}");
    let error = outcome.dialer["error"].as_str().unwrap();
    assert!(error.contains("handshake timed out"), "{error}");
    assert!(outcome.dialer["relayed_ping_ms"].is_number(), "{outcome:?}");
    assert_eq!(outcome.code, Some(3));
    assert_eq!(outcome.listener["event"], "failed", "{outcome:?}");
}

#[test]
fn router_with_upnp_lets_strangers_in() {
    let Some(scene) = scene(Nat::KEPT) else {
        return;
    };
    let Some(_daemon) = miniupnpd(&scene) else {
        return;
    };
    let addr = format!("/ip4/{}/udp/4001/quic-v1", PUBLIC[0]);
    // The relay's dials back to closed ports time out.
    let quick = ["--handshake-timeout", "0.5"];
    let relay = Program::start(&scene, Place::Public, &["relay", &addr], &quick);
    let relay_addr = relay.says("listening")["addr"].as_str().unwrap().to_owned();
    let listen = ["listen", &relay_addr];
    let without = Program::start(&scene, Place::Listener, &listen, &[]);
    let seen = without.says("observed")["addr"].clone();
    // The relay dials back from a port to which the listener has not sent anything.
    let tested = without.line(|line| line["event"] == "tested" && line["addr"] == seen);
    assert!(tested["error"].is_string(), "{tested}");

    let with = Program::start(&scene, Place::Listener, &listen, &["--upnp"]);
    let mapped = with.says("mapped")["addr"].as_str().unwrap().to_owned();
    let peer_id = with.says("reserved")["peer_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // Treats it as a relay, and so connects to it.
    let listen = ["listen", &format!("{mapped}/p2p/{peer_id}")];
    let stranger = Program::start(&scene, Place::Public, &listen, &[]);
    stranger.says("observed");
}

#[derive(Debug)]
struct Outcome {
    /// The last event of each.
    dialer: Value,
    listener: Value,
    /// The dialer's exit code.
    code: Option<i32>,
}

/// Runs the example with both hosts behind such a NAT.
fn punch(nat: Nat, options: &[&str]) -> Option<Outcome> {
    let scene = scene(nat)?;
    let addr = format!("/ip4/{}/udp/4001/quic-v1", PUBLIC[0]);
    let relay = Program::start(&scene, Place::Public, &["relay", &addr], options);
    let relay_addr = relay.says("listening")["addr"].as_str().unwrap().to_owned();
    let listen = ["listen", &relay_addr];
    let listener = Program::start(&scene, Place::Listener, &listen, options);
    let peer_id = listener.says("reserved")["peer_id"].clone();
    let dial = ["dial", &relay_addr, peer_id.as_str().unwrap()];
    let mut dialer = Program::start(&scene, Place::Dialer, &dial, options);
    let last = dialer.last_word();
    Some(Outcome {
        listener: listener.says(last["event"].as_str().unwrap()),
        dialer: last,
        code: dialer.child.wait().unwrap().code(),
    })
}

fn scene(nat: Nat) -> Option<Scene> {
    let built = Scene::build(nat, nat);
    or_skip(
        "nat",
        built.map_err(|reason| format!("no scene of namespaces: {reason}")),
    )
}

/// A daemon on the listener's router that forwards ports on request.
fn miniupnpd(scene: &Scene) -> Option<Program> {
    let found = Command::new("miniupnpd").arg("--version").output();
    or_skip(
        "nat",
        found.map_err(|error| format!("no miniupnpd: {error}")),
    )?;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("miniupnpd.conf");
    let config = "ext_ifname=wan0\nlistening_ip=lan0\nipv6_disable=yes\nsecure_mode=yes\n\
                  upnp_table_name=filter\nupnp_nat_table_name=nat\n\
                  uuid=6a1f3a44-5d05-4f0e-8a34-5c8c58a1a3f1\n\
                  allow 1024-65535 192.168.20.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n";
    fs::write(&file, config).unwrap();
    let pid_file = file.with_extension("pid");
    // In the foreground.
    let mut daemon = in_scene(scene, Place::ListenerRouter);
    daemon.args(["miniupnpd", "-d", "-f"]).arg(&file);
    daemon.arg("-P").arg(pid_file).stderr(Stdio::null());
    Some(Program::run(daemon, Place::ListenerRouter))
}

fn in_scene(scene: &Scene, place: Place) -> Command {
    let entered = scene.enter(place);
    let mut command = Command::new(&entered[0]);
    command
        .args(&entered[1..])
        // `timeout` ends it even if the test is killed.
        .args(["timeout", &LIMIT.as_secs().to_string()]);
    command
}

/// The example, running at a place of the scene.
struct Program {
    child: Child,
    lines: mpsc::Receiver<Value>,
    seen: RefCell<Vec<Value>>,
}

impl Program {
    fn start(scene: &Scene, place: Place, words: &[&str], options: &[&str]) -> Self {
        let mut command = in_scene(scene, place);
        command
            .arg(hole_punch())
            .args(words)
            .args(options)
            .arg("--json");
        Self::run(command, place)
    }

    fn run(mut command: Command, place: Place) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::sync_channel(MAX_LINES);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                println!("{place:?}: {line}");
                // The receiver may be gone when the test ends.
                let _ = serde_json::from_str(&line).map(|line| sender.send(line));
            }
        });
        Self {
            child,
            lines,
            seen: RefCell::default(),
        }
    }

    /// Waits for an event with this name.
    fn says(&self, event: &str) -> Value {
        self.line(|line| line["event"] == event)
    }

    /// The first line that is `wanted`, in any order.
    fn line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = self.seen.borrow_mut();
        loop {
            if let Some(line) = seen.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            seen.push(self.lines.recv_timeout(LIMIT).unwrap());
        }
    }

    /// The last event before it ends.
    fn last_word(&self) -> Value {
        let mut last = Value::Null;
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            last = line;
        }
        last
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGTERM, because `timeout` passes it on; SIGKILL would end only `timeout`.
        if let Ok(None) = self.child.try_wait() {
            let id = self.child.id().to_string();
            let _ = Command::new("kill").arg(id).status();
            let _ = self.child.wait();
        }
    }
}

/// The program of the example, built once.
fn hole_punch() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("hole_punch"))
}

/// More lines than a program prints.
const MAX_LINES: usize = 1000;

/// Far longer than any program takes.
const LIMIT: Duration = Duration::from_secs(60);
