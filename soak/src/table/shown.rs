//! What tests there are.

use std::{
    collections::BTreeSet,
    fs,
    io::BufReader,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, TargetKind};

use crate::{flood, root};

/// Names of tests, each with the program that has it in front.
pub struct Tests(BTreeSet<String>);

impl Tests {
    /// Builds the transport's tests, and asks each program for their names.
    pub fn find() -> Result<Self> {
        let mut tests = BTreeSet::from(["churn".to_owned()]);
        tests.extend(flood::PARTS.map(|part| format!("flood {part}")));
        tests.extend(fuzz_targets()?);
        tests.extend(interop_rows()?);
        for (program, executable) in programs()? {
            let output = Command::new(&executable)
                .args(["--list", "--format", "terse"])
                .output()
                .with_context(|| executable.clone())?;
            ensure!(output.status.success(), "{executable} lists no tests");
            let names = String::from_utf8(output.stdout)?;
            let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
            tests.extend(names.map(|name| format!("{program} {name}")));
        }
        Ok(Self(tests))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// Test programs of the transport: `lib` or `tests/NAME`, and where it is.
fn programs() -> Result<Vec<(String, String)>> {
    let mut cargo = Command::new("cargo")
        .args(["test", "--no-run", "--all-features", "--lib", "--test", "*"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo")?;
    let output = cargo.stdout.take().context("cargo says nothing")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        let Message::CompilerArtifact(artifact) = message? else {
            continue;
        };
        let Some(executable) = artifact.executable else {
            continue;
        };
        let name = if artifact.target.kind.contains(&TargetKind::Test) {
            format!("tests/{}", artifact.target.name)
        } else {
            "lib".to_owned()
        };
        programs.push((name, executable.into_string()));
    }
    ensure!(cargo.wait()?.success(), "the tests cannot be built");
    Ok(programs)
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

/// Rows of the table that the interoperability matrix has written.
fn interop_rows() -> Result<Vec<String>> {
    let results = fs::read_to_string(root().join("interop/RESULTS.md"))?;
    Ok(results
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
        .map(|(row, _)| format!("interop {}", row.trim()))
        .collect())
}
