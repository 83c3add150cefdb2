//! Measures: two processes for each stack, workload and round.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    catalogue::{self, Scenario},
    control::{ClientLine, ServerLine},
    metric::Metrics,
    process::Process,
    report::text,
    sample::{Column, Table},
    stack::{Facts, StackName},
    workload::Effort,
};

#[derive(Args)]
pub struct Options {
    /// Workloads whose name contains one of these; all if there is none.
    only: Vec<String>,
    /// Rounds of each workload.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What is compared; ours is always there, twice.
    #[arg(long, value_delimiter = ',', default_values_t = StackName::others())]
    against: Vec<StackName>,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

/// The label of ours.
pub const OURS: &str = "ours";

/// The label of ours when it comes a second time in the same round: how far two runs of the same thing differ.
pub const AGAIN: &str = "ours again";

pub fn run(options: &Options) -> Result<()> {
    let scenarios: Vec<&Scenario> = catalogue::all()
        .iter()
        .filter(|scenario| {
            options.only.is_empty() || options.only.iter().any(|part| scenario.name.contains(part))
        })
        .collect();
    ensure!(!scenarios.is_empty(), "no workload has such a name");
    let mut tables = Vec::new();
    for scenario in scenarios {
        let table = measure(scenario, options);
        println!("{}", text::table(&table));
        tables.push(table);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&tables)?)?;
    }
    Ok(())
}

/// All rounds of one workload. Each second round goes through the contenders in the opposite order, so that
/// what changes on the machine meanwhile changes for all of them.
fn measure(scenario: &Scenario, options: &Options) -> Table {
    let mut contenders = vec![(OURS, StackName::Ours)];
    contenders.extend(
        options
            .against
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
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let column = &mut columns[index];
            match once(contenders[index].1, scenario, options.effort) {
                Ok((metrics, facts)) => {
                    column.rounds.push(Some(metrics));
                    column.facts = Some(facts);
                }
                Err(error) => {
                    column.rounds.push(None);
                    column.failures.push(format!("{error:#}"));
                }
            }
        }
    }
    Table {
        scenario: scenario.name.clone(),
        columns,
    }
}

fn once(stack: StackName, scenario: &Scenario, effort: Effort) -> Result<(Metrics, Facts)> {
    let words = |role: &str| {
        vec![
            role.to_owned(),
            stack.name().to_owned(),
            scenario.name.clone(),
        ]
    };
    let mut server = Process::start(&words("serve"))?;
    let ServerLine::Listening(address) = server.hear()? else {
        anyhow::bail!("the server says something else than its address");
    };
    let mut arguments = words("drive");
    arguments.push(address);
    arguments.extend(effort.arguments());
    let mut client = Process::start(&arguments)?;
    loop {
        match client.hear()? {
            ClientLine::Checkpoint => {
                server.say("mark")?;
                let ServerLine::Mark(mark) = server.hear()? else {
                    anyhow::bail!("the server says something else than what it has used");
                };
                client.say(&serde_json::to_string(&mark)?)?;
            }
            ClientLine::Result { metrics, facts } => return Ok((metrics, facts)),
        }
    }
}
