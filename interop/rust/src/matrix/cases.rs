//! The list of cases.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    case::{Case, Direction, Disturbance, Expect, Family},
    child::Invocation,
    prepare::Ready,
};

/// Transfer sizes, and the resulting timeouts.
pub struct Sizes {
    pub echo_bytes: u64,
    pub idle_seconds: u64,
    pub slow_bytes: u64,
    pub slow_seconds: u64,
    pub streams: u64,
    /// py is fifty times as slow as the others.
    pub py_bytes: u64,
}

/// For CI.
pub const QUICK: Sizes = Sizes {
    echo_bytes: 8 << 20,
    idle_seconds: 12,
    slow_bytes: 64 << 20,
    slow_seconds: 3,
    streams: 300,
    py_bytes: 1 << 20,
};

/// The full run.
pub const FULL: Sizes = Sizes {
    echo_bytes: 100 << 20,
    idle_seconds: 60,
    slow_bytes: 64 << 20,
    slow_seconds: 5,
    streams: 1000,
    py_bytes: 100 << 20,
};

/// Operations that use the CPU; those that mostly wait are in [`WAITING`].
const BUSY: &[&str] = &[
    "ping",
    "identify",
    "echo",
    "perf",
    "streams",
    "half-close",
    "reset",
    "stop",
    "wrong-peer",
    "slow-reader",
    "autonat",
    "close-hears",
    "close-mid-upload",
    "close-redial",
    "close-delivers",
    "restarted",
];

const WAITING: &[&str] = &["killed", "idle"];

/// The types of host keys.
const KEYS: &[&str] = &["ed25519", "secp256k1", "ecdsa", "rsa"];

pub const DIRECTIONS: [Direction; 2] = [Direction::Out, Direction::In];

/// The cases to run one after another, and those that can run in parallel because they mostly wait.
pub fn of(
    peer: &'static str,
    ours: &Ready,
    theirs: &Ready,
    sizes: &Sizes,
) -> (Vec<Case>, Vec<Case>) {
    let mut busy = Vec::new();
    let mut waiting = Vec::new();
    for direction in DIRECTIONS {
        let families: &[Family] = if theirs.ipv6 {
            &[Family::V4, Family::V6]
        } else {
            &[Family::V4]
        };
        let pair = Pair {
            peer,
            direction,
            ours: &ours.invocation,
            theirs: &theirs.invocation,
        };
        for &family in families {
            busy.extend(
                BUSY.iter()
                    .map(|operation| pair.case(operation, family, sizes)),
            );
            waiting.extend(
                WAITING
                    .iter()
                    .map(|operation| pair.case(operation, family, sizes)),
            );
        }
        busy.push(pair.rebinding(sizes));
        if direction == Direction::In {
            busy.push(pair.our_retry(sizes));
        }
        for key in KEYS {
            busy.push(pair.host_key(key, sizes));
        }
        busy.push(pair.group(sizes));
        if peer == "go" {
            busy.extend(pair.go_only(sizes));
        }
    }
    (busy, waiting)
}

/// Two peers, one of which dials.
struct Pair<'a> {
    peer: &'static str,
    direction: Direction,
    ours: &'a Invocation,
    theirs: &'a Invocation,
}

impl Pair<'_> {
    fn case(&self, operation: &'static str, family: Family, sizes: &Sizes) -> Case {
        let is_py = self.peer == "py";
        let bytes = if is_py {
            sizes.py_bytes
        } else {
            sizes.echo_bytes
        };
        let (listener, dialer) = match self.direction {
            Direction::Out => (self.theirs, self.ours),
            Direction::In => (self.ours, self.theirs),
        };
        let mut options = Vec::new();
        let mut limit = Duration::from_secs(60);
        let mut expect = Expect::Success;
        let mut disturbance = Disturbance::None;
        // The dialer's operation, if its name differs.
        let mut done_by = operation;
        // js shows no codes.
        let shows_code = self.peer != "js";
        let (mut listener, mut dialer) = (listener.clone(), dialer.clone());
        let mut option = |name: &str, value: u64| {
            options.extend([format!("--{name}"), value.to_string()]);
        };
        match operation {
            "ping" => option("count", 100),
            "echo" | "perf" => {
                option("size", bytes);
                // py is fifty times as slow as the others: 2 MiB/s at worst.
                limit += Duration::from_secs(if is_py { bytes >> 18 } else { bytes >> 21 });
                if is_py && operation == "echo" {
                    // Its receive buffer drops data that it cannot hold.
                    option("in-flight", 1 << 20);
                }
            }
            "streams" => {
                // py ends a connection after a thousand streams.
                option(
                    "count",
                    if is_py {
                        sizes.streams.min(900)
                    } else {
                        sizes.streams
                    },
                );
                option("parallel", 100);
            }
            "autonat" => limit = Duration::from_secs(20),
            "reset" | "stop" => {
                option("code", CODE);
                expect = self.codes(operation);
                limit = Duration::from_secs(20);
            }
            "slow-reader" => {
                option("size", sizes.slow_bytes);
                option("seconds", sizes.slow_seconds);
                // Our windows are a sixth of that; more means that data was buffered elsewhere.
                expect = Expect::Memory {
                    limit_kib: (sizes.slow_bytes >> 10) / 2,
                };
            }
            "idle" => {
                option("seconds", sizes.idle_seconds);
                limit += Duration::from_secs(sizes.idle_seconds);
            }
            "killed" => disturbance = Disturbance::Kill,
            "close-hears" => {
                option("code", CODE);
                expect = Expect::Ends { shows_code };
                limit = Duration::from_secs(30);
            }
            "close-mid-upload" => {
                disturbance = Disturbance::Silence;
                limit = Duration::from_secs(20);
                expect = Expect::Ends { shows_code };
            }
            "close-redial" => {
                expect = Expect::OnePort;
                limit = Duration::from_secs(30);
            }
            "close-delivers" => {
                option("size", DELIVERED_BYTES);
                limit = Duration::from_secs(20);
                // We always close.
                match self.direction {
                    Direction::Out => {
                        let bytes = DELIVERED_BYTES;
                        expect = Expect::Sunk { bytes };
                    }
                    Direction::In => done_by = "close-fetches",
                }
            }
            "restarted" => {
                let seed = ["--seed", "7"];
                match self.direction {
                    Direction::Out => {
                        listener = listener.with(seed);
                        disturbance = Disturbance::Restart;
                        expect = Expect::Overlap;
                    }
                    Direction::In => {
                        dialer = dialer.with(seed);
                        disturbance = Disturbance::RestartDialer;
                        done_by = "killed";
                    }
                }
            }
            _ => {}
        }
        Case {
            peer: self.peer,
            direction: self.direction,
            family,
            row: operation.to_owned(),
            operation: done_by,
            listener,
            dialer,
            options,
            limit,
            disturbance,
            expect,
        }
    }

    /// The codes that each side can send and see: 42, unless noted.
    fn codes(&self, operation: &str) -> Expect {
        let code = json!(CODE);
        let none = Value::Null;
        let unsupported = json!("unsupported");
        let (sent_by_peer, seen_by_peer) = match (self.peer, operation) {
            // It can only drop a stream, which stops it with code 0; it cannot reset one.
            ("official", "reset") => (unsupported, code.clone()),
            ("official", "stop") => (json!(0), code.clone()),
            // It always sends 0, and shows none.
            ("js", _) => (json!(0), none),
            // It cannot stop a stream, and does not keep the code of the peer's STOP_SENDING.
            ("py", "stop") => (unsupported, none),
            _ => (code.clone(), code.clone()),
        };
        match self.direction {
            Direction::Out => Expect::Codes {
                seen: sent_by_peer,
                peer_saw: seen_by_peer,
            },
            Direction::In => Expect::Codes {
                seen: seen_by_peer,
                peer_saw: sent_by_peer,
            },
        }
    }

    /// Both use a host key of this type.
    fn host_key(&self, key: &str, sizes: &Sizes) -> Case {
        let mut case = self.case("ping", Family::V4, sizes);
        case.row = format!("key {key}");
        case.options = vec![
            "--count".to_owned(),
            "1".to_owned(),
            "--key".to_owned(),
            key.to_owned(),
        ];
        case.listener = case.listener.with(["--key", key]);
        case
    }

    /// The key-exchange group that both prefer.
    fn group(&self, sizes: &Sizes) -> Case {
        let mut case = self.case("ping", Family::V4, sizes);
        case.row = "group".to_owned();
        case.expect = Expect::Group(match (self.peer, self.direction) {
            ("go" | "official", _) => "X25519MLKEM768",
            // aioquic offers a P-256 share first, and accepts any.
            ("py", Direction::In) => "secp256r1",
            _ => "X25519",
        });
        case
    }

    /// A NAT between them changes the dialer's address repeatedly while data flows.
    fn rebinding(&self, sizes: &Sizes) -> Case {
        let mut case = self.case("echo", Family::V4, sizes);
        let bytes = if self.peer == "py" { 4 << 20 } else { 32 << 20 };
        case.row = "rebinding".to_owned();
        case.options = vec!["--size".to_owned(), bytes.to_string()];
        case.limit = Duration::from_secs(60);
        // The data needs datagrams of at most 1472 bytes, so the last rebinding comes within the
        // first sixth. Our listener reports an address some tenths of a second later, when it is
        // validated.
        let every = bytes / 32_768;
        case.disturbance = Disturbance::Rebind { every };
        case
    }

    /// We require every client to prove its address.
    fn our_retry(&self, sizes: &Sizes) -> Case {
        let mut case = self.case("ping", Family::V4, sizes);
        case.row = "our Retry".to_owned();
        case.listener = case.listener.with(["--retry"]);
        case.expect = Expect::Retry;
        case
    }

    /// Cases that only go supports.
    fn go_only(&self, sizes: &Sizes) -> Vec<Case> {
        let ping = |row: &str, expect| {
            let mut case = self.case("ping", Family::V4, sizes);
            case.row = row.to_owned();
            case.expect = expect;
            case
        };
        let mut classic = ping("group, tlsmlkem=0", Expect::Group("X25519"));
        match self.direction {
            Direction::Out => classic.listener = classic.listener.env("GODEBUG", "tlsmlkem=0"),
            Direction::In => classic.dialer = classic.dialer.env("GODEBUG", "tlsmlkem=0"),
        }
        // It uses another ID after 5,000 to 15,000 packets, and has at least 30,000 to send.
        let mut rotation = self.case("echo", Family::V4, sizes);
        rotation.row = "id rotation".to_owned();
        rotation.options = vec!["--size".to_owned(), (48 << 20).to_string()];
        rotation.expect = Expect::RetiredIds(2);
        if self.direction == Direction::In {
            rotation.options.push("--peer-facts".to_owned());
        }
        let mut cases = vec![classic, rotation];
        if self.direction == Direction::In {
            // The result without the mistake that makes the ordinary row fail.
            let mut autonat = self.case("autonat", Family::V4, sizes);
            autonat.row = "autonat, no reset".to_owned();
            autonat.dialer = autonat.dialer.with(["--no-reset"]);
            cases.push(autonat);
        }
        if self.direction == Direction::Out {
            let mut retry = ping("go's Retry", Expect::Success);
            retry.listener = retry.listener.with(["--retry"]);
            cases.push(retry);
            for (how, error) in [
                ("context", "Handshake(Refused)"),
                ("gater", "ClosedByPeer { code: 4103"),
                ("limit", "ClosedByPeer { code: 4097"),
            ] {
                let mut case = ping(&format!("refused by {how}"), Expect::Refusal(error));
                case.listener = case.listener.with(["--refuse", how]);
                cases.push(case);
            }
        }
        cases
    }
}

/// The code of resets, stops and closes.
const CODE: u64 = 42;

/// Bytes sent right before the close: more than a new connection has in flight at a time.
const DELIVERED_BYTES: u64 = 256 << 10;
