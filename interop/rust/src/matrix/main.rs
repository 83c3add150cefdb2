//! Runs the interoperability matrix: ours × every other peer × both directions × every operation.

mod arguments;
mod case;
mod cases;
mod certificates;
mod child;
mod contracts;
mod hole_punch;
mod known;
mod prepare;
mod relay;
mod table;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use clap::Parser as _;

use crate::{
    arguments::Arguments,
    case::{Case, Listener, Outcome},
    cases::{FULL, QUICK},
    certificates::Findings,
    contracts::Contracts,
    hole_punch::HolePunching,
    known::Known,
    table::Results,
};

/// The number of waiting cases in parallel.
const WAITERS: usize = 8;

fn main() -> ExitCode {
    harness::exit_code(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let rust = program.with_file_name("peer");
    let hostile = program.with_file_name("hostile");
    let root = root()?;
    let known =
        Known::read(&root.join("known.toml")).map_err(|error| format!("known.toml: {error}"))?;
    let findings = Findings::read(&root.join("certificates.toml"))
        .map_err(|error| format!("certificates.toml: {error}"))?;

    let start = Instant::now();
    let ours = prepare::ours(&root, &rust)?;
    let peers = prepare::peers(&root, &arguments.peers(), &rust);
    let contracts = if arguments.contracts() {
        contracts::prepare(&root, &program)
    } else {
        Contracts::default()
    };
    let hole_punch = if arguments.hole_punch() {
        let program = program.with_file_name("nat-node");
        hole_punch::prepare(&root, &program, arguments.runs())
    } else {
        HolePunching::default()
    };
    let mut missing = Vec::new();
    let required = env::var("INTEROP_REQUIRE").unwrap_or_default();
    for peer in &peers {
        if let Err(reason) = &peer.state {
            eprintln!("{}: skipped: {reason}", peer.name);
            let name = if peer.name == "official" {
                "rust"
            } else {
                peer.name
            };
            if required.split(',').any(|required| required.trim() == name) {
                missing.push(name);
            }
        }
    }
    eprintln!("prepared in {} s", start.elapsed().as_secs());

    let sizes = if arguments.full { &FULL } else { &QUICK };
    let start = Instant::now();
    let mut busy = Vec::new();
    let mut waiting = Vec::new();
    for peer in &peers {
        if let Ok(theirs) = &peer.state {
            let (more_busy, more_waiting) = cases::of(peer.name, &ours, theirs, sizes);
            busy.extend(more_busy);
            waiting.extend(more_waiting);
        }
    }
    if let Some(row) = &arguments.row {
        busy.retain(|case| case.row == *row);
        waiting.retain(|case| case.row == *row);
    }
    let mut cases = run_in_turn(busy, &root);
    cases.extend(run_at_once(waiting, &root));
    // Not if only contracts run, which involve no peer.
    let wants_certificates = !peers.is_empty()
        && arguments
            .row
            .as_deref()
            .is_none_or(|row| row == certificates::ROW);
    let certificates =
        wants_certificates.then(|| certificates::run(&ours, &peers, findings, &hostile, &root));
    let contracts = contracts.run(&root, &known);
    let hole_punch = hole_punch.run(&root);
    let took = start.elapsed();

    let results = Results {
        ours: &ours,
        peers: &peers,
        known: &known,
        cases,
    };
    println!("{}", results.table());
    if let Some(certificates) = &certificates {
        println!("{}", certificates.markdown());
    }
    println!("{}", contracts.table());
    println!("{}", hole_punch.table());
    hole_punch.write(&root)?;
    let mode = if arguments.full { "full" } else { "quick" };
    if arguments.is_complete() {
        let file = root.join("RESULTS.md");
        let mut text = results.document(mode, took);
        if let Some(certificates) = &certificates {
            text.push_str(&certificates.document());
        }
        text.push_str(&contracts.section());
        text.push_str(&hole_punch.section());
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let repaired = certificates.iter().flat_map(|table| table.repaired());
    for repaired in results.repaired().into_iter().chain(repaired) {
        println!("{repaired}");
    }
    let mut failures = results.failures();
    failures.extend(certificates.iter().flat_map(|table| table.failures()));
    failures.extend(contracts.failures(&required));
    failures.extend(hole_punch.failures(&required));
    for failure in &failures {
        println!("FAILED {failure}");
    }
    for name in &missing {
        println!("FAILED {name} is required, and could not be prepared");
    }
    println!(
        "{} cases in {} s, {} failures",
        results.cases.len() + contracts.len() + hole_punch.len(),
        took.as_secs(),
        failures.len()
    );
    Ok(failures.is_empty() && missing.is_empty())
}

/// Runs cases one after another; a listener is reused while it fits.
fn run_in_turn(cases: Vec<Case>, dir: &Path) -> Vec<(Case, Outcome)> {
    let mut listener: Option<Listener> = None;
    cases
        .into_iter()
        .map(|case| {
            if !listener
                .as_mut()
                .is_some_and(|listener| listener.fits(&case))
            {
                // The old listener must end before the new one starts.
                drop(listener.take());
            }
            let outcome = match &mut listener {
                Some(listener) => case.run(listener, dir),
                none => match Listener::start(&case.listener, case.family, dir) {
                    Ok(started) => case.run(none.insert(started), dir),
                    Err(outcome) => outcome,
                },
            };
            report(&case, &outcome);
            (case, outcome)
        })
        .collect()
}

/// Runs some cases in parallel, each with its own listener.
fn run_at_once(cases: Vec<Case>, dir: &Path) -> Vec<(Case, Outcome)> {
    let left = Mutex::new(cases.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WAITERS {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, case)) = next else { return };
                    let outcome = match Listener::start(&case.listener, case.family, dir) {
                        Ok(mut listener) => case.run(&mut listener, dir),
                        Err(outcome) => outcome,
                    };
                    report(&case, &outcome);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((index, case, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _, _)| *index);
    done.into_iter()
        .map(|(_, case, outcome)| (case, outcome))
        .collect()
}

fn report(case: &Case, outcome: &Outcome) {
    let text = match outcome {
        Outcome::Passed { ms } => format!("{ms} ms"),
        Outcome::Unsupported(reason) => format!("unsupported: {reason}"),
        Outcome::Failed(error) => format!("FAILED: {error}"),
    };
    eprintln!("{}: {text}", table::describe(case));
}

/// The directory of the matrix: the current one, which `interop/run` ensures.
fn root() -> Result<PathBuf, String> {
    let root = env::current_dir().map_err(|error| error.to_string())?;
    if root.join("known.toml").exists() {
        Ok(root)
    } else {
        Err("known.toml is not here; start this with interop/run".to_owned())
    }
}
