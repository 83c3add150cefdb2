//! The report as a page of the documentation, with pictures.

use super::{Report, text};
use crate::sample::Table;

/// The whole page: the goals first, then each workload.
pub fn page(report: &Report) -> String {
    let mut parts = vec![
        format!(
            "# The last run of the benchmark\n\nWritten by `versus run --out`; do not edit. {} rounds.\n",
            report.rounds
        ),
        block(&text::machine(&report.machine)),
        block(&text::summary(report)),
    ];
    parts.extend(report.tables.iter().map(section));
    parts.join("\n")
}

fn section(table: &Table) -> String {
    let picture = match table.skipped {
        Some(_) => String::new(),
        None => format!("![{0}]({0}.svg)\n\n", table.scenario),
    };
    format!(
        "## {}\n\n{picture}{}",
        table.scenario,
        block(&text::table(table))
    )
}

fn block(text: &str) -> String {
    format!("```text\n{}\n```\n", text.trim_end())
}
