//! The machine, the date and the commit of a measurement.

use std::{fs, process::Command, thread};

use anyhow::Result;
use harness::machine::cpu_model;

use crate::{figures::Figures, root};

pub fn tell(figures: &mut Figures) -> Result<()> {
    let model = cpu_model().unwrap_or_else(|| "unknown".to_owned());
    let count = thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    figures.tell(
        "machine",
        format!("{count} CPUs, {model}; Linux {}", kernel.trim()),
    );
    figures.tell("commit", commit());
    tell_load(figures, "load of the machine at the beginning")
}

pub fn tell_load(figures: &mut Figures, name: &str) -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let minute = load.split_whitespace().next().unwrap_or_default();
    figures.tell(name, minute);
    Ok(())
}

/// The commit, with a remark if the source was changed.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(root())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // Changes of this program itself do not matter.
    let changed = git(&["status", "--porcelain", "src", "Cargo.toml"]);
    let is_changed = changed.is_some_and(|changed| !changed.is_empty());
    format!("{commit}{}", if is_changed { ", changed" } else { "" })
}
