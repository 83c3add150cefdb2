//! Builds the examples with the settings and features of the tests.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Set if all examples are built. Otherwise those of a workspace would be built again here, with
/// the features that the library alone asks for.
const ARE_BUILT: &str = "EXAMPLES_ARE_BUILT";

/// Builds an example; `cargo test --test NAME` does not. Returns its program.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap();
    if env::var_os(ARE_BUILT).is_none() {
        build(name, built);
    }
    built.join("examples").join(name)
}

/// Builds an example beside the test, which is in a folder of `built`.
fn build(name: &str, built: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let profile = match built.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg("build");
    // With the variables that Cargo sets for tests, Cargo would rebuild dependencies that read
    // them.
    for (name, _) in env::vars_os() {
        let is_ours = |name: &str| name.starts_with("CARGO_PKG_");
        if name.to_str().is_some_and(is_ours) {
            cargo.env_remove(name);
        }
    }
    for (feature, is_on) in [
        ("nat", cfg!(feature = "nat")),
        ("qlog", cfg!(feature = "qlog")),
    ] {
        if is_on {
            cargo.args(["--features", feature]);
        }
    }
    let status = cargo
        .args(["--quiet", "--example", name])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .env_remove("CARGO_MANIFEST_DIR")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success());
}
