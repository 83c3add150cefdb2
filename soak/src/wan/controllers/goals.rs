//! What BBR has to reach to be the default, and where it does not.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::{Controller, about, alone, contests, limited};
use crate::wan::{
    cell::{mean, mean_of},
    page::significant,
    told::Told,
};

/// Of their table.
const HEAD: &str = "| goal | cells | missed |\n|---|---|---|\n";

/// Least of CUBIC's goodput without loss.
const LEAST_KEPT: f64 = 0.95;

/// Most of CUBIC's delay without loss.
const MOST_DELAY: f64 = 0.25;

/// Least goodput, in Mb/s: of this rate, with this loss.
const LEAST_WITH_LOSS: [(f64, f64, f64); 4] = [
    (100.0, 0.1, 80.0),
    (100.0, 1.0, 70.0),
    (1000.0, 0.1, 700.0),
    (1000.0, 1.0, 600.0),
];

/// The round trip to which the goals of 1 Gb/s apply, in ms.
const FAST_RTT: f64 = 63.0;

/// Least of Jain's index, on average.
const LEAST_EVEN: f64 = 0.85;

/// Most of CUBIC's latency where little is written.
const MOST_LATENCY: f64 = 1.1;

/// A goal, and the cells that it applies to.
pub struct Goal {
    name: String,
    cells: usize,
    missed: Vec<String>,
}

impl Goal {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cells: 0,
            missed: Vec::new(),
        }
    }

    fn judge(&mut self, is_met: bool, cell: impl FnOnce() -> String) {
        self.cells += 1;
        if !is_met {
            self.missed.push(cell());
        }
    }

    fn row(&self) -> String {
        let Self {
            name,
            cells,
            missed,
        } = self;
        let missed = if missed.is_empty() {
            "none".to_owned()
        } else {
            format!("{}: {}", missed.len(), missed.join("; "))
        };
        format!("| {name} | {cells} | {missed} |")
    }
}

/// Writes nothing unless both were run.
pub fn write(page: &mut String, told: &[Told]) -> Result<()> {
    let mut goals = of_one_flow(told);
    goals.push(of_several(told));
    goals.push(of_limited(told));
    if goals.iter().all(|goal| goal.cells == 0) {
        return Ok(());
    }
    write!(
        page,
        "\n## Where BBR misses a goal\n\n\
         A cell names rate in Mb/s, round trip in ms, loss in percent and queue in products \
         (BDP).\n\n{HEAD}"
    )?;
    for goal in goals {
        writeln!(page, "{}", goal.row())?;
    }
    Ok(())
}

/// The page with another row of this goal, or a new one after the others.
pub fn replace(page: &str, goal: &Goal) -> Result<String> {
    let (before, rest) = page.split_once(HEAD).context("no goals")?;
    let (rows, after) = rest.split_once("\n\n").context("no end of the goals")?;
    let name = format!("| {} |", goal.name);
    let others = rows.lines().filter(|row| !row.starts_with(&name));
    let row = goal.row();
    let rows: Vec<_> = others.chain([&*row]).collect();
    Ok(format!("{before}{HEAD}{}\n\n{after}", rows.join("\n")))
}

fn of_one_flow(told: &[Told]) -> Vec<Goal> {
    let mut kept = Goal::new(format!(
        "without loss, at least {LEAST_KEPT} of CUBIC's goodput"
    ));
    let mut delay = Goal::new(format!(
        "without loss, at most {MOST_DELAY} of CUBIC's delay"
    ));
    let mut rates = LEAST_WITH_LOSS.map(|(rate, loss, least)| {
        let rtt = if rate == 1000.0 {
            format!(", {FAST_RTT} ms")
        } else {
            String::new()
        };
        Goal::new(format!(
            "at {rate} Mb/s{rtt} and {loss} % of loss, at least {least} Mb/s"
        ))
    });
    for path in alone(false) {
        let [cubic, bbr] = [Controller::Cubic, Controller::Bbr]
            .map(|controller| about(told, &format!("{path},{}", controller.part())));
        let Some(first) = bbr.first().filter(|_| !cubic.is_empty()) else {
            continue;
        };
        let [rate, rtt, loss, queue] =
            ["rate", "rtt", "loss", "queue"].map(|name| first.asked(name));
        let cell = |figures: String| format!("{rate}, {rtt}, {loss}, {queue}: {figures}");
        if loss == 0.0 {
            let (goodput, theirs) = (mean(&bbr), mean(&cubic));
            kept.judge(goodput >= LEAST_KEPT * theirs, || {
                cell(format!(
                    "{} of {}",
                    significant(goodput),
                    significant(theirs)
                ))
            });
            let (queued, theirs) = (mean_of(&bbr, "delay"), mean_of(&cubic, "delay"));
            delay.judge(queued <= MOST_DELAY * theirs, || {
                cell(format!("{queued:.1} of {theirs:.1} ms"))
            });
        }
        for (goal, (of_rate, of_loss, least)) in rates.iter_mut().zip(LEAST_WITH_LOSS) {
            let is_fast = rate == 1000.0;
            if rate == of_rate && loss == of_loss && (!is_fast || rtt == FAST_RTT) {
                let goodput = mean(&bbr);
                goal.judge(goodput >= least, || cell(significant(goodput)));
            }
        }
    }
    let mut goals = vec![kept, delay];
    goals.extend(rates);
    goals
}

fn of_several(told: &[Told]) -> Goal {
    let mut even = Goal::new(format!(
        "flows with BBR among them, mean of Jain's index at least {LEAST_EVEN}"
    ));
    let both = [Controller::Cubic, Controller::Bbr];
    let contests = contests(&both, false).into_iter();
    for contest in contests.filter(|contest| contest.flows.contains("bbr")) {
        let seeds = about(told, &contest.path);
        let Some(first) = seeds.first() else { continue };
        let index = mean_of(&seeds, "jain");
        even.judge(index >= LEAST_EVEN, || {
            let [rtt, queue] = ["rtt", "queue"].map(|name| first.asked(name));
            format!("{} at 100, {rtt}, 0, {queue}: {index:.2}", contest.flows)
        });
    }
    even
}

pub fn of_limited(told: &[Told]) -> Goal {
    let mut quick = Goal::new(format!(
        "flows that write little, at most {MOST_LATENCY} of CUBIC's times, in both columns"
    ));
    for limited in limited::all(false) {
        let [cubic, bbr] = [Controller::Cubic, Controller::Bbr].map(|controller| {
            let told = about(told, &format!("{},{}", limited.path, controller.part()));
            (!told.is_empty()).then(|| limited.times(&told))
        });
        let (Some(cubic), Some(bbr)) = (cubic, bbr) else {
            continue;
        };
        let is_met = (bbr.iter().zip(cubic)).all(|(bbr, cubic)| *bbr <= MOST_LATENCY * cubic);
        quick.judge(is_met, || {
            let [bbr, cubic] = [bbr, cubic].map(|[half, most]| format!("{half:.1}, {most:.1}"));
            format!("{}: {bbr} of {cubic} ms", limited.what)
        });
    }
    quick
}
