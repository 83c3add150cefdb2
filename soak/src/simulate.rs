//! Runs the simulation with many seeds, and keeps what it says.

use std::{path::PathBuf, process::Command, time::Instant};

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

pub fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let output = Command::new("cargo")
        .args(["test", "--release", "--lib", "--", "--nocapture", "proto::"])
        .env("SIM_SEEDS", options.seeds.to_string())
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo")?;
    let output_text = String::from_utf8_lossy(&output.stdout);
    let mut figures = Figures::new(format!("soak simulate --seeds {}", options.seeds))?;
    figures.tell("seconds", began.elapsed().as_secs());
    let seeds = seeds(&output_text);
    figures.demand(
        "seeds of each scenario",
        seeds.unwrap_or(0),
        &options.seeds.to_string(),
        seeds == Some(options.seeds),
    );
    for (name, value) in counts(&output_text) {
        figures.tell(&name, value);
    }
    let verdict = output_text
        .lines()
        .rfind(|line| line.starts_with("test result:"))
        .unwrap_or("no test has run");
    let verdict = verdict.trim_start_matches("test result: ");
    figures.demand("tests", verdict, "all passed", output.status.success());
    figures.print();
    if let Some(out) = &options.out {
        figures.write(&out.join("simulation.toml"))?;
    }
    Ok(figures.all_met())
}

/// The fewest seeds that a scenario says it has played: `N seeds: …`.
fn seeds(output: &str) -> Option<u64> {
    output
        .lines()
        .filter_map(|line| {
            let (before, _) = line.split_once(" seeds: ")?;
            before.rsplit(' ').next()?.parse().ok()
        })
        .min()
}

/// What the scenarios have counted, one on each line: `    name: 123,`.
fn counts(output: &str) -> Vec<(String, String)> {
    output
        .lines()
        .filter(|line| line.starts_with("    "))
        .filter_map(|line| line.trim().trim_end_matches(',').split_once(": "))
        .filter(|(_, value)| value.starts_with(|first: char| first.is_ascii_digit()))
        .map(|(name, value)| (name.replace('_', " "), value.to_owned()))
        .collect()
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

    #[test]
    fn seeds_are_those_of_the_scenario_that_had_the_fewest() {
        assert_eq!(seeds(OUTPUT), Some(20));
        assert_eq!(seeds("test result: ok"), None);
    }

    #[test]
    fn counts_are_found_at_any_depth() {
        let found = counts(OUTPUT);
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
