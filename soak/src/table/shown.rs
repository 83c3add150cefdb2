//! The list of tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::BufReader,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, TargetKind};

use crate::{attack, flood, root};

/// The tests, each with its program in front of its name.
pub struct Tests {
    names: BTreeSet<String>,
    /// The path of each program.
    programs: BTreeMap<String, String>,
}

impl Tests {
    /// Builds the transport's tests, and asks each program for their names.
    pub fn find() -> Result<Self> {
        let mut names = BTreeSet::from(["churn".to_owned()]);
        names.extend(flood::PARTS.map(|part| format!("flood {part}")));
        names.extend(attack::names().map(|name| format!("attack {name}")));
        names.extend(fuzz_targets()?);
        names.extend(interop_rows()?);
        let programs = programs()?;
        for (program, executable) in &programs {
            let output = Command::new(executable)
                .args(["--list", "--format", "terse"])
                .output()
                .with_context(|| executable.clone())?;
            ensure!(output.status.success(), "{executable} lists no tests");
            let listed = String::from_utf8(output.stdout)?;
            let listed = listed
                .lines()
                .filter_map(|line| line.strip_suffix(": test"));
            names.extend(listed.map(|name| format!("{program} {name}")));
        }
        Ok(Self { names, programs })
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether there is a test whose name begins so, or such a program.
    pub fn has_any(&self, start: &str) -> bool {
        let from = self.names.range(start.to_owned()..);
        let has_test = from.take(1).any(|name| name.starts_with(start));
        has_test || self.programs.contains_key(start)
    }

    /// Runs a test that prints how many cases each row has, `row 1: 2 cases`.
    pub fn cases(&self, name: &str) -> Result<BTreeMap<u8, usize>> {
        let (program, test) = name.split_once(' ').context("a program and a test")?;
        let executable = self.programs.get(program);
        let executable = executable.with_context(|| format!("there is no {program}"))?;
        let output = Command::new(executable)
            .args(["--exact", test, "--nocapture"])
            .current_dir(root())
            .output()
            .with_context(|| executable.clone())?;
        ensure!(output.status.success(), "{name} has failed");
        Ok(counted(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// The cases of each row in a test's output; a line may begin with the test's name.
fn counted(output: &str) -> BTreeMap<u8, usize> {
    output
        .lines()
        .filter_map(|line| {
            let (_, row) = line.rsplit_once("row ")?;
            let (number, cases) = row.strip_suffix(" cases")?.split_once(": ")?;
            Some((number.parse().ok()?, cases.parse().ok()?))
        })
        .collect()
}

/// Test programs of the transport: `lib` or `tests/NAME`, and their paths.
///
/// They are built with everything else in the workspace, as the gate builds them for its tests:
/// with fewer packages or targets, dependencies would have other features, and be compiled again.
fn programs() -> Result<BTreeMap<String, String>> {
    let manifest = root().join("Cargo.toml");
    let mut cargo = cargo()
        .args(["test", "--no-run", "--workspace", "--all-features"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo")?;
    let output = cargo.stdout.take().context("cargo says nothing")?;
    let mut programs = BTreeMap::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        let Message::CompilerArtifact(artifact) = message? else {
            continue;
        };
        if artifact.manifest_path != manifest {
            continue;
        }
        let Some(executable) = artifact.executable else {
            continue;
        };
        let kinds = &artifact.target.kind;
        let name = if kinds.contains(&TargetKind::Test) {
            format!("tests/{}", artifact.target.name)
        } else if kinds.contains(&TargetKind::Lib) {
            "lib".to_owned()
        } else {
            continue;
        };
        programs.insert(name, executable.into_string());
    }
    ensure!(cargo.wait()?.success(), "the tests cannot be built");
    Ok(programs)
}

/// Cargo, as a shell runs it.
///
/// `cargo run` tells its program about the program's package. With these variables the build
/// scripts that read the same of their own package run again, and all that depends on them is
/// compiled again.
fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

fn fuzz_targets() -> Result<Vec<String>> {
    let directory = root().join("fuzz/fuzz_targets");
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut targets = Vec::new();
    for file in fs::read_dir(directory)? {
        if let Some(target) = file?.path().file_stem() {
            targets.push(format!("fuzz {}", target.display()));
        }
    }
    Ok(targets)
}

/// Rows of the table of the interoperability matrix.
fn interop_rows() -> Result<Vec<String>> {
    let results = fs::read_to_string(root().join("interop/RESULTS.md"))?;
    Ok(results
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
        .map(|(row, _)| format!("interop {}", row.trim()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_wherever_a_line_begins() {
        let output = "test every_case ... row 1: 2 cases\nrow 12: 3 cases\nrow to hoe\n";
        assert_eq!(counted(output), BTreeMap::from([(1, 2), (12, 3)]));
    }
}
