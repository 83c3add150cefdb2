//! The report as text.

use std::fmt::Write;

use super::{
    Report,
    cells::{aligned, figure, ratio},
    links,
};
use crate::{
    goals::{Bound, Outcome},
    machine::Machine,
    sample::{AGAIN, OURS, Table},
};

/// The whole report.
pub fn report(report: &Report) -> String {
    let mut parts = vec![machine(&report.machine)];
    parts.extend(report.tables.iter().map(table));
    parts.push(summary(report));
    parts.join("\n")
}

/// The summary of all workloads.
pub fn summary(report: &Report) -> String {
    [
        facts(&report.tables),
        links::matrices(&report.tables),
        goals(&report.goals),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("\n")
}

/// One workload: the medians of each stack, and our ratios to them.
pub fn table(table: &Table) -> String {
    if let Some(why) = &table.skipped {
        return format!("{} ({})\n  skipped: {why}\n", table.scenario, table.setting);
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
    let mut text = format!("{} ({})\n{}", table.scenario, table.setting, aligned(&rows));
    for column in &table.columns {
        for failure in &column.failures {
            let _ = writeln!(text, "  {} has failed: {failure}", column.label);
        }
    }
    text
}

/// The machine, the date and the versions.
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

/// What each stack has negotiated, or how it is configured.
fn facts(tables: &[Table]) -> Option<String> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for table in tables {
        for column in table.columns.iter().filter(|column| column.label != AGAIN) {
            let Some(facts) = &column.facts else {
                continue;
            };
            let row = vec![
                column.label.clone(),
                facts.suite.clone(),
                facts.group.clone(),
                facts.mtu.clone(),
                facts.windows.clone(),
                facts.segments.clone(),
            ];
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    rows.sort();
    let head = [
        "stack",
        "suite",
        "key exchange",
        "MTU",
        "windows",
        "GSO segments",
    ];
    rows.insert(0, head.map(ToOwned::to_owned).to_vec());
    (rows.len() > 1).then(|| aligned(&rows))
}

/// The goals, with the measured ratio where there is one.
fn goals(outcomes: &[Outcome]) -> Option<String> {
    let head = ["goal", "figure", "against", "bound", "ours", ""];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    for outcome in outcomes {
        let (Some(measured), Some(met)) = (outcome.measured, outcome.met) else {
            continue;
        };
        let goal = outcome.goal;
        rows.push(vec![
            goal.scenario.to_owned(),
            goal.metric.label().to_owned(),
            goal.against.name().to_owned(),
            match goal.bound {
                Bound::AtMost(bound) => format!("≤ {bound:.2}"),
                Bound::AtLeast(bound) => format!("≥ {bound:.2}"),
            },
            ratio(measured),
            if met { "met" } else { "not met" }.to_owned(),
        ]);
    }
    let measured = rows.len() - 1;
    let mut text = format!(
        "goals: ours divided by the other, median and quartiles of all rounds\n{}",
        aligned(&rows)
    );
    if measured < outcomes.len() {
        let _ = writeln!(
            text,
            "  {} more were not measured",
            outcomes.len() - measured
        );
    }
    (measured > 0).then_some(text)
}
