//! The table of results, and the file to which it is written.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    case::{Case, Direction, Family, Outcome},
    cases::DIRECTIONS,
    known::{Failure, Known},
    prepare::{Peer, Ready},
};

/// The results of all cases.
pub struct Results<'a> {
    pub ours: &'a Ready,
    pub peers: &'a [Peer],
    pub known: &'a Known,
    pub cases: Vec<(Case, Outcome)>,
}

/// The verdict on a case.
enum Verdict<'a> {
    Passed(u64),
    Unsupported,
    Known(&'a Failure),
    Failed,
}

impl Results<'_> {
    /// The failures without an explanation.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (case, outcome) in &self.cases {
            if let (Verdict::Failed, Outcome::Failed(error)) =
                (self.verdict(case, outcome), outcome)
            {
                failures.push(format!("{}: {error}", describe(case)));
            }
        }
        failures
    }

    /// Entries of the known failures that did not occur: the peer may have been repaired.
    pub fn repaired(&self) -> Vec<String> {
        self.cases
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Passed { .. }))
            .filter_map(|(case, _)| Some((case, self.known.always(case)?)))
            .map(|(case, failure)| {
                format!("{}: passes, though known as {}", describe(case), failure.id)
            })
            .collect()
    }

    fn verdict(&self, case: &Case, outcome: &Outcome) -> Verdict<'_> {
        match outcome {
            Outcome::Passed { ms } => Verdict::Passed(*ms),
            Outcome::Unsupported(_) => Verdict::Unsupported,
            Outcome::Failed(error) => self
                .known
                .explain(case, error)
                .map_or(Verdict::Failed, Verdict::Known),
        }
    }

    /// One row for each operation, one column for each peer and direction.
    pub fn table(&self) -> String {
        let mut rows: Vec<&str> = Vec::new();
        let mut cells: BTreeMap<(&str, &str, Direction), Vec<String>> = BTreeMap::new();
        for (case, outcome) in &self.cases {
            if !rows.contains(&case.row.as_str()) {
                rows.push(&case.row);
            }
            let text = match self.verdict(case, outcome) {
                Verdict::Passed(ms) => format!("{ms} ms"),
                Verdict::Unsupported => "unsupported".to_owned(),
                Verdict::Known(failure) => format!("known: {}", failure.id),
                Verdict::Failed => "**FAILED**".to_owned(),
            };
            let texts = cells
                .entry((&case.row, case.peer, case.direction))
                .or_default();
            // The second address family adds nothing if it fails in the same way.
            if !texts.contains(&text) || text.ends_with("ms") {
                texts.push(text);
            }
        }
        let mut columns = vec![vec!["operation".to_owned()]];
        columns[0].extend(rows.iter().map(|&row| row.to_owned()));
        for peer in self.peers {
            for direction in DIRECTIONS {
                let mut column = vec![match direction {
                    Direction::Out => format!("ours → {}", peer.name),
                    Direction::In => format!("{} → ours", peer.name),
                }];
                column.extend(rows.iter().map(|row| {
                    if peer.state.is_err() {
                        return "skipped".to_owned();
                    }
                    cells
                        .get(&(*row, peer.name, direction))
                        .map_or_else(String::new, |texts| texts.join(" / "))
                }));
                columns.push(column);
            }
        }
        markdown(&columns)
    }

    /// The whole of RESULTS.md.
    pub fn document(&self, mode: &str, took: Duration) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# Interoperability, as last run\n\nWritten by `interop/run`; do not edit. {}, {mode} sizes, {} s.\n",
            date(SystemTime::now()),
            took.as_secs()
        );
        let _ = writeln!(text, "## Versions\n\n- ours: {}", self.ours.version);
        for peer in self.peers {
            let _ = match &peer.state {
                Ok(ready) => writeln!(text, "- {}: {}", peer.name, ready.version),
                Err(reason) => writeln!(text, "- {}: *skipped*: {reason}", peer.name),
            };
        }
        let _ = writeln!(
            text,
            "\n## Results\n\nTimes are for information; over IPv4 and, after the slash, over IPv6 where the peer \
             can. *unsupported*: the peer, or its libp2p, cannot do it.\n\n{}",
            self.table()
        );
        let _ = writeln!(text, "## Known failures of the peers\n");
        for failure in &self.known.failure {
            let _ = writeln!(
                text,
                "- **{}** ({}, {}): {} *Evidence:* {} *Issue:* {}",
                failure.id,
                failure.peer,
                failure.rows.join(", "),
                failure.cause,
                failure.evidence,
                failure.issue
            );
        }
        let failures = self.failures();
        if !failures.is_empty() {
            let _ = writeln!(text, "\n## Unexplained failures\n");
            for failure in failures {
                let _ = writeln!(text, "- {failure}");
            }
        }
        text
    }
}

pub fn describe(case: &Case) -> String {
    let family = match case.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    match case.direction {
        Direction::Out => format!("ours → {}, {family}, {}", case.peer, case.row),
        Direction::In => format!("{} → ours, {family}, {}", case.peer, case.row),
    }
}

/// A table made of columns, whose first cells are their titles.
pub fn markdown(columns: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| {
            column
                .iter()
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in 0..columns[0].len() {
        for (column, width) in columns.iter().zip(&widths) {
            let _ = write!(text, "| {:width$} ", column[row]);
        }
        text.push_str("|\n");
        if row == 0 {
            for width in &widths {
                let _ = write!(text, "|{:-<1$}", "", width + 2);
            }
            text.push_str("|\n");
        }
    }
    text
}

/// The day, in UTC (Howard Hinnant's civil_from_days).
pub fn date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}
