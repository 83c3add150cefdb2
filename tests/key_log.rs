//! TLS secrets are written to the file that `SSLKEYLOGFILE` names. Each case is a process of its
//! own, because the environment belongs to the process.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::HashSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
#[cfg(target_os = "linux")]
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Stdio},
};

use libp2p_identity::Keypair;
use libp2p_quinn::{Config, ConfigError};
#[cfg(target_os = "linux")]
use support::required::or_skip;
use support::{
    node::{Node, bounded},
    streams::ask,
    trace::Traced,
};
use tracing::level_filters::LevelFilter;

/// Tells a process what it has to do: whether its nodes follow the variable.
const CHILD: &str = "KEY_LOG_TEST_FOLLOWS";

#[test]
fn secrets_of_both_sides_are_logged_where_the_environment_names_a_file() {
    let log = logged("follows", Some(true)).unwrap();
    let secrets: Vec<Vec<&str>> = (log.lines())
        .map(|line| line.split(' ').collect())
        .collect();
    // Label, client random and secret, once for each side of the one connection.
    let randoms: HashSet<_> = secrets.iter().map(|secret| secret[1]).collect();
    assert_eq!(randoms.len(), 1);
    for label in [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ] {
        let of_label = secrets.iter().filter(|secret| secret[0] == label);
        let of_label: Vec<_> = of_label.map(|secret| secret[2]).collect();
        assert_eq!(of_label.len(), 2, "{label}");
        assert_eq!(of_label[0], of_label[1], "{label}");
        assert!(of_label[0].len() >= 64, "{label}");
    }
}

#[test]
fn nothing_is_logged_without_a_file_or_with_the_setting_off() {
    assert_eq!(logged("off", Some(false)), None);
    assert_eq!(logged("unset", None), None);
}

#[test]
fn file_that_cannot_be_opened_is_reported_and_stops_nothing() {
    let directory = temporary("key-log-directory");
    fs::create_dir_all(&directory).unwrap();
    let output = child(Some(&directory), true);
    assert!(output.contains("no key log"), "{output}");
    assert!(!child(None, true).contains("no key log"));
}

#[tokio::test]
async fn setting_names_a_file_that_must_be_there() {
    let file = temporary("key-log-setting");
    let _ = fs::remove_file(&file);
    let logging = |path: &Path| {
        let path = path.to_owned();
        let builder = Config::builder(&Keypair::generate_ed25519());
        builder.key_log_from_env(false).key_log_file(Some(path))
    };
    bounded(async {
        let mut dialer = Node::with(|config| Ok(config.key_log_file(Some(file.clone()))));
        let mut listener = Node::new();
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let (_, mut connection) = dialer.dial(&addr).await.unwrap();
        ask(&mut connection).await;
    })
    .await;
    let log = fs::read_to_string(&file).unwrap();
    assert!(log.contains("CLIENT_TRAFFIC_SECRET_0 "), "{log}");
    let nowhere = file.join("below");
    let built = logging(&nowhere).build();
    assert!(
        matches!(&built, Err(ConfigError::KeyLog { path, .. }) if *path == nowhere),
        "{built:?}"
    );
    logging(&file).build().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn wireshark_decrypts_streams_with_them() {
    let Some(mut capture) = or_skip("tshark", Capture::begin()) else {
        return;
    };
    logged("wireshark", Some(true)).unwrap();
    let streams = capture.decrypted(&temporary("key-log-wireshark"));
    let asked: String = QUESTION.iter().map(|byte| format!("{byte:02x}")).collect();
    // The question and its echo.
    let found = streams.lines().filter(|line| line.contains(&asked));
    assert_eq!(found.count(), 2, "{streams}");
}

/// What [`ask`] sends.
#[cfg(target_os = "linux")]
const QUESTION: &[u8] = b"is anybody there?";

/// The packets on loopback, for two seconds.
#[cfg(target_os = "linux")]
struct Capture {
    program: Child,
    /// Kept open, because the program writes to it at its end as well.
    _messages: BufReader<ChildStderr>,
    file: PathBuf,
}

#[cfg(target_os = "linux")]
impl Capture {
    fn begin() -> Result<Self, String> {
        let file = temporary("key-log.pcapng");
        let mut program = Command::new("dumpcap")
            .args(["-i", "lo", "-f", "udp", "-a", "duration:2", "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("dumpcap: {error}"))?;
        // It names its file when it has begun.
        let mut messages = BufReader::new(program.stderr.take().unwrap());
        let mut lines = messages.by_ref().lines().map_while(Result::ok);
        if lines.any(|line| line.contains("File:")) {
            Ok(Self {
                program,
                _messages: messages,
                file,
            })
        } else {
            Err("dumpcap: it may not capture here".to_owned())
        }
    }

    /// The data of streams, in hexadecimal digits, as far as these secrets decrypt it.
    fn decrypted(&mut self, secrets: &Path) -> String {
        self.program.wait().unwrap();
        let output = Command::new("tshark")
            .arg("-r")
            .arg(&self.file)
            .arg("-o")
            .arg(format!("tls.keylog_file:{}", secrets.display()))
            .args([
                "-Y",
                "quic.stream_data",
                "-T",
                "fields",
                "-e",
                "quic.stream_data",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Connects two nodes in a process of its own. Returns what is in the log, if there is one. With
/// `None` the environment does not name it.
fn logged(name: &str, follows: Option<bool>) -> Option<String> {
    let file = temporary(&format!("key-log-{name}"));
    let _ = fs::remove_file(&file);
    child(follows.map(|_| &*file), follows.unwrap_or(true));
    fs::read_to_string(&file).ok()
}

/// Connects two nodes in a process of its own, and returns what it has printed.
fn child(log: Option<&Path>, follows: bool) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", "connect", "--nocapture"])
        .env(CHILD, follows.to_string())
        .env_remove("SSLKEYLOGFILE");
    if let Some(log) = log {
        child.env("SSLKEYLOGFILE", log);
    }
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn temporary(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Does nothing unless another test has started it.
#[tokio::test]
async fn connect() {
    let Ok(follows) = env::var(CHILD) else {
        return;
    };
    let follows = follows == "true";
    let traced = Traced::up_to(LevelFilter::WARN);
    bounded(async {
        let node = || Node::with(|config| Ok(config.key_log_from_env(follows)));
        let (mut dialer, mut listener) = (node(), node());
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let (_, mut connection) = dialer.dial(&addr).await.unwrap();
        ask(&mut connection).await;
    })
    .await;
    for event in traced.events("no key log") {
        println!("{}", event.message());
    }
}
