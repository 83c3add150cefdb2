//! Runs all measurements in order, and writes the report.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    catalogue::{self, Group, Scenario},
    goals,
    machine::Machine,
    measurement::Preparation,
    report::{Report, text},
    sample::{AGAIN, Column, OURS, Table},
    stack::StackName,
    workload::Effort,
};

#[derive(Args)]
pub struct Options {
    /// Names of workloads, or parts of names. Without any, all workloads run except those that
    /// `list` marks as long.
    only: Vec<String>,
    /// Rounds of each workload.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Stacks to compare ours with: by default all that are not ours, for `links` the official one.
    /// Ours always runs twice.
    #[arg(long, value_delimiter = ',')]
    against: Vec<StackName>,
    /// Directory for report.md, report.txt, report.json and a picture of each workload.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

impl Options {
    fn against(&self, scenario: &Scenario) -> &[StackName] {
        match (self.against.as_slice(), scenario.group) {
            ([], Group::Links) => &[StackName::Official],
            ([], _) => StackName::OTHERS,
            (chosen, _) => chosen,
        }
    }
}

pub fn run(options: &Options, group: Group) -> Result<()> {
    let scenarios = catalogue::choose(&options.only, group);
    ensure!(!scenarios.is_empty(), "no workload has such a name");
    let machine = Machine::this()?;
    println!("{}", text::machine(&machine));
    let mut tables = Vec::new();
    for scenario in scenarios {
        let table = measure(scenario, options);
        println!("{}", text::table(&table));
        tables.push(table);
    }
    let report = Report {
        machine,
        rounds: options.rounds,
        effort: options.effort,
        goals: goals::outcomes(&tables),
        tables,
    };
    println!("{}", text::summary(&report));
    if let Some(dir) = &options.out {
        report.write(dir)?;
    }
    Ok(())
}

/// Runs all rounds of one workload. Every second round runs the stacks in reverse order, so that a
/// gradual change of the machine affects all of them alike.
fn measure(scenario: &Scenario, options: &Options) -> Table {
    let mut contenders = vec![(OURS, StackName::Ours)];
    contenders.extend(
        options
            .against(scenario)
            .iter()
            .filter(|stack| scenario.is_for(**stack))
            .map(|stack| (stack.name(), *stack)),
    );
    contenders.push((AGAIN, StackName::Ours));
    let mut columns: Vec<Column> = contenders
        .iter()
        .map(|(label, _)| Column {
            label: (*label).to_owned(),
            facts: None,
            rounds: Vec::new(),
            failures: Vec::new(),
        })
        .collect();
    let mut table = Table {
        scenario: scenario.name.clone(),
        setting: scenario.setting(),
        skipped: None,
        columns: Vec::new(),
    };
    let place = match Preparation::of(scenario) {
        Ok(place) => place,
        Err(why) => {
            table.skipped = Some(format!("{why:#}"));
            return table;
        }
    };
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let column = &mut columns[index];
            let stack = contenders[index].1;
            match place.measure(stack, scenario, options.effort, round) {
                Ok((metrics, facts)) => {
                    column.rounds.push(Some(metrics));
                    column.facts = facts;
                }
                Err(error) => {
                    column.rounds.push(None);
                    column.failures.push(format!("{error:#}"));
                }
            }
        }
    }
    table.columns = columns;
    table
}
