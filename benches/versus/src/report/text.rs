//! Tables for people.

use std::fmt::Write;

use crate::{
    goals::{Bound, Outcome},
    machine::Machine,
    run::{AGAIN, OURS},
    sample::{Spread, Table},
};

/// One workload: every contender's medians, and ours divided by each of them.
pub fn table(table: &Table) -> String {
    if let Some(why) = &table.skipped {
        return format!("{}\n  skipped: {why}\n", table.scenario);
    }
    let metrics = table.metrics();
    let mut rows = vec![
        [String::new()]
            .into_iter()
            .chain(metrics.iter().map(|metric| metric.label().to_owned()))
            .collect::<Vec<_>>(),
    ];
    for column in &table.columns {
        let figures = metrics
            .iter()
            .map(|metric| column.values(*metric).map_or_else(String::new, figure));
        rows.push([column.label.clone()].into_iter().chain(figures).collect());
    }
    if let Some(ours) = table.column(OURS) {
        for column in table.columns.iter().filter(|column| column.label != OURS) {
            let ratios = metrics
                .iter()
                .map(|metric| ours.ratio(column, *metric).map_or_else(String::new, ratio));
            let label = if column.label == AGAIN {
                "A/A".to_owned()
            } else {
                format!("ours / {}", column.label)
            };
            rows.push([label].into_iter().chain(ratios).collect());
        }
    }
    let mut text = format!("{}\n{}", table.scenario, aligned(&rows));
    for column in &table.columns {
        if let Some(facts) = column.facts.as_ref().filter(|_| column.label != AGAIN) {
            let _ = writeln!(
                text,
                "  {}: {}, {}, MTU {}, windows {}, GSO segments {}",
                column.label, facts.suite, facts.group, facts.mtu, facts.windows, facts.segments
            );
        }
        for failure in &column.failures {
            let _ = writeln!(text, "  {} has failed: {failure}", column.label);
        }
    }
    text
}

/// Where, when and with what.
pub fn machine(machine: &Machine) -> String {
    format!(
        "{}\n{}, {} CPUs, {}, net.core.rmem_max {}\n{}\n",
        machine.date,
        machine.cpu,
        machine.cpus,
        machine.kernel,
        machine.rmem_max,
        machine.versions.join(", ")
    )
}

/// Every goal, with ours beside it.
pub fn goals(outcomes: &[Outcome]) -> String {
    let mut rows = vec![
        ["goal", "figure", "against", "bound", "measured", ""]
            .map(ToOwned::to_owned)
            .to_vec(),
    ];
    for Outcome {
        goal,
        measured,
        met,
    } in outcomes
    {
        rows.push(vec![
            goal.scenario.to_owned(),
            goal.metric.label().to_owned(),
            goal.against.name().to_owned(),
            match goal.bound {
                Bound::AtMost(bound) => format!("≤ {bound:.2}"),
                Bound::AtLeast(bound) => format!("≥ {bound:.2}"),
            },
            measured.map_or_else(|| "not measured".to_owned(), ratio),
            match met {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "",
            }
            .to_owned(),
        ]);
    }
    format!("goals, ours divided by the other\n{}", aligned(&rows))
}

/// Columns side by side, the first one to the left.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "  {cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

fn figure(spread: Spread) -> String {
    let digits = match spread.median {
        median if median >= 100.0 => 0,
        median if median >= 10.0 => 1,
        _ => 2,
    };
    format!("{:.digits$}", spread.median)
}

fn ratio(spread: Spread) -> String {
    format!(
        "{:.2} [{:.2} {:.2}]",
        spread.median, spread.low, spread.high
    )
}
