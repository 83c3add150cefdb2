//! The tables of links: delay × loss.

use std::collections::BTreeSet;

use super::cells::{aligned, ratio};
use crate::{
    catalogue::{Kind, Scenario},
    metric::Metric,
    relay::Link,
    sample::{AGAIN, OURS, Table},
    service::BLOCK,
    stack::Profile,
};

/// What all cells of a matrix have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Common {
    rate: u16,
    write: usize,
    profile: Profile,
}

struct Cell<'a> {
    link: Link,
    table: &'a Table,
}

/// For each rate, size of writes and size of buffers a matrix of our MB/s divided by that of each
/// other stack.
pub fn matrices(tables: &[Table]) -> Option<String> {
    let mut groups: Vec<(Common, Vec<Cell<'_>>)> = Vec::new();
    for (common, cell) in tables.iter().filter_map(link) {
        match groups.iter_mut().find(|(other, _)| *other == common) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((common, vec![cell])),
        }
    }
    let matrices: Vec<_> = groups
        .iter()
        .flat_map(|(common, cells)| {
            let columns = cells.iter().flat_map(|cell| &cell.table.columns);
            let others: BTreeSet<_> = columns
                .map(|column| column.label.as_str())
                .filter(|label| ![OURS, AGAIN].contains(label))
                .collect();
            others.into_iter().map(|other| {
                format!(
                    "{}: MB/s, ours / {other}, by round trip and loss\n{}",
                    common.title(),
                    matrix(cells, other)
                )
            })
        })
        .collect();
    (!matrices.is_empty()).then(|| matrices.concat())
}

impl Common {
    fn title(self) -> String {
        let mut title = format!("{} Mbit/s", self.rate);
        if self.write != BLOCK {
            title.push_str(&format!(", writes of {} bytes", self.write));
        }
        if self.profile == Profile::StockBuffers {
            title.push_str(", socket buffers of 208 KiB");
        }
        title
    }
}

fn matrix(cells: &[Cell<'_>], other: &str) -> String {
    let all = |part: fn(&Link) -> u16| -> BTreeSet<u16> {
        cells.iter().map(|cell| part(&cell.link)).collect()
    };
    let losses = all(|link| link.loss);
    let head = losses
        .iter()
        .map(|loss| format!("{} % loss", f64::from(*loss) / 10.0));
    let mut rows = vec![[String::new()].into_iter().chain(head).collect::<Vec<_>>()];
    for round_trip in all(|link| link.round_trip) {
        let figure = |loss| {
            let mut cells = cells.iter();
            let cell =
                cells.find(|cell| (cell.link.round_trip, cell.link.loss) == (round_trip, loss))?;
            let ours = cell.table.column(OURS)?;
            let spread = ours.ratio(cell.table.column(other)?, Metric::MegabytesPerSecond)?;
            Some(ratio(spread))
        };
        let figures = losses
            .iter()
            .map(|loss| figure(*loss).unwrap_or_else(|| "–".to_owned()));
        rows.push(
            [format!("{round_trip} ms")]
                .into_iter()
                .chain(figures)
                .collect(),
        );
    }
    aligned(&rows)
}

fn link(table: &Table) -> Option<(Common, Cell<'_>)> {
    let scenario: Scenario = table.scenario.parse().ok()?;
    let Kind::Link { link, write } = scenario.kind else {
        return None;
    };
    let common = Common {
        rate: link.rate,
        write,
        profile: scenario.profile,
    };
    Some((common, Cell { link, table }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metric::Metrics, sample::Column};

    /// A workload in which ours is `times` as fast as the official stack.
    fn table(scenario: &str, times: f64) -> Table {
        let column = |label: &str, rate| Column {
            label: label.to_owned(),
            facts: None,
            rounds: vec![Some(Metrics::from([(Metric::MegabytesPerSecond, rate)]))],
            failures: Vec::new(),
        };
        Table {
            scenario: scenario.to_owned(),
            setting: String::new(),
            skipped: None,
            columns: vec![
                column(OURS, times),
                column("official", 1.0),
                column(AGAIN, 9.0),
            ],
        }
    }

    #[test]
    fn other_writes_and_buffers_are_in_other_matrices() {
        let tables = [
            table("link-100M-50ms-0%", 2.0),
            table("link-100M-50ms-0%-208K", 3.0),
            table("link-100M-50ms-0%-write-1400", 4.0),
            table("link-100M-50ms-1%", 5.0),
            table("ping-64", 6.0),
        ];
        let text = matrices(&tables).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let rows: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("50 ms"))
            .collect();
        assert_eq!(
            rows,
            [
                &"50 ms  2.00 [2.00 2.00]  5.00 [5.00 5.00]",
                &"50 ms  3.00 [3.00 3.00]",
                &"50 ms  4.00 [4.00 4.00]",
            ]
        );
        assert!(
            lines[3].starts_with("100 Mbit/s, socket buffers of 208 KiB: MB/s, ours / official")
        );
        assert_eq!(matrices(&tables[4..]), None);
    }
}
