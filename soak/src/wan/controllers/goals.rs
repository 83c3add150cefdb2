//! What BBR has to reach to be the default, and where it does not.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Controller, about, alone, contests};
use crate::wan::{
    cell::{mean, mean_of},
    page::significant,
    told::Told,
};

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

/// A goal, and the cells that it applies to.
struct Goal {
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
}

/// Writes nothing unless both were run.
pub fn write(page: &mut String, told: &[Told]) -> Result<()> {
    let mut goals = of_one_flow(told);
    goals.push(of_several(told));
    if goals.iter().all(|goal| goal.cells == 0) {
        return Ok(());
    }
    writeln!(
        page,
        "\n## Where BBR misses a goal\n\n\
         A cell names rate in Mb/s, round trip in ms, loss in percent and queue in products \
         (BDP).\n\n\
         | goal | cells | missed |\n|---|---|---|"
    )?;
    for goal in goals {
        let missed = if goal.missed.is_empty() {
            "none".to_owned()
        } else {
            format!("{}: {}", goal.missed.len(), goal.missed.join("; "))
        };
        writeln!(page, "| {} | {} | {missed} |", goal.name, goal.cells)?;
    }
    Ok(())
}

fn of_one_flow(told: &[Told]) -> Vec<Goal> {
    let mut kept = Goal::new(format!(
        "without loss, at least {LEAST_KEPT} of CUBIC's goodput"
    ));
    let mut delay = Goal::new(format!(
        "without loss, at most {MOST_DELAY} of CUBIC's delay"
    ));
    let mut rates = LEAST_WITH_LOSS.map(|(rate, loss, least)| {
        Goal::new(format!(
            "at {rate} Mb/s and {loss} % of loss, at least {least} Mb/s"
        ))
    });
    for path in alone(false) {
        let [cubic, bbr] = [Controller::Cubic, Controller::Bbr]
            .map(|controller| about(told, &format!("{path},{}", controller.part())));
        let (Some(beside), Some(first)) = (cubic.first(), bbr.first()) else {
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
            let (queued, theirs) = (first.number("delay"), beside.number("delay"));
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
