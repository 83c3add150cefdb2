//! Links: delay × loss for each rate.

use std::collections::BTreeSet;

use super::cells::{aligned, ratio};
use crate::{
    catalogue::{Kind, Scenario},
    metric::Metric,
    relay::Link,
    sample::{OURS, Table},
    stack::StackName,
};

/// MB/s of ours divided by that of the official transport, in a matrix for each rate.
pub fn matrices(tables: &[Table]) -> Option<String> {
    let cells: Vec<(Link, &Table)> = tables
        .iter()
        .filter_map(|table| Some((link(table)?, table)))
        .collect();
    let all = |part: fn(&Link) -> u16| -> BTreeSet<u16> {
        cells.iter().map(|(link, _)| part(link)).collect()
    };
    let losses = all(|link| link.loss);
    let mut text = String::new();
    for rate in all(|link| link.rate) {
        let head = losses
            .iter()
            .map(|loss| format!("{} % loss", f64::from(*loss) / 10.0));
        let mut rows = vec![[String::new()].into_iter().chain(head).collect::<Vec<_>>()];
        for round_trip in all(|link| link.round_trip) {
            let cell = |loss| {
                let wanted = Link {
                    round_trip,
                    loss,
                    rate,
                };
                let (_, table) = cells.iter().find(|(link, _)| *link == wanted)?;
                let official = table.column(StackName::Official.name())?;
                let spread = table
                    .column(OURS)?
                    .ratio(official, Metric::MegabytesPerSecond)?;
                Some(ratio(spread))
            };
            let figures = losses
                .iter()
                .map(|loss| cell(*loss).unwrap_or_else(|| "–".to_owned()));
            rows.push(
                [format!("{round_trip} ms")]
                    .into_iter()
                    .chain(figures)
                    .collect(),
            );
        }
        text.push_str(&format!(
            "{rate} Mbit/s: MB/s, ours / official, by round trip and loss\n{}",
            aligned(&rows)
        ));
    }
    (!text.is_empty()).then_some(text)
}

fn link(table: &Table) -> Option<Link> {
    match table.scenario.parse::<Scenario>().ok()?.kind {
        Kind::Link(link) => Some(link),
        _ => None,
    }
}
