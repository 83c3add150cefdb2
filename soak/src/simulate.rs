//! Runs the simulation with many seeds, and stores its output.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{figures::Figures, root};

#[derive(Args)]
pub struct Options {
    /// Seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Where to write `simulation.toml`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The size of the large network.
const NODES: u64 = 1000;
const CONNECTIONS: u64 = 10_000;

/// The test with a large network, instead of many seeds.
const CROWD: &str = "proto::tests::crowd";

pub fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let mut figures = Figures::new(format!("soak simulate --seeds {}", options.seeds))?;

    let seeds = options.seeds.to_string();
    let tests = Tests::run(
        OPTIMISED,
        &["proto::", "--skip", CROWD],
        "SIM_SEEDS",
        &seeds,
    )?;
    let played = tests.seeds();
    figures.demand(
        "seeds of each scenario",
        played.unwrap_or(0),
        &seeds,
        played == Some(options.seeds),
    );
    for (name, value) in tests.counts() {
        figures.tell(&name, value);
    }
    figures.demand("tests", tests.verdict(), "all passed", tests.passed);

    // Separately, because it measures the memory of the whole process.
    let size = format!("{NODES}x{CONNECTIONS}");
    let crowd = Tests::run(OPTIMISED, &[CROWD], "SIM_CROWD", &size)?;
    for (name, value) in crowd.counts() {
        let name = format!("{NODES} nodes, {CONNECTIONS} connections: {name}");
        figures.tell(&name, value);
    }
    figures.demand("their test", crowd.verdict(), "passed", crowd.passed);

    figures.tell("seconds", began.elapsed().as_secs());
    figures.print();
    if let Some(out) = &options.out {
        figures.write(&out.join("simulation.toml"))?;
    }
    Ok(figures.all_met())
}

/// The output of tests.
pub struct Tests {
    pub passed: bool,
    output: String,
}

/// The arguments of Cargo with which tests are compiled: optimised, or as the gate has compiled
/// them for its step `tests`.
pub const OPTIMISED: &[&str] = &["--release", "--lib"];
pub const AS_IN_THE_GATE: &[&str] = &["--workspace", "--all-features", "--lib"];

impl Tests {
    /// Runs the tests that `filter` selects, with one environment variable.
    pub fn run(compiled: &[&str], filter: &[&str], variable: &str, value: &str) -> Result<Self> {
        let output = Command::new("cargo")
            .arg("test")
            .args(compiled)
            .args(["--", "--nocapture"])
            .args(filter)
            .env(variable, value)
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .context("cargo")?;
        Ok(Self {
            passed: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.output.lines()
    }

    fn verdict(&self) -> &str {
        let verdict = self
            .output
            .lines()
            .rfind(|line| line.starts_with("test result:"))
            .unwrap_or("no test has run");
        verdict.trim_start_matches("test result: ")
    }

    /// The smallest number of seeds that a scenario reports: `N seeds: …`.
    fn seeds(&self) -> Option<u64> {
        self.output
            .lines()
            .filter_map(|line| {
                let (before, _) = line.split_once(" seeds: ")?;
                before.rsplit(' ').next()?.parse().ok()
            })
            .min()
    }

    /// Their counts, one on each line: `    name: 123,`.
    fn counts(&self) -> Vec<(String, String)> {
        self.output
            .lines()
            .filter(|line| line.starts_with("    "))
            .filter_map(|line| line.trim().trim_end_matches(',').split_once(": "))
            .filter(|(_, value)| value.starts_with(|first: char| first.is_ascii_digit()))
            .map(|(name, value)| (name.replace('_', " "), value.to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
test proto::tests::transfer::content_is_exact ... ok
1000 seeds: Figures {
    ended_early: 12,
    heard: Heard {
        bytes: 5000,
    },
    virtual_time: 17.5s,
}
test proto::tests::scenario::all ... 20 seeds: Figures {
    connections: 7,
}
";

    fn tests(output: &str) -> Tests {
        Tests {
            passed: true,
            output: output.to_owned(),
        }
    }

    #[test]
    fn seeds_are_those_of_the_scenario_that_had_the_fewest() {
        assert_eq!(tests(OUTPUT).seeds(), Some(20));
        assert_eq!(tests("test result: ok").seeds(), None);
    }

    #[test]
    fn counts_are_found_at_any_depth() {
        let found = tests(OUTPUT).counts();
        let expected = [
            ("ended early", "12"),
            ("bytes", "5000"),
            ("virtual time", "17.5s"),
            ("connections", "7"),
        ];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
