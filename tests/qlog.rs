//! Connections write qlog files, which a reader of qlog understands.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    io::BufReader,
    path::{Path, PathBuf},
    process::Command,
};

use libp2p_core::muxing::StreamMuxerExt;
use libp2p_identity::Keypair;
use libp2p_quinn::{Config, ConfigError, ConnectionHandle};
use qlog::{
    events::EventData,
    reader::{Event, QlogSeqReader},
};
use support::{
    node::{Node, bounded, connect, echo, until},
    streams::{ask, transfer_through_echo},
};

/// Tells a process what it has to do: whether its nodes follow the variable.
const CHILD: &str = "QLOG_TEST_FOLLOWS";

#[tokio::test]
async fn both_sides_write_a_file_that_a_reader_of_qlog_understands() {
    let directory = temporary("both");
    bounded(async {
        let node = || Node::with(|config| Ok(config.qlog_dir(Some(directory.clone()))));
        let (mut dialer, mut listener) = (node(), node());
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let connection = dialer.transport.handle().connections().remove(0);
        let echo = tokio::spawn(echo(accepted));
        transfer_through_echo(&mut dialled, 1_000_000).await;
        let stats = connection.stats().unwrap();
        dialled.close().await.unwrap();
        echo.await.unwrap();
        until(|| names(&directory).len() == 2).await;
        let names = names(&directory);
        let (id, of_client) = names[0].split_once('_').unwrap();
        assert_eq!(of_client, "client.sqlog");
        assert_eq!(names[1], format!("{id}_server.sqlog"));
        assert_eq!(id.len(), 16);

        for name in names {
            // What the client has received, the server has sent.
            let sent = if name.ends_with("_client.sqlog") {
                stats.datagrams_sent
            } else {
                stats.datagrams_received
            };
            let path = directory.join(name);
            // The thread that writes may be a little late, and the last records may be missing.
            until(|| records(&path).is_some_and(|log| log.count("sent") >= sent / 2)).await;
            let log = records(&path).unwrap();
            assert_eq!(log.format, "JSON-SEQ");
            assert_eq!(log.description, describe(&connection));
            assert!(log.count("received") > 0, "{path:?}");
            assert!(log.count("metrics") > 0, "{path:?}");
            // A datagram that another shard received has the time of its arrival, so times may go
            // back a little.
            assert!(log.times.first() < log.times.last(), "{path:?}");
        }
        for node in [dialer, listener] {
            assert_eq!(node.stats().transport.qlog_dropped, 0);
        }
    })
    .await;
}

#[tokio::test]
async fn directory_that_goes_away_takes_the_files_and_nothing_else() {
    let directory = temporary("gone");
    bounded(async {
        let mut dialer = Node::with(|config| Ok(config.qlog_dir(Some(directory.clone()))));
        let mut listener = Node::new();
        fs::remove_dir_all(&directory).unwrap();
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let _echo = tokio::spawn(echo(accepted));
        ask(&mut dialled).await;
        let handle = dialer.transport.handle();
        until(|| handle.transport_stats().qlog_dropped > 0).await;
        ask(&mut dialled).await;
        assert!(!directory.exists());
    })
    .await;
}

#[test]
fn directory_that_cannot_be_made_is_an_error() {
    let directory = temporary("file");
    fs::write(&directory, "not a directory").unwrap();
    let builder = Config::builder(&Keypair::generate_ed25519());
    let error = builder
        .qlog_dir(Some(directory.clone()))
        .build()
        .unwrap_err();
    match &error {
        ConfigError::Qlog {
            directory: of_error,
            ..
        } => assert_eq!(*of_error, directory),
        error => panic!("{error:?}"),
    }
    assert!(error.to_string().contains(directory.to_str().unwrap()));
}

#[test]
fn environment_names_the_directory_for_those_who_ask_for_it() {
    let (followed, ignored) = (temporary("followed"), temporary("ignored"));
    run_child(&followed, true);
    assert_eq!(names(&followed).len(), 2);
    run_child(&ignored, false);
    assert!(!ignored.exists());
}

/// Connects two nodes in a process of its own, because the environment belongs to the process.
fn run_child(directory: &Path, follows: bool) {
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, follows.to_string())
        .env("QLOGDIR", directory);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Does nothing unless another test has started it.
#[tokio::test]
async fn child() {
    let Ok(follows) = env::var(CHILD) else {
        return;
    };
    let follows = follows == "true";
    bounded(async {
        let node = || {
            Node::with(|config| {
                // By default the variable is not followed.
                Ok(if follows {
                    config.qlog_from_env(true)
                } else {
                    config
                })
            })
        };
        let (mut dialer, mut listener) = (node(), node());
        let (mut dialled, accepted) = connect(&mut dialer, &mut listener).await;
        let _echo = tokio::spawn(echo(accepted));
        ask(&mut dialled).await;
        if follows {
            let directory = PathBuf::from(env::var_os("QLOGDIR").unwrap());
            until(|| names(&directory).len() == 2).await;
        }
    })
    .await;
}

/// What is in a file.
struct Log {
    format: String,
    description: Option<String>,
    counts: BTreeMap<&'static str, u64>,
    times: Vec<f32>,
}

impl Log {
    fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or_default()
    }
}

/// Reads a file; `None` while it is not there, or its last record is not.
fn records(path: &Path) -> Option<Log> {
    let contents = fs::read(path)
        .ok()
        .filter(|contents| contents.ends_with(b"\n"))?;
    let all = contents.iter().filter(|byte| **byte == 0x1e).count();
    let reader = QlogSeqReader::new(Box::new(BufReader::new(&contents[..]))).unwrap();
    let mut log = Log {
        format: reader.qlog.qlog_format.clone(),
        description: reader.qlog.description.clone(),
        counts: BTreeMap::new(),
        times: Vec::new(),
    };
    let events: Vec<_> = reader.collect();
    // The first record is the head.
    assert_eq!(
        events.len(),
        all - 1,
        "{path:?} has records that are no events"
    );
    for event in events {
        let Event::Qlog(event) = event else {
            panic!("{event:?}");
        };
        let kind = match &event.data {
            EventData::PacketSent(_) => "sent",
            EventData::PacketReceived(_) => "received",
            EventData::PacketLost(_) => "lost",
            EventData::MetricsUpdated(_) => "metrics",
            data => panic!("{data:?}"),
        };
        *log.counts.entry(kind).or_default() += 1;
        log.times.push(event.time);
    }
    Some(log)
}

fn describe(connection: &ConnectionHandle) -> Option<String> {
    Some(format!("connection {}", connection.number()))
}

/// The names of the files in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// A place for files that is empty.
fn temporary(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("qlog-{name}"));
    let _ = fs::remove_dir_all(&path);
    let _ = fs::remove_file(&path);
    path
}
