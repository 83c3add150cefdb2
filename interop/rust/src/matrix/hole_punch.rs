//! Hole punching: two hosts behind NATs, in network namespaces, with a relay between them.

mod attempt;
mod figures;

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::scene::{Nat, Ports, Scene, Strangers};

use crate::{child::Invocation, prepare};

use self::{
    attempt::{Attempt, Programs},
    figures::{Figures, Set},
};

/// Hole punching: what is available to try it, and the results.
#[derive(Default)]
pub struct HolePunching {
    /// The reasons why some or all cannot be tried, with the name of the missing feature in
    /// `INTEROP_REQUIRE`.
    skipped: Vec<(&'static str, String)>,
    programs: Programs,
    /// `None` for the quick set.
    runs: Option<usize>,
    figures: Figures,
}

/// Two programs, each behind a NAT.
struct Pair {
    dialer: &'static str,
    listener: &'static str,
    nat: Nat,
    expect: Expect,
    /// Whether it belongs to the quick set.
    quick: bool,
}

impl Pair {
    fn is_easy(&self) -> bool {
        self.nat.ports == Ports::Kept && self.nat.strangers != Strangers::Taken
    }
}

/// The required result, besides a relayed connection that works.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A direct connection in 49 of 50 runs.
    Direct,
    /// No direct connection, because these NATs prevent it.
    Relayed,
    /// Either, for comparison, or because it depends on chance.
    Any,
}

/// Prepares hole punching. `root` is the directory of the matrix, and `program` the executable of
/// the Rust peers.
pub fn prepare(root: &Path, program: &Path, runs: Option<usize>) -> HolePunching {
    eprintln!("preparing hole punching");
    let mut all = HolePunching {
        runs,
        ..HolePunching::default()
    };
    if let Err(reason) = Scene::build(Nat::KEPT, Nat::KEPT) {
        all.skip("nat", reason);
        return all;
    }
    let rust = Invocation::new([program.display().to_string()]);
    for transport in [OURS, OFFICIAL] {
        let program = rust.clone().env("INTEROP_TRANSPORT", transport);
        all.programs.add(transport, program, &["--json"]);
    }
    match go(root) {
        Ok(program) => all.programs.add(GO, program, &[]),
        Err(reason) => all.skip("go", reason),
    }
    all
}

impl HolePunching {
    /// Runs all pairs one after another.
    pub fn run(mut self, root: &Path) -> Self {
        for pair in pairs() {
            let runs = match self.runs {
                None if !pair.quick => 0,
                None => QUICK_RUNS,
                Some(runs) => runs,
            };
            // Most runs of the others wait for three timeouts.
            let runs = if pair.is_easy() {
                runs
            } else {
                runs.div_ceil(5)
            };
            let known = [pair.dialer, pair.listener].map(|name| self.programs.has(name));
            if runs == 0 || known.contains(&false) {
                continue;
            }
            let mut set = Set::new(&pair);
            for _ in 0..runs {
                let attempt = Attempt::make(&self.programs, &pair, root);
                eprintln!("hole punch, {}: {}", set.describe(), attempt.text());
                set.attempts.push(attempt);
            }
            self.figures.sets.push(set);
        }
        self
    }

    fn skip(&mut self, name: &'static str, reason: String) {
        eprintln!("hole punching: skipped for want of {name}: {reason}");
        self.skipped.push((name, reason));
    }

    /// The failures, and what is required but was skipped.
    pub fn failures(&self, required: &str) -> Vec<String> {
        let failed = self.figures.sets.iter().filter_map(Set::failure);
        let missing = self
            .skipped
            .iter()
            .filter(|(name, _)| required.split(',').any(|required| required.trim() == *name))
            .map(|(name, reason)| format!("{name} is required for hole punching: {reason}"));
        failed.chain(missing).collect()
    }

    /// The number of runs.
    pub fn len(&self) -> usize {
        self.figures.sets.iter().map(|set| set.attempts.len()).sum()
    }

    /// One row for each pair and NAT; empty if there was none.
    pub fn table(&self) -> String {
        self.figures.table()
    }

    /// A section of RESULTS.md.
    pub fn section(&self) -> String {
        let mut text = "\n## Hole punching\n\n".to_owned();
        text.push_str(
            "Two hosts, each behind a router of its own, know a relay and end up on a direct connection (DCUtR), or \
             do not; as the README says. Times are from the relayed connection to the direct one.\n",
        );
        for (name, reason) in &self.skipped {
            text.push_str(&format!("\n- {name}: *skipped*: {reason}\n"));
        }
        text.push_str(&format!("\n{}", self.table()));
        text
    }

    /// Writes all runs of a long set to the file with the last long set.
    pub fn write(&self, root: &Path) -> Result<(), String> {
        if self.runs.is_none() || self.figures.sets.is_empty() {
            return Ok(());
        }
        let file = root.join(FILE);
        fs::write(&file, self.figures.document()?)
            .map_err(|error| format!("{}: {error}", file.display()))
    }
}

fn pairs() -> Vec<Pair> {
    let pair = |dialer, listener, nat, expect, quick| Pair {
        dialer,
        listener,
        nat,
        expect,
        quick,
    };
    let with = |strangers| Nat::KEPT.with_strangers(strangers);
    let mut pairs = Vec::new();
    for strangers in [Strangers::Dropped, Strangers::Rejected] {
        let quick = strangers == Strangers::Dropped;
        pairs.extend([
            pair(OURS, OURS, with(strangers), Expect::Direct, true),
            pair(OURS, GO, with(strangers), Expect::Direct, quick),
            pair(GO, OURS, with(strangers), Expect::Direct, quick),
            pair(OFFICIAL, OFFICIAL, with(strangers), Expect::Any, quick),
            pair(GO, GO, with(strangers), Expect::Any, false),
        ]);
    }
    for name in [OURS, OFFICIAL, GO] {
        let taken = with(Strangers::Taken);
        pairs.push(pair(name, name, taken, Expect::Any, false));
    }
    let random = Nat::KEPT.with_ports(Ports::Random);
    pairs.extend([
        pair(OURS, OURS, random, Expect::Relayed, true),
        pair(OURS, GO, random, Expect::Relayed, false),
        pair(GO, OURS, random, Expect::Relayed, false),
    ]);
    pairs
}

fn go(root: &Path) -> Result<Invocation, String> {
    let peers = prepare::peers(root, &[GO], &PathBuf::new());
    let ready = peers.into_iter().next().ok_or("no go")?.state?;
    Ok(ready.invocation.with(["hole-punch"]))
}

const OURS: &str = "ours";
const OFFICIAL: &str = "official";
const GO: &str = "go";

/// Runs of each pair of the quick set.
const QUICK_RUNS: usize = 2;

/// The file with the figures of the last long set.
const FILE: &str = "hole-punching.toml";
