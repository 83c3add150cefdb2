//! Long and fast paths in virtual time: what a stream reaches on them, and that none ends a
//! connection.

mod cell;
mod controllers;
mod grid;
mod page;
mod told;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::{
    cell::Cell,
    controllers::Controller,
    grid::{Asked, Table},
    told::Told,
};
use crate::{
    figures::Figures,
    root,
    simulate::{AS_IN_THE_GATE, OPTIMISED, Tests},
};

#[derive(Args)]
pub struct Options {
    /// A few paths, in less than a minute, and no page.
    #[arg(long)]
    short: bool,
    /// Leaves out 5 Gb/s, which takes most of the time.
    #[arg(long)]
    without_fastest: bool,
    /// Seeds of the paths with loss.
    #[arg(long, default_value_t = 8)]
    seeds: u64,
    /// Compares these, and lets them compete, instead of the usual grid. The page is
    /// `docs/performance/controllers.md`.
    #[arg(long, value_delimiter = ',')]
    controller: Vec<Controller>,
    /// Runs only flows that write little, and replaces only their section of that page.
    #[arg(long, requires = "controller")]
    limited: bool,
    /// What the simulation has told before, line by line: these paths are not run again.
    #[arg(long)]
    told: Option<PathBuf>,
}

/// What tells of paths.
const TEST: &str = "proto::tests::wan::paths_that_were_asked_for";

/// Least of a rate that a stream has to fill without loss.
const LEAST_FILLED: f64 = 0.85;

/// What a cell of the grid may have at least of what it has with quinn-proto's CUBIC.
const LEAST_KEPT: f64 = 0.98;

/// How evenly two flows have to share (Jain's index).
const LEAST_EVEN: f64 = 0.8;

/// Most that small writes may cost, in what large ones do. It is 1.5 on a machine that does nothing
/// else.
const MOST_FOR_SMALL_WRITES: f64 = 3.0;

pub fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let mut figures = Figures::new(options.command())?;
    let compared = &options.controller[..];
    let tables = if options.limited {
        vec![controllers::limited_table(
            compared,
            options.seeds,
            options.short,
        )]
    } else if !compared.is_empty() {
        controllers::tables(compared, options.seeds, options.short)
    } else if options.short {
        grid::short()
    } else {
        grid::full(options.seeds, !options.without_fastest)
    };
    // A few paths take less time than it takes to compile them.
    let compiled = if options.short {
        AS_IN_THE_GATE
    } else {
        OPTIMISED
    };
    let told = tell(compiled, &tables, options.told()?)?;
    let dead = told.iter().filter(|told| told.is_dead()).count();
    figures.demand("connections that died", dead, "0", dead == 0);
    if compared.is_empty() {
        judge(&mut figures, &tables, &told);
    }
    figures.tell("paths", told.len());
    if options.told.is_none() {
        figures.tell("seconds", began.elapsed().as_secs());
    }
    figures.print();
    if !options.short {
        let name = if compared.is_empty() {
            "wan.md"
        } else {
            "controllers.md"
        };
        let path = root().join("docs/performance").join(name);
        let in_path = || path.display().to_string();
        let page = if options.limited {
            let page = std::fs::read_to_string(&path).with_context(in_path)?;
            controllers::replace_limited(&page, &figures, compared, &told).with_context(in_path)?
        } else if compared.is_empty() {
            page::write(&figures, &tables, &told)?
        } else {
            controllers::write(&figures, compared, &told)?
        };
        std::fs::write(&path, page).with_context(in_path)?;
    }
    Ok(figures.all_met())
}

impl Options {
    fn told(&self) -> Result<Vec<Told>> {
        let Some(path) = &self.told else {
            return Ok(Vec::new());
        };
        let lines = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(lines.lines().filter_map(Told::parse).collect())
    }

    fn command(&self) -> String {
        let mut command = "soak wan".to_owned();
        if self.short {
            command += " --short";
        } else if self.limited {
            command += &format!(" --limited --seeds {}", self.seeds);
        } else {
            command += &format!(" --seeds {}", self.seeds);
        }
        if self.without_fastest {
            command += " --without-fastest";
        }
        if !self.controller.is_empty() {
            let names: Vec<_> = self.controller.iter().map(|one| one.name()).collect();
            command += &format!(" --controller {}", names.join(","));
        }
        command
    }
}

/// The paths of one process. They are in a variable of its environment, which Linux limits to 128
/// KiB.
const MOST_AT_ONCE: usize = 1000;

/// Runs all paths, but those that were told of. Those whose CPU time counts are run after the
/// others, one by one.
fn tell(compiled: &[&str], tables: &[Table], mut told: Vec<Told>) -> Result<Vec<Told>> {
    let is_new = |asked: &&Asked| !told.iter().any(|told| told.is_about(&asked.path));
    let asked = tables.iter().flat_map(|table| &table.asked).filter(is_new);
    let (measured, others): (Vec<&Asked>, Vec<_>) = asked.partition(|asked| asked.is_measured);
    for some in others.chunks(MOST_AT_ONCE).chain(measured.chunks(1)) {
        let paths: Vec<_> = some.iter().map(|asked| asked.path.as_str()).collect();
        let tests = Tests::run(compiled, &[TEST], "SIM_WAN", &paths.join(" "))?;
        ensure!(tests.passed, "the simulation has failed");
        let before = told.len();
        told.extend(tests.lines().filter_map(Told::parse));
        ensure!(
            told.len() - before == paths.len(),
            "not all paths were told of"
        );
    }
    Ok(told)
}

fn judge(figures: &mut Figures, tables: &[Table], told: &[Told]) {
    for quinn in grid::QUINN {
        let told = told
            .iter()
            .filter(|told| told.asked("quinn") == f64::from(quinn));
        let black_holes: f64 = told.map(|told| told.number("black_holes")).sum();
        let name = "MTU black holes that were none";
        if quinn == 0 {
            figures.demand(name, black_holes, "0", black_holes == 0.0);
        } else {
            figures.tell(&format!("{name}, with quinn-proto's CUBIC"), black_holes);
        }
    }

    let cells = cell::of(tables, told);
    let least_kept = |short: bool| {
        (cells.iter())
            .filter(|cell| cell.has_short_queue() == short)
            .filter_map(Cell::kept_at_most)
            .fold(f64::INFINITY, f64::min)
    };
    let kept = least_kept(false);
    figures.demand(
        "goodput with quinn-proto as 1, worst cell, two standard errors more",
        format!("{kept:.3}"),
        &format!("at least {LEAST_KEPT}"),
        kept >= LEAST_KEPT,
    );
    // Windows of 10 MB, which do not grow, may fit such a path by chance.
    figures.tell(
        "the same where the queue is a tenth of the product",
        format!("{:.3}", least_kept(true)),
    );

    let ours = |told: &&Told| told.asked("quinn") == 0.0;
    let single =
        |told: &&Told| ours(told) && told.asked("flows") == 1.0 && told.asked("windows") == 0.0;
    let filled = (told.iter().filter(single))
        .filter(|told| told.asked("loss") == 0.0 && told.asked("queue") == 1.0)
        .filter(|told| told.asked("rate") == 100.0 && told.asked("rtt") == 63.0)
        .map(|told| told.number("late") / told.asked("rate"))
        .fold(f64::INFINITY, f64::min);
    figures.demand(
        "100 Mb/s at 63 ms without loss, part of it that was filled",
        format!("{filled:.2}"),
        &format!("at least {LEAST_FILLED}"),
        (LEAST_FILLED..=1.0).contains(&filled),
    );

    let even = (told.iter())
        .filter(|told| ours(told) && told.asked("flows") == 2.0)
        .filter(|told| told.asked("rtt") == 10.0 && told.asked("queue") == 1.0)
        .map(|told| told.number("jain"))
        .fold(f64::INFINITY, f64::min);
    figures.demand(
        "two flows at 10 ms, Jain's index",
        format!("{even:.2}"),
        &format!("at least {LEAST_EVEN}"),
        (LEAST_EVEN..=1.0).contains(&even),
    );

    let large = cost(told, |write| write == grid::LARGE_WRITE);
    let small = cost(told, |write| (1000.0..grid::LARGE_WRITE).contains(&write));
    let ratio = small / large;
    figures.demand(
        "sender's CPU time for writes of 1000 to 16384 bytes, in that for 65536",
        format!("{ratio:.2}"),
        &format!("at most {MOST_FOR_SMALL_WRITES}"),
        ratio <= MOST_FOR_SMALL_WRITES,
    );
}

/// The largest of the costs that were measured for such writes, in seconds for a gigabyte.
fn cost(told: &[Told], is_meant: impl Fn(f64) -> bool) -> f64 {
    told.iter()
        .filter(|told| grid::is_for_cost(told) && is_meant(told.asked("write")))
        .map(|told| told.number("cpu"))
        .fold(0.0, f64::max)
}
