//! The example `node` does what its command line says.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{fs, path::PathBuf, process::Command};

use support::example::example;

#[test]
fn it_transfers_and_writes_what_wireshark_and_qvis_read() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("example-node");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let secrets = directory.join("secrets");
    let qlog = directory.join("qlog");
    let mut node = Command::new(example("node"));
    node.args(["--mib", "1", "--keylog"]).arg(&secrets);
    if cfg!(feature = "qlog") {
        node.arg("--qlog").arg(&qlog);
    }
    let output = node.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let of = |name: &str| {
        let line = printed.lines().find(|line| line.trim().starts_with(name));
        line.map(|line| line.split_whitespace().last().unwrap().to_owned())
    };
    assert_eq!(of("connections now").as_deref(), Some("0"), "{printed}");
    assert_ne!(of("packets sent").as_deref(), Some("0"), "{printed}");
    assert!(printed.contains("content as expected"), "{printed}");
    let secrets = fs::read_to_string(secrets).unwrap();
    assert!(secrets.contains("CLIENT_TRAFFIC_SECRET_0 "), "{secrets}");
    if cfg!(feature = "qlog") {
        let names = fs::read_dir(qlog).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut sides: Vec<_> = names
            .map(|name| name.split('_').next_back().unwrap().to_owned())
            .collect();
        sides.sort();
        assert_eq!(sides, ["client.sqlog", "server.sqlog"]);
    }
}

#[test]
fn it_says_what_is_wrong_with_its_arguments() {
    for (args, complaint) in [
        (&["--keylog"][..], "--keylog needs a path"),
        (&["--what"], "there is no option --what"),
        (
            &["--keylog", "/nowhere/secrets"],
            "no TLS secrets can be written",
        ),
    ] {
        let output = Command::new(example("node")).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.contains(complaint), "{args:?}: {printed}");
    }
}
