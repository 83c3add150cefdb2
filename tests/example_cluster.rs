//! The example `cluster` does what its command line says.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::process::Command;
#[cfg(target_os = "linux")]
use std::{fs, path::PathBuf};

use support::example::example;
#[cfg(target_os = "linux")]
use support::program::Program;

#[test]
fn three_nodes_pass_their_checks() {
    let output = Command::new(example("cluster")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let passed: Vec<_> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("ok  ")?.split_once(':'))
        .map(|(check, _)| check)
        .collect();
    let checks = [
        "discovery",
        "kademlia",
        "gossipsub",
        "request",
        "size limit",
        "bandwidth",
        "limits",
        "rejoin",
        "metrics",
        "close",
    ];
    assert_eq!(passed, checks, "{printed}");
    // The table, with a row for each node and peer.
    assert!(printed.contains("RTT"), "{printed}");
    let rows = printed.lines().filter(|line| line.ends_with("  connected"));
    assert_eq!(rows.count(), 6, "{printed}");
}

/// Nothing in the program handles SIGTERM, so it has no time to say anything.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_process_rejoins_by_its_file() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("example-cluster");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("peers.json");
    let file = file.to_str().unwrap();
    let start = |args: &[&str]| {
        let alone = ["--port", "0", "--no-mdns"];
        Program::start(&example("cluster"), &[&alone, args].concat())
    };

    let first = start(&[]);
    let addr = first.says("listening at ", "\n");
    let second = start(&["--peer", &addr, "--file", file]);
    second.says("peers in the file: 1", "\n");
    first.says("answers: node 0 has read", "\n");
    drop(second);

    let third = start(&["--file", file]);
    third.says("peers remembered from earlier: 1", "\n");
    third.says("answers ping, identify and gossipsub", "\n");
    assert!(third.interrupt().success());
    first.says("is gone: closed by the peer", "\n");
    assert!(first.interrupt().success());
}

#[test]
fn it_says_what_is_wrong_with_its_arguments() {
    for (args, complaint) in [
        (&["--port"][..], "--port needs a number, not ``"),
        (
            &["--peer", "/ip4/127.0.0.1"],
            "--peer and --file need --port",
        ),
        (&["--what"], "cannot make sense of `--what`"),
    ] {
        let output = Command::new(example("cluster"))
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.contains(complaint), "{args:?}: {printed}");
    }
}
