//! Measures: two processes for each stack, workload and round.

use std::{fs, path::PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::{
    catalogue::{self, Group, Kind, Network, Scenario},
    control::{ClientLine, ServerLine},
    go, goals,
    machine::Machine,
    metric::Metrics,
    network::{self, Place},
    process::Process,
    relay::Relay,
    report::{Report, plot, text},
    sample::{Column, Table},
    stack::{Facts, StackName},
    workload::Effort,
};

#[derive(Args)]
pub struct Options {
    /// Names of workloads, or parts of them; all but the longest one if there is none.
    only: Vec<String>,
    /// Rounds of each workload.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What is compared; ours is always there, twice.
    #[arg(long, value_delimiter = ',', default_values_t = StackName::others())]
    against: Vec<StackName>,
    /// Where to write the report: report.txt, report.json and a picture of each workload.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

/// The label of ours.
pub const OURS: &str = "ours";

/// The label of ours when it comes a second time in the same round: how far two runs of the same thing differ.
pub const AGAIN: &str = "ours again";

pub fn run(options: &Options, group: Group) -> Result<()> {
    let scenarios = catalogue::choose(&options.only, group);
    ensure!(!scenarios.is_empty(), "no workload has such a name");
    let machine = Machine::this()?;
    let mut text = text::machine(&machine);
    println!("{text}");
    let mut tables = Vec::new();
    for scenario in scenarios {
        let table = measure(scenario, options);
        let lines = text::table(&table);
        println!("{lines}");
        text = format!("{text}\n{lines}");
        tables.push(table);
    }
    let goals = goals::outcomes(&tables);
    let lines = text::goals(&goals);
    println!("{lines}");
    if let Some(dir) = &options.out {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("report.txt"), format!("{text}\n{lines}"))?;
        for table in tables.iter().filter(|table| table.skipped.is_none()) {
            plot::write(table, &dir.join(format!("{}.svg", table.scenario)))?;
        }
        let report = Report {
            machine,
            rounds: options.rounds,
            effort: options.effort,
            tables,
            goals,
        };
        fs::write(
            dir.join("report.json"),
            serde_json::to_string_pretty(&report)?,
        )?;
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
    let mut table = Table {
        scenario: scenario.name.clone(),
        skipped: None,
        columns: Vec::new(),
    };
    let places = match prepare(scenario) {
        Ok(places) => places,
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
            match once(stack, scenario, options.effort, round, places.as_ref()) {
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

/// What a workload needs that not every machine has.
fn prepare(scenario: &Scenario) -> Result<Option<network::Network>> {
    if let Kind::Go(_) = scenario.kind {
        go::check_built()?;
    }
    match scenario.network {
        Network::Loopback => Ok(None),
        Network::Ethernet => Ok(Some(network::Network::create()?)),
    }
}

fn once(
    stack: StackName,
    scenario: &Scenario,
    effort: Effort,
    round: u32,
    network: Option<&network::Network>,
) -> Result<(Metrics, Option<Facts>)> {
    if let Kind::Go(dialer) = scenario.kind {
        return Ok((go::measure(stack, dialer, effort)?, None));
    }
    let words = |role: &str, place: Option<&Place>| {
        let mut words = vec![
            role.to_owned(),
            stack.name().to_owned(),
            scenario.name.clone(),
        ];
        words.extend(place.into_iter().flat_map(Place::arguments));
        words
    };
    let mut server = Process::start(&words("serve", network.map(|network| &network.server)))?;
    let ServerLine::Listening(address) = server.hear()? else {
        bail!("the server says something else than its address");
    };
    let relay = match scenario.kind {
        Kind::Link(link) => Some(Relay::start(&address.parse()?, link, round.into())?),
        _ => None,
    };
    let mut arguments = words("drive", network.map(|network| &network.client));
    arguments.push(
        relay
            .as_ref()
            .map_or(address, |relay| relay.address.to_string()),
    );
    arguments.extend(effort.arguments());
    let mut client = Process::start(&arguments)?;
    loop {
        match client.hear()? {
            ClientLine::Checkpoint => {
                server.say("mark")?;
                let ServerLine::Mark(mark) = server.hear()? else {
                    bail!("the server says something else than what it has used");
                };
                client.say(&serde_json::to_string(&mark)?)?;
            }
            ClientLine::Result { metrics, facts } => return Ok((metrics, Some(facts))),
        }
    }
}
